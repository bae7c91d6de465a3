//! The index: one LMDB environment, its transactions, its growth, its reserve on the disk.
//!
//! Owns the environment. Invariants: one writer at a time; no transaction is open while the map grows (the `gate`); a
//! closure given to [`Index::write`] may run more than once and leaves no trace unless its commit succeeds; a closure
//! never calls the index again. What is in the tables is `tables.rs`; what it means is the store's.
//!
//! After a crash LMDB shows the last commit that returned, or one that was under way, whole. The map is read-only
//! (never `MDB_WRITEMAP`), so a stray write of ours cannot damage it.
#![allow(unsafe_code, reason = "heed's `open` and `resize` are unsafe by contract")]

pub(crate) mod tables;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use heed::{Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};

use super::StoreError;
use super::file::disk::Disk;
use super::file::platform;
use tables::{FORMAT, META_FORMAT, TABLES_MAX, Tables, corrupt};

/// Readers at a time: one for each blocking thread of a large runtime.
const READERS_MAX: u32 = 1024;
/// Kept on the disk for the commit that has to succeed when the disk is full: enough for an epoch's bits, a file's state
/// and a job's, with all their pages copied.
const RESERVE_BYTES: u64 = 1 << 20;
/// Entries of a scan after which the pages that it went through may leave this process's memory.
const ENTRIES_PER_RELEASE: usize = 1 << 16;
/// A map that is full becomes this many times larger.
const GROWTH: usize = 2;
/// LMDB cannot open an environment whose map is smaller than its first pages.
const MAP_BYTES_MIN: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Index {
    env: Env<WithoutTls>,
    tables: Tables,
    /// Read-locked by every transaction, write-locked to grow the map.
    gate: RwLock<()>,
    /// Held by the one writer, so that growth waits for readers only.
    writer: Mutex<()>,
    data_path: PathBuf,
    reserve_path: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Index {
    pub(crate) fn open(dir: &Path, map_bytes: usize, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(StoreError::io(dir))?;
        let map_bytes = map_bytes.max(MAP_BYTES_MIN).next_multiple_of(1 << 16);
        // SAFETY: the file is ours alone (the repository's lock is held by whoever opens the index), is on a local file
        // system (checked before), and no flag is set that weakens LMDB's promises.
        let env = unsafe {
            let mut options = EnvOpenOptions::new().read_txn_without_tls();
            options.map_size(map_bytes).max_readers(READERS_MAX).max_dbs(TABLES_MAX);
            // Lookups are random: pages around the one that is asked for are of no use.
            options.flags(EnvFlags::NO_READ_AHEAD);
            options.open(dir)?
        };
        check_format(&env)?;
        let tables = Tables::open(&env)?;
        let index = Self {
            env,
            tables,
            gate: RwLock::new(()),
            writer: Mutex::new(()),
            data_path: dir.canonicalize().map_err(StoreError::io(dir))?.join("data.mdb"),
            reserve_path: dir.join("reserve"),
            disk,
        };
        index.write(|txn, tables| {
            let format = FORMAT.to_be_bytes();
            if tables.meta.get(txn, META_FORMAT)? != Some(&format[..]) {
                tables.meta.put(txn, META_FORMAT, &format)?;
            }
            Ok(())
        })?;
        index.keep_reserve();
        Ok(index)
    }

    pub(crate) fn read<T>(
        &self,
        body: impl FnOnce(&RoTxn<'_, WithoutTls>, &Tables) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let txn = self.env.read_txn()?;
        body(&txn, &self.tables)
    }

    /// Runs `body` in a transaction and commits it: durable when this returns `Ok`, without a trace otherwise. Grows
    /// the map, or gives the reserve up, and runs `body` again when that is what it takes.
    pub(crate) fn write<T>(
        &self,
        mut body: impl FnMut(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.attempt(&mut body) {
                Err(StoreError::Index(heed::Error::Mdb(MdbError::MapFull))) => self.grow()?,
                // The reserve is made again at the next open.
                Err(StoreError::NoSpace) if fs::remove_file(&self.reserve_path).is_ok() => {}
                other => return other,
            }
        }
    }

    fn attempt<T>(
        &self,
        body: &mut impl FnMut(&mut RwTxn<'_>, &Tables) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.env.write_txn()?;
        let value = body(&mut txn, &self.tables)?;
        self.disk.before_commit().map_err(StoreError::io(&self.data_path))?;
        txn.commit()?;
        Ok(value)
    }

    fn grow(&self) -> Result<(), StoreError> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let size = self.env.info().map_size.saturating_mul(GROWTH);
        tracing::info!(bytes = size, "the index grows");
        // SAFETY: every transaction of this process holds the gate for reading, and no other process has the index.
        unsafe { self.env.resize(size) }?;
        Ok(())
    }

    /// Lets the pages that a large transaction left in this process's memory go.
    pub(crate) fn release_pages(&self) {
        platform::release_mapping(&self.data_path);
    }

    /// As [`Index::release_pages`], now and then in a long scan that has come to the entry of that number.
    pub(crate) fn release_scanned(&self, seen: usize) {
        if seen % ENTRIES_PER_RELEASE == ENTRIES_PER_RELEASE - 1 {
            self.release_pages();
        }
    }

    /// The file that it is in.
    pub(crate) fn data_path(&self) -> &Path {
        &self.data_path
    }

    /// Bytes of the index on the disk that are in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        let page = u64::from(self.env.unnamed_database_stat().page_size);
        (self.env.info().last_page_number as u64 + 1) * page
    }

    #[cfg(test)]
    pub(crate) fn map_bytes(&self) -> usize {
        self.env.info().map_size
    }

    fn keep_reserve(&self) {
        let made = OpenOptions::new().write(true).create(true).truncate(false).open(&self.reserve_path);
        if let Err(error) =
            made.and_then(|file| platform::allocate(&file, RESERVE_BYTES).and_then(|()| file.set_len(RESERVE_BYTES)))
        {
            tracing::warn!(%error, "the index has no reserve on its disk");
            let _ = fs::remove_file(&self.reserve_path);
        }
    }
}

/// Refuses what a newer version wrote, before anything is touched. What older ones wrote is read as it is (see
/// [`FORMAT`]), and takes the new number with the first commit.
fn check_format(env: &Env<WithoutTls>) -> Result<(), StoreError> {
    let txn = env.read_txn()?;
    let meta = env.open_databases_and_commit(txn, |opener, txn| {
        opener
            .open_database::<heed::types::Str, heed::types::Bytes>(txn, Some("meta"))
            .map(heed::CommitOrAbort::<_, ()>::Commit)
    })?;
    let Some(meta) = meta.unwrap_commit() else { return Ok(()) };
    let txn = env.read_txn()?;
    let Some(format) = meta.get(&txn, META_FORMAT)? else { return Ok(()) };
    let found = u32::from_be_bytes(format.try_into().map_err(|_| corrupt("the format version"))?);
    match found {
        1..=FORMAT => Ok(()),
        0 => Err(corrupt("there never was a format 0")),
        newer => Err(StoreError::NewerFormat { found: newer, supported: FORMAT }),
    }
}
