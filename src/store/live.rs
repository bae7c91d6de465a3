//! What is known of each file while the program runs: its record, which of its leaves are there, and whether the disk
//! still agrees.
//!
//! Files that are not complete are always here. Complete ones, of which there may be millions, are read from the index
//! when they are asked for, and some thousands of them are kept.
//!
//! Bits here are set as soon as a leaf is written, so that it is served at once; which of them are durable only the
//! [`super::Writer`] and the index know.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::file::bitmap::Bitmap;
use super::index::tables::Stored;
use super::{FileId, FileRecord, FileState, Stamp};

/// Complete files that are kept after they were asked for. One takes less than a kilobyte.
const COMPLETE_MAX: usize = 4096;

/// The files that are known without asking the index.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// Every file that is not complete.
    open: RwLock<BTreeMap<FileId, Arc<Live>>>,
    /// Some of the complete ones.
    complete: RwLock<HashMap<FileId, Arc<Live>>>,
}

impl Lives {
    pub(super) fn new(open: BTreeMap<FileId, Arc<Live>>) -> Self {
        Self { open: RwLock::new(open), complete: RwLock::default() }
    }

    /// A file that is here.
    pub(super) fn get(&self, file: FileId) -> Option<Arc<Live>> {
        let complete = self.complete.read().unwrap_or_else(PoisonError::into_inner).get(&file).cloned();
        complete.or_else(|| self.open.read().unwrap_or_else(PoisonError::into_inner).get(&file).cloned())
    }

    /// Takes a file in, in the place that its state has. Of two that come for one complete file the first stays.
    pub(super) fn put(&self, live: Arc<Live>) -> Arc<Live> {
        if live.stored().state != FileState::Complete {
            self.open.write().unwrap_or_else(PoisonError::into_inner).insert(live.id, Arc::clone(&live));
            return live;
        }
        let mut complete = self.complete.write().unwrap_or_else(PoisonError::into_inner);
        if complete.len() >= COMPLETE_MAX {
            // What somebody works with, and what must be hashed before it is served, stays; the rest is read again.
            complete.retain(|_, live| Arc::strong_count(live) > 1 || live.is_suspect());
        }
        if complete.len() >= 2 * COMPLETE_MAX {
            complete.clear();
        }
        let kept = Arc::clone(complete.entry(live.id).or_insert(live));
        drop(complete);
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&kept.id);
        kept
    }

    pub(super) fn remove(&self, file: FileId) {
        self.complete.write().unwrap_or_else(PoisonError::into_inner).remove(&file);
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&file);
    }

    /// Every file that is not complete.
    pub(super) fn open(&self) -> Vec<Arc<Live>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: FileId,
    stored: RwLock<Stored>,
    /// Leaves that are there, of a file that is pulled; complete files need none.
    bits: RwLock<Option<Arc<Bitmap>>>,
    trouble: Mutex<Option<String>>,
    /// The file is not what it was: its blocks are hashed before they are served.
    suspect: AtomicBool,
    /// It has a writer.
    pub(super) writing: AtomicBool,
}

impl Live {
    pub(super) fn new(id: FileId, stored: Stored, bits: Option<Arc<Bitmap>>) -> Self {
        Self {
            id,
            stored: RwLock::new(stored),
            bits: RwLock::new(bits),
            trouble: Mutex::new(None),
            suspect: AtomicBool::new(false),
            writing: AtomicBool::new(false),
        }
    }

    pub(super) fn stored(&self) -> RwLockReadGuard<'_, Stored> {
        self.stored.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To follow a commit of the index that has succeeded.
    pub(super) fn stored_mut(&self) -> RwLockWriteGuard<'_, Stored> {
        self.stored.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bits(&self) -> Option<Arc<Bitmap>> {
        self.bits.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_bits(&self, bits: Option<Arc<Bitmap>>) {
        *self.bits.write().unwrap_or_else(PoisonError::into_inner) = bits;
    }

    /// Whether the bytes of a leaf are in the file and may be served.
    pub(super) fn holds(&self, leaf: u64) -> bool {
        let stored = self.stored();
        match stored.state {
            FileState::Complete => leaf < stored.leaves,
            FileState::Partial | FileState::Finishing => {
                self.bits.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|bits| bits.get(leaf))
            }
            FileState::Planning | FileState::Broken(_) | FileState::Forgetting => false,
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// Remembers that something is wrong with the file, until the next open. The first reason is kept.
    pub(super) fn mark(&self, reason: &str) {
        self.suspect.store(true, Ordering::Release);
        let mut trouble = self.trouble();
        if trouble.is_none() {
            tracing::warn!(path = %self.stored().path.display(), reason, "a file is not what it was");
            *trouble = Some(reason.into());
        }
    }

    /// Compares what the file looks like now with what it looked like when we learnt it. Of a file that we write the time
    /// of change says nothing.
    pub(super) fn difference(&self, now: &Stamp) -> Option<&'static str> {
        let stored = self.stored();
        let Some(then) = &stored.stamp else { return Some("was never completely made") };
        if !now.identity.is_still(&then.identity) {
            Some("has been replaced by another file")
        } else if then.len != now.len {
            Some("has another length than before")
        } else if stored.state == FileState::Complete && then.mtime_ns != now.mtime_ns {
            Some("has been changed")
        } else {
            None
        }
    }

    pub(super) fn record(&self) -> FileRecord {
        let stored = self.stored().clone();
        let present_leaves = match stored.state {
            FileState::Complete => stored.leaves,
            _ => self.bits().map_or(0, |bits| bits.count()),
        };
        FileRecord {
            id: self.id,
            path: stored.path,
            final_path: stored.final_path,
            len: stored.len,
            root: stored.root,
            leaves: stored.leaves,
            state: stored.state,
            stamp: stored.stamp,
            present_leaves,
            member: stored.member,
            trouble: self.trouble().clone(),
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
