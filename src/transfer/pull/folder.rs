//! A folder: discovers what it holds, brings all its files at once under one window, makes its directories and links.
//!
//! Small files are put together in memory and written by the lot; large ones go leaf by leaf, a few at a time. Files are
//! taken in random order, so that readers that start together hold different parts. Everything in memory is bounded:
//! blocks under way and lots that are not yet durable by the window, the rest by the number of entries.
//!
//! What a crash may lose is one lot and each large file's last epoch. The next attempt walks the same directories, from
//! the index, and leaves out what the index knows to be complete.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rand::RngExt;
use tokio::task::JoinHandle;

use crate::block::{BLOCK_BYTES_MAX, Block, Cid, Multihash, RAW, known_content};
use crate::dag::path::{Rules, Select};
use crate::dag::walk::Claim;
use crate::node::{Session, SessionEvent};
use crate::store::{CollectionId, FileRecord, FileState, Member, NewCollection, Restore, Stamp, Store, WholeFile};
use crate::transfer::failure::{Failure, from_store, from_walk, from_write};
use crate::transfer::fetch::Part;
use crate::transfer::plan::widen;

use super::blocking;
use super::discover::{Contents, Discovery, Entry, Seen, Shard};
use super::file::{Target, preserved};
use super::fresh::Fresh;
use super::gather::{Gather, Gathered, Refused};
use super::land::{Land, Link};
use super::work::Work;

/// The largest file that is put together in memory, in bytes.
const WHOLE_BYTES_MAX: u64 = 4 << 20;
/// Large files that are brought at once: enough to keep the peers busy while one is planned or finished.
const LARGE_AT_ONCE: usize = 4;
/// Blocks of small files that are asked for at once.
const WANTS_MAX: usize = 1000;
/// Files and bytes that make a lot. All files of a lot are open at once while it is written.
const LOT_FILES: usize = 256;
const LOT_BYTES: u64 = 8 << 20;
/// Lots that are being written at once.
const LOTS_AT_ONCE: usize = 2;
/// Blocks up to this many bytes are held apart from the message that they came in, which may be larger by far.
const DETACHED_BYTES_MAX: usize = 16 << 10;
/// Entries that may wait in random order; what comes on top is taken first, so that directories of directories do not all
/// lie in memory before the first of their files has come. Some 250 bytes each.
const SHUFFLED_MAX: usize = 1 << 18;
/// Bytes of blocks of directories, links and inner nodes that go to the index together.
const NODES_BYTES: usize = 2 << 20;
/// How long a round over what nobody had is at least.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// The length of a block that nothing is known of, for the window.
const BLOCK_BYTES_HINT: u64 = 256 << 10;

/// Links that were not made and are told by name.
const LEFT_OUT_NAMED: usize = 20;

/// A folder under way.
struct Folder<'a> {
    work: &'a Work<'a>,
    collection: CollectionId,
    /// The next member's number.
    next_member: u32,
    land: Land,
    discovery: Discovery,
    /// Complete files of earlier attempts, and their bytes.
    complete: HashMap<PathBuf, u64>,
    /// Large files that earlier attempts began.
    begun: HashMap<PathBuf, FileRecord>,
    todo: Vec<Entry>,
    wanted: HashMap<Multihash, Vec<Wanted>>,
    /// What came and is not in the index yet, for other files that hold the same.
    fresh: Fresh,
    /// What nobody connected has, for the next round.
    parked: Vec<Wanted>,
    round: (Instant, bool),
    /// Files that are being put together.
    gathering: HashMap<u64, (Entry, Gather)>,
    next_gathering: u64,
    /// Bytes of blocks asked for, of files in `gathering`, in `lot` and in `lots`.
    held: u64,
    part: Part,
    /// Files that are whole, each with its part of `held`.
    lot: VecDeque<(WholeFile, u64)>,
    lot_bytes: u64,
    nodes: Vec<Block>,
    nodes_bytes: usize,
    lots: FuturesUnordered<JoinHandle<Result<Landed, Failure>>>,
    large: VecDeque<(Entry, Block)>,
    running: FuturesUnordered<BoxFuture<'a, Result<(), Failure>>>,
    links: Vec<Link>,
    folders: Vec<(PathBuf, Restore)>,
    /// Whether anything in it is wanted, or has come in earlier attempts.
    selected: bool,
    /// What was discovered, for the status and the collection's record.
    files: u64,
    bytes: u64,
}

/// Why a block is wanted.
enum Wanted {
    Entry(Entry),
    Shard(Shard),
    Part { gathering: u64, claim: Claim },
}

/// A lot that is durable.
struct Landed {
    files: Vec<(PathBuf, Cid, u64)>,
    cids: Vec<Cid>,
    bytes: u64,
}

impl Work<'_> {
    /// Brings the folder `root`, whose block is here, to `output`.
    pub(super) async fn bring_folder(
        &self,
        session: &mut Session,
        root: Block,
        output: PathBuf,
    ) -> Result<(), Failure> {
        let select = Select::parse(&self.pull.request.select)
            .map_err(|e| Failure::new("bad-option", format!("--select: {e}")))?;
        let (store, into_existing) = (self.pull.store.clone(), self.pull.request.into_existing);
        let (cid, landing) = (*root.cid(), self.pull.landing.clone());
        let begun = blocking(move || {
            let _alone = landing.write().unwrap_or_else(PoisonError::into_inner);
            begin(&store, &cid, output, into_existing)
        })
        .await?;
        let discovery = Discovery::new(Rules::native(), begun.land.folds_case(), select);
        let mut folder = Folder {
            work: self,
            collection: begun.collection,
            next_member: begun.next_member,
            land: begun.land,
            complete: begun.complete,
            begun: begun.begun,
            todo: Vec::new(),
            wanted: HashMap::new(),
            fresh: Fresh::default(),
            parked: Vec::new(),
            round: (Instant::now(), false),
            gathering: HashMap::new(),
            next_gathering: 0,
            held: 0,
            part: self.share.take(),
            lot: VecDeque::new(),
            lot_bytes: 0,
            nodes: Vec::new(),
            nodes_bytes: 0,
            lots: FuturesUnordered::new(),
            large: VecDeque::new(),
            running: FuturesUnordered::new(),
            links: Vec::new(),
            folders: Vec::new(),
            selected: begun.resumed,
            files: 0,
            bytes: 0,
            discovery,
        };
        self.expect_bytes(0, 0);
        self.start_meter();
        let top = folder.discovery.root(cid);
        for wanted in folder.entry_came(top, root)? {
            folder.want(session, wanted)?;
        }
        folder.run(session).await?;
        folder.finish(cid).await
    }
}

impl Folder<'_> {
    async fn run(&mut self, session: &mut Session) -> Result<(), Failure> {
        loop {
            self.feed(session)?;
            self.start_large();
            self.write_lots();
            if self.is_done() {
                return Ok(());
            }
            let next_round = self.round.0 + ROUND_PAUSE;
            let waits = self.wanted.is_empty() && self.todo.is_empty() && !self.parked.is_empty();
            tokio::select! {
                Some(landed) = self.lots.next(), if !self.lots.is_empty() => self.landed(landed)?,
                Some(ended) = self.running.next(), if !self.running.is_empty() => {
                    ended?;
                    self.count_file();
                }
                event = session.next() => match event {
                    Some(SessionEvent::Block { block, .. }) => self.came(session, &block)?,
                    Some(SessionEvent::NobodyHas { cid }) => self.park(session, &cid),
                    Some(SessionEvent::PeersChanged { connected }) => self.work.set_peers(connected),
                    Some(SessionEvent::Pick { .. } | SessionEvent::Roam { .. }) => {}
                    None => return Err(Failure::new("stopped", "the node has been stopped")),
                },
                () = tokio::time::sleep_until(next_round.into()), if waits => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        self.todo.is_empty()
            && self.wanted.is_empty()
            && self.parked.is_empty()
            && self.gathering.is_empty()
            && self.lot.is_empty()
            && self.nodes.is_empty()
            && self.lots.is_empty()
            && self.large.is_empty()
            && self.running.is_empty()
    }

    /// Keeps the window full, with entries in random order.
    fn feed(&mut self, session: &Session) -> Result<(), Failure> {
        self.next_round(session)?;
        while self.has_room() && !self.todo.is_empty() {
            let last = self.todo.len() - 1;
            let entry =
                self.todo.swap_remove(if last < SHUFFLED_MAX { rand::rng().random_range(0..=last) } else { last });
            let path = entry.path.join_onto(self.land.base());
            if let Some(bytes) = self.complete.get(&path).copied() {
                self.recount(&entry, bytes);
                self.work.add_bytes(bytes, true);
                self.count_file();
                continue;
            }
            self.want(session, Wanted::Entry(entry))?;
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.wanted.len() < WANTS_MAX
            && self.held < self.part.of(self.work.pull.options.fetch.window_bytes)
            && self.large.len() < LARGE_AT_ONCE
            && self.lot.len() < LOTS_AT_ONCE * LOT_FILES
    }

    /// Gets a block: from its own CID, from the index and the files here, or from the swarm.
    fn want(&mut self, session: &Session, wanted: Wanted) -> Result<(), Failure> {
        let (cid, hint) = wanted.block();
        if let Some(block) = self.fresh.get(&cid) {
            self.held += hint;
            return self.give(session, wanted, &block);
        }
        let local = match known_content(&cid) {
            Some(content) => Some(content),
            None if self.wanted.contains_key(&widen(&cid)) => None,
            // Reads of the index may wait for the disk; the runtime's other tasks must not.
            None => {
                tokio::task::block_in_place(|| self.work.pull.store.read(&widen(&cid))).map_err(|e| from_store(&e))?
            }
        };
        if let Some(block) = local.and_then(|bytes| Block::verify(&cid, bytes).ok()) {
            self.held += hint;
            return self.give(session, wanted, &block);
        }
        self.held += hint;
        let waiting = self.wanted.entry(widen(&cid)).or_default();
        waiting.push(wanted);
        if waiting.len() == 1 {
            session.want(vec![(cid, u32::try_from(hint).unwrap_or(u32::MAX))]);
        }
        Ok(())
    }

    /// A block has come from the swarm.
    fn came(&mut self, session: &Session, block: &Block) -> Result<(), Failure> {
        self.work.touch();
        self.work.set_message(None);
        self.round.1 = true;
        let detached = (block.bytes().len() <= DETACHED_BYTES_MAX).then(|| block.detached());
        let block = detached.as_ref().unwrap_or(block);
        self.fresh.insert(block);
        for wanted in self.wanted.remove(&widen(block.cid())).unwrap_or_default() {
            let Some(block) = block.renamed(&wanted.block().0) else { continue };
            match wanted {
                // Hundreds of directories may be one and the same.
                Wanted::Entry(entry) if self.todo.len() >= SHUFFLED_MAX => {
                    self.held -= Wanted::Entry(entry.clone()).block().1;
                    self.todo.push(entry);
                }
                wanted => self.give(session, wanted, &block)?,
            }
        }
        Ok(())
    }

    fn give(&mut self, session: &Session, wanted: Wanted, block: &Block) -> Result<(), Failure> {
        self.held -= wanted.block().1;
        match wanted {
            Wanted::Entry(entry) => {
                let needed = self.entry_came(entry, block.clone())?;
                needed.into_iter().try_for_each(|wanted| self.want(session, wanted))
            }
            Wanted::Shard(shard) => {
                self.keep(block.clone());
                let contents = self.discovery.shard(&shard, block)?;
                let needed = self.contents_came(contents)?;
                needed.into_iter().try_for_each(|wanted| self.want(session, wanted))
            }
            Wanted::Part { gathering, claim } => {
                let Some((entry, gather)) = self.gathering.get_mut(&gathering) else { return Ok(()) };
                match gather.take(&claim, block) {
                    Ok(claims) => {
                        self.held += block.bytes().len() as u64;
                        self.gather_on(session, gathering, claims)
                    }
                    Err(Refused::Lie(error)) => Err(from_walk(&entry.cid, error)),
                    Err(Refused::TooManyBlocks) => {
                        let top = gather.root().clone();
                        self.drop_gathering(session, gathering);
                        if let Some((entry, _)) = self.gathering.remove(&gathering) {
                            self.large.push_back((entry, top));
                        }
                        Ok(())
                    }
                }
            }
        }
    }

    /// An entry's block is here; what has to come next.
    fn entry_came(&mut self, entry: Entry, block: Block) -> Result<Vec<Wanted>, Failure> {
        match self.discovery.entry(&entry, &block)? {
            Seen::Directory(contents) => {
                // Only what is selected was counted.
                if entry.selected {
                    self.bytes = self.bytes.saturating_sub(entry.expected);
                }
                let path = entry.path.join_onto(self.land.base());
                if entry.selected {
                    tokio::task::block_in_place(|| self.land.make_folder(&path)).map_err(from_write)?;
                    self.folders.push((path, restore_of(&contents)));
                }
                self.keep(block);
                self.contents_came(contents)
            }
            Seen::Symlink { target } if entry.selected => {
                self.recount(&entry, 0);
                self.count_file();
                self.links.push(Link { path: entry.path, target });
                self.keep(block);
                Ok(Vec::new())
            }
            Seen::File if entry.selected => self.file_came(entry, block),
            Seen::Elsewhere { cid } => {
                self.keep(block);
                self.todo.push(Entry { cid, ..entry });
                Ok(Vec::new())
            }
            Seen::Symlink { .. } | Seen::File => Ok(Vec::new()),
        }
    }

    fn keep(&mut self, node: Block) {
        self.nodes_bytes += node.bytes().len();
        self.nodes.push(node);
    }

    fn contents_came(&mut self, contents: Contents) -> Result<Vec<Wanted>, Failure> {
        for entry in &contents.entries {
            entry
                .path
                .fits_below(self.land.base())
                .map_err(|e| Failure::new("bad-name", format!("{}: {e}", entry.path)))?;
        }
        let selected = contents.entries.iter().filter(|entry| entry.selected);
        // What directories claim of their entries may be anything.
        self.bytes = selected.clone().map(|entry| entry.expected).fold(self.bytes, u64::saturating_add);
        let (bytes, files) = (self.bytes, selected.count() as u64);
        self.selected |= files > 0;
        self.work.update(|status| {
            status.total_bytes = bytes;
            status.total_files += files;
        });
        self.todo.extend(contents.entries);
        Ok(contents.shards.into_iter().map(Wanted::Shard).collect())
    }

    fn file_came(&mut self, entry: Entry, block: Block) -> Result<Vec<Wanted>, Failure> {
        let (gather, claims) = match Gather::start(&block) {
            Ok(started) => started,
            Err(Refused::Lie(error)) => return Err(from_walk(&entry.cid, error)),
            Err(Refused::TooManyBlocks) => {
                self.large.push_back((entry, block));
                return Ok(Vec::new());
            }
        };
        self.recount(&entry, gather.size());
        let path = entry.path.join_onto(self.land.base());
        if gather.size() > WHOLE_BYTES_MAX || self.begun.contains_key(&path) {
            self.large.push_back((entry, block));
            return Ok(Vec::new());
        }
        self.held += block.bytes().len() as u64;
        let id = self.next_gathering;
        self.next_gathering += 1;
        if gather.is_whole() {
            self.whole(entry, gather);
            return Ok(Vec::new());
        }
        self.gathering.insert(id, (entry, gather));
        Ok(claims.into_iter().map(|claim| Wanted::Part { gathering: id, claim }).collect())
    }

    fn gather_on(&mut self, session: &Session, id: u64, claims: Vec<Claim>) -> Result<(), Failure> {
        for claim in claims {
            self.want(session, Wanted::Part { gathering: id, claim })?;
        }
        if self.gathering.get(&id).is_some_and(|(_, gather)| gather.is_whole())
            && let Some((entry, gather)) = self.gathering.remove(&id)
        {
            self.whole(entry, gather);
        }
        Ok(())
    }

    /// A small file has all its bytes.
    fn whole(&mut self, entry: Entry, gather: Gather) {
        let restore = if self.work.pull.request.no_preserve { Restore::default() } else { preserved(gather.root()) };
        let held = gather.held();
        let Gathered { pieces, leaves, wrap, nodes } = gather.finish();
        nodes.into_iter().for_each(|node| self.keep(node));
        let member = Member { collection: self.collection, entry: self.next_member };
        self.next_member += 1;
        let path = entry.path.join_onto(self.land.base());
        let replace = self.work.pull.request.into_existing;
        let whole = WholeFile { path, member, root: entry.cid, pieces, leaves, wrap, restore, replace };
        self.lot_bytes += whole.len();
        self.lot.push_back((whole, held));
    }

    /// Hands lots to the disk: full ones at once, the rest when nothing else is coming.
    fn write_lots(&mut self) {
        let full = self.lot.len() >= LOT_FILES || self.lot_bytes >= LOT_BYTES || self.nodes_bytes >= NODES_BYTES;
        let idle = self.wanted.is_empty() || !self.has_room();
        let nothing = self.lot.is_empty() && self.nodes.is_empty();
        if nothing || self.lots.len() >= LOTS_AT_ONCE || !(full || idle) {
            return;
        }
        let (lot, held): (Vec<WholeFile>, Vec<u64>) = self.lot.drain(..self.lot.len().min(LOT_FILES)).unzip();
        let held = held.iter().sum();
        self.lot_bytes -= lot.iter().map(WholeFile::len).sum::<u64>();
        let nodes = std::mem::take(&mut self.nodes);
        self.nodes_bytes = 0;
        let (store, land) = (self.work.pull.store.clone(), self.land.clone());
        let landing = self.work.pull.landing.clone();
        self.lots.push(tokio::task::spawn_blocking(move || {
            let _landing = landing.read().unwrap_or_else(PoisonError::into_inner);
            for whole in &lot {
                land.make_folder_of(&whole.path).map_err(from_write)?;
            }
            store.place_whole(&lot, &nodes).map_err(from_write)?;
            let leaves = lot.iter().flat_map(|whole| &whole.leaves);
            let mut cids: Vec<Cid> = leaves.map(|leaf| Cid::new_v1(RAW, leaf.multihash)).collect();
            cids.extend(nodes.iter().map(|node| *node.cid()));
            let files = lot.into_iter().map(|whole| {
                let bytes = whole.len();
                (whole.path, whole.root, bytes)
            });
            Ok(Landed { files: files.collect(), cids, bytes: held })
        }));
    }

    fn landed(&mut self, landed: Result<Result<Landed, Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
        let Landed { files, cids, bytes } = landed.map_err(|e| Failure::new("bug", e))??;
        self.held -= bytes;
        for (path, cid, bytes) in files {
            self.work.file_done(path, &cid, bytes);
            self.work.add_bytes(bytes, false);
            self.count_file();
        }
        self.fresh.remove(&cids);
        self.work.pull.node.arrived(cids);
        Ok(())
    }

    fn start_large(&mut self) {
        while self.running.len() < LARGE_AT_ONCE
            && let Some((entry, top)) = self.large.pop_front()
        {
            let output = entry.path.join_onto(self.land.base());
            let known = self.begun.remove(&output);
            let member = Member { collection: self.collection, entry: self.next_member };
            self.next_member += 1;
            let target = Target { root: entry.cid, output, member: Some(member), top: Some(top), known };
            let (work, land) = (self.work, self.land.clone());
            self.running.push(Box::pin(async move {
                let path = target.output.clone();
                blocking({
                    let path = path.clone();
                    move || land.make_folder_of(&path).map_err(from_write)
                })
                .await?;
                let mut session = work.open_session().await;
                let brought = work.bring_file(&mut session, target).await;
                work.close_session(session).await;
                let bytes = brought?;
                work.file_done(path, &entry.cid, bytes);
                Ok(())
            }));
        }
    }

    /// Sets aside what nobody connected has, so that it does not keep us from what they have.
    fn park(&mut self, session: &Session, cid: &Cid) {
        if self.todo.is_empty() && self.parked.is_empty() && self.running.is_empty() {
            return self.work.nobody_has(cid);
        }
        session.forget(vec![*cid]);
        let waiting = self.wanted.remove(&widen(cid)).unwrap_or_default();
        self.held -= waiting.iter().map(|wanted| wanted.block().1).sum::<u64>();
        self.parked.extend(waiting);
    }

    /// Asks again for what was parked once all else is done, at once if anything has come in this round.
    fn next_round(&mut self, session: &Session) -> Result<(), Failure> {
        // Large files that go on meanwhile do not matter: it may be them who wait for ever.
        let idle = self.todo.is_empty() && self.wanted.is_empty();
        if idle && !self.parked.is_empty() && (self.round.1 || self.round.0.elapsed() >= ROUND_PAUSE) {
            if !self.round.1
                && let Some(wanted) = self.parked.first()
            {
                self.work.nobody_has(&wanted.block().0);
            }
            self.round = (Instant::now(), false);
            for wanted in std::mem::take(&mut self.parked) {
                self.want(session, wanted)?;
            }
        }
        Ok(())
    }

    /// Forgets what a file that is put together otherwise still wants.
    fn drop_gathering(&mut self, session: &Session, id: u64) {
        let mut forgotten = Vec::new();
        let mut freed = 0;
        self.wanted.retain(|_, waiting| {
            waiting.retain(|wanted| {
                let ours = matches!(wanted, Wanted::Part { gathering, .. } if *gathering == id);
                if ours {
                    freed += wanted.block().1;
                    forgotten.push(wanted.block().0);
                }
                !ours
            });
            !waiting.is_empty()
        });
        self.held -= freed + self.gathering.get(&id).map_or(0, |(_, gather)| gather.held());
        forgotten.retain(|cid| !self.wanted.contains_key(&widen(cid)));
        session.forget(forgotten);
    }

    /// What was expected of an entry turned out to be `bytes`.
    fn recount(&mut self, entry: &Entry, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes).saturating_sub(entry.expected);
        let total = self.bytes;
        self.work.update(|status| status.total_bytes = total);
    }

    fn count_file(&mut self) {
        self.files += 1;
        let files = self.files;
        self.work.update(|status| status.done_files = files);
    }

    /// Nothing of the folder is selected: takes back what was begun.
    async fn give_up_nothing(self) -> Result<(), Failure> {
        let (store, collection) = (self.work.pull.store.clone(), self.collection);
        let base = (!self.work.pull.request.into_existing).then(|| self.land.base().to_path_buf());
        blocking(move || {
            store.forget_collection(collection).map_err(|e| from_store(&e))?;
            // Whatever somebody has put in it meanwhile stays.
            let _ = base.map(std::fs::remove_dir);
            Ok(())
        })
        .await?;
        let globs = self.work.pull.request.select.join(" ");
        let message = format!(
            "nothing in {} matches --select {globs}: paths are given from the folder's top, `bitshoal ls` shows them",
            self.work.pull.request.cid
        );
        Err(Failure::new("nothing-selected", message))
    }

    /// Everything is in its place but links, times and permissions of folders.
    async fn finish(self, root: Cid) -> Result<(), Failure> {
        if !self.discovery.is_settled() {
            return Err(Failure::new("bug", "a sharded folder ended before all its shards had come"));
        }
        if !self.selected && !self.work.pull.request.select.is_empty() {
            return self.give_up_nothing().await;
        }
        let (store, land, preserve) = (self.work.pull.store.clone(), self.land, !self.work.pull.request.no_preserve);
        let (collection, bytes, files) = (self.collection, self.bytes, self.files);
        let left_out = blocking(move || {
            let left_out = land.make_links(&self.links).map_err(from_write)?;
            if preserve {
                land.restore_folders(&self.folders).map_err(from_write)?;
            }
            store.finish_collection(collection, &root, bytes, files).map_err(|e| from_store(&e))?;
            Ok(left_out)
        })
        .await?;
        self.work.update(|status| {
            status.total_files = files;
            status.done_files = files;
            status.total_bytes = bytes;
            status.done_bytes = bytes;
            status.message = (!left_out.is_empty()).then(|| left_out_text(&left_out));
        });
        Ok(())
    }
}

impl Wanted {
    /// The block that is wanted, and how many bytes it likely has.
    fn block(&self) -> (Cid, u64) {
        match self {
            Self::Entry(entry) if entry.expected == 0 => (entry.cid, BLOCK_BYTES_HINT),
            Self::Entry(entry) => (entry.cid, entry.expected.min(BLOCK_BYTES_MAX as u64)),
            Self::Shard(shard) => (shard.cid, 16 << 10),
            Self::Part { claim, .. } => (claim.cid, claim.size.unwrap_or(0).clamp(1, BLOCK_BYTES_MAX as u64)),
        }
    }
}

/// What a folder starts from.
struct Begun {
    collection: CollectionId,
    next_member: u32,
    land: Land,
    complete: HashMap<PathBuf, u64>,
    begun: HashMap<PathBuf, FileRecord>,
    /// Whether there was one already.
    resumed: bool,
}

/// Makes the folder and its collection, or finds what an earlier attempt has left of them.
fn begin(store: &Store, root: &Cid, output: PathBuf, into_existing: bool) -> Result<Begun, Failure> {
    let found = store.resume_collection(root, &output).map_err(|e| from_store(&e))?;
    let may_exist = found.is_some() || into_existing;
    let there = output.symlink_metadata();
    if there.as_ref().is_ok_and(|there| !may_exist || !there.is_dir()) {
        let message = format!("{} exists already; choose another path with -o", output.display());
        return Err(Failure::new("path-exists", message));
    }
    let collection = match &found {
        Some(found) => found.id,
        // Known before the folder is there, so that a crash in between leaves one that can be gone on with.
        None => {
            let spec = NewCollection { root: Some(*root), path: Some(output.clone()), partial: true };
            store.begin_collection(&spec).map_err(|e| from_store(&e))?
        }
    };
    if there.is_err() {
        std::fs::create_dir(&output).map_err(|e| from_write(crate::store::WriteError::io(&output)(e)))?;
    }
    let (mut complete, mut begun, mut lost) = (HashMap::new(), HashMap::new(), Vec::new());
    let mut next_member = 0;
    let mut sort = |file: FileRecord| {
        next_member = next_member.max(file.member.map_or(0, |member| member.entry + 1));
        match file.state {
            FileState::Complete if is_as_it_was(&file) => drop(complete.insert(file.path, file.len)),
            FileState::Partial => drop(begun.insert(file.final_path.clone(), file)),
            _ => lost.push(file.id),
        }
        true
    };
    store.members(collection, &mut sort).map_err(|e| from_store(&e))?;
    for file in lost {
        store.forget_file(file).map_err(|e| from_store(&e))?;
    }
    Ok(Begun { collection, next_member, land: Land::new(output), complete, begun, resumed: found.is_some() })
}

/// Whether the file is there and looks as when we last knew its bytes. What does not is compared with what it should be.
fn is_as_it_was(file: &FileRecord) -> bool {
    let looks_so = |now: Stamp| file.stamp.is_some_and(|then| now.is_still(&then));
    file.trouble.is_none() && crate::store::stamp_at(&file.path).is_ok_and(looks_so)
}

fn restore_of(contents: &Contents) -> Restore {
    let mtime = contents.metadata.mtime.and_then(|mtime| mtime.to_system_time());
    Restore { mode: contents.metadata.mode, mtime }
}

/// Names the links that were not made, the first of many.
fn left_out_text(left_out: &[(PathBuf, String)]) -> String {
    let named = left_out.iter().take(LEFT_OUT_NAMED).map(|(path, why)| format!("{} ({why})", path.display()));
    let text = format!("links that were not made: {}", named.collect::<Vec<_>>().join(", "));
    match left_out.len().saturating_sub(LEFT_OUT_NAMED) {
        0 => text,
        more => format!("{text}, and {more} others"),
    }
}
