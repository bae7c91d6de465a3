//! MerkleDAG protobuf nodes: bytes ↔ [`Node`] (protocols.md §2).
//!
//! Written by hand because generated code writes fields by number, and dag-pb has links (2) before data (1).
//! Decoding copies nothing: names and data are slices of the block. It does not look into the data; that is
//! [`super::unixfs`]. A block is never re-encoded to learn its CID, which is over the bytes as they came.

#![deny(clippy::indexing_slicing)]

use std::ops::Deref;

use bytes::Bytes;

use super::{
    DagError,
    proto::{Reader, Value, push_bytes, push_number, varint_bytes},
};
use crate::block::{Cid, push_varint};

/// The most links that a node may have. A link to a 32-byte digest takes 40 bytes or more, so that an honest block of
/// 2 MiB ends near 52 000; what has more is made of tiny identity CIDs, each of which would cost us twenty times its
/// size in memory.
pub const LINKS_MAX: usize = 65_536;

/// One dag-pb node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Links in the order of the block.
    pub links: Vec<Link>,
    /// Absent and empty are different nodes.
    pub data: Option<Bytes>,
}

/// One link of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What it points to.
    pub cid: Cid,
    /// Any bytes; empty in files.
    pub name: Name,
    /// Bytes of all blocks below and including the target, as the writer claims: a hint, never to be trusted.
    pub tsize: Option<u64>,
}

/// A link's name: any bytes, or none at all, which nobody writes and the data model tells from an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name(Option<Bytes>);

impl Name {
    /// No name.
    pub const ABSENT: Self = Self(None);

    /// Its bytes; none when it is absent.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.0.clone().unwrap_or_default()
    }
}

impl From<Bytes> for Name {
    fn from(bytes: Bytes) -> Self {
        Self(Some(bytes))
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Reads a node.
///
/// # Errors
/// [`DagError::Node`] for whatever dag-pb forbids, and for more than [`LINKS_MAX`] links.
pub fn decode(block: &Bytes) -> Result<Node, DagError> {
    let mut node = Node::default();
    let mut links_ended = false;
    let mut reader = Reader::new(block);
    while let Some((field, value)) = reader.next().map_err(DagError::Node)? {
        match (field, value) {
            (1, Value::Bytes(data)) => {
                if node.data.replace(data).is_some() {
                    return Err(DagError::Node("it has data twice"));
                }
                links_ended = !node.links.is_empty();
            }
            (2, Value::Bytes(link)) => {
                if links_ended {
                    return Err(DagError::Node("it has links before and after its data"));
                }
                if node.links.len() == LINKS_MAX {
                    return Err(DagError::Node("it has too many links"));
                }
                node.links.push(decode_link(&link)?);
            }
            (1 | 2, _) => return Err(DagError::Node("a field has the wrong wire type")),
            _ => return Err(DagError::Node("it has an unknown field")),
        }
    }
    Ok(node)
}

/// Writes a node canonically: links sorted by name (stably, by bytes), each with name and size, then the data.
#[must_use]
pub fn encode(node: &Node) -> Vec<u8> {
    let data_bytes = node.data.as_ref().map_or(0, |data| data.len() + 6);
    let mut out = Vec::with_capacity(node.links.len() * 56 + data_bytes);
    let mut put = |link: &Link| put_link(&mut out, link);
    if node.links.is_sorted_by(|a, b| *a.name <= *b.name) {
        node.links.iter().for_each(&mut put);
    } else {
        let mut sorted: Vec<&Link> = node.links.iter().collect();
        sorted.sort_by_key(|link| &*link.name);
        sorted.into_iter().for_each(&mut put);
    }
    if let Some(data) = &node.data {
        push_bytes(&mut out, 1, data);
    }
    out
}

/// Appends a link as it is.
fn put_link(out: &mut Vec<u8>, link: &Link) {
    if link.name.0.is_some() {
        return push_link(out, &link.cid.to_bytes(), [&[], &link.name], link.tsize);
    }
    let mut message = Vec::with_capacity(64);
    push_bytes(&mut message, 1, &link.cid.to_bytes());
    if let Some(tsize) = link.tsize {
        push_number(&mut message, 3, tsize);
    }
    push_bytes(out, 2, &message);
}

/// Appends a link whose name is the two parts together. A node's links must be appended in the order of their names.
pub(in crate::dag) fn push_link(out: &mut Vec<u8>, cid: &[u8], name: [&[u8]; 2], tsize: Option<u64>) {
    let name_bytes = name[0].len() + name[1].len();
    push_varint(out, 2 << 3 | 2);
    push_varint(out, message_bytes(cid.len(), name_bytes, tsize));
    push_bytes(out, 1, cid);
    push_varint(out, 2 << 3 | 2);
    push_varint(out, name_bytes as u64);
    out.extend_from_slice(name[0]);
    out.extend_from_slice(name[1]);
    if let Some(tsize) = tsize {
        push_number(out, 3, tsize);
    }
}

/// How many bytes [`push_link`] appends for a CID and a name of so many bytes.
pub(in crate::dag) const fn link_bytes(cid_bytes: usize, name_bytes: usize, tsize: Option<u64>) -> u64 {
    let message = message_bytes(cid_bytes, name_bytes, tsize);
    1 + varint_bytes(message) + message
}

const fn message_bytes(cid_bytes: usize, name_bytes: usize, tsize: Option<u64>) -> u64 {
    let (cid_bytes, name_bytes) = (cid_bytes as u64, name_bytes as u64);
    let tsize_bytes = match tsize {
        Some(tsize) => 1 + varint_bytes(tsize),
        None => 0,
    };
    1 + varint_bytes(cid_bytes) + cid_bytes + 1 + varint_bytes(name_bytes) + name_bytes + tsize_bytes
}

fn decode_link(bytes: &Bytes) -> Result<Link, DagError> {
    let mut cid = None;
    let mut name = Name::ABSENT;
    let mut tsize = None;
    let mut last = 0;
    let mut reader = Reader::new(bytes);
    while let Some((field, value)) = reader.next().map_err(DagError::Node)? {
        if field <= last {
            return Err(DagError::Node("a link's fields are repeated or out of order"));
        }
        last = field;
        match (field, value) {
            (1, Value::Bytes(bytes)) => cid = Some(decode_cid(&bytes)?),
            (2, Value::Bytes(bytes)) => name = bytes.into(),
            (3, Value::Varint(number)) => tsize = Some(number),
            (1..=3, _) => return Err(DagError::Node("a link's field has the wrong wire type")),
            _ => return Err(DagError::Node("a link has an unknown field")),
        }
    }
    let cid = cid.ok_or(DagError::Node("a link has no hash"))?;
    Ok(Link { cid, name, tsize })
}

fn decode_cid(bytes: &[u8]) -> Result<Cid, DagError> {
    let mut rest = bytes;
    match Cid::read_bytes(&mut rest) {
        Ok(cid) if rest.is_empty() => Ok(cid),
        Ok(_) => Err(DagError::Node("a link has bytes after its CID")),
        Err(_) => Err(DagError::Node("a link's hash is not a CID")),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;
    use crate::block::{Block, DAG_PB, Multihash, Prefix, RAW};

    fn hex(text: &str) -> Bytes {
        HEXLOWER.decode(text.as_bytes()).unwrap().into()
    }

    /// codec-fixtures, `negative-fixtures/dag-pb/decode/edges.json`, and what else protocols.md §2 forbids.
    #[test]
    fn malformed_nodes_are_refused() {
        for (bad, why) in [
            ("1200", "link without hash"),
            ("12000a050001020304", "link without hash, and data"),
            ("12020a00", "link with empty hash"),
            ("12021200", "link with just an empty name"),
            ("120b1209736f6d65206e616d65", "link with just a name"),
            ("12021800", "link with just a zero size"),
            ("120318f207", "link with just a size"),
            (
                "12240a221220cf92fdefcdc34cac009c8b05eb662be0618db9de55ecd42785e9ec6712f8df650a0408021806\
                 12240a221220cf92fdefcdc34cac009c8b05eb662be0618db9de55ecd42785e9ec6712f8df65",
                "data between links",
            ),
            ("0a0101 0a0101", "data twice"),
            ("1a00", "unknown field"),
            ("0801", "data as a number"),
            ("1001", "links as a number"),
            ("0a02ff", "data cut short"),
            ("12 0b 0a09015500050001020304 12", "cut after a key"),
            ("12 0d 1200 0a09015500050001020304", "name before hash"),
            ("12 16 0a09015500050001020304 0a09015500050001020304", "hash twice"),
            ("12 0f 0a09015500050001020304 12001200", "name twice"),
            ("12 0d 0a09015500050001020304 2000", "unknown field in a link"),
            ("12 0d 0a09015500050001020304 1000", "name as a number"),
            ("12 0c 0a0a01550005000102030400", "a byte after the CID"),
            ("12 0a 0a080155000500010203", "digest cut short"),
            ("12 06 0a0400550000", "explicit version 0"),
        ] {
            let bytes = hex(&bad.replace(' ', ""));
            assert!(matches!(decode(&bytes), Err(DagError::Node(_))), "{why}: {bad}");
        }
    }

    /// codec-fixtures, `fixtures/dagpb_*`: bytes and the CID that is their file's name.
    #[test]
    fn the_fixtures_decode_to_what_they_are() {
        for (bytes, cid, links, data) in [
            ("", "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 0, None),
            ("0a00", "bafybeiaqfni3s5s2k2r6rgpxz4hohdsskh44ka5tk6ztbjerqpvxwfkwaq", 0, Some("")),
            ("0a03010203", "bafybeia2qk4u55f2qj7zimmtpulejgz7urp7rzs44cvledcaj42gltkk3u", 0, Some("010203")),
            (
                "120b0a0901550005000102030412100a09015500050001020304120362617212100a090155000500010203041203666f6f",
                "bafybeiahfgovhod2uvww72vwdgatl5r6qkoeegg7at2bghiokupfphqcku",
                3,
                None,
            ),
            (
                "120b0a09015500050001020304120e0a09015500050001020304120161120e0a09015500050001020304120161",
                "bafybeidrg2f6slbv4yzydqtgmsi2vzojajnt7iufcreynfpxndca4z5twm",
                3,
                None,
            ),
            (
                "12140a0901550005000102030418ffffffffffffff0f",
                "bafybeiezymjvhwfuharanxmzxwuomzjjuzqjewjolr4phaiyp6l7qfwo64",
                1,
                None,
            ),
        ] {
            let bytes = hex(bytes);
            assert_eq!(Block::seal(Prefix::DAG_PB_V1, bytes.clone()).unwrap().cid().to_string(), cid);
            let node = decode(&bytes).unwrap();
            assert_eq!(node.links.len(), links, "{cid}");
            assert_eq!(node.data, data.map(hex), "{cid}");
        }
        let link = decode(&hex("12140a0901550005000102030418ffffffffffffff0f")).unwrap().links.remove(0);
        assert_eq!((link.tsize, link.cid.hash().digest()), (Some((1 << 53) - 1), &[0, 1, 2, 3, 4][..]));
    }

    #[test]
    fn links_before_or_after_data_are_the_same_node_and_write_links_first() {
        let after = hex("0a03010203120b0a09015500050001020304");
        let before = hex("120b0a090155000500010203040a03010203");
        assert_eq!(decode(&after), decode(&before));
        let written = encode(&decode(&after).unwrap());
        assert_eq!(written, before);
    }

    #[test]
    fn decoding_copies_nothing() {
        let block = hex("0a03010203");
        let data = decode(&block).unwrap().data.unwrap();
        assert_eq!(data.as_ptr(), block[2..].as_ptr());
    }

    #[test]
    fn links_are_bounded() {
        let link = hex("12060a0401550000");
        let at = Bytes::from(link.repeat(LINKS_MAX));
        assert_eq!(decode(&at).unwrap().links.len(), LINKS_MAX);
        let over = Bytes::from(link.repeat(LINKS_MAX + 1));
        assert!(matches!(decode(&over), Err(DagError::Node(_))));
    }

    fn any_cid() -> impl Strategy<Value = Cid> {
        prop_oneof![
            prop::array::uniform32(any::<u8>()).prop_map(|d| Cid::new_v0(Multihash::wrap(0x12, &d).unwrap()).unwrap()),
            prop::collection::vec(any::<u8>(), 0..=128).prop_map(|d| Cid::new_v1(RAW, Multihash::wrap(0, &d).unwrap())),
            prop::array::uniform32(any::<u8>()).prop_map(|d| Cid::new_v1(DAG_PB, Multihash::wrap(0x1e, &d).unwrap())),
        ]
    }

    fn any_bytes(length: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..length).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            links in prop::collection::vec((any_cid(), any_bytes(4), any::<Option<u64>>()), 0..20),
            data in prop::option::of(any_bytes(64)),
        ) {
            let mut links: Vec<Link> =
                links.into_iter().map(|(cid, name, tsize)| Link { cid, name: name.into(), tsize }).collect();
            let written = encode(&Node { links: links.clone(), data: data.clone() });
            links.sort_by_key(|link| link.name.to_vec());
            let node = Node { links, data };
            let read = decode(&Bytes::from(written.clone())).unwrap();
            prop_assert_eq!(&read, &node);
            prop_assert_eq!(encode(&read), written);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in any_bytes(200)) {
            let _ = decode(&bytes);
        }
    }
}
