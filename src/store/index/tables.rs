//! Every table of the index: names, keys, values, format version.
//!
//! | table | key → value |
//! |---|---|
//! | `meta` | name → format version, next file id, next collection id, next job id (all u64, big endian) |
//! | `files` | file id (u32, big endian) → [`Stored`] |
//! | `refs` (sorted duplicates) | multihash → file id (u32, big endian), varints leaf, offset, length, wrap kind, wrap |
//! | `wraps` | multihash, file id → a wrap that is too long for a reference |
//! | `nodes` | multihash → bytes of a block that lies in no file |
//! | `roots` | CID → size, file ids |
//! | `have` | file id, segment (u32 each, big endian) → bits of leaves durably written (partial files only) |
//! | `extents` | file id → offsets of every so-manyth leaf (u64, little endian) |
//! | `collections` | collection id (u32, big endian) → [`StoredCollection`] |
//! | `jobs` | job id (u64, big endian) → bytes that the store does not look into |
//!
//! `roots` holds files that belong to no collection; a collection's root is in its own record.
//!
//! Big-endian keys sort like their numbers. A change of any of these layouts raises [`FORMAT`]; what older versions
//! wrote must be read still, or be brought up to date when the index is opened.

use std::path::PathBuf;

use heed::types::{Bytes, Str};
use heed::{CommitOrAbort, Database, DatabaseFlags, Env, WithoutTls};

use crate::block::{Cid, Multihash, push_varint, varint};
use crate::store::file::platform;
use crate::store::{
    CollectionId, CollectionState, FileId, FileIdentity, FileState, LeafPlace, Member, Stamp, StoreError,
};

/// The version of the layout described above.
///
/// | version | what it brought |
/// |---|---|
/// | 1 | all tables but `collections` |
/// | 2 | `collections`, and a file's place in one at the end of its record; records of version 1 read as they are |
pub(crate) const FORMAT: u32 = 2;
/// Number of tables that LMDB must have room for; more than there are, for later ones.
pub(crate) const TABLES_MAX: u32 = 16;
/// Wraps up to this many bytes are kept in the reference: LMDB's duplicates end at 511 bytes in all.
const WRAP_INLINE_MAX: usize = 384;

pub(crate) const META_FORMAT: &str = "format";
pub(crate) const META_NEXT_FILE: &str = "next file";
pub(crate) const META_NEXT_COLLECTION: &str = "next collection";
pub(crate) const META_NEXT_JOB: &str = "next job";

pub(crate) type BytesTable = Database<'static, Bytes, Bytes>;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Tables {
    pub(crate) meta: Database<'static, Str, Bytes>,
    pub(crate) files: BytesTable,
    pub(crate) refs: BytesTable,
    pub(crate) wraps: BytesTable,
    pub(crate) nodes: BytesTable,
    pub(crate) roots: BytesTable,
    pub(crate) have: BytesTable,
    pub(crate) extents: BytesTable,
    pub(crate) collections: BytesTable,
    pub(crate) jobs: BytesTable,
}

impl Tables {
    /// Opens all tables, making those that are not there.
    pub(crate) fn open(env: &Env<WithoutTls>) -> Result<Self, heed::Error> {
        let txn = env.write_txn()?;
        let opened = env.create_databases_and_commit(txn, |opener, txn| {
            let mut refs = opener.database_options().types::<Bytes, Bytes>();
            refs.name("refs").flags(DatabaseFlags::DUP_SORT);
            let mut table = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
            let plain = (
                table("files")?,
                table("wraps")?,
                table("nodes")?,
                table("roots")?,
                table("have")?,
                table("extents")?,
                table("collections")?,
                table("jobs")?,
            );
            let refs = refs.create(txn)?;
            let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((meta, refs, plain)))
        })?;
        let (meta, refs, (files, wraps, nodes, roots, have, extents, collections, jobs)) = opened.unwrap_commit();
        Ok(Self { meta, files, refs, wraps, nodes, roots, have, extents, collections, jobs })
    }
}

pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt(what.into())
}

pub(crate) const fn file_key(file: FileId) -> [u8; 4] {
    file.0.to_be_bytes()
}

pub(crate) fn file_of_key(key: &[u8]) -> Result<FileId, StoreError> {
    key.try_into().map(|k| FileId(u32::from_be_bytes(k))).map_err(|_| corrupt("a file's key"))
}

pub(crate) const fn collection_key(collection: CollectionId) -> [u8; 4] {
    collection.0.to_be_bytes()
}

pub(crate) fn collection_of_key(key: &[u8]) -> Result<CollectionId, StoreError> {
    key.try_into().map(|k| CollectionId(u32::from_be_bytes(k))).map_err(|_| corrupt("a collection's key"))
}

pub(crate) fn have_key(file: FileId, segment: u64) -> [u8; 8] {
    // 2³² segments are 2⁴⁷ leaves: more than any file of 2⁵³ bytes with leaves worth their reference.
    let segment = u32::try_from(segment).expect("segments are counted in 32 bits");
    ((u64::from(file.0) << 32) | u64::from(segment)).to_be_bytes()
}

pub(crate) fn wrap_key(multihash: &[u8], file: FileId) -> Vec<u8> {
    [multihash, &file_key(file)].concat()
}

/// A reference's value, and whether the wrap is in it or has to go to its own table.
pub(crate) fn ref_value(place: &LeafPlace) -> (Vec<u8>, bool) {
    let mut value = Vec::with_capacity(24 + place.wrap.len());
    value.extend_from_slice(&file_key(place.file));
    push_varint(&mut value, place.leaf);
    push_varint(&mut value, place.offset);
    push_varint(&mut value, u64::from(place.len));
    let inline = place.wrap.len() <= WRAP_INLINE_MAX;
    if !inline {
        value.push(1);
    } else if !place.wrap.is_empty() {
        value.push(0);
        value.extend_from_slice(&place.wrap);
    }
    (value, inline)
}

/// The file that a reference's value belongs to.
pub(crate) fn ref_file(value: &[u8]) -> Result<FileId, StoreError> {
    value.first_chunk().map(|k| FileId(u32::from_be_bytes(*k))).ok_or_else(|| corrupt("a reference"))
}

/// A reference, and whether its wrap is in its own table.
pub(crate) fn ref_place(value: &[u8]) -> Result<(LeafPlace, bool), StoreError> {
    let file = ref_file(value)?;
    let mut rest = value.get(4..).unwrap_or_default();
    let mut number = || varint(&mut rest).map_err(|e| corrupt(format!("a reference: {e}")));
    let (leaf, offset, len) = (number()?, number()?, number()?);
    let len = u32::try_from(len).map_err(|_| corrupt("a reference's length"))?;
    let (wrap, elsewhere) = match rest {
        [] => (Vec::new(), false),
        [0, wrap @ ..] => (wrap.to_vec(), false),
        [1] => (Vec::new(), true),
        _ => return Err(corrupt("a reference's wrap")),
    };
    Ok((LeafPlace { file, leaf, offset, len, wrap }, elsewhere))
}

const STATE_COMPLETE: u8 = 3;

/// A file as the index keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) path: PathBuf,
    pub(crate) final_path: PathBuf,
    pub(crate) len: u64,
    pub(crate) root: Option<Cid>,
    pub(crate) leaves: u64,
    pub(crate) state: FileState,
    pub(crate) stamp: Option<Stamp>,
    /// It is, or was, pulled: what is there in states before `Complete` is what the bits say.
    pub(crate) partial: bool,
    pub(crate) member: Option<Member>,
}

impl Stored {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let (state, reason) = match &self.state {
            FileState::Planning => (0, ""),
            FileState::Partial => (1, ""),
            FileState::Finishing => (2, ""),
            FileState::Complete => (STATE_COMPLETE, ""),
            FileState::Broken(reason) => (4, reason.as_str()),
            FileState::Forgetting => (5, ""),
        };
        out.extend_from_slice(&[state, u8::from(self.partial)]);
        push_varint(&mut out, self.len);
        push_varint(&mut out, self.leaves);
        push_bytes(&mut out, reason.as_bytes());
        push_bytes(&mut out, &platform::path_to_bytes(&self.path));
        push_bytes(&mut out, &platform::path_to_bytes(&self.final_path));
        push_bytes(&mut out, &self.root.map(|root| root.to_bytes()).unwrap_or_default());
        let stamp = self.stamp.map(|stamp| {
            let mut bytes = Vec::with_capacity(40);
            bytes.extend_from_slice(&stamp.identity.device.to_le_bytes());
            bytes.extend_from_slice(&stamp.identity.inode.to_le_bytes());
            bytes.extend_from_slice(&stamp.len.to_le_bytes());
            bytes.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
            bytes
        });
        push_bytes(&mut out, &stamp.unwrap_or_default());
        if let Some(member) = &self.member {
            push_varint(&mut out, u64::from(member.collection.0));
            push_varint(&mut out, u64::from(member.entry));
        }
        out
    }

    /// Whether a record is that of a complete file, without reading all of it.
    pub(crate) fn is_complete(bytes: &[u8]) -> bool {
        bytes.first() == Some(&STATE_COMPLETE)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::parse(bytes).ok_or_else(|| corrupt("a file's record"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let [state, partial, rest @ ..] = bytes else { return None };
        let mut rest = rest;
        let len = varint(&mut rest).ok()?;
        let leaves = varint(&mut rest).ok()?;
        let reason = String::from_utf8(take_bytes(&mut rest)?.to_vec()).ok()?;
        let path = platform::path_from_bytes(take_bytes(&mut rest)?)?;
        let final_path = platform::path_from_bytes(take_bytes(&mut rest)?)?;
        let root = match take_bytes(&mut rest)? {
            [] => None,
            bytes => Some(Cid::try_from(bytes).ok()?),
        };
        let stamp = match take_bytes(&mut rest)? {
            [] => None,
            bytes => {
                let (device, bytes) = bytes.split_first_chunk()?;
                let (inode, bytes) = bytes.split_first_chunk()?;
                let (len, bytes) = bytes.split_first_chunk()?;
                Some(Stamp {
                    identity: FileIdentity { device: u64::from_le_bytes(*device), inode: u128::from_le_bytes(*inode) },
                    len: u64::from_le_bytes(*len),
                    mtime_ns: i64::from_le_bytes(bytes.try_into().ok()?),
                })
            }
        };
        let state = match state {
            0 => FileState::Planning,
            1 => FileState::Partial,
            2 => FileState::Finishing,
            &STATE_COMPLETE => FileState::Complete,
            4 => FileState::Broken(reason),
            5 => FileState::Forgetting,
            _ => return None,
        };
        let mut number = || u32::try_from(varint(&mut rest).ok()?).ok();
        let member = match number() {
            None => None,
            Some(collection) => Some(Member { collection: CollectionId(collection), entry: number()? }),
        };
        let partial = *partial == 1;
        rest.is_empty().then_some(Self { path, final_path, len, root, leaves, state, stamp, partial, member })
    }
}

/// A collection as the index keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredCollection {
    pub(crate) root: Option<Cid>,
    pub(crate) path: Option<PathBuf>,
    pub(crate) state: CollectionState,
    pub(crate) size: u64,
    pub(crate) files: u64,
}

impl StoredCollection {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.push(match self.state {
            CollectionState::Planning => 0,
            CollectionState::Partial => 1,
            CollectionState::Complete => 3,
            CollectionState::Forgetting => 5,
        });
        push_varint(&mut out, self.size);
        push_varint(&mut out, self.files);
        push_bytes(&mut out, &self.root.map(|root| root.to_bytes()).unwrap_or_default());
        if let Some(path) = &self.path {
            push_bytes(&mut out, &platform::path_to_bytes(path));
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::parse(bytes).ok_or_else(|| corrupt("a collection's record"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (state, mut rest) = bytes.split_first()?;
        let state = match state {
            0 => CollectionState::Planning,
            1 => CollectionState::Partial,
            3 => CollectionState::Complete,
            5 => CollectionState::Forgetting,
            _ => return None,
        };
        let size = varint(&mut rest).ok()?;
        let files = varint(&mut rest).ok()?;
        let root = match take_bytes(&mut rest)? {
            [] => None,
            bytes => Some(Cid::try_from(bytes).ok()?),
        };
        let path = if rest.is_empty() { None } else { Some(platform::path_from_bytes(take_bytes(&mut rest)?)?) };
        rest.is_empty().then_some(Self { root, path, state, size, files })
    }
}

/// A root's value: size, then the files that hold it.
pub(crate) fn root_value(size: u64, files: &[FileId]) -> Vec<u8> {
    let mut out = Vec::new();
    push_varint(&mut out, size);
    for file in files {
        push_varint(&mut out, u64::from(file.0));
    }
    out
}

pub(crate) fn root_of_value(mut value: &[u8]) -> Result<(u64, Vec<FileId>), StoreError> {
    let number = |value: &mut &[u8]| varint(value).map_err(|e| corrupt(format!("a root: {e}")));
    let size = number(&mut value)?;
    let mut files = Vec::new();
    while !value.is_empty() {
        let file = u32::try_from(number(&mut value)?).map_err(|_| corrupt("a root's file"))?;
        files.push(FileId(file));
    }
    Ok((size, files))
}

pub(crate) fn extents_value(extents: &[u64]) -> Vec<u8> {
    extents.iter().flat_map(|offset| offset.to_le_bytes()).collect()
}

pub(crate) fn extents_of_value(value: &[u8]) -> Result<Vec<u64>, StoreError> {
    match value.as_chunks::<8>() {
        (numbers, []) => Ok(numbers.iter().map(|n| u64::from_le_bytes(*n)).collect()),
        _ => Err(corrupt("a file's extents")),
    }
}

pub(crate) fn multihash_key(multihash: &Multihash) -> Vec<u8> {
    multihash.to_bytes()
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint(rest).ok()?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use proptest::prelude::*;

    use super::*;
    use crate::block::{Block, Prefix};

    proptest! {
        #[test]
        fn references_come_back(
            file: u32, leaf in 0_u64..1 << 47, offset in 0_u64..1 << 53, len: u32,
            wrap in proptest::collection::vec(any::<u8>(), 0..500),
        ) {
            let place = LeafPlace { file: FileId(file), leaf, offset, len, wrap };
            let (value, inline) = ref_value(&place);
            prop_assert!(value.len() <= 511);
            let (mut back, elsewhere) = ref_place(&value).unwrap();
            prop_assert_eq!(elsewhere, !inline);
            if elsewhere {
                back.wrap.clone_from(&place.wrap);
            }
            prop_assert_eq!(back, place);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ref_place(&bytes);
            let _ = Stored::decode(&bytes);
            let _ = StoredCollection::decode(&bytes);
            let _ = root_of_value(&bytes);
        }
    }

    #[test]
    fn file_records_come_back() {
        let root = *Block::seal(Prefix::RAW_V1, bytes::Bytes::from_static(b"x")).unwrap().cid();
        let stamp = Stamp { identity: FileIdentity { device: 7, inode: 1 << 100 }, len: 5, mtime_ns: -3 };
        for (state, root, stamp) in [
            (FileState::Planning, None, None),
            (FileState::Broken("gone".into()), Some(root), Some(stamp)),
            (FileState::Complete, Some(root), Some(stamp)),
        ] {
            let path = std::env::temp_dir().join("näme");
            let stored = Stored {
                final_path: path.join("x"),
                path,
                len: 1 << 50,
                root,
                leaves: 9,
                state,
                stamp,
                partial: true,
                member: None,
            };
            assert_eq!(Stored::decode(&stored.encode()).unwrap(), stored);
            let stored = Stored { member: Some(Member { collection: CollectionId(7), entry: u32::MAX }), ..stored };
            assert_eq!(Stored::decode(&stored.encode()).unwrap(), stored);
            let collection =
                StoredCollection { root, path: Some(stored.path), state: CollectionState::Partial, size: 5, files: 6 };
            assert_eq!(StoredCollection::decode(&collection.encode()).unwrap(), collection);
            let blocks = StoredCollection { path: None, ..collection };
            assert_eq!(StoredCollection::decode(&blocks.encode()).unwrap(), blocks);
        }
    }
}
