//! The repository's lock: one process at a time, told by the operating system and thus free again after any death.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::StoreError;

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(super) struct RepoLock {
    file: File,
}

impl Drop for RepoLock {
    /// Closing the file would not do at once: a process that is just being started has it, too, until it is another program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl RepoLock {
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // Where locks are mandatory (Windows) this read fails, and the holder stays nameless.
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(StoreError::InUse { path: dir.into(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(e)) => return Err(StoreError::io(&path)(e)),
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(StoreError::io(&path))?;
        Ok(Self { file })
    }
}
