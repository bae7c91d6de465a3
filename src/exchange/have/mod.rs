//! Who has which leaves of a file: what we tell of ours, and to whom.
//!
//! Members that pull the same file tell each other what they have, so that nobody asks in vain, and what they will have
//! soon, so that others can ask for it while it is still on its way. Who has all of a file tells each puller of other
//! leaves, until every leaf is somewhere: so each leaf leaves the publisher once before any leaves it twice, and the
//! pullers bring them to each other. docs/have.md has the rules and why they are so.
//!
//! Pure: time comes from outside, messages are the handler's. It steers by what it announces and decides about no block:
//! whoever asks for one gets it from [`super::server`]. It bounds what it remembers of peers, and believes nothing of
//! what they say beyond that: what is asked for in vain is the client's to notice.

mod file;
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use libp2p::PeerId;
use roaring::RoaringBitmap;

use self::file::{File, Mine};
use super::limits;
use crate::block::{Cid, Multihash};
pub use wire::{Notice, Role};

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this.
    Send {
        /// To whom.
        peer: PeerId,
        /// What.
        notices: Vec<Notice>,
    },
    /// A peer has said this: for the client.
    Told {
        /// Who.
        peer: PeerId,
        /// What.
        notice: Notice,
    },
    /// Somebody pulls this: look whether it is here, and say so with [`Teller::held`].
    Look {
        /// The file's root.
        root: Cid,
    },
}

/// What is here of a file that is not being pulled.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    /// All of it.
    All,
    /// These leaves.
    Some(RoaringBitmap),
}

/// A connected peer.
#[derive(Debug, Default)]
struct Partner {
    /// It does not know the protocol.
    mute: bool,
    /// What it pulls and is not known here.
    pulls: HashMap<Multihash, Notice>,
}

/// What is told of the files here. Feed it events, then drain [`Teller::poll`].
#[derive(Debug, Default)]
pub struct Teller {
    files: HashMap<Multihash, File>,
    partners: HashMap<PeerId, Partner>,
    outputs: VecDeque<Output>,
    /// Breaks ties between publishers: where each begins.
    random: u64,
}

impl Teller {
    /// One that knows nobody; `seed` says where it begins to offer.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: seed, ..Self::default() }
    }

    /// A peer is there.
    pub fn peer_connected(&mut self, _now: Instant, peer: PeerId) {
        if self.partners.contains_key(&peer) {
            return;
        }
        self.partners.insert(peer, Partner::default());
        for file in self.files.values_mut().filter(|file| matches!(file.mine, Mine::Pulled(_))) {
            file.greet(peer, &mut self.outputs);
        }
    }

    /// It does not speak of who has what.
    pub fn peer_is_mute(&mut self, now: Instant, peer: PeerId) {
        if let Some(partner) = self.partners.get_mut(&peer) {
            partner.mute = true;
            self.leave(now, &peer);
        }
    }

    /// It is gone.
    pub fn peer_disconnected(&mut self, now: Instant, peer: PeerId) {
        if self.partners.remove(&peer).is_some() {
            self.leave(now, &peer);
        }
        self.outputs.retain(|output| match output {
            Output::Send { peer: other, .. } | Output::Told { peer: other, .. } => *other != peer,
            Output::Look { .. } => true,
        });
    }

    /// A pull begins or goes on: everybody is told what is there and asked to tell. A file with too many leaves is not
    /// told of; false then.
    pub fn follow(&mut self, now: Instant, root: Cid, leaves: u32, mut there: RoaringBitmap) -> bool {
        if leaves > limits::LEAVES_TOLD_MAX {
            return false;
        }
        let mut pulls = 1;
        let old = self.files.remove(root.hash());
        if let Some(File { mine: Mine::Pulled(other), pulls: others, .. }) = &old {
            there |= other;
            pulls += others;
        }
        let mut file = File::new(root, leaves, Mine::Pulled(there), &mut self.random);
        file.pulls = pulls;
        file.parties = old.map(|old| old.parties).unwrap_or_default();
        let speaking = self.partners.iter().filter(|(_, partner)| !partner.mute);
        let speaking: HashSet<PeerId> = speaking.map(|(peer, _)| *peer).collect();
        for peer in &speaking {
            file.greet(*peer, &mut self.outputs);
        }
        self.files.insert(*root.hash(), file);
        self.take_up(now, root);
        true
    }

    /// A leaf of a file that is being pulled is there now and can be served.
    pub fn added(&mut self, now: Instant, root: &Cid, leaf: u32) {
        let Some(file) = self.files.get_mut(root.hash()) else { return };
        file.added(now, leaf, &mut self.outputs);
    }

    /// A pull has ended, or rests.
    pub fn unfollow(&mut self, root: &Cid) {
        let Some(file) = self.files.get_mut(root.hash()) else { return };
        let Mine::Pulled(there) = &mut file.mine else { return };
        file.pulls -= 1;
        if file.pulls > 0 {
            return;
        }
        let there = std::mem::take(there);
        let held = if there.len() == u64::from(file.leaves) { Held::All } else { Held::Some(there) };
        file.flush(&mut self.outputs);
        file.hold(held, &mut self.outputs);
        self.tidy(root);
    }

    /// What is here of what somebody pulls: the answer to [`Output::Look`].
    pub fn held(&mut self, now: Instant, root: Cid, held: Option<(u32, Held)>) {
        let known = self.files.contains_key(root.hash());
        match held.filter(|(leaves, _)| *leaves <= limits::LEAVES_TOLD_MAX) {
            Some((leaves, held)) if !known => {
                let mut file = File::new(root, leaves, Mine::All, &mut self.random);
                file.hold(held, &mut self.outputs);
                self.files.insert(*root.hash(), file);
                self.take_up(now, root);
                self.tidy(&root);
            }
            None if !known => {
                for (peer, partner) in &self.partners {
                    if let Some(pulls) = partner.pulls.get(root.hash()) {
                        let notices = vec![Notice::new(pulls.root, pulls.leaves, Role::None)];
                        self.outputs.push_back(Output::Send { peer: *peer, notices });
                    }
                }
            }
            _ => {}
        }
    }

    /// A file has come here by another way, or has gone: whoever pulls it should know.
    pub fn look_again(&mut self, root: &Cid) {
        if let Some(file) = self.files.get_mut(root.hash()) {
            if matches!(file.mine, Mine::Pulled(_)) {
                return;
            }
            for (peer, party) in std::mem::take(&mut file.parties) {
                let notice = Notice::new(*root, file.leaves, Role::None);
                self.outputs.push_back(Output::Send { peer, notices: vec![notice.clone()] });
                if let Some(partner) = self.partners.get_mut(&peer).filter(|_| party.role == Role::Pulls) {
                    let there = party.there;
                    partner.pulls.insert(*root.hash(), Notice { there, role: Role::Pulls, ..notice });
                }
            }
            self.files.remove(root.hash());
        }
        if self.partners.values().any(|partner| partner.pulls.contains_key(root.hash())) {
            self.outputs.push_back(Output::Look { root: *root });
        }
    }

    /// What a peer has said.
    pub fn message(&mut self, now: Instant, peer: PeerId, notices: Vec<Notice>) {
        for notice in notices {
            let Some(partner) = self.partners.get_mut(&peer) else { return };
            self.outputs.push_back(Output::Told { peer, notice: notice.clone() });
            let key = *notice.root.hash();
            if let Some(file) = self.files.get_mut(&key) {
                if file.leaves == notice.leaves && (file.parties.contains_key(&peer) || file.has_room_for_parties()) {
                    file.heard(now, peer, notice, &mut self.outputs);
                    let root = file.root;
                    self.tidy(&root);
                }
                continue;
            }
            if notice.role != Role::Pulls {
                partner.pulls.remove(&key);
                continue;
            }
            let root = notice.root;
            let bytes = |notice: &Notice| notice.there.serialized_size();
            let others: usize = partner.pulls.iter().filter(|(other, _)| **other != key).map(|(_, n)| bytes(n)).sum();
            let fits = partner.pulls.len() < limits::FILES_TOLD_PER_PEER || partner.pulls.contains_key(&key);
            match partner.pulls.get_mut(&key) {
                Some(known) if !notice.anew && known.leaves == notice.leaves => {
                    let fits = others + bytes(known) + bytes(&notice) <= limits::TOLD_BYTES_PER_PEER;
                    known.there |= if fits { notice.there } else { RoaringBitmap::new() };
                }
                _ if fits && others + bytes(&notice) <= limits::TOLD_BYTES_PER_PEER => {
                    partner.pulls.insert(key, notice);
                    self.outputs.push_back(Output::Look { root });
                }
                _ => {}
            }
        }
    }

    /// To be called when [`Teller::next_timeout`] has passed.
    pub fn timeout(&mut self, now: Instant) {
        for file in self.files.values_mut() {
            if file.flush_at.is_some_and(|at| at <= now) {
                file.flush(&mut self.outputs);
            }
            if file.look_after_offers_at.is_some_and(|at| at <= now) {
                file.look_after_offers(now, &mut self.outputs);
            }
        }
    }

    /// When [`Teller::timeout`] is next due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.files.values().flat_map(|file| file.flush_at.into_iter().chain(file.look_after_offers_at)).min()
    }

    /// The next thing to do; `None` when there is nothing until the next event.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether nothing is kept: so it must be when no peer is connected and nothing is pulled.
    #[cfg(test)]
    pub(crate) fn is_clean(&self) -> bool {
        self.files.is_empty() && self.partners.is_empty() && self.outputs.is_empty()
    }

    /// Those who said that they pull this before it was known here.
    fn take_up(&mut self, now: Instant, root: Cid) {
        for (peer, partner) in &mut self.partners {
            if let Some(notice) = partner.pulls.remove(root.hash())
                && let Some(file) = self.files.get_mut(root.hash())
                && notice.leaves == file.leaves
            {
                file.heard(now, *peer, notice, &mut self.outputs);
            }
        }
    }

    fn leave(&mut self, now: Instant, peer: &PeerId) {
        let roots: Vec<Cid> = self.files.values().map(|file| file.root).collect();
        for root in roots {
            if let Some(file) = self.files.get_mut(root.hash()) {
                file.leave(now, peer, &mut self.outputs);
            }
            self.tidy(&root);
        }
    }

    /// Forgets a file that nobody asks about.
    fn tidy(&mut self, root: &Cid) {
        let idle = |file: &File| {
            !matches!(file.mine, Mine::Pulled(_)) && file.parties.values().all(|party| party.role != Role::Pulls)
        };
        if self.files.get(root.hash()).is_some_and(idle) {
            self.files.remove(root.hash());
        }
    }
}
