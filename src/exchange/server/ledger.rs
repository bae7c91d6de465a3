//! What one peer wants of us, and how far each want has come.
//!
//! Pure bookkeeping of one peer: the [`super::Server`] decides who is next and how much may be in memory.
//! Invariants: at most [`limits::WANTS_PER_PEER`] wants; a want is in `queue` exactly when it is [`State::Queued`], and
//! in `waiting` exactly when it is [`State::Waiting`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use cid::Version as CidVersion;
use libp2p::PeerId;

use super::{LedgerCounters, ReadKind, Ticket};
use crate::block::{self, Cid};
use crate::exchange::limits;
use crate::exchange::message::{Presence, Version, WantEntry, WantKind};

/// How far a want has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be read.
    Queued,
    /// Being read under this ticket. `again`: the block arrived, or the want grew, while it was read.
    Reading { ticket: Ticket, again: bool },
    /// We lack the block; answered when it arrives.
    Waiting,
}

#[derive(Debug)]
pub(super) struct Want {
    pub(super) kind: WantKind,
    pub(super) send_dont_have: bool,
    pub(super) state: State,
    priority: i32,
    /// Order of arrival, which breaks ties of priority.
    sequence: u64,
}

/// Presences come first (they cost no memory and let the peer go on), then blocks by priority, then by arrival.
type QueueKey = (bool, Reverse<i32>, u64);

impl Want {
    fn queue_key(&self) -> QueueKey {
        (self.kind == WantKind::Block, Reverse(self.priority), self.sequence)
    }

    fn is_open_block(&self) -> bool {
        self.kind == WantKind::Block && self.state != State::Waiting
    }

    const fn waiting_key(&self) -> (i32, Reverse<u64>) {
        (self.priority, Reverse(self.sequence))
    }
}

/// What adding a want did to the set of wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It is new; to make room, another may have gone.
    New { evicted: Option<Cid> },
    /// It was there already.
    Merged,
    /// There was no room.
    Refused,
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) peer: PeerId,
    pub(super) version: Version,
    pub(super) counters: LedgerCounters,
    /// Presences to be sent with the next message.
    pub(super) presences: BTreeMap<Cid, Presence>,
    /// Block bytes set aside for reads under way.
    pub(super) reserved: usize,
    /// Block bytes read and not known to have left.
    pub(super) unsent: usize,
    /// Reads under way.
    pub(super) tickets: usize,
    /// Those of them that are for presences.
    pub(super) presence_tickets: usize,
    /// Whether the server has it in its round.
    pub(super) in_round: bool,
    wants: HashMap<Cid, Want>,
    queue: BTreeMap<QueueKey, Cid>,
    /// By rising priority, the newest first: whoever is first is evicted first.
    waiting: BTreeMap<(i32, Reverse<u64>), Cid>,
    sequence: u64,
    /// The size that the next block is assumed to have, in bytes: never less than recent blocks had.
    block_bytes_assumed: usize,
    /// Length of the last block sent, in bytes.
    block_bytes_last: usize,
    /// Wants for blocks that are queued or being read.
    blocks_open: usize,
}

/// Reservations are never smaller than this, in bytes, so that a run of small blocks followed by large ones cannot
/// overrun the budget by more than 16 times.
const RESERVE_BYTES_MIN: usize = 128 * 1024;

impl Ledger {
    pub(super) fn new(peer: PeerId) -> Self {
        Self {
            peer,
            version: Version::V120,
            counters: LedgerCounters::default(),
            presences: BTreeMap::new(),
            reserved: 0,
            unsent: 0,
            tickets: 0,
            presence_tickets: 0,
            in_round: false,
            wants: HashMap::new(),
            queue: BTreeMap::new(),
            waiting: BTreeMap::new(),
            sequence: 0,
            block_bytes_assumed: block::BLOCK_BYTES_MAX,
            block_bytes_last: 0,
            blocks_open: 0,
        }
    }

    /// Adds a want or merges it with the one that is there: a block beats a presence, the newest priority counts, and
    /// who asks again is answered again.
    pub(super) fn add(&mut self, entry: &WantEntry) -> Added {
        let Some(mut want) = self.detach(&entry.cid) else {
            let evicted = if self.wants.len() >= limits::WANTS_PER_PEER {
                let Some((_, lowest)) = self.waiting.first_key_value() else { return Added::Refused };
                let lowest = *lowest;
                self.remove(&lowest);
                Some(lowest)
            } else {
                None
            };
            self.sequence += 1;
            let want = Want {
                kind: entry.kind,
                send_dont_have: entry.send_dont_have,
                state: State::Queued,
                priority: entry.priority,
                sequence: self.sequence,
            };
            self.attach(entry.cid, want);
            return Added::New { evicted };
        };
        let grows = entry.kind == WantKind::Block && want.kind == WantKind::Have;
        if grows {
            want.kind = WantKind::Block;
        }
        want.priority = entry.priority;
        match &mut want.state {
            State::Queued => want.send_dont_have |= entry.send_dont_have,
            State::Reading { again, .. } => {
                want.send_dont_have |= entry.send_dont_have;
                *again |= grows;
            }
            State::Waiting => {
                want.send_dont_have = entry.send_dont_have;
                want.state = State::Queued;
            }
        }
        self.attach(entry.cid, want);
        Added::Merged
    }

    /// Forgets a want and its unsent presence; whether there was one.
    pub(super) fn remove(&mut self, cid: &Cid) -> bool {
        self.presences.remove(cid);
        self.detach(cid).is_some()
    }

    /// The local store has it now: who waits goes back to the queue.
    pub(super) fn arrived(&mut self, cid: &Cid) {
        let Some(mut want) = self.detach(cid) else { return };
        match &mut want.state {
            State::Waiting => want.state = State::Queued,
            State::Reading { again, .. } => *again = true,
            State::Queued => {}
        }
        self.attach(*cid, want);
    }

    /// Moves a want to another state, and optionally to another kind.
    pub(super) fn set(&mut self, cid: &Cid, state: State, kind: WantKind) {
        let Some(mut want) = self.detach(cid) else { return };
        want.state = state;
        want.kind = kind;
        self.attach(*cid, want);
    }

    /// Takes the next read off the queue: presences in bulk, or one large block, or as many small ones as `budget`
    /// bytes allow. Returns the items and how many bytes are to be reserved for them.
    pub(super) fn take(&mut self, ticket: Ticket, budget: usize) -> (Vec<(Cid, ReadKind)>, usize) {
        let mut items = Vec::new();
        let mut reserved = 0;
        let each = self.block_bytes_assumed;
        let several = each <= limits::PACKED_BYTES_MAX;
        let presences = self.next_is_presence();
        while let Some((&(is_block, ..), &cid)) = self.queue.first_key_value() {
            let enough = items.len() >= limits::READS_PER_TICKET || (is_block && !several && !items.is_empty());
            if is_block == presences || enough || (is_block && reserved + each > budget) {
                break;
            }
            let Some(mut want) = self.detach(&cid) else { break };
            want.state = State::Reading { ticket, again: false };
            self.attach(cid, want);
            reserved += if is_block { each } else { 0 };
            items.push((cid, if is_block { ReadKind::Block } else { ReadKind::Presence }));
        }
        (items, reserved)
    }

    /// Notes the length of a block that was read and is about to be sent.
    pub(super) fn sending(&mut self, bytes: usize) {
        self.unsent += bytes;
        self.counters.blocks += 1;
        self.counters.bytes += bytes as u64;
        self.block_bytes_last = bytes;
        self.block_bytes_assumed = bytes.max(self.block_bytes_assumed / 8 * 7).max(RESERVE_BYTES_MIN);
    }

    /// Drops the wants that a peer of this version cannot be answered; returns them.
    pub(super) fn set_version(&mut self, version: Version) -> Vec<Cid> {
        self.version = version;
        let unanswerable: Vec<Cid> = self.cids().filter(|cid| !answerable(version, cid)).collect();
        for cid in &unanswerable {
            self.remove(cid);
        }
        unanswerable
    }

    pub(super) fn want(&self, cid: &Cid) -> Option<&Want> {
        self.wants.get(cid)
    }

    pub(super) fn cids(&self) -> impl Iterator<Item = Cid> {
        self.wants.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.wants.len()
    }

    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn next_is_presence(&self) -> bool {
        matches!(self.queue.first_key_value(), Some((&(false, ..), _)))
    }

    /// What one more block is assumed to need, in bytes.
    pub(super) const fn block_bytes_assumed(&self) -> usize {
        self.block_bytes_assumed
    }

    /// How many bytes of blocks are to follow a message: `behind` that have been read, and those that have not, were
    /// they all there and as long as the last.
    pub(super) fn pending_bytes(&self, behind: usize) -> u32 {
        let bytes = self.blocks_open.saturating_mul(self.block_bytes_last).saturating_add(behind);
        // The field on the wire is an int32.
        u32::try_from(bytes).unwrap_or(u32::MAX).min(i32::MAX as u32)
    }

    fn detach(&mut self, cid: &Cid) -> Option<Want> {
        let want = self.wants.remove(cid)?;
        self.blocks_open -= usize::from(want.is_open_block());
        match want.state {
            State::Queued => {
                self.queue.remove(&want.queue_key());
            }
            State::Waiting => {
                self.waiting.remove(&want.waiting_key());
            }
            State::Reading { .. } => {}
        }
        Some(want)
    }

    fn attach(&mut self, cid: Cid, want: Want) {
        self.blocks_open += usize::from(want.is_open_block());
        match want.state {
            State::Queued => {
                self.queue.insert(want.queue_key(), cid);
            }
            State::Waiting => {
                self.waiting.insert(want.waiting_key(), cid);
            }
            State::Reading { .. } => {}
        }
        self.wants.insert(cid, want);
    }
}

/// Whether a peer of this version can understand a block with this CID: 1.0 sends bare data, which is read as CIDv0.
pub(super) fn answerable(version: Version, cid: &Cid) -> bool {
    version != Version::V100 || cid.version() == CidVersion::V0
}
