//! Files, mappings and file systems on unix. Sibling of `windows.rs`: the same functions, the same meaning.
//!
//! Owns the SIGBUS handler: [`guarded_copy`] is the only way to touch mapped bytes of a user's file, since the file may
//! be truncated by anybody at any time.
#![allow(unsafe_code, reason = "mincore, madvise on mappings and a signal handler have no safe interface")]

use std::ffi::{OsStr, c_int, c_void};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence};

use rustix::fs::{Advice, CWD, FallocateFlags, RenameFlags};

use crate::store::{Attributes, FileIdentity, ReaderKind, Restore, Stamp};

/// Address space that the index reserves: free on 64 bits, as only what is used takes memory or disk.
pub(crate) const MAP_BYTES: usize = if usize::BITS >= 64 { 16 << 30 } else { 512 << 20 };
/// How files are read when nothing is said.
pub(crate) const READER: ReaderKind = ReaderKind::Mmap;

/// A device's number may change with every boot.
pub(crate) const DEVICE_NUMBERS_LAST: bool = false;

pub(crate) fn path_to_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<PathBuf> {
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

fn stamp_of(metadata: &std::fs::Metadata) -> Stamp {
    Stamp {
        identity: FileIdentity { device: metadata.dev(), inode: u128::from(metadata.ino()) },
        len: metadata.len(),
        mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
    }
}

pub(crate) fn stamp(file: &File) -> io::Result<Stamp> {
    file.metadata().map(|m| stamp_of(&m))
}

pub(crate) fn stamp_at(path: &Path) -> io::Result<Stamp> {
    std::fs::metadata(path).map(|m| stamp_of(&m))
}

/// Opens a file for reading, but follows no link and waits for nobody at the other end of a pipe.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Opens a file to read and write what is in it, but follows no link.
pub(crate) fn open_to_complete(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// What a file looks like, when it is an ordinary one, and what its owner says of it.
pub(crate) fn stamp_and_attributes(file: &File) -> io::Result<Option<(Stamp, Attributes)>> {
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then(|| (stamp_of(&metadata), attributes(&metadata))))
}

/// Permissions and time of change.
pub(crate) fn attributes(metadata: &std::fs::Metadata) -> Attributes {
    let mtime_nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Attributes { mode: metadata.mode() & 0o7777, mtime_seconds: metadata.mtime(), mtime_nanos }
}

/// Whether a name in a folder is to be kept out of sight.
pub(crate) fn is_hidden(entry: &std::fs::DirEntry) -> bool {
    entry.file_name().as_bytes().starts_with(b".")
}

/// A file's name as others have it in their directories. Here a name is any bytes.
#[expect(clippy::unnecessary_wraps, reason = "its sibling can fail")]
pub(crate) fn name_to_bytes(name: &OsStr) -> Option<&[u8]> {
    Some(name.as_bytes())
}

/// What a symbolic link points to, as others have it.
#[expect(clippy::unnecessary_wraps, reason = "its sibling can fail")]
pub(crate) fn target_to_bytes(target: &Path) -> Option<Vec<u8>> {
    Some(target.as_os_str().as_bytes().to_vec())
}

pub(crate) fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(out, offset)
}

/// Reads at `offset` what one call gives: 0 at the file's end.
pub(crate) fn read_some_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read_at(out, offset) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Opens a file for reads, or for writes too, that go past the page cache. An error where the file system has none.
pub(crate) fn open_direct(path: &Path, write: bool) -> io::Result<File> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return std::fs::OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT).open(path);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (path, write);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Tells the system to read nothing of a file but what it is asked for.
pub(crate) fn read_as_told(file: &File) {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Random);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let _ = file;
}

/// Reads at `offset` what is in the page cache: how many bytes of `out` that was, 0 at the file's end. `None` when the
/// system does not tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn read_cached(file: &File, offset: u64, out: &mut [u8]) -> io::Result<Option<usize>> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    loop {
        match preadv2(file, &mut [io::IoSliceMut::new(out)], offset, ReadWriteFlags::NOWAIT) {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(Errno::AGAIN) => return Ok(Some(0)),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As on Linux; other systems do not tell.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn read_cached(_file: &File, _offset: u64, _out: &mut [u8]) -> io::Result<Option<usize>> {
    Ok(None)
}

pub(crate) fn write_all_at(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    file.write_all_at(data, offset)
}

/// Gives a file permissions (the lowest nine bits) and a time of last change.
pub(crate) fn restore(file: &File, restore: &Restore) -> io::Result<()> {
    if let Some(mode) = restore.mode {
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode & 0o777))?;
    }
    match restore.mtime {
        Some(mtime) => file.set_modified(mtime),
        None => Ok(()),
    }
}

/// Files up to which each is made durable by itself: fewer do not pay for waiting for the whole file system, whose other
/// writers may be busy.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SYNCED_ALONE_MAX: usize = 16;

/// Returns when everything that was written to `files` before, and all names in `folders`, are durable. All are on one
/// file system.
pub(crate) fn sync_many(folders: &[&Path], files: &[&File]) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(file) = files.first().filter(|_| files.len() + folders.len() > SYNCED_ALONE_MAX) {
        return Ok(rustix::fs::syncfs(file)?);
    }
    files.iter().try_for_each(|file| file.sync_all())?;
    folders.iter().try_for_each(|folder| sync_dir(folder))
}

/// Every file can have holes where the file system can.
#[expect(clippy::unnecessary_wraps, reason = "its sibling can fail")]
pub(crate) fn set_sparse(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Takes the space of the whole file.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)?)
}

/// Bytes of the disk that the file takes now.
#[cfg(test)]
pub(crate) fn allocated_bytes(file: &File) -> io::Result<u64> {
    file.metadata().map(|m| m.blocks() * 512)
}

/// Lets clean pages of the range leave the page cache. Only a hint: what is dirty or mapped stays.
pub(crate) fn drop_cache(file: &File, range: &Range<u64>) {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if let Some(len) = std::num::NonZeroU64::new(range.end.saturating_sub(range.start)) {
        let _ = rustix::fs::fadvise(file, range.start, Some(len), Advice::DontNeed);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let _ = (file, range);
}

/// Which pages of a fresh mapping are in memory already; everything, when the system does not tell.
pub(crate) fn resident_pages(mapping: &[u8]) -> Vec<bool> {
    let pages = mapping.len().div_ceil(page_bytes());
    let mut vector = vec![1_u8; pages];
    // SAFETY: `mapping` is a live mapping that begins at a page, and `vector` has a byte for each of its pages. mincore
    // only looks at page tables and touches none of the mapped bytes.
    let _ = unsafe { libc::mincore(mapping.as_ptr().cast_mut().cast(), mapping.len(), vector.as_mut_ptr().cast()) };
    vector.into_iter().map(|page| page & 1 != 0).collect()
}

/// Which pages of a range of a file, which begins at a page, are in the page cache; `None` when the system does not tell.
pub(crate) fn resident_range(file: &File, range: &Range<u64>) -> Option<Vec<bool>> {
    let len = usize::try_from(range.end - range.start).ok()?;
    // SAFETY: nobody reads through this mapping; it only lives for mincore, which touches no mapped byte.
    let mapping = unsafe { memmap2::MmapOptions::new().offset(range.start).len(len).map(file) }.ok()?;
    Some(resident_pages(&mapping))
}

/// Whether most of a range of a file is in the page cache. True when the system does not tell.
pub(crate) fn mostly_resident(file: &File, range: &Range<u64>) -> bool {
    resident_range(file, range).is_none_or(|pages| pages.iter().filter(|resident| **resident).count() * 2 > pages.len())
}

/// Bytes of a file that are in the page cache, looked at a piece at a time.
pub(crate) fn resident_bytes(file: &File, len: u64) -> u64 {
    const PIECE: u64 = 1 << 30;
    let mut bytes = 0;
    for start in (0..len.div_ceil(PIECE)).map(|piece| piece * PIECE) {
        let piece = usize::try_from(PIECE.min(len - start)).unwrap_or(0);
        // SAFETY: nobody reads through this mapping; it only lives for mincore, which touches no mapped byte.
        match unsafe { memmap2::MmapOptions::new().offset(start).len(piece).map(file) } {
            Ok(mapping) => {
                let pages = resident_pages(&mapping).into_iter().filter(|resident| *resident).count();
                bytes += (pages as u64 * page_bytes() as u64).min(piece as u64);
            }
            Err(_) => bytes += piece as u64,
        }
    }
    bytes
}

/// Bytes of a file that are in the page cache; `None` when the system does not tell, which it does only of files that one
/// owns or may write.
pub(crate) fn cached_bytes(file: &File, len: u64) -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        /// cachestat(2), of Linux 6.5 and newer; the same number on all architectures.
        const CACHESTAT: libc::c_long = 451;
        let range: [u64; 2] = [0, 0];
        let mut pages = [0_u64; 5];
        // SAFETY: struct cachestat_range has two and struct cachestat five 64-bit fields; both live through the call, and
        // the file is open. A length of 0 means up to its end.
        let result = unsafe {
            libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0 as libc::c_uint)
        };
        if result == 0 {
            return Some((pages[0] * page_bytes() as u64).min(len.next_multiple_of(page_bytes() as u64)));
        }
    }
    may_know_residency(file).then(|| resident_bytes(file, len))
}

/// mincore(2): of others' files that one may not write every page is said to be resident.
fn may_know_residency(file: &File) -> bool {
    let me = rustix::process::geteuid();
    let owner = file.metadata().map(|metadata| metadata.uid());
    me.is_root() || owner.is_ok_and(|owner| owner == me.as_raw())
}

/// Where the next data after `offset` begin, the file's end when only a hole follows; `None` when the system cannot tell.
pub(crate) fn next_data(file: &File, offset: u64) -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "macos"))]
    return match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => Some(data),
        Err(rustix::io::Errno::NXIO) => Some(u64::MAX),
        Err(_) => None,
    };
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "macos")))]
    {
        let _ = (file, offset);
        None
    }
}

/// Tells the system that a part of a mapping is about to be copied.
pub(crate) fn will_need(mapping: &[u8]) {
    advise(mapping, libc::MADV_WILLNEED);
}

/// Tells the system to bring in nothing of a mapping but what is touched or asked for.
pub(crate) fn no_read_ahead(mapping: &[u8]) {
    advise(mapping, libc::MADV_RANDOM);
}

fn advise(mapping: &[u8], advice: c_int) {
    let start = mapping.as_ptr() as usize;
    let page_start = start - start % page_bytes();
    // SAFETY: the range lies in a live mapping of a file (rounding down stays on its first page). These two hints change
    // no content, and fail instead of raising a signal where the file has ended.
    let _ = unsafe { libc::madvise(page_start as *mut c_void, start + mapping.len() - page_start, advice) };
}

/// Lets the pages of a file that LMDB has mapped leave this process's memory; they stay in the page cache.
pub(crate) fn release_mapping(path: &Path) {
    #[cfg(target_os = "linux")]
    {
        let Ok(maps) = std::fs::read("/proc/self/maps") else { return };
        for line in maps.split(|b| *b == b'\n').filter(|l| l.ends_with(path.as_os_str().as_bytes())) {
            let range = line.split(|b| *b == b' ').next().and_then(|r| std::str::from_utf8(r).ok());
            let Some((start, end)) = range.and_then(|r| r.split_once('-')) else { continue };
            let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else {
                continue;
            };
            // SAFETY: the range is a shared, read-only mapping of the index's file; dropping its pages loses nothing,
            // a later access brings them in again from the file.
            let _ = unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = path;
}

/// Renames and never overwrites.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {}
        other => return Ok(other?),
    }
    // A hard link fails where the name is taken, too. What a crash leaves between the two is one file with two names,
    // which recovery knows.
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // No hard links (FAT): a look before the rename is the best there is.
        Err(_) if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => std::fs::rename(from, to),
    }
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    match File::open(dir)?.sync_all() {
        // Some file systems have no such operation, and nothing else to offer.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

/// Whether the index can be opened in a folder, as far as its path goes.
pub(crate) const fn takes_index(_dir: &Path) -> bool {
    true
}

/// What a disk has room for.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) free_bytes: u64,
    pub(crate) sparse: bool,
    pub(crate) file_bytes_max: Option<u64>,
}

pub(crate) fn space(dir: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(dir)?;
    let fat = is_fat(dir);
    Ok(Space {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        sparse: !fat,
        file_bytes_max: fat.then_some(u64::from(u32::MAX)),
    })
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn magic(dir: &Path) -> io::Result<u32> {
    let stat = rustix::fs::statfs(dir)?;
    // Magic numbers have 32 bits; the field's type differs between architectures and may be sign-extended.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    #[allow(clippy::unnecessary_cast, reason = "a u32 already on some architectures")]
    Ok(stat.f_type as u32)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_fat(dir: &Path) -> bool {
    // MSDOS_SUPER_MAGIC of linux/magic.h: vfat is its other name.
    matches!(magic(dir), Ok(0x4d44))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_fat(_dir: &Path) -> bool {
    false
}

/// The kind of network file system that a folder is on. 9p counts as local: containers and WSL mount host folders by it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn network_file_system(dir: &Path) -> io::Result<Option<&'static str>> {
    // linux/magic.h
    Ok(match magic(dir)? {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x5346_414f => Some("AFS"),
        0x7375_7245 => Some("Coda"),
        0x564c => Some("NCP"),
        _ => None,
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[expect(clippy::unnecessary_wraps, reason = "its sibling can fail")]
pub(crate) fn network_file_system(_dir: &Path) -> io::Result<Option<&'static str>> {
    Ok(None)
}

pub(crate) fn page_bytes() -> usize {
    rustix::param::page_size()
}

/// What the signal handler has to know of the copy that its thread is in. `end` is 0 when there is none.
struct Watch {
    start: AtomicUsize,
    end: AtomicUsize,
    poisoned: AtomicPtr<AtomicBool>,
}

thread_local! {
    // Constant and without a destructor: the handler may read it at any instant of the thread's life.
    static WATCH: Watch = const {
        Watch {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            poisoned: AtomicPtr::new(std::ptr::null_mut()),
        }
    };
}

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Copies from a mapping of a file that may be truncated meanwhile. If it is, `poisoned` becomes true, what is copied is
/// worthless, and the mapping must not be used any more: zeros have been mapped over a part of it.
///
/// Another thread that copies from the same mapping sees zeros without a fault of its own; it must therefore look at
/// `poisoned` after its copy, which is set before the zeros appear.
///
/// # Safety
/// `source` must lie in a live, page-aligned mapping of a file that stays mapped during the call, and that is not used
/// except through this function and hints.
pub(crate) unsafe fn guarded_copy(source: *const u8, out: &mut [u8], poisoned: &AtomicBool) -> io::Result<()> {
    install_handler()?;
    WATCH.with(|watch| {
        watch.poisoned.store(std::ptr::from_ref(poisoned).cast_mut(), Ordering::Relaxed);
        watch.start.store(source as usize, Ordering::Relaxed);
        watch.end.store(source as usize + out.len(), Ordering::Relaxed);
        // The handler runs on this thread, so the order of the compiler is the order that counts.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the caller vouches for the source; `out` is ours alone. Where the file ends before the mapping does,
        // the handler puts zeros under the copy.
        unsafe { std::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
        compiler_fence(Ordering::SeqCst);
        watch.end.store(0, Ordering::Relaxed);
    });
    Ok(())
}

fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
        // SAFETY: all-zero is a valid `sigaction`; both are local, and `on_sigbus` has the signature that SA_SIGINFO
        // promises and only does what is safe in a signal handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) != 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
            }
            let _ = PREVIOUS.set(previous);
        }
        Ok(())
    });
    installed.map_err(io::Error::from_raw_os_error)
}

/// Ends a copy that ran past the end of a file by mapping zeros under its rest; hands everything else on to whoever
/// handled the signal before us.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid `info` to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let handled = WATCH.try_with(|watch| {
        let (start, end) = (watch.start.load(Ordering::Relaxed), watch.end.load(Ordering::Relaxed));
        if address < start || address >= end {
            return false;
        }
        let page = page_bytes();
        let from = address - address % page;
        let len = (end - from).next_multiple_of(page);
        // SAFETY: between setting `end` and clearing it the pointer is that of a live flag. The range lies in the
        // mapping that the thread copies from (page-aligned, so rounding up stays inside), which nobody may use once
        // the flag is set; mmap is a bare system call.
        unsafe {
            (*watch.poisoned.load(Ordering::Relaxed)).store(true, Ordering::SeqCst);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            libc::mmap(from as *mut c_void, len, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED
        }
    });
    if handled.unwrap_or(false) {
        return;
    }
    let previous = PREVIOUS.get().copied();
    // SAFETY: a previous action that is neither "default" nor "ignore" is a function of the kind that its flags say.
    // Otherwise the default action comes back: the access faults again and ends the process, as it would have.
    unsafe {
        match previous {
            Some(p) if p.sa_sigaction != libc::SIG_DFL && p.sa_sigaction != libc::SIG_IGN => {
                if p.sa_flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                        std::mem::transmute(p.sa_sigaction);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(c_int) = std::mem::transmute(p.sa_sigaction);
                    handler(signal);
                }
            }
            _ => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}
