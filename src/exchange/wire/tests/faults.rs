//! What other implementations send that is odd but must not cost more than itself, and messages of exactly the limit.

use super::*;

fn block_under(prefix: &[u8], data: &[u8]) -> pb::Block {
    pb::Block { prefix: prefix.to_vec(), data: data.to_vec() }
}

fn prefix(codec: u64, hash: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![1];
    [codec, hash, length].into_iter().for_each(|number| block::push_varint(&mut bytes, number));
    bytes
}

#[test]
fn a_block_that_cannot_be_hashed_is_dropped_and_the_others_come() {
    let good = prefix(RAW, SHA2_256, 32);
    for odd in [
        prefix(RAW, 0xd5, 16),                // MD5: too short and unknown
        prefix(RAW, 0x1052, 32),              // SSZ: unknown
        prefix(RAW, 0x7fff_ffff, 20),         // nobody's
        prefix(RAW, SHA2_256, 33),            // longer than the function gives
        prefix(RAW, SHA2_256, 19),            // too short to be safe
        prefix(RAW, SHA2_256, 129),           // longer than any
        prefix(RAW, SHA2_256, (1 << 63) - 1), // longer than memory
        prefix(RAW, IDENTITY, 3),             // its own content
    ] {
        let payload = vec![block_under(&good, b"one"), block_under(&odd, b"odd"), block_under(&good, b"two")];
        let message = oracle::Message { payload, ..Default::default() }.encode_to_vec();
        let decoded = decode(&message.into()).unwrap();
        let blocks: Vec<&[u8]> = decoded.blocks.iter().map(|(_, bytes)| &bytes[..]).collect();
        assert_eq!(blocks, [b"one", b"two"], "{odd:?}");
        // What is left can be hashed, so that no message fails after this.
        assert!(decoded.blocks.into_iter().all(|(prefix, bytes)| Block::seal(prefix, bytes).is_ok()));
    }
}

#[test]
fn a_truncated_digest_is_hashed_as_its_prefix_says() {
    let message =
        oracle::Message { payload: vec![block_under(&prefix(RAW, SHA2_256, 20), b"x")], ..Default::default() };
    let (prefix, bytes) = decode(&message.encode_to_vec().into()).unwrap().blocks.remove(0);
    let cid = *Block::seal(prefix, bytes).unwrap().cid();
    assert_eq!(cid.hash().digest(), &Prefix::RAW_V1.hash(b"x").unwrap().hash().digest()[..20]);
}

#[test]
fn wants_under_hashes_that_nobody_knows_are_read_or_passed_over() {
    let named = |hash: u64, digest: usize| {
        let mut bytes = prefix(RAW, hash, digest as u64);
        bytes.resize(bytes.len() + digest, 7);
        bytes
    };
    let good = raw(b"g").cid().to_bytes();
    // Unknown functions, digests of every length that a CID holds, then one byte more than that.
    for (odd, read) in [
        (named(0xd5, 16), 2),
        (named(0x7fff_ffff, 32), 2),
        (named(SHA2_256, 1), 2),
        (named(SHA2_256, 0), 2),
        (named(0x7fff_ffff, 128), 2),
        (named(0x7fff_ffff, 129), 1),
        (named(IDENTITY, 129), 1),
    ] {
        let decoded = decode(&wants_message(vec![entry_naming(&odd), entry_naming(&good)])).unwrap();
        assert_eq!(decoded.wants.len(), read, "{odd:?}");
        let presences = [&odd, &good].map(|cid| pb::BlockPresence { cid: cid.clone(), r#type: 1 });
        let message = oracle::Message { block_presences: presences.to_vec(), ..Default::default() };
        assert_eq!(decode(&message.encode_to_vec().into()).unwrap().presences.len(), read, "{odd:?}");
    }
    // A digest that is cut short is no CID at all, however long it says it is.
    let mut cut = named(0x7fff_ffff, 129);
    cut.pop();
    assert!(decode(&wants_message(vec![entry_naming(&cut)])).is_err());
}

#[test]
fn empty_messages_say_nothing() {
    assert_eq!(frame_length(&[0]), Ok(FrameLength::Ready { length: 0, header_bytes: 1 }));
    assert_eq!(decode(&Bytes::new()), Ok(Decoded::default()));
    // An empty wantlist, and one that says `full = false`.
    for empty in [&b"\x0a\x00"[..], b"\x0a\x02\x10\x00"] {
        assert_eq!(decode(&Bytes::from_static(empty)), Ok(Decoded::default()));
    }
}

#[test]
fn unknown_fields_are_skipped_at_every_depth() {
    let cid = raw(b"u").cid().to_bytes();
    // Field 15, as a number and as bytes.
    let unknown: &[u8] = b"\x78\x05\x7a\x02hi";
    let field = |number: u8, content: &[u8]| {
        let mut bytes = vec![number << 3 | 2];
        push_delimited(&mut bytes, content);
        bytes
    };
    let with = |parts: &[&[u8]]| [unknown, &parts.concat()[..], unknown].concat();
    let entry = field(1, &with(&[&field(1, &cid)]));
    let wantlist = field(1, &with(&[&entry]));
    let payload = field(3, &with(&[&field(1, &prefix(RAW, SHA2_256, 32)), &field(2, b"data")]));
    let presence = field(4, &with(&[&field(1, &cid), b"\x10\x01"]));
    let decoded = decode(&with(&[&wantlist, &payload, &presence]).into()).unwrap();
    assert_eq!(decoded.wants.len(), 1);
    assert_eq!(decoded.blocks, [(Prefix::RAW_V1, Bytes::from_static(b"data"))]);
    assert_eq!(decoded.presences, [(Cid::try_from(&cid[..]).unwrap(), Presence::DontHave)]);
}

#[test]
fn priorities_of_every_sign_arrive_as_they_were_sent() {
    let cid = *raw(b"p").cid();
    for priority in [i32::MIN, -1, 0, 1, i32::MAX] {
        let entry = WantEntry { priority, ..want(cid, WantKind::Block) };
        let message = Outgoing { wants: vec![entry.clone()], ..Outgoing::default() };
        assert_eq!(sent(&message, Version::V120)[0].wants, [entry]);
        let theirs = pb::wantlist::Entry { priority, ..entry_naming(&cid.to_bytes()) };
        assert_eq!(decode(&wants_message(vec![theirs])).unwrap().wants[0].priority, priority);
    }
}

/// A message of exactly `length` bytes, most of a full one.
fn message_of(length: usize) -> Bytes {
    let prefix = prefix(RAW, SHA2_256, 32);
    let of = |rest: usize| {
        let payload = [1_500_000, 1_500_000, rest].map(|size| block_under(&prefix, &vec![3; size])).to_vec();
        oracle::Message { payload, ..Default::default() }.encode_to_vec()
    };
    // The length of a length is the same for all blocks of this order of size.
    let over = of(1_000_000).len() - 1_000_000;
    of(length - over).into()
}

#[test]
fn a_message_of_exactly_the_limit_is_read() {
    let message = message_of(limits::MESSAGE_BYTES_MAX);
    assert_eq!(message.len(), limits::MESSAGE_BYTES_MAX);
    assert_eq!(decode(&message).unwrap().blocks.len(), 3);
}

#[test]
fn the_largest_block_goes_in_one_frame_in_every_version() {
    let data = Bytes::from(vec![9; block::BLOCK_BYTES_MAX]);
    for (version, prefix) in
        [(Version::V100, Prefix::DAG_PB_V0), (Version::V110, Prefix::RAW_V1), (Version::V120, Prefix::RAW_V1)]
    {
        let cid = prefix.hash(&data).unwrap();
        let wants = vec![want(cid, WantKind::Block); limits::WANTLIST_ENTRIES_PER_MESSAGE];
        let presences = vec![(cid, Presence::Have); limits::PRESENCES_PER_MESSAGE];
        let blocks = vec![(cid, data.clone())];
        let message = Outgoing { full: true, wants, blocks, presences, pending_bytes: u32::MAX };
        assert_eq!(sent(&message, version).len(), 1, "{version:?}");
        assert_eq!(sent(&message, version)[0].blocks, [(prefix, data.clone())]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is to be said, no frame is over the limit, and nothing of it is lost by splitting.
    #[test]
    fn no_frame_exceeds_the_limit(
        sizes in prop::collection::vec(
            prop_oneof![0..5000_usize, block::BLOCK_BYTES_MAX - 200..=block::BLOCK_BYTES_MAX], 0..6,
        ),
        entries in 0..70_000_usize,
        presences in 0..70_000_usize,
        version in prop_oneof![Just(Version::V100), Just(Version::V110), Just(Version::V120)],
    ) {
        let cid = *raw(b"limit").cid();
        let message = Outgoing {
            full: true,
            wants: vec![WantEntry { priority: -1, ..want(cid, WantKind::Block) }; entries],
            blocks: sizes.iter().map(|&size| (cid, Bytes::from(vec![0; size]))).collect(),
            presences: vec![(cid, Presence::DontHave); presences],
            pending_bytes: u32::MAX,
        };
        let mut blocks = 0;
        let mut wants = 0;
        for frame in encode(&message, version) {
            let length: usize = frame.parts.iter().map(Bytes::len).sum();
            let body = body(&frame);
            prop_assert!(body.len() <= limits::MESSAGE_BYTES_MAX && length > body.len());
            let read = oracle::Message::decode(body).unwrap();
            blocks += read.blocks.len() + read.payload.len();
            wants += read.wantlist.unwrap_or_default().entries.len();
        }
        prop_assert_eq!((blocks, wants), (sizes.len(), entries));
    }
}
