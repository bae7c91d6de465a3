//! A simulated swarm: real clients and servers, virtual time, links with delay and bandwidth, everything from one seed.
//!
//! [`World`] moves messages between nodes and watches what must always hold: no block comes twice to a session, nothing
//! is asked of a peer while the same question stands, no more stands than a peer keeps, and a server never holds more
//! bytes than it may. The runs themselves are in [`runs`] and
//! [`fleets`].

mod faults;
mod fleets;
mod runs;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::PeerId;
use roaring::RoaringBitmap;

use super::client::{self, Client, Followed, SessionId};
use super::have::{self, Held, Notice, Teller};
use super::limits;
use super::message::{Outgoing, Presence, Version, WantEntry, WantKind};
use super::server::{self, ReadKind, ReadOutcome, Server, Ticket};
use crate::block::{Block, Cid, Multihash, Prefix};

/// How a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// Never answers anything.
    Silent,
    /// Says HAVE, never sends a block.
    HaveThenNothing,
    /// Says HAVE, then DONT_HAVE when asked for the block.
    HaveThenDontHave,
    /// Sends some other block.
    WrongBlock,
    /// Answers every entry with many blocks that nobody wants, and with nothing else.
    Flood,
    /// Honest, but keeps only so many wants of a peer and drops the others in silence. Adds all wants of a message
    /// before it heeds the cancels, as boxo does.
    Keeps(usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// One way.
    pub(super) delay: Duration,
    /// Bytes per second, each way.
    pub(super) rate: u64,
    pub(super) version: Version,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) peer: PeerId,
    pub(super) client: Client,
    pub(super) server: Server,
    pub(super) teller: Teller,
    /// Whether it says who has what.
    pub(super) tells: bool,
    pub(super) link: Link,
    pub(super) manner: Manner,
    pub(super) store: HashMap<Multihash, Bytes>,
    pub(super) session: Option<SessionId>,
    /// Wanted and not received.
    pub(super) missing: HashSet<Multihash>,
    pub(super) told: HashMap<Cid, u32>,
    pub(super) finished_at: Option<Instant>,
    pub(super) sent_bytes: u64,
    /// Bytes of wants, presences and notices that it sent, as they would be on the wire.
    pub(super) control_bytes: u64,
    up_free_at: Instant,
    down_free_at: Instant,
    timer_at: Option<Instant>,
    /// Wants of each peer that a node which [`Manner::Keeps`] so many has kept.
    kept: HashMap<usize, HashSet<Cid>>,
    /// Wants that it had no room for.
    pub(super) dropped: usize,
    /// Entries of ours that stand at each peer, as far as we can know.
    standing: HashMap<usize, HashMap<Cid, WantKind>>,
    /// Bytes read and not reported sent, by peer.
    held_bytes: HashMap<usize, usize>,
}

#[derive(Debug)]
enum Event {
    /// Reaches the receiver's line.
    Arrive(Parcel),
    /// Has come through it.
    Deliver(Parcel),
    Sent {
        node: usize,
        to: usize,
        epoch: u64,
        bytes: usize,
    },
    Read {
        node: usize,
        ticket: Ticket,
        items: Vec<(Cid, ReadKind)>,
    },
    Timer {
        node: usize,
    },
    Connect {
        a: usize,
        b: usize,
    },
    Disconnect {
        a: usize,
        b: usize,
    },
    Want {
        node: usize,
        wants: Vec<(Cid, u32)>,
    },
    Follow {
        node: usize,
    },
    Tell {
        from: usize,
        to: usize,
        epoch: u64,
        notices: Vec<Notice>,
    },
}

/// The file that is pulled in a world: its root, its leaves in order with their lengths, and their numbers.
#[derive(Debug)]
pub(super) struct SimFile {
    root: Cid,
    leaves: Vec<(Cid, u32)>,
    numbers: HashMap<Multihash, u32>,
}

#[derive(Debug)]
struct Parcel {
    from: usize,
    to: usize,
    epoch: u64,
    message: Outgoing,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) began: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) random: u64,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    payloads: HashMap<u64, Event>,
    sequence: u64,
    /// Odd: connected.
    epochs: BTreeMap<(usize, usize), u64>,
    last_wants: HashMap<(usize, usize), Instant>,
    pub(super) names: HashMap<Multihash, Block>,
    pub(super) steps: u64,
    wants_to_come: usize,
    file: Option<SimFile>,
    /// Bytes of leaves that a node may have picked and not received.
    pub(super) window_bytes: u64,
    numbers: HashMap<PeerId, usize>,
}

impl Node {
    /// What it keeps of a wantlist.
    fn keep(&mut self, from: usize, most: usize, message: &Outgoing) -> Vec<WantEntry> {
        let kept = self.kept.entry(from).or_default();
        if message.full {
            kept.clear();
        }
        let fits = |entry: &&WantEntry| {
            let room = kept.len() < most;
            entry.cancel || kept.contains(&entry.cid) || (room && kept.insert(entry.cid))
        };
        let heeded: Vec<WantEntry> = message.wants.iter().filter(fits).cloned().collect();
        self.dropped += message.wants.len() - heeded.len();
        for entry in heeded.iter().filter(|entry| entry.cancel) {
            kept.remove(&entry.cid);
        }
        heeded
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            began: now,
            nodes: Vec::new(),
            random: seed,
            events: BinaryHeap::new(),
            payloads: HashMap::new(),
            sequence: 0,
            epochs: BTreeMap::new(),
            last_wants: HashMap::new(),
            names: HashMap::new(),
            steps: 0,
            wants_to_come: 0,
            file: None,
            window_bytes: 32 << 20,
            numbers: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, link: Link, manner: Manner) -> usize {
        let seed = self.below(u64::MAX);
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&(self.nodes.len() as u64).to_le_bytes());
        let peer = PeerId::from_multihash(libp2p::multihash::Multihash::wrap(0, &key).unwrap()).unwrap();
        self.numbers.insert(peer, self.nodes.len());
        self.nodes.push(Node {
            peer,
            client: Client::new(client::Options { local: Some(peer), ..client::Options::default() }, seed),
            server: Server::new(server::Options::default()),
            teller: Teller::new(seed),
            tells: true,
            link,
            manner,
            store: HashMap::new(),
            session: None,
            missing: HashSet::new(),
            told: HashMap::new(),
            finished_at: None,
            sent_bytes: 0,
            control_bytes: 0,
            up_free_at: self.now,
            down_free_at: self.now,
            timer_at: None,
            kept: HashMap::new(),
            dropped: 0,
            standing: HashMap::new(),
            held_bytes: HashMap::new(),
        });
        self.nodes.len() - 1
    }

    pub(super) fn give(&mut self, node: usize, block: &Block) {
        self.nodes[node].store.insert(*block.cid().hash(), block.bytes().clone());
        self.names.insert(*block.cid().hash(), block.clone());
        let now = self.now;
        self.nodes[node].server.arrived(now, &[*block.cid()]);
        self.drain(node);
    }

    pub(super) fn connect_in(&mut self, after: Duration, a: usize, b: usize) {
        self.at(self.now + after, Event::Connect { a, b });
    }

    pub(super) fn disconnect_in(&mut self, after: Duration, a: usize, b: usize) {
        self.at(self.now + after, Event::Disconnect { a, b });
    }

    pub(super) fn want_in(&mut self, after: Duration, node: usize, wants: Vec<(Cid, u32)>) {
        self.wants_to_come += 1;
        self.at(self.now + after, Event::Want { node, wants });
    }

    /// Makes these blocks, in this order, the leaves of the file of this world.
    pub(super) fn set_file(&mut self, blocks: &[Block]) {
        let leaves: Vec<(Cid, u32)> =
            blocks.iter().map(|block| (*block.cid(), u32::try_from(block.bytes().len()).unwrap())).collect();
        let numbers = (0..).zip(&leaves).map(|(number, (cid, _))| (*cid.hash(), number)).collect();
        let root = *Block::seal(Prefix::RAW_V1, Bytes::from_static(b"root")).unwrap().cid();
        self.file = Some(SimFile { root, leaves, numbers });
    }

    /// A node begins to pull the file.
    pub(super) fn follow_in(&mut self, after: Duration, node: usize) {
        self.wants_to_come += 1;
        self.at(self.now + after, Event::Follow { node });
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.random ^ (self.random >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 32)) % bound.max(1)
    }

    /// Runs until every session is done, or for so long; whether all are done.
    pub(super) fn run(&mut self, at_most: Duration) -> bool {
        let end = self.now + at_most;
        while let Some(&Reverse((at, sequence))) = self.events.peek() {
            let idle = self.nodes.iter().all(|node| node.missing.is_empty()) && self.wants_to_come == 0;
            if idle || at > end {
                return idle;
            }
            self.events.pop();
            self.now = at;
            self.steps += 1;
            assert!(self.steps < 200_000_000, "the swarm never comes to rest");
            let event = self.payloads.remove(&sequence).unwrap();
            self.step(event);
        }
        self.nodes.iter().all(|node| node.missing.is_empty())
    }

    /// What every unfinished node still waits for.
    pub(super) fn unfinished(&self) -> String {
        let waiting = self.nodes.iter().enumerate().filter(|(_, node)| !node.missing.is_empty());
        waiting
            .map(|(number, node)| {
                let stuck = node.client.stuck();
                format!("node {number} lacks {} after {:?}: {stuck}\n", node.missing.len(), self.now - self.began)
            })
            .collect()
    }

    /// Closes every session and connection and checks that nothing of them is left.
    pub(super) fn tear_down(&mut self) {
        let now = self.now;
        for node in 0..self.nodes.len() {
            if let Some(session) = self.nodes[node].session.take() {
                self.nodes[node].client.close(now, session);
                self.drain(node);
            }
            assert!(self.nodes[node].client.is_clean(), "{:#?}", self.nodes[node].client);
        }
        for (a, b) in self.epochs.keys().copied().collect::<Vec<_>>() {
            self.disconnect(a, b);
        }
        for node in &self.nodes {
            assert!(node.server.is_clean(), "{:#?}", node.server);
            assert!(node.client.is_clean());
            assert!(node.teller.next_timeout().is_none());
        }
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.payloads.insert(self.sequence, event);
        self.events.push(Reverse((at, self.sequence)));
    }

    fn epoch(&self, a: usize, b: usize) -> u64 {
        self.epochs.get(&(a.min(b), a.max(b))).copied().unwrap_or(0)
    }

    fn step(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Arrive(parcel) => {
                let node = &mut self.nodes[parcel.to];
                let size = parcel.message.block_bytes() as u64;
                node.down_free_at = node.down_free_at.max(now) + span(size, node.link.rate);
                let at = if size == 0 { now } else { node.down_free_at };
                self.at(at, Event::Deliver(parcel));
            }
            Event::Deliver(parcel) => self.deliver(parcel),
            Event::Sent { node, to, epoch, bytes } => {
                if self.epoch(node, to) == epoch {
                    let peer = self.nodes[to].peer;
                    *self.nodes[node].held_bytes.entry(to).or_default() -= bytes;
                    self.nodes[node].server.sent(now, peer, bytes);
                    self.drain(node);
                }
            }
            Event::Read { node, ticket, items } => {
                let store = &self.nodes[node].store;
                let outcomes = items
                    .iter()
                    .map(|(cid, kind)| match (store.get(cid.hash()), kind) {
                        (None, _) => ReadOutcome::Missing,
                        (Some(bytes), ReadKind::Block) => ReadOutcome::Block(bytes.clone()),
                        (Some(bytes), ReadKind::Presence) => {
                            ReadOutcome::Have { size: u32::try_from(bytes.len()).unwrap() }
                        }
                    })
                    .collect();
                self.nodes[node].server.read_done(now, ticket, outcomes);
                self.drain(node);
            }
            Event::Timer { node } => {
                let this = &mut self.nodes[node];
                if this.timer_at == Some(now) {
                    this.timer_at = None;
                }
                if this.client.next_timeout().is_some_and(|at| at <= now) {
                    this.client.timeout(now);
                }
                if this.teller.next_timeout().is_some_and(|at| at <= now) {
                    this.teller.timeout(now);
                }
                self.drain(node);
            }
            Event::Connect { a, b } => {
                let key = (a.min(b), a.max(b));
                let epoch = self.epochs.entry(key).or_default();
                if *epoch % 2 == 1 {
                    return;
                }
                *epoch += 1;
                for (me, other) in [(a, b), (b, a)] {
                    let version = self.nodes[a].link.version.min(self.nodes[b].link.version);
                    let peer = self.nodes[other].peer;
                    let node = &mut self.nodes[me];
                    node.client.peer_connected(now, peer);
                    node.client.peer_version(now, peer, version);
                    node.server.peer_connected(now, peer);
                    node.server.peer_version(now, peer, version);
                    if node.tells {
                        node.teller.peer_connected(now, peer);
                    }
                    self.drain(me);
                }
            }
            Event::Disconnect { a, b } => self.disconnect(a, b),
            Event::Want { node, wants } => {
                self.wants_to_come -= 1;
                let this = &mut self.nodes[node];
                let session = *this.session.get_or_insert_with(|| this.client.open(now));
                this.missing.extend(wants.iter().map(|(cid, _)| *cid.hash()));
                this.client.want(now, session, &wants);
                self.drain(node);
            }
            Event::Follow { node } => {
                self.wants_to_come -= 1;
                let file = self.file.as_ref().unwrap();
                let this = &mut self.nodes[node];
                let session = *this.session.get_or_insert_with(|| this.client.open(now));
                let mut there = RoaringBitmap::new();
                for (number, (cid, _)) in (0..).zip(&file.leaves) {
                    if this.store.contains_key(cid.hash()) {
                        there.insert(number);
                    } else {
                        this.missing.insert(*cid.hash());
                    }
                }
                let leaves = u32::try_from(file.leaves.len()).unwrap();
                let followed = Followed {
                    root: file.root,
                    leaves,
                    leaf_bytes: file.leaves[0].1,
                    there: there.clone(),
                    window_bytes: self.window_bytes,
                };
                this.client.follow(now, session, followed);
                this.teller.follow(now, file.root, leaves, there);
                self.drain(node);
            }
            Event::Tell { from, to, epoch, notices } => {
                if self.epoch(from, to) == epoch {
                    let peer = self.nodes[from].peer;
                    if self.nodes[to].tells {
                        self.nodes[to].teller.message(now, peer, notices);
                    }
                    self.drain(to);
                }
            }
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        let now = self.now;
        let Some(epoch) = self.epochs.get_mut(&(a.min(b), a.max(b))) else { return };
        if *epoch % 2 == 0 {
            return;
        }
        *epoch += 1;
        for (me, other) in [(a, b), (b, a)] {
            let peer = self.nodes[other].peer;
            let node = &mut self.nodes[me];
            node.client.peer_disconnected(now, peer);
            node.server.peer_disconnected(now, peer);
            node.teller.peer_disconnected(now, peer);
            node.standing.remove(&other);
            node.held_bytes.remove(&other);
            node.kept.remove(&other);
            self.drain(me);
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        let Parcel { from, to, epoch, message } = parcel;
        if self.epoch(from, to) != epoch {
            return;
        }
        let now = self.now;
        let sender = self.nodes[from].peer;
        if !message.wants.is_empty() {
            match self.nodes[to].manner {
                Manner::Honest => self.nodes[to].server.wants(now, sender, message.full, &message.wants),
                Manner::Keeps(most) => {
                    let wants = self.nodes[to].keep(from, most, &message);
                    self.nodes[to].server.wants(now, sender, message.full, &wants);
                }
                _ => self.misbehave(to, from, &message.wants),
            }
        }
        let mut blocks = Vec::new();
        for (cid, bytes) in &message.blocks {
            let block = self.names.get(cid.hash()).expect("only known blocks are sent").renamed(cid).unwrap();
            assert_eq!(block.bytes(), bytes);
            blocks.push(block);
        }
        let standing = self.nodes[to].standing.entry(from).or_default();
        for block in &blocks {
            standing.retain(|cid, _| cid.hash() != block.cid().hash());
        }
        for (cid, presence) in &message.presences {
            if standing.get(cid) == Some(&WantKind::Have) && *presence == Presence::Have {
                standing.remove(cid);
            }
        }
        if !blocks.is_empty() || !message.presences.is_empty() {
            self.nodes[to].client.message(now, sender, blocks, &message.presences, message.pending_bytes);
        }
        self.drain(to);
    }

    fn misbehave(&mut self, me: usize, to: usize, wants: &[WantEntry]) {
        let mut answer = Outgoing::default();
        let manner = self.nodes[me].manner;
        for want in wants.iter().filter(|want| !want.cancel && want.send_dont_have) {
            match (manner, want.kind) {
                (Manner::Honest | Manner::Keeps(_) | Manner::Silent, _)
                | (Manner::HaveThenNothing, WantKind::Block) => {}
                (Manner::Flood, _) => {
                    for wrong in small_blocks().iter().rev().take(50) {
                        self.names.insert(*wrong.cid().hash(), wrong.clone());
                        answer.blocks.push((*wrong.cid(), wrong.bytes().clone()));
                    }
                }
                (_, WantKind::Have) => answer.presences.push((want.cid, Presence::Have)),
                (Manner::HaveThenDontHave, WantKind::Block) => {
                    answer.presences.push((want.cid, Presence::DontHave));
                }
                (Manner::WrongBlock, WantKind::Block) => {
                    let wrong = small_blocks()[0].clone();
                    self.names.insert(*wrong.cid().hash(), wrong.clone());
                    answer.blocks.push((*wrong.cid(), wrong.bytes().clone()));
                }
            }
        }
        if !answer.is_empty() {
            self.send(me, to, answer);
        }
    }

    /// Sends what a node tells, and hands on what it was told.
    fn tell(&mut self, me: usize) {
        let now = self.now;
        let mut heard = false;
        while let Some(output) = self.nodes[me].teller.poll() {
            match output {
                have::Output::Send { peer, notices } => {
                    let to = self.number(&peer);
                    let epoch = self.epoch(me, to);
                    assert!(epoch % 2 == 1, "a notice for a peer that is gone");
                    self.nodes[me].control_bytes += (have::wire::encode(&notices).len() + FRAMING_BYTES) as u64;
                    let delay = self.nodes[me].link.delay + self.nodes[to].link.delay;
                    let mut at = now + delay;
                    // One stream: in order.
                    let last = self.last_wants.entry((me + 1_000_000, to)).or_insert(at);
                    at = at.max(*last);
                    *last = at;
                    self.at(at, Event::Tell { from: me, to, epoch, notices });
                }
                have::Output::Told { peer, notice } => {
                    heard = true;
                    self.nodes[me].client.told(now, peer, &notice);
                }
                have::Output::Look { root } => {
                    let held = self.file.as_ref().filter(|file| file.root == root).map(|file| {
                        let store = &self.nodes[me].store;
                        let has = (0_u32..).zip(&file.leaves).filter(|(_, (cid, _))| store.contains_key(cid.hash()));
                        let there: RoaringBitmap = has.map(|(number, _)| number).collect();
                        let leaves = u32::try_from(file.leaves.len()).unwrap();
                        (leaves, if there.len() == u64::from(leaves) { Held::All } else { Held::Some(there) })
                    });
                    self.nodes[me].teller.held(now, root, held);
                }
            }
        }
        if heard {
            self.drain(me);
        }
    }

    /// Does all that a node wants done.
    fn drain(&mut self, me: usize) {
        let now = self.now;
        while let Some(output) = self.nodes[me].client.poll() {
            match output {
                client::Output::Send { peer, entries, full } => {
                    let to = self.number(&peer);
                    self.watch(me, to, &entries);
                    self.send(me, to, Outgoing { full, wants: entries, ..Outgoing::default() });
                }
                client::Output::Block { session, block, .. } => {
                    let node = &mut self.nodes[me];
                    assert_eq!(node.session, Some(session));
                    assert!(node.missing.remove(block.cid().hash()), "a block came twice");
                    node.store.insert(*block.cid().hash(), block.bytes().clone());
                    if node.missing.is_empty() {
                        node.finished_at = Some(now);
                    }
                    node.server.arrived(now, &[*block.cid()]);
                    if let Some(file) = &self.file
                        && let Some(&leaf) = file.numbers.get(block.cid().hash())
                    {
                        node.client.leaf_added(now, &file.root, leaf);
                        node.teller.added(now, &file.root, leaf);
                        if node.missing.is_empty() {
                            node.teller.unfollow(&file.root);
                        }
                    }
                }
                client::Output::Pick { session, leaves } => {
                    let file = self.file.as_ref().unwrap();
                    let node = &mut self.nodes[me];
                    let wants: Vec<(u32, Cid, u32)> = leaves
                        .into_iter()
                        .map(|leaf| (leaf, file.leaves[leaf as usize].0, file.leaves[leaf as usize].1))
                        .collect();
                    assert!(wants.iter().all(|(_, cid, _)| node.missing.contains(cid.hash())), "picked what is there");
                    node.client.want_leaves(now, session, &wants);
                }
                client::Output::Roam { .. } => {}
                client::Output::NobodyHas { session, cid } => {
                    let node = &mut self.nodes[me];
                    assert_eq!(node.session, Some(session));
                    assert!(node.missing.contains(cid.hash()));
                    *node.told.entry(cid).or_default() += 1;
                }
            }
        }
        while let Some(output) = self.nodes[me].server.poll() {
            match output {
                server::Output::Read { ticket, items, .. } => {
                    let wait = Duration::from_micros(10 + self.below(300));
                    self.at(now + wait, Event::Read { node: me, ticket, items });
                }
                server::Output::Send { peer, message } => {
                    let to = self.number(&peer);
                    *self.nodes[me].held_bytes.entry(to).or_default() += message.block_bytes();
                    self.send(me, to, message);
                }
            }
        }
        self.tell(me);
        let node = &mut self.nodes[me];
        if let Some(at) = node.client.next_timeout().into_iter().chain(node.teller.next_timeout()).min()
            && node.timer_at.is_none_or(|timer| at < timer)
        {
            node.timer_at = Some(at.max(now));
            self.at(at.max(now), Event::Timer { node: me });
        }
    }

    /// Checks what is asked against what stands.
    fn watch(&mut self, me: usize, to: usize, entries: &[WantEntry]) {
        assert!(entries.len() <= limits::WANTLIST_ENTRIES_PER_MESSAGE);
        let standing = self.nodes[me].standing.entry(to).or_default();
        // No block is in a message twice, so that boxo's order, wants first, is as good as any for what stands.
        for entry in entries.iter().filter(|entry| !entry.cancel) {
            let before = standing.insert(entry.cid, entry.kind);
            assert!(before != Some(WantKind::Block), "asked for a block again while the want stands");
            assert!(before != Some(entry.kind), "asked for a presence again while the want stands");
        }
        assert!(standing.len() <= limits::WANTS_PER_PEER, "more stands than a peer keeps");
        for entry in entries.iter().filter(|entry| entry.cancel) {
            standing.remove(&entry.cid);
        }
    }

    fn number(&self, peer: &PeerId) -> usize {
        self.numbers[peer]
    }

    fn send(&mut self, from: usize, to: usize, mut message: Outgoing) {
        let epoch = self.epoch(from, to);
        assert!(epoch % 2 == 1, "a message for a peer that is gone");
        let version = self.nodes[from].link.version.min(self.nodes[to].link.version);
        if version < Version::V120 {
            assert!(message.presences.is_empty(), "presences for an old peer");
            assert!(message.wants.iter().all(|want| want.kind == WantKind::Block && !want.send_dont_have));
        }
        if version == Version::V100 {
            assert!(message.blocks.iter().all(|(cid, _)| cid.version() == cid::Version::V0));
        }
        if let Some(kept) = self.nodes[from].kept.get_mut(&to) {
            let haves = message.presences.iter().filter(|(_, presence)| *presence == Presence::Have);
            for cid in haves.map(|(cid, _)| cid).chain(message.blocks.iter().map(|(cid, _)| cid)) {
                kept.remove(cid);
            }
        }
        let bytes = message.block_bytes();
        if bytes == 0 {
            let each = |cid: &Cid| cid.encoded_len() + 12;
            let wants: usize = message.wants.iter().map(|want| each(&want.cid)).sum();
            let presences: usize = message.presences.iter().map(|(cid, _)| each(cid)).sum();
            self.nodes[from].control_bytes += (wants + presences + FRAMING_BYTES) as u64;
        }
        let delay = self.nodes[from].link.delay + self.nodes[to].link.delay;
        let jitter = delay.mul_f64(self.below(1000) as f64 / 4000.0);
        let node = &mut self.nodes[from];
        node.sent_bytes += bytes as u64;
        let limit = server::Options::default().bytes_total;
        let held: usize = node.held_bytes.values().sum();
        assert!(held <= limit, "a server holds {held} bytes");
        let at = if bytes == 0 {
            // Small messages do not wait behind blocks, and wants stay in order: they have one stream.
            let mut at = self.now + delay + jitter;
            if !message.wants.is_empty() {
                let last = self.last_wants.entry((from, to)).or_insert(at);
                at = at.max(*last);
                *last = at;
            }
            at
        } else {
            node.up_free_at = node.up_free_at.max(self.now) + span(bytes as u64, node.link.rate);
            let left = node.up_free_at;
            if matches!(node.manner, Manner::Honest | Manner::Keeps(_)) {
                self.at(left, Event::Sent { node: from, to, epoch, bytes });
            }
            left + delay + jitter
        };
        message.blocks.retain(|(cid, _)| !cid.hash().digest().is_empty());
        self.at(at, Event::Arrive(Parcel { from, to, epoch, message }));
    }
}

/// What goes around a small message on the wire: multiplexer, TLS, TCP and IP.
const FRAMING_BYTES: usize = 110;

fn span(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / rate.max(1))
}

/// Blocks of 64 KiB, made once.
pub(super) fn large_blocks() -> &'static [Block] {
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    BLOCKS.get_or_init(|| blocks(512, 64 * 1024))
}

/// Blocks of 1 MiB, made once.
pub(super) fn huge_blocks() -> &'static [Block] {
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    BLOCKS.get_or_init(|| blocks(256, 1024 * 1024))
}

/// Blocks of 900 bytes, made once.
pub(super) fn small_blocks() -> &'static [Block] {
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    BLOCKS.get_or_init(|| blocks(3000, 900))
}

fn blocks(count: u32, size: usize) -> Vec<Block> {
    (0..count)
        .map(|number| {
            let mut bytes = vec![0; size];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            let prefix = if number % 2 == 0 { Prefix::RAW_V1 } else { Prefix::DAG_PB_V0 };
            Block::seal(prefix, Bytes::from(bytes)).unwrap()
        })
        .collect()
}
