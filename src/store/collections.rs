//! Many files under one root, and DAGs of plain blocks: entered in large commits, forgotten in one pass.
//!
//! A directory of a million files is a million records and references, but neither a million commits nor a million
//! objects in memory. Files that are complete when they are entered go in by lots ([`Store::add_complete`]), each one
//! transaction; larger ones that are pulled leaf by leaf live the ordinary life of a file (`files.rs`) with their place
//! in the collection noted.
//!
//! Order of writes: the collection's record first, in state Planning (an import) or Partial (a pull), then its files,
//! then its last state with its root. A crash during an import leaves nothing: the next open forgets the collection and
//! all files in it. A crash during a pull leaves what was entered, each file whole or by its bits. Forgetting: state
//! first, references and files after, the record last.

use std::collections::HashSet;
use std::ops::Bound;
use std::path::Path;

use super::index::Index;
use super::index::tables::{self, META_NEXT_COLLECTION, META_NEXT_FILE, Stored, StoredCollection, Tables, corrupt};
use super::{
    CollectionId, CollectionRecord, CollectionState, CompleteFile, EXTENT_LEAVES, FileId, FileRecord, FileState,
    LeafPlace, Member, NewCollection, Store, StoreError, next_number,
};
use crate::block::{Block, Cid, IDENTITY};

/// Things that one transaction removes at most.
const REMOVALS_PER_COMMIT: usize = 16_384;
/// Things written or removed after which the pages that were touched may leave this process's memory.
const THINGS_PER_RELEASE: usize = 2048;
/// Things that are looked at in one read transaction: a long one keeps freed pages from being used again.
const SCAN_MAX: usize = 1 << 20;

impl Store {
    /// Makes a collection known, so that files can be entered with it as their place.
    ///
    /// # Errors
    /// What the index says.
    pub fn begin_collection(&self, spec: &NewCollection) -> Result<CollectionId, StoreError> {
        let state = if spec.partial { CollectionState::Partial } else { CollectionState::Planning };
        let stored = StoredCollection { root: spec.root, path: spec.path.clone(), state, size: 0, files: 0 };
        self.inner.index.write(|txn, tables| {
            let number = next_number(txn, tables, META_NEXT_COLLECTION)?;
            let id = u32::try_from(number).map(CollectionId).map_err(|_| corrupt("2³² collections have been made"))?;
            tables.collections.put(txn, &tables::collection_key(id), &stored.encode())?;
            Ok(id)
        })
    }

    /// Enters files that are all there, and blocks that lie in no file, in one commit: durable when this returns, absent
    /// after an error. The caller bounds the lot: it is held in memory until the commit, about as many bytes again as it
    /// has itself and at least a page for each reference.
    ///
    /// # Errors
    /// What the index says.
    ///
    /// # Panics
    /// When a file has no place in a collection, or is partial.
    pub fn add_complete(&self, files: &[CompleteFile], nodes: &[Block]) -> Result<(), StoreError> {
        assert!(files.iter().all(|file| file.file.member.is_some() && !file.file.partial), "whole members");
        self.inner.index.write(|txn, tables| {
            let mut last = match tables.meta.get(txn, META_NEXT_FILE)? {
                None => 0,
                Some(bytes) => bytes.try_into().map(u64::from_be_bytes).map_err(|_| corrupt(META_NEXT_FILE))?,
            };
            let mut refs = Vec::new();
            for file in files {
                last += 1;
                let id = u32::try_from(last).map(FileId).map_err(|_| corrupt("2³² files have been added"))?;
                enter(txn, tables, id, file, &mut refs)?;
            }
            tables.meta.put(txn, META_NEXT_FILE, &last.to_be_bytes())?;
            put_refs(txn, tables, refs, &|| self.inner.index.release_pages())?;
            for block in nodes {
                tables.nodes.put(txn, &tables::multihash_key(block.cid().hash()), block.bytes())?;
            }
            Ok(())
        })?;
        self.inner.index.release_pages();
        Ok(())
    }

    /// Ends the making of a collection: it is complete, under that root, with so many bytes and files (or blocks). Older
    /// complete collections in the same folder are forgotten.
    ///
    /// # Errors
    /// What the index says, also when there is no such collection.
    pub fn finish_collection(&self, id: CollectionId, root: &Cid, size: u64, files: u64) -> Result<(), StoreError> {
        let path = self.inner.index.write(|txn, tables| {
            let mut stored = collection(txn, tables, id)?.ok_or_else(|| corrupt("a collection is gone"))?;
            stored.root = Some(*root);
            stored.state = CollectionState::Complete;
            (stored.size, stored.files) = (size, files);
            tables.collections.put(txn, &tables::collection_key(id), &stored.encode())?;
            Ok(stored.path)
        })?;
        for older in self.collections()? {
            let same_place = older.path == path && (path.is_some() || older.root == Some(*root));
            if older.id != id && older.state == CollectionState::Complete && same_place {
                self.forget_collection(older.id)?;
            }
        }
        Ok(())
    }

    /// Every collection, in the order of their numbers.
    ///
    /// # Errors
    /// What the index says.
    pub fn collections(&self) -> Result<Vec<CollectionRecord>, StoreError> {
        self.inner.index.read(|txn, tables| {
            let mut all = Vec::new();
            for entry in tables.collections.iter(txn)? {
                let (key, value) = entry?;
                let StoredCollection { root, path, state, size, files } = StoredCollection::decode(value)?;
                all.push(CollectionRecord { id: tables::collection_of_key(key)?, root, path, state, size, files });
            }
            Ok(all)
        })
    }

    /// What an earlier pull of `root` to `path` has entered, to be gone on with: one that was complete is partial again
    /// when this returns.
    ///
    /// # Errors
    /// What the index says.
    pub fn resume_collection(&self, root: &Cid, path: &Path) -> Result<Option<CollectionRecord>, StoreError> {
        let ours = |found: &CollectionRecord| {
            let settled = matches!(found.state, CollectionState::Partial | CollectionState::Complete);
            settled && found.root == Some(*root) && found.path.as_deref() == Some(path)
        };
        let Some(found) = self.collections()?.into_iter().find(ours) else { return Ok(None) };
        self.inner.index.write(|txn, tables| {
            let mut stored = collection(txn, tables, found.id)?.ok_or_else(|| corrupt("a collection is gone"))?;
            stored.state = CollectionState::Partial;
            Ok(tables.collections.put(txn, &tables::collection_key(found.id), &stored.encode())?)
        })?;
        Ok(Some(found))
    }

    /// Shows every file of a collection, in the order of their numbers, until `each` says false.
    ///
    /// # Errors
    /// What the index says.
    pub fn members(&self, id: CollectionId, each: &mut dyn FnMut(FileRecord) -> bool) -> Result<(), StoreError> {
        self.members_after(id, None, each)
    }

    /// As [`Store::members`], of the files whose number is greater. `each` runs within a transaction and must not ask
    /// the store for anything: whoever has more to do notes some files, ends, and goes on after the last.
    ///
    /// # Errors
    /// What the index says.
    pub fn members_after(
        &self,
        id: CollectionId,
        after: Option<FileId>,
        each: &mut dyn FnMut(FileRecord) -> bool,
    ) -> Result<(), StoreError> {
        let mut from = after.map_or(Some(0), |file| file.0.checked_add(1));
        while let Some(start) = from {
            from = self.inner.index.read(|txn, tables| {
                for (seen, entry) in tables.files.range(txn, &files_from(&tables::file_key(FileId(start))))?.enumerate()
                {
                    self.inner.index.release_scanned(seen);
                    let (key, value) = entry?;
                    let file = tables::file_of_key(key)?;
                    if seen >= SCAN_MAX {
                        return Ok(Some(file.0));
                    }
                    let stored = Stored::decode(value)?;
                    if stored.member.is_none_or(|member| member.collection != id) {
                        continue;
                    }
                    // What is not complete is known better here than in the index. A million complete files need not
                    // pass through the cache of those that are served.
                    let record = match self.inner.files.get(file) {
                        Some(live) => live.record(),
                        None if stored.state == FileState::Complete => {
                            super::live::Live::new(file, stored, None).record()
                        }
                        None => continue,
                    };
                    if !each(record) {
                        return Ok(None);
                    }
                }
                Ok(None)
            })?;
        }
        self.inner.index.release_pages();
        Ok(())
    }

    /// Forgets a collection and the references of all its files, and returns what it was. No file is deleted from the
    /// disk; nodes stay in the index.
    ///
    /// # Errors
    /// What the index says; the next open goes on with it then.
    pub fn forget_collection(&self, id: CollectionId) -> Result<Option<CollectionRecord>, StoreError> {
        let record = self.collections()?.into_iter().find(|record| record.id == id);
        let Some(record) = record else { return Ok(None) };
        // Files that are being pulled leaf by leaf have state here that has to go with them.
        for live in self.inner.files.open() {
            if live.stored().member.is_some_and(|member| member.collection == id) {
                self.forget_file(live.id)?;
            }
        }
        for file in remove(&self.inner.index, id)? {
            self.inner.handles.forget(file);
            self.inner.files.remove(file);
        }
        Ok(Some(record))
    }
}

/// Forgets what a crash left in the making or in the forgetting.
pub(super) fn recover(index: &Index) -> Result<(), StoreError> {
    let half_done = index.read(|txn, tables| {
        let mut found = Vec::new();
        for entry in tables.collections.iter(txn)? {
            let (key, value) = entry?;
            let state = StoredCollection::decode(value)?.state;
            if matches!(state, CollectionState::Planning | CollectionState::Forgetting) {
                found.push(tables::collection_of_key(key)?);
            }
        }
        Ok(found)
    })?;
    for id in half_done {
        remove(index, id)?;
    }
    Ok(())
}

fn collection(
    txn: &heed::RoTxn<'_>,
    tables: &Tables,
    id: CollectionId,
) -> Result<Option<StoredCollection>, StoreError> {
    tables.collections.get(txn, &tables::collection_key(id))?.map(StoredCollection::decode).transpose()
}

type Ref = (Vec<u8>, LeafPlace);

/// Writes a file's record and notes its references.
fn enter(
    txn: &mut heed::RwTxn<'_>,
    tables: &Tables,
    id: FileId,
    file: &CompleteFile,
    refs: &mut Vec<Ref>,
) -> Result<(), StoreError> {
    let stored = Stored {
        path: file.file.path.clone(),
        final_path: file.file.final_path.clone(),
        len: file.file.stamp.len,
        root: Some(file.root),
        leaves: file.leaves.len() as u64,
        state: FileState::Complete,
        stamp: Some(file.file.stamp),
        partial: false,
        member: file.file.member,
    };
    tables.files.put(txn, &tables::file_key(id), &stored.encode())?;
    // One extent begins at 0, which everybody knows.
    if file.leaves.len() as u64 > EXTENT_LEAVES {
        let extents = (0_u64..).zip(&file.leaves).filter(|(i, _)| i % EXTENT_LEAVES == 0);
        let extents: Vec<u64> = extents.map(|(_, leaf)| leaf.offset).collect();
        tables.extents.put(txn, &tables::file_key(id), &tables::extents_value(&extents))?;
    }
    for (leaf, at) in (0..).zip(&file.leaves).filter(|(_, at)| at.multihash.code() != IDENTITY) {
        let place = LeafPlace { file: id, leaf, offset: at.offset, len: at.len, wrap: file.wrap.clone() };
        refs.push((tables::multihash_key(&at.multihash), place));
    }
    Ok(())
}

/// Writes references of files that have none yet, in the order of their keys; of several for one block in one file the
/// first is kept. Looking for the places of a lot touches much of a large table, stretch by stretch: `release` is called
/// after each.
fn put_refs(
    txn: &mut heed::RwTxn<'_>,
    tables: &Tables,
    mut refs: Vec<Ref>,
    release: &dyn Fn(),
) -> Result<(), StoreError> {
    refs.sort_unstable_by(|(a, at), (b, bt)| (a, at.file, at.offset).cmp(&(b, bt.file, bt.offset)));
    refs.dedup_by(|later, first| later.0 == first.0 && later.1.file == first.1.file);
    for (written, (key, place)) in (1..).zip(refs) {
        if written % THINGS_PER_RELEASE == 0 {
            release();
        }
        let (value, inline) = tables::ref_value(&place);
        tables.refs.put(txn, &key, &value)?;
        if !inline {
            tables.wraps.put(txn, &tables::wrap_key(&key, place.file), &place.wrap)?;
        }
    }
    Ok(())
}

/// Removes a collection and all that refers to it. Its record goes last, so that the next open can go on after a crash.
fn remove(index: &Index, id: CollectionId) -> Result<HashSet<FileId>, StoreError> {
    index.write(|txn, tables| {
        let Some(mut stored) = collection(txn, tables, id)? else { return Ok(()) };
        stored.state = CollectionState::Forgetting;
        Ok(tables.collections.put(txn, &tables::collection_key(id), &stored.encode())?)
    })?;
    let files = files_of(index, id)?;
    if !files.is_empty() {
        remove_refs(index, &files)?;
    }
    let mut rest: Vec<FileId> = files.iter().copied().collect();
    rest.sort_unstable();
    for lot in rest.chunks(REMOVALS_PER_COMMIT) {
        index.write(|txn, tables| {
            for (removed, file) in lot.iter().enumerate() {
                if removed % THINGS_PER_RELEASE == 0 {
                    index.release_pages();
                }
                let (first, last) = (tables::have_key(*file, 0), tables::have_key(*file, u64::from(u32::MAX)));
                tables.have.delete_range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))?;
                tables.extents.delete(txn, &tables::file_key(*file))?;
                tables.files.delete(txn, &tables::file_key(*file))?;
            }
            Ok(())
        })?;
        index.release_pages();
    }
    index.write(|txn, tables| Ok(tables.collections.delete(txn, &tables::collection_key(id))?))?;
    index.release_pages();
    Ok(files)
}

fn files_of(index: &Index, id: CollectionId) -> Result<HashSet<FileId>, StoreError> {
    let mut files = HashSet::new();
    let is_member = |member: Option<Member>| member.is_some_and(|member| member.collection == id);
    index.read(|txn, tables| {
        for (seen, entry) in tables.files.iter(txn)?.enumerate() {
            index.release_scanned(seen);
            let (key, value) = entry?;
            if is_member(Stored::decode(value)?.member) {
                files.insert(tables::file_of_key(key)?);
            }
        }
        Ok(())
    })?;
    Ok(files)
}

/// Removes every reference to the files. References are ordered by hash, so this looks at all of them, once.
fn remove_refs(index: &Index, files: &HashSet<FileId>) -> Result<(), StoreError> {
    let mut from = Some(Vec::new());
    while let Some(start) = from {
        let (found, next) = index.read(|txn, tables| {
            let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            let range =
                (if start.is_empty() { Bound::Unbounded } else { Bound::Included(&start[..]) }, Bound::Unbounded);
            for (seen, entry) in tables.refs.range(txn, &range)?.enumerate() {
                index.release_scanned(seen);
                let (key, value) = entry?;
                // Between two keys, never between the duplicates of one.
                if (found.len() >= REMOVALS_PER_COMMIT || seen >= SCAN_MAX) && key != start {
                    return Ok((found, Some(key.to_vec())));
                }
                if files.contains(&tables::ref_file(value)?) {
                    found.push((key.to_vec(), value.to_vec()));
                }
            }
            Ok((found, None))
        })?;
        if !found.is_empty() {
            index.write(|txn, tables| {
                for (key, value) in &found {
                    tables.refs.delete_one_duplicate(txn, key, value)?;
                    tables.wraps.delete(txn, &tables::wrap_key(key, tables::ref_file(value)?))?;
                }
                Ok(())
            })?;
        }
        index.release_pages();
        from = next;
    }
    Ok(())
}

fn files_from(key: &[u8; 4]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(&key[..]), Bound::Unbounded)
}
