//! One connected peer as the client sees it: how fast it is, how much is asked of it, what is to be sent to it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::SessionId;
use super::want::{WantNumber, Word};
use crate::block::{Cid, Multihash};
use crate::exchange::limits;
use crate::exchange::message::{Version, WantEntry, WantKind};

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    /// When it connected.
    pub(super) since: Instant,
    /// It does not tell who has what.
    pub(super) mute: bool,
    /// Its number for [`claim`].
    pub(super) lot: u64,
    pub(super) version: Version,
    /// Expected bytes of the blocks that it was asked for.
    pub(super) in_flight: u64,
    /// How many blocks it was asked for.
    pub(super) asks: usize,
    /// How many of them it did not have when it was asked, but was about to, and their bytes.
    pub(super) coming: usize,
    coming_bytes: u64,
    /// Wants for blocks that stand in its ledger.
    pub(super) standing_blocks: usize,
    /// Wants for presences that stand in its ledger.
    pub(super) standing_haves: usize,
    /// Every want about which it has a word.
    pub(super) wants: BTreeSet<WantNumber>,
    /// Those of them where it was silent and is too old to say DONT_HAVE.
    pub(super) lacks_block: BTreeSet<WantNumber>,
    /// Those of them where it said DONT_HAVE to WANT-HAVE.
    pub(super) lacks: BTreeSet<WantNumber>,
    /// When the last block came from it.
    pub(super) block_at: Option<Instant>,
    /// Asks in a row that were given up.
    pub(super) failures: u32,
    /// Blocks from it that nobody here had asked it for.
    pub(super) unwanted: u64,
    /// What it said it has queued for us, in bytes.
    pub(super) pending_bytes: u32,
    /// Entries to be sent, in order.
    pub(super) outbox: Vec<WantEntry>,
    /// Whether the outbox holds more than cancels that can wait.
    pub(super) urgent: bool,
    /// Whether it has been sent anything since it connected.
    pub(super) greeted: bool,
    pace: Pace,
    withdrawn: Withdrawn,
}

/// After so many failures in a row a peer gets one want at a time.
const FAILURES_MAX: u32 = 3;

impl Peer {
    pub(super) fn new(now: Instant, id: PeerId) -> Self {
        Self {
            id,
            since: now,
            mute: false,
            lot: lot(&id),
            version: Version::V120,
            in_flight: 0,
            asks: 0,
            coming: 0,
            coming_bytes: 0,
            standing_blocks: 0,
            standing_haves: 0,
            wants: BTreeSet::new(),
            lacks_block: BTreeSet::new(),
            lacks: BTreeSet::new(),
            block_at: None,
            failures: 0,
            unwanted: 0,
            pending_bytes: 0,
            outbox: Vec::new(),
            urgent: false,
            greeted: false,
            pace: Pace::default(),
            withdrawn: Withdrawn::default(),
        }
    }

    /// Whether it can be asked whether it has blocks without asking for them.
    pub(super) fn speaks_presence(&self) -> bool {
        self.version == Version::V120
    }

    /// How many more blocks of `size` bytes it may be asked for.
    pub(super) fn room(&self, size: u32) -> usize {
        let asks = self.asks - self.coming;
        if self.has_failed() {
            return usize::from(asks == 0);
        }
        let bytes = u64::from(self.pace.pipeline_bytes()).saturating_sub(self.filled()) / u64::from(size.max(1));
        let blocks = usize::try_from(bytes).unwrap_or(usize::MAX);
        let blocks = blocks.min(limits::WANT_BLOCKS_PER_PEER.saturating_sub(self.asks));
        blocks.max(limits::PIPELINE_BLOCKS_MIN.saturating_sub(asks))
    }

    /// Whether it may be asked for another block of `size` bytes.
    pub(super) fn has_room(&self, size: u32) -> bool {
        let blocks = if self.has_failed() { 1 } else { limits::PIPELINE_BLOCKS_MIN };
        if self.asks >= limits::WANT_BLOCKS_PER_PEER {
            return false;
        }
        self.asks - self.coming < blocks
            || (self.failures < FAILURES_MAX
                && self.filled() + u64::from(size) <= u64::from(self.pace.pipeline_bytes()))
    }

    /// How many more blocks it may be asked for that it is about to have.
    pub(super) const fn room_coming(&self) -> usize {
        limits::COMING_PER_PEER.saturating_sub(self.coming)
    }

    /// How full its pipeline is, in thousandths.
    pub(super) fn fill(&self) -> u64 {
        self.filled() * 1000 / u64::from(self.pace.pipeline_bytes())
    }

    /// How long `bytes` more will take, by what has been measured.
    pub(super) fn expected(&self, bytes: u32) -> Duration {
        self.pace.expected(self.in_flight + u64::from(bytes))
    }

    /// Whether it let us wait in vain several times in a row.
    pub(super) const fn has_failed(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    /// Whether its rate is known.
    pub(super) const fn has_measured_pace(&self) -> bool {
        self.pace.rate.is_some()
    }

    /// It has a word on a want now.
    pub(super) fn gain(&mut self, now: Option<Instant>, number: WantNumber, word: Word, size: u32) {
        self.wants.insert(number);
        self.standing_blocks += usize::from(word.stands_block());
        self.standing_haves += usize::from(word.stands_have());
        match word {
            Word::Asked(ask) => {
                if self.asks == 0 {
                    self.pace.start(now.unwrap_or(ask.since));
                    self.pending_bytes = 0;
                }
                self.asks += 1;
                self.in_flight += u64::from(size);
                if ask.coming {
                    self.coming += 1;
                    self.coming_bytes += u64::from(size);
                }
            }
            Word::Lacks => {
                self.lacks.insert(number);
            }
            Word::LacksBlock => {
                self.lacks_block.insert(number);
            }
            Word::AskedHave { .. } | Word::Have | Word::Shunned { .. } => {}
        }
    }

    /// It has that word no longer.
    pub(super) fn lose(&mut self, number: WantNumber, word: Word, size: u32) {
        self.wants.remove(&number);
        self.standing_blocks -= usize::from(word.stands_block());
        self.standing_haves -= usize::from(word.stands_have());
        match word {
            Word::Asked(ask) => {
                self.asks -= 1;
                self.in_flight -= u64::from(size);
                if ask.coming {
                    self.coming -= 1;
                    self.coming_bytes -= u64::from(size);
                }
            }
            Word::Lacks => {
                self.lacks.remove(&number);
            }
            Word::LacksBlock => {
                self.lacks_block.remove(&number);
            }
            Word::AskedHave { .. } | Word::Have | Word::Shunned { .. } => {}
        }
    }

    /// How long a want for `bytes` more may take before it is overdue.
    pub(super) fn patience(&self, bytes: u32) -> Duration {
        (self.expected(bytes) * limits::OVERDUE_FACTOR).clamp(limits::OVERDUE_MIN, limits::OVERDUE_MAX)
    }

    /// Whether nothing is kept about any want.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let counts = [self.asks, self.standing_blocks, self.standing_haves];
        let sets = [&self.wants, &self.lacks, &self.lacks_block];
        counts == [0; 3] && self.in_flight == 0 && sets.iter().all(|set| set.is_empty())
    }

    /// A block that it was asked for has come.
    pub(super) fn received(&mut self, now: Instant, bytes: usize, since: Instant) {
        self.failures = 0;
        self.block_at = Some(now);
        self.pace.received(now, bytes, since);
    }

    /// All of a message has come.
    pub(super) fn measure(&mut self, now: Instant) {
        self.pace.measure(now);
    }

    /// `waits`: the peer does not have it yet and should keep the want until it has.
    pub(super) fn push(&mut self, cid: Cid, priority: i32, kind: WantKind, waits: bool) {
        let send_dont_have = self.speaks_presence() && !waits;
        self.outbox.push(WantEntry { cid, priority, kind, cancel: false, send_dont_have });
        self.urgent = true;
    }

    /// Cancels of presences can wait until there is something to send; those of blocks save a block.
    pub(super) fn push_cancel(&mut self, cid: Cid, urgent: bool) {
        self.outbox.push(WantEntry { cid, priority: 0, kind: WantKind::Block, cancel: true, send_dont_have: false });
        self.urgent |= urgent || self.outbox.len() >= limits::CANCELS_WAITING_MAX;
    }

    /// The next message: entries in order, none twice about the same block, so that their order cannot matter.
    ///
    /// boxo adds all wants of a message before it heeds the cancels, and drops in silence what does not fit meanwhile.
    /// So when little room is left at the peer, wants are not sent along with the cancels that make room for them.
    pub(super) fn take_message(&mut self) -> Vec<WantEntry> {
        let cancels = self.outbox.iter().filter(|entry| entry.cancel).count();
        let crowded = self.standing_blocks + self.standing_haves + cancels > limits::WANTS_PER_PEER;
        let mut seen = HashSet::new();
        let mut cancelling = false;
        let ends = |entry: &WantEntry| {
            let is_late = crowded && cancelling && !entry.cancel;
            cancelling |= entry.cancel;
            is_late || !seen.insert(*entry.cid.hash())
        };
        let end = self.outbox.iter().position(ends).unwrap_or(self.outbox.len());
        let rest = self.outbox.split_off(end.min(limits::WANTLIST_ENTRIES_PER_MESSAGE));
        std::mem::replace(&mut self.outbox, rest)
    }

    /// Remembers that a block that it was asked for is not wanted of it any more, but may still come.
    pub(super) fn withdraw(&mut self, hash: Multihash, session: SessionId) {
        self.withdrawn.insert(hash, session);
    }

    /// Whether the block was once asked of it and withdrawn, and by which session.
    pub(super) fn take_withdrawn(&mut self, hash: &Multihash) -> Option<SessionId> {
        self.withdrawn.sessions.remove(hash)
    }

    fn filled(&self) -> u64 {
        // What it still sends that we have given up counts too, as long as anything is under way.
        if self.asks == 0 { 0 } else { (self.in_flight - self.coming_bytes).max(u64::from(self.pending_bytes)) }
    }
}

/// Recently withdrawn asks, to tell a late duplicate from a block that nobody asked for.
#[derive(Debug, Default)]
struct Withdrawn {
    sessions: HashMap<Multihash, SessionId>,
    order: VecDeque<Multihash>,
}

impl Withdrawn {
    fn insert(&mut self, hash: Multihash, session: SessionId) {
        if self.sessions.insert(hash, session).is_none() {
            self.order.push_back(hash);
        }
        if self.order.len() > limits::WANT_BLOCKS_PER_PEER
            && let Some(oldest) = self.order.pop_front()
        {
            self.sessions.remove(&oldest);
        }
    }
}

/// A number for a peer, the same on every machine (FNV-1a of its id).
pub(super) fn lot(id: &PeerId) -> u64 {
    id.to_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How strong a peer's claim to a block is: whoever has the strongest asks the publisher for it first. Every machine
/// comes to the same answer (rendezvous hashing).
pub(super) fn claim(lot: u64, hash: &Multihash) -> u64 {
    let digest = hash.digest().iter().rev().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let mixed = (lot ^ digest).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 32)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// A peer's measured rate and delay.
#[derive(Debug, Default)]
struct Pace {
    /// Bytes per second.
    rate: Option<f64>,
    /// The shortest time from asking to receiving that was seen.
    delay: Option<Duration>,
    /// Since when `counted` bytes have come, while something was always asked for.
    counting_since: Option<Instant>,
    counted: usize,
}

/// A rate is measured over at least this long; shorter would measure how messages bunch up.
const SAMPLE_MIN: Duration = Duration::from_millis(50);

/// The pipeline holds what comes in this long on top of twice the delay, so that neither side's pauses empty it.
const PIPELINE_SLACK: Duration = Duration::from_millis(100);

/// No longer delay than this is believed: what takes longer waits in the peer's queue, and asking for more would only
/// lengthen the queue.
const DELAY_MAX: Duration = Duration::from_millis(250);

/// What a peer is assumed to send until it has been measured, in bytes per second: a slow line, so that a first
/// pipeline is not taken for overdue.
const RATE_ASSUMED: f64 = 1_000_000.0;

impl Pace {
    fn start(&mut self, now: Instant) {
        self.counting_since = Some(now);
        self.counted = 0;
    }

    fn received(&mut self, now: Instant, bytes: usize, since: Instant) {
        let took = now.saturating_duration_since(since);
        self.delay = Some(self.delay.map_or(took, |delay| delay.min(took)));
        self.counted += bytes;
        self.counting_since.get_or_insert(since);
    }

    /// Takes a sample when it is time. Only after whole messages: a message may hold all that was asked for, and its
    /// first block alone would look like a peer that gives one block in a round trip.
    fn measure(&mut self, now: Instant) {
        let Some(began) = self.counting_since else { return };
        let elapsed = now.saturating_duration_since(began);
        if elapsed >= SAMPLE_MIN && self.counted > 0 {
            let sample = self.counted as f64 / elapsed.as_secs_f64();
            self.rate = Some(self.rate.map_or(sample, |rate| rate.mul_add(0.75, sample * 0.25)));
            self.start(now);
        }
    }

    fn expected(&self, bytes: u64) -> Duration {
        let rate = self.rate.unwrap_or(RATE_ASSUMED).max(1.0);
        self.delay.unwrap_or_default() + Duration::from_secs_f64((bytes as f64 / rate).min(3600.0))
    }

    fn pipeline_bytes(&self) -> u32 {
        let Some(rate) = self.rate else { return limits::PIPELINE_BYTES_START };
        let span = self.delay.unwrap_or_default().min(DELAY_MAX) * 2 + PIPELINE_SLACK;
        let bytes = rate * span.as_secs_f64();
        let max = f64::from(limits::PIPELINE_BYTES_MAX);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it lies between 1 and the maximum"
        )]
        let bytes = bytes.clamp(1.0, max) as u32;
        bytes
    }
}
