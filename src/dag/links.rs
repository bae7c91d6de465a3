//! What a block of any codec points to: for DAGs that are moved as plain blocks.
//!
//! Knows where dag-pb, dag-cbor and dag-json have their links and nothing else of them; blocks of other codecs have none.
//! Nothing is built of a block but the list of its links, and a block bounds that.

use bytes::Bytes;
use serde_json::Value;

use super::{DagError, dagpb};
use crate::block::{Cid, DAG_PB};

/// Multicodec of dag-cbor.
pub const DAG_CBOR: u64 = 0x71;
/// Multicodec of dag-json.
pub const DAG_JSON: u64 = 0x0129;

/// The CBOR tag of a link (DAG-CBOR specification).
const LINK_TAG: u64 = 42;

/// Every link of a block, in its order; those that occur twice come twice.
///
/// # Errors
/// [`DagError`] for what is not well formed.
pub fn links(cid: &Cid, block: &Bytes) -> Result<Vec<Cid>, DagError> {
    match cid.codec() {
        DAG_PB => Ok(dagpb::decode(block)?.links.into_iter().map(|link| link.cid).collect()),
        DAG_CBOR => cbor_links(block).ok_or(DagError::Node("it is not well-formed dag-cbor")),
        DAG_JSON => {
            let value = serde_json::from_slice(block).map_err(|_| DagError::Node("it is not well-formed dag-json"))?;
            let mut found = Vec::new();
            json_links(&value, &mut found)?;
            Ok(found)
        }
        _ => Ok(Vec::new()),
    }
}

/// CBOR's items lie one after the other, whatever their nesting, so that a count of those that must come is enough.
fn cbor_links(mut rest: &[u8]) -> Option<Vec<Cid>> {
    let mut found = Vec::new();
    let mut expected = 1_u64;
    while expected > 0 {
        expected -= 1;
        let (major, value) = head(&mut rest)?;
        match major {
            // Text and bytes are passed over, integers and floats are all head.
            2 | 3 => drop(take(&mut rest, value)?),
            4 => expected = expected.checked_add(value)?,
            5 => expected = expected.checked_add(value.checked_mul(2)?)?,
            6 if value == LINK_TAG => {
                let (2, length) = head(&mut rest)? else { return None };
                let (0, cid) = take(&mut rest, length)?.split_first()? else { return None };
                found.push(Cid::try_from(cid).ok()?);
            }
            // dag-cbor has no other tag.
            6 => return None,
            _ => {}
        }
        // Each item takes a byte at least: what claims more is cut short.
        if expected > rest.len() as u64 {
            return None;
        }
    }
    rest.is_empty().then_some(found)
}

/// An item's major type and its number, which stands in the first byte or in the 1, 2, 4 or 8 after it. Lengths that come
/// later, which CBOR knows, dag-cbor does not have.
fn head(rest: &mut &[u8]) -> Option<(u8, u64)> {
    let (&first, after) = rest.split_first()?;
    *rest = after;
    let more = match first & 0x1f {
        value @ 0..=23 => return Some((first >> 5, u64::from(value))),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let number = take(rest, more)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    Some((first >> 5, number))
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(taken)
}

/// `{"/": "CID"}` is a link; `{"/": {"bytes": …}}` are bytes. The parser bounds the depth.
fn json_links(value: &Value, found: &mut Vec<Cid>) -> Result<(), DagError> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| json_links(item, found)),
        Value::Object(map) => match (map.len(), map.get("/")) {
            (1, Some(Value::String(cid))) => {
                found.push(cid.parse().map_err(|_| DagError::Node("a link of dag-json is not a CID"))?);
                Ok(())
            }
            _ => map.values().try_for_each(|item| json_links(item, found)),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;
    use crate::block::{Block, parse_cid};

    const CID: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn cbor(hex: &str) -> Option<Vec<Cid>> {
        cbor_links(&HEXLOWER.decode(hex.as_bytes()).unwrap())
    }

    #[test]
    fn links_are_found_at_any_depth() {
        let link = HEXLOWER.encode(&parse_cid(CID).unwrap().to_bytes());
        let item = format!("d82a582500{link}");
        let one = vec![parse_cid(CID).unwrap()];
        assert_eq!(cbor(&item), Some(one.clone()));
        // {"a": [1, {"b": link}], "c": h'00ff', "d": 1.5}
        let deep = format!("a3616182 01 a16162{item} 6163 42 00ff 6164 fb3ff8000000000000").replace(' ', "");
        assert_eq!(cbor(&deep), Some(one.clone()));
        assert_eq!(cbor("f6"), Some(vec![]));
        let json = format!(r#"{{"a":[1,{{"/":"{CID}"}}],"b":{{"/":{{"bytes":"AQID"}}}},"/x":{{"/":"{CID}","y":1}}}}"#);
        let name = Cid::new_v1(DAG_JSON, *one[0].hash());
        assert_eq!(links(&name, &json.into()), Ok(one));
        assert_eq!(links(&Cid::new_v1(0x78, *name.hash()), &Bytes::from_static(b"git")), Ok(vec![]));
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for bad in [
            "",
            "82f6",
            "f6f6",
            "9fff",
            "5f",
            "c1f6",
            "d82a01",
            "d82a4100",
            "1b00",
            "9b7fffffffffffffff",
            "bbffffffffffffffff",
        ] {
            assert_eq!(cbor(bad), None, "{bad}");
        }
        let name = Cid::new_v1(DAG_JSON, *parse_cid(CID).unwrap().hash());
        for bad in ["", "{", r#"{"/":"nonsense"}"#] {
            assert!(links(&name, &Bytes::from(bad)).is_err(), "{bad}");
        }
        let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(links(&name, &nested.into()).is_err());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = cbor_links(&bytes);
            let block = Block::seal(crate::block::Prefix::RAW_V1, bytes.into()).unwrap();
            for codec in [DAG_PB, DAG_CBOR, DAG_JSON] {
                let _ = links(&Cid::new_v1(codec, *block.cid().hash()), block.bytes());
            }
        }
    }
}
