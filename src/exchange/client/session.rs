//! What one session wants, and what it knows of each peer.
//!
//! Lists only: they are kept in step with the peers' words by `super::words`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use libp2p::PeerId;

use super::follow::{Follow, Tells};
use super::want::{Want, WantNumber, Word};
use super::{PeerCounters, PeerNumber};

/// What a session knows of one peer.
#[derive(Debug, Default)]
pub(super) struct View {
    /// It has said DONT_HAVE.
    pub(super) partial: bool,
    /// How many blocks it has given.
    pub(super) given: usize,
    /// Queued wants that it said HAVE to.
    pub(super) haves: BTreeSet<WantNumber>,
    /// WANT-HAVEs that it has not answered.
    pub(super) open: usize,
    /// The next want that it is to be asked about.
    pub(super) cursor: WantNumber,
    /// What it has told of the file that the session follows. Such a peer is partial and is asked no questions.
    pub(super) tells: Option<Tells>,
    /// Leaves that the session was asked to want for this peer's sake, and does not want yet.
    pub(super) picks_open: usize,
    /// The same for leaves that it was about to have.
    pub(super) coming_open: usize,
}

#[derive(Debug)]
pub(super) struct Session {
    /// All its wants.
    pub(super) wants: BTreeSet<WantNumber>,
    /// Those that it schedules and that no peer is asked for.
    pub(super) queue: BTreeSet<WantNumber>,
    /// Those that it schedules and that some peer is asked for.
    pub(super) asked: BTreeSet<WantNumber>,
    pub(super) views: BTreeMap<PeerNumber, View>,
    pub(super) given: BTreeMap<PeerId, PeerCounters>,
    /// The file whose leaves it wants.
    pub(super) follow: Option<Follow>,
    /// When a block last came for it, or it was last started afresh.
    pub(super) progress_at: Instant,
}

impl View {
    pub(super) fn gain(&mut self, number: WantNumber, word: Word, queued: bool) {
        match word {
            Word::AskedHave { .. } => self.open += 1,
            Word::Have if queued => {
                self.haves.insert(number);
            }
            Word::Have | Word::Asked(_) | Word::Lacks | Word::LacksBlock | Word::Shunned { .. } => {}
        }
    }

    pub(super) fn lose(&mut self, number: WantNumber, word: Word) {
        match word {
            Word::AskedHave { .. } => self.open -= 1,
            Word::Have => {
                self.haves.remove(&number);
            }
            Word::Asked(_) | Word::Lacks | Word::LacksBlock | Word::Shunned { .. } => {}
        }
    }
}

impl Session {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            wants: BTreeSet::new(),
            queue: BTreeSet::new(),
            asked: BTreeSet::new(),
            views: BTreeMap::new(),
            given: BTreeMap::new(),
            follow: None,
            progress_at: now,
        }
    }

    /// Takes over the scheduling of a want.
    pub(super) fn place(&mut self, number: WantNumber, want: &Want) {
        let queued = want.asked == 0;
        if queued { &mut self.queue } else { &mut self.asked }.insert(number);
        self.views.values_mut().for_each(|view| view.cursor = view.cursor.min(number));
        for (&peer, &word) in &want.words {
            let view = self.views.entry(peer).or_default();
            view.gain(number, word, queued);
            view.partial |= word.lacks();
        }
    }

    /// Gives up the scheduling of a want.
    pub(super) fn displace(&mut self, number: WantNumber, want: &Want) {
        self.queue.remove(&number);
        self.asked.remove(&number);
        for (peer, &word) in &want.words {
            if let Some(view) = self.views.get_mut(peer) {
                view.lose(number, word);
            }
        }
    }
}
