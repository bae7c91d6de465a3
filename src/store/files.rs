//! Files coming into the index and leaving it: register, references, activation, forgetting.
//!
//! References of many leaves go in and out in bounded transactions, so that neither memory nor a crash's work grows with
//! the file; the file's state says until the last of them that nothing of it counts.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::file::bitmap::Bitmap;
use super::file::{part, platform};
use super::index::Index;
use super::index::tables::{self, Stored, Tables};
use super::live::Live;
use super::{
    Activation, FileId, FileRecord, FileState, LeafPlace, Member, NewFile, Preallocate, Stamp, Store, StoreError,
    WriteError, next_file,
};
use crate::block::{Cid, Multihash};

/// References that one transaction takes at most.
const REFS_PER_COMMIT: usize = 131_072;
/// Pages that one transaction changes, about, at most: each is copied into anonymous memory until the commit. 16 MiB.
const PAGES_PER_COMMIT: f64 = 4096.0;
/// References that fit a page when they arrive sorted (34 bytes of key, some 24 of the rest).
const REFS_PER_PAGE: f64 = 64.0;
/// References that one transaction removes at most: each may be on a page of its own. 16 MiB.
const REMOVALS_PER_COMMIT: usize = 4096;
/// References that are looked at in one read transaction: a long one keeps freed pages from being used again.
const SCAN_MAX: usize = 1 << 20;

impl Store {
    /// Makes a file known, in state Planning: nothing of it is served, and unless it is activated before the next open it
    /// is forgotten then.
    ///
    /// # Errors
    /// What the index says.
    pub fn register(&self, spec: &NewFile) -> Result<FileId, StoreError> {
        self.register_stored(Stored {
            path: spec.path.clone(),
            final_path: spec.final_path.clone(),
            len: spec.stamp.len,
            root: spec.root,
            leaves: 0,
            state: FileState::Planning,
            stamp: Some(spec.stamp),
            partial: spec.partial,
            member: spec.member,
        })
    }

    pub(super) fn register_stored(&self, stored: Stored) -> Result<FileId, StoreError> {
        let id = self.inner.index.write(|txn, tables| {
            let id = next_file(txn, tables)?;
            tables.files.put(txn, &tables::file_key(id), &stored.encode())?;
            Ok(id)
        })?;
        self.inner.files.put(Arc::new(Live::new(id, stored, None)));
        Ok(id)
    }

    /// Makes `final_path`.part of `len` bytes and registers it, in state Planning, so that [`Store::put_refs`] and
    /// [`Store::activate`] can follow. Nothing is overwritten; a crash leaves nothing that the next open does not remove.
    ///
    /// # Errors
    /// Those of [`super::preflight`]; [`WriteError::Exists`] also when the part is there. Nothing is left behind then.
    pub fn create_part(
        &self,
        root: &Cid,
        final_path: &Path,
        len: u64,
        policy: Preallocate,
        member: Option<Member>,
    ) -> Result<FileId, WriteError> {
        let final_path = std::path::absolute(final_path).map_err(WriteError::io(final_path))?;
        part::preflight(&final_path, len)?;
        let path = part::part_path(&final_path);
        if path.symlink_metadata().is_ok() {
            return Err(WriteError::Exists(path));
        }
        let mut stored = Stored {
            path: path.clone(),
            final_path,
            len,
            root: Some(*root),
            leaves: 0,
            state: FileState::Planning,
            stamp: None,
            partial: true,
            member,
        };
        let id = self.register_stored(stored.clone())?;
        let made = part::create(&path).and_then(|(file, stamp)| {
            // Known before it is more than an empty file, so that the next open knows whose it is.
            stored.stamp = Some(Stamp { len, ..stamp });
            let known = self.put_stored(id, &stored);
            let sized = known.map_err(WriteError::from).and_then(|()| part::size(&file, &path, len, policy));
            let durable = sized.and_then(|()| match path.parent() {
                Some(dir) => platform::sync_dir(dir).map_err(WriteError::io(dir)),
                None => Ok(()),
            });
            durable.inspect_err(|_| {
                let _ = std::fs::remove_file(&path);
            })
        });
        match made {
            Ok(()) => Ok(id),
            Err(error) => {
                // Whatever the index cannot forget now (a full disk), it forgets at the next open.
                if let Err(error) = self.forget_file(id) {
                    tracing::warn!(%error, "a file that could not be made stays planned until the next open");
                }
                Err(error)
            }
        }
    }

    /// Writes a file's record, and what is known of it here follows.
    pub(super) fn put_stored(&self, id: FileId, stored: &Stored) -> Result<(), StoreError> {
        let live = self.inner.find(id)?.ok_or(StoreError::UnknownFile(id))?;
        self.inner.index.write(|txn, tables| put_file(txn, tables, id, stored))?;
        live.stored_mut().clone_from(stored);
        Ok(())
    }

    /// Adds references to leaves of a planned file; each says where one block lies in it. Of several for one block the one
    /// with the lowest offset is kept, also against those of earlier calls. `refs` comes back sorted and without
    /// doubles. Returns how many keys were new to this file.
    ///
    /// Fewer, larger calls make a smaller index: sorted keys fill pages.
    ///
    /// # Errors
    /// [`StoreError::UnknownFile`] when the file is not being planned; what the index says. Some may be in by then.
    ///
    /// # Panics
    /// When a reference is to another file.
    pub fn put_refs(&self, file: FileId, refs: &mut Vec<(Multihash, LeafPlace)>) -> Result<u64, StoreError> {
        assert!(refs.iter().all(|(_, place)| place.file == file), "references of one file");
        let live = self.inner.find(file)?.filter(|live| live.stored().state == FileState::Planning);
        live.ok_or(StoreError::UnknownFile(file))?;
        refs.sort_unstable_by(|(a, at), (b, bt)| {
            (a.code(), a.digest(), at.offset).cmp(&(b.code(), b.digest(), bt.offset))
        });
        refs.dedup_by(|later, first| later.0 == first.0);
        let mut rest = &refs[..];
        let mut fresh = 0;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.fit_commit(rest)?);
            fresh += self.inner.index.write(|txn, tables| put_sorted(txn, tables, now))?;
            rest = later;
        }
        self.inner.index.release_pages();
        Ok(fresh)
    }

    /// How many of these sorted references one transaction may take without changing too many pages. Digests are as good
    /// as random, so a stretch of them touches the same share of the table's pages as it is of all digests.
    fn fit_commit(&self, refs: &[(Multihash, LeafPlace)]) -> Result<usize, StoreError> {
        let pages = self.inner.index.read(|txn, tables| Ok(tables.refs.stat(txn)?.leaf_pages))?;
        let most = refs.len().min(REFS_PER_COMMIT);
        let Some(first) = refs.first().map(|(key, _)| position(key)) else { return Ok(0) };
        let fits = |count: usize| {
            let share = refs.get(count - 1).map_or(1.0, |(key, _)| (position(key) - first).abs());
            let (pages, count) = (pages as f64, count as f64);
            (pages * share).min(count) + count / REFS_PER_PAGE <= PAGES_PER_COMMIT
        };
        let mut count = most;
        while count > 1024 && !fits(count) {
            count /= 2;
        }
        Ok(count)
    }

    /// Ends the planning: a part becomes Partial, with no leaf in it, an added file Complete; the root knows the file in
    /// the same commit, unless it belongs to a collection. An older entry of a complete file at the same path is forgotten.
    ///
    /// # Errors
    /// [`StoreError::UnknownFile`] when the file is not being planned; what the index says.
    pub fn activate(&self, file: FileId, activation: Activation<'_>) -> Result<(), StoreError> {
        let live = self.inner.find(file)?.filter(|live| live.stored().state == FileState::Planning);
        let live = live.ok_or(StoreError::UnknownFile(file))?;
        let mut stored = live.stored().clone();
        stored.root = Some(*activation.root);
        stored.leaves = activation.leaves;
        stored.state = if stored.partial { FileState::Partial } else { FileState::Complete };
        self.inner.index.write(|txn, tables| {
            put_file(txn, tables, file, &stored)?;
            tables.extents.put(txn, &tables::file_key(file), &tables::extents_value(activation.extents))?;
            if stored.member.is_some() {
                return Ok(());
            }
            let key = activation.root.to_bytes();
            let mut files = match tables.roots.get(txn, &key)? {
                Some(value) => tables::root_of_value(value)?.1,
                None => Vec::new(),
            };
            files.push(file);
            files.sort_unstable();
            files.dedup();
            Ok(tables.roots.put(txn, &key, &tables::root_value(stored.len, &files))?)
        })?;
        live.set_bits(stored.partial.then(|| Arc::new(Bitmap::new(activation.leaves))));
        let path = stored.path.clone();
        let single = stored.member.is_none();
        *live.stored_mut() = stored;
        self.inner.files.put(live);
        if single { self.supersede(file, &path) } else { Ok(()) }
    }

    /// Forgets older complete entries of the same path among the files that are roots of their own.
    pub(super) fn supersede(&self, by: FileId, path: &Path) -> Result<(), StoreError> {
        for file in self.single_files()? {
            if file.id != by && file.state == FileState::Complete && file.path == path {
                self.forget_file(file.id)?;
            }
        }
        Ok(())
    }

    /// Forgets every file of a root and returns what they were. No file is deleted from the disk. Nodes of the tree stay in
    /// the index until a collection of garbage finds that no other root needs them.
    ///
    /// # Errors
    /// What the index says; the next open goes on with it then.
    pub fn forget(&self, root: &Cid) -> Result<Vec<FileRecord>, StoreError> {
        let files = self.root(root)?.map(|root| root.files).unwrap_or_default();
        let mut records = Vec::new();
        for file in files {
            records.extend(self.forget_file(file)?);
        }
        Ok(records)
    }

    /// Forgets one file, in whatever state, and returns what it was. A writer that it has writes into the void.
    ///
    /// # Errors
    /// What the index says; the next open goes on with it then.
    pub fn forget_file(&self, file: FileId) -> Result<Option<FileRecord>, StoreError> {
        let Some(live) = self.inner.find(file)? else { return Ok(None) };
        let record = live.record();
        let mut stored = live.stored().clone();
        stored.state = FileState::Forgetting;
        self.put_stored(file, &stored)?;
        self.inner.handles.forget(file);
        remove_file(&self.inner.index, file, &stored)?;
        self.inner.files.remove(file);
        Ok(Some(record))
    }
}

/// Where a digest lies among all digests, from 0 to 1.
fn position(multihash: &Multihash) -> f64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(multihash.digest()) {
        *to = *from;
    }
    u64::from_be_bytes(bytes) as f64 / u64::MAX as f64
}

/// Replaces a file's record, if there still is one: a file that is being forgotten does not come back.
pub(super) fn put_file(
    txn: &mut heed::RwTxn<'_>,
    tables: &Tables,
    id: FileId,
    stored: &Stored,
) -> Result<(), StoreError> {
    let key = tables::file_key(id);
    let known = tables.files.get(txn, &key)?.map(Stored::decode).transpose()?.ok_or(StoreError::UnknownFile(id))?;
    if known.state == FileState::Forgetting && stored.state != FileState::Forgetting {
        return Err(StoreError::UnknownFile(id));
    }
    Ok(tables.files.put(txn, &key, &stored.encode())?)
}

fn put_sorted(txn: &mut heed::RwTxn<'_>, tables: &Tables, refs: &[(Multihash, LeafPlace)]) -> Result<u64, StoreError> {
    let mut fresh = 0;
    for (multihash, place) in refs {
        let key = tables::multihash_key(multihash);
        match own_ref(txn, tables, &key, place.file)? {
            Some((_, old)) if old.offset <= place.offset => continue,
            Some((value, _)) => {
                tables.refs.delete_one_duplicate(txn, &key, &value)?;
            }
            None => fresh += 1,
        }
        let (value, inline) = tables::ref_value(place);
        tables.refs.put(txn, &key, &value)?;
        let wrap_key = tables::wrap_key(&key, place.file);
        if inline {
            tables.wraps.delete(txn, &wrap_key)?;
        } else {
            tables.wraps.put(txn, &wrap_key, &place.wrap)?;
        }
    }
    Ok(fresh)
}

/// The reference that a file has under a key.
fn own_ref(
    txn: &heed::RwTxn<'_>,
    tables: &Tables,
    key: &[u8],
    file: FileId,
) -> Result<Option<(Vec<u8>, LeafPlace)>, StoreError> {
    // Duplicates sort by their file's number, which comes first.
    for entry in tables.refs.get_duplicates(txn, key)?.into_iter().flatten() {
        let (_, value) = entry?;
        if tables::ref_file(value)? == file {
            return Ok(Some((value.to_vec(), tables::ref_place(value)?.0)));
        }
    }
    Ok(None)
}

/// Removes a file and all that refers to it. Its record goes last, so that the next open can go on after a crash.
pub(super) fn remove_file(index: &Index, file: FileId, stored: &Stored) -> Result<(), StoreError> {
    if let Some(root) = &stored.root {
        index.write(|txn, tables| remove_from_root(txn, tables, &root.to_bytes(), file))?;
    }
    let mut from = Some(Vec::new());
    while let Some(start) = from {
        let (found, next) = index.read(|txn, tables| refs_of(txn, tables, file, &start))?;
        if !found.is_empty() {
            index.write(|txn, tables| {
                for (key, value) in &found {
                    tables.refs.delete_one_duplicate(txn, key, value)?;
                    tables.wraps.delete(txn, &tables::wrap_key(key, file))?;
                }
                Ok(())
            })?;
        }
        from = next;
    }
    index.release_pages();
    index.write(|txn, tables| {
        let (first, last) = (tables::have_key(file, 0), tables::have_key(file, u64::from(u32::MAX)));
        tables.have.delete_range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))?;
        tables.extents.delete(txn, &tables::file_key(file))?;
        tables.files.delete(txn, &tables::file_key(file))?;
        Ok(())
    })
}

fn remove_from_root(txn: &mut heed::RwTxn<'_>, tables: &Tables, root: &[u8], file: FileId) -> Result<(), StoreError> {
    let Some(value) = tables.roots.get(txn, root)? else { return Ok(()) };
    let (size, mut files) = tables::root_of_value(value)?;
    files.retain(|id| *id != file);
    if files.is_empty() {
        tables.roots.delete(txn, root)?;
    } else {
        tables.roots.put(txn, root, &tables::root_value(size, &files))?;
    }
    Ok(())
}

type FoundRefs = (Vec<(Vec<u8>, Vec<u8>)>, Option<Vec<u8>>);

/// References of a file from a key on, and the key to go on from. References are ordered by hash, so this looks at all
/// of them: forgetting is rare, and an index by file would double the size of the other.
fn refs_of(
    txn: &heed::RoTxn<'_, heed::WithoutTls>,
    tables: &Tables,
    file: FileId,
    from: &[u8],
) -> Result<FoundRefs, StoreError> {
    let mut found = Vec::new();
    let range = (if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) }, Bound::Unbounded);
    for (seen, entry) in tables.refs.range(txn, &range)?.enumerate() {
        let (key, value) = entry?;
        // Between two keys, never between the duplicates of one: those that were seen would be seen again for ever.
        if (found.len() >= REMOVALS_PER_COMMIT || seen >= SCAN_MAX) && key != from {
            return Ok((found, Some(key.to_vec())));
        }
        if tables::ref_file(value)? == file {
            found.push((key.to_vec(), value.to_vec()));
        }
    }
    Ok((found, None))
}
