//! What peers say about wants, and what follows from each word.
//!
//! [`Client::set_word`] is the only way by which a word changes, and keeps the queue, the counts, the timers and the
//! sessions' lists in step; [`Client::drop_want`] is the only way by which a want ends.

use std::time::Instant;

use super::want::{Want, WantNumber, Word};
use super::{Client, PeerNumber, SessionId};
use crate::exchange::limits;

impl Client {
    pub(super) fn said_have(&mut self, number: WantNumber, peer: PeerNumber) {
        let Some(want) = self.wants.get_mut(&number) else { return };
        match want.word(peer) {
            // A block is on its way, or the peer has shown that its word is worth nothing.
            Some(Word::Asked(_) | Word::Shunned { .. } | Word::Have) => {}
            Some(Word::AskedHave { .. } | Word::Lacks | Word::LacksBlock) | None => {
                want.told = None;
                self.set_word(number, peer, Some(Word::Have));
            }
        }
    }

    pub(super) fn said_dont_have(&mut self, now: Instant, number: WantNumber, peer_number: PeerNumber) {
        let Some(want) = self.wants.get(&number) else { return };
        let Some(peer) = self.peers.get_mut(&peer_number) else { return };
        let word = match want.word(peer_number) {
            // The peer keeps the want and would push the block, perhaps when another has been asked for it. It had
            // better say HAVE: the want is withdrawn, and put as a question should it stay in the queue.
            Some(Word::Asked(ask)) => {
                peer.push_cancel(want.cid, true);
                ask.promised.then_some(Word::Shunned { until: now + limits::SHUNNED_FOR })
            }
            // Of small blocks it would not push HAVE but the block.
            Some(Word::AskedHave { .. }) if want.is_small() => {
                peer.push_cancel(want.cid, true);
                Some(Word::Shunned { until: now + limits::SHUNNED_ALONE_FOR })
            }
            Some(Word::AskedHave { .. }) => Some(Word::Lacks),
            Some(Word::Have) => Some(Word::Shunned { until: now + limits::SHUNNED_FOR }),
            // Late: it answers something that has been withdrawn.
            Some(Word::Lacks | Word::LacksBlock | Word::Shunned { .. }) | None => return,
        };
        peer.failures = 0;
        for (session, _) in &want.wanted_by {
            if let Some(session) = self.sessions.get_mut(session) {
                session.views.entry(peer_number).or_default().partial = true;
            }
        }
        self.set_word(number, peer_number, word);
    }

    /// Changes what a peer's word on a want is, and all that follows from it.
    pub(super) fn set_word(&mut self, number: WantNumber, peer_number: PeerNumber, new: Option<Word>) {
        let Some(want) = self.wants.get_mut(&number) else { return };
        let Some(peer) = self.peers.get_mut(&peer_number) else { return };
        let Some(session) = self.sessions.get_mut(&want.owner()) else { return };
        let was_queued = want.asked == 0;
        let view = session.views.entry(peer_number).or_default();
        if let Some(old) = want.take_word(peer_number) {
            peer.lose(number, old, want.size);
            view.lose(number, old);
            if let Some(at) = old.timer() {
                self.timers.remove(&(at, number, peer_number));
            }
            self.ready.insert(peer_number);
        }
        if let Some(new) = new {
            want.put_word(peer_number, new);
            peer.gain(self.now, number, new, want.size);
            view.gain(number, new, want.asked == 0);
            if let Some(at) = new.timer() {
                self.timers.insert((at, number, peer_number));
            }
            if new == Word::Have {
                self.ready.insert(peer_number);
            }
            if new.lacks() {
                self.doubtful.insert(number);
                // Nobody else was asked about a small block meanwhile.
                if want.is_small() {
                    session.views.values_mut().for_each(|view| view.cursor = view.cursor.min(number));
                    self.all_ready = true;
                }
            }
        }
        let queued = want.asked == 0;
        if queued == was_queued {
            return;
        }
        let (from, to) =
            if queued { (&mut session.asked, &mut session.queue) } else { (&mut session.queue, &mut session.asked) };
        from.remove(&number);
        to.insert(number);
        if queued {
            // Partial peers may have been asked about later wants already.
            session.views.values_mut().for_each(|view| view.cursor = view.cursor.min(number));
            self.all_ready = true;
        }
        for (holder, _) in want.words.iter().filter(|(_, word)| **word == Word::Have) {
            let Some(view) = session.views.get_mut(holder) else { continue };
            if queued {
                view.haves.insert(number);
            } else {
                view.haves.remove(&number);
            }
        }
    }

    /// Removes a session from those that want a block, and the want with the last of them.
    pub(super) fn unwant(&mut self, id: SessionId, number: WantNumber) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !session.wants.remove(&number) {
            return;
        }
        let Some(want) = self.wants.get_mut(&number) else { return };
        if want.wanted_by.len() == 1 {
            self.drop_want(number, None);
            return;
        }
        let owned = want.owner() == id;
        if owned {
            session.displace(number, want);
        }
        want.wanted_by.retain(|(other, _)| *other != id);
        if owned && let Some(session) = self.sessions.get_mut(&want.owner()) {
            session.place(number, want);
            self.all_ready = true;
        }
    }

    /// Forgets a want and withdraws it from every peer but `sender`, whose ledger has lost it with the answer.
    pub(super) fn drop_want(&mut self, number: WantNumber, sender: Option<PeerNumber>) -> Want {
        let want = self.wants.remove(&number).expect("callers have looked it up");
        self.by_hash.remove(&want.hash);
        self.doubtful.remove(&number);
        for (id, _) in &want.wanted_by {
            if let Some(session) = self.sessions.get_mut(id) {
                session.wants.remove(&number);
                if let (Some(follow), Some(leaf)) = (&mut session.follow, want.leaf) {
                    follow.wants.remove(&leaf);
                }
            }
        }
        if let Some(session) = self.sessions.get_mut(&want.owner()) {
            session.displace(number, &want);
        }
        for (&peer_number, &word) in &want.words {
            let Some(peer) = self.peers.get_mut(&peer_number) else { continue };
            peer.lose(number, word, want.size);
            if let Some(at) = word.timer() {
                self.timers.remove(&(at, number, peer_number));
            }
            self.ready.insert(peer_number);
            if Some(peer_number) == sender {
                continue;
            }
            let asked = matches!(word, Word::Asked(_));
            if asked {
                peer.withdraw(want.hash, want.owner());
            }
            if word.stands_block() || word.stands_have() {
                peer.push_cancel(want.cid, asked);
            }
        }
        want
    }
}
