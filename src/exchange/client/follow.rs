//! Which leaves of a file a session had better want next, by what peers tell of theirs.
//!
//! A session that follows a file is told which leaves to want, some for each peer that has room, the rarest first. So no
//! more is wanted than can be asked for at once, and what is wanted is what somebody has. Peers that tell nothing
//! (another program, or one that has not spoken yet) are left to the rules of the rest of the client.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use roaring::RoaringBitmap;

use super::peer::Peer;
use super::session::Session;
use super::want::{Ask, Want, WantNumber, Word};
use super::{Client, Followed, Output, PeerNumber, SessionId};
use crate::block::{Cid, Multihash};
use crate::exchange::have::{Notice, Role};
use crate::exchange::limits;

/// A peer that has not told anything by now counts as one that never will.
const TELLS_WITHIN: Duration = Duration::from_secs(2);

/// A session for which nothing was to be picked for so long chooses for itself: perhaps somebody has what he did not tell.
const STALLED_AFTER: Duration = Duration::from_secs(2);

/// The word that a leaf is there comes at most so long after the first other peer has it, too.
const WORD_WITHIN: Duration = Duration::from_secs(4);

/// What may be picked is what comes in this time, by what was measured over samples of at least as long as the next.
const WINDOW_FOR: Duration = Duration::from_secs(16);
const PACE_SAMPLE: Duration = Duration::from_millis(500);

/// The same before anything has been measured, in bytes.
const WINDOW_FIRST: u64 = 24 << 20;

/// Leaves that are compared for the rarest.
const SAMPLES: u64 = 32;

/// Peers whose leaves are counted for how rare a leaf is.
const COUNTED: usize = 32;

/// Leaves that lie one behind the other are picked together, so many at most: disks like that.
const RUN: usize = 8;

/// What one peer has told of a file.
#[derive(Debug, Default)]
pub(super) struct Tells {
    /// What may be asked of it.
    there: RoaringBitmap,
    /// What it will have soon.
    coming: RoaringBitmap,
    /// What it has kept for us: it sees to it that this is not too much.
    yours: RoaringBitmap,
    /// It may be asked for all.
    all: bool,
    /// It does not pull the file itself.
    pub(super) holder: bool,
}

/// The file that a session follows.
#[derive(Debug)]
pub(super) struct Follow {
    root: Multihash,
    leaves: u32,
    leaf_bytes: u32,
    window_bytes: u64,
    since: Instant,
    /// Neither there nor wanted.
    missing: RoaringBitmap,
    /// Picked and not there yet.
    picked: RoaringBitmap,
    /// Those of them that nobody had when they were picked.
    coming: RoaringBitmap,
    /// Picked and not wanted yet, for whose sake, and whether that peer was only about to have it.
    open: HashMap<u32, (PeerNumber, bool)>,
    pub(super) wants: HashMap<u32, WantNumber>,
    roams: bool,
    pace: Pace,
}

/// How fast leaves come from all peers together.
#[derive(Debug)]
struct Pace {
    /// Bytes per second.
    rate: Option<f64>,
    since: Instant,
    leaves: u32,
}

impl Pace {
    fn count(&mut self, now: Instant, leaf_bytes: u32) {
        self.leaves += 1;
        let span = now.saturating_duration_since(self.since);
        if span >= PACE_SAMPLE {
            let sample = f64::from(self.leaves) * f64::from(leaf_bytes) / span.as_secs_f64();
            self.rate = Some(self.rate.map_or(sample, |rate| rate.mul_add(0.5, sample * 0.5)));
            (self.since, self.leaves) = (now, 0);
        }
    }
}

impl Follow {
    /// Bytes that may be picked and not be there: no more than come in a while, or a slow line would be asked for what it
    /// cannot bring before it is given up.
    fn window(&self) -> u64 {
        let least = 4 * u64::from(self.leaf_bytes);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates are positive and far below 2^63"
        )]
        let comes = self.pace.rate.map_or(WINDOW_FIRST, |rate| (rate * WINDOW_FOR.as_secs_f64()) as u64);
        comes.max(least).min(self.window_bytes)
    }
}

impl Tells {
    fn has(&self, leaf: u32) -> bool {
        self.all || self.there.contains(leaf) || self.coming.contains(leaf)
    }

    /// What of `missing` it has.
    fn of(&self, missing: &RoaringBitmap) -> RoaringBitmap {
        if self.all { missing.clone() } else { &self.there & missing }
    }
}

impl Client {
    /// From now on a session's leaves are picked: [`Output::Pick`].
    pub fn follow(&mut self, now: Instant, session: SessionId, file: Followed) {
        self.stir(now);
        let Some(session) = self.sessions.get_mut(&session) else { return };
        let mut missing = RoaringBitmap::new();
        missing.insert_range(0..file.leaves);
        missing -= &file.there;
        session.follow = Some(Follow {
            root: *file.root.hash(),
            leaves: file.leaves,
            leaf_bytes: file.leaf_bytes.max(1),
            window_bytes: file.window_bytes.max(1),
            since: now,
            missing,
            picked: RoaringBitmap::new(),
            coming: RoaringBitmap::new(),
            open: HashMap::new(),
            wants: HashMap::new(),
            roams: false,
            pace: Pace { rate: None, since: now, leaves: 0 },
        });
        self.see_who_tells(now);
    }

    /// A session's leaves are picked no longer.
    pub fn unfollow(&mut self, now: Instant, session: SessionId) {
        self.stir(now);
        let Some(session) = self.sessions.get_mut(&session) else { return };
        session.follow = None;
        for view in session.views.values_mut().filter(|view| view.tells.is_some()) {
            view.tells = None;
            view.partial = false;
            (view.picks_open, view.coming_open) = (0, 0);
        }
    }

    /// What a peer has told of a file.
    pub fn told(&mut self, now: Instant, peer: PeerId, notice: &Notice) {
        self.stir(now);
        let Some(&number) = self.numbers.get(&peer) else { return };
        let mut news = Vec::new();
        for session in self.sessions.values_mut() {
            let Some(follow) = &session.follow else { continue };
            if follow.root != *notice.root.hash() || follow.leaves != notice.leaves {
                continue;
            }
            let view = session.views.entry(number).or_default();
            let tells = view.tells.get_or_insert_default();
            if notice.anew || notice.role == Role::None {
                *tells = Tells::default();
            }
            tells.there |= &notice.there;
            tells.there |= &notice.yours;
            tells.yours |= &notice.yours;
            tells.coming |= &notice.coming;
            tells.coming -= &notice.there;
            tells.all = notice.role == Role::Open;
            tells.holder = notice.role != Role::Pulls;
            view.partial = true;
            // Few wants or few leaves: the fewer are looked through.
            let told = notice.there.len() + notice.yours.len() + notice.coming.len();
            if tells.all || told > follow.wants.len() as u64 {
                news.extend(follow.wants.iter().filter(|(leaf, _)| tells.has(**leaf)).map(|(_, want)| *want));
            } else {
                let leaves = notice.there.iter().chain(&notice.yours).chain(&notice.coming);
                news.extend(leaves.filter_map(|leaf| follow.wants.get(&leaf)).copied());
            }
        }
        for want in news {
            self.said_have(want, number);
            self.came_there(now, want, number);
        }
        self.ready.insert(number);
        self.see_who_tells(now);
    }

    /// A peer has told of a leaf that is wanted. If it was asked before it had it, its time begins now; if another was
    /// and still has not got it, that one is not waited for.
    fn came_there(&mut self, now: Instant, number: WantNumber, teller: PeerNumber) {
        let Some(want) = self.wants.get(&number) else { return };
        if self.is_coming(want, teller) {
            return;
        }
        let asked = want.words.iter().filter_map(|(peer, word)| match word {
            Word::Asked(ask) if ask.coming => Some((*peer, *ask)),
            _ => None,
        });
        let (asked, size): (Vec<(PeerNumber, Ask)>, u32) = (asked.collect(), want.size);
        for (peer, ask) in asked {
            if peer == teller {
                let patience = self.peers.get(&peer).map_or(Duration::ZERO, |peer| peer.patience(size));
                self.set_due(number, peer, Ask { since: now, due: now + patience, ..ask });
            } else if self.wants.get(&number).is_some_and(|want| self.is_coming(want, peer)) {
                // Its word may be on its way, behind the block itself.
                self.set_due(number, peer, Ask { due: ask.due.min(now + WORD_WITHIN), ..ask });
            }
        }
    }

    /// A peer never tells anything.
    pub fn peer_is_mute(&mut self, now: Instant, peer: PeerId) {
        self.stir(now);
        if let Some(number) = self.numbers.get(&peer)
            && let Some(peer) = self.peers.get_mut(number)
        {
            peer.mute = true;
            self.see_who_tells(now);
        }
    }

    /// As [`Client::want`], for leaves of the file that the session follows, each with its number.
    pub fn want_leaves(&mut self, now: Instant, session: SessionId, leaves: &[(u32, Cid, u32)]) {
        let wants: Vec<(Cid, u32)> = leaves.iter().map(|(_, cid, size)| (*cid, *size)).collect();
        self.want(now, session, &wants);
        for (leaf, cid, _) in leaves {
            self.settle_pick(session, *leaf);
            let Some(&number) = self.by_hash.get(cid.hash()) else { continue };
            let Some(wanting) = self.sessions.get_mut(&session) else { return };
            let Some(follow) = &mut wanting.follow else { return };
            follow.missing.remove(*leaf);
            follow.wants.insert(*leaf, number);
            if let Some(want) = self.wants.get_mut(&number) {
                want.leaf.get_or_insert(*leaf);
            }
            let holders: Vec<PeerNumber> = wanting
                .views
                .iter()
                .filter(|(_, view)| view.tells.as_ref().is_some_and(|tells| tells.has(*leaf)))
                .map(|(peer, _)| *peer)
                .collect();
            for peer in holders {
                self.said_have(number, peer);
            }
        }
    }

    /// A leaf of the followed file is there, however it came.
    pub fn leaf_added(&mut self, now: Instant, root: &Cid, leaf: u32) {
        self.stir(now);
        let following: Vec<SessionId> = self.following(root.hash());
        for id in following {
            self.settle_pick(id, leaf);
            if let Some(follow) = self.sessions.get_mut(&id).and_then(|session| session.follow.as_mut()) {
                follow.missing.remove(leaf);
                // Room in the window, which any peer may fill.
                if follow.picked.remove(leaf) {
                    self.all_ready = true;
                    follow.pace.count(now, follow.leaf_bytes);
                }
                follow.coming.remove(leaf);
            }
        }
    }

    fn following(&self, root: &Multihash) -> Vec<SessionId> {
        let follows = |follow: &Follow| follow.root == *root;
        let sessions = self.sessions.iter().filter(|(_, session)| session.follow.as_ref().is_some_and(follows));
        sessions.map(|(id, _)| *id).collect()
    }

    /// A leaf that was picked is wanted now, or there.
    fn settle_pick(&mut self, session: SessionId, leaf: u32) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        let Some(follow) = &mut session.follow else { return };
        if let Some((peer, coming)) = follow.open.remove(&leaf)
            && let Some(view) = session.views.get_mut(&peer)
        {
            *(if coming { &mut view.coming_open } else { &mut view.picks_open }) -= 1;
        }
    }

    /// A leaf is not wanted any more and may be picked again.
    pub(super) fn unpick(&mut self, session: SessionId, number: WantNumber) {
        let Some(leaf) = self.wants.get(&number).and_then(|want| want.leaf) else { return };
        if let Some(follow) = self.sessions.get_mut(&session).and_then(|session| session.follow.as_mut()) {
            follow.picked.remove(leaf);
            follow.coming.remove(leaf);
            follow.wants.remove(&leaf);
            follow.missing.insert(leaf);
        }
    }

    /// What a peer told of a leaf counts again.
    pub(super) fn retell(&mut self, number: WantNumber, peer: PeerNumber) {
        let Some(want) = self.wants.get(&number) else { return };
        let told = self.tells_of(want, peer);
        if want.leaf.is_some_and(|leaf| told.is_some_and(|tells| tells.has(leaf))) {
            self.said_have(number, peer);
        }
    }

    /// Whether a session has nothing left to ask for.
    pub(super) fn is_ending(session: &Session) -> bool {
        session.queue.is_empty() && session.follow.as_ref().is_none_or(|follow| follow.missing.is_empty())
    }

    /// Whether a peer that tells can be asked for anything, however full its pipeline.
    pub(super) fn may_take(&self, number: PeerNumber, peer: &Peer) -> bool {
        peer.has_room(1) || peer.room_coming() > 0 || self.is_holder(number)
    }

    /// Whether a peer can be asked for a want that it told of.
    pub(super) fn takes(&self, want: &Want, number: PeerNumber, peer: &Peer) -> bool {
        if self.is_coming(want, number) {
            let has = |(other, word): (&PeerNumber, &Word)| *word == Word::Have && !self.is_coming(want, *other);
            peer.room_coming() > 0 && !want.words.iter().any(has)
        } else {
            peer.has_room(want.size) || (self.is_ours(want, number) && peer.asks < limits::WANT_BLOCKS_PER_PEER)
        }
    }

    /// What a peer has told of the file that a want is for.
    pub(super) fn tells_of(&self, want: &Want, number: PeerNumber) -> Option<&Tells> {
        self.sessions.get(&want.owner())?.views.get(&number)?.tells.as_ref()
    }

    /// Whether a peer has kept a want for us.
    fn is_ours(&self, want: &Want, number: PeerNumber) -> bool {
        want.leaf.is_some_and(|leaf| self.tells_of(want, number).is_some_and(|tells| tells.yours.contains(leaf)))
    }

    /// Whether a peer holds a file that some session follows and does not pull it.
    pub(super) fn is_holder(&self, number: PeerNumber) -> bool {
        let mut views = self.sessions.values().filter_map(|session| session.views.get(&number)?.tells.as_ref());
        views.any(|tells| tells.holder)
    }

    /// Whether a peer has said that it will have a leaf, but not that it has.
    pub(super) fn is_coming(&self, want: &Want, number: PeerNumber) -> bool {
        let Some(leaf) = want.leaf else { return false };
        let told = self.tells_of(want, number);
        told.is_some_and(|tells| !tells.all && !tells.there.contains(leaf) && tells.coming.contains(leaf))
    }

    /// Tells sessions whether some peers leave it to them to choose.
    pub(super) fn see_who_tells(&mut self, now: Instant) {
        for (id, session) in &mut self.sessions {
            let Some(follow) = &mut session.follow else { continue };
            let views = &session.views;
            let silent = |(number, peer): (&PeerNumber, &Peer)| {
                let tells = views.get(number).is_some_and(|view| view.tells.is_some());
                !tells && (peer.mute || now.saturating_duration_since(peer.since.max(follow.since)) >= TELLS_WITHIN)
            };
            let stalled = follow.picked.is_empty()
                && now.saturating_duration_since(session.progress_at.max(follow.since)) >= STALLED_AFTER;
            let roams = self.peers.is_empty() || stalled || self.peers.iter().any(silent);
            if roams != follow.roams {
                follow.roams = roams;
                self.outputs.push_back(Output::Roam { session: *id, on: roams });
            }
        }
    }

    /// Picks leaves for peers that can be asked for more than is wanted of them.
    pub(super) fn pick(&mut self, peers: &[PeerNumber]) {
        let sessions: Vec<SessionId> =
            self.sessions.iter().filter(|(_, session)| session.follow.is_some()).map(|(id, _)| *id).collect();
        for id in sessions {
            let mut leaves = Vec::new();
            // One for each before two for any: the window may be too small for all.
            for each_at_most in [1, limits::WANT_BLOCKS_PER_PEER] {
                for &peer in peers {
                    let salt = self.random_next();
                    self.pick_for(id, peer, each_at_most, salt, &mut leaves);
                }
            }
            if !leaves.is_empty() {
                self.outputs.push_back(Output::Pick { session: id, leaves });
            }
        }
    }

    fn pick_for(&mut self, id: SessionId, number: PeerNumber, most: usize, salt: u64, picked: &mut Vec<u32>) {
        let Some(peer) = self.peers.get(&number) else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(follow) = &mut session.follow else { return };
        let Some(view) = session.views.get(&number) else { return };
        let Some(tells) = &view.tells else { return };
        let taken = follow.picked.len() * u64::from(follow.leaf_bytes);
        let window = follow.window().saturating_sub(taken).div_ceil(u64::from(follow.leaf_bytes));
        let window = usize::try_from(window).unwrap_or(usize::MAX).min(limits::WANT_BLOCKS_PER_PEER);
        if window == 0 || follow.missing.is_empty() {
            return;
        }
        let rarity = |leaf| {
            let others = session.views.values().filter_map(|view| view.tells.as_ref()).take(COUNTED);
            others.filter(|tells| tells.has(leaf)).count()
        };
        let mut chosen: Vec<u32> = (&tells.yours & &follow.missing).iter().take(window).collect();
        let wanted = view.haves.len() + view.picks_open + chosen.len();
        let room = peer.room(follow.leaf_bytes).saturating_sub(wanted);
        let room = room.min(most.saturating_sub(peer.asks - peer.coming + wanted)).min(window - chosen.len());
        if room > 0 {
            let mut can = tells.of(&follow.missing);
            chosen.iter().for_each(|leaf| {
                can.remove(*leaf);
            });
            chosen.append(&mut rarest(&can, room, salt, rarity));
        }
        let waiting = usize::try_from(follow.window() / u64::from(follow.leaf_bytes)).unwrap_or(usize::MAX) / 4;
        let waiting = waiting.saturating_sub(usize::try_from(follow.coming.len()).unwrap_or(usize::MAX));
        let room = peer.room_coming().saturating_sub(view.coming_open).min(waiting).min(window - chosen.len());
        let coming = &tells.coming & &follow.missing;
        let coming = if room == 0 { Vec::new() } else { rarest(&coming, room, salt, rarity) };
        for (leaf, is_coming) in chosen.iter().map(|leaf| (*leaf, false)).chain(coming.iter().map(|leaf| (*leaf, true)))
        {
            follow.missing.remove(leaf);
            follow.picked.insert(leaf);
            follow.open.insert(leaf, (number, is_coming));
        }
        follow.coming.extend(&coming);
        if let Some(view) = session.views.get_mut(&number) {
            view.picks_open += chosen.len();
            view.coming_open += coming.len();
        }
        picked.extend(coming);
        picked.append(&mut chosen);
    }
}

/// Up to `most` of these leaves: of some chosen by chance the rarest, each with those that follow it and are as rare.
fn rarest(can: &RoaringBitmap, most: usize, salt: u64, holders: impl Fn(u32) -> usize) -> Vec<u32> {
    let all = can.len();
    let mut random = salt | 1;
    let mut next = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound.max(1)
    };
    let samples = SAMPLES.max(most as u64 * 2).min(all);
    // Few are all looked at, from a random one on; of many some are drawn.
    let mut sample: Vec<u32> = if samples == all {
        can.iter().collect()
    } else {
        (0..samples).filter_map(|_| can.select(u32::try_from(next(all)).unwrap_or_default())).collect()
    };
    sample.sort_unstable();
    sample.dedup();
    let mut ranked: Vec<(usize, Reverse<u64>, u32)> =
        sample.into_iter().map(|leaf| (holders(leaf), Reverse(next(u64::MAX)), leaf)).collect();
    ranked.sort_unstable();
    let mut chosen: Vec<u32> = Vec::with_capacity(most);
    let mut seen = RoaringBitmap::new();
    for (rank, _, first) in ranked {
        for leaf in (first..).take(RUN) {
            if chosen.len() == most {
                return chosen;
            }
            if (leaf != first && (!can.contains(leaf) || holders(leaf) > rank)) || !seen.insert(leaf) {
                break;
            }
            chosen.push(leaf);
        }
    }
    chosen
}
