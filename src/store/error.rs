//! What can go wrong in the store, in terms of what its caller can do about it.
//!
//! [`StoreError`] is about the repository (who holds it, its format, its disk); [`WriteError`] is about one file that is
//! being pulled. A full disk is a variant of its own in both: it is a state to wait out, not an end.

use std::io;
use std::path::{Path, PathBuf};

use super::FileId;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the repository.
    #[error("the repository {} is in use by {}", path.display(), match pid { Some(pid) => format!("process {pid}"), None => "another process".into() })]
    InUse {
        /// The repository.
        path: PathBuf,
        /// Who holds it, where the platform lets us read that.
        pid: Option<u32>,
    },
    /// The index was written by a newer version of this program.
    #[error("the index has format {found}, this version of bitshoal knows up to {supported}: use a newer bitshoal")]
    NewerFormat {
        /// The version on the disk.
        found: u32,
        /// The newest version that we know.
        supported: u32,
    },
    /// The repository lies on a network file system, which gives a memory-mapped index no promises.
    #[error("{} is on a network file system ({kind}): put the repository on a local disk (--repo)", path.display())]
    NetworkFileSystem {
        /// The repository.
        path: PathBuf,
        /// What kind of file system.
        kind: &'static str,
    },
    /// The disk of the repository is full.
    #[error("no space left on the disk of the repository")]
    NoSpace,
    /// A source file is not what it was when it was opened.
    #[error("{} changed while it was being read: add it again when nobody writes to it", .0.display())]
    Changed(PathBuf),
    /// Only regular files can be added.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// There is no such file, or it is not in a state that allows the operation.
    #[error("file {0:?} is not known to the index, or is in another state")]
    UnknownFile(FileId),
    /// The file has a [`super::Writer`] already.
    #[error("file {0:?} is being written already")]
    Busy(FileId),
    /// Something in the index is not as we write it.
    #[error("the index is damaged: {0}")]
    Corrupt(String),
    /// LMDB failed.
    #[error("the index failed: {0}")]
    Index(#[source] heed::Error),
    /// The operating system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was being touched.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| {
            if source.kind() == io::ErrorKind::StorageFull {
                return Self::NoSpace;
            }
            Self::Io { path, source }
        }
    }
}

impl From<heed::Error> for StoreError {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Io(e) if e.kind() == io::ErrorKind::StorageFull => Self::NoSpace,
            // LMDB hands on what the system said as a bare number.
            heed::Error::Mdb(heed::MdbError::Other(code))
                if io::Error::from_raw_os_error(code).kind() == io::ErrorKind::StorageFull =>
            {
                Self::NoSpace
            }
            other => Self::Index(other),
        }
    }
}

/// Why a pulled file could not be made, written or finished.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk is full: the write can be tried again when there is space.
    #[error("no space left for {}", .0.display())]
    NoSpace(PathBuf),
    /// Something is there already, and we never overwrite.
    #[error("{} exists already: choose another path or move it away", .0.display())]
    Exists(PathBuf),
    /// The folder does not exist.
    #[error("the folder {} does not exist: make it first", .0.display())]
    ParentMissing(PathBuf),
    /// We may not write there.
    #[error("no permission to write {}", .0.display())]
    Permission(PathBuf),
    /// The file system cannot hold a file of that length.
    #[error("{} is on a file system whose files end at {limit} bytes: use another disk", path.display())]
    TooLarge {
        /// Where the file was to be.
        path: PathBuf,
        /// The largest file, in bytes.
        limit: u64,
    },
    /// There is not enough free space to begin with.
    #[error("{} needs {needed} bytes and its disk has {free} free", path.display())]
    NotEnoughSpace {
        /// Where the file was to be.
        path: PathBuf,
        /// Bytes that the file needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The file lacks leaves and cannot be finished.
    #[error("{missing} leaves are missing")]
    Incomplete {
        /// How many.
        missing: u64,
    },
    /// A leaf or a range that is not in the file.
    #[error("leaf {leaf} at {offset} with {len} bytes is outside of the file")]
    OutOfRange {
        /// Ordinal of the leaf.
        leaf: u64,
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: usize,
    },
    /// Data that were written did not reach the disk; their leaves are missing again and have to be fetched again.
    #[error("{}: written data did not reach the disk: {source}", path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was being touched.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WriteError {
    /// What the system said of `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(path),
            io::ErrorKind::AlreadyExists => Self::Exists(path),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Permission(path),
            _ => Self::Io { path, source },
        }
    }

    /// True when waiting for free space and trying again is the remedy.
    #[must_use]
    pub const fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace(_) | Self::NotEnoughSpace { .. } | Self::Store(StoreError::NoSpace))
    }
}
