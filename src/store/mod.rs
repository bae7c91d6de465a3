//! The index of what this node has, and the users' files in which it lies.

mod error;
mod file;
mod types;

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::block::{Block, Cid, Multihash};

pub use error::{StoreError, WriteError};
pub use types::*;

/// Handle
#[derive(Debug, Clone)]
pub struct Store;

#[expect(missing_docs, clippy::unused_self, reason = "signatures first")]

impl Store {
    /// Opens (or makes) the index in `dir/index`, takes `dir/lock`, settles what a crash left.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> { unimplemented!() }

    // --- nodes: inner nodes and blocks that belong to no file
    pub fn put_nodes(&self, blocks: &[Block]) -> Result<(), StoreError> { unimplemented!() }
    pub fn node(&self, multihash: &Multihash) -> Result<Option<Bytes>, StoreError> { unimplemented!() }

    // --- files
    /// A file that is being added (state Planning). `NewFile::in_place(&source)` makes the spec.
    pub fn register(&self, spec: &NewFile) -> Result<FileId, StoreError> { unimplemented!() }
    /// Makes `final_path` + ".part" (create_new) of `len` bytes and registers it (state Planning): crash-safe order.
    pub fn create_part(&self, root: &Cid, final_path: &Path, len: u64, policy: Preallocate) -> Result<FileId, WriteError> { unimplemented!() }
    pub fn put_refs(&self, file: FileId, refs: &mut Vec<(Multihash, LeafPlace)>) -> Result<u64, StoreError> { unimplemented!() }
    /// Planning → Partial (a part) or Complete (an added file); root entry in the same commit.
    pub fn activate(&self, file: FileId, activation: Activation<'_>) -> Result<(), StoreError> { unimplemented!() }
    /// Forgets every file of a root; returns what they were. Deletes no file from the disk.
    pub fn forget(&self, root: &Cid) -> Result<Vec<FileRecord>, StoreError> { unimplemented!() }
    pub fn forget_file(&self, file: FileId) -> Result<Option<FileRecord>, StoreError> { unimplemented!() }
    pub fn files(&self) -> Vec<FileRecord> { unimplemented!() }
    pub fn file(&self, file: FileId) -> Option<FileRecord> { unimplemented!() }
    pub fn extents(&self, file: FileId) -> Result<Vec<u64>, StoreError> { unimplemented!() }
    pub fn roots(&self) -> Result<Vec<RootRecord>, StoreError> { unimplemented!() }
    pub fn root(&self, cid: &Cid) -> Result<Option<RootRecord>, StoreError> { unimplemented!() }

    // --- lookup and serving
    pub fn has(&self, multihash: &Multihash) -> Result<Option<u32>, StoreError> { unimplemented!() }
    pub fn read(&self, multihash: &Multihash) -> Result<Option<Bytes>, StoreError> { unimplemented!() }
    /// Live places only.
    pub fn places(&self, multihash: &Multihash) -> Result<Vec<LeafPlace>, StoreError> { unimplemented!() }
    /// File bytes at a place (without affixes), not checked by hash.
    pub fn read_range(&self, file: FileId, offset: u64, out: &mut [u8]) -> Result<(), StoreError> { unimplemented!() }

    // --- pulling
    pub fn writer(&self, file: FileId) -> Result<Writer, StoreError> { unimplemented!() }

    // --- jobs
    pub fn next_job_id(&self) -> Result<u64, StoreError> { unimplemented!() }
    pub fn put_job(&self, id: u64, job: &[u8]) -> Result<(), StoreError> { unimplemented!() }
    pub fn delete_job(&self, id: u64) -> Result<bool, StoreError> { unimplemented!() }
    pub fn jobs(&self) -> Result<Vec<(u64, Vec<u8>)>, StoreError> { unimplemented!() }

    /// Bytes of the index on the disk.
    pub fn reference(&self, m: &Multihash, f: FileId) -> Result<Option<LeafPlace>, StoreError> { unimplemented!() }
    pub fn adopt_existing(&self, root: &Cid, path: &Path, len: u64) -> Result<FileId, WriteError> { unimplemented!() }
    pub fn is_present(&self, f: FileId, leaf: u64) -> Result<bool, StoreError> { unimplemented!() }
    pub fn index_bytes(&self) -> u64 { unimplemented!() }
}

/// Space, largest file, sparse support, checked before a pull starts.
#[derive(Debug, Clone, Copy)]
pub struct Preflight {
    /// Free bytes for us on that disk.
    pub free_bytes: u64,
    /// Whether the file system has sparse files.
    pub sparse: bool,
    /// The largest file that it can hold, if that is a limit worth naming.
    pub file_bytes_max: Option<u64>,
}

/// Checks that a file of `len` bytes can be made at `final_path`.
pub fn preflight(final_path: &Path, len: u64) -> Result<Preflight, WriteError> { let _ = (final_path, len); unimplemented!() }

pub fn free_bytes(p: &Path) -> std::io::Result<u64> { unimplemented!() }
pub fn resident_bytes(p: &Path) -> std::io::Result<u64> { unimplemented!() }
/// A file that is being added.
#[derive(Debug)]
pub struct SourceFile;

#[expect(missing_docs, reason = "signatures first")]

impl SourceFile {
    /// Regular files only (symbolic links are followed); the path is made absolute.
    pub fn open(path: &Path) -> Result<Self, StoreError> { unimplemented!() }
    pub fn path(&self) -> &Path { unimplemented!() }
    pub fn len(&self) -> u64 { unimplemented!() }
    pub fn is_hole(&self, a: u64, b: u64) -> bool { unimplemented!() }
    pub fn is_empty(&self) -> bool { unimplemented!() }
    pub fn stamp(&self) -> Stamp { unimplemented!() }
    /// Exactly `out.len()` bytes at `offset`; a file that has become shorter is `StoreError::Changed`. From any thread.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), StoreError> { unimplemented!() }
    /// The range has been hashed: its pages may leave the page cache if it was us who brought them in.
    pub fn release(&self, range: Range<u64>) { unimplemented!() }
    /// Errors with `Changed` if length, mtime or identity are not what they were at open.
    pub fn unchanged(&self) -> Result<(), StoreError> { unimplemented!() }
}

impl NewFile {
    /// Spec for adding a file where it lies.
    #[must_use]
    pub fn in_place(source: &SourceFile) -> Self { let _ = source; unimplemented!() }
}

/// Writes the leaves of one partial file. All methods from any thread.
#[derive(Debug)]
pub struct Writer;

#[expect(missing_docs, reason = "signatures first")]

impl Writer {
    pub fn adopt(&self, leaf: u64, len: u32) -> Result<(), WriteError> { unimplemented!() }
    pub fn file(&self) -> FileId { unimplemented!() }
    pub fn leaves(&self) -> u64 { unimplemented!() }
    pub fn present(&self) -> u64 { unimplemented!() }
    /// Written (durable or not yet).
    pub fn has(&self, leaf: u64) -> bool { unimplemented!() }
    /// Leaves of `range` that are not there, in order.
    pub fn missing(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ { std::iter::empty() }
    /// How many leaves of `range` are not there.
    pub fn missing_count(&self, range: Range<u64>) -> u64 { unimplemented!() }
    /// Returns false if the leaf was there already (nothing is written then).
    pub fn write(&self, leaf: u64, offset: u64, data: &[u8]) -> Result<bool, WriteError> { unimplemented!() }
    pub fn unsynced_bytes(&self) -> u64 { unimplemented!() }
    /// Data durable, then one commit of bits, then the pages of what was written are let go.
    pub fn commit_epoch(&self) -> Result<(), WriteError> { unimplemented!() }
    /// Last epoch, rename to the final name without overwriting, state Complete.
    pub fn finish(&self) -> Result<(), WriteError> { unimplemented!() }
}
