//! The client core: which wants go to which peer, and what comes back.
//!
//! It keeps sessions (one per pull), decides by whom each block is asked for, and hands blocks to the sessions that
//! wanted them. It has no socket, no clock and no store, and it never serves: that is [`super::server`].
//!
//! A peer is presumed to have all that a session wants, and is asked for blocks at once, until it says DONT_HAVE; from
//! then on it is *partial* for that session: it is asked ahead of time which of the next wants it has, and for blocks
//! only when it said HAVE. Peers too old for presences are never partial; their silence counts as DONT_HAVE.
//!
//! Wants are keyed by multihash. Several sessions may want one block; the first of them schedules it. Who is asked is
//! decided in `schedule`, after an event and before the next output; what happens when nothing comes, in `timers`.

mod follow;
mod peer;
mod schedule;
mod session;
#[cfg(test)]
mod tests;
mod timers;
mod want;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::time::Instant;

use libp2p::PeerId;
use roaring::RoaringBitmap;

use self::peer::Peer;
use self::session::Session;
use self::want::{Want, WantNumber, Word};
use super::limits;
use super::message::{Presence, Version, WantEntry};
use crate::block::{self, Block, Cid, Multihash};

/// Names a session of one [`Client`]; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {}", self.0)
    }
}

/// How the client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether, when nothing is left to ask for, an idle peer may be asked for what a much slower one was asked for.
    pub endgame: bool,
    /// Who we are. With it, the peers that pull the same file share out, without a word, which blocks each of them
    /// asks the publisher for first; without it, several may ask for the same.
    pub local: Option<PeerId>,
}

impl Default for Options {
    fn default() -> Self {
        Self { endgame: true, local: None }
    }
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send these wants and cancels to `peer`. They must reach it in the order in which they are polled.
    Send {
        /// To whom.
        peer: PeerId,
        /// Wants and cancels.
        entries: Vec<WantEntry>,
        /// Whether they replace all earlier ones.
        full: bool,
    },
    /// A session's block has come, under the CID that the session wanted. The want is done.
    Block {
        /// Whose want it was.
        session: SessionId,
        /// The block.
        block: Block,
        /// Who sent it.
        from: PeerId,
    },
    /// Every connected peer has said that it lacks it, or did not answer (once, until another peer connects or says
    /// HAVE). The want stays, and is asked again when a peer connects, announces HAVE, or after a while. Not said
    /// while no peer is connected at all.
    NobodyHas {
        /// Whose want it is.
        session: SessionId,
        /// The CID as wanted.
        cid: Cid,
    },
    /// These leaves of the file that a session follows are best wanted now, with [`Client::want_leaves`].
    Pick {
        /// Whose file.
        session: SessionId,
        /// Which leaves.
        leaves: Vec<u32>,
    },
    /// Whether there are peers that do not tell what they have: then a session had better want leaves of its own choice,
    /// too, since nothing is picked for their sake.
    Roam {
        /// Which session.
        session: SessionId,
        /// Whether there are such peers.
        on: bool,
    },
}

/// What a session follows: the file whose leaves it is going to want.
#[derive(Debug, Clone, PartialEq)]
pub struct Followed {
    /// The file's root.
    pub root: Cid,
    /// How many leaves it has.
    pub leaves: u32,
    /// What one of them has about, in bytes.
    pub leaf_bytes: u32,
    /// Leaves that are there already.
    pub there: RoaringBitmap,
    /// Bytes of leaves that may be picked and not be there yet.
    pub window_bytes: u64,
}

/// What the client has seen since it began.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Blocks that some session wanted.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that had been asked for and had already come from another peer, or were withdrawn.
    pub duplicates: u64,
    /// Their bytes.
    pub duplicate_bytes: u64,
    /// Blocks that nobody here had asked that peer for.
    pub unwanted: u64,
    /// Their bytes.
    pub unwanted_bytes: u64,
    /// Wants that were taken from a peer because they were overdue.
    pub given_up: u64,
    /// Wants that a second peer was asked for while the first was still at it.
    pub asked_twice: u64,
}

/// What one peer has given one session.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PeerCounters {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of blocks.
    pub bytes: u64,
    /// Blocks that had already come from another peer.
    pub duplicates: u64,
}

/// A connected peer in the client's own tables; a peer that comes back gets a new number.
type PeerNumber = u64;

/// The client core. Feed it events, then drain [`Client::poll`].
#[derive(Debug)]
pub struct Client {
    options: Options,
    /// Our own number among the claimants.
    lot: Option<u64>,
    /// State of the generator that breaks ties.
    random: u64,
    /// Time of the last event.
    now: Option<Instant>,
    sessions: BTreeMap<SessionId, Session>,
    session_next: u64,
    numbers: HashMap<PeerId, PeerNumber>,
    peers: BTreeMap<PeerNumber, Peer>,
    /// How many peers have ever connected; also the latest peer's number.
    connects: u64,
    wants: HashMap<WantNumber, Want>,
    by_hash: HashMap<Multihash, WantNumber>,
    want_next: WantNumber,
    /// One entry for each word that has a timer.
    timers: BTreeSet<(Instant, WantNumber, PeerNumber)>,
    /// When to look after what has no timer of its own; some while there are wants or cancels waiting.
    tick_at: Option<Instant>,
    ticks: u64,
    outputs: VecDeque<Output>,
    /// Whether an event has come since the last schedule.
    stirred: bool,
    /// Peers that may be able to take more.
    ready: BTreeSet<PeerNumber>,
    /// All peers may be able to take more: there is something new in a queue.
    all_ready: bool,
    /// Wants that perhaps nobody has.
    doubtful: BTreeSet<WantNumber>,
    counters: Counters,
}

impl Client {
    /// A client without peers and sessions; `seed` breaks ties between equal peers.
    #[must_use]
    pub fn new(options: Options, seed: u64) -> Self {
        Self {
            lot: options.local.as_ref().map(peer::lot),
            options,
            random: seed,
            now: None,
            sessions: BTreeMap::new(),
            session_next: 0,
            numbers: HashMap::new(),
            peers: BTreeMap::new(),
            connects: 0,
            wants: HashMap::new(),
            by_hash: HashMap::new(),
            want_next: 0,
            timers: BTreeSet::new(),
            tick_at: None,
            ticks: 0,
            outputs: VecDeque::new(),
            stirred: false,
            ready: BTreeSet::new(),
            all_ready: false,
            doubtful: BTreeSet::new(),
            counters: Counters::default(),
        }
    }

    /// A peer is there. It counts as speaking 1.2 until [`Client::peer_version`] says otherwise.
    pub fn peer_connected(&mut self, now: Instant, peer: PeerId) {
        self.stir(now);
        if self.numbers.contains_key(&peer) {
            return;
        }
        self.connects += 1;
        self.numbers.insert(peer, self.connects);
        self.peers.insert(self.connects, Peer::new(now, peer));
        self.ready.insert(self.connects);
    }

    /// The version that the first stream to or from the peer negotiated.
    pub fn peer_version(&mut self, now: Instant, peer: PeerId, version: Version) {
        self.stir(now);
        let Some(&number) = self.numbers.get(&peer) else { return };
        let Some(known) = self.peers.get_mut(&number) else { return };
        if known.version == version {
            return;
        }
        known.version = version;
        // It did not understand what it was asked ahead of time, nor by a 1.0 peer anything that is no CIDv0.
        let moot: Vec<WantNumber> = known.wants.iter().copied().collect();
        for want_number in moot {
            let Some(want) = self.wants.get(&want_number) else { continue };
            let Some(word) = want.word(number) else { continue };
            if !word.stands_block() || (version == Version::V100 && want.cid.version() != cid::Version::V0) {
                self.set_word(want_number, number, None);
            }
        }
        self.doubt_all();
        self.ready.insert(number);
    }

    /// The last connection to the peer is gone; its wants go back to the queue.
    pub fn peer_disconnected(&mut self, now: Instant, peer: PeerId) {
        self.stir(now);
        let Some(number) = self.numbers.remove(&peer) else { return };
        let words: Vec<WantNumber> = match self.peers.get(&number) {
            Some(peer) => peer.wants.iter().copied().collect(),
            None => Vec::new(),
        };
        for want in words {
            self.set_word(want, number, None);
        }
        self.peers.remove(&number);
        self.ready.remove(&number);
        for session in self.sessions.values_mut() {
            session.views.remove(&number);
        }
        self.outputs.retain(|output| !matches!(output, Output::Send { peer: other, .. } if *other == peer));
        self.doubt_all();
    }

    /// Opens a session.
    pub fn open(&mut self, now: Instant) -> SessionId {
        self.stir(now);
        let id = SessionId(self.session_next);
        self.session_next += 1;
        let session = Session::new(now);
        self.sessions.insert(id, session);
        id
    }

    /// Closes a session, cancels what only it wanted, and forgets it.
    pub fn close(&mut self, now: Instant, session: SessionId) {
        self.stir(now);
        let Some(closing) = self.sessions.get(&session) else { return };
        let wants: Vec<WantNumber> = closing.wants.iter().copied().collect();
        for want in wants {
            self.unwant(session, want);
        }
        self.sessions.remove(&session);
        self.outputs.retain(|output| match output {
            Output::Send { .. } => true,
            Output::Block { session: other, .. }
            | Output::NobodyHas { session: other, .. }
            | Output::Pick { session: other, .. }
            | Output::Roam { session: other, .. } => *other != session,
        });
    }

    /// Adds wants in order of preference; each with the expected length of its block in bytes. What is wanted already
    /// stays as it is. Identity CIDs, which hold their content, and CIDs longer than any peer heeds are not wanted.
    pub fn want(&mut self, now: Instant, session: SessionId, wants: &[(Cid, u32)]) {
        self.stir(now);
        let Some(wanting) = self.sessions.get_mut(&session) else { return };
        if wanting.wants.is_empty() {
            wanting.progress_at = now;
        }
        for (cid, size) in wants {
            if cid.hash().code() == block::IDENTITY || cid.encoded_len() > limits::CID_BYTES_MAX {
                continue;
            }
            if let Some(&number) = self.by_hash.get(cid.hash()) {
                if let Some(want) = self.wants.get_mut(&number)
                    && wanting.wants.insert(number)
                {
                    want.wanted_by.push((session, *cid));
                    want.told = None;
                    self.doubtful.insert(number);
                }
                continue;
            }
            let number = self.want_next;
            self.want_next += 1;
            let size = (*size).clamp(1, limits::WANT_BYTES_MAX);
            self.by_hash.insert(*cid.hash(), number);
            self.wants.insert(number, Want::new(session, *cid, size));
            wanting.wants.insert(number);
            wanting.queue.insert(number);
            self.doubtful.insert(number);
            self.all_ready = true;
        }
    }

    /// Withdraws wants.
    pub fn forget(&mut self, now: Instant, session: SessionId, cids: &[Cid]) {
        self.stir(now);
        for cid in cids {
            if let Some(&number) = self.by_hash.get(cid.hash()) {
                self.unpick(session, number);
                self.unwant(session, number);
            }
        }
    }

    /// What a message brought.
    pub fn message(
        &mut self,
        now: Instant,
        peer: PeerId,
        blocks: Vec<Block>,
        presences: &[(Cid, Presence)],
        pending_bytes: u32,
    ) {
        self.stir(now);
        let number = self.numbers.get(&peer).copied();
        let is_answer = !blocks.is_empty() || !presences.is_empty();
        for block in blocks {
            self.received(now, peer, number, &block);
        }
        let Some(number) = number else { return };
        // A message of the peer's own wants says nothing of what it has queued for us.
        if let Some(peer) = self.peers.get_mut(&number)
            && is_answer
        {
            peer.measure(now);
            peer.pending_bytes = pending_bytes;
        }
        for (cid, presence) in presences {
            let Some(&want) = self.by_hash.get(cid.hash()) else { continue };
            match presence {
                Presence::Have => self.said_have(want, number),
                Presence::DontHave => self.said_dont_have(now, want, number),
            }
        }
        self.ready.insert(number);
    }

    /// To be called when [`Client::next_timeout`] has passed.
    pub fn timeout(&mut self, now: Instant) {
        self.stir(now);
        self.run_timers(now);
    }

    /// When [`Client::timeout`] is next due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|&(at, ..)| at);
        timer.into_iter().chain(self.tick_at).min()
    }

    /// The next thing to do; `None` when there is nothing until the next event.
    pub fn poll(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && self.stirred {
            self.stirred = false;
            if let Some(now) = self.now {
                self.schedule(now);
            }
        }
        self.outputs.pop_front()
    }

    /// What has been seen since the beginning.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many blocks a peer has sent since it connected that nobody here had asked it for.
    #[must_use]
    pub fn unwanted_from(&self, peer: &PeerId) -> u64 {
        self.numbers.get(peer).and_then(|number| self.peers.get(number)).map_or(0, |peer| peer.unwanted)
    }

    /// What each peer has given a session, peers that have left included, until it is closed.
    #[must_use]
    pub fn session_peers(&self, session: SessionId) -> Vec<(PeerId, PeerCounters)> {
        let Some(session) = self.sessions.get(&session) else { return Vec::new() };
        session.given.iter().map(|(peer, counters)| (*peer, *counters)).collect()
    }

    /// Whether nothing is kept but what belongs to connected peers: so it must be when no session is open.
    #[cfg(test)]
    pub(crate) fn is_clean(&self) -> bool {
        self.sessions.is_empty()
            && self.wants.is_empty()
            && self.by_hash.is_empty()
            && self.timers.is_empty()
            && self.doubtful.is_empty()
            && self.numbers.len() == self.peers.len()
            && self.ready.iter().all(|number| self.peers.contains_key(number))
            && self.peers.values().all(Peer::is_idle)
    }

    /// The first wants with all that is known of them, for a test that failed.
    #[cfg(test)]
    pub(crate) fn stuck(&self) -> String {
        let wants: Vec<String> = self
            .wants
            .iter()
            .take(3)
            .map(|(number, want)| {
                let views = self.sessions.get(&want.owner()).map(|session| format!("{:?}", session.views));
                format!("want {number} words {:?} told {:?} views {views:?}", want.words, want.told)
            })
            .collect();
        format!("{wants:?} of {} peers, timer {:?}", self.peers.len(), self.next_timeout())
    }

    fn stir(&mut self, now: Instant) {
        self.now = Some(now);
        self.stirred = true;
    }

    fn received(&mut self, now: Instant, from: PeerId, number: Option<PeerNumber>, block: &Block) {
        let hash = block.cid().hash();
        let bytes = block.bytes().len();
        let mut sender = number.and_then(|number| self.peers.get_mut(&number));
        let withdrawn = sender.as_mut().and_then(|peer| peer.take_withdrawn(hash));
        let Some(&want_number) = self.by_hash.get(hash) else {
            if let Some(session) = withdrawn {
                self.counters.duplicates += 1;
                self.counters.duplicate_bytes += bytes as u64;
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.given.entry(from).or_default().duplicates += 1;
                }
            } else {
                self.counters.unwanted += 1;
                self.counters.unwanted_bytes += bytes as u64;
                if let Some(sender) = sender {
                    sender.unwanted += 1;
                }
            }
            return;
        };
        let Some(want) = self.wants.get(&want_number) else { return };
        if let Some(sender) = sender
            && let Some(Word::Asked(ask)) = number.and_then(|number| want.word(number))
        {
            sender.received(now, bytes, ask.since);
        }
        self.counters.blocks += 1;
        self.counters.bytes += bytes as u64;
        let want = self.drop_want(want_number, number);
        for (id, cid) in want.wanted_by {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.progress_at = now;
            if let Some(number) = number {
                session.views.entry(number).or_default().given += 1;
            }
            let given = session.given.entry(from).or_default();
            given.blocks += 1;
            given.bytes += bytes as u64;
            let Some(block) = block.renamed(&cid) else { continue };
            self.outputs.push_back(Output::Block { session: id, block, from });
        }
    }

    /// Looks at every queued want again: those who may have it have become fewer.
    fn doubt_all(&mut self) {
        for session in self.sessions.values() {
            self.doubtful.extend(&session.queue);
        }
    }
}
