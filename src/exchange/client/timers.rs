//! What happens when nothing comes: overdue wants, unanswered questions, peers that were shunned, stalled sessions.

use std::time::{Duration, Instant};

use super::want::{Ask, Want, WantNumber, Word};
use super::{Client, PeerNumber, SessionId};
use crate::exchange::limits;
use crate::exchange::message::WantKind;

/// How often to look after what has no timer of its own: cancels that wait, idle peers at the end of a session.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// After so many ticks a peer that has none of the wants that it was asked about is asked about others.
const TICKS_PER_TURN: u64 = 20;

/// An overdue want that nobody else can answer is looked at again this soon.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A peer that sends other blocks may owe one for this many times [`limits::RESEND_AFTER`].
const PATIENCE: u32 = 4;

impl Client {
    pub(super) fn run_timers(&mut self, now: Instant) {
        while let Some(&(at, want, peer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.expired(now, want, peer);
        }
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = None;
            self.tick(now);
        }
    }

    fn expired(&mut self, now: Instant, number: WantNumber, peer: PeerNumber) {
        let Some(word) = self.wants.get(&number).and_then(|want| want.word(peer)) else { return };
        match word {
            Word::Asked(ask) => self.overdue(now, number, peer, ask),
            Word::AskedHave { .. } => self.set_word(number, peer, Some(Word::Lacks)),
            Word::Shunned { .. } => {
                self.set_word(number, peer, None);
                self.look_again(number, peer);
                self.retell(number, peer);
            }
            Word::Have | Word::Lacks | Word::LacksBlock => {}
        }
    }

    fn overdue(&mut self, now: Instant, number: WantNumber, peer_number: PeerNumber, ask: Ask) {
        let others = self.others_may_have(number, peer_number);
        let coming = ask.coming && self.wants.get(&number).is_some_and(|want| self.is_coming(want, peer_number));
        let Some(peer) = self.peers.get_mut(&peer_number) else { return };
        if !peer.speaks_presence() {
            // Silence is its DONT_HAVE; should it get the block later, it pushes it.
            self.set_word(number, peer_number, Some(Word::LacksBlock));
            return;
        }
        // A peer that has become slow since it was asked still sends; one that has stopped keeps its old pace on paper.
        let due = ask.since + peer.patience(0);
        if peer.block_at.is_some_and(|at| at > ask.since) && due > now {
            self.set_due(number, peer_number, Ask { due, ..ask });
            return;
        }
        if others && coming {
            // It did not promise a time.
            self.shun(number, peer_number, now + limits::SHUNNED_ALONE_FOR);
            return;
        }
        if others {
            self.give_up(number, peer_number, now + limits::SHUNNED_FOR);
            return;
        }
        let waited = now.saturating_duration_since(ask.since);
        let alive = peer.block_at.is_some_and(|at| at > ask.since);
        let patience = if alive { limits::RESEND_AFTER * PATIENCE } else { limits::RESEND_AFTER };
        if waited >= patience {
            self.give_up(number, peer_number, now + limits::SHUNNED_ALONE_FOR);
        } else {
            let due = (now + LOOK_AGAIN).min(ask.since + patience);
            self.set_due(number, peer_number, Ask { due, ..ask });
            self.ask_around(now, number);
        }
    }

    /// Asks the partial peers of which it is unknown whether they have a want.
    fn ask_around(&mut self, now: Instant, number: WantNumber) {
        let peers: Vec<PeerNumber> = self.peers.keys().copied().collect();
        for peer_number in peers {
            let Some(want) = self.wants.get(&number) else { return };
            let tells = self.tells_of(want, peer_number).is_some();
            let Some(peer) = self.peers.get_mut(&peer_number) else { continue };
            let room = peer.standing_haves < limits::WANT_HAVES_PER_PEER;
            let unsaid = want.word(peer_number).is_none() && !want.is_coming_small();
            if peer.speaks_presence() && room && unsaid && !tells {
                peer.push(want.cid, Want::priority(number), WantKind::Have, false);
                self.set_word(number, peer_number, Some(Word::AskedHave { due: now + limits::PRESENCE_AFTER }));
            }
        }
    }

    /// Takes an overdue want from a peer. One that fails again and again is not presumed to have everything any more.
    fn give_up(&mut self, number: WantNumber, peer_number: PeerNumber, until: Instant) {
        self.counters.given_up += 1;
        let Some(want) = self.wants.get(&number) else { return };
        let Some(peer) = self.peers.get_mut(&peer_number) else { return };
        peer.failures += 1;
        if peer.has_failed()
            && let Some(session) = self.sessions.get_mut(&want.owner())
        {
            session.views.entry(peer_number).or_default().partial = true;
        }
        self.shun(number, peer_number, until);
    }

    /// Whether some other peer could be asked for it at once.
    fn others_may_have(&self, number: WantNumber, asked: PeerNumber) -> bool {
        let Some(want) = self.wants.get(&number) else { return false };
        let Some(session) = self.sessions.get(&want.owner()) else { return false };
        // Somebody else has been asked already.
        want.asked > 1
            || self.peers.iter().filter(|(other, _)| **other != asked).any(|(other, peer)| match want.word(*other) {
                Some(Word::Have) => true,
                None => !peer.speaks_presence() || session.views.get(other).is_none_or(|view| !view.partial),
                Some(_) => false,
            })
    }

    /// Withdraws a want from a peer and leaves it alone about that block for a while.
    pub(super) fn shun(&mut self, number: WantNumber, peer_number: PeerNumber, until: Instant) {
        let Some(want) = self.wants.get(&number) else { return };
        let Some(peer) = self.peers.get_mut(&peer_number) else { return };
        let word = want.word(peer_number);
        let asked = matches!(word, Some(Word::Asked(_)));
        if asked {
            peer.withdraw(want.hash, want.owner());
        }
        if word.is_some_and(|word| word.stands_block() || word.stands_have()) {
            peer.push_cancel(want.cid, asked);
        }
        self.set_word(number, peer_number, Some(Word::Shunned { until }));
    }

    /// Changes only when an ask is looked at; to the counts it is the same ask.
    pub(super) fn set_due(&mut self, number: WantNumber, peer: PeerNumber, ask: Ask) {
        let Some(want) = self.wants.get_mut(&number) else { return };
        if let Some(Word::Asked(old)) = want.words.insert(peer, Word::Asked(ask)) {
            self.timers.remove(&(old.due, number, peer));
        }
        self.timers.insert((ask.due, number, peer));
    }

    fn tick(&mut self, now: Instant) {
        self.ticks += 1;
        self.all_ready = true;
        self.see_who_tells(now);
        for peer in self.peers.values_mut() {
            peer.urgent |= !peer.outbox.is_empty();
        }
        if self.ticks.is_multiple_of(TICKS_PER_TURN) {
            self.turn_windows(now);
        }
        let stalled: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                !session.queue.is_empty() && now.saturating_duration_since(session.progress_at) >= limits::RESEND_AFTER
            })
            .map(|(id, _)| *id)
            .collect();
        for session in stalled {
            self.start_afresh(now, session);
        }
    }

    /// A peer whose ledger is full of wants that it lacks is asked about the next ones instead.
    fn turn_windows(&mut self, now: Instant) {
        let full: Vec<(PeerNumber, Vec<WantNumber>)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.standing_haves >= limits::WANT_HAVES_PER_PEER && peer.asks == 0)
            .map(|(number, peer)| (*number, peer.lacks.iter().take(limits::WANT_HAVES_PER_BATCH).copied().collect()))
            .collect();
        for (peer, lacks) in full {
            for want in lacks {
                self.shun(want, peer, now + limits::SHUNNED_FOR);
            }
        }
    }

    /// Nothing has come for long: whatever peers have said they lack is asked again.
    fn start_afresh(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.progress_at = now;
        let queue: Vec<WantNumber> = session.queue.iter().copied().collect();
        for number in queue {
            let Some(want) = self.wants.get(&number) else { continue };
            let cid = want.cid;
            let lacking =
                |(peer, word): (&PeerNumber, &Word)| matches!(word, Word::Lacks | Word::LacksBlock).then_some(*peer);
            let peers: Vec<PeerNumber> = want.words.iter().filter_map(lacking).collect();
            for peer_number in peers {
                if let Some(peer) = self.peers.get_mut(&peer_number) {
                    peer.push_cancel(cid, false);
                }
                self.set_word(number, peer_number, None);
                self.look_again(number, peer_number);
            }
        }
    }
}
