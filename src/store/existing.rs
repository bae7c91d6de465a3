//! What a pull needs of files that are not of its own making: one that the user brought by disk and wants completed, and
//! a planned file's references before any of its leaves is there.

use std::path::Path;

use super::file::platform;
use super::index::tables::{self, Stored, corrupt};
use super::{FileId, FileState, LeafPlace, Member, Stamp, Store, StoreError, WriteError};
use crate::block::{Cid, Multihash};

impl Store {
    /// Registers a file that exists, in state Planning, as one that is being pulled: its length becomes `len`, its leaves
    /// count once they are written or [adopted](super::Writer::adopt). It has its final name from the start, and is never
    /// removed.
    ///
    /// # Errors
    /// [`WriteError::Permission`], [`WriteError::NoSpace`], [`WriteError::Io`].
    pub fn adopt_existing(
        &self,
        root: &Cid,
        path: &Path,
        len: u64,
        member: Option<Member>,
    ) -> Result<FileId, WriteError> {
        let path = std::path::absolute(path).map_err(WriteError::io(path))?;
        // A link would lead out of the folder that was named.
        if !path.symlink_metadata().map_err(WriteError::io(&path))?.is_file() {
            let reason = "it is a link or no file, and only files can be completed";
            return Err(WriteError::io(&path)(std::io::Error::other(reason)));
        }
        let file = platform::open_to_complete(&path).map_err(WriteError::io(&path))?;
        file.set_len(len).map_err(WriteError::io(&path))?;
        let stamp = platform::stamp(&file).map_err(WriteError::io(&path))?;
        Ok(self.register_stored(Stored {
            path: path.clone(),
            final_path: path,
            len,
            root: Some(*root),
            leaves: 0,
            state: FileState::Planning,
            stamp: Some(Stamp { len, ..stamp }),
            partial: true,
            member,
        })?)
    }

    /// The reference that a file has to a block, whether or not its leaf is there.
    ///
    /// # Errors
    /// What the index says.
    pub fn reference(&self, multihash: &Multihash, file: FileId) -> Result<Option<LeafPlace>, StoreError> {
        let key = tables::multihash_key(multihash);
        self.inner.index.read(|txn, tables| {
            for entry in tables.refs.get_duplicates(txn, &key)?.into_iter().flatten() {
                let (_, value) = entry?;
                if tables::ref_file(value)? != file {
                    continue;
                }
                let (mut place, elsewhere) = tables::ref_place(value)?;
                if elsewhere {
                    let wrap = tables.wraps.get(txn, &tables::wrap_key(&key, file))?;
                    place.wrap = wrap.ok_or_else(|| corrupt("a reference without its wrap"))?.to_vec();
                }
                return Ok(Some(place));
            }
            Ok(None)
        })
    }

    /// Numbers of the leaves of a file that are not there; of one that is complete, none.
    ///
    /// # Errors
    /// What the index says.
    pub fn missing_leaves(&self, file: FileId) -> Result<Vec<u64>, StoreError> {
        let bits = self.inner.find(file)?.and_then(|live| live.bits());
        Ok(bits.map(|bits| bits.missing(0..bits.len()).collect()).unwrap_or_default())
    }

    /// Whether a leaf of a file is there.
    ///
    /// # Errors
    /// What the index says.
    pub fn is_present(&self, file: FileId, leaf: u64) -> Result<bool, StoreError> {
        Ok(self.inner.find(file)?.is_some_and(|live| live.holds(leaf)))
    }
}

/// Bytes that are free for this user on the disk of `path`, which exists.
///
/// # Errors
/// What the system says.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    platform::space(path).map(|space| space.free_bytes)
}

/// How the file at a path looks now, to be compared with what was noted of it.
///
/// # Errors
/// What the system says, also when nothing is there.
pub fn stamp_at(path: &Path) -> std::io::Result<Stamp> {
    platform::stamp_at(path)
}

/// Bytes of a file that are in the page cache.
///
/// # Errors
/// What the system says, and [`std::io::ErrorKind::Unsupported`] where it does not tell.
pub fn resident_bytes(path: &Path) -> std::io::Result<u64> {
    let file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    platform::cached_bytes(&file, len).ok_or_else(|| std::io::ErrorKind::Unsupported.into())
}
