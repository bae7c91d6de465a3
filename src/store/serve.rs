//! Finding blocks and reading them from wherever they lie.
//!
//! A block is looked for among the nodes, then in every file that refers to it. Files are checked against what they were
//! when they are opened and every few seconds after; blocks of a file that differs are hashed before they are handed
//! out. A place that fails is passed over and its file marked; nothing here ends the process.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::file::platform;
use super::file::pool::Pool;
use super::file::reader::{DirectReader, OpenFile, Reader, WindowReader};
use super::index::tables::{self, Tables, corrupt};
use super::live::Live;
use super::{FileId, FileState, LeafPlace, Options, ReaderKind, Store, StoreError};
use crate::block::{BLOCK_BYTES_MAX, Block, Cid, Multihash, RAW};

/// Files that are looked up for one block at first: the same few bytes may lie in a million files.
const PLACES_AT_FIRST: usize = 16;
/// Files that are held open for reading at a time.
const HANDLES_MAX: usize = 128;

/// Open files, and when each was last compared with what it should be.
#[derive(Debug)]
pub(super) struct Handles {
    reader: Box<dyn Reader>,
    kind: ReaderKind,
    recheck: Duration,
    open: Mutex<HashMap<FileId, Handle>>,
}

#[derive(Debug)]
struct Handle {
    /// `None` when it could not be opened: that, too, is asked again only after a while.
    file: Option<Arc<OpenFile>>,
    checked: Instant,
}

impl Handles {
    pub(super) fn new(options: &Options, pool: &Arc<Pool>) -> Self {
        let (window, most) = (options.window_bytes, options.windows_bytes_max);
        let reader: Box<dyn Reader> = match options.reader {
            ReaderKind::Mmap => Box::new(WindowReader::new(true, window, most)),
            ReaderKind::Pread => Box::new(WindowReader::new(false, window, most)),
            ReaderKind::Direct => Box::new(DirectReader::new(window, most, Arc::clone(pool))),
        };
        Self { reader, kind: options.reader, recheck: options.recheck, open: Mutex::default() }
    }

    /// Closes a file, so that the next read looks at it anew.
    pub(super) fn forget(&self, file: FileId) {
        let handle = self.lock().remove(&file);
        self.reader.forget(file);
        drop(handle);
    }

    /// Closes the files that nobody has read for so long, which is more than the time between two looks at a file.
    fn close_idle(&self, idle: Duration) {
        let is_idle = |handle: &mut Handle| handle.checked.elapsed() >= idle;
        let closed: Vec<_> = self.lock().extract_if(|_, handle| is_idle(handle)).collect();
        // A window keeps its file open, and whoever opens it now has windows of his own.
        for (id, _) in &closed {
            self.reader.forget(*id);
        }
    }

    /// Files that are open.
    pub(super) fn open_files(&self) -> Vec<FileId> {
        self.lock().iter().filter(|(_, handle)| handle.file.is_some()).map(|(id, _)| *id).collect()
    }

    /// Bytes of windows, see [`Reader::window_bytes`].
    pub(super) fn window_bytes(&self) -> u64 {
        self.reader.window_bytes()
    }

    /// The file, open and looked at not long ago.
    fn checked(&self, live: &Live) -> Option<Arc<OpenFile>> {
        let before = match self.lock().get(&live.id) {
            Some(handle) if handle.checked.elapsed() < self.recheck => return handle.file.clone(),
            Some(handle) => handle.file.clone(),
            None => None,
        };
        let file = self.look(live, before.as_ref());
        let changed = match (&before, &file) {
            (Some(before), Some(file)) => !Arc::ptr_eq(before, file),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if changed {
            self.reader.forget(live.id);
        }
        let mut open = self.lock();
        let evicted = if open.len() >= HANDLES_MAX && !open.contains_key(&live.id) {
            let oldest = open.iter().min_by_key(|(_, handle)| handle.checked).map(|(id, _)| *id);
            oldest.and_then(|id| open.remove(&id).map(|handle| (id, handle)))
        } else {
            None
        };
        open.insert(live.id, Handle { file: file.clone(), checked: Instant::now() });
        drop(open);
        if let Some((id, _)) = evicted {
            self.reader.forget(id);
        }
        file
    }

    /// Opens the file by its name, for that is what must still be ours, and keeps the old handle if it is the same file.
    fn look(&self, live: &Live, before: Option<&Arc<OpenFile>>) -> Option<Arc<OpenFile>> {
        let (path, ours) = {
            let stored = live.stored();
            (stored.path.clone(), stored.state != FileState::Complete)
        };
        let opened = File::open(&path).and_then(|file| platform::stamp(&file).map(|stamp| (file, stamp)));
        let (file, stamp) = match opened {
            Ok(opened) => opened,
            // Renamed a moment ago, when it was finished: the next look finds it under its new name.
            Err(_) if live.stored().path != path => return None,
            Err(e) => {
                live.mark(&format!("cannot be opened: {e}"));
                return None;
            }
        };
        if let Some(difference) = live.difference(&stamp) {
            live.mark(difference);
        }
        if let Some(before) = before
            && before.len == stamp.len
            && before.ours == ours
            && platform::stamp(&before.file).is_ok_and(|s| s.identity == stamp.identity)
        {
            return Some(Arc::clone(before));
        }
        if self.kind == ReaderKind::Pread {
            // What the system reads ahead on its own would look like somebody else's pages.
            platform::read_as_told(&file);
        }
        let direct = (self.kind == ReaderKind::Direct).then(|| platform::open_direct(&path, false).ok()).flatten();
        // The name may have got another file since.
        let direct = direct.filter(|direct| platform::stamp(direct).is_ok_and(|s| s.identity == stamp.identity));
        Some(Arc::new(OpenFile { id: live.id, file, len: stamp.len, ours, direct }))
    }

    fn read(&self, live: &Live, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.checked(live).ok_or(io::ErrorKind::NotFound)?;
        self.reader.read(&file, offset, out).inspect_err(|e| {
            live.mark(&match e.kind() {
                io::ErrorKind::UnexpectedEof => "is shorter than before".into(),
                _ => format!("cannot be read: {e}"),
            });
            self.forget(live.id);
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileId, Handle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Lets go of the files that nobody has read for so long, and of what is mapped of them: an open file keeps its space
    /// when it is deleted, and on Windows its name.
    pub fn close_idle(&self, idle: Duration) {
        self.inner.handles.close_idle(idle.max(self.inner.options.recheck));
    }

    /// The length of a block in bytes, if it is here: among the nodes or in a file that holds it. The file itself is not
    /// looked at.
    ///
    /// # Errors
    /// What the index says.
    pub fn has(&self, multihash: &Multihash) -> Result<Option<u32>, StoreError> {
        let key = tables::multihash_key(multihash);
        let (node, places) = self.inner.index.read(|txn, tables| {
            if let Some(node) = tables.nodes.get(txn, &key)? {
                let len = u32::try_from(node.len()).map_err(|_| corrupt("a node's length"))?;
                return Ok((Some(len), Vec::new()));
            }
            Ok((None, self.live_places(txn, tables, &key, PLACES_AT_FIRST)?))
        })?;
        Ok(node.or_else(|| places.first().map(|(_, place)| self.block_len(place))))
    }

    /// A whole block, from wherever it is. `None` when it is nowhere, or only where it cannot be read or is not what it
    /// was.
    ///
    /// # Errors
    /// What the index says. Files that fail are marked instead (see [`super::FileRecord::trouble`]).
    pub fn read(&self, multihash: &Multihash) -> Result<Option<Bytes>, StoreError> {
        let key = tables::multihash_key(multihash);
        let (node, places) = self.inner.index.read(|txn, tables| {
            if let Some(node) = tables.nodes.get(txn, &key)? {
                return Ok((Some(Bytes::copy_from_slice(node)), Vec::new()));
            }
            Ok((None, self.live_places(txn, tables, &key, PLACES_AT_FIRST)?))
        })?;
        if node.is_some() {
            return Ok(node);
        }
        let mut found = places.iter().find_map(|(live, place)| self.read_place(multihash, live, place));
        if found.is_none() && places.len() == PLACES_AT_FIRST {
            let all = self.inner.index.read(|txn, tables| self.live_places(txn, tables, &key, usize::MAX))?;
            found = all.iter().skip(places.len()).find_map(|(live, place)| self.read_place(multihash, live, place));
        }
        Ok(found)
    }

    /// Every place where a block's bytes are now, in the order of their files.
    ///
    /// # Errors
    /// What the index says.
    pub fn places(&self, multihash: &Multihash) -> Result<Vec<LeafPlace>, StoreError> {
        let key = tables::multihash_key(multihash);
        let places = self.inner.index.read(|txn, tables| self.live_places(txn, tables, &key, usize::MAX))?;
        Ok(places.into_iter().map(|(_, place)| place).collect())
    }

    /// Bytes of a file as they are now, whatever they are: nothing is hashed, and bits are not asked.
    ///
    /// # Errors
    /// [`StoreError::UnknownFile`]; [`StoreError::Io`], also when the file ends before that.
    pub fn read_range(&self, file: FileId, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let live = self.inner.find(file)?.ok_or(StoreError::UnknownFile(file))?;
        let path = live.stored().path.clone();
        self.inner.handles.read(&live, offset, out).map_err(StoreError::io(&path))
    }

    fn live_places(
        &self,
        txn: &heed::RoTxn<'_, heed::WithoutTls>,
        tables: &Tables,
        key: &[u8],
        most: usize,
    ) -> Result<Vec<(Arc<Live>, LeafPlace)>, StoreError> {
        let mut places = Vec::new();
        for entry in tables.refs.get_duplicates(txn, key)?.into_iter().flatten() {
            let (_, value) = entry?;
            let (mut place, elsewhere) = tables::ref_place(value)?;
            // A file that is being forgotten is not among the living any more.
            let live = self.inner.find_in(txn, tables, place.file)?;
            let Some(live) = live.filter(|live| live.holds(place.leaf)) else { continue };
            if elsewhere {
                let wrap = tables.wraps.get(txn, &tables::wrap_key(key, place.file))?;
                place.wrap = wrap.ok_or_else(|| corrupt("a reference without its wrap"))?.to_vec();
            }
            places.push((live, place));
            if places.len() == most {
                break;
            }
        }
        Ok(places)
    }

    fn affixes(&self, place: &LeafPlace) -> (Vec<u8>, Vec<u8>) {
        if place.wrap.is_empty() { Default::default() } else { (self.inner.options.affixes)(&place.wrap, place.len) }
    }

    fn block_len(&self, place: &LeafPlace) -> u32 {
        let (prefix, suffix) = self.affixes(place);
        u32::try_from(prefix.len() + suffix.len()).unwrap_or(u32::MAX).saturating_add(place.len)
    }

    fn read_place(&self, multihash: &Multihash, live: &Live, place: &LeafPlace) -> Option<Bytes> {
        let (prefix, suffix) = self.affixes(place);
        let data_end = prefix.len() + place.len as usize;
        let total = data_end + suffix.len();
        if total > BLOCK_BYTES_MAX {
            return None;
        }
        let mut buffer = self.inner.pool.take(total, prefix.len());
        let out = buffer.as_mut();
        out[..prefix.len()].copy_from_slice(&prefix);
        out[data_end..].copy_from_slice(&suffix);
        self.inner.handles.read(live, place.offset, &mut out[prefix.len()..data_end]).ok()?;
        let bytes = buffer.freeze();
        if !live.is_suspect() {
            return Some(bytes);
        }
        Block::verify(&Cid::new_v1(RAW, *multihash), bytes).ok().map(Block::into_bytes)
    }
}
