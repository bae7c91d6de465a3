//! One file, and all who have something to do with it: what each is told of our leaves, and which it is offered.
//!
//! Time comes from outside, and what is to be sent is put into a queue of outputs; who is connected and which files there
//! are is [`super::Teller`]'s.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use roaring::RoaringBitmap;

use super::{Held, Notice, Output, Role};
use crate::block::Cid;
use crate::exchange::limits;

/// Leaves that arrive are told together, this long after the first: a message costs some 150 bytes on the wire, and with
/// [`PARTIES_PER_BATCH`] to be told as many are sent for each leaf.
pub(super) const BATCH: Duration = Duration::from_millis(100);

/// With so many more to be told the wait is as much longer, which keeps what is told below 1/200 of what is sent.
const PARTIES_PER_BATCH: usize = 16;

/// Leaves that a puller is offered and does not have yet: at least so many, so that it never waits for the next offer.
const OFFERS_MIN: usize = 4;
const OFFERS_MAX: usize = 256;

/// As many offers as a puller takes in this time.
const OFFERS_FOR: Duration = Duration::from_secs(1);

/// An offer that is not taken after this many times the usual time goes to somebody else.
const OVERDUE_FACTOR: u32 = 3;
const OVERDUE_MIN: Duration = Duration::from_secs(5);
const OVERDUE_MAX: Duration = Duration::from_secs(60);
/// The same while the usual time is not known.
pub(super) const OVERDUE_FIRST: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq)]
pub(super) enum Mine {
    /// Being pulled; these leaves are there.
    Pulled(RoaringBitmap),
    /// These leaves are there, and no others are coming.
    Some(RoaringBitmap),
    All,
}

/// Who has something to do with one file.
#[derive(Debug)]
pub(super) struct Party {
    pub(super) role: Role,
    /// Leaves that it has, while we have all.
    pub(super) there: RoaringBitmap,
    /// The role that it has been told that we have, once it has.
    told: Option<Role>,
    /// Leaves that it was offered and does not have yet, and since when.
    offers: BTreeMap<u32, Instant>,
    /// Leaves that it takes in a second.
    rate: f64,
    rated_at: Option<Instant>,
    /// Whether it has been told of what others have, too.
    all_told: bool,
    unsent_there: RoaringBitmap,
    unsent_coming: RoaringBitmap,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) root: Cid,
    pub(super) leaves: u32,
    pub(super) mine: Mine,
    /// How many pulls of it are under way here.
    pub(super) pulls: usize,
    /// Leaves that we have been offered.
    coming: RoaringBitmap,
    pub(super) parties: BTreeMap<PeerId, Party>,
    /// Leaves that no puller has nor has been offered, while we have all.
    pool: RoaringBitmap,
    /// Offers go on from here, in the order of the file, which disks like.
    cursor: u32,
    /// Whether offers are made at all: not by one who has just finished pulling, for it does not know all that the others
    /// have.
    steers: bool,
    /// How long it usually takes from an offer until the puller has it.
    taking: Option<Duration>,
    pub(super) flush_at: Option<Instant>,
    pub(super) look_after_offers_at: Option<Instant>,
}

impl Party {
    fn new(role: Role) -> Self {
        let none = RoaringBitmap::new;
        Self {
            role,
            there: none(),
            told: None,
            offers: BTreeMap::new(),
            rate: 0.0,
            rated_at: None,
            all_told: false,
            unsent_there: none(),
            unsent_coming: none(),
        }
    }

    /// How many offers it should have.
    fn room(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is clamped, and rates are positive"
        )]
        let leaves = (self.rate * OFFERS_FOR.as_secs_f64()) as usize;
        leaves.clamp(OFFERS_MIN, OFFERS_MAX)
    }

    fn takes(&mut self, now: Instant, leaves: u64) {
        if let Some(before) = self.rated_at {
            let span = now.saturating_duration_since(before).as_secs_f64().max(0.001);
            self.rate = self.rate.mul_add(0.75, leaves as f64 / span * 0.25);
        }
        self.rated_at = Some(now);
    }
}

impl File {
    pub(super) fn new(root: Cid, leaves: u32, mine: Mine, random: &mut u64) -> Self {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let cursor = u32::try_from((*random >> 33) % u64::from(leaves.max(1))).unwrap_or_default();
        Self {
            root,
            leaves,
            mine,
            pulls: 1,
            coming: RoaringBitmap::new(),
            parties: BTreeMap::new(),
            pool: RoaringBitmap::new(),
            cursor,
            steers: true,
            taking: None,
            flush_at: None,
            look_after_offers_at: None,
        }
    }

    fn notice(&self, role: Role) -> Notice {
        Notice::new(self.root, self.leaves, role)
    }

    pub(super) fn has_room_for_parties(&self) -> bool {
        let bytes = usize::try_from(self.leaves / 8).unwrap_or(usize::MAX).max(1);
        // Were they all to have every other leaf.
        self.parties.len() < (64 * limits::TOLD_BYTES_PER_PEER / bytes).clamp(16, 4096)
    }

    /// What we are to somebody.
    fn role(&self) -> Role {
        match self.mine {
            Mine::Pulled(_) => Role::Pulls,
            Mine::Some(_) => Role::Holds,
            // Where only one pulls there is nothing to steer.
            Mine::All if !self.steers || self.pullers() <= 1 => Role::Open,
            Mine::All => Role::Holds,
        }
    }

    fn pullers(&self) -> usize {
        self.parties.values().filter(|party| party.role == Role::Pulls).count()
    }

    /// Says all there is to say to one that may not have heard anything yet.
    pub(super) fn greet(&mut self, peer: PeerId, outputs: &mut VecDeque<Output>) {
        let role = self.role();
        let mut notice = Notice { anew: true, ..self.notice(role) };
        match &self.mine {
            Mine::Pulled(there) | Mine::Some(there) => notice.there.clone_from(there),
            Mine::All => {}
        }
        if role == Role::Pulls {
            notice.coming.clone_from(&self.coming);
        }
        // Whoever is greeted before it has said anything is one whom the first news may concern.
        let party = self.parties.entry(peer).or_insert_with(|| Party::new(Role::None));
        notice.yours.extend(party.offers.keys());
        party.told = Some(role);
        party.all_told = false;
        party.unsent_there.clear();
        party.unsent_coming.clear();
        outputs.push_back(Output::Send { peer, notices: vec![notice] });
    }

    pub(super) fn heard(&mut self, now: Instant, peer: PeerId, notice: Notice, outputs: &mut VecDeque<Output>) {
        let party = self.parties.entry(peer).or_insert_with(|| Party::new(notice.role));
        party.role = notice.role;
        let role = notice.role;
        match &self.mine {
            Mine::Pulled(there) => {
                let mut coming = notice.yours;
                coming -= there;
                coming -= &self.coming;
                if !coming.is_empty() {
                    self.coming |= &coming;
                    for party in self.parties.values_mut().filter(|party| party.role == Role::Pulls) {
                        party.unsent_coming |= &coming;
                    }
                    self.flush_later(now);
                }
            }
            Mine::Some(_) => {}
            Mine::All if role == Role::Pulls => self.has(now, peer, notice),
            Mine::All => self.take_back(&peer),
        }
        let told = self.parties.get(&peer).and_then(|party| party.told);
        if told.is_none() && role != Role::None {
            self.greet(peer, outputs);
        } else if matches!(self.mine, Mine::Pulled(_)) {
            self.flush_later(now);
        }
        if self.mine == Mine::All {
            self.offer(now, outputs);
        }
    }

    /// A puller has more than before.
    fn has(&mut self, now: Instant, peer: PeerId, notice: Notice) {
        let Some(party) = self.parties.get_mut(&peer) else { return };
        if notice.anew {
            party.there.clear();
        }
        let news = notice.there - &party.there;
        if news.is_empty() {
            return;
        }
        party.there |= &news;
        let mut taken = 0;
        for leaf in &news {
            let Some(since) = party.offers.remove(&leaf) else { continue };
            taken += 1;
            let took = now.saturating_duration_since(since);
            self.taking = Some(self.taking.map_or(took, |taking| (taking * 7 + took) / 8));
        }
        if taken > 0 {
            party.takes(now, taken);
        }
        self.pool -= &news;
        for (other, party) in &mut self.parties {
            if *other != peer && party.all_told {
                party.unsent_there |= &news - &party.there;
            }
        }
        self.flush_later(now);
    }

    /// A party is gone; what it was offered, and what only it had, is to be offered again.
    pub(super) fn leave(&mut self, now: Instant, peer: &PeerId, outputs: &mut VecDeque<Output>) {
        let Some(party) = self.parties.remove(peer) else { return };
        if self.mine == Mine::All && party.role == Role::Pulls {
            self.count_pool();
            self.offer(now, outputs);
        }
    }

    fn take_back(&mut self, peer: &PeerId) {
        if let Some(party) = self.parties.get_mut(peer)
            && (!party.offers.is_empty() || !party.there.is_empty())
        {
            party.offers.clear();
            party.there.clear();
            self.count_pool();
        }
    }

    fn count_pool(&mut self) {
        let mut pool = RoaringBitmap::new();
        pool.insert_range(0..self.leaves);
        for party in self.parties.values().filter(|party| party.role == Role::Pulls) {
            pool -= &party.there;
            party.offers.keys().for_each(|leaf| {
                pool.remove(*leaf);
            });
        }
        self.pool = pool;
    }

    /// It is not pulled, or no longer.
    pub(super) fn hold(&mut self, held: Held, outputs: &mut VecDeque<Output>) {
        self.coming.clear();
        self.flush_at = None;
        match held {
            Held::All => {
                self.mine = Mine::All;
                self.steers = self.parties.is_empty();
                for (peer, party) in self.parties.iter_mut().filter(|(_, party)| party.role == Role::Pulls) {
                    party.told = Some(Role::Open);
                    let notices = vec![Notice::new(self.root, self.leaves, Role::Open)];
                    outputs.push_back(Output::Send { peer: *peer, notices });
                }
                self.count_pool();
            }
            Held::Some(there) => {
                self.mine = Mine::Some(there);
                for (peer, party) in &mut self.parties {
                    party.told = Some(Role::Holds);
                    let notices = vec![Notice::new(self.root, self.leaves, Role::Holds)];
                    outputs.push_back(Output::Send { peer: *peer, notices });
                }
            }
        }
    }

    pub(super) fn added(&mut self, now: Instant, leaf: u32, outputs: &mut VecDeque<Output>) {
        let Mine::Pulled(there) = &mut self.mine else { return };
        if leaf >= self.leaves || !there.insert(leaf) {
            return;
        }
        self.coming.remove(leaf);
        let notice = Notice::new(self.root, self.leaves, Role::Pulls);
        for (peer, party) in self.parties.iter_mut().filter(|(_, party)| party.told.is_some()) {
            match party.role {
                // It has the next offer ready for us.
                Role::Holds => {
                    let mut there = std::mem::take(&mut party.unsent_there);
                    there.insert(leaf);
                    outputs.push_back(Output::Send { peer: *peer, notices: vec![Notice { there, ..notice.clone() }] });
                }
                // One that has said nothing yet may do so at any time, and has been told all but this.
                Role::Pulls | Role::Open | Role::None => {
                    party.unsent_coming.remove(leaf);
                    party.unsent_there.insert(leaf);
                }
            }
        }
        self.flush_later(now);
    }

    fn flush_later(&mut self, now: Instant) {
        let factor = u32::try_from(self.parties.len() / PARTIES_PER_BATCH).unwrap_or(u32::MAX).clamp(1, 64);
        self.flush_at = self.flush_at.or(Some(now + BATCH * factor));
    }

    pub(super) fn flush(&mut self, outputs: &mut VecDeque<Output>) {
        self.flush_at = None;
        let role = self.role();
        for (peer, party) in self.parties.iter_mut().filter(|(_, party)| party.role != Role::None) {
            let there = std::mem::take(&mut party.unsent_there);
            let coming = std::mem::take(&mut party.unsent_coming);
            if !there.is_empty() || !coming.is_empty() {
                let role = party.told.unwrap_or(role);
                let notice = Notice { there, coming, ..Notice::new(self.root, self.leaves, role) };
                outputs.push_back(Output::Send { peer: *peer, notices: vec![notice] });
            }
        }
    }

    /// Gives every puller as many offers as it should have.
    fn offer(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        let role = self.role();
        for (peer, party) in self.parties.iter_mut().filter(|(_, party)| party.role == Role::Pulls) {
            let mut notice = Notice::new(self.root, self.leaves, role);
            if party.told != Some(role) {
                party.told = Some(role);
                party.all_told = false;
                notice.anew = true;
            }
            if role == Role::Holds {
                while party.offers.len() < party.room() {
                    let rank = if self.cursor == 0 { 0 } else { self.pool.rank(self.cursor - 1) };
                    let rank = u32::try_from(rank).unwrap_or_default();
                    let Some(leaf) = self.pool.select(rank).or_else(|| self.pool.min()) else { break };
                    self.pool.remove(leaf);
                    self.cursor = leaf + 1;
                    party.offers.insert(leaf, now);
                    notice.yours.insert(leaf);
                }
            }
            if notice.anew || !notice.yours.is_empty() {
                outputs.push_back(Output::Send { peer: *peer, notices: vec![notice] });
            }
        }
        let any_offers = self.parties.values().any(|party| !party.offers.is_empty());
        // What has not left yet must not wait behind what has.
        if role == Role::Holds && self.pool.is_empty() && !any_offers {
            self.tell_all(outputs);
        }
        if any_offers {
            self.look_after_offers_at = self.look_after_offers_at.or_else(|| Some(now + OVERDUE_MIN / 4));
        } else {
            self.look_after_offers_at = None;
        }
    }

    /// Everything is with somebody: each is told that it may ask us, too, for what others have.
    fn tell_all(&mut self, outputs: &mut VecDeque<Output>) {
        if self.parties.values().all(|party| party.role != Role::Pulls || party.all_told) {
            return;
        }
        let mut spread = RoaringBitmap::new();
        for party in self.parties.values().filter(|party| party.role == Role::Pulls) {
            spread |= &party.there;
        }
        for (peer, party) in self.parties.iter_mut().filter(|(_, party)| party.role == Role::Pulls && !party.all_told) {
            party.all_told = true;
            let there = &spread - &party.there;
            if !there.is_empty() {
                let notice = Notice { there, ..Notice::new(self.root, self.leaves, Role::Holds) };
                outputs.push_back(Output::Send { peer: *peer, notices: vec![notice] });
            }
        }
    }

    /// Takes back offers that have not been taken.
    pub(super) fn look_after_offers(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        self.look_after_offers_at = None;
        let patience =
            self.taking.map_or(OVERDUE_FIRST, |taking| (taking * OVERDUE_FACTOR).clamp(OVERDUE_MIN, OVERDUE_MAX));
        for party in self.parties.values_mut() {
            party.offers.retain(|leaf, since| {
                let waits = now.saturating_duration_since(*since) < patience;
                if !waits {
                    self.pool.insert(*leaf);
                }
                waits
            });
        }
        self.offer(now, outputs);
    }
}
