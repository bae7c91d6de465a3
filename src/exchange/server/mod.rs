//! The server core: what each peer wants, what is read for it, and in which messages it is answered.
//!
//! It keeps a bounded ledger per connected peer and asks its driver to read ([`Output::Read`]); it has no store, no
//! socket and no clock. Nothing of a peer is kept once it has left.
//!
//! Memory is bounded in bytes: from the read request until [`Server::sent`], a block counts against its peer's budget
//! and against that of all. A peer may take no more than what is still free for the others, so that a few that do not
//! read cannot starve the rest.

mod ledger;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use cid::Version as CidVersion;
use libp2p::PeerId;

use self::ledger::{Added, Ledger, State, answerable};
use super::limits;
use super::message::{Outgoing, Presence, Version, WantEntry, WantKind};
use crate::block::{self, Cid, Multihash};

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Block bytes between read and sent for one peer.
    pub bytes_per_peer: usize,
    /// Block bytes between read and sent for all peers together; at least one block of the largest size.
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
    /// It is there; as answer to [`ReadKind::Block`] this counts as missing.
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

/// Reads of presences that may be under way for one peer; more would not make it faster.
const PRESENCE_TICKETS_MAX: usize = 2;

/// A connected peer for the server's own tables.
type PeerNumber = u64;

#[derive(Debug)]
struct Reading {
    peer: PeerNumber,
    items: Vec<(Cid, ReadKind)>,
    reserved: usize,
}

/// Who wants a block, and under which CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interest {
    peer: PeerNumber,
    version: CidVersion,
    codec: u64,
}

/// The server core. Feed it events, then drain [`Server::poll`].
#[derive(Debug)]
pub struct Server {
    options: Options,
    numbers: HashMap<PeerId, PeerNumber>,
    ledgers: BTreeMap<PeerNumber, Ledger>,
    number_next: PeerNumber,
    interests: HashMap<Multihash, Vec<Interest>>,
    readings: HashMap<Ticket, Reading>,
    ticket_next: u64,
    /// Peers with something to read, in turn. One that has no room of its own is out until it has.
    round: VecDeque<PeerNumber>,
    outbox: VecDeque<Output>,
    /// Reserved and unsent bytes of all ledgers.
    bytes_total: usize,
}

impl Server {
    /// A server without peers.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            numbers: HashMap::new(),
            ledgers: BTreeMap::new(),
            number_next: 0,
            interests: HashMap::new(),
            readings: HashMap::new(),
            ticket_next: 0,
            round: VecDeque::new(),
            outbox: VecDeque::new(),
            bytes_total: 0,
        }
    }

    /// A peer is there. It counts as speaking 1.2 until [`Server::peer_version`] says otherwise.
    pub fn peer_connected(&mut self, _now: Instant, peer: PeerId) {
        if self.numbers.contains_key(&peer) {
            return;
        }
        self.number_next += 1;
        self.numbers.insert(peer, self.number_next);
        self.ledgers.insert(self.number_next, Ledger::new(peer));
    }

    /// The version that the peer's streams negotiated.
    pub fn peer_version(&mut self, _now: Instant, peer: PeerId, version: Version) {
        let Some((number, ledger)) = self.ledger_of(&peer) else { return };
        let unanswerable = ledger.set_version(version);
        if version < Version::V120 {
            ledger.presences.clear();
        }
        for cid in unanswerable {
            self.lose_interest(number, &cid);
        }
    }

    /// The peer is gone: all that was kept for it is dropped.
    pub fn peer_disconnected(&mut self, _now: Instant, peer: PeerId) {
        let Some(number) = self.numbers.remove(&peer) else { return };
        let Some(ledger) = self.ledgers.remove(&number) else { return };
        for cid in ledger.cids() {
            self.lose_interest(number, &cid);
        }
        self.bytes_total -= ledger.reserved + ledger.unsent;
        self.readings.retain(|_, reading| reading.peer != number);
        self.round.retain(|other| *other != number);
        self.outbox.retain(|output| match output {
            Output::Read { peer: other, .. } | Output::Send { peer: other, .. } => *other != peer,
        });
    }

    /// A wantlist, or a change to one, has come.
    pub fn wants(&mut self, _now: Instant, peer: PeerId, full: bool, entries: &[WantEntry]) {
        let Some((number, ledger)) = self.ledger_of(&peer) else { return };
        let entries = merged(ledger.version, entries);
        let mut removed = Vec::new();
        let mut added = Vec::new();
        if full {
            let listed: std::collections::HashSet<&Cid> =
                entries.iter().filter(|entry| !entry.cancel).map(|entry| &entry.cid).collect();
            removed.extend(ledger.cids().filter(|cid| !listed.contains(cid)));
            for cid in &removed {
                ledger.remove(cid);
            }
        }
        for entry in &entries {
            if entry.cancel {
                if ledger.remove(&entry.cid) {
                    removed.push(entry.cid);
                }
                continue;
            }
            if let Added::New { evicted } = ledger.add(entry) {
                added.push((entry.cid, evicted));
            }
        }
        for cid in removed {
            self.lose_interest(number, &cid);
        }
        // In order: an evicted want may be one that this very list added.
        for (cid, evicted) in added {
            self.interests.entry(*cid.hash()).or_default().push(interest(number, &cid));
            if let Some(evicted) = evicted {
                self.lose_interest(number, &evicted);
            }
        }
        self.join_round(number);
    }

    /// The outcomes of a read request, in its order and number.
    pub fn read_done(&mut self, _now: Instant, ticket: Ticket, outcomes: Vec<ReadOutcome>) {
        let Some(reading) = self.readings.remove(&ticket) else { return };
        let Some(ledger) = self.ledgers.get_mut(&reading.peer) else { return };
        ledger.reserved -= reading.reserved;
        ledger.tickets -= 1;
        ledger.presence_tickets -= usize::from(reading.reserved == 0);
        let mut blocks = Vec::new();
        let mut done = Vec::new();
        let missing = std::iter::repeat(ReadOutcome::Missing);
        for ((cid, read), outcome) in reading.items.into_iter().zip(outcomes.into_iter().chain(missing)) {
            match settle(ledger, ticket, &cid, read, outcome) {
                Settled::Block(bytes) => {
                    blocks.push((cid, bytes));
                    done.push(cid);
                }
                Settled::Answered => done.push(cid),
                Settled::Kept => {}
            }
        }
        let unsent_before = ledger.unsent;
        pack(ledger, blocks, &mut self.outbox);
        self.bytes_total = self.bytes_total - reading.reserved + (ledger.unsent - unsent_before);
        for cid in done {
            self.lose_interest(reading.peer, &cid);
        }
        self.join_round(reading.peer);
    }

    /// `bytes` of blocks of earlier [`Output::Send`]s have left for the socket, or were lost with their stream.
    pub fn sent(&mut self, _now: Instant, peer: PeerId, bytes: usize) {
        let Some((number, ledger)) = self.ledger_of(&peer) else { return };
        // A late word about an earlier connection of the same peer must not take away more than there is.
        let bytes = bytes.min(ledger.unsent);
        ledger.unsent -= bytes;
        self.bytes_total -= bytes;
        self.join_round(number);
    }

    /// The local store now has these: whoever waits for one is answered.
    pub fn arrived(&mut self, _now: Instant, cids: &[Cid]) {
        for cid in cids {
            let Some(interests) = self.interests.get(cid.hash()) else { continue };
            let mut woken = Vec::with_capacity(interests.len());
            for interest in interests {
                let Ok(wanted) = Cid::new(interest.version, interest.codec, *cid.hash()) else { continue };
                if let Some(ledger) = self.ledgers.get_mut(&interest.peer) {
                    ledger.arrived(&wanted);
                    woken.push(interest.peer);
                }
            }
            for number in woken {
                self.join_round(number);
            }
        }
    }

    /// The next thing to do; `None` when there is nothing until the next event.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.outbox.pop_front() {
            return Some(output);
        }
        for _ in 0..self.round.len() {
            let number = self.round.pop_front()?;
            let Some(ledger) = self.ledgers.get_mut(&number) else { continue };
            let free = self.options.bytes_total.saturating_sub(self.bytes_total);
            let held = ledger.reserved + ledger.unsent;
            let needed = if ledger.next_is_presence() { 0 } else { ledger.block_bytes_assumed() };
            let own_room = match needed {
                0 => ledger.presence_tickets < PRESENCE_TICKETS_MAX,
                _ => held == 0 || held + needed <= self.options.bytes_per_peer,
            };
            if !own_room || !ledger.has_work() {
                ledger.in_round = false;
                continue;
            }
            // What one peer holds may not be more than what is left for the others.
            if needed > 0 && held + needed > free {
                self.round.push_back(number);
                continue;
            }
            let budget = self.options.bytes_per_peer.saturating_sub(held).min(free - held.min(free)).max(needed);
            let ticket = Ticket(self.ticket_next);
            self.ticket_next += 1;
            let (items, reserved) = ledger.take(ticket, budget);
            ledger.reserved += reserved;
            ledger.tickets += 1;
            ledger.presence_tickets += usize::from(reserved == 0);
            let peer = ledger.peer;
            self.bytes_total += reserved;
            self.round.push_back(number);
            self.readings.insert(ticket, Reading { peer: number, items: items.clone(), reserved });
            return Some(Output::Read { ticket, peer, items });
        }
        None
    }

    /// What `peer` has been sent; `None` when it is not connected.
    #[must_use]
    pub fn ledger(&self, peer: &PeerId) -> Option<LedgerCounters> {
        let ledger = self.ledgers.get(self.numbers.get(peer)?)?;
        Some(LedgerCounters { wants: ledger.len(), ..ledger.counters })
    }

    /// Whether nothing at all is kept: so it must be when no peer is connected.
    #[cfg(test)]
    pub(crate) fn is_clean(&self) -> bool {
        self.numbers.is_empty()
            && self.ledgers.is_empty()
            && self.interests.is_empty()
            && self.readings.is_empty()
            && self.round.is_empty()
            && self.outbox.is_empty()
            && self.bytes_total == 0
    }

    fn ledger_of(&mut self, peer: &PeerId) -> Option<(PeerNumber, &mut Ledger)> {
        let number = *self.numbers.get(peer)?;
        Some((number, self.ledgers.get_mut(&number)?))
    }

    fn join_round(&mut self, number: PeerNumber) {
        if let Some(ledger) = self.ledgers.get_mut(&number)
            && !ledger.in_round
            && ledger.has_work()
        {
            ledger.in_round = true;
            self.round.push_back(number);
        }
    }

    fn lose_interest(&mut self, number: PeerNumber, cid: &Cid) {
        let Some(interests) = self.interests.get_mut(cid.hash()) else { return };
        let lost = interest(number, cid);
        if let Some(at) = interests.iter().position(|other| *other == lost) {
            interests.swap_remove(at);
        }
        if interests.is_empty() {
            self.interests.remove(cid.hash());
        }
    }
}

fn interest(peer: PeerNumber, cid: &Cid) -> Interest {
    Interest { peer, version: cid.version(), codec: cid.codec() }
}

/// One entry for each CID of a received list (protocols.md §1.4), without those that are never answered.
fn merged(version: Version, entries: &[WantEntry]) -> Vec<WantEntry> {
    let mut places: HashMap<&Cid, usize> = HashMap::new();
    let mut merged: Vec<WantEntry> = Vec::new();
    for entry in entries.iter().take(limits::WANTLIST_ENTRIES_HEEDED) {
        let cid = &entry.cid;
        if cid.hash().code() == block::IDENTITY
            || cid.encoded_len() > limits::CID_BYTES_MAX
            || !answerable(version, cid)
        {
            continue;
        }
        let place = *places.entry(cid).or_insert(merged.len());
        let Some(known) = merged.get_mut(place) else {
            merged.push(entry.clone());
            continue;
        };
        known.cancel |= entry.cancel;
        known.send_dont_have |= entry.send_dont_have;
        if entry.kind == known.kind {
            known.priority = entry.priority;
        } else if entry.kind == WantKind::Block {
            known.kind = WantKind::Block;
            known.priority = entry.priority;
        }
    }
    merged
}

/// What an outcome means for its want.
enum Settled {
    /// Send the block; the want is done.
    Block(Bytes),
    /// A HAVE is noted; the want is done.
    Answered,
    /// The want is withdrawn, queued again or waits.
    Kept,
}

fn settle(ledger: &mut Ledger, ticket: Ticket, cid: &Cid, read: ReadKind, outcome: ReadOutcome) -> Settled {
    let Some(want) = ledger.want(cid) else { return Settled::Kept };
    // Before 1.2 there are no presences to answer with, and the field that asks for one is unknown.
    let presences = ledger.version == Version::V120;
    let kind = if presences { want.kind } else { WantKind::Block };
    let send_dont_have = want.send_dont_have;
    let again = match want.state {
        State::Reading { ticket: own, again } if own == ticket => again,
        // Cancelled and wanted anew in the meantime: that read will answer it.
        State::Reading { .. } | State::Queued | State::Waiting => return Settled::Kept,
    };
    let outcome = match outcome {
        ReadOutcome::Block(bytes) if bytes.len() > block::BLOCK_BYTES_MAX => ReadOutcome::Missing,
        ReadOutcome::Have { .. } if read == ReadKind::Block => ReadOutcome::Missing,
        ReadOutcome::Block(_) | ReadOutcome::Have { .. } | ReadOutcome::Missing => outcome,
    };
    let have = match outcome {
        ReadOutcome::Block(bytes)
            if kind == WantKind::Block || bytes.len() <= limits::HAVE_REPLACED_BYTES_MAX as usize =>
        {
            ledger.remove(cid);
            return Settled::Block(bytes);
        }
        // Small, or wanted as a block since: read it whole.
        ReadOutcome::Have { size } if kind == WantKind::Block || size <= limits::HAVE_REPLACED_BYTES_MAX => {
            ledger.set(cid, State::Queued, WantKind::Block);
            return Settled::Kept;
        }
        ReadOutcome::Block(_) | ReadOutcome::Have { .. } => true,
        ReadOutcome::Missing => false,
    };
    if have {
        ledger.remove(cid);
        ledger.presences.insert(*cid, Presence::Have);
        Settled::Answered
    } else if again {
        ledger.set(cid, State::Queued, kind);
        Settled::Kept
    } else {
        ledger.set(cid, State::Waiting, kind);
        if presences && send_dont_have {
            ledger.presences.insert(*cid, Presence::DontHave);
        }
        Settled::Kept
    }
}

/// Makes messages: a large block alone, small ones together. Presences ride along with blocks; alone they go when no
/// read is under way whose answer could still join them.
fn pack(ledger: &mut Ledger, blocks: Vec<(Cid, Bytes)>, outbox: &mut VecDeque<Output>) {
    let mut packed: Vec<(Cid, Bytes)> = Vec::new();
    let mut packed_bytes = 0;
    // What has been read and is in no message yet.
    let mut left: usize = blocks.iter().map(|(_, bytes)| bytes.len()).sum();
    for (cid, bytes) in blocks {
        ledger.sending(bytes.len());
        if bytes.len() >= limits::BLOCK_ALONE_BYTES_MIN {
            left -= bytes.len();
            emit(ledger, vec![(cid, bytes)], left, outbox);
            continue;
        }
        packed_bytes += bytes.len();
        packed.push((cid, bytes));
        if packed_bytes >= limits::PACKED_BYTES_MAX {
            left -= packed_bytes;
            emit(ledger, std::mem::take(&mut packed), left, outbox);
            packed_bytes = 0;
        }
    }
    if !packed.is_empty() {
        emit(ledger, packed, 0, outbox);
    }
    while !ledger.presences.is_empty()
        && (ledger.tickets == 0 || ledger.presences.len() >= limits::PRESENCES_PER_MESSAGE)
    {
        // Alone they do not wait behind blocks: those that have not left yet will come after them.
        emit(ledger, Vec::new(), ledger.unsent, outbox);
    }
}

/// Queues a message with `behind` bytes of blocks to follow that have been read already.
fn emit(ledger: &mut Ledger, blocks: Vec<(Cid, Bytes)>, behind: usize, outbox: &mut VecDeque<Output>) {
    let mut presences = Vec::with_capacity(ledger.presences.len().min(limits::PRESENCES_PER_MESSAGE));
    while presences.len() < limits::PRESENCES_PER_MESSAGE
        && let Some(presence) = ledger.presences.pop_first()
    {
        presences.push(presence);
    }
    let pending_bytes = if ledger.version == Version::V120 { ledger.pending_bytes(behind) } else { 0 };
    let message = Outgoing { full: false, wants: Vec::new(), blocks, presences, pending_bytes };
    outbox.push_back(Output::Send { peer: ledger.peer, message });
}
