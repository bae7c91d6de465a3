//! What this node has: the index of blocks, and the users' files in which their bytes lie.
//!
//! A leaf's bytes stay in the user's file; the index refers to them. Inner nodes, and blocks that belong to no file, are
//! in the index itself. Everything here blocks: callers run it on threads of their own.
//!
//! # What a crash may lose
//!
//! A file's life is a line of commits, each of which is whole or absent after a crash:
//!
//! - *Planning*: references go in by bounded transactions. [`Store::activate`] ends it; a crash before that removes the
//!   file from the index at the next open, and its `NAME.part` if we made one.
//! - *Partial*: an epoch makes leaves durable, then sets their bits in one commit ([`Writer::commit_epoch`]). A crash loses
//!   leaves since the last epoch, never the truth of a bit.
//! - *Finishing*: from the last epoch, over the rename, to *Complete*; the next open looks which name exists.
//! - *Forgetting*: references go out by bounded transactions; the next open goes on with it.
//!
//! # What it does not do
//!
//! It never hashes on the way in: whoever adds references or writes leaves holds the proof. On the way out it hashes only
//! what lies in a file that is not what it was. It deletes no user's file, and overwrites none.

mod collections;
mod error;
mod existing;
mod file;
mod files;
mod index;
mod live;
mod lock;
mod memory;
mod recover;
mod serve;
mod types;
mod whole;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::{Block, Cid, Multihash};
use file::disk::{Disk, SystemDisk};
use file::pool::Pool;
use index::Index;
use index::tables::{self, META_NEXT_FILE, META_NEXT_JOB, Stored, Tables, corrupt};
use live::{Live, Lives};
use lock::RepoLock;
use serve::Handles;

pub use error::{StoreError, WriteError};
pub use existing::{free_bytes, resident_bytes, stamp_at};
pub use file::part::{Preflight, part_path, preflight};
pub use file::small::{SmallFile, hidden, name_bytes, path_attributes, target_bytes};
pub use file::source::SourceFile;
pub use file::writer::Writer;
pub use memory::{FileMemory, MemoryReport};
pub use types::{
    Activation, Affixes, Attributes, CollectionId, CollectionRecord, CollectionState, CompleteFile, EXTENT_LEAVES,
    FileId, FileIdentity, FileRecord, FileState, LeafAt, LeafPlace, Member, NewCollection, NewFile, Options,
    Preallocate, ReaderKind, Restore, RootRecord, Stamp, WholeFile, WriterKind,
};

/// Bytes of nodes that one transaction takes at most, so that its pages stay few.
const NODES_BYTES_PER_COMMIT: usize = 8 << 20;

/// A repository's index and the files it refers to. Clones are the same store; it closes with the last of them.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    index: Index,
    disk: Arc<dyn Disk>,
    options: Options,
    files: Lives,
    handles: Handles,
    pool: Arc<Pool>,
    /// Dropped last: nobody else may open the index before it is closed.
    _lock: RepoLock,
}

impl Store {
    /// Opens the index in `dir/index`, or makes it, and settles what a crash left behind. Holds `dir/lock` until the last
    /// clone is dropped.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NewerFormat`], [`StoreError::NetworkFileSystem`], and what the disk says.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        Self::open_on(dir, options, Arc::new(SystemDisk))
    }

    fn open_on(dir: &Path, options: Options, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::io(dir))?;
        if let Some(kind) = file::platform::network_file_system(dir).map_err(StoreError::io(dir))? {
            return Err(StoreError::NetworkFileSystem { path: dir.into(), kind });
        }
        if !file::platform::takes_index(&dir.join("index")) {
            let long = std::io::Error::new(std::io::ErrorKind::InvalidFilename, "the repo's path is too long");
            return Err(StoreError::io(dir)(long));
        }
        let lock = RepoLock::take(dir)?;
        let index = Index::open(&dir.join("index"), options.map_bytes, Arc::clone(&disk))?;
        let files = recover::recover(&index)?;
        let pool = Arc::new(Pool::new(options.idle_bytes_max));
        let handles = Handles::new(&options, &pool);
        Ok(Self {
            inner: Arc::new(Inner { index, disk, options, files: Lives::new(files), handles, pool, _lock: lock }),
        })
    }

    /// Keeps blocks that lie in no file. Durable when it returns; large lots go in several commits.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] or what the index says; some of the blocks may be in by then.
    pub fn put_nodes(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let mut rest = blocks;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|block| {
                bytes += block.bytes().len();
                bytes <= NODES_BYTES_PER_COMMIT
            });
            let (now, later) = rest.split_at(fit.count().max(1));
            self.inner.index.write(|txn, tables| {
                for block in now {
                    tables.nodes.put(txn, &tables::multihash_key(block.cid().hash()), block.bytes())?;
                }
                Ok(())
            })?;
            rest = later;
        }
        self.inner.index.release_pages();
        Ok(())
    }

    /// The bytes of a block that lies in no file.
    ///
    /// # Errors
    /// What the index says.
    pub fn node(&self, multihash: &Multihash) -> Result<Option<Bytes>, StoreError> {
        self.inner.index.read(|txn, tables| {
            Ok(tables.nodes.get(txn, &tables::multihash_key(multihash))?.map(Bytes::copy_from_slice))
        })
    }

    /// Every root, in the order of the CIDs' bytes.
    ///
    /// # Errors
    /// What the index says.
    pub fn roots(&self) -> Result<Vec<RootRecord>, StoreError> {
        self.inner.index.read(|txn, tables| {
            let mut roots = Vec::new();
            for entry in tables.roots.iter(txn)? {
                let (key, value) = entry?;
                let cid = Cid::try_from(key).map_err(|e| corrupt(format!("a root's CID: {e}")))?;
                let (size, files) = tables::root_of_value(value)?;
                roots.push(RootRecord { cid, size, files });
            }
            Ok(roots)
        })
    }

    /// A root and the files that hold it.
    ///
    /// # Errors
    /// What the index says.
    pub fn root(&self, cid: &Cid) -> Result<Option<RootRecord>, StoreError> {
        self.inner.index.read(|txn, tables| match tables.roots.get(txn, &cid.to_bytes())? {
            None => Ok(None),
            Some(value) => {
                let (size, files) = tables::root_of_value(value)?;
                Ok(Some(RootRecord { cid: *cid, size, files }))
            }
        })
    }

    /// Every file that the index knows, in the order of their numbers.
    ///
    /// # Errors
    /// What the index says.
    pub fn files(&self) -> Result<Vec<FileRecord>, StoreError> {
        self.inner.index.read(|txn, tables| {
            let mut files = Vec::new();
            for entry in tables.files.iter(txn)? {
                let (key, _) = entry?;
                files.extend(self.inner.find_in(txn, tables, tables::file_of_key(key)?)?.map(|live| live.record()));
            }
            Ok(files)
        })
    }

    /// Every file that is a root of its own, in the order of their numbers; those that are being planned are none yet.
    ///
    /// # Errors
    /// What the index says.
    pub fn single_files(&self) -> Result<Vec<FileRecord>, StoreError> {
        self.inner.index.read(|txn, tables| {
            let mut files = Vec::new();
            for entry in tables.roots.iter(txn)? {
                for file in tables::root_of_value(entry?.1)?.1 {
                    files.extend(self.inner.find_in(txn, tables, file)?.map(|live| live.record()));
                }
            }
            files.sort_unstable_by_key(|file| file.id);
            Ok(files)
        })
    }

    /// One file.
    ///
    /// # Errors
    /// What the index says.
    pub fn file(&self, file: FileId) -> Result<Option<FileRecord>, StoreError> {
        Ok(self.inner.find(file)?.map(|live| live.record()))
    }

    /// Offset in bytes of every [`EXTENT_LEAVES`]th leaf of an activated file.
    ///
    /// # Errors
    /// What the index says.
    pub fn extents(&self, file: FileId) -> Result<Vec<u64>, StoreError> {
        self.inner.index.read(|txn, tables| match tables.extents.get(txn, &tables::file_key(file))? {
            None => Ok(Vec::new()),
            Some(value) => tables::extents_of_value(value),
        })
    }

    /// A number for a new job, never given before.
    ///
    /// # Errors
    /// What the index says.
    pub fn next_job_id(&self) -> Result<u64, StoreError> {
        self.inner.index.write(|txn, tables| next_number(txn, tables, META_NEXT_JOB))
    }

    /// Keeps a job, in place of what was kept under that number.
    ///
    /// # Errors
    /// What the index says.
    pub fn put_job(&self, id: u64, job: &[u8]) -> Result<(), StoreError> {
        self.inner.index.write(|txn, tables| Ok(tables.jobs.put(txn, &id.to_be_bytes(), job)?))
    }

    /// Forgets a job; true if it was there.
    ///
    /// # Errors
    /// What the index says.
    pub fn delete_job(&self, id: u64) -> Result<bool, StoreError> {
        self.inner.index.write(|txn, tables| Ok(tables.jobs.delete(txn, &id.to_be_bytes())?))
    }

    /// Every job, in the order of their numbers.
    ///
    /// # Errors
    /// What the index says.
    pub fn jobs(&self) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.inner.index.read(|txn, tables| {
            let mut jobs = Vec::new();
            for entry in tables.jobs.iter(txn)? {
                let (key, job) = entry?;
                let id = key.try_into().map(u64::from_be_bytes).map_err(|_| corrupt("a job's key"))?;
                jobs.push((id, job.to_vec()));
            }
            Ok(jobs)
        })
    }

    /// Bytes that the index takes on its disk.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.inner.index.used_bytes()
    }
}

impl Inner {
    /// A file, from the index if it is not here.
    fn find(&self, file: FileId) -> Result<Option<Arc<Live>>, StoreError> {
        match self.files.get(file) {
            Some(live) => Ok(Some(live)),
            None => self.index.read(|txn, tables| self.find_in(txn, tables, file)),
        }
    }

    /// As [`Inner::find`], within a transaction.
    fn find_in(&self, txn: &heed::RoTxn<'_>, tables: &Tables, file: FileId) -> Result<Option<Arc<Live>>, StoreError> {
        if let Some(live) = self.files.get(file) {
            return Ok(Some(live));
        }
        // Files that are not complete are always here: one that is in the index only is being forgotten, or is of a
        // collection that is.
        let Some(bytes) = tables.files.get(txn, &tables::file_key(file))?.filter(|bytes| Stored::is_complete(bytes))
        else {
            return Ok(None);
        };
        Ok(Some(self.files.put(Arc::new(Live::new(file, Stored::decode(bytes)?, None)))))
    }
}

/// Counts up a number of `meta`; the first is 1.
fn next_number(txn: &mut heed::RwTxn<'_>, tables: &Tables, name: &str) -> Result<u64, StoreError> {
    let last = match tables.meta.get(txn, name)? {
        None => 0,
        Some(bytes) => bytes.try_into().map(u64::from_be_bytes).map_err(|_| corrupt(name))?,
    };
    let next = last + 1;
    tables.meta.put(txn, name, &next.to_be_bytes())?;
    Ok(next)
}

/// A number for a new file.
fn next_file(txn: &mut heed::RwTxn<'_>, tables: &Tables) -> Result<FileId, StoreError> {
    let number = next_number(txn, tables, META_NEXT_FILE)?;
    u32::try_from(number).map(FileId).map_err(|_| corrupt("2³² files have been added"))
}
