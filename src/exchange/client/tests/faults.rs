//! The client against what other implementations do wrong: drop wants, stall, contradict themselves, flood.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::block::{DAG_PB, SHA2_256};

/// What boxo keeps of a peer's wants: all wants of a message are added before its cancels are heeded, and what does not
/// fit then is dropped without a word.
#[derive(Debug, Default)]
struct BoxoLedger {
    wants: HashSet<Cid>,
    most: usize,
    dropped: usize,
}

impl BoxoLedger {
    fn heed(&mut self, full: bool, entries: &[WantEntry]) {
        if full {
            self.wants.clear();
        }
        for entry in entries.iter().filter(|entry| !entry.cancel) {
            if self.wants.len() < limits::WANTS_PER_PEER || self.wants.contains(&entry.cid) {
                self.wants.insert(entry.cid);
            } else {
                self.dropped += 1;
            }
        }
        self.most = self.most.max(self.wants.len());
        for entry in entries.iter().filter(|entry| entry.cancel) {
            self.wants.remove(&entry.cid);
        }
    }
}

/// A block that comes under `prefix` and is wanted as `cid`.
fn two_names(prefix: Prefix, version: cid::Version, codec: u64) -> (Block, Cid) {
    let block = Block::seal(prefix, Bytes::from_static(b"one content, many names")).unwrap();
    let cid = Cid::new(version, codec, *block.cid().hash()).unwrap();
    (block, cid)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Debug, Clone)]
enum Op {
    /// So many of the oldest unanswered questions are answered: block, HAVE or DONT_HAVE by the last number.
    Answer(usize, u8),
    Pass(u64),
    Forget(usize),
    Reconnect,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1..700_usize, 0..4_u8).prop_map(|(count, kind)| Op::Answer(count, kind)),
        3 => (1..12_000_u64).prop_map(Op::Pass),
        1 => (0..3000_usize).prop_map(Op::Forget),
        1 => Just(Op::Reconnect),
    ]
}

/// A client with 3000 small wants, a peer that keeps them as boxo does, and what that peer has not answered.
struct Boxo {
    f: Fixture,
    peer: PeerId,
    ledger: BoxoLedger,
    open: VecDeque<(Cid, WantKind)>,
    blocks: HashMap<Cid, Block>,
}

impl Boxo {
    fn new() -> Self {
        let mut f = Fixture::new(0);
        let peer = f.peer();
        let seal = |n: u32| Block::seal(Prefix::RAW_V1, Bytes::copy_from_slice(&n.to_le_bytes())).unwrap();
        f.blocks = (0..3000).map(seal).collect();
        let blocks = f.blocks.iter().map(|block| (*block.cid(), block.clone())).collect();
        // Small enough that no pipeline is full before all the wants for blocks stand.
        let wants: Vec<(Cid, u32)> = f.blocks.iter().map(|block| (*block.cid(), 2 * KIB)).collect();
        f.client.want(f.now, f.session, &wants);
        Self { f, peer, ledger: BoxoLedger::default(), open: VecDeque::new(), blocks }
    }

    fn drain(&mut self) {
        while let Some(output) = self.f.client.poll() {
            if let Output::Send { entries, full, .. } = output {
                self.ledger.heed(full, &entries);
                self.open.extend(entries.iter().filter(|entry| !entry.cancel).map(|entry| (entry.cid, entry.kind)));
            }
        }
        let (most, dropped) = (self.ledger.most, self.ledger.dropped);
        assert!(most <= limits::WANTS_PER_PEER && dropped == 0, "{most} at once, {dropped} dropped");
    }

    fn answer(&mut self, count: usize, kind: u8) {
        let count = count.min(self.open.len());
        let answered: Vec<(Cid, WantKind)> = self.open.drain(..count).collect();
        let (mut blocks, mut presences) = (Vec::new(), Vec::new());
        for (i, (cid, want)) in answered.into_iter().enumerate() {
            match (kind, want) {
                (0, WantKind::Block) => blocks.push(self.blocks[&cid].clone()),
                (0 | 1, WantKind::Have) => presences.push((cid, Presence::Have)),
                // Mostly lacking: so its ledger fills.
                (3, WantKind::Have) if i % 7 == 0 => presences.push((cid, Presence::Have)),
                _ => presences.push((cid, Presence::DontHave)),
            }
        }
        for block in &blocks {
            self.ledger.wants.remove(block.cid());
        }
        for (cid, _) in presences.iter().filter(|(_, presence)| *presence == Presence::Have) {
            self.ledger.wants.remove(cid);
        }
        self.f.client.message(self.f.now, self.peer, blocks, &presences, 0);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.f.now + time;
        while let Some(at) = self.f.client.next_timeout().filter(|at| *at <= end) {
            self.f.now = at.max(self.f.now);
            self.f.client.timeout(self.f.now);
            self.drain();
        }
        self.f.now = end;
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Answer(count, kind) => self.answer(count, kind),
            Op::Pass(ms) => self.pass(Duration::from_millis(ms)),
            Op::Forget(at) => {
                let cids: Vec<Cid> = (0..100).map(|n| self.f.cid((at + n) % 3000)).collect();
                self.f.client.forget(self.f.now, self.f.session, &cids);
                self.drain();
            }
            // The other side has not noticed, and keeps its ledger until a full list replaces it.
            Op::Reconnect => {
                self.f.client.peer_disconnected(self.f.now, self.peer);
                self.f.client.peer_connected(self.f.now, self.peer);
                self.open.clear();
                self.drain();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn boxo_is_never_asked_for_more_than_it_keeps(ops in prop::collection::vec(op(), 0..60)) {
        let mut boxo = Boxo::new();
        boxo.drain();
        for op in &ops {
            boxo.apply(op);
        }
    }
}

#[test]
fn a_full_ledger_is_turned_over_and_sent_anew_without_a_want_too_many() {
    let mut boxo = Boxo::new();
    boxo.drain();
    for _ in 0..40 {
        boxo.answer(usize::MAX, 2);
    }
    assert_eq!(boxo.ledger.wants.len(), limits::WANT_HAVES_PER_PEER);
    // Five minutes of lacking, then HAVE and blocks to what is asked next.
    for _ in 0..60 {
        boxo.pass(seconds(5));
        boxo.answer(usize::MAX, 2);
        boxo.answer(usize::MAX, 1);
        boxo.answer(100, 0);
    }
    boxo.apply(&Op::Reconnect);
    for _ in 0..40 {
        boxo.answer(usize::MAX, 3);
    }
    assert!(boxo.ledger.most > limits::WANT_HAVES_PER_PEER, "{}", boxo.ledger.most);
}

#[test]
fn cancels_and_the_wants_that_take_their_place_go_one_after_the_other() {
    let mut boxo = Boxo::new();
    boxo.drain();
    // It lacks all that it was presumed to have, has the next 256 and is asked for them, and lacks what follows.
    boxo.answer(usize::MAX, 2);
    while boxo.open.iter().filter(|(_, kind)| *kind == WantKind::Block).count() < limits::WANT_BLOCKS_PER_PEER {
        let is_question = |entry: &(Cid, WantKind)| entry.1 == WantKind::Have;
        let questions: Vec<Cid> = boxo.open.iter().copied().filter(is_question).map(|(cid, _)| cid).collect();
        assert!(!questions.is_empty());
        boxo.open.retain(|entry| !is_question(entry));
        boxo.ledger.wants.retain(|cid| !questions.contains(cid));
        let haves: Vec<(Cid, Presence)> = questions.into_iter().map(|cid| (cid, Presence::Have)).collect();
        boxo.f.client.message(boxo.f.now, boxo.peer, Vec::new(), &haves, 0);
        boxo.drain();
    }
    let mut lacking = Vec::new();
    loop {
        let questions: Vec<Cid> =
            boxo.open.iter().filter(|(_, kind)| *kind == WantKind::Have).map(|(cid, _)| *cid).collect();
        if questions.is_empty() {
            break;
        }
        boxo.open.retain(|(_, kind)| *kind == WantKind::Block);
        let presences: Vec<(Cid, Presence)> = questions.iter().map(|cid| (*cid, Presence::DontHave)).collect();
        lacking.extend(questions);
        boxo.f.client.message(boxo.f.now, boxo.peer, Vec::new(), &presences, 0);
        boxo.drain();
    }
    assert_eq!(boxo.ledger.wants.len(), limits::WANTS_PER_PEER, "it is full");
    boxo.f.client.forget(boxo.f.now, boxo.f.session, &lacking[..100]);
    boxo.drain();
    assert_eq!(boxo.ledger.wants.len(), limits::WANTS_PER_PEER, "and is full again");
}

#[test]
fn a_have_that_comes_to_nothing_is_taken_elsewhere_in_time() {
    let mut f = Fixture::new(1);
    let liar = f.peer();
    f.want_all();
    f.say(liar, 0, Presence::Have);
    assert_eq!(f.done().wants, [(liar, f.cid(0), WantKind::Block)]);
    let other = f.peer();
    assert!(f.done().wants.is_empty());
    let done = f.pass(limits::OVERDUE_MIN);
    assert_eq!((done.wants, done.cancels), (vec![(other, f.cid(0), WantKind::Block)], vec![(liar, f.cid(0))]));
    // Another HAVE of the same kind changes nothing while the other may still send it.
    f.say(liar, 0, Presence::Have);
    assert!(f.done().wants.is_empty());
}

#[test]
fn a_peer_that_was_slow_before_it_stalled_is_not_waited_for_by_its_pace() {
    let mut f = Fixture::new(2);
    let slow = f.peer();
    let (first, second) = (f.cid(0), f.cid(1));
    f.client.want(f.now, f.session, &[(first, 64 * KIB)]);
    f.done();
    f.pass(seconds(25));
    f.give(slow, 0);
    // At its pace the next takes 25 s and more; four times that is what was allowed for it.
    f.client.want(f.now, f.session, &[(second, 64 * KIB)]);
    assert_eq!(f.done().wants, [(slow, second, WantKind::Block)]);
    let other = f.peer();
    assert_eq!(f.pass(limits::OVERDUE_MAX).wants, [(other, second, WantKind::Block)]);
}

#[test]
fn who_stalls_again_and_again_is_asked_only_for_what_the_others_leave() {
    let mut f = Fixture::new(40);
    let (liar, good) = (f.peer(), f.peer());
    let haves: Vec<(Cid, Presence)> = f.blocks.iter().map(|block| (*block.cid(), Presence::Have)).collect();
    let wants: Vec<(Cid, u32)> = haves.iter().map(|(cid, _)| (*cid, 64 * KIB)).collect();
    f.client.want(f.now, f.session, &wants[..38]);
    f.client.message(f.now, liar, Vec::new(), &haves, 0);
    let mut to_good: VecDeque<Cid> = VecDeque::new();
    let mut came = 0;
    for _ in 0..120 {
        let mut done = f.pass(seconds(1));
        done.add(&mut f.client);
        came += done.blocks.len();
        to_good.extend(done.wants.iter().filter(|(peer, ..)| *peer == good).map(|(_, cid, _)| *cid));
        if let Some(cid) = to_good.pop_front() {
            let number = wants.iter().position(|(other, _)| *other == cid).unwrap();
            f.give(good, number);
        }
    }
    assert_eq!(came, 38, "all came from the peer that gives");
    assert!(f.client.counters().given_up >= 3);
    // Now the liar has HAVE and nothing to do, and still is not asked while the other can take it.
    f.client.want(f.now, f.session, &wants[38..]);
    f.client.message(f.now, liar, Vec::new(), &haves, 0);
    let asked: Vec<PeerId> = f.done().wants.into_iter().map(|(peer, ..)| peer).collect();
    assert_eq!(asked, [good, good]);
}

#[test]
fn a_lone_peer_that_stalls_is_asked_again_for_ever_but_not_often() {
    for says_have in [false, true] {
        let mut f = Fixture::new(300);
        let peer = f.peer();
        f.want_all();
        let mut asked: HashMap<Cid, Vec<Instant>> = HashMap::new();
        let end = f.now + seconds(3600);
        while f.now < end {
            let mut done = f.pass(seconds(1));
            done.add(&mut f.client);
            let now = f.now;
            let mut haves = Vec::new();
            for (_, cid, kind) in done.wants {
                match kind {
                    WantKind::Block => asked.entry(cid).or_default().push(now),
                    WantKind::Have => haves.push((cid, Presence::Have)),
                }
            }
            if says_have {
                f.client.message(now, peer, Vec::new(), &haves, 0);
            }
        }
        let all: usize = asked.values().map(Vec::len).sum();
        assert!(asked.values().all(|times| times.windows(2).all(|two| two[1] - two[0] >= limits::RESEND_AFTER)));
        // It is tried at least once in two minutes, and a peer that does nothing costs no more than a want in two
        // seconds.
        let mut times: Vec<Instant> = asked.into_values().flatten().collect();
        times.sort();
        let pause = times.windows(2).map(|two| two[1] - two[0]).max().unwrap();
        assert!(pause <= seconds(120), "{says_have}: {pause:?} without a question");
        assert!((30..3600).contains(&all), "{says_have}: {all} in an hour");
        // It is alive again: all come.
        let deadline = f.now + seconds(600);
        let mut missing: HashMap<Cid, usize> =
            f.blocks.iter().enumerate().map(|(number, block)| (*block.cid(), number)).collect();
        while !missing.is_empty() {
            assert!(f.now < deadline, "{says_have}: {} never come", missing.len());
            let mut done = f.pass(Duration::from_millis(50));
            done.add(&mut f.client);
            for (_, cid, kind) in done.wants {
                match kind {
                    WantKind::Block => {
                        if let Some(number) = missing.remove(&cid) {
                            f.give(peer, number);
                        }
                    }
                    WantKind::Have => f.client.message(f.now, peer, Vec::new(), &[(cid, Presence::Have)], 0),
                }
            }
        }
    }
}

#[test]
fn a_dont_have_after_a_have_moves_the_want_on() {
    let mut f = Fixture::new(1);
    let (fickle, other) = (f.peer(), f.peer());
    f.want_all();
    // Before it was asked for the block ...
    f.say(fickle, 0, Presence::Have);
    f.say(fickle, 0, Presence::DontHave);
    assert_eq!(f.done().wants, [(other, f.cid(0), WantKind::Block)]);
    // ... and after.
    let mut f = Fixture::new(1);
    let (fickle, other) = (f.peer(), f.peer());
    f.want_all();
    f.say(fickle, 0, Presence::Have);
    assert_eq!(f.done().wants, [(fickle, f.cid(0), WantKind::Block)]);
    f.say(fickle, 0, Presence::DontHave);
    let done = f.done();
    assert_eq!((done.wants, done.cancels), (vec![(other, f.cid(0), WantKind::Block)], vec![(fickle, f.cid(0))]));
    // It goes on like that: it is left alone for a while, and nobody else is troubled.
    for _ in 0..100 {
        f.say(fickle, 0, Presence::Have);
        f.say(fickle, 0, Presence::DontHave);
        assert!(f.done().wants.is_empty());
    }
    f.give(other, 0);
    assert_eq!(f.done().blocks.len(), 1);
}

#[test]
fn a_lone_peer_that_contradicts_itself_is_asked_again_later() {
    let mut f = Fixture::new(1);
    let fickle = f.peer();
    f.want_all();
    f.done();
    let mut asked = 0;
    for _ in 0..600 {
        f.say(fickle, 0, Presence::Have);
        f.say(fickle, 0, Presence::DontHave);
        let mut done = f.pass(seconds(1));
        done.add(&mut f.client);
        asked += done.wants.len();
    }
    assert!((5..=60).contains(&asked), "{asked} times in ten minutes");
    // HAVE after DONT_HAVE, when it is meant.
    let mut kinds = Vec::new();
    while kinds.last() != Some(&WantKind::Block) {
        assert!(kinds.len() < 5);
        let mut done = f.pass(limits::SHUNNED_FOR + seconds(1));
        done.add(&mut f.client);
        kinds.extend(done.wants.iter().map(|(_, _, kind)| *kind));
        f.say(fickle, 0, Presence::Have);
        kinds.extend(f.done().wants.iter().map(|(_, _, kind)| *kind));
    }
    f.give(fickle, 0);
    assert_eq!(f.done().blocks.len(), 1);
}

#[test]
fn presences_for_what_was_never_asked_leave_no_trace() {
    let mut f = Fixture::new(3);
    let peer = f.peer();
    let all: Vec<(Cid, Presence)> = (0..4096_u32)
        .flat_map(|number| {
            let cid = Prefix::RAW_V1.hash(&number.to_be_bytes()).unwrap();
            [(cid, Presence::Have), (cid, Presence::DontHave)]
        })
        .collect();
    f.client.message(f.now, peer, Vec::new(), &all, 0);
    f.client.message(f.now, PeerId::random(), Vec::new(), &all, 0);
    f.client.message(f.now, peer, Vec::new(), &[], 0);
    f.client.close(f.now, f.session);
    assert!(f.done().wants.is_empty() && f.client.is_clean() && f.client.next_timeout().is_none());
    // A peer that lacks what it was not asked about is still presumed to have the rest.
    f.session = f.client.open(f.now);
    f.want_all();
    f.say(peer, 2, Presence::DontHave);
    assert!(f.done().wants.iter().all(|(_, _, kind)| *kind == WantKind::Block));
}

#[test]
fn a_presence_under_another_name_of_the_same_bytes_counts() {
    let names = |hash: Multihash| [Cid::new_v1(DAG_PB, hash), Cid::new_v0(hash).unwrap(), Cid::new_v1(0x71, hash)];
    for which in 0..3 {
        let mut f = Fixture::new(1);
        let (a, b) = (f.peer(), f.peer());
        f.want_all();
        let other_name = names(*f.cid(0).hash())[which];
        f.client.message(f.now, a, Vec::new(), &[(other_name, Presence::Have)], 0);
        assert_eq!(f.done().wants, [(a, f.cid(0), WantKind::Block)], "asked by the name that is wanted");
        f.client.message(f.now, a, Vec::new(), &[(other_name, Presence::DontHave)], 0);
        assert_eq!(f.done().wants, [(b, f.cid(0), WantKind::Block)]);
    }
}

#[test]
fn a_block_under_another_name_of_the_same_bytes_is_given_under_the_wanted_one() {
    use cid::Version::{V0, V1};
    for (comes, version, codec) in [
        (Prefix::DAG_PB_V1, V1, block::RAW),
        (Prefix::DAG_PB_V0, V1, block::RAW),
        (Prefix::RAW_V1, V1, DAG_PB),
        (Prefix::RAW_V1, V0, DAG_PB),
        (Prefix::DAG_PB_V1, V0, DAG_PB),
        (Prefix::DAG_PB_V0, V1, DAG_PB),
    ] {
        let (block, wanted) = two_names(comes, version, codec);
        let mut f = Fixture::new(0);
        let peer = f.peer();
        f.client.want(f.now, f.session, &[(wanted, KIB)]);
        assert_eq!(f.done().wants, [(peer, wanted, WantKind::Block)]);
        f.client.message(f.now, peer, vec![block], &[], 0);
        let done = f.done();
        assert_eq!((done.blocks, done.cancels), (vec![(f.session, wanted)], vec![]));
        assert_eq!(f.client.counters().unwanted, 0);
    }
}

#[test]
fn bytes_that_are_not_the_block_are_just_another_block() {
    let mut f = Fixture::new(1);
    let (liar, other) = (f.peer(), f.peer());
    f.want_all();
    f.say(liar, 0, Presence::Have);
    f.done();
    // The prefix of what is wanted before other bytes: the bytes decide what it is.
    let wrong = Block::seal(Prefix::of(&f.cid(0)), Bytes::from_static(b"something else")).unwrap();
    // And the right bytes under another hash, or less of it, are not what is wanted either.
    let right = f.blocks[0].bytes().clone();
    let short = Multihash::wrap(SHA2_256, &f.cid(0).hash().digest()[..20]).unwrap();
    let truncated = Block::seal(Prefix::of(&Cid::new_v1(block::RAW, short)), right).unwrap();
    f.client.message(f.now, liar, vec![wrong, truncated], &[], 0);
    assert_eq!(f.done().blocks, []);
    assert_eq!((f.client.counters().unwanted, f.client.unwanted_from(&liar)), (2, 2));
    // It is no sign of life: the want moves on when it is due.
    assert_eq!(f.pass(limits::OVERDUE_MIN).wants, [(other, f.cid(0), WantKind::Block)]);
}

#[test]
fn a_flood_of_unwanted_blocks_leaves_nothing_but_a_number() {
    let mut f = Fixture::new(2);
    let (flooder, good) = (f.peer(), f.peer());
    f.client.close(f.now, f.session);
    for number in 0..20_000_u32 {
        let bytes = Bytes::copy_from_slice(&number.to_le_bytes());
        let block = Block::seal(Prefix::RAW_V1, bytes).unwrap();
        f.client.message(f.now, flooder, vec![block], &[], u32::MAX);
    }
    assert!(f.done().wants.is_empty() && f.client.is_clean());
    assert_eq!((f.client.unwanted_from(&flooder), f.client.unwanted_from(&good)), (20_000, 0));
    assert_eq!(f.client.counters().unwanted_bytes, 80_000);
    f.client.peer_disconnected(f.now, flooder);
    assert_eq!(f.client.unwanted_from(&flooder), 0, "its state has left with it");
}

#[test]
fn what_a_peer_has_queued_counts_against_its_pipeline() {
    let mut f = Fixture::new(40);
    let peer = f.peer();
    f.client.want(f.now, f.session, &[(f.cid(0), 64 * KIB)]);
    f.done();
    // It has as much queued as a pipeline holds: only so much is asked that it does not run dry.
    let block = f.blocks[0].clone();
    f.want_all();
    f.client.message(f.now, peer, vec![block], &[], limits::PIPELINE_BYTES_MAX);
    let few = f.done().wants.len();
    assert!(few <= 40, "{few}");

    let mut f = Fixture::new(40);
    let peer = f.peer();
    let (first, rest) = (f.cid(0), (1..40).map(|number| (f.cid(number), 64 * KIB)).collect::<Vec<_>>());
    f.client.want(f.now, f.session, &[(first, 64 * KIB), rest[0], rest[1]]);
    assert_eq!(f.done().wants.len(), 3);
    let block = f.blocks[0].clone();
    f.client.message(f.now, peer, vec![block], &[], limits::PIPELINE_BYTES_MAX);
    f.client.want(f.now, f.session, &rest);
    assert_eq!(f.done().wants, [], "two are asked for, and it has enough to do");
    // What it wants of us says nothing about that.
    f.client.message(f.now, peer, Vec::new(), &[], 0);
    assert_eq!(f.done().wants, []);
    // An answer does.
    f.client.message(f.now, peer, Vec::new(), &[(first, Presence::Have)], 0);
    assert_eq!(f.done().wants.len(), 37);
}

#[test]
fn an_old_silent_peer_holds_nothing_up() {
    for version in [Version::V110, Version::V100] {
        let bytes = Bytes::from_static(b"of the first version");
        let cid = Prefix::DAG_PB_V0.hash(&bytes).unwrap();
        let mut f = Fixture::new(0);
        let old = f.peer();
        f.client.peer_version(f.now, old, version);
        f.client.want(f.now, f.session, &[(cid, 64 * KIB)]);
        assert_eq!(f.done().wants, [(old, cid, WantKind::Block)], "no presence is asked for");
        let other = f.peer();
        assert_eq!(f.pass(limits::OVERDUE_MIN).wants, [(other, cid, WantKind::Block)]);
        assert_eq!(f.pass(seconds(1)).cancels, [(old, cid)], "or it would push the block later");
        // A presence that it should not know is as good as any.
        f.client.message(f.now, old, Vec::new(), &[(cid, Presence::DontHave)], 0);
        f.client.message(f.now, other, vec![Block::seal(Prefix::DAG_PB_V0, bytes).unwrap()], &[], 0);
        assert_eq!(f.done().blocks.len(), 1);
    }
}

#[test]
fn what_the_first_version_cannot_name_is_asked_elsewhere() {
    // The version is known before the want ...
    let mut f = Fixture::new(1);
    let old = f.peer();
    f.client.peer_version(f.now, old, Version::V100);
    f.want_all();
    let done = f.done();
    assert_eq!((done.wants, done.nobody), (vec![], vec![f.cid(0)]), "said at once: nobody here can be asked");
    let new = f.peer();
    assert_eq!(f.done().wants, [(new, f.cid(0), WantKind::Block)]);
    // ... or only when the first stream is open, with the want on its way.
    let mut f = Fixture::new(1);
    let old = f.peer();
    f.want_all();
    assert_eq!(f.done().wants, [(old, f.cid(0), WantKind::Block)]);
    let new = f.peer();
    f.client.peer_version(f.now, old, Version::V100);
    assert_eq!(f.done().wants, [(new, f.cid(0), WantKind::Block)]);
    // Bare bytes of the first version are dag-pb by name, but they are the bytes.
    let bare = Block::seal(Prefix::DAG_PB_V0, f.blocks[0].bytes().clone()).unwrap();
    f.client.message(f.now, old, vec![bare], &[], 0);
    let done = f.done();
    assert_eq!((done.blocks, done.cancels), (vec![(f.session, f.cid(0))], vec![(new, f.cid(0))]));
}

#[test]
fn identity_cids_are_not_believed_to_be_had_or_given_by_anybody() {
    let mut f = Fixture::new(1);
    let peer = f.peer();
    let identity = Cid::new_v1(block::RAW, Multihash::wrap(block::IDENTITY, b"hello").unwrap());
    f.client.want(f.now, f.session, &[(identity, 5)]);
    let block = Block::verify(&identity, Bytes::from_static(b"hello")).unwrap();
    f.client.message(f.now, peer, vec![block], &[(identity, Presence::Have), (identity, Presence::DontHave)], 0);
    let done = f.done();
    assert!(done.wants.is_empty() && done.blocks.is_empty());
    assert_eq!(f.client.unwanted_from(&peer), 1);
    f.client.close(f.now, f.session);
    assert!(f.client.is_clean());
}
