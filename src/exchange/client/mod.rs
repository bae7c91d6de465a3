//! The client core: which wants go to which peer, and what comes back.
//!
//! It keeps sessions (one per pull), decides by whom each block is asked for, and hands blocks to the sessions that
//! wanted them. It has no socket, no clock and no store, and it never serves: that is [`super::server`].

use std::fmt;
use std::time::Instant;

use libp2p::PeerId;

use super::message::{Presence, Version, WantEntry};
use crate::block::{Block, Cid};

/// Names a session of one [`Client`]; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {}", self.0)
    }
}

/// How the client behaves. The defaults are for fleets of machines on local or good wide-area networks.
#[derive(Debug, Clone)]
pub struct Options {}

impl Default for Options {
    fn default() -> Self {
        Self {}
    }
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send these wants and cancels to `peer`.
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
    /// Every connected peer has said that it lacks it, or none is connected (once per change). The want stays, and is
    /// asked again when a peer connects, announces HAVE, or after a while.
    NobodyHas {
        /// Whose want it is.
        session: SessionId,
        /// The CID as wanted.
        cid: Cid,
    },
}

/// What the client has seen since it began.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Blocks that some session wanted.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that had been wanted and had already come, or were withdrawn.
    pub duplicates: u64,
    /// Their bytes.
    pub duplicate_bytes: u64,
    /// Blocks that nobody here had asked for.
    pub unwanted: u64,
    /// Their bytes.
    pub unwanted_bytes: u64,
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

/// The client core. Feed it events, then drain [`Client::poll`].
#[derive(Debug)]
pub struct Client {
    counters: Counters,
}

impl Client {
    /// A client without peers and sessions; `seed` breaks ties.
    #[must_use]
    pub fn new(_options: Options, _seed: u64) -> Self {
        Self { counters: Counters::default() }
    }

    /// A peer is there. It counts as speaking 1.2 until [`Client::peer_version`] says otherwise.
    pub fn peer_connected(&mut self, _now: Instant, _peer: PeerId) {}

    /// The version that the first stream to or from the peer negotiated.
    pub fn peer_version(&mut self, _now: Instant, _peer: PeerId, _version: Version) {}

    /// The last connection to the peer is gone; its wants go back to the queue.
    pub fn peer_disconnected(&mut self, _now: Instant, _peer: PeerId) {}

    /// Opens a session.
    pub fn open(&mut self, _now: Instant) -> SessionId {
        SessionId(0)
    }

    /// Closes a session, cancels what only it wanted, and forgets it.
    pub fn close(&mut self, _now: Instant, _session: SessionId) {}

    /// Adds wants in order of preference; each with the expected length of its block in bytes.
    pub fn want(&mut self, _now: Instant, _session: SessionId, _wants: &[(Cid, u32)]) {}

    /// Withdraws wants.
    pub fn forget(&mut self, _now: Instant, _session: SessionId, _cids: &[Cid]) {}

    /// What a message brought.
    pub fn message(
        &mut self,
        _now: Instant,
        _peer: PeerId,
        _blocks: Vec<Block>,
        _presences: &[(Cid, Presence)],
        _pending_bytes: u32,
    ) {
    }

    /// To be called when [`Client::next_timeout`] has passed.
    pub fn timeout(&mut self, _now: Instant) {}

    /// When [`Client::timeout`] is next due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to do; `None` when there is nothing until the next event.
    pub fn poll(&mut self) -> Option<Output> {
        None
    }

    /// What has been seen since the beginning.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What each peer has given a session, peers that have left included, until it is closed.
    #[must_use]
    pub fn session_peers(&self, _session: SessionId) -> Vec<(PeerId, PeerCounters)> {
        Vec::new()
    }
}
