//! The bytes of a file, or of a part of it, in order: pulled as they are needed, with some read ahead.
//!
//! Only the inner nodes on the way to the range are pulled, and only the leaves that hold it. Nothing of it is kept: what
//! is to stay is what `get` is for. Memory is bounded by the window, whatever the file's size; whoever reads slowly makes
//! the pull wait.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::block::{BLOCK_BYTES_MAX, Block, Multihash, known_content};
use crate::dag::directory::{Found, look};
use crate::dag::walk::{Claim, FILE_BYTES_MAX, expand};
use crate::node::{Handle, Session, SessionEvent};
use crate::store::Store;

use super::api::CatRequest;
use super::failure::{Failure, from_store, from_walk, late};
use super::plan::widen;
use super::resolve::{Path, resolve};
use super::tree::Notice;

/// Bytes of blocks that are asked for or waiting to be read.
const WINDOW_BYTES: u64 = 16 << 20;
/// Blocks that are asked for or waiting to be read.
const WINDOW_BLOCKS: usize = 256;
/// Parts of the file that are known and not given yet. What is needed of a tree to read on is some thousands for each of
/// its levels; more are only in trees made to fill memory.
const ITEMS_MAX: usize = 1 << 18;
/// The expected length of an inner node, in bytes.
const NODE_BYTES_HINT: u64 = 48 << 10;

/// Sends the bytes that were asked for to `out`, until it is closed.
///
/// # Errors
/// Those of resolving, `is-a-directory`, `bad-tree`, `timeout`, and those of the index.
pub(super) async fn cat(
    store: &Store,
    node: &Handle,
    request: &CatRequest,
    out: &mpsc::Sender<Result<Bytes, Failure>>,
) -> Result<(), Failure> {
    if request.offset > FILE_BYTES_MAX {
        return Err(Failure::new(
            "bad-option",
            format!("--offset {}: no file is longer than 2^53 bytes", request.offset),
        ));
    }
    let path = Path::parse(&request.cid)?;
    let patience = request.timeout_seconds.map_or(Duration::MAX, Duration::from_secs);
    let mut session = node.open_session().await;
    let mut lacking = None;
    let mut notice = |notice| {
        if let Notice::NobodyHas(cid) = notice {
            lacking = Some(cid);
        }
    };
    let resolved = tokio::time::timeout(patience, resolve(store, &mut session, &path, &mut notice)).await;
    let root = match resolved {
        Ok(root) => root?,
        Err(_) => return Err(late(patience, &request.cid, lacking.is_some())),
    };
    let end = request.length.map_or(u64::MAX, |length| request.offset.saturating_add(length));
    let mut reading = Reading {
        store,
        range: request.offset..end,
        items: BTreeMap::new(),
        waiting: HashMap::new(),
        held: 0,
        active: 0,
    };
    reading.items.insert((0, 0), Item::Known(Claim::root(root)));
    loop {
        reading.ask(&session)?;
        if !reading.give(out).await {
            return Ok(());
        }
        if reading.items.is_empty() {
            return Ok(());
        }
        if reading.waiting.is_empty() {
            continue;
        }
        reading.take(&mut session, patience, &request.cid).await?;
    }
}

/// A part of the file, by its first byte and depth: which is the order of its bytes, because a node goes when its
/// children come.
type Key = (u64, u32);

enum Item {
    /// Not asked for yet.
    Known(Claim),
    /// Asked for.
    Wanted(Claim),
    /// Here: bytes of the file, and what it holds of the window.
    Ready(Bytes, u64),
}

struct Reading<'a> {
    store: &'a Store,
    /// The bytes of the file that are wanted.
    range: Range<u64>,
    items: BTreeMap<Key, Item>,
    waiting: HashMap<Multihash, Vec<Key>>,
    /// Bytes of the window that are taken, and by how many blocks.
    held: u64,
    active: usize,
}

impl Reading<'_> {
    /// Asks for what comes next, as far as the window goes; at least for the first that is missing.
    fn ask(&mut self, session: &Session) -> Result<(), Failure> {
        loop {
            let next = self.items.iter().find_map(|(key, item)| match item {
                Item::Known(claim) => Some((*key, *claim)),
                Item::Wanted(_) | Item::Ready(..) => None,
            });
            let Some((key, claim)) = next else { return Ok(()) };
            let hint = hint(&claim);
            if self.active > 0 && (self.held + hint > WINDOW_BYTES || self.active >= WINDOW_BLOCKS) {
                return Ok(());
            }
            self.held += hint;
            self.active += 1;
            self.items.insert(key, Item::Wanted(claim));
            let local = match known_content(&claim.cid) {
                Some(content) => Some(content),
                // Reads of the index may wait for the disk; the runtime's other tasks must not.
                None => {
                    tokio::task::block_in_place(|| self.store.read(&widen(&claim.cid))).map_err(|e| from_store(&e))?
                }
            };
            if let Some(block) = local.and_then(|bytes| Block::verify(&claim.cid, bytes).ok()) {
                self.arrived(key, &block)?;
                continue;
            }
            let keys = self.waiting.entry(widen(&claim.cid)).or_default();
            keys.push(key);
            if keys.len() == 1 {
                session.want(vec![(claim.cid, u32::try_from(hint).unwrap_or(u32::MAX))]);
            }
        }
    }

    /// Waits for the next block.
    async fn take(&mut self, session: &mut Session, patience: Duration, what: &str) -> Result<(), Failure> {
        let mut lacking = false;
        loop {
            let Ok(event) = tokio::time::timeout(patience, session.next()).await else {
                return Err(late(patience, what, lacking));
            };
            match event {
                Some(SessionEvent::Block { block, .. }) => {
                    for key in self.waiting.remove(&widen(block.cid())).unwrap_or_default() {
                        self.arrived(key, &block)?;
                    }
                    return Ok(());
                }
                Some(SessionEvent::NobodyHas { .. }) => lacking = true,
                Some(_) => {}
                None => return Err(Failure::new("stopped", "the node has been stopped")),
            }
        }
    }

    /// Puts a block's bytes, or its children, in its place.
    fn arrived(&mut self, key: Key, block: &Block) -> Result<(), Failure> {
        let Some(Item::Wanted(claim)) = self.items.remove(&key) else { return Ok(()) };
        let hint = hint(&claim);
        if claim.depth == 0 {
            match look(&claim.cid, block.bytes()) {
                Ok(Found::Directory(_) | Found::Shard(_)) => {
                    let message = format!("{} is a directory; `bitshoal ls {0}` lists it", claim.cid);
                    return Err(Failure::new("is-a-directory", message));
                }
                Ok(Found::Metadata { file }) => {
                    self.held -= hint;
                    self.active -= 1;
                    self.items.insert(key, Item::Known(Claim::root(file)));
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => return Err(Failure::new("bad-tree", format!("{}: {error}", claim.cid))),
            }
        }
        let expanded = expand(&claim, block).map_err(|e| from_walk(&claim.cid, e))?;
        for child in &expanded.children {
            let ends = child.claim.offset + child.size();
            if child.claim.offset < self.range.end && ends > self.range.start {
                self.items.insert((child.claim.offset, child.claim.depth), Item::Known(child.claim));
            }
        }
        if self.items.len() > ITEMS_MAX {
            let message = format!("{} needs more than {ITEMS_MAX} parts to be known at once", claim.cid);
            return Err(Failure::new("bad-tree", message));
        }
        match expanded.own_data {
            Some((offset, data)) if !data.is_empty() => {
                self.items.insert((offset, claim.depth), Item::Ready(data, hint));
            }
            _ => {
                self.held -= hint;
                self.active -= 1;
            }
        }
        Ok(())
    }

    /// Hands over what is here in order; false when nobody reads any more.
    async fn give(&mut self, out: &mpsc::Sender<Result<Bytes, Failure>>) -> bool {
        while let Some(entry) = self.items.first_entry() {
            if !matches!(entry.get(), Item::Ready(..)) {
                return true;
            }
            let ((offset, _), Item::Ready(data, hint)) = entry.remove_entry() else { return true };
            self.held -= hint;
            self.active -= 1;
            let from = self.range.start.saturating_sub(offset).min(data.len() as u64);
            let to = self.range.end.saturating_sub(offset).min(data.len() as u64);
            let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) else { return true };
            if from < to && out.send(Ok(data.slice(from..to))).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// What a block takes of the window.
fn hint(claim: &Claim) -> u64 {
    match claim.size {
        Some(size) if size <= BLOCK_BYTES_MAX as u64 => size,
        _ => NODE_BYTES_HINT,
    }
}
