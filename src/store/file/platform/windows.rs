//! Files and file systems on Windows. Sibling of `unix.rs`: the same functions, the same meaning.
//!
//! A mapped file can be neither cut (error 1224) nor replaced (error 5) by others here, so [`READER`] reads without mapping.
#![allow(unsafe_code, reason = "sparse files, allocation and file identities have no safe interface")]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::ops::Range;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};

use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_HIDDEN, FILE_ATTRIBUTE_REPARSE_POINT, FILE_BASIC_INFO,
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_NO_BUFFERING, FILE_FLAG_OPEN_REPARSE_POINT, FILE_ID_INFO,
    FILE_INFO_BY_HANDLE_CLASS, FILE_STANDARD_INFO, FileBasicInfo, FileIdInfo, FileStandardInfo, GetDiskFreeSpaceExW,
    GetDriveTypeW, GetFileInformationByHandle, GetFileInformationByHandleEx, GetVolumeInformationW, GetVolumePathNameW,
    MOVEFILE_WRITE_THROUGH, MoveFileExW,
};
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::FSCTL_SET_SPARSE;
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use crate::platform::wide;
use crate::store::{Attributes, FileIdentity, ReaderKind, Restore, Stamp};

/// Address space that the index begins with. The data file is as long as the map here, so it grows in steps.
pub(crate) const MAP_BYTES: usize = 64 << 20;
/// How files are read when nothing is said.
pub(crate) const READER: ReaderKind = ReaderKind::Pread;

/// A volume keeps its number until it is formatted.
pub(crate) const DEVICE_NUMBERS_LAST: bool = true;

/// `MAX_PATH`, with the zero.
const PATH_UNITS_MAX: usize = 260;
/// winbase.h
const DRIVE_REMOTE: u32 = 4;
/// winnt.h
const FILE_SUPPORTS_SPARSE_FILES: u32 = 0x40;
/// Between 1601, where Windows counts from, and 1970, in units of 100 ns.
const EPOCH_DIFFERENCE: i64 = 116_444_736_000_000_000;
/// Units of 100 ns.
const TICKS_PER_SECOND: i128 = 10_000_000;

pub(crate) fn path_to_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().encode_wide().flat_map(u16::to_le_bytes).collect()
}

pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<PathBuf> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    let wide: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    Some(PathBuf::from(OsString::from_wide(&wide)))
}

/// An error for a file that has been removed: where no POSIX semantics are (network drives, old file systems), its name
/// stays until the last of those who have it open lets go, and that may be us.
pub(crate) fn stamp(file: &File) -> io::Result<Stamp> {
    // SAFETY: each structure is the one of its class; all-zero is a valid value of them.
    let (basic, standard) = unsafe {
        (
            information::<FILE_BASIC_INFO>(file, FileBasicInfo)?,
            information::<FILE_STANDARD_INFO>(file, FileStandardInfo)?,
        )
    };
    if standard.DeletePending {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has been removed"));
    }
    Ok(Stamp {
        identity: identity(file)?,
        len: u64::try_from(standard.EndOfFile).unwrap_or(0),
        mtime_ns: basic.LastWriteTime.saturating_sub(EPOCH_DIFFERENCE).saturating_mul(100),
    })
}

fn identity(file: &File) -> io::Result<FileIdentity> {
    // SAFETY: the structure is the one of its class; all-zero is a valid value of it.
    match unsafe { information::<FILE_ID_INFO>(file, FileIdInfo) } {
        Ok(id) => {
            let inode = u128::from_le_bytes(id.FileId.Identifier);
            Ok(FileIdentity { device: id.VolumeSerialNumber, inode })
        }
        // FAT and some network drives have no such long numbers.
        Err(_) => {
            // SAFETY: all-zero is a valid value of this plain structure, and the handle is open.
            let info = unsafe {
                let mut info: BY_HANDLE_FILE_INFORMATION = zeroed();
                check(GetFileInformationByHandle(file.as_raw_handle(), &raw mut info))?;
                info
            };
            let inode = u128::from(info.nFileIndexHigh) << 32 | u128::from(info.nFileIndexLow);
            Ok(FileIdentity { device: u64::from(info.dwVolumeSerialNumber), inode })
        }
    }
}

/// # Safety
/// `T` is the structure that `class` fills, and all-zero is a valid value of it.
unsafe fn information<T>(file: &File, class: FILE_INFO_BY_HANDLE_CLASS) -> io::Result<T> {
    let size = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
    // SAFETY: the caller's promise; the size is the structure's own, and the handle is open.
    unsafe {
        let mut info: T = zeroed();
        check(GetFileInformationByHandleEx(file.as_raw_handle(), class, (&raw mut info).cast(), size))?;
        Ok(info)
    }
}

/// Asks for no right to the file's content, as others may keep that to themselves for a while.
pub(crate) fn stamp_at(path: &Path) -> io::Result<Stamp> {
    stamp(&std::fs::OpenOptions::new().access_mode(0).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)?)
}

/// Opens a file for reading, but follows no link.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    open_unlinked(std::fs::OpenOptions::new().read(true), path)
}

/// Opens a file to read and write what is in it, but follows no link.
pub(crate) fn open_to_complete(path: &Path) -> io::Result<File> {
    open_unlinked(std::fs::OpenOptions::new().read(true).write(true), path)
}

/// Opens what has this very name. Files that a filter keeps elsewhere (deduplicated, in the cloud) show their content only
/// to who follows their reparse point, which leads to no other file.
fn open_unlinked(options: &mut std::fs::OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(path)?;
    let metadata = file.metadata()?;
    if metadata.file_type().is_symlink() {
        return Err(io::Error::other("it is a link"));
    }
    if metadata.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT == 0 {
        return Ok(file);
    }
    let followed = options.custom_flags(0).open(path)?;
    if identity(&followed)? == identity(&file)? { Ok(followed) } else { Err(io::Error::other("it is a link")) }
}

/// What a file looks like, when it is an ordinary one, and what its owner says of it.
pub(crate) fn stamp_and_attributes(file: &File) -> io::Result<Option<(Stamp, Attributes)>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    Ok(Some((stamp(file)?, attributes(&metadata))))
}

/// Permissions, as Go has them on Windows, and time of change.
pub(crate) fn attributes(metadata: &std::fs::Metadata) -> Attributes {
    let base = if metadata.permissions().readonly() { 0o444 } else { 0o666 };
    let since_1970 = i128::from(metadata.last_write_time()) - i128::from(EPOCH_DIFFERENCE);
    Attributes {
        mode: if metadata.is_dir() { base | 0o111 } else { base },
        mtime_seconds: i64::try_from(since_1970.div_euclid(TICKS_PER_SECOND)).unwrap_or(0),
        mtime_nanos: u32::try_from(since_1970.rem_euclid(TICKS_PER_SECOND) * 100).unwrap_or(0),
    }
}

/// Whether a name in a folder is to be kept out of sight.
pub(crate) fn is_hidden(entry: &std::fs::DirEntry) -> bool {
    let dotted = entry.file_name().encode_wide().next() == Some(u16::from(b'.'));
    dotted || entry.metadata().is_ok_and(|metadata| metadata.file_attributes() & FILE_ATTRIBUTE_HIDDEN != 0)
}

/// A file's name as others have it in their directories; `None` when it is not Unicode.
pub(crate) fn name_to_bytes(name: &OsStr) -> Option<&[u8]> {
    name.to_str().map(str::as_bytes)
}

/// What a symbolic link points to, as others have it: with slashes. `None` when it is not Unicode.
pub(crate) fn target_to_bytes(target: &Path) -> Option<Vec<u8>> {
    target.to_str().map(|text| text.replace('\\', "/").into_bytes())
}

/// The system does not tell what is in its cache.
#[expect(clippy::unnecessary_wraps, reason = "its sibling can fail")]
pub(crate) fn read_cached(_file: &File, _offset: u64, _out: &mut [u8]) -> io::Result<Option<usize>> {
    Ok(None)
}

pub(crate) fn read_exact_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match file.seek_read(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                offset += n as u64;
                out = out.get_mut(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads at `offset` what one call gives: 0 at the file's end.
pub(crate) fn read_some_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.seek_read(out, offset) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Opens a file for reads, or for writes too, that go past the cache.
pub(crate) fn open_direct(path: &Path, write: bool) -> io::Result<File> {
    std::fs::OpenOptions::new().read(true).write(write).custom_flags(FILE_FLAG_NO_BUFFERING).open(path)
}

/// Read-ahead is chosen when a file is opened, not later.
pub(crate) const fn read_as_told(_file: &File) {}

pub(crate) fn write_all_at(file: &File, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match file.seek_write(data, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                data = data.get(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Files have holes only when they are told so.
pub(crate) fn set_sparse(file: &File) -> io::Result<()> {
    let mut returned = 0;
    // SAFETY: this control code takes no input and gives no output; the handle is open.
    check(unsafe {
        DeviceIoControl(file.as_raw_handle(), FSCTL_SET_SPARSE, null(), 0, null_mut(), 0, &raw mut returned, null_mut())
    })
}

/// Takes the space of the whole file: all of a file that is not sparse lies on the disk. (FILE_ALLOCATION_INFO would take
/// it only until the file is closed, as far as it is beyond the file's end.)
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)
}

/// The system trims its cache by itself.
pub(crate) fn drop_cache(_file: &File, _range: &Range<u64>) {}

/// The system does not tell.
pub(crate) const fn resident_range(_file: &File, _range: &Range<u64>) -> Option<Vec<bool>> {
    None
}

/// The system does not tell.
pub(crate) const fn cached_bytes(_file: &File, _len: u64) -> Option<u64> {
    None
}

pub(crate) fn resident_pages(_mapping: &[u8]) -> Vec<bool> {
    Vec::new()
}

pub(crate) fn mostly_resident(_file: &File, _range: &Range<u64>) -> bool {
    true
}

pub(crate) fn next_data(_file: &File, _offset: u64) -> Option<u64> {
    None
}

pub(crate) fn will_need(_mapping: &[u8]) {}

pub(crate) fn no_read_ahead(_mapping: &[u8]) {}

/// What is in memory together; mapped windows are larger than what files may be mapped by (64 KiB).
pub(crate) fn page_bytes() -> usize {
    4096
}

pub(crate) fn release_mapping(_path: &Path) {}

/// Renames and never overwrites.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (wide(from)?, wide(to)?);
    // SAFETY: both are strings that end with a zero.
    check(unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), MOVEFILE_WRITE_THROUGH) })
}

/// Makes files durable; their names are by themselves.
pub(crate) fn sync_many(_folders: &[&Path], files: &[&File]) -> io::Result<()> {
    files.iter().try_for_each(|file| file.sync_all())
}

/// Gives a file a time of last change. Of permissions this system knows only the owner's right to write, and a file that
/// is read-only cannot be removed by who pulled it: they are left alone.
pub(crate) fn restore(file: &File, restore: &Restore) -> io::Result<()> {
    restore.mtime.map_or(Ok(()), |mtime| file.set_modified(mtime))
}

/// The rename was written through already.
#[expect(clippy::unnecessary_wraps, reason = "its sibling can fail")]
pub(crate) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// What a disk has room for.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) free_bytes: u64,
    pub(crate) sparse: bool,
    pub(crate) file_bytes_max: Option<u64>,
}

pub(crate) fn space(dir: &Path) -> io::Result<Space> {
    let root = volume(dir)?;
    let path = wide(dir)?;
    let (mut free, mut flags, mut name) = (0_u64, 0_u32, [0_u16; 32]);
    // SAFETY: the paths end with a zero, `name` has the length that is given, and unused outputs may be null.
    unsafe {
        check(GetDiskFreeSpaceExW(path.as_ptr(), &raw mut free, null_mut(), null_mut()))?;
        check(GetVolumeInformationW(
            root.as_ptr(),
            null_mut(),
            0,
            null_mut(),
            null_mut(),
            &raw mut flags,
            name.as_mut_ptr(),
            32,
        ))?;
    }
    let name = String::from_utf16_lossy(&name);
    let fat = name.starts_with("FAT");
    Ok(Space {
        free_bytes: free,
        sparse: flags & FILE_SUPPORTS_SPARSE_FILES != 0,
        file_bytes_max: fat.then_some(u64::from(u32::MAX)),
    })
}

/// The kind of network file system that a folder is on.
pub(crate) fn network_file_system(dir: &Path) -> io::Result<Option<&'static str>> {
    let root = volume(dir)?;
    // SAFETY: a string that ends with a zero.
    let kind = unsafe { GetDriveTypeW(root.as_ptr()) };
    Ok((kind == DRIVE_REMOTE).then_some("network drive"))
}

/// Copies from a mapping of a file that may fail to be read. If it does, `poisoned` becomes true, and what is copied is
/// worthless.
///
/// The system copies: where a page cannot be brought in (the disk or the share behind it fails) the call fails, while a
/// plain copy would end in an exception that Rust cannot catch.
///
/// # Safety
/// `source` must lie in a live mapping that stays mapped during the call.
pub(crate) unsafe fn guarded_copy(source: *const u8, out: &mut [u8], poisoned: &AtomicBool) -> io::Result<()> {
    let mut copied = 0;
    // SAFETY: the handle that stands for this process is always valid, `out` is ours alone and as long as is said, and what
    // cannot be read at `source` is an error of the call.
    let done = unsafe {
        ReadProcessMemory(GetCurrentProcess(), source.cast(), out.as_mut_ptr().cast(), out.len(), &raw mut copied)
    };
    if done == 0 || copied < out.len() {
        poisoned.store(true, Ordering::SeqCst);
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Whether the index can be opened in a folder: LMDB knows paths of the old length only.
pub(crate) fn takes_index(dir: &Path) -> bool {
    let longest = std::path::absolute(dir).map(|dir| dir.join("data.mdb"));
    longest.is_ok_and(|path| path.as_os_str().encode_wide().count() < PATH_UNITS_MAX)
}

fn volume(path: &Path) -> io::Result<Vec<u16>> {
    let path = wide(path)?;
    let mut root = vec![0_u16; 1024];
    // SAFETY: the path ends with a zero, and the buffer has the length that is given.
    check(unsafe { GetVolumePathNameW(path.as_ptr(), root.as_mut_ptr(), 1024) })?;
    Ok(root)
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windows_sys::Win32::System::Memory::{MEM_RELEASE, MEM_RESERVE, PAGE_NOACCESS, VirtualAlloc, VirtualFree};

    #[test]
    fn memory_that_cannot_be_read_is_an_error_and_no_exception() {
        let poisoned = AtomicBool::new(false);
        let mut out = [0; 3];
        // SAFETY: addresses are reserved that nobody else uses, read through the guard alone, and given back.
        unsafe {
            guarded_copy([1_u8, 2, 3].as_ptr(), &mut out, &poisoned).unwrap();
            assert!(out == [1, 2, 3] && !poisoned.load(Ordering::SeqCst));
            let reserved = VirtualAlloc(null(), 1 << 16, MEM_RESERVE, PAGE_NOACCESS);
            assert!(!reserved.is_null());
            let failed = guarded_copy(reserved.cast(), &mut out, &poisoned).unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::UnexpectedEof);
            assert!(poisoned.load(Ordering::SeqCst));
            VirtualFree(reserved, 0, MEM_RELEASE);
        }
    }
}
