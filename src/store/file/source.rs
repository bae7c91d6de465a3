//! A file that is being added: read once where it lies, and proven unchanged at the end.
//!
//! Reads are positioned, so a file that is cut short while it is read is an error, not a signal. Pages that reading
//! brought into the page cache are let go; those that were there before (somebody uses the file) stay.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::platform;
use crate::store::{NewFile, Stamp, StoreError};

/// Whether a part of the file was in the page cache before we came is asked once per section of this many bytes, and a
/// section's pages leave together: the cache keeps a file in pieces of up to 2 MiB, which only leave whole.
const SECTION_BYTES: u64 = 32 << 20;
/// What a piece of the cache may reach back over a section's beginning.
const OVERLAP_BYTES: u64 = 4 << 20;

/// A file that is being added.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    sections: Mutex<HashMap<u64, Section>>,
}

#[derive(Debug)]
struct Section {
    /// Most of it was in the page cache before our first read of it.
    hot: bool,
    /// Bytes of it that are done with.
    released: u64,
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
        Ok(Self { path, file, stamp, sections: Mutex::default() })
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
        let number = offset / SECTION_BYTES;
        let mut sections = self.sections();
        sections.entry(number).or_insert_with(|| {
            let range = self.section(number);
            let hot = range.is_empty() || platform::mostly_resident(&self.file, &range);
            Section { hot, released: 0 }
        });
        drop(sections);
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

    /// The range has been hashed, once: its pages may leave the page cache if it was us who brought them in.
    pub fn release(&self, range: Range<u64>) {
        for number in range.start / SECTION_BYTES..range.end.div_ceil(SECTION_BYTES) {
            let section = self.section(number);
            let mut sections = self.sections();
            let Some(known) = sections.get_mut(&number) else { continue };
            known.released += range.end.min(section.end).saturating_sub(range.start.max(section.start));
            if known.hot || known.released < section.end - section.start {
                continue;
            }
            let before_is_hot = number.checked_sub(1).and_then(|b| sections.get(&b)).is_none_or(|before| before.hot);
            drop(sections);
            let start = if before_is_hot { section.start } else { section.start.saturating_sub(OVERLAP_BYTES) };
            platform::drop_cache(&self.file, &(start..section.end));
        }
    }

    /// What a section covers of the file.
    fn section(&self, number: u64) -> Range<u64> {
        let start = (number * SECTION_BYTES).min(self.stamp.len);
        start..(start + SECTION_BYTES).min(self.stamp.len)
    }

    fn sections(&self) -> MutexGuard<'_, HashMap<u64, Section>> {
        self.sections.lock().unwrap_or_else(PoisonError::into_inner)
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
            member: None,
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
