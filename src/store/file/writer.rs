//! Writing the leaves of one file that is being pulled.
//!
//! The order of an epoch: leaves at their offsets, then the data durable, then one commit of their bits. A crash before the
//! commit loses the epoch's leaves; a bit that is set is the truth, whatever happens. Leaves that are written while an
//! epoch runs belong to the next one.
//!
//! A failed sync says that something written since the last good one may be lost, and the system will not say it twice:
//! every leaf written since counts as missing again. A failed commit loses nothing: its leaves wait for the next one.
//!
//! The end: the last epoch, state Finishing, the rename (which never overwrites), state Complete. A crash in between is
//! settled by which name exists (`recover.rs`).

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bitmap::{Bitmap, SEGMENT_LEAVES};
use super::platform;
use super::pool::ALIGNMENT;
use crate::store::files::put_file;
use crate::store::index::tables;
use crate::store::live::Live;
use crate::store::{FileId, FileState, Store, StoreError, WriteError, WriterKind};

/// What an unbuffered write is at most: what the pool has buffers for.
const DIRECT_BYTES: usize = 1 << 20;

/// Writes the leaves of one partial file; every method from any thread. Dropping it tries to commit what is not durable
/// yet. There is one writer per file at a time.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    live: Arc<Live>,
    file: File,
    /// The same, for unbuffered writes.
    direct: Option<File>,
    /// Length of the file in bytes.
    len: u64,
    /// Leaves that are written, shared with those who serve them.
    bits: Arc<Bitmap>,
    /// Leaves whose data are durable; their bits may still wait for a commit.
    durable: Bitmap,
    pending: Mutex<Pending>,
    /// Held by the epoch that runs.
    epoch: Mutex<()>,
    /// Counts failed syncs: a write that began before one cannot know whether its data survived.
    lost: AtomicU64,
}

/// What was written since the last epoch began.
#[derive(Debug, Default)]
struct Pending {
    leaves: Vec<u64>,
    ranges: Vec<Range<u64>>,
    bytes: u64,
}

impl Store {
    /// Opens a partial file for writing.
    ///
    /// # Errors
    /// [`StoreError::UnknownFile`] when it is not partial, [`StoreError::Busy`] when it has a writer,
    /// [`StoreError::Changed`] when the part is not the file that we made (its state becomes Broken).
    pub fn writer(&self, file: FileId) -> Result<Writer, StoreError> {
        let live = self.inner.find(file)?.ok_or(StoreError::UnknownFile(file))?;
        let stored = live.stored().clone();
        let bits = live.bits().filter(|_| matches!(stored.state, FileState::Partial | FileState::Finishing));
        let bits = bits.ok_or(StoreError::UnknownFile(file))?;
        // A finish that failed after the rename left the file under its final name.
        let path = if stored.state == FileState::Finishing && !stored.path.exists() {
            &stored.final_path
        } else {
            &stored.path
        };
        if live.writing.swap(true, Ordering::AcqRel) {
            return Err(StoreError::Busy(file));
        }
        // From here on the drop of the writer frees the file again.
        let opened = OpenOptions::new().read(true).write(true).open(path).map_err(StoreError::io(path));
        let checked = opened.and_then(|file| {
            let stamp = platform::stamp(&file).map_err(StoreError::io(path))?;
            match live.difference(&stamp) {
                None => Ok(file),
                Some(reason) => {
                    let mut broken = stored.clone();
                    broken.state = FileState::Broken(format!("{} {reason}", path.display()));
                    self.put_stored(live.id, &broken)?;
                    Err(StoreError::Changed(path.clone()))
                }
            }
        });
        match checked {
            Err(error) => {
                live.writing.store(false, Ordering::Release);
                Err(error)
            }
            Ok(file) => {
                // The part is ours, and so is its name.
                let direct = (self.inner.options.writer == WriterKind::Direct)
                    .then(|| platform::open_direct(path, true).ok())
                    .flatten();
                let durable = Bitmap::new(bits.len());
                for segment in 0..bits.segments() {
                    durable.merge_segment(segment, &bits.segment(segment)).expect("two bitmaps of one length");
                }
                Ok(Writer {
                    store: self.clone(),
                    live,
                    direct,
                    file,
                    len: stored.len,
                    bits,
                    durable,
                    pending: Mutex::default(),
                    epoch: Mutex::default(),
                    lost: AtomicU64::new(0),
                })
            }
        }
    }
}

impl Writer {
    /// Which file.
    #[must_use]
    pub fn file(&self) -> FileId {
        self.live.id
    }

    /// How many leaves it has.
    #[must_use]
    pub fn leaves(&self) -> u64 {
        self.bits.len()
    }

    /// How many leaves are written, durable or not.
    #[must_use]
    pub fn present(&self) -> u64 {
        self.bits.count()
    }

    /// Whether a leaf is written, durable or not.
    #[must_use]
    pub fn has(&self, leaf: u64) -> bool {
        self.bits.get(leaf)
    }

    /// Leaves of a range that are not written, in order, as they are found.
    pub fn missing(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        self.bits.missing(range)
    }

    /// How many leaves of a range are not written.
    #[must_use]
    pub fn missing_count(&self, range: Range<u64>) -> u64 {
        self.bits.missing_count(range)
    }

    /// Writes a leaf's file bytes, which the caller has verified, at their offset; from now on the leaf is served. False if
    /// it was there already (nothing is written then).
    ///
    /// # Errors
    /// [`WriteError::NoSpace`], [`WriteError::OutOfRange`], [`WriteError::Sync`] when data were lost meanwhile,
    /// [`WriteError::Io`]. The leaf is missing still.
    pub fn write(&self, leaf: u64, offset: u64, data: &[u8]) -> Result<bool, WriteError> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= self.len);
        let Some(end) = end.filter(|_| leaf < self.bits.len()) else {
            return Err(WriteError::OutOfRange { leaf, offset, len: data.len() });
        };
        if self.bits.get(leaf) {
            return Ok(false);
        }
        let lost = self.lost.load(Ordering::Acquire);
        self.put(offset, data).map_err(self.io())?;
        let mut pending = self.pending();
        if self.lost.load(Ordering::Acquire) != lost {
            return Err(self.sync_error(std::io::Error::other("a sync failed while the leaf was written")));
        }
        if !self.bits.set(leaf) {
            return Ok(false);
        }
        pending.leaves.push(leaf);
        pending.bytes += data.len() as u64;
        match pending.ranges.last_mut() {
            Some(last) if last.end == offset => last.end = end,
            _ => pending.ranges.push(offset..end),
        }
        Ok(true)
    }

    /// Counts a leaf that is already in the file, where the caller has verified it; from now on it is served. It becomes
    /// durable with the next epoch.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`].
    pub fn adopt(&self, leaf: u64, offset: u64, len: u32) -> Result<(), WriteError> {
        let end = offset + u64::from(len);
        if leaf >= self.bits.len() || end > self.len {
            return Err(WriteError::OutOfRange { leaf, offset, len: len as usize });
        }
        let mut pending = self.pending();
        if self.bits.set(leaf) {
            pending.leaves.push(leaf);
            pending.ranges.push(offset..end);
            pending.bytes += u64::from(len);
        }
        Ok(())
    }

    /// Writes past the page cache what fills whole blocks, if files are to be written so, and the rest through it.
    fn put(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let inner = &self.store.inner;
        let Some(direct) = &self.direct else { return inner.disk.write_at(&self.file, offset, data) };
        let first = offset.next_multiple_of(ALIGNMENT as u64);
        let head = usize::try_from(first - offset).unwrap_or(usize::MAX).min(data.len());
        let (head, rest) = data.split_at(head);
        let (body, tail) = rest.split_at(rest.len() / ALIGNMENT * ALIGNMENT);
        if !head.is_empty() {
            inner.disk.write_at(&self.file, offset, head)?;
        }
        let mut at = first;
        for piece in body.chunks(DIRECT_BYTES) {
            let mut buffer = inner.pool.take(piece.len(), 0);
            buffer.as_mut().copy_from_slice(piece);
            // A buffer of a few blocks is not of the pool, and not aligned.
            let aligned = buffer.as_ref().as_ptr().addr().is_multiple_of(ALIGNMENT);
            inner.disk.write_at(if aligned { direct } else { &self.file }, at, buffer.as_ref())?;
            at += piece.len() as u64;
        }
        if tail.is_empty() { Ok(()) } else { inner.disk.write_at(&self.file, at, tail) }
    }

    pub(in crate::store) const fn handle(&self) -> &File {
        &self.file
    }

    pub(in crate::store) fn path(&self) -> std::path::PathBuf {
        self.live.stored().path.clone()
    }

    /// Bytes written that no epoch has taken yet.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.pending().bytes
    }

    /// Makes what has been written durable, then its bits, then lets its pages leave the page cache. Writes may go on
    /// meanwhile; they belong to the next epoch.
    ///
    /// # Errors
    /// [`WriteError::Sync`]: leaves written since the last epoch are missing again. [`WriteError::Store`]: the bits wait
    /// for the next epoch.
    pub fn commit_epoch(&self) -> Result<(), WriteError> {
        let _epoch = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = std::mem::take(&mut *self.pending());
        if epoch.leaves.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.store.inner.disk.sync_data(&self.file) {
            self.lose(epoch);
            return Err(self.sync_error(error));
        }
        let mut segments = BTreeSet::new();
        for leaf in &epoch.leaves {
            self.durable.set(*leaf);
            segments.insert(leaf / SEGMENT_LEAVES);
        }
        let committed = self.store.inner.index.write(|txn, tables| {
            // Nobody writes bits of a file that has been forgotten: they would stay for ever.
            if tables.files.get(txn, &tables::file_key(self.live.id))?.is_none() {
                return Err(StoreError::UnknownFile(self.live.id));
            }
            for segment in &segments {
                let key = tables::have_key(self.live.id, *segment);
                tables.have.put(txn, &key, &self.durable.segment(*segment))?;
            }
            Ok(())
        });
        if let Err(error) = committed {
            let mut pending = self.pending();
            pending.leaves.extend(epoch.leaves);
            pending.ranges.extend(epoch.ranges);
            pending.bytes += epoch.bytes;
            return Err(error.into());
        }
        let mut ranges = epoch.ranges;
        ranges.sort_unstable_by_key(|range| range.start);
        for run in joined(&ranges) {
            platform::drop_cache(&self.file, &run);
        }
        Ok(())
    }

    /// Ends the pull: last epoch, rename to the final name without overwriting, state Complete. Can be called again after
    /// an error.
    ///
    /// # Errors
    /// [`WriteError::Incomplete`]; [`WriteError::Exists`] when something has the final name (the file stays partial);
    /// those of [`Writer::commit_epoch`].
    pub fn finish(&self) -> Result<(), WriteError> {
        let missing = self.bits.missing_count(0..self.bits.len());
        if missing > 0 {
            return Err(WriteError::Incomplete { missing });
        }
        self.commit_epoch()?;
        let mut stored = self.live.stored().clone();
        if stored.state == FileState::Complete {
            return Ok(());
        }
        stored.state = FileState::Finishing;
        self.store.put_stored(self.live.id, &stored)?;
        if stored.path != stored.final_path && !self.is_renamed() {
            let renamed = self.store.inner.disk.rename_new(&stored.path, &stored.final_path);
            if let Err(error) = renamed {
                // Unless the rename went through and only its durability failed, the file is partial as before.
                if !self.is_renamed() {
                    stored.state = FileState::Partial;
                    self.store.put_stored(self.live.id, &stored)?;
                }
                return Err(WriteError::io(&stored.final_path)(error));
            }
        }
        stored.path.clone_from(&stored.final_path);
        stored.stamp = Some(platform::stamp(&self.file).map_err(self.io())?);
        stored.state = FileState::Complete;
        let id = self.live.id;
        self.store.inner.index.write(|txn, tables| {
            let (first, last) = (tables::have_key(id, 0), tables::have_key(id, u64::from(u32::MAX)));
            tables.have.delete_range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))?;
            put_file(txn, tables, id, &stored)
        })?;
        let (path, single) = (stored.path.clone(), stored.member.is_none());
        *self.live.stored_mut() = stored;
        self.live.set_bits(None);
        self.store.inner.files.put(Arc::clone(&self.live));
        self.store.inner.handles.forget(id);
        if single { Ok(self.store.supersede(id, &path)?) } else { Ok(()) }
    }

    /// Whether the final name is this file already and the part's name is gone.
    fn is_renamed(&self) -> bool {
        let stored = self.live.stored();
        let ours = platform::stamp(&self.file).map(|stamp| stamp.identity);
        let named = platform::stamp_at(&stored.final_path).map(|stamp| stamp.identity);
        matches!((ours, named), (Ok(ours), Ok(named)) if ours == named) && !stored.path.exists()
    }

    /// Takes back every leaf whose data may not have reached the disk.
    fn lose(&self, epoch: Pending) {
        let mut pending = self.pending();
        self.lost.fetch_add(1, Ordering::AcqRel);
        let since = std::mem::take(&mut *pending);
        for leaf in epoch.leaves.into_iter().chain(since.leaves) {
            self.bits.clear(leaf);
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self) -> impl FnOnce(std::io::Error) -> WriteError + use<> {
        WriteError::io(&self.live.stored().path)
    }

    fn sync_error(&self, source: std::io::Error) -> WriteError {
        WriteError::Sync { path: self.live.stored().path.clone(), source }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.commit_epoch() {
            tracing::warn!(path = %self.live.stored().path.display(), %error, "the last epoch is lost");
        }
        // What no index knows to be there must not be taken for durable by the next writer.
        let pending = std::mem::take(&mut *self.pending());
        for leaf in pending.leaves {
            self.bits.clear(leaf);
        }
        self.live.writing.store(false, Ordering::Release);
    }
}

/// Sorted ranges with neighbours joined.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => runs.push(range.clone()),
        }
    }
    runs
}
