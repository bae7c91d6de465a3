//! The seam between the store and what makes data durable, so that a test can crash it at any step.
//!
//! Reads do not go through it: what was written is visible to readers at once, crash or not.

use std::fs::File;
use std::io;
use std::path::Path;

use super::platform;

/// Every operation whose order matters after a crash.
pub(crate) trait Disk: Send + Sync + std::fmt::Debug {
    fn write_at(&self, file: &File, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Returns when everything that was written to `file` before is durable.
    fn sync_data(&self, file: &File) -> io::Result<()>;
    /// Renames without overwriting and returns when the new name is durable.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns when everything that was written to `files` before, and all names in `folders`, are durable. All are on one
    /// file system.
    fn sync_many(&self, folders: &[&Path], files: &[&File]) -> io::Result<()>;
    /// Renames without overwriting; durable with the next [`Disk::sync_many`].
    fn rename_many(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Called before each commit of the index; an error aborts the transaction.
    fn before_commit(&self) -> io::Result<()>;
}

/// The operating system's.
#[derive(Debug)]
pub(crate) struct SystemDisk;

impl Disk for SystemDisk {
    fn write_at(&self, file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
        platform::write_all_at(file, offset, data)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        platform::rename_new(from, to)?;
        to.parent().map_or(Ok(()), platform::sync_dir)
    }

    fn sync_many(&self, folders: &[&Path], files: &[&File]) -> io::Result<()> {
        platform::sync_many(folders, files)
    }

    fn rename_many(&self, from: &Path, to: &Path) -> io::Result<()> {
        platform::rename_new(from, to)
    }

    fn before_commit(&self) -> io::Result<()> {
        Ok(())
    }
}
