//! Brings the leaves of a planned file to their places: asks for a window of them, writes what arrives, commits epochs.
//!
//! Memory is bounded by the window: leaves that have been asked for and are not yet written, and epochs that are not yet
//! durable, each have a limit in bytes, and nothing is held per leaf of the file but a few bits. What is asked for next
//! the exchange picks, by what others tell of theirs. Where they tell nothing the order is a random one of short runs, so
//! that readers that start together hold different parts and can serve each other.
//!
//! Dropping a [`Fetch`] at any time is safe: what was written counts from its epoch on, the rest is asked for again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use rand::seq::SliceRandom;
use roaring::RoaringBitmap;
use tokio::task::JoinHandle;

use crate::block::{Block, Cid, Multihash, known_content};
use crate::dag::layout::Leaf;
use crate::dag::walk::{Claim, expand};
use crate::dag::wrap::Wrap;
use crate::exchange::client::Followed;
use crate::exchange::limits::LEAVES_TOLD_MAX;
use crate::node::{Following, Handle, Session, SessionEvent};
use crate::store::{EXTENT_LEAVES, Store, WriteError, Writer};

use super::failure::{Failure, from_store, from_write};
use super::plan::{Extents, Tree, broken_tree, widen};

/// Limits of one pull.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of leaves asked for and not yet written. It bounds the memory of a pull and feeds all its peers.
    pub window_bytes: u64,
    /// Bytes written since the last commit that start the next one.
    pub epoch_bytes: u64,
    /// Age of the oldest uncommitted leaf that starts a commit.
    pub epoch_interval: Duration,
    /// Bytes written but not durable at which asking stops until the disk has caught up: what a crash may cost.
    pub unsynced_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            window_bytes: 32 << 20,
            epoch_bytes: 24 << 20,
            epoch_interval: Duration::from_secs(4),
            unsynced_bytes_max: 60 << 20,
        }
    }
}

/// Who divides one window: every fetch that runs, and whoever else holds a [`Part`]. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Share(Arc<AtomicU64>);

/// A part of a window; given back when dropped.
#[derive(Debug)]
pub struct Part(Share);

impl Share {
    /// Takes a part, which makes everybody else's smaller.
    #[must_use]
    pub fn take(&self) -> Part {
        self.0.fetch_add(1, Ordering::Relaxed);
        Part(self.clone())
    }
}

impl Part {
    /// What of `whole` bytes falls to this part now.
    #[must_use]
    pub fn of(&self, whole: u64) -> u64 {
        whole / self.0.0.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a lap that brought nothing is at least, so that peers that have nothing new are not asked without end.
const LAP_PAUSE: Duration = Duration::from_secs(1);

/// Files with fewer leaves are not worth a word on who has what.
const FOLLOWED_MIN: u32 = 16;

/// Runs of leaves that are kept for the next pick, which often is in one of them: about a hundred bytes a leaf.
const RUNS_LATELY: usize = 64;

/// A leaf to be brought to one place.
#[derive(Debug, Clone)]
struct Task {
    leaf: u64,
    offset: u64,
    len: u32,
    cid: Cid,
    /// Not a leaf, but what an inner node carries itself.
    own: bool,
}

impl From<Leaf> for Task {
    fn from(Leaf { index, cid, offset, len, own }: Leaf) -> Self {
        Self { leaf: index, offset, len, cid, own }
    }
}

/// What a step of the fetch has to say to whoever shows it.
#[derive(Debug)]
pub enum Progress {
    /// Bytes written from the swarm or from a local file.
    Written {
        /// Bytes of the file.
        bytes: u64,
        /// Whether they came from a local file.
        local: bool,
    },
    /// Nobody connected has this leaf.
    NobodyHas(Cid),
    /// Number of connected peers.
    Peers(usize),
}

/// A pull in its leaf phase.
#[derive(Debug)]
pub struct Fetch {
    store: Store,
    node: Handle,
    writer: Arc<Writer>,
    tree: Tree,
    extents: Extents,
    options: Options,
    /// What it may use of the options' bytes.
    part: Part,
    /// While the exchange picks leaves for it: small files are asked for in their own order.
    following: Option<Following>,
    /// Leaves that were picked and are to be wanted.
    picks: VecDeque<u32>,
    /// Whether leaves of its own choice are to be wanted, too.
    roams: bool,
    /// Runs of which picks came lately, with their leaves.
    lately: VecDeque<(u32, Vec<Task>)>,
    /// Runs still to be looked at in this lap, last first.
    runs: Vec<u32>,
    /// Runs with leaves that nobody connected has, for the next lap: what others lack must not keep us from what they have.
    parked: BTreeSet<u32>,
    /// When the lap began, and whether anything has arrived in it.
    lap: (Instant, bool),
    ready: VecDeque<Task>,
    wanted: HashMap<Multihash, Vec<Task>>,
    /// Leaves of the swarm that are being written, with those who came for one meanwhile. Neither has the index such a
    /// leaf yet, nor may it be asked for again: Helia stays silent on what it has just sent.
    writing: HashMap<Multihash, (Block, Vec<Task>)>,
    /// Bytes in `wanted`, in `writing` and in `writes`.
    outstanding: u64,
    writes: FuturesUnordered<JoinHandle<Result<Written, Refused>>>,
    epoch: Option<JoinHandle<Result<(), WriteError>>>,
    /// Bytes that the running epoch is making durable.
    epoch_bytes: u64,
    epoch_started: Instant,
}

#[derive(Debug)]
struct Written {
    tasks: Vec<Task>,
    cid: Cid,
    local: bool,
}

/// A leaf that did not get to its place.
#[derive(Debug)]
enum Refused {
    /// The disk did not take it.
    Write(WriteError),
    /// The local copy was not what the index said: ask the swarm.
    NotLocal(Box<Task>),
    /// The leaf is not what the tree claims.
    Lie(Failure),
}

impl Fetch {
    /// Makes ready to bring every missing leaf.
    #[must_use]
    pub fn new(
        store: Store,
        node: Handle,
        writer: Arc<Writer>,
        tree: Tree,
        extents: Extents,
        options: Options,
        share: &Share,
    ) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "LEAVES_MAX / EXTENT_LEAVES fits u32")]
        let mut runs: Vec<u32> = (0..extents.offsets.len() as u32).collect();
        runs.shuffle(&mut rand::rng());
        Self {
            store,
            node,
            writer,
            tree,
            extents,
            options,
            part: share.take(),
            following: None,
            picks: VecDeque::new(),
            roams: true,
            lately: VecDeque::new(),
            runs,
            parked: BTreeSet::new(),
            lap: (Instant::now(), false),
            ready: VecDeque::new(),
            wanted: HashMap::new(),
            writing: HashMap::new(),
            outstanding: 0,
            writes: FuturesUnordered::new(),
            epoch: None,
            epoch_bytes: 0,
            epoch_started: Instant::now(),
        }
    }

    /// Takes a leaf that is here already: the leftmost one, pulled to learn the tree's shape.
    ///
    /// # Errors
    /// A leaf that is not what the tree claims.
    pub fn take_first(&mut self, block: Block) -> Result<(), Failure> {
        let mut leaves = self.tree.leaves(&self.store);
        if let Some(leaf) = leaves.next() {
            let leaf = leaf.map_err(broken_tree)?;
            if !self.writer.has(leaf.index) {
                self.outstanding += u64::from(leaf.len);
                self.write(vec![leaf.into()], block);
            }
        }
        Ok(())
    }

    /// Works until every leaf is in its place and durable.
    ///
    /// # Errors
    /// A tree that lies, a disk that is full (`no-space`) or fails, an index that fails.
    pub async fn run(&mut self, session: &mut Session, mut progress: impl FnMut(Progress)) -> Result<(), Failure> {
        self.follow(session);
        loop {
            if self.writer.present() == self.writer.leaves() && self.writes.is_empty() {
                break;
            }
            self.feed(session)?;
            let idle = self.wanted.is_empty() && self.ready.is_empty() && self.runs.is_empty();
            self.start_epoch();
            let due = self.epoch_started + self.options.epoch_interval;
            let next_lap = self.lap.0 + LAP_PAUSE;
            tokio::select! {
                Some(done) = self.writes.next(), if !self.writes.is_empty() => self.written(done, session, &mut progress)?,
                done = join(&mut self.epoch), if self.epoch.is_some() => {
                    self.epoch = None;
                    self.epoch_bytes = 0;
                    done.map_err(from_write)?;
                }
                event = session.next() => match event {
                    Some(SessionEvent::Block { block, from }) => self.arrived(block, from),
                    Some(SessionEvent::NobodyHas { cid }) => {
                        if !self.park(session, &cid) || !self.lap.1 {
                            progress(Progress::NobodyHas(cid));
                        }
                    }
                    Some(SessionEvent::Pick { leaves }) => self.picks.extend(leaves),
                    Some(SessionEvent::Roam { on }) => self.roams = on,
                    Some(SessionEvent::PeersChanged { connected }) => progress(Progress::Peers(connected)),
                    None => return Err(Failure::new("stopped", "the node has been stopped")),
                },
                () = tokio::time::sleep_until(due.into()), if self.epoch.is_none() && self.writer.unsynced_bytes() > 0 => {}
                () = tokio::time::sleep_until(next_lap.into()), if idle && !self.parked.is_empty() => {}
            }
        }
        if self.epoch.is_some() {
            join(&mut self.epoch).await.map_err(from_write)?;
            self.epoch = None;
        }
        Ok(())
    }

    /// Has its leaves picked, if there are enough of them for that to matter.
    fn follow(&mut self, session: &Session) {
        let leaves = self.writer.leaves();
        let Some(leaves) = u32::try_from(leaves).ok().filter(|n| (FOLLOWED_MIN..=LEAVES_TOLD_MAX).contains(n)) else {
            return;
        };
        let mut there = RoaringBitmap::new();
        there.insert_range(0..leaves);
        for missing in self.writer.missing(0..u64::from(leaves)) {
            there.remove(u32::try_from(missing).unwrap_or(u32::MAX));
        }
        let leaf_bytes = u32::try_from(self.tree.size.div_ceil(u64::from(leaves))).unwrap_or(u32::MAX);
        let window_bytes = self.part.of(self.options.window_bytes);
        self.roams = false;
        self.following =
            Some(session.follow(Followed { root: self.tree.root, leaves, leaf_bytes, there, window_bytes }));
    }

    /// Sets a leaf aside that nobody connected has, if there is anything else to ask for; false when it stays wanted.
    fn park(&mut self, session: &Session, cid: &Cid) -> bool {
        // What is picked is picked again when somebody has it.
        let picks = self.following.is_some() && !self.roams;
        if !picks && self.runs.is_empty() && self.ready.is_empty() && self.parked.is_empty() {
            return false;
        }
        for task in self.wanted.remove(&widen(cid)).unwrap_or_default() {
            self.outstanding -= u64::from(task.len);
            self.parked.insert(u32::try_from(task.leaf / EXTENT_LEAVES).unwrap_or(u32::MAX));
        }
        session.forget(vec![*cid]);
        !(picks && self.wanted.is_empty())
    }

    /// Looks at the parked runs again once all others are done, at once if the last lap brought anything.
    fn next_lap(&mut self) {
        let idle = self.wanted.is_empty() && self.ready.is_empty() && self.runs.is_empty();
        if idle && !self.parked.is_empty() && (self.lap.1 || self.lap.0.elapsed() >= LAP_PAUSE) {
            self.runs = std::mem::take(&mut self.parked).into_iter().collect();
            self.runs.shuffle(&mut rand::rng());
            self.lap = (Instant::now(), false);
        }
    }

    /// Keeps the window full: local leaves are copied, the others asked for.
    fn feed(&mut self, session: &Session) -> Result<(), Failure> {
        self.next_lap();
        let mut wants = Vec::new();
        let (window, unsynced) =
            (self.part.of(self.options.window_bytes), self.part.of(self.options.unsynced_bytes_max));
        while self.outstanding < window && self.writer.unsynced_bytes() + self.epoch_bytes + self.outstanding < unsynced
        {
            let task = if let Some(task) = self.next_pick()? {
                task
            } else if !self.roams {
                break;
            } else if let Some(task) = self.ready.pop_front() {
                task
            } else {
                let Some(run) = self.runs.pop() else { break };
                // Reads of the index may wait for the disk; the runtime's other tasks must not.
                self.ready = tokio::task::block_in_place(|| self.tasks_of(run))?.into();
                continue;
            };
            let key = widen(&task.cid);
            if self.is_under_way(&key, task.leaf) {
                continue;
            }
            self.outstanding += u64::from(task.len);
            // An identity CID holds its leaf, and nobody else does.
            let held = known_content(&task.cid).and_then(|content| Block::verify(&task.cid, content).ok());
            if let Some(block) = held {
                self.place(vec![task], block, false);
            } else if let Some(others) = self.wanted.get_mut(&key) {
                others.push(task);
            } else if let Some((_, others)) = self.writing.get_mut(&key) {
                others.push(task);
            } else if self.store.has(&key).map_err(|e| from_store(&e))?.is_some() {
                self.copy_local(task);
            } else {
                wants.push((task.leaf, task.cid, task.len));
                let mut tasks = vec![task];
                tasks.extend(self.first_place(&key, &tasks[0])?);
                self.outstanding += tasks.iter().skip(1).map(|task| u64::from(task.len)).sum::<u64>();
                self.wanted.insert(key, tasks);
            }
        }
        if !wants.is_empty() {
            self.want(session, wants);
        }
        Ok(())
    }

    fn want(&self, session: &Session, wants: Vec<(u64, Cid, u32)>) {
        if self.following.is_some() {
            let numbered = |(leaf, cid, len): (u64, Cid, u32)| Some((u32::try_from(leaf).ok()?, cid, len));
            session.want_leaves(wants.into_iter().filter_map(numbered).collect());
        } else {
            session.want(wants.into_iter().map(|(_, cid, len)| (cid, len)).collect());
        }
    }

    /// The place by which the index knows a leaf that is in several, if that is another one and not filled: without it the
    /// leaf would be in the file and not be found.
    fn first_place(&self, key: &Multihash, task: &Task) -> Result<Option<Task>, Failure> {
        let place = self.store.reference(key, self.writer.file()).map_err(|e| from_store(&e))?;
        let place = place.filter(|place| place.leaf != task.leaf && !self.writer.has(place.leaf));
        Ok(place.map(|place| Task {
            leaf: place.leaf,
            offset: place.offset,
            len: place.len,
            cid: task.cid,
            own: false,
        }))
    }

    /// Whether a leaf is asked for or being written: it may have been picked and chosen.
    fn is_under_way(&self, key: &Multihash, leaf: u64) -> bool {
        let writing = self.writing.get(key).map(|(_, others)| others);
        self.wanted.get(key).into_iter().chain(writing).flatten().any(|task| task.leaf == leaf)
    }

    /// The next leaf that was picked and is not there.
    fn next_pick(&mut self) -> Result<Option<Task>, Failure> {
        while let Some(leaf) = self.picks.pop_front() {
            let run = leaf / u32::try_from(EXTENT_LEAVES).unwrap_or(u32::MAX);
            if !self.lately.iter().any(|(other, _)| *other == run) {
                let tasks = tokio::task::block_in_place(|| self.tasks_of(run))?;
                self.lately.push_front((run, tasks));
                self.lately.truncate(RUNS_LATELY);
            }
            let tasks = self.lately.iter().find(|(other, _)| *other == run).map(|(_, tasks)| tasks);
            let task = tasks.and_then(|tasks| tasks.iter().find(|task| task.leaf == u64::from(leaf)));
            match task.filter(|task| !self.writer.has(task.leaf)) {
                Some(task) => return Ok(Some(task.clone())),
                None => self.node.leaf_added(self.tree.root, leaf),
            }
        }
        Ok(None)
    }

    /// The missing leaves of one run.
    fn tasks_of(&self, run: u32) -> Result<Vec<Task>, Failure> {
        let first = u64::from(run) * EXTENT_LEAVES;
        let last = (first + EXTENT_LEAVES).min(self.extents.leaves);
        if (first..last).all(|leaf| self.writer.has(leaf)) {
            return Ok(Vec::new());
        }
        let mut leaves = self.tree.leaves(&self.store);
        let offset = self.extents.offsets.get(run as usize).copied().unwrap_or_default();
        leaves.seek(offset, first).map_err(broken_tree)?;
        let mut tasks = Vec::new();
        for leaf in leaves.take(tasks_max(last - first)) {
            let leaf = leaf.map_err(broken_tree)?;
            if !self.writer.has(leaf.index) {
                tasks.push(leaf.into());
            }
        }
        Ok(tasks)
    }

    fn arrived(&mut self, block: Block, _from: PeerId) {
        if let Some(tasks) = self.wanted.remove(&widen(block.cid())) {
            self.lap.1 = true;
            self.write(tasks, block);
        }
    }

    fn write(&mut self, tasks: Vec<Task>, block: Block) {
        self.writing.insert(widen(block.cid()), (block.clone(), Vec::new()));
        self.place(tasks, block, false);
    }

    fn place(&self, tasks: Vec<Task>, block: Block, local: bool) {
        let (store, writer, expected) = (self.store.clone(), self.writer.clone(), self.tree.wrap.clone());
        self.writes.push(tokio::task::spawn_blocking(move || {
            place(&store, &writer, &expected, &tasks, &block)?;
            Ok(Written { tasks, cid: *block.cid(), local })
        }));
    }

    fn copy_local(&self, task: Task) {
        let (store, writer, expected) = (self.store.clone(), self.writer.clone(), self.tree.wrap.clone());
        self.writes.push(tokio::task::spawn_blocking(move || {
            let found = store.read(&widen(&task.cid)).ok().flatten();
            let Some(block) = found.and_then(|bytes| Block::verify(&task.cid, bytes).ok()) else {
                return Err(Refused::NotLocal(Box::new(task)));
            };
            let cid = task.cid;
            let tasks = vec![task];
            place(&store, &writer, &expected, &tasks, &block)?;
            Ok(Written { tasks, cid, local: true })
        }));
    }

    fn written(
        &mut self,
        done: Result<Result<Written, Refused>, tokio::task::JoinError>,
        session: &Session,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), Failure> {
        match done.map_err(|e| Failure::new("bug", e))? {
            Ok(Written { tasks, cid, local }) => {
                let bytes: u64 = tasks.iter().map(|task| u64::from(task.len)).sum();
                self.outstanding -= bytes;
                if self.following.is_some() {
                    for leaf in tasks.iter().filter_map(|task| u32::try_from(task.leaf).ok()) {
                        self.node.leaf_added(self.tree.root, leaf);
                    }
                }
                progress(Progress::Written { bytes, local });
                if !local {
                    self.written_too(&cid);
                }
                self.node.arrived(vec![cid]);
                Ok(())
            }
            Err(Refused::NotLocal(task)) => {
                self.want(session, vec![(task.leaf, task.cid, task.len)]);
                self.wanted.entry(widen(&task.cid)).or_default().push(*task);
                Ok(())
            }
            Err(Refused::Write(error)) => Err(from_write(error)),
            Err(Refused::Lie(failure)) => Err(failure),
        }
    }

    /// A leaf is in its place: now it goes to the other places that it has.
    fn written_too(&mut self, cid: &Cid) {
        let Some((block, mut tasks)) = self.writing.remove(&widen(cid)) else { return };
        let bytes = |tasks: &[Task]| tasks.iter().map(|task| u64::from(task.len)).sum::<u64>();
        let before = bytes(&tasks);
        tasks.retain(|task| !self.writer.has(task.leaf));
        self.outstanding -= before - bytes(&tasks);
        if !tasks.is_empty() {
            self.place(tasks, block, true);
        }
    }

    /// Starts a commit when one is due and none is under way.
    fn start_epoch(&mut self) {
        let unsynced = self.writer.unsynced_bytes();
        if unsynced == 0 {
            self.epoch_started = Instant::now();
            return;
        }
        let due = unsynced >= self.part.of(self.options.epoch_bytes)
            || self.epoch_started.elapsed() >= self.options.epoch_interval;
        if due && self.epoch.is_none() {
            self.epoch_started = Instant::now();
            self.epoch_bytes = unsynced;
            let writer = self.writer.clone();
            self.epoch = Some(tokio::task::spawn_blocking(move || writer.commit_epoch()));
        }
    }
}

/// An extent's length as a count of things in memory.
fn tasks_max(leaves: u64) -> usize {
    usize::try_from(leaves).unwrap_or(usize::MAX)
}

/// Writes one leaf's data to all its places.
fn place(store: &Store, writer: &Writer, expected_wrap: &[u8], tasks: &[Task], block: &Block) -> Result<(), Refused> {
    if tasks.iter().any(|task| task.own) {
        return place_own(writer, tasks, block);
    }
    let (wrap, data) = Wrap::split(block.bytes(), block.cid().codec()).map_err(|error| {
        Refused::Lie(Failure::new("bad-tree", format!("leaf {} is not a leaf of a file: {error}", block.cid())))
    })?;
    let mut tag = Vec::new();
    wrap.to_tag(&mut tag);
    if tag != expected_wrap {
        // The references say how this file's leaves are wrapped; one that differs is kept whole, so that it is served.
        store.put_nodes(std::slice::from_ref(block)).map_err(|e| Refused::Lie(from_store(&e)))?;
    }
    for task in tasks {
        if data.len() != task.len as usize {
            return Err(Refused::Lie(Failure::new(
                "bad-tree",
                format!("the tree lies: leaf {} holds {} bytes where {} are claimed", task.cid, data.len(), task.len),
            )));
        }
        let _fresh = writer.write(task.leaf, task.offset, &data).map_err(Refused::Write)?;
    }
    Ok(())
}

/// Writes what an inner node carries itself.
fn place_own(writer: &Writer, tasks: &[Task], node: &Block) -> Result<(), Refused> {
    let data = expand(&Claim::root(*node.cid()), node).ok().and_then(|expanded| expanded.own_data);
    for task in tasks {
        let data = data.as_ref().map(|(_, data)| data).filter(|data| data.len() == task.len as usize);
        let damaged = || Refused::Lie(Failure::new("index-damaged", format!("node {} is not what it was", task.cid)));
        let _fresh = writer.write(task.leaf, task.offset, data.ok_or_else(damaged)?).map_err(Refused::Write)?;
    }
    Ok(())
}

async fn join(handle: &mut Option<JoinHandle<Result<(), WriteError>>>) -> Result<(), WriteError> {
    match handle {
        Some(handle) => match handle.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
        None => Ok(()),
    }
}
