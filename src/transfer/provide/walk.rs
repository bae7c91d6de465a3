//! Goes through a folder and all below it, and tells what is there: folders to whoever puts them together, files and
//! links, some at a time, to whoever reads them.
//!
//! A folder is listed to its end before the next is opened, so one is open at a time however deep they lie, and only the
//! names of subfolders that are still to come are kept. Links are not followed: there are no circles.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::rules::Rules;
use super::unreadable;
use crate::store::{self, Attributes};
use crate::transfer::failure::Failure;

/// Files and links that are handed over together.
const BATCH: usize = 32;

/// A folder of the walk, by its number; 0 is the top.
pub(super) type FolderId = u32;

/// What is to be imported at the top: its name in the directory, and where it is.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) name: OsString,
    pub(super) path: PathBuf,
}

/// A folder has been found, or listed.
#[derive(Debug)]
pub(super) enum Folder {
    /// It is in the folder `parent` under `name`. Comes before anything that is in it.
    Found { id: FolderId, parent: FolderId, name: OsString, attributes: Option<Attributes> },
    /// It has so many entries.
    Listed { id: FolderId, entries: u64 },
}

/// Some files and links of one folder.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) folder: FolderId,
    pub(super) path: Arc<PathBuf>,
    pub(super) names: Vec<(OsString, Leaf)>,
}

/// What is no folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    File,
    Link,
}

/// Why a walk ends early.
pub(super) enum Halt {
    /// Nobody wants to know any more.
    Unheard,
    Failed(Failure),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Who is told. An error ends the walk.
pub(super) trait Listener {
    fn folder(&mut self, folder: Folder) -> Result<(), Halt>;
    fn batch(&mut self, batch: Batch) -> Result<(), Halt>;
}

/// A walk under way.
pub(super) struct Walk<'a, L> {
    rules: &'a Rules,
    /// Whether folders' attributes are asked for.
    attributes: bool,
    listener: L,
    next: FolderId,
    /// Folders that have been seen and not yet listed.
    ahead: Vec<Ahead>,
}

struct Ahead {
    parent: FolderId,
    parent_path: Arc<PathBuf>,
    /// Relative to the folder that is imported, for the rules.
    parent_within: Arc<PathBuf>,
    name: OsString,
    /// Named by the user: its own name counts for no rule.
    top: bool,
}

impl<'a, L: Listener> Walk<'a, L> {
    pub(super) const fn new(rules: &'a Rules, attributes: bool, listener: L) -> Self {
        Self { rules, attributes, listener, next: 1, ahead: Vec::new() }
    }

    /// Walks a folder, which is the top.
    pub(super) fn folder(mut self, path: &Path) -> Result<(), Halt> {
        self.list(0, Arc::new(path.to_owned()), Arc::default())?;
        self.rest()
    }

    /// Walks several paths, which are the entries of the top.
    pub(super) fn several(mut self, starts: Vec<Start>) -> Result<(), Halt> {
        let entries = starts.len() as u64;
        for Start { name, path } in starts {
            let kind = fs::symlink_metadata(&path).map_err(unreadable(&path))?.file_type();
            let parent_path = Arc::new(path.parent().unwrap_or(&path).to_owned());
            match leaf_of(kind, || path.clone())? {
                Some(leaf) => {
                    let names = vec![(name, leaf)];
                    self.listener.batch(Batch { folder: 0, path: parent_path, names })?;
                }
                None => {
                    let parent_within = Arc::default();
                    self.ahead.push(Ahead { parent: 0, parent_path, parent_within, name, top: true });
                }
            }
        }
        self.listener.folder(Folder::Listed { id: 0, entries })?;
        self.rest()
    }

    fn rest(mut self) -> Result<(), Halt> {
        while let Some(Ahead { parent, parent_path, parent_within, name, top }) = self.ahead.pop() {
            let id = self.next;
            self.next = id.checked_add(1).ok_or_else(|| Halt::Failed(Failure::new("too-many-files", "2³² folders")))?;
            let path = Arc::new(parent_path.join(&name));
            let within = if top { Arc::default() } else { Arc::new(parent_within.join(&name)) };
            let attributes = if self.attributes {
                let metadata = fs::symlink_metadata(&*path).map_err(unreadable(&path))?;
                Some(store::path_attributes(&metadata))
            } else {
                None
            };
            self.listener.folder(Folder::Found { id, parent, name, attributes })?;
            self.list(id, path, within)?;
        }
        Ok(())
    }

    /// Lists one folder. What is in it is handed over at once, its subfolders wait for their turn.
    fn list(&mut self, id: FolderId, path: Arc<PathBuf>, within: Arc<PathBuf>) -> Result<(), Halt> {
        let mut entries = 0;
        let mut names = Vec::new();
        for entry in fs::read_dir(&*path).map_err(unreadable(&path))? {
            let entry = entry.map_err(unreadable(&path))?;
            if self.rules.skips_hidden() && store::hidden(&entry) {
                continue;
            }
            let kind = entry.file_type().map_err(unreadable(&entry.path()))?;
            let name = entry.file_name();
            if self.rules.ignores(&within, &name, kind.is_dir()) {
                continue;
            }
            entries += 1;
            match leaf_of(kind, || entry.path())? {
                Some(leaf) => names.push((name, leaf)),
                None => self.ahead.push(Ahead {
                    parent: id,
                    parent_path: Arc::clone(&path),
                    parent_within: Arc::clone(&within),
                    name,
                    top: false,
                }),
            }
            if names.len() == BATCH {
                let names = std::mem::replace(&mut names, Vec::with_capacity(BATCH));
                self.listener.batch(Batch { folder: id, path: Arc::clone(&path), names })?;
            }
        }
        if !names.is_empty() {
            self.listener.batch(Batch { folder: id, path, names })?;
        }
        self.listener.folder(Folder::Listed { id, entries })
    }
}

/// `None` for a folder. Sockets, pipes and devices have no content that could be imported, and end it, as with Kubo.
fn leaf_of(kind: fs::FileType, path: impl FnOnce() -> PathBuf) -> Result<Option<Leaf>, Halt> {
    if kind.is_dir() {
        Ok(None)
    } else if kind.is_file() {
        Ok(Some(Leaf::File))
    } else if kind.is_symlink() {
        Ok(Some(Leaf::Link))
    } else {
        let message = format!(
            "{} is neither a file, nor a folder, nor a symbolic link; `--ignore` leaves it out",
            path().display()
        );
        Err(Halt::Failed(Failure::new("not-a-file", message)))
    }
}
