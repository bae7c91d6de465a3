//! A file among many that are being added: opened, read once from front to back by one thread, proven unchanged.
//!
//! Four system calls for a file that is in the page cache: open, look, read, look. What others have in the cache is read
//! as it lies there; pages that only our reading brought in are let go at the end. Large files, which several threads
//! read at once, are [`super::source::SourceFile`]'s.

use std::ffi::OsStr;
use std::fs::{DirEntry, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::platform;
use crate::store::{Attributes, NewFile, Stamp, StoreError};

/// A file that is being read.
#[derive(Debug)]
pub struct SmallFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    attributes: Attributes,
    /// A part of it was not in the page cache.
    cold: bool,
}

#[expect(clippy::len_without_is_empty, reason = "a file's length, not a collection's")]
impl SmallFile {
    /// Opens a regular file; links are not followed. `path` is absolute.
    ///
    /// # Errors
    /// [`StoreError::NotAFile`] for anything else, [`StoreError::Io`] with the system's reason.
    pub fn open(path: PathBuf) -> Result<Self, StoreError> {
        let file = platform::open_plain(&path).map_err(StoreError::io(&path))?;
        let known = platform::stamp_and_attributes(&file).map_err(StoreError::io(&path))?;
        let Some((stamp, attributes)) = known else { return Err(StoreError::NotAFile(path)) };
        Ok(Self { path, file, stamp, attributes, cold: false })
    }

    /// Length in bytes when it was opened.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.stamp.len
    }

    /// Permissions and time of change when it was opened.
    #[must_use]
    pub const fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Reads exactly `out.len()` bytes at `offset`.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when the file ends before that; [`StoreError::Io`].
    pub fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let cached = platform::read_cached(&self.file, offset, out).map_err(StoreError::io(&self.path))?;
        let rest = out.get_mut(cached.unwrap_or(0)..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        self.cold |= cached.is_some();
        platform::read_exact_at(&self.file, offset + cached.unwrap_or(0) as u64, rest).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => StoreError::Changed(self.path.clone()),
            _ => StoreError::io(&self.path)(e),
        })
    }

    /// Ends the reading: the file is still as it was when it was opened.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when it is not.
    pub fn finish(self) -> Result<NewFile, StoreError> {
        let now = platform::stamp(&self.file);
        if self.cold {
            platform::drop_cache(&self.file, &(0..self.stamp.len));
        }
        if !now.is_ok_and(|now| now == self.stamp) {
            return Err(StoreError::Changed(self.path));
        }
        Ok(NewFile {
            final_path: self.path.clone(),
            path: self.path,
            root: None,
            stamp: self.stamp,
            partial: false,
            member: None,
        })
    }
}

/// Whether an entry of a folder is hidden: its name begins with a dot, or the system says so.
#[must_use]
pub fn hidden(entry: &DirEntry) -> bool {
    platform::is_hidden(entry)
}

/// A file's name as it stands in a UnixFS directory; `None` when it has none there (Windows names that are no Unicode).
#[must_use]
pub fn name_bytes(name: &OsStr) -> Option<&[u8]> {
    platform::name_to_bytes(name)
}

/// A symbolic link's target as it stands in a UnixFS node; `None` when it has none there.
#[must_use]
pub fn target_bytes(target: &Path) -> Option<Vec<u8>> {
    platform::target_to_bytes(target)
}

/// Permissions and time of change of a folder or a link.
#[must_use]
pub fn path_attributes(metadata: &Metadata) -> Attributes {
    platform::attributes(metadata)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_changes_while_it_is_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let mut out = vec![0; 10_000];
        let mut file = SmallFile::open(path.clone()).unwrap();
        file.read_at(0, &mut out).unwrap();
        assert_eq!((file.len(), &out), (10_000, &vec![7; 10_000]));
        assert!(matches!(file.read_at(1, &mut out), Err(StoreError::Changed(_))));
        assert_eq!(file.finish().unwrap().path, path);

        let file = SmallFile::open(path.clone()).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        assert!(matches!(file.finish(), Err(StoreError::Changed(_))));
        assert!(SmallFile::open(dir.path().join("nothing")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_plain_file_is_refused_without_waiting_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(matches!(SmallFile::open(pipe), Err(StoreError::NotAFile(_))));
        assert!(matches!(SmallFile::open(dir.path().into()), Err(StoreError::NotAFile(_))));
        std::fs::write(dir.path().join("f"), b"x").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        assert!(SmallFile::open(dir.path().join("link")).is_err());
    }
}
