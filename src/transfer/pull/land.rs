//! Where a pulled folder lies: its directories, its links, and the certainty that nothing is written outside of it.
//!
//! Names are safe already ([`crate::dag::path`]). What is left to the disk: a directory on the way may be a link that
//! somebody else has put there, and every one is looked at before it is gone through for the first time. Links of the
//! pulled tree are made last, when nothing is written any more, and only those that stay inside.
//! What clones have looked at or made, all of them know.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::dag::path::{SafePath, link_is_inside};
use crate::platform;
use crate::store::{Restore, WriteError};

use super::lock;

/// A folder on the disk.
#[derive(Debug, Clone)]
pub(super) struct Land {
    base: PathBuf,
    /// Directories below it that were looked at, or made.
    known: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A symbolic link to be made.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Where, below the folder.
    pub(super) path: SafePath,
    /// Where it points.
    pub(super) target: Vec<u8>,
}

impl Land {
    /// The folder at `base`, which is there.
    pub(super) fn new(base: PathBuf) -> Self {
        Self { known: Arc::new(Mutex::new(HashSet::from([base.clone()]))), base }
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// Whether names that differ only in case are one here: tried, since no system tells it of a folder.
    pub(super) fn folds_case(&self) -> bool {
        platform::folds_case(&self.base)
    }

    /// Makes the folder that `path` lies in, and those above it.
    pub(super) fn make_folder_of(&self, path: &Path) -> Result<(), WriteError> {
        path.parent().map_or(Ok(()), |parent| self.make_folder(parent))
    }

    /// Makes a folder below this one, and those above it; none of them may be a link.
    pub(super) fn make_folder(&self, path: &Path) -> Result<(), WriteError> {
        if self.knows(path) {
            return Ok(());
        }
        debug_assert!(path.starts_with(&self.base), "paths are safe");
        self.make_folder_of(path)?;
        match std::fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                    return Err(WriteError::Exists(path.to_path_buf()));
                }
            }
            made => made.map_err(WriteError::io(path))?,
        }
        lock(&self.known).insert(path.to_path_buf());
        Ok(())
    }

    fn knows(&self, folder: &Path) -> bool {
        lock(&self.known).contains(folder)
    }

    /// Makes the links that stay inside, and gives those that it left out, with the reason.
    pub(super) fn make_links(&self, links: &[Link]) -> Result<Vec<(PathBuf, String)>, WriteError> {
        let mut left_out = Vec::new();
        let is_folder = |at: &SafePath| self.knows(&at.join_onto(&self.base));
        for link in links {
            let path = link.path.join_onto(&self.base);
            if !link_is_inside(&link.path, &link.target, &is_folder) {
                left_out.push((path, "it may point outside of the folder".to_owned()));
                continue;
            }
            self.make_folder_of(&path)?;
            match platform::make_link(&link.target, &path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if !platform::link_target(&path).is_ok_and(|target| target == link.target) {
                        return Err(WriteError::Exists(path));
                    }
                }
                // Not every file system has links, and Windows gives them to few.
                Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
                    left_out.push((path, e.to_string()));
                }
                Err(e) => return Err(WriteError::io(&path)(e)),
            }
        }
        Ok(left_out)
    }

    /// Gives folders their times and permissions, the deepest first: a folder without permission to be written into, or
    /// whose time is not to change, must be complete.
    pub(super) fn restore_folders(&self, folders: &[(PathBuf, Restore)]) -> Result<(), WriteError> {
        let mut order: Vec<_> = folders.iter().filter(|(_, restore)| *restore != Restore::default()).collect();
        order.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, restore) in order {
            platform::restore_folder(path, restore.mode, restore.mtime).map_err(WriteError::io(path))?;
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (base, outside) = (dir.path().join("base"), dir.path().join("outside"));
        std::fs::create_dir(&base).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, base.join("trap")).unwrap();
        let land = Land::new(base.clone());
        let refused = land.make_folder_of(&base.join("trap/inner/file"));
        assert!(matches!(refused, Err(WriteError::Exists(path)) if path == base.join("trap")));
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        land.make_folder_of(&base.join("a/b/file")).unwrap();
        assert!(base.join("a/b").is_dir());
    }
}
