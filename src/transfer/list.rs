//! The entries of a directory one after the other, pulled as they are needed, with some shards read ahead.
//!
//! Only the directory's own nodes are pulled, and nothing of them is kept: what is to stay is what `get` and `pin` are
//! for. What an entry is, its own block would tell, so that it is said only where that block is here. Entries come in
//! the order of the nodes: a single node's own, that of the names' hashes in a sharded directory. Memory is bounded by
//! the window and the nodes of one path, however many entries there are; whoever reads slowly makes the pull wait.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::block::{Block, Cid, DAG_PB, Multihash, RAW, known_content};
use crate::dag::directory::{DirError, Entry, Found, look};
use crate::dag::hamt::{ShardItem, ShardNode, ShardPlace, shards_max};
use crate::node::{Handle, Session, SessionEvent};
use crate::store::Store;

use super::Events;
use super::api::{EntryInfo, EntryKind, Event, WireName};
use super::failure::{Failure, from_store, late};
use super::plan::widen;
use super::resolve::{Path, resolve};
use super::tree::{Notice, known_or_local, obtain, unknown_codec};

/// Shards that are asked for or waiting to be read, beside those on the way to the one that is read.
const SHARDS_AHEAD: usize = 32;
/// The expected length of a shard, in bytes: 256 links.
const SHARD_BYTES_HINT: u32 = 16 << 10;
/// Entries that are looked up in the index together.
const ENTRIES_AT_ONCE: usize = 256;

/// Says every entry of what stands at `path`, until nobody listens any more.
///
/// # Errors
/// Those of resolving, `not-a-directory`, `unknown-codec`, `bad-tree`, `timeout`, and those of the index.
pub(super) async fn list(
    store: &Store,
    node: &Handle,
    path: &Path,
    patience: Option<Duration>,
    events: &Events,
) -> Result<(), Failure> {
    let patience = patience.unwrap_or(Duration::MAX);
    let mut session = node.open_session().await;
    let mut lacking = false;
    let mut notice = |notice| lacking |= matches!(notice, Notice::NobodyHas(_));
    let top = tokio::time::timeout(patience, top(store, &mut session, path, &mut notice)).await;
    let (root, found) = top.map_err(|_| late(patience, path, lacking))??;
    let bad = |error: Broken| Failure::new("bad-tree", format!("the directory {root} lies or is damaged: {error}"));
    let mut walk = Walk::new(found).map_err(bad)?;
    let mut entries = Vec::new();
    loop {
        let step = walk.step().map_err(bad)?;
        if entries.len() >= ENTRIES_AT_ONCE || !matches!(step, Step::Entry(_)) {
            // Reads of the index may wait for the disk; the runtime's other tasks must not.
            let infos: Vec<_> = tokio::task::block_in_place(|| entries.drain(..).map(|e| info(store, &e)).collect());
            for info in infos {
                if !events.say(Event::Entry(info?)).await {
                    return Ok(());
                }
            }
        }
        match step {
            Step::Entry(entry) => entries.push(entry),
            Step::Missing(shards) => {
                if !supply(store, &session, &mut walk, &shards)? {
                    let block = next_block(&mut session, patience, path).await?;
                    walk.take(block);
                }
            }
            Step::End => return Ok(()),
        }
    }
}

/// The directory's first node.
async fn top(
    store: &Store,
    session: &mut Session,
    path: &Path,
    notice: &mut impl FnMut(Notice),
) -> Result<(Cid, Found), Failure> {
    let root = resolve(store, session, path, notice).await?;
    let is = |what: &str| {
        let message = format!("{root} is {what}, not a directory; `bitshoal cat` prints files");
        Failure::new("not-a-directory", message)
    };
    match root.codec() {
        // Its block would only tell the same.
        RAW => return Err(is("a file")),
        DAG_PB => {}
        _ => return Err(unknown_codec(&root)),
    }
    let block = obtain(store, session, &root, notice).await?;
    match look(&root, block.bytes()).map_err(|e| Failure::new("bad-tree", format!("{root}: {e}")))? {
        Found::File { .. } => Err(is("a file")),
        Found::Symlink { .. } => Err(is("a symbolic link")),
        Found::Metadata { .. } => Err(is("a file with metadata around it")),
        Found::Other(kind) => Err(is(&format!("a {kind}"))),
        found @ (Found::Directory(_) | Found::Shard(_)) => Ok((root, found)),
    }
}

/// Gives the walk what is here of these shards, and asks for the others. Whether any was here.
fn supply(store: &Store, session: &Session, walk: &mut Walk, shards: &[Cid]) -> Result<bool, Failure> {
    let mut any = false;
    let mut wants = Vec::new();
    for cid in shards {
        let local = tokio::task::block_in_place(|| known_or_local(store, cid))?;
        match local.map(|bytes| Block::verify(cid, bytes)).transpose() {
            Ok(Some(block)) => {
                walk.take(block);
                any = true;
            }
            Ok(None) => wants.push((*cid, SHARD_BYTES_HINT)),
            Err(error) => return Err(Failure::new("index-damaged", error)),
        }
    }
    if !wants.is_empty() {
        session.want(wants);
    }
    Ok(any)
}

async fn next_block(session: &mut Session, patience: Duration, path: &Path) -> Result<Block, Failure> {
    let mut lacking = false;
    loop {
        let event = tokio::time::timeout(patience, session.next()).await;
        match event.map_err(|_| late(patience, path, lacking))? {
            Some(SessionEvent::Block { block, .. }) => return Ok(block),
            Some(SessionEvent::NobodyHas { .. }) => lacking = true,
            Some(_) => {}
            None => return Err(Failure::new("stopped", "the node has been stopped")),
        }
    }
}

fn info(store: &Store, entry: &Entry) -> Result<EntryInfo, Failure> {
    let kind = match entry.cid.codec() {
        RAW => Some(EntryKind::File),
        DAG_PB => {
            let local = match known_content(&entry.cid) {
                Some(content) => Some(content),
                None => store.node(&widen(&entry.cid)).map_err(|e| from_store(&e))?,
            };
            local.map(|bytes| match look(&entry.cid, &bytes) {
                Ok(Found::Directory(_) | Found::Shard(_)) => EntryKind::Directory,
                Ok(Found::Symlink { .. }) => EntryKind::Symlink,
                Ok(Found::File { .. } | Found::Metadata { .. }) => EntryKind::File,
                Ok(Found::Other(_)) | Err(_) => EntryKind::Other,
            })
        }
        _ => Some(EntryKind::Other),
    };
    Ok(EntryInfo { name: WireName(entry.name.to_vec()), cid: entry.cid.to_string(), size: entry.tsize, kind })
}

/// Why a directory cannot be gone through.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Node(#[from] DirError),
    #[error("one of its shards is none")]
    NotAShard,
    #[error("it has far more shards than entries")]
    TooManyShards,
}

/// What comes next of a directory.
#[derive(Debug)]
enum Step {
    /// This entry.
    Entry(Entry),
    /// Nothing before a shard has come. Those to be brought that were not named before.
    Missing(Vec<Cid>),
    /// Nothing more.
    End,
}

/// Goes through a directory in order, by the blocks that it is given. Takes the shard found last first, as
/// [`shards_max`] wants it.
#[derive(Debug, Default)]
struct Walk {
    /// What was found and not gone through, the next last: some of the children of each level.
    ahead: Vec<ShardItem>,
    /// Shards that have come before their turn.
    here: HashMap<Multihash, Block>,
    /// Shards that were named as missing and have not been gone into.
    named: HashSet<Multihash>,
    entries: u64,
    shards: u64,
}

impl Walk {
    /// Through a directory by its first node; nothing of what is no directory.
    fn new(found: Found) -> Result<Self, Broken> {
        let mut walk = Self::default();
        match found {
            Found::Directory(listing) => walk.ahead = listing.entries.into_iter().rev().map(ShardItem::Entry).collect(),
            Found::Shard(node) => walk.enter(node, &ShardPlace::ROOT)?,
            Found::Symlink { .. } | Found::File { .. } | Found::Metadata { .. } | Found::Other(_) => {}
        }
        Ok(walk)
    }

    /// Takes a shard that was missing.
    fn take(&mut self, block: Block) {
        let key = widen(block.cid());
        if self.named.contains(&key) {
            self.here.insert(key, block);
        }
    }

    /// The next of the directory; after an error nothing more of it.
    fn step(&mut self) -> Result<Step, Broken> {
        loop {
            let (cid, place) = match self.ahead.pop() {
                None => return Ok(Step::End),
                Some(ShardItem::Entry(entry)) => {
                    self.entries += 1;
                    return Ok(Step::Entry(entry));
                }
                Some(ShardItem::Shard { cid, place }) => (cid, place),
            };
            let key = widen(&cid);
            let Some(block) = self.here.remove(&key) else {
                self.ahead.push(ShardItem::Shard { cid, place });
                return Ok(Step::Missing(self.missing()));
            };
            self.named.remove(&key);
            self.shards += 1;
            if self.shards > shards_max(self.entries) {
                return Err(Broken::TooManyShards);
            }
            match look(&cid, block.bytes())? {
                Found::Shard(node) => self.enter(node, &place)?,
                _ => return Err(Broken::NotAShard),
            }
        }
    }

    fn enter(&mut self, node: ShardNode, place: &ShardPlace) -> Result<(), DirError> {
        self.ahead.extend(node.expand(place)?.into_iter().rev());
        Ok(())
    }

    /// The next shards that nobody knows yet to be missing: the very next in any case, others as far as the window goes.
    fn missing(&mut self) -> Vec<Cid> {
        let mut missing = Vec::new();
        let shards = self.ahead.iter().rev().filter_map(|item| match item {
            ShardItem::Shard { cid, .. } => Some(cid),
            ShardItem::Entry(_) => None,
        });
        for (i, cid) in shards.take(SHARDS_AHEAD).enumerate() {
            if i > 0 && self.named.len() >= SHARDS_AHEAD {
                break;
            }
            if self.named.insert(widen(cid)) {
                missing.push(*cid);
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::block::Prefix;
    use crate::dag::directory::{DirOptions, Entries, build};
    use crate::dag::unixfs::Metadata;

    fn leaf() -> Cid {
        *Block::seal(Prefix::RAW_V1, Bytes::from_static(b"leaf")).unwrap().cid()
    }

    /// A directory of so many entries, sharded when it has more than `single`: its root and all blocks.
    fn directory(entries: usize, fanout: u64, single: usize) -> (Cid, HashMap<Cid, Block>) {
        let mut all = Entries::default();
        for i in 0..entries {
            all.push(format!("entry {i}").as_bytes(), &leaf(), i as u64);
        }
        let options = DirOptions { fanout, max_links: Some(single), ..DirOptions::V1_2025 };
        let mut blocks = HashMap::new();
        let mut sink = |block: Block| drop(blocks.insert(*block.cid(), block));
        let root = build(&options, &all, Metadata::default(), &mut sink).unwrap();
        (root.cid, blocks)
    }

    fn walk(root: &Cid, blocks: &HashMap<Cid, Block>) -> Walk {
        Walk::new(look(root, blocks[root].bytes()).unwrap()).unwrap()
    }

    /// All names in order, when of the missing shards always the one that `pick` says comes next.
    fn names(walk: &mut Walk, blocks: &HashMap<Cid, Block>, pick: impl Fn(usize) -> usize) -> Vec<Vec<u8>> {
        let (mut names, mut coming) = (Vec::new(), Vec::new());
        loop {
            match walk.step().unwrap() {
                Step::Entry(entry) => names.push(entry.name.to_vec()),
                Step::Missing(shards) => {
                    coming.extend(shards);
                    let next = coming.swap_remove(pick(coming.len()));
                    walk.take(blocks[&next].clone());
                }
                Step::End => return names,
            }
            assert!(walk.named.len() <= SHARDS_AHEAD + 64 / 3, "{} shards at once", walk.named.len());
        }
    }

    proptest! {
        #[test]
        fn every_entry_comes_once_in_one_order(entries in 0_usize..3000, bits in 3_u32..9, single in 1_usize..40) {
            let (root, blocks) = directory(entries, 1 << bits, single);
            let first = names(&mut walk(&root, &blocks), &blocks, |_| 0);
            let last = names(&mut walk(&root, &blocks), &blocks, |coming| coming - 1);
            prop_assert_eq!(&first, &last);
            let found: BTreeSet<Vec<u8>> = first.iter().cloned().collect();
            prop_assert_eq!(found.len(), first.len());
            prop_assert_eq!(found, (0..entries).map(|i| format!("entry {i}").into_bytes()).collect());
        }
    }

    #[test]
    fn a_shard_that_is_something_else_is_refused() {
        let (root, blocks) = directory(500, 8, 1);
        let mut walk = walk(&root, &blocks);
        let shards = loop {
            match walk.step().unwrap() {
                Step::Missing(shards) => break shards,
                Step::Entry(_) | Step::End => {}
            }
        };
        // Nobody asked for this one, which changes nothing.
        walk.take(blocks[&root].clone());
        assert!(matches!(walk.step(), Ok(Step::Missing(none)) if none.is_empty()));
        let (other, single) = directory(1, 8, 1);
        let place = walk.ahead.last().cloned();
        let Some(ShardItem::Shard { place, .. }) = place else { panic!("{shards:?}") };
        walk.ahead.push(ShardItem::Shard { cid: other, place });
        walk.named.insert(widen(&other));
        walk.take(single[&other].clone());
        assert_eq!(walk.step().unwrap_err(), Broken::NotAShard);
    }
}
