//! A file that is being added: read once where it lies, and proven unchanged at the end.
//!
//! Reads are positioned, so a file that is cut short while it is read is an error, not a signal. Pages that reading
//! brought into the page cache are let go; those that were there before (somebody uses the file) stay.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::platform;
use crate::store::{NewFile, Stamp, StoreError};

/// Whether a part of the file was in the page cache before we came is asked once per section of this many bytes.
const SECTION_BYTES: u64 = 64 << 20;

/// A file that is being added.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    /// Section → whether it was hot before our first read of it.
    hot: Mutex<HashMap<u64, bool>>,
}

#[expect(clippy::len_without_is_empty, reason = "a file's length, not a collection's")]
impl SourceFile {
    /// Opens a regular file; symbolic links are followed, the path is made absolute.
    ///
    /// # Errors
    /// [`StoreError::NotAFile`] for anything else, [`StoreError::Io`] with the system's reason.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).map_err(StoreError::io(path))?;
        // Looked at before it is opened: opening a pipe would wait for somebody to write into it.
        if !std::fs::metadata(&path).map_err(StoreError::io(&path))?.is_file() {
            return Err(StoreError::NotAFile(path));
        }
        let file = File::open(&path).map_err(StoreError::io(&path))?;
        let stamp = platform::stamp(&file).map_err(StoreError::io(&path))?;
        Ok(Self { path, file, stamp, hot: Mutex::new(HashMap::new()) })
    }

    /// The absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.stamp.len
    }

    /// What it looked like when it was opened.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Reads exactly `out.len()` bytes at `offset`, from any thread.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when the file ends before that; [`StoreError::Io`].
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let section = offset / SECTION_BYTES;
        let mut hot = self.hot.lock().unwrap_or_else(PoisonError::into_inner);
        hot.entry(section).or_insert_with(|| {
            let start = section * SECTION_BYTES;
            platform::mostly_resident(&self.file, &(start..(start + SECTION_BYTES).min(self.stamp.len.max(start + 1))))
        });
        drop(hot);
        platform::read_exact_at(&self.file, offset, out).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => StoreError::Changed(self.path.clone()),
            _ => StoreError::io(&self.path)(e),
        })
    }

    /// Whether the file system says that a range holds no data at all, only zeros. False when it does not tell.
    #[must_use]
    pub fn is_hole(&self, range: &Range<u64>) -> bool {
        platform::next_data(&self.file, range.start).is_some_and(|data| data >= range.end)
    }

    /// The range has been hashed: its pages may leave the page cache if it was us who brought them in.
    pub fn release(&self, range: Range<u64>) {
        let hot = self.hot.lock().unwrap_or_else(PoisonError::into_inner);
        if hot.get(&(range.start / SECTION_BYTES)) == Some(&false) {
            drop(hot);
            platform::drop_cache(&self.file, &range);
        }
    }

    /// Proves that the file is still the one that was opened, with the same length and time of last change.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when it is not, or is gone.
    pub fn unchanged(&self) -> Result<(), StoreError> {
        let opened = platform::stamp(&self.file);
        let named = platform::stamp_at(&self.path);
        match (opened, named) {
            (Ok(opened), Ok(named)) if opened == self.stamp && named == self.stamp => Ok(()),
            _ => Err(StoreError::Changed(self.path.clone())),
        }
    }
}

impl NewFile {
    /// How a file is added where it lies.
    #[must_use]
    pub fn in_place(source: &SourceFile) -> Self {
        Self {
            path: source.path.clone(),
            final_path: source.path.clone(),
            root: None,
            stamp: source.stamp,
            partial: false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_changes_while_it_is_read_is_told_from_one_that_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let source = SourceFile::open(&path).unwrap();
        let mut out = vec![0; 1000];
        source.read_at(99_000, &mut out).unwrap();
        assert_eq!(out, vec![7; 1000]);
        source.release(0..100_000);
        source.unchanged().unwrap();
        assert!(matches!(source.read_at(99_001, &mut out), Err(StoreError::Changed(_))));
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        assert!(matches!(source.unchanged(), Err(StoreError::Changed(_))));

        let source = SourceFile::open(&path).unwrap();
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        std::fs::write(&path, vec![7; 100_004]).unwrap();
        assert!(matches!(source.unchanged(), Err(StoreError::Changed(_))));
        assert!(matches!(SourceFile::open(dir.path()), Err(StoreError::NotAFile(_))));
        assert!(SourceFile::open(&dir.path().join("nothing")).is_err());
    }
}
