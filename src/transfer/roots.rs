//! What the index knows of roots, in the words of the edges: listing, detail, forgetting, verifying. A root is a file, or
//! a collection of files or blocks.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::block::{Cid, parse_cid};
use crate::store::{CollectionRecord, CollectionState, FileId, FileRecord, FileState, Store};

use super::api::{Event, RootInfo, WirePath};
use super::failure::{Failure, from_store};
use super::pin;
use super::plan::Tree;
use super::verify::{Verdict, verify as verify_file};

/// Files of a collection that are noted at once.
const MEMBERS_AT_ONCE: usize = 1024;

/// All roots: files, then collections, each oldest first.
pub(super) fn list(store: &Store) -> Result<Vec<RootInfo>, Failure> {
    every(store)?.iter().map(|root| root.info(store)).collect()
}

/// Everything under one root.
pub(super) fn stat(store: &Store, cid: &str) -> Result<Vec<RootInfo>, Failure> {
    under(store, cid)?.iter().map(|root| root.info(store)).collect()
}

/// Forgets a root; what was removed.
pub(super) fn remove(store: &Store, cid: &str, delete_partial: bool) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut removed = Vec::new();
    for root in under(store, cid)? {
        let mut parts = Vec::new();
        let (text, path) = match root {
            Root::File(file) => {
                parts.extend(part_of(&file));
                store.forget_file(file.id).map_err(|e| from_store(&e))?;
                (root_text(&file), file.path)
            }
            Root::Collection(collection) => {
                if collection.state == CollectionState::Partial {
                    let mut note = |file| {
                        parts.extend(part_of(&file));
                        true
                    };
                    store.members(collection.id, &mut note).map_err(|e| from_store(&e))?;
                }
                store.forget_collection(collection.id).map_err(|e| from_store(&e))?;
                (collection_text(&collection), collection.path.unwrap_or_default())
            }
        };
        for part in parts.iter().filter(|_| delete_partial) {
            match std::fs::remove_file(part) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    let message = format!("{} could not be deleted: {error}", part.display());
                    return Err(Failure::new("delete-failed", message));
                }
                _ => {}
            }
        }
        removed.push((text, path));
    }
    Ok(removed)
}

/// Re-hashes every complete file under a root. `bad` gets an [`Event::Bad`] for each range that differs; `progress`, told
/// bytes done and in all, ends it with false.
pub(super) fn verify(
    store: &Store,
    cid: &str,
    bad: &mut dyn FnMut(Event),
    progress: &mut dyn FnMut(&Path, u64, u64) -> bool,
) -> Result<Vec<Event>, Failure> {
    let mut verified = Vec::new();
    for root in under(store, cid)? {
        let incomplete =
            || Failure::new("not-complete", format!("{cid} is not complete yet; `bitshoal jobs` shows its pull"));
        let (text, path, verdict) = match root {
            Root::File(file) => {
                if matches!(file.state, FileState::Partial) {
                    return Err(incomplete());
                }
                let tree = Tree::of(store, &file)?;
                let mut bad = |offset, length| bad(Event::Bad { path: None, offset, length });
                let mut progress = |done, total| {
                    progress(&file.path, done, total);
                };
                let verdict = verify_file(store, &tree, &file.path, &mut bad, &mut progress)?;
                (root_text(&file), file.path, verdict)
            }
            Root::Collection(collection) => {
                if collection.state == CollectionState::Partial {
                    return Err(incomplete());
                }
                let verdict = verify_collection(store, &collection, bad, progress)?;
                (collection_text(&collection), collection.path.unwrap_or_default(), verdict)
            }
        };
        let Verdict { bytes, bad_bytes } = verdict;
        verified.push(Event::Verified { cid: text, path: WirePath(path), bytes, bad_bytes });
    }
    Ok(verified)
}

/// Re-hashes every file of a collection, or every block of a pin. A file that cannot be read is bad as a whole.
fn verify_collection(
    store: &Store,
    collection: &CollectionRecord,
    bad: &mut dyn FnMut(Event),
    progress: &mut dyn FnMut(&Path, u64, u64) -> bool,
) -> Result<Verdict, Failure> {
    let shown = collection.path.clone().unwrap_or_default();
    if let (None, Some(root)) = (&collection.path, &collection.root) {
        let mut bad = |cid: &Cid, length| {
            let path = Some(WirePath(PathBuf::from(cid.to_string())));
            bad(Event::Bad { path, offset: 0, length });
        };
        return pin::verify(store, root, &mut bad, &mut |done| progress(&shown, done, collection.size));
    }
    let mut sum = Verdict::default();
    let mut after = None;
    loop {
        let files = some_members(store, collection, after)?;
        let Some(last) = files.last() else { return Ok(sum) };
        after = Some(last.id);
        for file in files {
            let path = Some(WirePath(file.path.clone()));
            let verdict = Tree::of(store, &file).and_then(|tree| {
                let mut bad = |offset, length| bad(Event::Bad { path: path.clone(), offset, length });
                let mut tell = |done, _| {
                    progress(&shown, sum.bytes + done, collection.size);
                };
                verify_file(store, &tree, &file.path, &mut bad, &mut tell)
            });
            let verdict = match verdict {
                Err(failure) if matches!(failure.code.as_str(), "not-found" | "permission" | "not-a-file" | "io") => {
                    bad(Event::Bad { path, offset: 0, length: file.len });
                    Verdict { bytes: file.len, bad_bytes: file.len }
                }
                other => other?,
            };
            sum.bytes += verdict.bytes;
            sum.bad_bytes += verdict.bad_bytes;
            if !progress(&shown, sum.bytes, collection.size) {
                return Err(Failure::new("cancelled", "the verification was given up"));
            }
        }
    }
}

/// Some files of a collection, in the order of their numbers.
fn some_members(
    store: &Store,
    collection: &CollectionRecord,
    after: Option<FileId>,
) -> Result<Vec<FileRecord>, Failure> {
    let mut files = Vec::new();
    let mut note = |file| {
        files.push(file);
        files.len() < MEMBERS_AT_ONCE
    };
    store.members_after(collection.id, after, &mut note).map_err(|e| from_store(&e))?;
    Ok(files)
}

/// A root of the index.
#[derive(Debug)]
enum Root {
    File(FileRecord),
    Collection(CollectionRecord),
}

impl Root {
    fn info(&self, store: &Store) -> Result<RootInfo, Failure> {
        match self {
            Self::File(file) => Ok(info(file)),
            Self::Collection(collection) => collection_info(store, collection),
        }
    }
}

fn every(store: &Store) -> Result<Vec<Root>, Failure> {
    let files = store.single_files().map_err(|e| from_store(&e))?.into_iter().filter(is_shown);
    let collections = store.collections().map_err(|e| from_store(&e))?.into_iter();
    let collections =
        collections.filter(|found| matches!(found.state, CollectionState::Partial | CollectionState::Complete));
    Ok(files.map(Root::File).chain(collections.map(Root::Collection)).collect())
}

fn under(store: &Store, cid: &str) -> Result<Vec<Root>, Failure> {
    let root = parse_cid(cid).map_err(|e| Failure::new("not-a-cid", e))?;
    let mut roots = every(store)?;
    roots.retain(|found| {
        let found = match found {
            Root::File(file) => file.root,
            Root::Collection(collection) => collection.root,
        };
        found.is_some_and(|cid| cid.hash() == root.hash())
    });
    if roots.is_empty() {
        return Err(Failure::new("not-found", format!("{cid} is not in this repo; `bitshoal ls` lists what is")));
    }
    Ok(roots)
}

/// The unfinished file that is ours; the same bytes under the user's own name never are.
fn part_of(file: &FileRecord) -> Option<PathBuf> {
    let ours = !matches!(file.state, FileState::Complete) && file.path != file.final_path;
    ours.then(|| file.path.clone())
}

fn collection_info(store: &Store, collection: &CollectionRecord) -> Result<RootInfo, Failure> {
    let complete = collection.state == CollectionState::Complete;
    let mut present = collection.size;
    if !complete {
        present = 0;
        let mut add = |file: FileRecord| {
            present += present_bytes(&file);
            true
        };
        store.members(collection.id, &mut add).map_err(|e| from_store(&e))?;
    }
    Ok(RootInfo {
        cid: collection_text(collection),
        path: WirePath(collection.path.clone().unwrap_or_default()),
        size: collection.size,
        present_bytes: present,
        leaves: 0,
        files: Some(collection.files),
        complete,
        problem: None,
    })
}

fn collection_text(collection: &CollectionRecord) -> String {
    collection.root.map(|root| root.to_string()).unwrap_or_default()
}

fn is_shown(file: &FileRecord) -> bool {
    !matches!(file.state, FileState::Planning | FileState::Forgetting)
}

fn info(file: &FileRecord) -> RootInfo {
    let complete = matches!(file.state, FileState::Complete);
    let broken = if let FileState::Broken(reason) = &file.state { Some(reason.clone()) } else { None };
    RootInfo {
        cid: root_text(file),
        path: WirePath(file.path.clone()),
        size: file.len,
        present_bytes: present_bytes(file),
        leaves: file.leaves,
        files: None,
        complete,
        problem: broken.or_else(|| file.trouble.clone()),
    }
}

/// Bytes that are there, counting all leaves as equally long: only the last may be shorter.
pub(super) fn present_bytes(file: &FileRecord) -> u64 {
    if file.leaves == 0 || file.present_leaves >= file.leaves {
        return if file.leaves == 0 { 0 } else { file.len };
    }
    let share = u128::from(file.len) * u128::from(file.present_leaves) / u128::from(file.leaves);
    u64::try_from(share).unwrap_or(file.len)
}

fn root_text(file: &FileRecord) -> String {
    file.root.map(|root| root.to_string()).unwrap_or_default()
}
