//! Reading users' files on behalf of others: through bounded windows over them, mapped or not, or past the page cache.
//!
//! Owns the windows and their budget. Invariants: no more than the budget is mapped, or brought into the page cache by
//! positioned reads (plus what is being copied at this moment); a mapped window's bytes are only touched inside the
//! platform's guard, so that a file cut short under us costs one block and not the process; a window that leaves takes
//! the pages that it brought into the page cache with it, and no others. Whether the bytes are the right ones is not
//! known here.
#![allow(unsafe_code, reason = "a mapping of a file that others may change is unsafe; the guard makes it bearable")]

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Mmap, MmapOptions};

use super::bitmap::Bitmap;
use super::platform;
use super::pool::{ALIGNMENT, Pool};
use crate::store::FileId;

/// What is read at a time by way of another buffer.
const BOUNCE_BYTES: usize = 256 << 10;

/// A file that has been opened and found to be what it should be.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) id: FileId,
    pub(crate) file: File,
    /// Its length when it was checked, in bytes.
    pub(crate) len: u64,
    /// We are writing it: all of its pages are in memory because of us.
    pub(crate) ours: bool,
    /// The same file, open for unbuffered reads.
    pub(crate) direct: Option<File>,
}

/// A way to read.
pub(crate) trait Reader: Send + Sync + std::fmt::Debug {
    /// Fills `out` from `offset`. [`io::ErrorKind::UnexpectedEof`] when the file ends before that.
    fn read(&self, file: &Arc<OpenFile>, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Lets go of everything that belongs to the file.
    fn forget(&self, file: FileId);
    /// Bytes of windows: mapped, or in the page cache at most.
    fn window_bytes(&self) -> u64;
}

/// Unbuffered reads. What is not aligned, and files that have none, go through windows that are not mapped.
#[derive(Debug)]
pub(crate) struct DirectReader {
    rest: WindowReader,
    pool: Arc<Pool>,
}

impl DirectReader {
    pub(crate) fn new(window_bytes: u64, bytes_max: u64, pool: Arc<Pool>) -> Self {
        Self { rest: WindowReader::new(false, window_bytes, bytes_max), pool }
    }

    /// Reads by way of a buffer that is aligned.
    fn bounce(&self, file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let before = usize::try_from(offset % ALIGNMENT as u64).map_err(io::Error::other)?;
            let bytes = (before + out.len()).next_multiple_of(ALIGNMENT).min(BOUNCE_BYTES);
            // Smaller buffers would not be aligned.
            let mut buffer = self.pool.take(BOUNCE_BYTES, 0);
            let read = platform::read_some_at(file, offset - before as u64, &mut buffer.as_mut()[..bytes])?;
            let useful = buffer.as_ref().get(before..read).filter(|bytes| !bytes.is_empty());
            let useful = useful.ok_or(io::ErrorKind::UnexpectedEof)?;
            let take = useful.len().min(out.len());
            let (now, rest) = out.split_at_mut(take);
            now.copy_from_slice(&useful[..take]);
            offset += take as u64;
            out = rest;
        }
        Ok(())
    }
}

impl Reader for DirectReader {
    fn read(&self, file: &Arc<OpenFile>, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let Some(direct) = &file.direct else { return self.rest.read(file, offset, out) };
        if out.as_ptr().addr().is_multiple_of(ALIGNMENT) && offset.is_multiple_of(ALIGNMENT as u64) {
            let mut whole = out.len() / ALIGNMENT * ALIGNMENT;
            while whole > 0 {
                let (body, _) = out.split_at_mut(whole);
                // What comes short of a whole block is the file's end, which the bounced read finds out.
                let read = platform::read_some_at(direct, offset, body)? / ALIGNMENT * ALIGNMENT;
                if read == 0 {
                    break;
                }
                offset += read as u64;
                whole -= read;
                out = &mut out[read..];
            }
        }
        self.bounce(direct, offset, out)
    }

    fn forget(&self, file: FileId) {
        self.rest.forget(file);
    }

    fn window_bytes(&self) -> u64 {
        self.rest.window_bytes()
    }
}

/// Windows, the least recently used one leaving first.
#[derive(Debug)]
pub(crate) struct WindowReader {
    /// Whether they are mapped; else bytes are read at their positions.
    mapped: bool,
    window_bytes: u64,
    bytes_max: u64,
    windows: Mutex<Windows>,
}

#[derive(Debug, Default)]
struct Windows {
    by_place: HashMap<(FileId, u64), Slot>,
    bytes: u64,
    /// Counts uses, to know which window was not used for longest.
    uses: u64,
}

#[derive(Debug)]
struct Slot {
    window: Arc<Window>,
    used: u64,
}

#[derive(Debug)]
struct Window {
    /// `None` while it is being dropped, or when reads are positioned.
    mapping: Option<Mmap>,
    file: Arc<OpenFile>,
    start: u64,
    len: u64,
    /// Pages that were in the page cache before us; empty when all of them are ours.
    resident: Vec<bool>,
    /// First pages of what has been asked for from the disk.
    asked: Bitmap,
    /// Set when the file ended inside of the mapping.
    poisoned: AtomicBool,
}

impl WindowReader {
    pub(crate) fn new(mapped: bool, window_bytes: u64, bytes_max: u64) -> Self {
        assert!(window_bytes.is_power_of_two() && window_bytes >= 1 << 16, "windows are powers of two from 64 KiB");
        Self { mapped, window_bytes, bytes_max: bytes_max.max(window_bytes), windows: Mutex::default() }
    }

    fn window(&self, file: &Arc<OpenFile>, number: u64) -> io::Result<Arc<Window>> {
        let key = (file.id, number);
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.uses += 1;
        let used = windows.uses;
        if let Some(slot) = windows.by_place.get_mut(&key)
            && Arc::ptr_eq(&slot.window.file, file)
            && !slot.window.poisoned.load(Ordering::SeqCst)
        {
            slot.used = used;
            return Ok(Arc::clone(&slot.window));
        }
        // Mapping under the lock keeps the budget exact and two threads from mapping the same; it is a few microseconds.
        let window = Arc::new(Window::open(file, number * self.window_bytes, self.window_bytes, self.mapped)?);
        let mut leaving = Vec::new();
        windows.bytes += window.len;
        if let Some(old) = windows.by_place.insert(key, Slot { window: Arc::clone(&window), used }) {
            windows.bytes -= old.window.len;
            leaving.push(old);
        }
        while windows.bytes > self.bytes_max {
            let oldest = windows.by_place.iter().filter(|(k, _)| **k != key).min_by_key(|(_, slot)| slot.used);
            let Some(oldest) = oldest.map(|(k, _)| *k) else { break };
            if let Some(old) = windows.by_place.remove(&oldest) {
                windows.bytes -= old.window.len;
                leaving.push(old);
            }
        }
        drop(windows);
        // Unmapping and dropping pages takes long; nobody waits for it.
        drop(leaving);
        Ok(window)
    }
}

impl Reader for WindowReader {
    fn read(&self, file: &Arc<OpenFile>, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > file.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !out.is_empty() {
            let window = self.window(file, offset / self.window_bytes)?;
            let within = offset - window.start;
            let take = usize::try_from(window.len - within).unwrap_or(usize::MAX).min(out.len());
            let (now, rest) = out.split_at_mut(take);
            if let Err(e) = window.copy(within, now) {
                self.forget(file.id);
                return Err(e);
            }
            offset += take as u64;
            out = rest;
        }
        Ok(())
    }

    fn forget(&self, file: FileId) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let leaving: Vec<Slot> = windows.by_place.extract_if(|(id, _), _| *id == file).map(|(_, slot)| slot).collect();
        windows.bytes -= leaving.iter().map(|slot| slot.window.len).sum::<u64>();
        drop(windows);
        drop(leaving);
    }

    fn window_bytes(&self) -> u64 {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl Window {
    fn open(file: &Arc<OpenFile>, start: u64, bytes: u64, mapped: bool) -> io::Result<Self> {
        let bytes = bytes.min(file.len - start);
        let len = usize::try_from(bytes).map_err(io::Error::other)?;
        if !mapped {
            let resident = if file.ours {
                Vec::new()
            } else {
                platform::resident_range(&file.file, &(start..start + bytes)).unwrap_or_else(|| vec![true])
            };
            return Ok(Self {
                mapping: None,
                file: Arc::clone(file),
                start,
                len: bytes,
                resident,
                asked: Bitmap::new(0),
                poisoned: AtomicBool::new(false),
            });
        }
        // SAFETY: the mapping is only read by `copy`, inside the guard, into memory of its own; that somebody else may
        // change the file meanwhile makes the copied bytes wrong (whoever receives them hashes them), not the program.
        let mapping = unsafe { MmapOptions::new().offset(start).len(len).map(&file.file) }?;
        let asked = Bitmap::new(len.div_ceil(platform::page_bytes()) as u64);
        let resident = if file.ours { Vec::new() } else { platform::resident_pages(&mapping) };
        // What the system reads ahead on its own would look like somebody else's pages when the next window is mapped.
        if resident.is_empty() || resident.contains(&false) {
            platform::no_read_ahead(&mapping);
        }
        Ok(Self {
            mapping: Some(mapping),
            file: Arc::clone(file),
            start,
            len: bytes,
            resident,
            asked,
            poisoned: AtomicBool::new(false),
        })
    }

    fn copy(&self, within: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(mapping) = &self.mapping else {
            return platform::read_exact_at(&self.file.file, self.start + within, out);
        };
        let start = usize::try_from(within).map_err(io::Error::other)?;
        let source = mapping.get(start..).and_then(|rest| rest.get(..out.len()));
        let source = source.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.hint(mapping, start, source);
        // SAFETY: `source` lies in this window's mapping, which `self` keeps alive, begins at a page, and is read
        // nowhere else.
        unsafe { platform::guarded_copy(source.as_ptr(), out, &self.poisoned) }?;
        if self.poisoned.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Asks for pages of the file before they are copied, once for each place: for pages that are in memory already the
    /// question costs as much as half of the copy. Whoever reads on from where something was read gets the next stretch
    /// asked for, too.
    fn hint(&self, mapping: &Mmap, start: usize, source: &[u8]) {
        let page = platform::page_bytes();
        let (first, end) = (start / page, (start + source.len()).div_ceil(page));
        let ask = |first: usize, end: usize| {
            let was_resident = self.resident.get(first..end).is_some_and(|pages| pages.iter().all(|page| *page));
            let bytes = mapping.get(first * page..(end * page).min(mapping.len()));
            if let Some(bytes) = bytes.filter(|bytes| !was_resident && !bytes.is_empty())
                && self.asked.set(first as u64)
            {
                platform::will_need(bytes);
            }
        };
        ask(first, end);
        let before = first.checked_sub(end - first).is_some_and(|before| self.asked.get(before as u64));
        if before {
            ask(end, end + (end - first));
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let len = self.len;
        // Pages that are still mapped would stay.
        drop(self.mapping.take());
        if self.resident.is_empty() {
            platform::drop_cache(&self.file.file, &(self.start..self.start + len));
            return;
        }
        let page = len.div_ceil(self.resident.len() as u64).next_power_of_two();
        let mut at = 0;
        for run in self.resident.chunk_by(|a, b| a == b) {
            let end = at + run.len() as u64 * page;
            if run.first() == Some(&false) {
                platform::drop_cache(&self.file.file, &(self.start + at..self.start + end.min(len)));
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

    use super::*;

    fn open(path: &std::path::Path) -> Arc<OpenFile> {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Arc::new(OpenFile { id: FileId(1), file, len, ours: false, direct: platform::open_direct(path, false).ok() })
    }

    fn pattern(offset: u64, len: usize) -> Vec<u8> {
        (offset..offset + len as u64).map(|i| (i * 31 + i / 255) as u8).collect()
    }

    #[test]
    fn all_readers_give_the_file_whatever_the_window() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let content = pattern(0, 1_000_003);
        std::fs::write(&path, &content).unwrap();
        let file = open(&path);
        let mmap = WindowReader::new(true, 1 << 16, 1 << 18);
        let pread = WindowReader::new(false, 1 << 16, 1 << 18);
        let direct = DirectReader::new(1 << 16, 1 << 18, Arc::new(Pool::new(1 << 20)));
        for (offset, len) in [
            (0, 10),
            (65_530, 20),
            (0, 1_000_003),
            (1_000_002, 1),
            (131_072, 65_536),
            (4096, 995_907),
            (8192, 12_288),
            (5, 0),
        ] {
            for reader in [&mmap as &dyn Reader, &pread, &direct] {
                // On the alignment that unbuffered reads like and beside it.
                let mut memory = vec![0; len + 2 * ALIGNMENT];
                let start = memory.as_ptr().addr().next_multiple_of(ALIGNMENT) - memory.as_ptr().addr();
                for start in [start, start + 1] {
                    let out = &mut memory[start..start + len];
                    reader.read(&file, offset as u64, out).unwrap();
                    assert!(out == &content[offset..offset + len], "{reader:?} {offset} {len}");
                }
            }
        }
        assert!(mmap.window_bytes() <= 1 << 18 && pread.window_bytes() <= 1 << 18);
        for reader in [&mmap as &dyn Reader, &pread, &direct] {
            let past = reader.read(&file, 1_000_000, &mut [0; 4]);
            assert_eq!(past.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        mmap.forget(FileId(1));
        assert_eq!(mmap.window_bytes(), 0);
    }

    /// Windows lets nobody do so while it is mapped.
    #[cfg(unix)]
    #[test]
    fn truncating_a_mapped_file_under_load_costs_blocks_and_not_the_process() {
        const LEN: usize = 4 << 20;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let content = pattern(0, LEN);
        let reader = WindowReader::new(true, 1 << 20, 16 << 20);
        let (mut good, mut refused) = (0, 0);
        for round in 0..30 {
            std::fs::write(&path, &content).unwrap();
            let file = open(&path);
            std::thread::scope(|scope| {
                let readers: Vec<_> = (0..4)
                    .map(|t| {
                        let (reader, file, content) = (&reader, &file, &content);
                        scope.spawn(move || {
                            let (mut good, mut refused) = (0_u32, 0_u32);
                            let mut out = vec![0; 300_000];
                            for i in 0..60 {
                                let offset = ((t * 7919 + i * 104_729) * 4099) % (LEN - out.len());
                                match reader.read(file, offset as u64, &mut out) {
                                    // What was beyond the new end when the file was cut may have become zeros within
                                    // the last page; whole pages of zeros are never handed out as content.
                                    Ok(()) => {
                                        let pages = out.chunks(4096).zip(content[offset..].chunks(4096));
                                        let differ = pages.filter(|(a, b)| a[..] != b[..a.len()]).count();
                                        assert!(differ <= 2, "{differ} pages of {offset} differ");
                                        good += 1;
                                    }
                                    Err(e) => {
                                        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
                                        refused += 1;
                                    }
                                }
                            }
                            (good, refused)
                        })
                    })
                    .collect();
                let cut = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                cut.set_len((round * 137_000) % LEN as u64).unwrap();
                for reader in readers {
                    let (g, r) = reader.join().unwrap();
                    good += g;
                    refused += r;
                }
            });
            reader.forget(FileId(1));
        }
        assert!(refused > 0 && good + refused == 30 * 4 * 60);
    }
}
