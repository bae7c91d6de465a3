//! The server against a naive oracle, and each of its promises alone.

mod faults;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::block::{DAG_PB, Prefix, RAW, SHA2_256};

fn now() -> Instant {
    Instant::now()
}

/// A CID that is different for every number.
fn cid(number: u32) -> Cid {
    Prefix::RAW_V1.hash(&number.to_le_bytes()).unwrap()
}

fn entry(cid: Cid, kind: WantKind, priority: i32) -> WantEntry {
    WantEntry { cid, priority, kind, cancel: false, send_dont_have: true }
}

fn block(number: u32) -> WantEntry {
    entry(cid(number), WantKind::Block, 1)
}

fn have(number: u32) -> WantEntry {
    entry(cid(number), WantKind::Have, 1)
}

fn cancel(number: u32) -> WantEntry {
    WantEntry { cancel: true, send_dont_have: false, priority: 0, ..block(number) }
}

/// One server, one peer, and a store of block lengths.
struct Fixture {
    server: Server,
    peer: PeerId,
    store: HashMap<Multihash, usize>,
}

impl Fixture {
    fn new() -> Self {
        let mut server = Server::new(Options::default());
        let peer = PeerId::random();
        server.peer_connected(now(), peer);
        Self { server, peer, store: HashMap::new() }
    }

    fn with(numbers: impl IntoIterator<Item = u32>, bytes: usize) -> Self {
        let mut this = Self::new();
        this.store.extend(numbers.into_iter().map(|number| (*cid(number).hash(), bytes)));
        this
    }

    fn wants(&mut self, entries: &[WantEntry]) {
        self.server.wants(now(), self.peer, false, entries);
    }

    fn outcomes(&self, items: &[(Cid, ReadKind)]) -> Vec<ReadOutcome> {
        items
            .iter()
            .map(|(cid, kind)| match (self.store.get(cid.hash()), kind) {
                (None, _) => ReadOutcome::Missing,
                (Some(&bytes), ReadKind::Block) => ReadOutcome::Block(Bytes::from(vec![0; bytes])),
                (Some(&bytes), ReadKind::Presence) => ReadOutcome::Have { size: u32::try_from(bytes).unwrap() },
            })
            .collect()
    }

    /// Reads and sends until nothing is left to do; the messages.
    fn drain(&mut self) -> Vec<Outgoing> {
        let mut messages = Vec::new();
        while let Some(output) = self.server.poll() {
            match output {
                Output::Read { ticket, items, .. } => {
                    let outcomes = self.outcomes(&items);
                    self.server.read_done(now(), ticket, outcomes);
                }
                Output::Send { peer, message } => {
                    self.server.sent(now(), peer, message.block_bytes());
                    messages.push(message);
                }
            }
        }
        messages
    }

    fn kept(&self) -> usize {
        self.server.ledger(&self.peer).unwrap().wants
    }
}

fn blocks_of(messages: &[Outgoing]) -> Vec<Cid> {
    messages.iter().flat_map(|message| message.blocks.iter().map(|(cid, _)| *cid)).collect()
}

fn presences_of(messages: &[Outgoing]) -> BTreeMap<Cid, Presence> {
    messages.iter().flat_map(|message| message.presences.iter().copied()).collect()
}

#[test]
fn a_block_is_sent_once_and_its_want_is_gone() {
    let mut f = Fixture::with([1], 100_000);
    f.wants(&[block(1)]);
    assert_eq!(blocks_of(&f.drain()), [cid(1)]);
    assert_eq!(f.kept(), 0);
    assert_eq!(f.drain(), []);
    assert_eq!(f.server.ledger(&f.peer).unwrap().bytes, 100_000);
}

#[test]
fn what_is_lacking_is_answered_now_and_again_when_it_arrives() {
    let mut f = Fixture::new();
    f.wants(&[block(1), have(2), WantEntry { send_dont_have: false, ..block(3) }]);
    let expected = BTreeMap::from([(cid(1), Presence::DontHave), (cid(2), Presence::DontHave)]);
    assert_eq!(presences_of(&f.drain()), expected);
    assert_eq!(f.kept(), 3);
    f.store.extend([1, 2, 3].map(|number| (*cid(number).hash(), 5000)));
    f.server.arrived(now(), &[cid(1), cid(2), cid(3), cid(4)]);
    let messages = f.drain();
    assert_eq!(blocks_of(&messages), [cid(1), cid(3)]);
    assert_eq!(presences_of(&messages), BTreeMap::from([(cid(2), Presence::Have)]));
    assert_eq!(f.kept(), 0);
}

#[test]
fn a_block_that_arrives_while_it_is_looked_for_is_not_missed() {
    let mut f = Fixture::new();
    f.wants(&[block(1)]);
    let Some(Output::Read { ticket, .. }) = f.server.poll() else { panic!("nothing is read") };
    f.store.insert(*cid(1).hash(), 10);
    f.server.arrived(now(), &[cid(1)]);
    f.server.read_done(now(), ticket, vec![ReadOutcome::Missing]);
    assert_eq!(blocks_of(&f.drain()), [cid(1)]);
}

#[test]
fn arrival_under_another_codec_answers_too() {
    let mut f = Fixture::new();
    let other = Cid::new_v1(DAG_PB, *cid(1).hash());
    f.wants(&[entry(other, WantKind::Block, 1), block(1)]);
    f.drain();
    f.store.insert(*cid(1).hash(), 70_000);
    f.server.arrived(now(), &[Cid::new_v1(RAW, *cid(1).hash())]);
    let sent: BTreeSet<Cid> = blocks_of(&f.drain()).into_iter().collect();
    assert_eq!(sent, BTreeSet::from([other, cid(1)]));
}

#[test]
fn a_small_block_takes_the_place_of_its_have() {
    for (bytes, as_block) in [(0, true), (1024, true), (1025, false)] {
        let mut f = Fixture::with([1], bytes);
        f.wants(&[have(1)]);
        let messages = f.drain();
        assert_eq!(blocks_of(&messages).len(), usize::from(as_block), "{bytes}");
        assert_eq!(presences_of(&messages).len(), usize::from(!as_block), "{bytes}");
        assert_eq!(f.kept(), 0);
    }
}

#[test]
fn a_cancelled_want_is_not_answered() {
    let mut f = Fixture::with([1, 2], 100);
    f.wants(&[block(1), block(2)]);
    f.wants(&[cancel(1)]);
    assert_eq!(blocks_of(&f.drain()), [cid(2)]);
    // Also when it was being read.
    f.wants(&[block(1)]);
    let Some(Output::Read { ticket, items, .. }) = f.server.poll() else { panic!("nothing is read") };
    f.wants(&[cancel(1)]);
    let outcomes = f.outcomes(&items);
    f.server.read_done(now(), ticket, outcomes);
    assert_eq!(f.drain(), []);
    assert_eq!(f.kept(), 0);
}

#[test]
fn a_full_list_replaces_what_was_wanted() {
    let mut f = Fixture::new();
    f.wants(&[block(1), block(2)]);
    f.drain();
    f.server.wants(now(), f.peer, true, &[block(2), block(3)]);
    f.drain();
    assert_eq!(f.kept(), 2);
    f.store.extend([1, 2, 3].map(|number| (*cid(number).hash(), 10)));
    f.server.arrived(now(), &[cid(1), cid(2), cid(3)]);
    let sent: BTreeSet<Cid> = blocks_of(&f.drain()).into_iter().collect();
    assert_eq!(sent, BTreeSet::from([cid(2), cid(3)]));
}

#[test]
fn entries_for_one_cid_are_merged() {
    let mut f = Fixture::with([1, 2], 5000);
    let asks = |send_dont_have, entry| WantEntry { send_dont_have, ..entry };
    f.wants(&[
        // A block beats a presence, in either order.
        have(1),
        block(1),
        block(2),
        have(2),
        // Cancel is sticky.
        block(3),
        cancel(3),
        // So is asking for DONT_HAVE.
        asks(true, block(4)),
        asks(false, block(4)),
    ]);
    let messages = f.drain();
    assert_eq!(blocks_of(&messages), [cid(1), cid(2)]);
    assert_eq!(presences_of(&messages), BTreeMap::from([(cid(4), Presence::DontHave)]));
    assert_eq!(f.kept(), 1);
}

#[test]
fn higher_priority_comes_first_and_equals_stay_in_order() {
    let mut f = Fixture::with(0..6, 100_000);
    let wants: Vec<WantEntry> =
        [1, 5, 5, 9, 1, 9].iter().zip(0..).map(|(p, n)| entry(cid(n), WantKind::Block, *p)).collect();
    f.wants(&wants);
    assert_eq!(blocks_of(&f.drain()), [3, 5, 1, 2, 0, 4].map(cid));
}

#[test]
fn exactly_as_many_wants_are_kept_as_the_limit_says() {
    let limit = u32::try_from(limits::WANTS_PER_PEER).unwrap();
    let mut f = Fixture::new();
    f.wants(&(0..limit).map(block).collect::<Vec<_>>());
    assert_eq!(f.kept(), limits::WANTS_PER_PEER);
    f.wants(&[block(limit)]);
    assert_eq!(f.kept(), limits::WANTS_PER_PEER, "all are new: the last is refused");
    assert_eq!(presences_of(&f.drain()).len(), limits::WANTS_PER_PEER);
    // Now they are known to be lacking, and the lowest gives way to one that may be there.
    f.store.insert(*cid(limit).hash(), 10);
    f.wants(&[block(limit)]);
    assert_eq!(blocks_of(&f.drain()), [cid(limit)]);
    assert_eq!(f.kept(), limits::WANTS_PER_PEER - 1);
    f.server.peer_disconnected(now(), f.peer);
    assert!(f.server.is_clean());
}

#[test]
fn a_full_list_is_bounded_too() {
    let many = u32::try_from(3 * limits::WANTS_PER_PEER).unwrap();
    let mut f = Fixture::new();
    f.server.wants(now(), f.peer, true, &(0..many).map(block).collect::<Vec<_>>());
    f.drain();
    assert_eq!(f.kept(), limits::WANTS_PER_PEER);
}

#[test]
fn identity_cids_are_not_heeded_and_long_ones_are() {
    let mut f = Fixture::new();
    let identity = Cid::new_v1(RAW, Multihash::wrap(0, b"hello").unwrap());
    // The longest CID that our own type can hold is within the limit; longer ones end at the wire.
    let longest = Cid::new_v1(u64::MAX >> 1, Multihash::wrap(SHA2_256, &[7; 128]).unwrap());
    assert!(longest.encoded_len() <= limits::CID_BYTES_MAX);
    f.wants(&[entry(identity, WantKind::Block, 1), entry(longest, WantKind::Block, 1)]);
    assert_eq!(presences_of(&f.drain()).keys().collect::<Vec<_>>(), [&longest]);
}

#[test]
fn old_peers_get_no_presences_and_the_oldest_only_cidv0() {
    let mut f = Fixture::with([1], 5000);
    f.server.peer_version(now(), f.peer, Version::V110);
    f.wants(&[block(1), block(2), have(1)]);
    let messages = f.drain();
    assert_eq!((blocks_of(&messages), presences_of(&messages).len()), (vec![cid(1)], 0));
    assert!(messages.iter().all(|message| message.pending_bytes == 0));

    let old = Cid::new_v0(*cid(1).hash()).unwrap();
    f.server.peer_version(now(), f.peer, Version::V100);
    assert_eq!(f.kept(), 0, "what cannot be answered is dropped");
    f.wants(&[entry(old, WantKind::Block, 1), block(1)]);
    assert_eq!(blocks_of(&f.drain()), [old]);
    f.server.peer_disconnected(now(), f.peer);
    assert!(f.server.is_clean());
}

#[test]
fn large_blocks_go_alone_and_small_ones_together() {
    let mut f = Fixture::with(0..4, limits::BLOCK_ALONE_BYTES_MIN);
    f.store.extend((10..200).map(|number| (*cid(number).hash(), 4096)));
    f.wants(&(0..4).chain(10..200).map(block).collect::<Vec<_>>());
    let messages = f.drain();
    assert_eq!(blocks_of(&messages).len(), 194);
    for message in &messages {
        let large = message.blocks.iter().any(|(_, bytes)| bytes.len() >= limits::BLOCK_ALONE_BYTES_MIN);
        assert!(!large || message.blocks.len() == 1);
        assert!(message.block_bytes() <= limits::PACKED_BYTES_MAX + limits::BLOCK_ALONE_BYTES_MIN);
    }
    assert!(messages.len() < 30, "{} messages", messages.len());
}

#[test]
fn presences_are_batched_and_none_exceeds_the_limit() {
    let mut f = Fixture::new();
    f.wants(&(0..1000).map(have).collect::<Vec<_>>());
    let messages = f.drain();
    assert_eq!(presences_of(&messages).len(), 1000);
    assert!(messages.len() <= 1000 / limits::READS_PER_TICKET + 1, "{} messages", messages.len());
}

#[test]
fn a_peer_that_does_not_read_holds_a_bounded_number_of_bytes() {
    let block_bytes = 1024 * 1024;
    let mut f = Fixture::with(0..100, block_bytes);
    let other = PeerId::random();
    f.server.peer_connected(now(), other);
    f.wants(&(0..100).map(block).collect::<Vec<_>>());
    // Reads are answered, but nothing is ever sent.
    let mut held = 0;
    while let Some(output) = f.server.poll() {
        match output {
            Output::Read { ticket, items, .. } => {
                let outcomes = f.outcomes(&items);
                f.server.read_done(now(), ticket, outcomes);
            }
            Output::Send { message, .. } => held += message.block_bytes(),
        }
    }
    assert!(held > 0 && held <= limits::SERVE_BYTES_PER_PEER, "{held}");
    // Others are served meanwhile, and it goes on as soon as it reads.
    f.server.wants(now(), other, false, &[block(1)]);
    assert_eq!(blocks_of(&f.drain()), [cid(1)]);
    f.server.sent(now(), f.peer, held);
    assert_eq!(blocks_of(&f.drain()).len(), 100 - held / block_bytes);
}

#[test]
fn many_that_do_not_read_hold_no_more_than_the_total() {
    let mut f = Fixture::with(0..100, 1024 * 1024);
    let mut held = 0;
    for _ in 0..100 {
        let peer = PeerId::random();
        f.server.peer_connected(now(), peer);
        f.server.wants(now(), peer, false, &(0..100).map(block).collect::<Vec<_>>());
        while let Some(output) = f.server.poll() {
            match output {
                Output::Read { ticket, items, .. } => {
                    let outcomes = f.outcomes(&items);
                    f.server.read_done(now(), ticket, outcomes);
                }
                Output::Send { message, .. } => held += message.block_bytes(),
            }
        }
        assert!(held <= limits::SERVE_BYTES_TOTAL, "{held}");
    }
    assert!(held >= limits::SERVE_BYTES_TOTAL / 2, "{held}");
}

#[test]
fn peers_take_turns() {
    let mut f = Fixture::with(0..100, 1024 * 1024);
    let other = PeerId::random();
    f.server.peer_connected(now(), other);
    f.wants(&(0..50).map(block).collect::<Vec<_>>());
    f.server.wants(now(), other, false, &(50..100).map(block).collect::<Vec<_>>());
    let sent = blocks_of(&f.drain());
    let early = sent.iter().take(20).filter(|sent| (50..100).any(|number| cid(number) == **sent)).count();
    assert!((8..=12).contains(&early), "{early} of the first 20 went to the second peer");
}

#[test]
fn nothing_is_kept_of_a_peer_that_left() {
    let mut f = Fixture::with([1, 2], 100_000);
    f.wants(&[block(1), block(2), have(3), block(4)]);
    let Some(Output::Read { ticket, items, .. }) = f.server.poll() else { panic!("nothing is read") };
    f.server.peer_disconnected(now(), f.peer);
    assert!(f.server.is_clean());
    // The late answer, a late word of sending and an arrival change nothing.
    let outcomes = f.outcomes(&items);
    f.server.read_done(now(), ticket, outcomes);
    f.server.sent(now(), f.peer, 100_000);
    f.server.arrived(now(), &[cid(4)]);
    assert!(f.server.poll().is_none());
    assert!(f.server.is_clean() && f.server.ledger(&f.peer).is_none());
    // And what comes from a stranger is not kept.
    f.wants(&[block(1)]);
    assert!(f.server.is_clean());
}

#[test]
fn too_few_outcomes_count_as_missing_and_too_large_blocks_too() {
    let mut f = Fixture::new();
    f.wants(&[have(1), have(2)]);
    let Some(Output::Read { ticket, items, .. }) = f.server.poll() else { panic!("nothing is read") };
    assert_eq!(items.len(), 2);
    f.server.read_done(now(), ticket, vec![ReadOutcome::Have { size: 5000 }]);
    let messages = f.drain();
    let expected = BTreeMap::from([(cid(1), Presence::Have), (cid(2), Presence::DontHave)]);
    assert_eq!(presences_of(&messages), expected);
    let mut f = Fixture::with([1], block::BLOCK_BYTES_MAX + 1);
    f.wants(&[block(1)]);
    assert_eq!(presences_of(&f.drain()), BTreeMap::from([(cid(1), Presence::DontHave)]));
}

/// The rules of protocols.md §1.4 without budgets, queues or batches.
#[derive(Default)]
struct Oracle {
    wants: BTreeMap<Cid, (WantKind, bool)>,
    store: BTreeMap<Cid, usize>,
}

impl Oracle {
    /// Answers what has been touched; blocks and presences in the order of CIDs.
    fn answer(&mut self, touched: &BTreeSet<Cid>, arrived: bool) -> (BTreeSet<Cid>, BTreeMap<Cid, Presence>) {
        let mut answers = (BTreeSet::new(), BTreeMap::new());
        for cid in touched {
            let Some(&(kind, send_dont_have)) = self.wants.get(cid) else { continue };
            match self.store.get(cid) {
                Some(&bytes) if kind == WantKind::Block || bytes <= 1024 => {
                    answers.0.insert(*cid);
                    self.wants.remove(cid);
                }
                Some(_) => {
                    answers.1.insert(*cid, Presence::Have);
                    self.wants.remove(cid);
                }
                None if send_dont_have && !arrived => {
                    answers.1.insert(*cid, Presence::DontHave);
                }
                None => {}
            }
        }
        answers
    }
}

#[derive(Debug, Clone)]
enum Op {
    Wants { full: bool, entries: Vec<(u32, bool, bool, bool, i32)> },
    Arrive(u32, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let entry = (0_u32..8, any::<bool>(), prop::bool::weighted(0.2), any::<bool>(), 0_i32..3);
    prop_oneof![
        3 => (prop::bool::weighted(0.15), prop::collection::vec(entry, 0..6))
            .prop_map(|(full, entries)| Op::Wants { full, entries }),
        1 => (0_u32..8, prop_oneof![Just(0), Just(100), Just(1024), Just(1025), Just(300_000)])
            .prop_map(|(number, bytes)| Op::Arrive(number, bytes)),
    ]
}

proptest! {
    #[test]
    fn the_ledger_does_what_the_rules_say(ops in prop::collection::vec(op(), 0..40), at_once in any::<bool>()) {
        let mut f = Fixture::new();
        let mut oracle = Oracle::default();
        for op in ops {
            let (touched, arrived) = match op {
                Op::Wants { full, entries } => {
                    let entries: Vec<WantEntry> = entries
                        .iter()
                        .map(|&(number, is_block, cancel, send_dont_have, priority)| WantEntry {
                            cid: cid(number),
                            priority,
                            kind: if is_block { WantKind::Block } else { WantKind::Have },
                            cancel,
                            send_dont_have,
                        })
                        .collect();
                    f.server.wants(now(), f.peer, full, &entries);
                    let cancelled: BTreeSet<Cid> = entries.iter().filter(|e| e.cancel).map(|e| e.cid).collect();
                    let mut touched = BTreeMap::new();
                    for entry in entries.iter().filter(|entry| !cancelled.contains(&entry.cid)) {
                        let known = touched.entry(entry.cid).or_insert((entry.kind, entry.send_dont_have));
                        known.0 = if entry.kind == WantKind::Block { entry.kind } else { known.0 };
                        known.1 |= entry.send_dont_have;
                    }
                    oracle.wants.retain(|cid, _| !cancelled.contains(cid) && (!full || touched.contains_key(cid)));
                    for (cid, (kind, send_dont_have)) in &touched {
                        let known = oracle.wants.entry(*cid).or_insert((*kind, *send_dont_have));
                        known.0 = if *kind == WantKind::Block { *kind } else { known.0 };
                        known.1 = *send_dont_have;
                    }
                    (touched.into_keys().collect::<BTreeSet<Cid>>(), false)
                }
                Op::Arrive(number, bytes) => {
                    f.store.entry(*cid(number).hash()).or_insert(bytes);
                    oracle.store.entry(cid(number)).or_insert(bytes);
                    f.server.arrived(now(), &[cid(number)]);
                    (BTreeSet::from([cid(number)]), true)
                }
            };
            if at_once {
                let messages = f.drain();
                let blocks: Vec<Cid> = blocks_of(&messages);
                let expected = oracle.answer(&touched, arrived);
                prop_assert_eq!(blocks.len(), expected.0.len());
                prop_assert_eq!(blocks.into_iter().collect::<BTreeSet<_>>(), expected.0);
                prop_assert_eq!(presences_of(&messages), expected.1);
            }
        }
        // However the work was interleaved, what is left is what is wanted and lacking.
        f.drain();
        let left = oracle.wants.keys().filter(|cid| !oracle.store.contains_key(cid)).count();
        prop_assert_eq!(f.kept(), left);
        f.server.peer_disconnected(now(), f.peer);
        prop_assert!(f.server.is_clean());
    }
}
