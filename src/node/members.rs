//! Who else is in the private swarm: signed records of members and their addresses, passed on from member to member.
//!
//! A member asks whom it has dialled, and now and then a random one of those that it is connected with: "these I know".
//! It is told the others, and tells in return what the other lacks. So whoever is told of one member gets to know all,
//! and two halves of a swarm become one over a single connection. A record says where a member listens; its own key signs
//! it, so that nobody can put others elsewhere. Of two records the one with the greater number counts. That is the time in
//! seconds, but always greater than any that the member has given itself before: if its clock was put back, others tell it
//! its own old record, and it makes a newer one.
//!
//! Pure: records and marks in, records and marks out, and whom to ask when; streams and dialling are the driver's. It exists
//! in private swarms only: in the open one, everybody would be strangers.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use libp2p::core::{PeerRecord, SignedEnvelope};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use prost::Message as _;

pub(super) mod wire;

pub(super) use wire::proto::Members as Message;
use wire::proto::{PeerRecord as RecordParts, peer_record::AddressInfo};

/// Members that are remembered: some 600 bytes each.
const MEMBERS_MAX: usize = 4096;
/// Addresses of one member.
const ADDRESSES_MAX: usize = 16;
/// The longest record, in bytes.
const RECORD_BYTES_MAX: usize = 2048;
/// Records of one message, in bytes: some 800 records.
const RECORDS_BYTES_MAX: usize = 256 << 10;

/// How often a random member is asked whom it knows while nothing is news. Two members that are alone ask each other as
/// often, and an idle connection carries no more than a message a minute.
const ASK_INTERVAL: Duration = Duration::from_secs(120);
/// The same while there are news, which others may not have heard yet.
const ASK_INTERVAL_NEWS: Duration = Duration::from_secs(1);
/// How often a member gives itself a newer record than one that it is told of. Once is enough, unless two have one identity
/// (a copied repo): each would outdo the other for ever.
const OUTDO_INTERVAL: Duration = Duration::from_secs(120);
/// How long news are news.
const NEWS_LAST: Duration = Duration::from_secs(10);

/// What a signed peer record is marked with (RFC 0003).
const RECORD_DOMAIN: &str = "libp2p-peer-record";
const RECORD_TYPE: &[u8] = &[0x03, 0x01];

/// A member that can be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
}

#[derive(Debug)]
struct Record {
    /// Greater in newer ones.
    seq: u64,
    envelope: Vec<u8>,
}

/// Why a record is not taken.
#[derive(Debug, thiserror::Error)]
enum BadRecord {
    #[error("it has {0} bytes, more than {RECORD_BYTES_MAX}")]
    TooLong(usize),
    #[error("it is no signed record: {0}")]
    Envelope(#[from] libp2p::core::signed_envelope::DecodingError),
    #[error("it is no record of a peer: {0}")]
    Record(#[from] libp2p::core::peer_record::FromEnvelopeError),
}

/// All members that are known.
#[derive(Debug)]
pub(super) struct Members {
    keypair: Keypair,
    local: PeerId,
    own: Option<Record>,
    /// Where this member can be reached, which its record tells.
    addresses: Vec<Multiaddr>,
    /// The least number of the next own record.
    seq_min: u64,
    /// When the own record was last made newer than one that others had.
    outdone_at: Option<Instant>,
    others: HashMap<PeerId, Record>,
    /// Peers that do not speak of members.
    mute: HashSet<PeerId>,
    /// When something was learnt last.
    news_at: Option<Instant>,
    asked_at: Option<Instant>,
}

impl Members {
    pub(super) fn new(keypair: Keypair) -> Self {
        Self {
            local: keypair.public().to_peer_id(),
            keypair,
            own: None,
            addresses: Vec::new(),
            seq_min: 0,
            outdone_at: None,
            others: HashMap::new(),
            mute: HashSet::new(),
            news_at: None,
            asked_at: None,
        }
    }

    /// When somebody is to be asked next.
    pub(super) fn ask_at(&self, now: Instant) -> Instant {
        let Some(asked_at) = self.asked_at else { return now };
        let news = self.news_at.is_some_and(|at| asked_at.saturating_duration_since(at) < NEWS_LAST);
        asked_at + if news { ASK_INTERVAL_NEWS } else { ASK_INTERVAL }
    }

    /// Whom to ask now, if it is time: one of those that are connected, by a random number.
    pub(super) fn whom_to_ask<'a>(
        &mut self,
        now: Instant,
        connected: impl Iterator<Item = &'a PeerId>,
        random: u64,
    ) -> Option<PeerId> {
        if now < self.ask_at(now) {
            return None;
        }
        self.asked_at = Some(now);
        let speaking: Vec<&PeerId> = connected.filter(|peer| !self.mute.contains(peer)).collect();
        let at = random.checked_rem(speaking.len() as u64)?;
        speaking.get(usize::try_from(at).ok()?).copied().copied()
    }

    /// This peer does not know the protocol.
    pub(super) fn is_mute(&mut self, peer: PeerId) {
        self.mute.insert(peer);
    }

    /// It may be another program when it comes back.
    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        self.mute.remove(peer);
    }

    /// What this member says of itself: addresses that nobody else can reach are left out, unless there are no others.
    /// `clock` may be wrong, and jump. True when that is new.
    pub(super) fn announce(&mut self, now: Instant, clock: SystemTime, addresses: &[Multiaddr]) -> bool {
        let addresses = reachable(addresses);
        if self.own.is_some() && self.addresses == addresses {
            return false;
        }
        self.addresses = addresses;
        let seconds = clock.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.sign(now, self.seq_min.max(seconds))
    }

    /// Makes the own record; false when the key cannot sign, which would not have made a connection either.
    fn sign(&mut self, now: Instant, seq: u64) -> bool {
        let Some(envelope) = sign(&self.keypair, seq, &self.addresses) else { return false };
        self.own = Some(Record { seq, envelope });
        self.seq_min = seq.saturating_add(1);
        self.news_at = Some(now);
        true
    }

    /// Others have a record of this member: if it is not older than its own, of a life with another clock for example,
    /// they would take no notice of that.
    fn outdo(&mut self, now: Instant, seq: u64, envelope: &[u8]) {
        self.seq_min = self.seq_min.max(seq.saturating_add(1));
        let stands = self.own.as_ref().is_none_or(|own| own.seq > seq || own.envelope == envelope);
        let lately = self.outdone_at.is_some_and(|at| now.saturating_duration_since(at) < OUTDO_INTERVAL);
        if !stands && !lately {
            self.outdone_at = Some(now);
            self.sign(now, self.seq_min);
        }
    }

    /// What to ask a member with.
    pub(super) fn question(&self) -> Message {
        Message { records: self.own.iter().map(|own| own.envelope.clone()).collect(), known: self.marks() }
    }

    /// Learns from a question and answers it.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        question: &Message,
        connected: &HashSet<PeerId>,
    ) -> (Message, Vec<Member>) {
        let learned = self.learn(now, &question.records, connected);
        (Message { records: self.unknown_to(question), known: self.marks() }, learned)
    }

    /// Learns from an answer; gives what the other lacks, to be sent as a question that needs no further one.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        answer: &Message,
        connected: &HashSet<PeerId>,
    ) -> (Option<Message>, Vec<Member>) {
        let learned = self.learn(now, &answer.records, connected);
        let records = self.unknown_to(answer);
        let more = (!records.is_empty()).then(|| Message { records, known: self.marks() });
        (more, learned)
    }

    /// Learns records, those of an earlier life of this member for example. Gives the members that are new or elsewhere.
    pub(super) fn learn(&mut self, now: Instant, records: &[Vec<u8>], connected: &HashSet<PeerId>) -> Vec<Member> {
        let mut learned = Vec::new();
        for envelope in records {
            match parse(envelope) {
                Ok((member, seq)) if member.peer == self.local => self.outdo(now, seq, envelope),
                Ok((member, seq)) => {
                    if self.is_news(&member.peer, seq) && self.make_room(&member.peer, connected) {
                        self.others.insert(member.peer, Record { seq, envelope: envelope.clone() });
                        learned.push(member);
                    }
                }
                Err(error) => tracing::debug!(%error, "a member's record is not taken"),
            }
        }
        if !learned.is_empty() {
            self.news_at = Some(now);
        }
        learned
    }

    /// Every record of others, to be remembered.
    pub(super) fn records(&self) -> Vec<Vec<u8>> {
        self.others.values().map(|record| record.envelope.clone()).collect()
    }

    fn is_news(&self, peer: &PeerId, seq: u64) -> bool {
        self.others.get(peer).is_none_or(|known| known.seq < seq)
    }

    /// Where it is full, whoever is not connected and has been silent for longest is forgotten.
    fn make_room(&mut self, peer: &PeerId, connected: &HashSet<PeerId>) -> bool {
        if self.others.len() < MEMBERS_MAX || self.others.contains_key(peer) {
            return true;
        }
        let away = self.others.iter().filter(|(other, _)| !connected.contains(*other));
        let oldest = away.min_by_key(|(_, record)| record.seq).map(|(other, _)| *other);
        oldest.is_some_and(|oldest| self.others.remove(&oldest).is_some())
    }

    fn all(&self) -> impl Iterator<Item = (&PeerId, &Record)> {
        self.own.iter().map(|own| (&self.local, own)).chain(&self.others)
    }

    fn marks(&self) -> Vec<u64> {
        self.all().map(|(peer, record)| mark(peer, record.seq)).collect()
    }

    /// Records that the sender of a message does not have, as many as go into one.
    fn unknown_to(&self, message: &Message) -> Vec<Vec<u8>> {
        let known: HashSet<u64> = message.known.iter().copied().collect();
        let unknown = self.all().filter(|(peer, record)| !known.contains(&mark(peer, record.seq)));
        let mut bytes = 0;
        let fits = |record: &Vec<u8>| {
            bytes += record.len();
            bytes <= RECORDS_BYTES_MAX
        };
        unknown.map(|(_, record)| record.envelope.clone()).take_while(fits).collect()
    }
}

/// A record of this key's member.
fn sign(keypair: &Keypair, seq: u64, addresses: &[Multiaddr]) -> Option<Vec<u8>> {
    let address = |address: &Multiaddr| AddressInfo { multiaddr: address.to_vec() };
    let record = RecordParts {
        peer_id: keypair.public().to_peer_id().to_bytes(),
        seq,
        addresses: addresses.iter().map(address).collect(),
    };
    let (domain, kind, payload) = (RECORD_DOMAIN.to_owned(), RECORD_TYPE.to_vec(), record.encode_to_vec());
    SignedEnvelope::new(keypair, domain, kind, payload).ok().map(SignedEnvelope::into_protobuf_encoding)
}

/// A record that its member has signed.
fn parse(envelope: &[u8]) -> Result<(Member, u64), BadRecord> {
    if envelope.len() > RECORD_BYTES_MAX {
        return Err(BadRecord::TooLong(envelope.len()));
    }
    let record = PeerRecord::from_signed_envelope_interop(SignedEnvelope::from_protobuf_encoding(envelope)?)?;
    let addresses = record.addresses().iter().take(ADDRESSES_MAX).cloned().collect();
    Ok((Member { peer: record.peer_id(), addresses }, record.seq()))
}

/// Tells records apart: FNV-1a of the member and the record's number.
fn mark(peer: &PeerId, seq: u64) -> u64 {
    let bytes = peer.to_bytes().into_iter().chain(seq.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Addresses for others: without the peer at the end, and without those that lead to whoever dials them.
fn reachable(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let bare = |address: &Multiaddr| -> Multiaddr {
        address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
    };
    let all: Vec<Multiaddr> = addresses.iter().map(bare).collect();
    let elsewhere = |address: &&Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => !ip.is_loopback() && !ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
        _ => true,
    };
    let mut good: Vec<Multiaddr> = all.iter().filter(elsewhere).cloned().collect();
    if good.is_empty() {
        good = all;
    }
    good.truncate(ADDRESSES_MAX);
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Node {
        members: Members,
    }

    impl Node {
        fn new(port: u16) -> Self {
            Self::of(Keypair::generate_ed25519(), clock(1), port)
        }

        /// Starts one, again perhaps.
        fn of(keypair: Keypair, clock: SystemTime, port: u16) -> Self {
            let mut members = Members::new(keypair);
            assert!(members.announce(Instant::now(), clock, &[at(port)]));
            Self { members }
        }

        /// Where this one thinks that another is.
        fn finds(&self, peer: PeerId) -> Vec<Multiaddr> {
            parse(&self.members.others[&peer].envelope).unwrap().0.addresses
        }

        fn peer(&self) -> PeerId {
            self.members.local
        }
    }

    fn at(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    fn clock(years: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(years * 365 * 24 * 3600)
    }

    /// Two members talk as the driver has them talk.
    fn talk(nodes: &mut [Node], asks: usize, is_asked: usize) {
        let nobody = HashSet::new();
        let question = nodes[asks].members.question();
        let (answer, _) = nodes[is_asked].members.answer(Instant::now(), &question, &nobody);
        if let (Some(more), _) = nodes[asks].members.answered(Instant::now(), &answer, &nobody) {
            let (answer, _) = nodes[is_asked].members.answer(Instant::now(), &more, &nobody);
            let (more, _) = nodes[asks].members.answered(Instant::now(), &answer, &nobody);
            assert!(more.is_none(), "nothing is left to say");
        }
    }

    #[test]
    fn all_get_to_know_all_through_one_in_between() {
        let mut nodes: Vec<Node> = (1..=9).map(Node::new).collect();
        for other in 1..9 {
            talk(&mut nodes, other, 0);
        }
        for other in 1..8 {
            talk(&mut nodes, other, 0);
        }
        assert!(nodes.iter().all(|node| node.members.others.len() == 8));
        let (answer, learned) = {
            let question = nodes[3].members.question();
            nodes[0].members.answer(Instant::now(), &question, &HashSet::new())
        };
        assert!(answer.records.is_empty() && learned.is_empty());
        let first = nodes[0].peer();
        assert_eq!(nodes[5].finds(first), [at(1)]);
    }

    #[test]
    fn a_newer_record_takes_the_place_of_the_older_and_never_the_other_way_round() {
        let mut nodes = [Node::new(1), Node::new(2)];
        talk(&mut nodes, 0, 1);
        let (first, old) = (nodes[0].peer(), nodes[0].members.question().records);
        assert!(nodes[0].members.announce(Instant::now(), clock(1), &[at(3)]));
        assert!(nodes[0].members.announce(Instant::now(), clock(1), &[at(4)]), "within the same second");
        talk(&mut nodes, 0, 1);
        assert_eq!(nodes[1].members.learn(Instant::now(), &old, &HashSet::new()), []);
        assert_eq!(nodes[1].finds(first), [at(4)]);
        assert!(!nodes[0].members.announce(Instant::now(), clock(1), &[at(4)]), "the same again is no news");
    }

    #[test]
    fn a_clock_that_jumps_loses_nobody() {
        let mut nodes = [Node::new(1), Node::new(2)];
        let first = nodes[0].peer();
        for (years, port) in [(60, 3), (59, 4), (60, 5), (0, 6)] {
            nodes[0].members.announce(Instant::now(), clock(years), &[at(port)]);
            talk(&mut nodes, 0, 1);
            assert_eq!(nodes[1].finds(first), [at(port)]);
        }
        // A restart forgets which number it gave last, and others remind it, whoever asks.
        for (asks, years, port) in [(0, 59, 7), (1, 58, 8), (0, 61, 9), (1, 60, 10)] {
            nodes[0] = Node::of(nodes[0].members.keypair.clone(), clock(years), port);
            talk(&mut nodes, asks, 1 - asks);
            talk(&mut nodes, asks, 1 - asks);
            assert_eq!(nodes[1].finds(first), [at(port)], "after a start in year {years}");
        }
    }

    #[test]
    fn two_with_one_identity_do_not_outdo_each_other_for_ever() {
        let first = Node::new(1);
        let mut nodes = [Node::of(first.members.keypair.clone(), clock(1), 2), first];
        let mut seen = HashSet::new();
        for _ in 0..50 {
            for asks in 0..2 {
                let question = nodes[asks].members.question();
                seen.extend(question.records.iter().cloned());
                nodes[1 - asks].members.answer(Instant::now(), &question, &HashSet::new());
            }
        }
        assert!(seen.len() <= 4, "{}", seen.len());
    }

    #[test]
    fn what_nobody_has_signed_is_not_taken() {
        let (mut node, other) = (Node::new(1), Node::new(2));
        let good = other.members.question().records.remove(0);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(node.members.learn(Instant::now(), &[bad], &HashSet::new()), [], "byte {at}");
        }
        let long = vec![0; RECORD_BYTES_MAX + 1];
        let own = node.members.question().records.remove(0);
        assert_eq!(node.members.learn(Instant::now(), &[long, vec![], own], &HashSet::new()), []);
        assert_eq!(node.members.learn(Instant::now(), &[good], &HashSet::new()).len(), 1);
    }

    #[test]
    fn who_is_connected_is_not_forgotten_for_others() {
        let mut node = Node::new(1);
        let connected: HashSet<PeerId> = (0..MEMBERS_MAX).map(|_| PeerId::random()).collect();
        for (seq, peer) in (10..).zip(&connected) {
            node.members.others.insert(*peer, Record { seq, envelope: Vec::new() });
        }
        let other = Node::new(2).members.question().records;
        assert_eq!(node.members.learn(Instant::now(), &other, &connected), []);
        let gone = *connected.iter().next().unwrap();
        let connected = connected.into_iter().filter(|peer| *peer != gone).collect();
        assert_eq!(node.members.learn(Instant::now(), &other, &connected).len(), 1);
        assert!(node.members.others.len() == MEMBERS_MAX && !node.members.others.contains_key(&gone));
    }

    #[test]
    fn only_addresses_that_others_can_reach_are_told() {
        let list = |texts: &[&str]| -> Vec<Multiaddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let peer = PeerId::random();
        let all = list(&[
            "/ip4/127.0.0.1/tcp/1",
            &format!("/ip4/10.0.0.1/tcp/1/p2p/{peer}"),
            "/ip6/::1/tcp/1",
            "/dns4/host/tcp/1",
        ]);
        assert_eq!(reachable(&all), list(&["/ip4/10.0.0.1/tcp/1", "/dns4/host/tcp/1"]));
        assert_eq!(reachable(&all[..1]), list(&["/ip4/127.0.0.1/tcp/1"]), "a swarm on one machine");
    }

    #[test]
    fn somebody_is_asked_often_while_there_are_news_and_rarely_else() {
        let start = Instant::now();
        let mut members = Members::new(Keypair::generate_ed25519());
        let (a, b) = (PeerId::random(), PeerId::random());
        assert_eq!(members.whom_to_ask(start, [].iter(), 7), None);
        let mut asked = Vec::new();
        members.learn(start, &Node::new(1).members.question().records, &HashSet::new());
        for second in 1..=600 {
            asked.extend(
                members.whom_to_ask(start + Duration::from_secs(second), [a, b].iter(), second).map(|_| second),
            );
        }
        assert!(asked.len() < 16 && asked[..9].windows(2).all(|pair| pair[1] - pair[0] == 1), "{asked:?}");
        members.is_mute(a);
        let late = start + Duration::from_secs(1000);
        assert_eq!(members.whom_to_ask(late, [a, b].iter(), 6), Some(b));
    }
}
