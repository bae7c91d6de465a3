//! Who is asked for what, decided anew after every event.
//!
//! Among peers that may have a block, the one with the emptiest pipeline is asked; those that are known to have it come
//! before those that are presumed to have everything, which spares the publisher. Only peers whose situation changed
//! since the last time are looked at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::session::Session;
use super::want::{Ask, Want, WantNumber, Word};
use super::{Client, Output, PeerNumber, SessionId, peer, timers};
use crate::block::Cid;
use crate::exchange::limits;
use crate::exchange::message::{Version, WantKind};

/// How far down the queue to look for what is best asked of a presumed holder.
const LOOKAHEAD: usize = 64;

/// A partial peer is asked about more wants when fewer than this many are known that it has.
const KNOWN_HAVES_MIN: usize = 64;

/// A partial peer is asked about more wants when it owes no more than this many answers.
const OPEN_HAVES_MAX: usize = 16;

/// In the endgame a second peer is asked when it should be so many times faster than the first, or when the first has
/// taken so many times as long as it should. Less would mostly bring blocks twice.
const ENDGAME_FACTOR: u32 = 4;

/// How long a peer that has told of a leaf may take to send it at least: it may be sending to many.
const TELLERS_PATIENCE_MIN: Duration = Duration::from_secs(10);

/// How much longer a leaf may take that the peer does not have yet but will soon.
const COMING_PATIENCE: Duration = Duration::from_secs(20);

/// The endgame is for gains of at least this; for less, a block is not fetched twice.
const ENDGAME_GAIN_MIN: Duration = Duration::from_secs(2);

/// What a peer may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// What it said it has.
    Known,
    /// What it is presumed to have.
    Presumed,
}

impl Client {
    pub(super) fn schedule(&mut self, now: Instant) {
        let peers: Vec<PeerNumber> = if std::mem::take(&mut self.all_ready) {
            self.ready.clear();
            self.peers.keys().copied().collect()
        } else {
            std::mem::take(&mut self.ready).into_iter().collect()
        };
        // Who has let us wait in vain again and again is asked for what the others leave.
        let has_failed = |number: &PeerNumber| self.peers.get(number).is_some_and(Peer::has_failed);
        let (failed, sound): (Vec<PeerNumber>, Vec<PeerNumber>) = peers.iter().copied().partition(has_failed);
        // Whoever pulls too is asked first: what a publisher sends it sends to one only.
        let (holders, pullers) = sound.into_iter().partition(|number| self.is_holder(*number));
        for group in [pullers, holders, failed] {
            self.assign_all(now, &group, Choice::Known);
            self.assign_all(now, &group, Choice::Presumed);
            self.pick(&group);
        }
        for &peer in &peers {
            self.ask_ahead(now, peer);
            if self.options.endgame {
                self.ask_twice(now, peer);
            }
        }
        // Assigning marks peers again, but nothing has become possible by it that was not before.
        if !self.all_ready {
            self.ready.clear();
        }
        self.tell_doubtful();
        self.flush();
        self.set_tick(now);
    }

    /// Gives wants to these peers, emptiest first, until none of them can take any.
    fn assign_all(&mut self, now: Instant, peers: &[PeerNumber], choice: Choice) {
        let sessions: Vec<SessionId> =
            self.sessions.iter().filter(|(_, session)| !session.queue.is_empty()).map(|(id, _)| *id).collect();
        if sessions.is_empty() {
            return;
        }
        // Sessions take turns, from a different one on each time.
        let mut turn = usize::try_from(self.random_next() >> 40).unwrap_or_default();
        let mut heap = BinaryHeap::with_capacity(peers.len());
        for &number in peers {
            if let Some(peer) = self.peers.get(&number)
                && (peer.has_room(1) || (choice == Choice::Known && self.may_take(number, peer)))
            {
                let fill = peer.fill();
                heap.push(Reverse((fill, self.random_next(), number)));
            }
        }
        while let Some(Reverse((_, tie, number))) = heap.pop() {
            let found = (0..sessions.len()).find_map(|step| {
                let at = (turn + step) % sessions.len();
                self.choose(sessions[at], number, choice).map(|want| (at, want))
            });
            let Some((at, want)) = found else { continue };
            turn = at + 1;
            self.ask(now, want, number);
            if let Some(peer) = self.peers.get(&number)
                && (peer.has_room(1) || (choice == Choice::Known && self.may_take(number, peer)))
            {
                heap.push(Reverse((peer.fill(), tie, number)));
            }
        }
    }

    /// The next queued want of a session for this peer.
    fn choose(&self, session: SessionId, number: PeerNumber, choice: Choice) -> Option<WantNumber> {
        let session = self.sessions.get(&session)?;
        let peer = self.peers.get(&number)?;
        let view = session.views.get(&number);
        if let Some(view) = view.filter(|view| choice == Choice::Known && view.tells.is_some()) {
            let takes = |want: &&WantNumber| self.wants.get(want).is_some_and(|want| self.takes(want, number, peer));
            return view.haves.iter().take(LOOKAHEAD).find(takes).copied();
        }
        // Among several peers, each is asked for as much as it has shown that it can give: most of a fleet may have
        // little yet, and a slow one would sit on a whole pipeline. A peer that said HAVE gets the benefit of the doubt.
        let trust = if self.peers.len() == 1 { usize::MAX } else { view.map_or(0, |view| view.given) };
        if peer.asks > trust.saturating_mul(2).saturating_add(usize::from(choice == Choice::Known)) {
            return None;
        }
        let fits = |want: &WantNumber| self.wants.get(want).is_some_and(|want| peer.has_room(want.size));
        if choice == Choice::Known {
            return view?.haves.first().copied().filter(fits);
        }
        if peer.speaks_presence() && view.is_some_and(|view| view.partial) {
            return None;
        }
        let may_have = session
            .queue
            .iter()
            .filter_map(|number| Some((*number, self.wants.get(number)?)))
            .filter(|(_, want)| want.word(number).is_none() && !want.is_coming_small())
            .filter(|(_, want)| understood(peer.version, &want.cid));
        // Best is what no other peer has nor is about to ask for.
        let mut best = None;
        for (candidate, want) in may_have.take(LOOKAHEAD) {
            let rank = if want.holders > 0 { 2 } else { u8::from(self.is_anothers(session, want)) };
            if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, candidate));
            }
            if rank == 0 {
                break;
            }
        }
        best.map(|(_, want)| want).filter(fits)
    }

    /// Whether a partial peer has a stronger claim to ask a presumed holder for this.
    fn is_anothers(&self, session: &Session, want: &Want) -> bool {
        let Some(lot) = self.lot else { return false };
        let own = peer::claim(lot, &want.hash);
        let partial = session.views.iter().filter(|(_, view)| view.partial);
        partial.filter_map(|(number, _)| self.peers.get(number)).any(|peer| peer::claim(peer.lot, &want.hash) > own)
    }

    /// Asks a peer for a block, and withdraws it from old peers that were silent and might push it later.
    fn ask(&mut self, now: Instant, number: WantNumber, peer_number: PeerNumber) {
        let Some(want) = self.wants.get(&number) else { return };
        let (cid, size) = (want.cid, want.size);
        let promised = want.word(peer_number) == Some(Word::Have);
        let coming = self.is_coming(want, peer_number);
        let tells = self.tells_of(want, peer_number).is_some();
        let lacking: Vec<PeerNumber> = want
            .words
            .iter()
            .filter(|(peer, word)| **word == Word::LacksBlock && **peer != peer_number)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in lacking {
            self.shun(number, peer, now + limits::SHUNNED_FOR);
        }
        let Some(peer) = self.peers.get_mut(&peer_number) else { return };
        let over = (peer.standing_blocks >= limits::WANT_BLOCKS_PER_PEER).then(|| peer.lacks_block.first().copied());
        let patience = peer.patience(size);
        // Whoever tells what it has does not leave one waiting without a reason.
        let patience = if tells { patience.max(TELLERS_PATIENCE_MIN) } else { patience };
        let patience = patience + if coming { COMING_PATIENCE } else { Duration::ZERO };
        peer.push(cid, Want::priority(number), WantKind::Block, coming);
        let ask = Ask { since: now, promised, coming, due: now + patience };
        self.set_word(number, peer_number, Some(Word::Asked(ask)));
        if let Some(Some(oldest)) = over {
            self.shun(oldest, peer_number, now + limits::SHUNNED_FOR);
        }
    }

    /// Lets a partial peer be asked about a want once more.
    pub(super) fn look_again(&mut self, number: WantNumber, peer: PeerNumber) {
        let Some(want) = self.wants.get(&number) else { return };
        if let Some(session) = self.sessions.get_mut(&want.owner()) {
            let view = session.views.entry(peer).or_default();
            view.cursor = view.cursor.min(number);
        }
        self.ready.insert(peer);
    }

    /// Asks a partial peer which of the next wants it has.
    fn ask_ahead(&mut self, now: Instant, peer_number: PeerNumber) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in sessions {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let Some(peer) = self.peers.get_mut(&peer_number) else { return };
            let Some(view) = session.views.get_mut(&peer_number) else { continue };
            let room = limits::WANT_HAVES_PER_PEER.saturating_sub(peer.standing_haves);
            let enough = view.open > OPEN_HAVES_MAX || view.haves.len() >= KNOWN_HAVES_MIN;
            if !view.partial || view.tells.is_some() || !peer.speaks_presence() || enough || room == 0 {
                continue;
            }
            let mut batch = Vec::new();
            for &number in session.queue.range(view.cursor..) {
                if batch.len() >= limits::WANT_HAVES_PER_BATCH.min(room) {
                    break;
                }
                view.cursor = number + 1;
                let Some(want) = self.wants.get(&number) else { continue };
                if want.word(peer_number).is_none() && !want.is_coming_small() {
                    peer.push(want.cid, Want::priority(number), WantKind::Have, false);
                    batch.push(number);
                }
            }
            for number in batch {
                self.set_word(number, peer_number, Some(Word::AskedHave { due: now + limits::PRESENCE_AFTER }));
            }
        }
    }

    /// The endgame: an idle peer is asked for one block that a much slower peer was asked for already.
    fn ask_twice(&mut self, now: Instant, number: PeerNumber) {
        let Some(peer) = self.peers.get(&number) else { return };
        if peer.asks > 0 || !peer.has_measured_pace() {
            return;
        }
        let mut slowest: Option<(Instant, WantNumber)> = None;
        for session in self.sessions.values().filter(|session| Self::is_ending(session)) {
            let presumed = !peer.speaks_presence() || session.views.get(&number).is_none_or(|view| !view.partial);
            for &candidate in &session.asked {
                let Some(want) = self.wants.get(&candidate).filter(|want| want.asked == 1) else { continue };
                let may_have = match want.word(number) {
                    Some(Word::Have) => true,
                    None => presumed && understood(peer.version, &want.cid),
                    Some(_) => false,
                };
                let asked = want.words.iter().find_map(|(peer, word)| match word {
                    Word::Asked(ask) => Some((self.peers.get(peer)?, ask.since)),
                    _ => None,
                });
                let (true, Some((other, since))) = (may_have, asked) else { continue };
                let here = (peer.expected(want.size) * ENDGAME_FACTOR).max(ENDGAME_GAIN_MIN);
                // By its pace as it is now, which may not be what it was when it was asked.
                let there = other.expected(0);
                let faster = now + here < since + there || now > since + (there * ENDGAME_FACTOR).max(here);
                if faster && slowest.is_none_or(|(expected, _)| expected < since + there) {
                    slowest = Some((since + there, candidate));
                }
            }
        }
        if let Some((_, want)) = slowest {
            self.counters.asked_twice += 1;
            self.ask(now, want, number);
        }
    }

    /// Tells sessions about wants that have become hopeless for now.
    fn tell_doubtful(&mut self) {
        let old = self.peers.values().filter(|peer| peer.version == Version::V100).count();
        for number in std::mem::take(&mut self.doubtful) {
            let Some(want) = self.wants.get_mut(&number) else { continue };
            let mute = if understood(Version::V100, &want.cid) { 0 } else { old };
            let without = match self.sessions.get(&want.owner()) {
                Some(session) if session.follow.is_some() => session
                    .views
                    .iter()
                    .filter(|(number, view)| view.tells.is_some() && !want.words.contains_key(number))
                    .count(),
                _ => 0,
            };
            let hopeless = !self.peers.is_empty() && want.lacking + mute + without >= self.peers.len();
            if hopeless && want.told != Some(self.connects) {
                want.told = Some(self.connects);
                let told =
                    want.wanted_by.iter().map(|(session, cid)| Output::NobodyHas { session: *session, cid: *cid });
                self.outputs.extend(told);
            }
        }
    }

    fn flush(&mut self) {
        for peer in self.peers.values_mut().filter(|peer| peer.urgent) {
            peer.urgent = false;
            while !peer.outbox.is_empty() {
                let full = !peer.greeted;
                peer.greeted = true;
                self.outputs.push_back(Output::Send { peer: peer.id, entries: peer.take_message(), full });
            }
        }
    }

    fn set_tick(&mut self, now: Instant) {
        let follows = self.sessions.values().any(|session| session.follow.is_some());
        let needed = follows || !self.wants.is_empty() || self.peers.values().any(|peer| !peer.outbox.is_empty());
        self.tick_at = if needed { self.tick_at.or(Some(now + timers::TICK)) } else { None };
    }

    /// The next number of a splitmix64 generator.
    pub(super) fn random_next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Whether a peer of this version can be asked for this CID: 1.0 knows CIDv0 only.
fn understood(version: Version, cid: &Cid) -> bool {
    version != Version::V100 || cid.version() == cid::Version::V0
}
