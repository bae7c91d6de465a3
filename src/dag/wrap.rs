//! How a leaf's block is made of a file's bytes.
//!
//! A leaf is served from the user's file, which holds its data but not the few bytes that dag-pb and UnixFS put around
//! it. A [`Wrap`] says what those are: it is kept in the index beside each reference, mostly as nothing or one byte.

use bytes::Bytes;

use super::{
    DagError,
    dagpb::decode,
    proto::varint_bytes,
    unixfs::{Data, Kind},
};
use crate::block::{DAG_PB, RAW, push_varint, varint};

/// What is around the file's bytes in a leaf's block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrap {
    /// Nothing: the block is the bytes (codec raw).
    Raw,
    /// A canonical dag-pb leaf of UnixFS type File, as Kubo's default importer writes.
    File,
    /// A canonical dag-pb leaf of UnixFS type Raw, as trickle trees have.
    RawNode,
    /// Any other dag-pb leaf: with mode or mtime, without filesize, not canonical …
    Custom {
        /// The block's bytes before the data.
        prefix: Bytes,
        /// The block's bytes after the data.
        suffix: Bytes,
    },
}

const TAG_FILE: u8 = 1;
const TAG_RAW_NODE: u8 = 2;
const TAG_CUSTOM: u8 = 3;

impl Wrap {
    /// The bytes before and after `data_len` bytes of file data.
    #[must_use]
    pub fn affixes(&self, data_len: u32) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Raw => (Vec::new(), Vec::new()),
            Self::File => canonical(Kind::File, data_len),
            Self::RawNode => canonical(Kind::Raw, data_len),
            Self::Custom { prefix, suffix } => (prefix.to_vec(), suffix.to_vec()),
        }
    }

    /// Takes a leaf's block apart, so that affixes around the data give the same block again.
    ///
    /// # Errors
    /// [`DagError::UnknownCodec`], [`DagError::HasLinks`], [`DagError::NotAFile`], and malformed nodes.
    pub fn split(block: &Bytes, codec: u64) -> Result<(Self, Bytes), DagError> {
        match codec {
            RAW => return Ok((Self::Raw, block.clone())),
            DAG_PB => {}
            other => return Err(DagError::UnknownCodec(other)),
        }
        let node = decode(block)?;
        if !node.links.is_empty() {
            return Err(DagError::HasLinks);
        }
        let message = Data::decode(&node.data.ok_or(DagError::Unixfs("it is absent"))?)?;
        if !matches!(message.kind, Kind::File | Kind::Raw) {
            return Err(DagError::NotAFile(message.kind));
        }
        let data = message.data.unwrap_or_default();
        if !message.blocksizes.is_empty() || message.filesize.is_some_and(|size| size != data.len() as u64) {
            return Err(DagError::Unixfs("a leaf's sizes do not match its data"));
        }
        // An empty slice of `Bytes` does not say where it was, and it does not matter.
        let start = if data.is_empty() { block.len() } else { data.as_ptr().addr() - block.as_ptr().addr() };
        let (prefix, suffix) = (block.slice(..start), block.slice(start + data.len()..));
        let is_canonical = |kind| match u32::try_from(data.len()) {
            Ok(length) => {
                let (head, tail) = canonical(kind, length);
                let length_fits = block.len() == head.len() + data.len() + tail.len();
                length_fits && block.starts_with(&head) && block.ends_with(&tail)
            }
            Err(_) => false,
        };
        let wrap = if is_canonical(Kind::File) {
            Self::File
        } else if is_canonical(Kind::Raw) {
            Self::RawNode
        } else {
            Self::Custom { prefix, suffix }
        };
        Ok((wrap, data))
    }

    /// Appends the wrap's form in the index: nothing for [`Self::Raw`], one byte for the canonical ones.
    pub fn to_tag(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw => {}
            Self::File => out.push(TAG_FILE),
            Self::RawNode => out.push(TAG_RAW_NODE),
            Self::Custom { prefix, suffix } => {
                out.push(TAG_CUSTOM);
                push_varint(out, prefix.len() as u64);
                out.extend_from_slice(prefix);
                out.extend_from_slice(suffix);
            }
        }
    }

    /// Reads what [`Self::to_tag`] wrote; the slice must hold nothing else.
    ///
    /// # Errors
    /// [`DagError::Tag`].
    pub fn from_tag(tag: &[u8]) -> Result<Self, DagError> {
        match tag {
            [] => Ok(Self::Raw),
            [TAG_FILE] => Ok(Self::File),
            [TAG_RAW_NODE] => Ok(Self::RawNode),
            [TAG_CUSTOM, rest @ ..] => {
                let mut rest = rest;
                let length = varint(&mut rest).map_err(|_| DagError::Tag)?;
                let length = usize::try_from(length).map_err(|_| DagError::Tag)?;
                let (prefix, suffix) = rest.split_at_checked(length).ok_or(DagError::Tag)?;
                Ok(Self::Custom { prefix: Bytes::copy_from_slice(prefix), suffix: Bytes::copy_from_slice(suffix) })
            }
            _ => Err(DagError::Tag),
        }
    }
}

/// The affixes of a wrap in its index form, for callers that keep tags and know nothing else of wraps.
///
/// # Errors
/// [`DagError::Tag`].
pub fn affixes_of_tag(tag: &[u8], data_len: u32) -> Result<(Vec<u8>, Vec<u8>), DagError> {
    Ok(Wrap::from_tag(tag)?.affixes(data_len))
}

/// Bytes of the canonical dag-pb leaf with `data_len` bytes of file data, whichever of the two types it has.
#[must_use]
pub(super) const fn canonical_block_bytes(data_len: u64) -> u64 {
    let data_field = if data_len == 0 { 0 } else { 1 + varint_bytes(data_len) + data_len };
    let message = 2 + data_field + 1 + varint_bytes(data_len);
    1 + varint_bytes(message) + message
}

/// `0a LEN 08 TYPE 12 N` and `18 N`; without data there is no field 2 (protocols.md §3.1).
fn canonical(kind: Kind, data_len: u32) -> (Vec<u8>, Vec<u8>) {
    let mut head = vec![0x08, if kind == Kind::File { 2 } else { 0 }];
    if data_len > 0 {
        head.push(0x12);
        push_varint(&mut head, u64::from(data_len));
    }
    let mut suffix = vec![0x18];
    push_varint(&mut suffix, u64::from(data_len));
    let mut prefix = vec![0x0a];
    push_varint(&mut prefix, (head.len() + suffix.len()) as u64 + u64::from(data_len));
    prefix.append(&mut head);
    (prefix, suffix)
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;
    use crate::dag::{
        dagpb::{Link, Node, encode},
        unixfs::Mtime,
    };

    fn leaf(data: &Data) -> Bytes {
        encode(&Node { links: Vec::new(), data: Some(data.encode().into()) }).into()
    }

    fn file(kind: Kind, data: &[u8]) -> Data {
        let content = (!data.is_empty()).then(|| Bytes::copy_from_slice(data));
        Data { data: content, filesize: Some(data.len() as u64), ..Data::new(kind) }
    }

    fn assert_whole(block: &Bytes, wrap: &Wrap, data: &Bytes) {
        let (mut made, suffix) = wrap.affixes(u32::try_from(data.len()).unwrap());
        made.extend_from_slice(data);
        made.extend_from_slice(&suffix);
        assert_eq!(made, *block);
        let mut tag = Vec::new();
        wrap.to_tag(&mut tag);
        assert_eq!(Wrap::from_tag(&tag).as_ref(), Ok(wrap));
        assert_eq!(affixes_of_tag(&tag, u32::try_from(data.len()).unwrap()).unwrap().1, suffix);
    }

    #[test]
    fn canonical_leaves_of_every_length_are_recognised() {
        for length in [0, 1, 119, 120, 121, 122, 123, 124, 127, 128, 16370, 16384, 262_144, 2_096_896] {
            let data = vec![7; length];
            for (kind, wrap) in [(Kind::File, Wrap::File), (Kind::Raw, Wrap::RawNode)] {
                let block = leaf(&file(kind, &data));
                assert_eq!(block.len() as u64, canonical_block_bytes(length as u64));
                let (found, rest) = Wrap::split(&block, DAG_PB).unwrap();
                assert_eq!((&found, &rest[..]), (&wrap, &data[..]));
                assert_whole(&block, &found, &rest);
            }
        }
        assert_eq!(HEXLOWER.encode(&Wrap::File.affixes(0).0), "0a040802");
        assert_eq!(HEXLOWER.encode(&Wrap::File.affixes(0).1), "1800");
    }

    #[test]
    fn raw_blocks_are_their_data() {
        let block = Bytes::from_static(b"0a0408021800");
        assert_eq!(Wrap::split(&block, RAW), Ok((Wrap::Raw, block.clone())));
        assert_whole(&block, &Wrap::Raw, &block);
        assert_eq!(Wrap::split(&block, 0x71), Err(DagError::UnknownCodec(0x71)));
    }

    #[test]
    fn other_leaves_keep_their_own_bytes() {
        let dated = Data { mode: Some(0o644), mtime: Some(Mtime { seconds: 1, nanos: 0 }), ..file(Kind::File, b"x") };
        let unsized_ = Data { filesize: None, ..file(Kind::File, b"abc") };
        let dated_empty = Data { mode: Some(0o600), ..file(Kind::File, b"") };
        let empty_field = Data { data: Some(Bytes::new()), ..file(Kind::File, b"") };
        for message in [dated, unsized_, dated_empty, empty_field] {
            let block = leaf(&message);
            let (wrap, data) = Wrap::split(&block, DAG_PB).unwrap();
            assert!(matches!(wrap, Wrap::Custom { .. }), "{message:?}");
            assert_eq!(data, message.data.unwrap_or_default());
            assert_whole(&block, &wrap, &data);
        }
    }

    #[test]
    fn what_is_no_leaf_is_refused() {
        let cid = crate::block::parse_cid("bafkqaaa").unwrap();
        let links = vec![Link { cid, name: Bytes::new().into(), tsize: Some(0) }];
        let inner = encode(&Node { links, data: Some(file(Kind::File, b"").encode().into()) });
        assert_eq!(Wrap::split(&inner.into(), DAG_PB), Err(DagError::HasLinks));
        let directory = leaf(&Data::new(Kind::Directory));
        assert_eq!(Wrap::split(&directory, DAG_PB), Err(DagError::NotAFile(Kind::Directory)));
        let liar = leaf(&Data { filesize: Some(4), ..file(Kind::File, b"abc") });
        assert!(Wrap::split(&liar, DAG_PB).is_err());
        assert!(Wrap::split(&Bytes::new(), DAG_PB).is_err());
    }

    #[test]
    fn damaged_tags_are_refused() {
        for tag in [&[0][..], &[4], &[1, 1], &[TAG_CUSTOM], &[TAG_CUSTOM, 2, 0], &[TAG_CUSTOM, 0x80, 0]] {
            assert_eq!(Wrap::from_tag(tag), Err(DagError::Tag), "{tag:?}");
        }
        assert!(Wrap::from_tag(&[TAG_CUSTOM, 1, 0]).is_ok());
    }
}
