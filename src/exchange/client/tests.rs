//! Each of the client's promises alone; how they work together is for [`super::super::sim`] to show.

mod faults;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::block::Prefix;
use crate::exchange::message::WantKind;

const KIB: u32 = 1024;

fn blocks(count: u32) -> Vec<Block> {
    (0..count)
        .map(|number| {
            let mut bytes = vec![0; 64 * 1024];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            Block::seal(Prefix::RAW_V1, Bytes::from(bytes)).unwrap()
        })
        .collect()
}

struct Fixture {
    client: Client,
    now: Instant,
    session: SessionId,
    blocks: Vec<Block>,
}

/// What the client wants done, sorted by kind.
#[derive(Debug, Default)]
struct Done {
    wants: Vec<(PeerId, Cid, WantKind)>,
    cancels: Vec<(PeerId, Cid)>,
    blocks: Vec<(SessionId, Cid)>,
    nobody: Vec<Cid>,
}

impl Fixture {
    fn new(count: u32) -> Self {
        let now = Instant::now();
        let mut client = Client::new(Options::default(), 1);
        let session = client.open(now);
        Self { client, now, session, blocks: blocks(count) }
    }

    fn peer(&mut self) -> PeerId {
        let peer = PeerId::random();
        self.client.peer_connected(self.now, peer);
        peer
    }

    fn cid(&self, number: usize) -> Cid {
        *self.blocks[number].cid()
    }

    fn want_all(&mut self) {
        let wants: Vec<(Cid, u32)> = self.blocks.iter().map(|block| (*block.cid(), 64 * KIB)).collect();
        self.client.want(self.now, self.session, &wants);
    }

    fn give(&mut self, peer: PeerId, number: usize) {
        let block = self.blocks[number].clone();
        self.client.message(self.now, peer, vec![block], &[], 0);
    }

    fn say(&mut self, peer: PeerId, number: usize, presence: Presence) {
        let cid = self.cid(number);
        self.client.message(self.now, peer, Vec::new(), &[(cid, presence)], 0);
    }

    fn pass(&mut self, time: Duration) -> Done {
        let end = self.now + time;
        let mut done = Done::default();
        while let Some(at) = self.client.next_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.client.timeout(self.now);
            done.add(&mut self.client);
        }
        self.now = end;
        done
    }

    fn done(&mut self) -> Done {
        let mut done = Done::default();
        done.add(&mut self.client);
        done
    }
}

impl Done {
    fn add(&mut self, client: &mut Client) {
        while let Some(output) = client.poll() {
            match output {
                Output::Send { peer, entries, .. } => {
                    assert!(entries.len() <= limits::WANTLIST_ENTRIES_PER_MESSAGE);
                    for entry in entries {
                        if entry.cancel {
                            self.cancels.push((peer, entry.cid));
                        } else {
                            self.wants.push((peer, entry.cid, entry.kind));
                        }
                    }
                }
                Output::Block { session, block, .. } => self.blocks.push((session, *block.cid())),
                Output::NobodyHas { cid, .. } => self.nobody.push(cid),
                Output::Pick { .. } | Output::Roam { .. } => {}
            }
        }
    }
}

#[test]
fn one_peer_is_asked_for_each_block_and_nobody_else() {
    let mut f = Fixture::new(1);
    let peers = [f.peer(), f.peer()];
    f.want_all();
    let done = f.done();
    assert_eq!(done.wants.len(), 1);
    let (asked, cid, kind) = done.wants[0];
    assert!(peers.contains(&asked) && cid == f.cid(0) && kind == WantKind::Block);
    f.give(asked, 0);
    assert_eq!(f.done().blocks, [(f.session, cid)]);
    assert_eq!(f.client.session_peers(f.session)[0].1.blocks, 1);
    f.client.close(f.now, f.session);
    assert!(f.client.is_clean());
}

#[test]
fn a_dont_have_moves_the_want_to_the_next_peer() {
    let mut f = Fixture::new(1);
    let (a, b) = (f.peer(), f.peer());
    f.want_all();
    let first = f.done().wants[0].0;
    let second = if first == a { b } else { a };
    f.say(first, 0, Presence::DontHave);
    let done = f.done();
    assert_eq!(done.cancels, [(first, f.cid(0))], "or it would push the block later");
    assert_eq!(done.wants, [(second, f.cid(0), WantKind::Block)]);
    // The second lacks it too: both are asked to say when they have it, and when both said no, nobody has it.
    f.say(second, 0, Presence::DontHave);
    let done = f.done();
    assert_eq!(done.wants.iter().filter(|(_, _, kind)| *kind == WantKind::Have).count(), 2);
    f.say(first, 0, Presence::DontHave);
    assert_eq!(f.done().nobody, []);
    f.say(second, 0, Presence::DontHave);
    assert_eq!(f.done().nobody, [f.cid(0)]);
    assert_eq!(f.pass(Duration::from_secs(20)).nobody, [], "it is said once");
    f.say(first, 0, Presence::Have);
    assert_eq!(f.done().wants, [(first, f.cid(0), WantKind::Block)]);
}

#[test]
fn nobody_connected_is_not_nobody_has() {
    let mut f = Fixture::new(1);
    f.want_all();
    assert_eq!(f.done().nobody, []);
    let peer = f.peer();
    assert_eq!(f.done().wants.len(), 1);
    f.client.peer_disconnected(f.now, peer);
    assert_eq!(f.done().nobody, []);
    f.client.peer_connected(f.now, peer);
    assert_eq!(f.done().wants, [(peer, f.cid(0), WantKind::Block)], "it is asked again when it is back");
}

#[test]
fn an_overdue_want_is_taken_to_somebody_else() {
    let mut f = Fixture::new(1);
    let (a, b) = (f.peer(), f.peer());
    f.want_all();
    let slow = f.done().wants[0].0;
    let other = if slow == a { b } else { a };
    assert!(f.pass(limits::OVERDUE_MIN - Duration::from_millis(1)).wants.is_empty());
    let done = f.pass(Duration::from_secs(1));
    assert_eq!(done.wants, [(other, f.cid(0), WantKind::Block)]);
    assert_eq!(done.cancels, [(slow, f.cid(0))]);
    // Should the slow one send it after all, it counts, and the other is told.
    f.give(slow, 0);
    let done = f.done();
    assert_eq!((done.blocks.len(), done.cancels), (1, vec![(other, f.cid(0))]));
    f.give(other, 0);
    assert_eq!(f.done().blocks.len(), 0);
    assert_eq!((f.client.counters().duplicates, f.client.counters().unwanted), (1, 0));
}

#[test]
fn a_want_that_only_one_peer_can_answer_is_sent_again() {
    let mut f = Fixture::new(1);
    let peer = f.peer();
    f.want_all();
    assert_eq!(f.done().wants.len(), 1);
    assert!(f.pass(limits::RESEND_AFTER - Duration::from_secs(1)).wants.is_empty());
    let done = f.pass(Duration::from_secs(10));
    assert_eq!(done.wants, [(peer, f.cid(0), WantKind::Block)]);
    assert_eq!(done.nobody, [f.cid(0)]);
}

#[test]
fn silence_of_an_old_peer_is_a_dont_have() {
    let mut f = Fixture::new(1);
    let peer = f.peer();
    f.client.peer_version(f.now, peer, Version::V110);
    f.want_all();
    assert_eq!(f.done().wants.len(), 1);
    assert_eq!(f.pass(Duration::from_secs(3)).nobody, [f.cid(0)]);
    f.give(peer, 0);
    assert_eq!(f.done().blocks.len(), 1, "it may still come");
}

#[test]
fn no_more_stands_at_a_peer_than_it_keeps() {
    let mut f = Fixture::new(1);
    let peer = f.peer();
    let wants: Vec<(Cid, u32)> =
        (0..5000_u32).map(|number| (Prefix::RAW_V1.hash(&number.to_le_bytes()).unwrap(), 2 * KIB)).collect();
    f.client.want(f.now, f.session, &wants);
    let asked = f.done().wants;
    assert_eq!(asked.len(), limits::WANT_BLOCKS_PER_PEER);
    let in_order: Vec<Cid> = asked.iter().map(|(_, cid, _)| *cid).collect();
    assert_eq!(in_order, wants.iter().take(asked.len()).map(|(cid, _)| *cid).collect::<Vec<_>>());
    // All are lacking: it is asked about the others, up to what it keeps.
    let mut open = asked;
    let mut standing = BTreeSet::new();
    while !open.is_empty() {
        let presences: Vec<(Cid, Presence)> = open.iter().map(|(_, cid, _)| (*cid, Presence::DontHave)).collect();
        f.client.message(f.now, peer, Vec::new(), &presences, 0);
        let done = f.done();
        done.cancels.iter().for_each(|(_, cid)| {
            standing.remove(cid);
        });
        standing.extend(done.wants.iter().map(|(_, cid, _)| *cid));
        open = done.wants;
    }
    assert_eq!(standing.len(), limits::WANT_HAVES_PER_PEER);
}

#[test]
fn two_sessions_share_one_request_and_both_get_the_block() {
    let mut f = Fixture::new(1);
    let peer = f.peer();
    let second = f.client.open(f.now);
    f.want_all();
    let other = Cid::new_v1(block::DAG_PB, *f.cid(0).hash());
    f.client.want(f.now, second, &[(other, KIB)]);
    assert_eq!(f.done().wants.len(), 1);
    // The first leaves; the request goes on for the second.
    f.client.close(f.now, f.session);
    assert_eq!(f.done().cancels, []);
    f.give(peer, 0);
    assert_eq!(f.done().blocks, [(second, other)]);
    f.client.close(f.now, second);
    assert!(f.client.is_clean());
}

#[test]
fn forgotten_wants_are_cancelled_where_they_were_asked() {
    let mut f = Fixture::new(2);
    let peer = f.peer();
    f.want_all();
    f.done();
    let cid = f.cid(0);
    f.client.forget(f.now, f.session, &[cid]);
    assert_eq!(f.done().cancels, [(peer, cid)]);
    f.give(peer, 0);
    assert_eq!(f.done().blocks, []);
    assert_eq!(f.client.counters().duplicates, 1);
    f.client.close(f.now, f.session);
    assert!(f.client.is_clean());
}

#[test]
fn blocks_that_nobody_asked_for_are_counted_and_dropped() {
    let mut f = Fixture::new(2);
    let peer = f.peer();
    f.give(peer, 0);
    f.client.message(f.now, PeerId::random(), vec![f.blocks[1].clone()], &[], 0);
    assert_eq!(f.done().blocks, []);
    assert_eq!((f.client.counters().unwanted, f.client.counters().duplicates), (2, 0));
}

#[test]
fn identity_cids_are_never_asked_for() {
    let mut f = Fixture::new(1);
    f.peer();
    let identity = Cid::new_v1(block::RAW, Multihash::wrap(0, b"hello").unwrap());
    f.client.want(f.now, f.session, &[(identity, 5)]);
    assert_eq!(f.done().wants, []);
}

#[test]
fn known_holders_are_asked_before_the_publisher() {
    let mut f = Fixture::new(12);
    let (seed, reader) = (f.peer(), f.peer());
    f.want_all();
    // Each is asked for one block; the reader lacks it, and is then asked what it has.
    for (peer, cid, _) in f.done().wants {
        let number = f.blocks.iter().position(|block| *block.cid() == cid).unwrap();
        if peer == reader {
            f.say(reader, number, Presence::DontHave);
        }
    }
    let questions = f.done().wants;
    let asked_ahead = questions.iter().filter(|(peer, _, kind)| *peer == reader && *kind == WantKind::Have).count();
    assert!(asked_ahead >= 9, "{questions:?}");
    let haves: Vec<(Cid, Presence)> = questions
        .iter()
        .filter(|(peer, _, kind)| *peer == reader && *kind == WantKind::Have)
        .map(|(_, cid, _)| (*cid, Presence::Have))
        .collect();
    f.client.message(f.now, reader, Vec::new(), &haves, 0);
    let asked = f.done().wants;
    assert!(!asked.is_empty() && asked.iter().all(|(peer, _, _)| *peer == reader), "{asked:?}, not {seed}");
}

#[test]
fn the_first_message_to_a_peer_replaces_what_it_may_remember() {
    let mut f = Fixture::new(2);
    let peer = f.peer();
    f.client.want(f.now, f.session, &[(f.blocks[0].cid().to_owned(), KIB)]);
    assert!(matches!(f.client.poll(), Some(Output::Send { full: true, .. })));
    f.client.want(f.now, f.session, &[(f.blocks[1].cid().to_owned(), KIB)]);
    assert!(matches!(f.client.poll(), Some(Output::Send { full: false, .. })));
    f.client.peer_disconnected(f.now, peer);
    f.client.peer_connected(f.now, peer);
    assert!(matches!(f.client.poll(), Some(Output::Send { full: true, .. })));
}
