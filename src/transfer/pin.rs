//! A DAG of any codec as plain blocks: every block of it into the index, where it is served from and stays.
//!
//! For files this is the wrong way, since it copies them; it is for everything that is no file. A pin is a collection
//! without a folder: known before its first block, complete with its last, gone on with by the same request. Each distinct
//! block is pulled once, so that the work is bounded by what somebody really sent.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::block::{Block, Cid, Multihash, RAW, identity_content, known_content};
use crate::dag::links::links;
use crate::node::{Handle, SessionEvent};
use crate::store::{CollectionState, NewCollection, Store};

use super::failure::{Failure, from_store};
use super::plan::widen;
use super::resolve::{Path, resolve};
use super::verify::Verdict;

/// Blocks that are asked for at once.
const BLOCKS_IN_FLIGHT: usize = 128;
/// Blocks and bytes in one commit.
const BLOCKS_PER_COMMIT: usize = 256;
const BYTES_PER_COMMIT: usize = 4 << 20;
/// The most distinct blocks of one pin: a part of their hashes is in memory, some 40 bytes each.
const BLOCKS_MAX: usize = 16_000_000;
/// Blocks that wait to be looked at, some 100 bytes each: as many as the nodes on one way down have children.
const WAITING_MAX: usize = 1 << 20;
/// The expected length of a block that nothing is known of, in bytes.
const BLOCK_BYTES_HINT: u32 = 64 << 10;

/// What a pin holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// Its root.
    pub cid: Cid,
    /// Distinct blocks, those that identity CIDs hold not counted.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Pins what stands at `path`. `progress` hears how many bytes are here.
///
/// # Errors
/// `bad-tree` for a block that is not what its codec says, `too-many-blocks`, `timeout`, and those of the index.
pub(super) async fn pin(
    store: &Store,
    node: &Handle,
    path: &Path,
    patience: Option<Duration>,
    mut progress: impl FnMut(u64),
) -> Result<Pinned, Failure> {
    let patience = patience.unwrap_or(Duration::MAX);
    let late =
        || Failure::new("timeout", format!("nothing arrived for {} s; run it again to go on", patience.as_secs()));
    let mut session = node.open_session().await;
    let resolved = tokio::time::timeout(patience, resolve(store, &mut session, path, &mut |_| {})).await;
    let root = resolved.map_err(|_| late())??;
    let id = {
        let known = store.collections().map_err(|e| from_store(&e))?;
        let same = |c: &&crate::store::CollectionRecord| c.root == Some(root) && c.path.is_none();
        match known.iter().find(|c| same(c) && c.state == CollectionState::Partial) {
            Some(found) => found.id,
            None => {
                let spec = NewCollection { root: Some(root), path: None, partial: true };
                store.begin_collection(&spec).map_err(|e| from_store(&e))?
            }
        }
    };
    let mut pinned = Pinned { cid: root, blocks: 0, bytes: 0 };
    let (mut queue, mut seen) = (vec![root], HashSet::from([short(&root)]));
    let mut waiting: HashSet<Multihash> = HashSet::new();
    let mut names = std::collections::HashMap::new();
    let (mut fresh, mut fresh_bytes) = (Vec::new(), 0);
    loop {
        while waiting.len() < BLOCKS_IN_FLIGHT
            && let Some(cid) = queue.pop()
        {
            let local = match known_content(&cid) {
                Some(content) => Some((content, true)),
                // Reads of the index may wait for the disk; the runtime's other tasks must not.
                None => tokio::task::block_in_place(|| local(store, &cid))?,
            };
            let Some((bytes, kept)) = local else {
                waiting.insert(widen(&cid));
                names.insert(widen(&cid), cid);
                session.want(vec![(cid, BLOCK_BYTES_HINT)]);
                continue;
            };
            let block = Block::verify(&cid, bytes).map_err(|e| Failure::new("index-damaged", e))?;
            count(&mut pinned, &block);
            follow(&block, &mut queue, &mut seen)?;
            if !kept {
                fresh_bytes += block.bytes().len();
                fresh.push(block);
            }
        }
        let done = waiting.is_empty() && queue.is_empty();
        if done || fresh.len() >= BLOCKS_PER_COMMIT || fresh_bytes >= BYTES_PER_COMMIT {
            let lot = std::mem::take(&mut fresh);
            fresh_bytes = 0;
            tokio::task::block_in_place(|| store.put_nodes(&lot)).map_err(|e| from_store(&e))?;
            node.arrived(lot.iter().map(|block| *block.cid()).collect());
            progress(pinned.bytes);
        }
        if done {
            break;
        }
        if waiting.is_empty() {
            continue;
        }
        match tokio::time::timeout(patience, session.next()).await.map_err(|_| late())? {
            Some(SessionEvent::Block { block, .. }) => {
                let key = widen(block.cid());
                let Some(name) = names.remove(&key).filter(|_| waiting.remove(&key)) else { continue };
                let Some(block) = block.renamed(&name) else { continue };
                count(&mut pinned, &block);
                follow(&block, &mut queue, &mut seen)?;
                fresh_bytes += block.bytes().len();
                fresh.push(block);
            }
            Some(_) => {}
            None => return Err(Failure::new("stopped", "the node has been stopped; run it again to go on")),
        }
    }
    store.finish_collection(id, &root, pinned.bytes, pinned.blocks).map_err(|e| from_store(&e))?;
    Ok(pinned)
}

/// Hashes every block of a pin again. `bad` gets the name and the length of each that is damaged, or gone with all below
/// it; `progress`, told bytes so far, ends it with false.
///
/// # Errors
/// `cancelled`, and those of the index.
pub(super) fn verify(
    store: &Store,
    root: &Cid,
    bad: &mut dyn FnMut(&Cid, u64),
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Verdict, Failure> {
    let (mut queue, mut seen) = (vec![*root], HashSet::from([short(root)]));
    let mut verdict = Verdict::default();
    while let Some(cid) = queue.pop() {
        let found = match known_content(&cid) {
            Some(content) => Some(content),
            None => store.node(&widen(&cid)).map_err(|e| from_store(&e))?,
        };
        // What is gone counts as one byte: nothing tells how long it was.
        let length = found.as_ref().map_or(1, |bytes| bytes.len() as u64);
        verdict.bytes += if identity_content(&cid).is_none() { length } else { 0 };
        match found.and_then(|bytes| Block::verify(&cid, bytes).ok()) {
            Some(block) => follow(&block, &mut queue, &mut seen)?,
            None => {
                verdict.bad_bytes += length;
                bad(&cid, length);
            }
        }
        if !progress(verdict.bytes) {
            return Err(Failure::new("cancelled", "the verification was given up"));
        }
    }
    Ok(verdict)
}

/// A block that is here, and whether it is among the nodes. One that lies in a user's file is copied: the file may go.
fn local(store: &Store, cid: &Cid) -> Result<Option<(bytes::Bytes, bool)>, Failure> {
    if let Some(bytes) = store.node(&widen(cid)).map_err(|e| from_store(&e))? {
        return Ok(Some((bytes, true)));
    }
    Ok(store.read(&widen(cid)).map_err(|e| from_store(&e))?.map(|bytes| (bytes, false)))
}

fn count(pinned: &mut Pinned, block: &Block) {
    if identity_content(block.cid()).is_none() {
        pinned.blocks += 1;
        pinned.bytes += block.bytes().len() as u64;
    }
}

/// Queues what a block links to, the newest to be looked at first.
fn follow(block: &Block, queue: &mut Vec<Cid>, seen: &mut HashSet<u128>) -> Result<(), Failure> {
    let found = links(block.cid(), block.bytes())
        .map_err(|e| Failure::new("bad-tree", format!("block {}: {e}", block.cid())))?;
    for cid in found {
        // Bytes in a CID of their own are here with whoever names them; there is nothing to follow in raw ones.
        let nothing = cid.codec() == RAW && known_content(&cid).is_some();
        if !nothing && seen.insert(short(&cid)) {
            queue.push(cid);
        }
    }
    if seen.len() > BLOCKS_MAX {
        return Err(Failure::new("too-many-blocks", format!("the DAG has more than {BLOCKS_MAX} blocks")));
    }
    if queue.len() > WAITING_MAX {
        let message = format!("more than {WAITING_MAX} blocks of the DAG wait at once to be looked at");
        return Err(Failure::new("too-many-blocks", message));
    }
    Ok(())
}

/// Enough of a digest to tell blocks apart: nobody finds two with the same 16 bytes, and whoever did would only have left
/// one of them out. Identity CIDs have what they hold there, so that their whole key counts.
fn short(cid: &Cid) -> u128 {
    let digest = cid.hash().digest();
    match digest.first_chunk::<16>() {
        Some(first) if identity_content(cid).is_none() => u128::from_be_bytes(*first),
        _ => {
            let mut hasher = DefaultHasher::new();
            cid.to_bytes().hash(&mut hasher);
            u128::from(hasher.finish())
        }
    }
}
