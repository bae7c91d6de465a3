//! Imports files and folders in place: leaves are hashed where they lie, on all cores, and the index gets references.
//!
//! A lone file is a root of its own (`file.rs`), hashed on all cores (`hash.rs`). A folder is a collection: `walk.rs` goes through it, `small.rs` reads
//! each file on one of several threads, `folder.rs` puts the directories together, `lot.rs` hands all of it to the index
//! by the lot. A file is in the index only if it was the same when it had been read as when it was opened. An import that
//! ends early, for an error or because nobody waits for it any more, leaves no entry behind.

mod file;
mod folder;
mod hash;
mod lot;
mod options;
mod rules;
mod small;
mod walk;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::block::Cid;
use crate::store::{NewCollection, Store, StoreError};

use super::failure::{Failure, from_store};
use folder::{Made, Part, Target, Top};
use small::{Read, Reader, Whole};
use walk::{Leaf, Start};

pub use options::{Import, Keep};
pub use rules::Rules;

/// How far an import has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes of files that have been hashed.
    pub bytes: u64,
    /// Bytes in all, where that is known.
    pub total: Option<u64>,
    /// Files and links that are through.
    pub files: u64,
}

/// Is told how far an import has come; false ends it.
pub type Watch<'a> = dyn FnMut(Done) -> bool + 'a;

/// What an import found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// What was named. Empty for a directory around several paths.
    pub path: PathBuf,
    /// Its root.
    pub cid: Cid,
    /// Bytes of the file, or of all files in the folder.
    pub size: u64,
    /// Bytes of all its blocks, counted each time they occur: what `ipfs add` calls size.
    pub tsize: u64,
}

impl Imported {
    fn new(path: PathBuf, part: &Part) -> Self {
        Self { path, cid: part.cid, size: part.bytes, tsize: part.tsize }
    }
}

/// Imports one path (absolute): a file, a folder with all that is in it, or a symbolic link as such. With no store only
/// the CID is computed.
///
/// # Errors
/// `not-found`, `permission`, `not-a-file`, `changed`, `cancelled` and those of the index. None leaves an entry behind.
pub fn import(store: Option<&Store>, path: &Path, import: &Import, watch: &mut Watch<'_>) -> Result<Imported, Failure> {
    let path = normal(path)?;
    let kind = std::fs::symlink_metadata(&path).map_err(unreadable(&path))?;
    if kind.is_file() {
        let root = file::import_alone(store, &path, import, watch)?;
        return Ok(Imported { path, cid: root.cid, size: root.size, tsize: root.tsize });
    }
    let made = collected(store, Some(&path), |target| {
        if kind.is_symlink() {
            link(target, &path, import)
        } else {
            folder::import(target, Top::Folder(&path), import, watch)
        }
    })?;
    Ok(Imported::new(path, &made.root))
}

/// Imports paths (absolute) as the entries of one directory, which comes last in what is returned.
///
/// # Errors
/// Those of [`import`]; `bad-path` when two have the same name, or one has none.
pub fn import_wrapped(
    store: Option<&Store>,
    paths: &[PathBuf],
    import: &Import,
    watch: &mut Watch<'_>,
) -> Result<Vec<Imported>, Failure> {
    let mut starts = Vec::with_capacity(paths.len());
    let mut names = HashSet::new();
    for path in paths {
        let path = normal(path)?;
        let name = path.file_name().ok_or_else(|| {
            Failure::new("bad-path", format!("{} has no name that it could have in a directory", path.display()))
        })?;
        if !names.insert(name.to_owned()) {
            let message = format!("two of the paths have the name {}, which one directory cannot hold", name.display());
            return Err(Failure::new("bad-path", message));
        }
        starts.push(Start { name: name.to_owned(), path });
    }
    // A directory around one path takes the place of that path's; one around several has no place of its own.
    let place = if let [only] = &starts[..] { Some(only.path.clone()) } else { None };
    let order = starts.clone();
    let made =
        collected(store, place.as_deref(), |target| folder::import(target, Top::Wrapping(starts), import, watch))?;
    let mut found: HashMap<_, _> = made.wrapped.into_iter().collect();
    let mut imported = Vec::with_capacity(order.len() + 1);
    for Start { name, path } in order {
        let part = found.remove(&name).ok_or_else(|| Failure::new("bug", "a wrapped path is missing"))?;
        imported.push(Imported::new(path, &part));
    }
    imported.push(Imported::new(PathBuf::new(), &made.root));
    Ok(imported)
}

/// Gives `work` a collection of its own to put files in, and finishes or forgets that.
fn collected(
    store: Option<&Store>,
    place: Option<&Path>,
    work: impl FnOnce(Option<Target<'_>>) -> Result<Made, Failure>,
) -> Result<Made, Failure> {
    let Some(store) = store else { return work(None) };
    let new = NewCollection { root: None, path: place.map(Path::to_owned), partial: false };
    let collection = store.begin_collection(&new).map_err(|e| from_store(&e))?;
    let made = work(Some(Target { store, collection })).and_then(|made| {
        store.finish_collection(collection, &made.root.cid, made.root.bytes, made.files).map_err(|e| from_store(&e))?;
        Ok(made)
    });
    if made.is_err()
        && let Err(error) = store.forget_collection(collection)
    {
        tracing::warn!(%error, "what an import that has failed left in the index stays until the next open");
    }
    made
}

/// Imports a symbolic link that was named itself.
fn link(target: Option<Target<'_>>, path: &Path, import: &Import) -> Result<Made, Failure> {
    let Read::Node(whole) = Reader::new(import).read(path.to_owned(), Leaf::Link)? else {
        return Err(Failure::new("bug", "a link is more than a node"));
    };
    let Whole { cid, tsize, block } = *whole;
    if let (Some(target), Some(block)) = (target, block) {
        target.store.put_nodes(&[block]).map_err(|e| from_store(&e))?;
    }
    Ok(Made { root: Part { cid, tsize, bytes: 0 }, files: 1, wrapped: Vec::new() })
}

/// The path whose last component is a name, without a slash at the end.
fn normal(path: &Path) -> Result<PathBuf, Failure> {
    if path.file_name().is_some() {
        return Ok(path.components().collect());
    }
    std::fs::canonicalize(path).map_err(unreadable(path))
}

/// What the system says of a path.
fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    move |source| from_store(&StoreError::Io { path: path.to_owned(), source })
}

/// What an import ends with when nobody waits for it any more.
fn cancelled() -> Failure {
    Failure::new("cancelled", "the import was given up; nothing of it is kept")
}
