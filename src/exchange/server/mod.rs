//! The server core: what each peer wants, what is read for it, and in which messages it is answered.
//!
//! It keeps a bounded ledger per connected peer and asks its driver to read ([`Output::Read`]); it has no store, no
//! socket and no clock. Nothing of a peer is kept once it has left.

use std::time::Instant;

use bytes::Bytes;
use libp2p::PeerId;

use super::limits;
use super::message::{Outgoing, Version, WantEntry};
use crate::block::Cid;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Block bytes between read and sent for one peer.
    pub bytes_per_peer: usize,
    /// Block bytes between read and sent for all peers together.
    pub bytes_total: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { bytes_per_peer: limits::SERVE_BYTES_PER_PEER, bytes_total: limits::SERVE_BYTES_TOTAL }
    }
}

/// Names one read request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What is to be read of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadKind {
    /// Its bytes.
    Block,
    /// Only whether it is there, and its length.
    Presence,
}

/// What reading came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The bytes. Also a valid answer to [`ReadKind::Presence`].
    Block(Bytes),
    /// It is there; `size` is the block's length in bytes. As answer to [`ReadKind::Block`] it counts as missing.
    Have {
        /// The block's length in bytes.
        size: u32,
    },
    /// It is not there, or cannot be read.
    Missing,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Read these for `peer`, then call [`Server::read_done`] with as many outcomes in the same order.
    Read {
        /// To be handed back.
        ticket: Ticket,
        /// For whom.
        peer: PeerId,
        /// What.
        items: Vec<(Cid, ReadKind)>,
    },
    /// Send this; once its blocks have left (or are lost) call [`Server::sent`] with [`Outgoing::block_bytes`].
    Send {
        /// To whom.
        peer: PeerId,
        /// What.
        message: Outgoing,
    },
}

/// What a connected peer has been sent, and what it waits for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LedgerCounters {
    /// Blocks sent.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Wants that are kept.
    pub wants: usize,
}

/// The server core. Feed it events, then drain [`Server::poll`].
#[derive(Debug)]
pub struct Server {}

impl Server {
    /// A server without peers.
    #[must_use]
    pub fn new(_options: Options) -> Self {
        Self {}
    }

    /// A peer is there. It counts as speaking 1.2 until [`Server::peer_version`] says otherwise.
    pub fn peer_connected(&mut self, _now: Instant, _peer: PeerId) {}

    /// The version that the peer's streams negotiated.
    pub fn peer_version(&mut self, _now: Instant, _peer: PeerId, _version: Version) {}

    /// The peer is gone: all that was kept for it is dropped.
    pub fn peer_disconnected(&mut self, _now: Instant, _peer: PeerId) {}

    /// A wantlist, or a change to one, has come.
    pub fn wants(&mut self, _now: Instant, _peer: PeerId, _full: bool, _entries: &[WantEntry]) {}

    /// The outcomes of a read request, in its order and number.
    pub fn read_done(&mut self, _now: Instant, _ticket: Ticket, _outcomes: Vec<ReadOutcome>) {}

    /// `bytes` of blocks of earlier [`Output::Send`]s have left for the socket, or were lost with their stream.
    pub fn sent(&mut self, _now: Instant, _peer: PeerId, _bytes: usize) {}

    /// The local store now has these: whoever waits for one is answered.
    pub fn arrived(&mut self, _now: Instant, _cids: &[Cid]) {}

    /// The next thing to do; `None` when there is nothing until the next event.
    pub fn poll(&mut self) -> Option<Output> {
        None
    }

    /// What `peer` has been sent; `None` when it is not connected.
    #[must_use]
    pub fn ledger(&self, _peer: &PeerId) -> Option<LedgerCounters> {
        None
    }
}
