//! What of the machine's memory is taken because of this store, told apart.
//!
//! It looks and changes nothing. Page cache is counted whoever brought it in: a file that others read shows more than is
//! ours.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Store;
use super::file::platform;
use super::live::Live;

/// Shares of memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryReport {
    /// Windows over served files: mapped, or page cache that positioned reads brought in, at most.
    pub windows_bytes: u64,
    /// Buffers that lie idle.
    pub idle_bytes: u64,
    /// The index's file.
    pub index: FileMemory,
    /// Files that are open for serving or being pulled, in the order of their numbers.
    pub files: Vec<FileMemory>,
}

/// A file's share of the page cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMemory {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes of it in the page cache; `None` where the system does not tell.
    pub cached_bytes: Option<u64>,
}

impl FileMemory {
    fn of(path: PathBuf) -> Option<Self> {
        let file = File::open(&path).ok()?;
        let len = file.metadata().ok()?.len();
        Some(Self { cached_bytes: platform::cached_bytes(&file, len), path, len })
    }
}

impl Store {
    /// What is in memory now. It asks the system for each open file.
    #[must_use]
    pub fn memory(&self) -> MemoryReport {
        let inner = &self.inner;
        let mut lives: BTreeMap<_, Arc<Live>> = BTreeMap::new();
        let open = inner.handles.open_files().into_iter().filter_map(|id| inner.find(id).ok().flatten());
        let written = inner.files.open().into_iter().filter(|live| live.writing.load(Ordering::Acquire));
        lives.extend(open.chain(written).map(|live| (live.id, live)));
        let index = inner.index.data_path().to_owned();
        MemoryReport {
            windows_bytes: inner.handles.window_bytes(),
            idle_bytes: inner.pool.idle_bytes() as u64,
            index: FileMemory::of(index.clone()).unwrap_or(FileMemory { path: index, len: 0, cached_bytes: None }),
            files: lives.values().filter_map(|live| FileMemory::of(live.stored().path.clone())).collect(),
        }
    }
}
