//! The wire against golden bytes, its limits, and the types that prost generates from `proto/bitswap.proto`.

mod faults;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::block::{Block, DAG_PB, IDENTITY, Multihash, RAW, SHA2_256};

#[allow(clippy::all, clippy::use_self, missing_docs, unreachable_pub, reason = "generated code")]
mod oracle {
    include!(concat!(env!("OUT_DIR"), "/bitswap.rs"));
}

use oracle::message as pb;

/// Joins a frame's parts, checks its length and gives the message in it.
fn body(frame: &Frame) -> Bytes {
    let mut all = BytesMut::new();
    for part in &frame.parts {
        all.extend_from_slice(part);
    }
    let FrameLength::Ready { length, header_bytes } = frame_length(&all).unwrap() else {
        panic!("a frame without a length")
    };
    assert_eq!(all.len(), header_bytes + length);
    all.freeze().slice(header_bytes..)
}

fn sent(message: &Outgoing, version: Version) -> Vec<Decoded> {
    encode(message, version).iter().map(|frame| decode(&body(frame)).unwrap()).collect()
}

fn raw(bytes: &'static [u8]) -> Block {
    Block::seal(Prefix::RAW_V1, Bytes::from_static(bytes)).unwrap()
}

fn want(cid: Cid, kind: WantKind) -> WantEntry {
    WantEntry { cid, priority: 7, kind, cancel: false, send_dont_have: true }
}

/// An entry as a peer may send it, whether `cid` is one or not.
fn entry_naming(cid: &[u8]) -> pb::wantlist::Entry {
    pb::wantlist::Entry { block: cid.to_vec(), priority: 1, ..Default::default() }
}

fn wants_message(entries: Vec<pb::wantlist::Entry>) -> Bytes {
    let wantlist = Some(pb::Wantlist { entries, full: false });
    oracle::Message { wantlist, ..Default::default() }.encode_to_vec().into()
}

const GO_FIXTURE: &[u8] = b"\x19\x0a\x02\x10\x00\x1a\x13\x0a\x04\x00\x70\x12\x20\x12\x0bFoo Bar Baz";

#[test]
fn the_message_that_go_made_is_read_and_written_to_the_byte() {
    let length = frame_length(GO_FIXTURE);
    assert_eq!(length, Ok(FrameLength::Ready { length: 0x19, header_bytes: 1 }));
    let decoded = decode(&Bytes::from_static(&GO_FIXTURE[1..])).unwrap();
    let data = Bytes::from_static(b"Foo Bar Baz");
    assert_eq!(decoded, Decoded { blocks: vec![(Prefix::DAG_PB_V0, data.clone())], ..Decoded::default() });

    let cid = Prefix::DAG_PB_V0.hash(&data).unwrap();
    let frames = encode(&Outgoing { blocks: vec![(cid, data)], ..Outgoing::default() }, Version::V120);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].block_bytes, 11);
    assert_eq!(frames[0].parts.concat(), GO_FIXTURE);
}

#[test]
fn the_length_of_a_frame_is_judged_by_its_value() {
    let length = |value: u64| {
        let mut bytes = Vec::new();
        block::push_varint(&mut bytes, value);
        for cut in 0..bytes.len() {
            assert_eq!(frame_length(&bytes[..cut]), Ok(FrameLength::Incomplete));
        }
        bytes.push(0xff); // of the message that follows
        frame_length(&bytes)
    };
    let max = limits::MESSAGE_BYTES_MAX;
    assert_eq!(length(0), Ok(FrameLength::Ready { length: 0, header_bytes: 1 }));
    assert_eq!(length(127), Ok(FrameLength::Ready { length: 127, header_bytes: 1 }));
    assert_eq!(length(128), Ok(FrameLength::Ready { length: 128, header_bytes: 2 }));
    assert_eq!(length(max as u64), Ok(FrameLength::Ready { length: max, header_bytes: 4 }));
    assert_eq!(length(max as u64 + 1), Err(WireError::TooLong(max as u64 + 1)));
    assert_eq!(length((1 << 35) - 1), Err(WireError::TooLong((1 << 35) - 1)));
    assert!(matches!(frame_length(&[0x80, 0x00]), Err(WireError::Malformed(_))));
    assert!(matches!(frame_length(&[0xff; 5]), Err(WireError::Malformed(_))));
    assert_eq!(frame_length(&[0xff; 4]), Ok(FrameLength::Incomplete));
}

#[test]
fn large_blocks_are_the_same_memory_on_both_sides_of_the_wire() {
    let data = Bytes::from(vec![5; INLINE_BYTES]);
    let cid = Prefix::RAW_V1.hash(&data).unwrap();
    let frame = encode(&Outgoing { blocks: vec![(cid, data.clone())], ..Outgoing::default() }, Version::V120).remove(0);
    assert!(frame.parts.iter().any(|part| part.as_ptr() == data.as_ptr()));

    let body = body(&frame);
    let (_, slice) = decode(&body).unwrap().blocks.remove(0);
    assert!(body.as_ptr_range().contains(&slice.as_ptr()));
}

#[test]
fn each_version_says_what_it_can() {
    let (a, b, c) = (raw(b"a"), raw(b"b"), raw(b"c"));
    let cancel = WantEntry { cancel: true, priority: 0, send_dont_have: false, ..want(*c.cid(), WantKind::Block) };
    let message = Outgoing {
        full: true,
        wants: vec![want(*a.cid(), WantKind::Block), want(*b.cid(), WantKind::Have), cancel.clone()],
        blocks: vec![(*c.cid(), c.bytes().clone())],
        presences: vec![(*a.cid(), Presence::Have), (*b.cid(), Presence::DontHave)],
        pending_bytes: 9,
    };
    let expected = Decoded {
        full: true,
        wants: message.wants.clone(),
        blocks: vec![(Prefix::RAW_V1, c.bytes().clone())],
        presences: message.presences.clone(),
        pending_bytes: 9,
    };
    assert_eq!(sent(&message, Version::V120), std::slice::from_ref(&expected));

    let plain = WantEntry { send_dont_have: false, ..want(*a.cid(), WantKind::Block) };
    let v110 = Decoded { wants: vec![plain, cancel], presences: vec![], pending_bytes: 0, ..expected };
    assert_eq!(sent(&message, Version::V110), std::slice::from_ref(&v110));

    let v100 = Decoded { blocks: vec![(Prefix::DAG_PB_V0, c.bytes().clone())], ..v110 };
    assert_eq!(sent(&message, Version::V100), [v100]);
}

#[test]
fn nothing_to_say_makes_no_frame_but_an_empty_full_list_does() {
    let have = Outgoing { wants: vec![want(*raw(b"x").cid(), WantKind::Have)], ..Outgoing::default() };
    assert_eq!(sent(&have, Version::V110), []);
    assert_eq!(sent(&Outgoing::default(), Version::V120), []);
    let full = Outgoing { full: true, ..Outgoing::default() };
    assert_eq!(sent(&full, Version::V120), [Decoded { full: true, ..Decoded::default() }]);
}

#[test]
fn the_empty_block_travels() {
    let empty = raw(b"");
    let message = Outgoing { blocks: vec![(*empty.cid(), Bytes::new())], ..Outgoing::default() };
    for (version, prefix) in [(Version::V100, Prefix::DAG_PB_V0), (Version::V120, Prefix::RAW_V1)] {
        assert_eq!(sent(&message, version)[0].blocks, [(prefix, Bytes::new())]);
    }
}

#[test]
fn long_messages_are_split_and_every_frame_keeps_to_the_limit() {
    let big = Bytes::from(vec![1; block::BLOCK_BYTES_MAX]);
    let cid = Prefix::RAW_V1.hash(&big).unwrap();
    let message = Outgoing {
        full: true,
        wants: vec![want(cid, WantKind::Block); 10],
        blocks: vec![(cid, big.clone()); 3],
        presences: vec![(cid, Presence::Have); 10],
        pending_bytes: 100,
    };
    let frames = encode(&message, Version::V120);
    let decoded: Vec<_> = frames.iter().map(|frame| decode(&body(frame)).unwrap()).collect();
    assert_eq!(decoded.len(), 3, "two blocks of 2 MiB and their prefixes do not fit 4 MiB");
    assert_eq!(decoded.iter().map(|d| d.full).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(decoded.iter().map(|d| d.wants.len()).collect::<Vec<_>>(), [10, 0, 0]);
    assert_eq!(decoded.iter().map(|d| d.blocks.len()).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(decoded.iter().map(|d| d.presences.len()).collect::<Vec<_>>(), [0, 0, 10]);
    let block = u32::try_from(block::BLOCK_BYTES_MAX).unwrap();
    assert_eq!(decoded.iter().map(|d| d.pending_bytes).collect::<Vec<_>>(), [100 + 2 * block, 100 + block, 100]);
    assert_eq!(frames.iter().map(|f| f.block_bytes).collect::<Vec<_>>(), [big.len(); 3]);
}

#[test]
fn a_split_falls_exactly_at_the_limit() {
    // What a frame with two blocks has beside their data, the room reserved for pending bytes included.
    let block = |length: usize| {
        let data = Bytes::from(vec![0; length]);
        (Prefix::RAW_V1.hash(&data).unwrap(), data)
    };
    let half = limits::MESSAGE_BYTES_MAX / 2 - 10;
    let head = |length| block_head(&block(length).0, length, Version::V120).len();
    let heads = head(half) + head(half - 20);
    let rest = limits::MESSAGE_BYTES_MAX - 13 - heads - half;
    let frames = |second| {
        let message = Outgoing { blocks: vec![block(half), block(second)], ..Outgoing::default() };
        sent(&message, Version::V120).len()
    };
    assert_eq!(frames(rest), 1);
    assert_eq!(frames(rest + 1), 2);
}

#[test]
fn pending_bytes_saturate_and_are_never_negative() {
    let cid = *raw(b"p").cid();
    let message = Outgoing { presences: vec![(cid, Presence::Have)], pending_bytes: u32::MAX, ..Outgoing::default() };
    assert_eq!(sent(&message, Version::V120)[0].pending_bytes, i32::MAX.cast_unsigned());
    let negative = oracle::Message { pending_bytes: -5, ..Default::default() }.encode_to_vec();
    assert_eq!(decode(&negative.into()).unwrap().pending_bytes, 0);
}

#[test]
fn blocks_pass_at_their_limit_and_not_one_byte_beyond() {
    let message = |length: usize| {
        let block = pb::Block { prefix: Prefix::RAW_V1.encode(), data: vec![0; length] };
        oracle::Message { payload: vec![block], ..Default::default() }.encode_to_vec().into()
    };
    assert!(decode(&message(block::BLOCK_BYTES_MAX)).is_ok());
    let over = block::BLOCK_BYTES_MAX + 1;
    assert_eq!(decode(&message(over)), Err(WireError::Block(BlockError::TooLarge(over))));
    let old = oracle::Message { blocks: vec![vec![0; over]], ..Default::default() }.encode_to_vec();
    assert_eq!(decode(&old.into()), Err(WireError::Block(BlockError::TooLarge(over))));
}

#[test]
fn the_number_of_blocks_is_bounded() {
    let message = |count| Bytes::from([0x12, 0].repeat(count));
    assert_eq!(decode(&message(BLOCKS_PER_MESSAGE_MAX)).unwrap().blocks.len(), BLOCKS_PER_MESSAGE_MAX);
    assert_eq!(decode(&message(BLOCKS_PER_MESSAGE_MAX + 1)), Err(WireError::TooManyBlocks));
}

#[test]
fn entries_beyond_the_bound_are_not_heeded() {
    let cid = raw(b"w").cid().to_bytes();
    let max = limits::WANTLIST_ENTRIES_HEEDED;
    for (count, heeded) in [(max, max), (max + 1, max)] {
        let decoded = decode(&wants_message(vec![entry_naming(&cid); count])).unwrap();
        assert_eq!(decoded.wants.len(), heeded);
        let presence = pb::BlockPresence { cid: cid.clone(), r#type: 0 };
        let message = oracle::Message { block_presences: vec![presence; count], ..Default::default() };
        assert_eq!(decode(&message.encode_to_vec().into()).unwrap().presences.len(), heeded);
    }
    // Several wantlists in one message are one list to protobuf, and to the bound.
    let half = wants_message(vec![entry_naming(&cid); max]);
    assert_eq!(decode(&[half.clone(), half].concat().into()).unwrap().wants.len(), max);
}

#[test]
fn cids_too_long_to_heed_are_passed_over_and_bad_ones_condemn_the_message() {
    let good = raw(b"g").cid().to_bytes();
    let long = [0x55; limits::CID_BYTES_MAX + 1];
    let decoded = decode(&wants_message(vec![entry_naming(&long), entry_naming(&good)])).unwrap();
    assert_eq!(decoded.wants.len(), 1);

    let trailing = [&good[..], &[0]].concat();
    let version_0_written_out = [&[0, 0x70][..], &good[2..]].concat();
    for bad in [&[][..], &good[..35], &trailing, &long[..limits::CID_BYTES_MAX], &version_0_written_out] {
        let entries = vec![entry_naming(&good), entry_naming(bad)];
        assert!(decode(&wants_message(entries)).is_err(), "{bad:?}");
        let presence = pb::BlockPresence { cid: bad.to_vec(), r#type: 0 };
        let message = oracle::Message { block_presences: vec![presence], ..Default::default() };
        assert!(decode(&message.encode_to_vec().into()).is_err(), "{bad:?}");
    }
    for bad in [&[][..], &[0x12, 0x20], &[2, 0x55, 0x12, 0x20], &[1, 0x55, 0x12, 0x20, 0]] {
        let block = pb::Block { prefix: bad.to_vec(), data: vec![1] };
        let message = oracle::Message { payload: vec![block], ..Default::default() };
        assert!(decode(&message.encode_to_vec().into()).is_err(), "{bad:?}");
    }
}

#[test]
fn identity_cids_up_to_their_longest_are_read() {
    let cid = Cid::new_v1(RAW, Multihash::wrap(IDENTITY, &[3; 128]).unwrap());
    assert_eq!(decode(&wants_message(vec![entry_naming(&cid.to_bytes())])).unwrap().wants[0].cid, cid);
}

#[test]
fn unknown_fields_and_kinds_are_skipped_and_explicit_defaults_read() {
    let cid = raw(b"u").cid().to_bytes();
    // Fields 6 (varint), 7 (fixed64), 8 (delimited), 9 (fixed32), and a pending_bytes of 0 that is written out.
    let unknown = b"\x30\x01\x39\x01\x02\x03\x04\x05\x06\x07\x08\x42\x02ab\x4d\x01\x02\x03\x04\x28\x00";
    assert_eq!(decode(&Bytes::from_static(unknown)), Ok(Decoded::default()));

    let mut entry = entry_naming(&cid);
    entry.want_type = 2;
    assert_eq!(decode(&wants_message(vec![entry])), Ok(Decoded::default()));
    let presence = pb::BlockPresence { cid, r#type: 2 };
    let message = oracle::Message { block_presences: vec![presence], ..Default::default() };
    assert_eq!(decode(&message.encode_to_vec().into()), Ok(Decoded::default()));
}

#[test]
fn bytes_that_are_not_protobuf_are_refused() {
    for bad in [
        &b"\x0a"[..],                                            // length missing
        b"\x0a\x05\x10",                                         // cut short
        b"\x00\x01",                                             // field number 0
        b"\x0b\x0c",                                             // a group
        b"\x0f",                                                 // wire type 7
        b"\x08\x01",                                             // wantlist as a number
        b"\x2a\x00",                                             // pending bytes as bytes
        b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",         // 65 bits
        b"\x42\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",         // length of 2^64 - 1
        b"\x80\x80\x80\x80\x80\x01\x00",                         // field number beyond 29 bits
        b"\x39\x01\x02\x03",                                     // fixed64 cut short
        b"\x28\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", // varint of twelve bytes
    ] {
        assert!(matches!(decode(&Bytes::from_static(bad)), Err(WireError::Malformed(_))), "{bad:?}");
        assert!(oracle::Message::decode(bad).is_err(), "{bad:?}");
    }
}

fn cids() -> impl Strategy<Value = Cid> {
    let digest = any::<[u8; 32]>().prop_map(|digest| Multihash::wrap(SHA2_256, &digest).unwrap());
    let identity = prop::collection::vec(any::<u8>(), 0..=128);
    prop_oneof![
        digest.clone().prop_map(|hash| Cid::new_v0(hash).unwrap()),
        (digest, prop_oneof![Just(RAW), Just(DAG_PB), 0x100_u64..0x1_0000])
            .prop_map(|(h, codec)| Cid::new_v1(codec, h)),
        identity.prop_map(|digest| Cid::new_v1(RAW, Multihash::wrap(IDENTITY, &digest).unwrap())),
    ]
}

fn messages() -> impl Strategy<Value = Outgoing> {
    let kind = any::<bool>().prop_map(|have| if have { WantKind::Have } else { WantKind::Block });
    let want = (cids(), any::<i32>(), kind, any::<bool>(), any::<bool>()).prop_map(
        |(cid, priority, kind, cancel, send_dont_have)| WantEntry { cid, priority, kind, cancel, send_dont_have },
    );
    let length = prop_oneof![0..300_usize, INLINE_BYTES - 2..INLINE_BYTES + 2, 16_300..16_500_usize];
    let block = (cids(), length, any::<u8>()).prop_map(|(cid, length, fill)| (cid, Bytes::from(vec![fill; length])));
    let presence = any::<bool>().prop_map(|have| if have { Presence::Have } else { Presence::DontHave });
    (
        any::<bool>(),
        prop::collection::vec(want, 0..8),
        prop::collection::vec(block, 0..6),
        prop::collection::vec((cids(), presence), 0..8),
        any::<u32>(),
    )
        .prop_map(|(full, wants, blocks, presences, pending_bytes)| Outgoing {
            full,
            wants,
            blocks,
            presences,
            pending_bytes,
        })
}

/// What prost's types say in terms of ours; `None` where ours would refuse.
fn by_oracle(message: &oracle::Message) -> Option<Decoded> {
    let heeded = |cid: &[u8]| cid.len() <= limits::CID_BYTES_MAX && !digest_is_too_long(cid);
    let name = |bytes: &[u8]| {
        let cid = Cid::try_from(bytes).ok()?;
        (cid.to_bytes() == bytes).then_some(cid)
    };
    let mut out = Decoded { pending_bytes: message.pending_bytes.max(0).cast_unsigned(), ..Decoded::default() };
    if let Some(list) = &message.wantlist {
        out.full = list.full;
        for entry in list.entries.iter().filter(|entry| heeded(&entry.block)) {
            let cid = name(&entry.block)?;
            let kind = match entry.want_type {
                0 => WantKind::Block,
                1 => WantKind::Have,
                _ => continue,
            };
            let (priority, cancel, send_dont_have) = (entry.priority, entry.cancel, entry.send_dont_have);
            out.wants.push(WantEntry { cid, priority, kind, cancel, send_dont_have });
        }
    }
    // By kind here, in the order of the wire in ours: tests with both kinds sort them.
    out.blocks.extend(message.blocks.iter().map(|data| (Prefix::DAG_PB_V0, data.clone().into())));
    for block in &message.payload {
        match Prefix::decode(&block.prefix) {
            Ok(prefix) if Block::seal(prefix, Bytes::new()).is_ok() => {
                out.blocks.push((prefix, block.data.clone().into()));
            }
            Ok(_) | Err(BlockError::DigestLength { .. }) => {}
            Err(_) => return None,
        }
    }
    for presence in message.block_presences.iter().filter(|presence| heeded(&presence.cid)) {
        let cid = name(&presence.cid)?;
        match presence.r#type {
            0 => out.presences.push((cid, Presence::Have)),
            1 => out.presences.push((cid, Presence::DontHave)),
            _ => {}
        }
    }
    Some(out)
}

/// The message as prost writes it in version 1.2.
fn for_oracle(message: &Outgoing) -> oracle::Message {
    let entries = message.wants.iter().map(|want| pb::wantlist::Entry {
        block: want.cid.to_bytes(),
        priority: want.priority,
        cancel: want.cancel,
        want_type: i32::from(want.kind == WantKind::Have),
        send_dont_have: want.send_dont_have,
    });
    let payload =
        message.blocks.iter().map(|(cid, bytes)| pb::Block { prefix: Prefix::of(cid).encode(), data: bytes.to_vec() });
    let presences = message.presences.iter().map(|(cid, presence)| pb::BlockPresence {
        cid: cid.to_bytes(),
        r#type: i32::from(*presence == Presence::DontHave),
    });
    oracle::Message {
        wantlist: Some(pb::Wantlist { entries: entries.collect(), full: message.full }),
        blocks: Vec::new(),
        payload: payload.collect(),
        block_presences: presences.collect(),
        pending_bytes: i32::try_from(message.pending_bytes).unwrap_or(i32::MAX),
    }
}

proptest! {
    #[test]
    fn prost_reads_what_we_write(message in messages()) {
        let frames = encode(&message, Version::V120);
        if message.is_empty() {
            prop_assert!(frames.is_empty());
        } else {
            prop_assert_eq!(frames.len(), 1);
            prop_assert_eq!(frames[0].block_bytes, message.block_bytes());
            prop_assert_eq!(oracle::Message::decode(body(&frames[0])).unwrap(), for_oracle(&message));
        }
    }

    #[test]
    fn older_versions_hold_the_same_blocks(message in messages(), v100 in any::<bool>()) {
        let version = if v100 { Version::V100 } else { Version::V110 };
        let frames = encode(&message, version);
        let mut old = oracle::Message::default();
        for frame in &frames {
            old.merge(body(frame)).unwrap();
        }
        let mut expected = for_oracle(&message);
        if v100 {
            expected.blocks = expected.payload.drain(..).map(|block| block.data).collect();
        }
        prop_assert_eq!(old.blocks, expected.blocks);
        prop_assert_eq!(old.payload, expected.payload);
        prop_assert!(old.block_presences.is_empty());
        prop_assert_eq!(old.pending_bytes, 0);
        let entries = old.wantlist.unwrap_or_default().entries;
        prop_assert!(entries.iter().all(|entry| !entry.send_dont_have && entry.want_type == 0));
        let kept = message.wants.iter().filter(|want| want.cancel || want.kind == WantKind::Block).count();
        prop_assert_eq!(entries.len(), kept);
    }

    #[test]
    fn we_read_what_prost_writes(message in messages(), blocks in any::<bool>()) {
        let mut written = for_oracle(&message);
        if blocks {
            written.blocks = written.payload.drain(..).map(|block| block.data).collect();
        }
        let bytes = Bytes::from(written.encode_to_vec());
        match by_oracle(&written) {
            Some(expected) => prop_assert_eq!(decode(&bytes).unwrap(), expected),
            None => prop_assert!(decode(&bytes).is_err()),
        }
    }

    #[test]
    fn damaged_messages_are_read_as_prost_reads_them_or_refused(
        message in messages(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = for_oracle(&message).encode_to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(decoded) = decode(&Bytes::from(bytes.clone())) {
            let mut expected = by_oracle(&oracle::Message::decode(&bytes[..]).unwrap()).unwrap();
            let sorted = |blocks: &mut Vec<(Prefix, Bytes)>| blocks.sort_by_key(|(p, b)| (p.encode(), b.clone()));
            let mut decoded = decoded;
            sorted(&mut decoded.blocks);
            sorted(&mut expected.blocks);
            prop_assert_eq!(decoded, expected);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let frame = Bytes::from(bytes);
        let _ = frame_length(&frame);
        if decode(&frame).is_ok() {
            prop_assert!(oracle::Message::decode(frame).is_ok());
        }
    }
}
