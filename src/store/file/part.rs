//! Making the file that a pull writes into: `NAME.part` of the final length, with holes unless told otherwise.
//!
//! Nothing is ever overwritten. The index learns the file's identity before its length is set, so that what a crash
//! leaves without one is an empty file (see `recover.rs`).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::platform;
use crate::store::{Preallocate, Stamp, WriteError};

/// What the disk has room for, asked before a pull starts.
#[derive(Debug, Clone, Copy)]
pub struct Preflight {
    /// Bytes that are free for us on that disk.
    pub free_bytes: u64,
    /// Whether the file system has sparse files; where it has not, making the part writes all of it.
    pub sparse: bool,
    /// The largest file that it can hold, where that is a limit worth naming.
    pub file_bytes_max: Option<u64>,
}

/// The longest name that gets `.part` behind it, in bytes: with it, 255, the most that common file systems have.
const NAME_BYTES_MAX: usize = 250;

/// The name under which a file is written until it is complete: `NAME.part`, or the first bytes of the name's SHA-256
/// before `.part` when the name is too long for that.
#[must_use]
pub fn part_path(final_path: &Path) -> PathBuf {
    let name = final_path.file_name().unwrap_or_default();
    let hash = (name.len() > NAME_BYTES_MAX)
        .then(|| crate::block::hash::digest(crate::block::SHA2_256, 32, &[name.as_encoded_bytes()]).ok())
        .flatten();
    let mut part = match hash {
        None => OsString::from(final_path),
        Some(hash) => {
            let start = hash.digest().iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
            final_path.with_file_name(start).into_os_string()
        }
    };
    part.push(".part");
    PathBuf::from(part)
}

/// Checks that a file of `len` bytes can be made at `final_path`; makes nothing.
///
/// # Errors
/// [`WriteError::Exists`] for the file itself, [`WriteError::ParentMissing`], [`WriteError::TooLarge`],
/// [`WriteError::NotEnoughSpace`], [`WriteError::Permission`].
pub fn preflight(final_path: &Path, len: u64) -> Result<Preflight, WriteError> {
    let final_path = std::path::absolute(final_path).map_err(WriteError::io(final_path))?;
    if final_path.symlink_metadata().is_ok() {
        return Err(WriteError::Exists(final_path));
    }
    let parent = final_path.parent().unwrap_or_else(|| Path::new("/"));
    match std::fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(WriteError::Permission(parent.into())),
        _ => return Err(WriteError::ParentMissing(parent.into())),
    }
    let space = platform::space(parent).map_err(WriteError::io(parent))?;
    if let Some(limit) = space.file_bytes_max.filter(|limit| len > *limit) {
        return Err(WriteError::TooLarge { path: final_path, limit });
    }
    if space.free_bytes < len {
        return Err(WriteError::NotEnoughSpace { path: final_path, needed: len, free: space.free_bytes });
    }
    Ok(Preflight { free_bytes: space.free_bytes, sparse: space.sparse, file_bytes_max: space.file_bytes_max })
}

/// Makes an empty file that was not there before.
pub(crate) fn create(path: &Path) -> Result<(File, Stamp), WriteError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => WriteError::ParentMissing(path.parent().unwrap_or(path).into()),
        _ => WriteError::io(path)(e),
    })?;
    let stamp = platform::stamp(&file).map_err(WriteError::io(path))?;
    Ok((file, stamp))
}

/// Gives a part its length and, by policy, its space.
pub(crate) fn size(file: &File, path: &Path, len: u64, policy: Preallocate) -> Result<(), WriteError> {
    let sized = match policy {
        // A file system without sparse files takes the space instead; that is slow, not wrong.
        Preallocate::Sparse => platform::set_sparse(file).or(Ok(())),
        Preallocate::Full => platform::allocate(file, len),
    };
    sized.and_then(|()| file.set_len(len)).and_then(|()| file.sync_all()).map_err(|e| match e.kind() {
        io::ErrorKind::FileTooLarge => WriteError::TooLarge { path: path.into(), limit: len - 1 },
        _ => WriteError::io(path)(e),
    })
}
