//! What one Bitswap message says, after the wire and before the cores.
//!
//! Plain values only: the bytes are [`super::wire`]'s, the meaning is the client's and the server's.

use bytes::Bytes;

use crate::block::{Block, Cid};

/// The protocol that a stream speaks, oldest first. The unversioned `/ipfs/bitswap` is 1.0 (protocols.md §1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `/ipfs/bitswap/1.0.0`: bare blocks, CIDv0 only, no presences.
    V100,
    /// `/ipfs/bitswap/1.1.0`: blocks with CID prefixes, no presences.
    V110,
    /// `/ipfs/bitswap/1.2.0`: presences, want-have, pending bytes.
    V120,
}

/// What a want asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WantKind {
    /// The block itself.
    Block,
    /// Only whether the peer has it.
    Have,
}

/// One entry of a wantlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantEntry {
    /// What is wanted.
    pub cid: Cid,
    /// Higher comes first.
    pub priority: i32,
    /// Block or presence.
    pub kind: WantKind,
    /// Withdraws an earlier entry for this CID.
    pub cancel: bool,
    /// Asks for an explicit DONT_HAVE.
    pub send_dont_have: bool,
}

/// A peer's word on a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// The peer has it: a hint, not a promise.
    Have,
    /// The peer lacks it.
    DontHave,
}

/// A message as it arrived, every block hashed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// True when `wants` replaces everything that the peer wanted before.
    pub full: bool,
    /// Wants and cancels, as sent.
    pub wants: Vec<WantEntry>,
    /// Verified blocks.
    pub blocks: Vec<Block>,
    /// Presences, as sent.
    pub presences: Vec<(Cid, Presence)>,
    /// Bytes that the peer has queued for us behind this message.
    pub pending_bytes: u32,
}

/// A message to send. Its blocks are the local store's word, which the receiver checks.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// True when `wants` replaces everything that we wanted of this peer before.
    pub full: bool,
    /// Wants and cancels.
    pub wants: Vec<WantEntry>,
    /// Blocks by the CID under which they were asked for.
    pub blocks: Vec<(Cid, Bytes)>,
    /// Presences.
    pub presences: Vec<(Cid, Presence)>,
    /// Bytes queued for the peer behind this message.
    pub pending_bytes: u32,
}

impl Outgoing {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.full && self.wants.is_empty() && self.blocks.is_empty() && self.presences.is_empty()
    }

    /// Sum of the lengths of its blocks, in bytes.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.blocks.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}
