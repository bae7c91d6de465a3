//! The leaves of a finished tree in file order, one at a time: what is where, for trees of any size.
//!
//! [`Leaves`] holds one node a level and asks its caller for the bytes of the next; nothing is kept per leaf. It relies
//! on [`super::walk`] for every check, so that a damaged index gives an error and not a wrong place.

use bytes::Bytes;

use super::walk::{Claim, WalkError, expand_trusted};
use crate::block::{Cid, RAW, identity_content};

/// One leaf's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// Ordinal in the file, from 0.
    pub index: u64,
    /// The leaf's name.
    pub cid: Cid,
    /// Where its data begin in the file, in bytes.
    pub offset: u64,
    /// Bytes of its data, without what dag-pb puts around them.
    pub len: u32,
    /// The data are those that an inner node carries itself, in front of its children's: nobody writes such, everybody
    /// reads them.
    pub own: bool,
}

/// Why the next leaf cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError<E> {
    /// A node could not be had.
    #[error("node {cid} is not available")]
    Fetch {
        /// Which.
        cid: Box<Cid>,
        /// The fetcher's own error.
        source: E,
    },
    /// A node is not what its parent says.
    #[error("node {cid}: {source}")]
    Walk {
        /// Which.
        cid: Box<Cid>,
        /// What is wrong with it.
        source: WalkError,
    },
    /// [`Leaves::seek`] was given an offset inside a leaf or beyond the end.
    #[error("no leaf begins at offset {0}")]
    NoLeafAt(u64),
}

/// An iterator over the leaves of one tree. After an error it ends.
///
/// `fetch` is asked for inner nodes, for the root (unless its codec is raw) and for dag-pb leaves that are not written
/// canonically, since nothing but their bytes tells that they are leaves. Identity CIDs are never asked for.
#[derive(Debug)]
pub struct Leaves<F> {
    root: Claim,
    fetch: F,
    /// The path to the current node, the root's children first.
    path: Vec<Level>,
    next_index: u64,
    /// Whether the root was not looked at yet.
    fresh: bool,
    /// Data offset of the leaf sought, until it is found.
    target: Option<u64>,
    /// Known from the root's codec or from the caller.
    root_is_leaf: bool,
}

/// The children of one node, in as few bytes as possible: a foreign node may have 65 536 of them.
#[derive(Debug)]
struct Level {
    depth: u32,
    /// Binary CIDs, one after the other.
    cids: Vec<u8>,
    children: Vec<Packed>,
    /// The next child.
    at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Packed {
    cid_end: u32,
    leaf: bool,
    own: bool,
    offset: u64,
    size: u64,
}

impl<E, F: FnMut(&Cid) -> Result<Bytes, E>> Leaves<F> {
    /// All leaves of the tree under `root`, which has `size` bytes.
    pub fn new(root: Cid, size: u64, fetch: F) -> Self {
        let root = Claim { size: Some(size), ..Claim::root(root) };
        Self {
            root,
            fetch,
            path: Vec::new(),
            next_index: 0,
            fresh: true,
            target: None,
            root_is_leaf: root.cid.codec() == RAW,
        }
    }

    /// The one leaf of a file whose root is a leaf: nothing is fetched.
    pub fn of_leaf(root: Cid, size: u64, fetch: F) -> Self {
        Self { root_is_leaf: true, ..Self::new(root, size, fetch) }
    }

    /// Goes to the leaf that begins at `offset` and has the ordinal `index`, forwards or back; it will be the next.
    ///
    /// # Errors
    /// [`LayoutError::NoLeafAt`] when none begins there, and what stands in the way. The iterator then is at its end.
    pub fn seek(&mut self, offset: u64, index: u64) -> Result<(), LayoutError<E>> {
        let found = self.descend_to(offset);
        self.next_index = index;
        if found.is_err() {
            self.end();
        }
        found
    }

    fn descend_to(&mut self, offset: u64) -> Result<(), LayoutError<E>> {
        self.path.clear();
        self.fresh = true;
        if offset == 0 {
            self.target = Some(0);
            return Ok(());
        }
        self.target = None;
        self.fresh = false;
        let mut claim = self.root;
        loop {
            let Some(mut level) = self.open(&claim)? else { return Err(LayoutError::NoLeafAt(offset)) };
            level.at = level.children.partition_point(|child| child.offset + child.size <= offset);
            let Some(child) = level.children.get(level.at).copied().filter(|child| child.offset <= offset) else {
                return Err(LayoutError::NoLeafAt(offset));
            };
            claim = level.claim(level.at);
            // A child that begins there is where iteration goes on, whether it is the leaf or holds it.
            if child.offset == offset {
                self.target = Some(offset);
                self.path.push(level);
                return Ok(());
            }
            if child.leaf {
                return Err(LayoutError::NoLeafAt(offset));
            }
            level.at += 1;
            self.path.push(level);
        }
    }

    fn advance(&mut self) -> Result<Option<Leaf>, LayoutError<E>> {
        loop {
            let (claim, leaf, own) = if std::mem::take(&mut self.fresh) {
                (self.root, self.root_is_leaf, false)
            } else {
                let Some(level) = self.path.last_mut() else { return Ok(None) };
                let at = level.at;
                let Some(child) = level.children.get(at).copied() else {
                    self.path.pop();
                    continue;
                };
                level.at += 1;
                (level.claim(at), child.leaf, child.own)
            };
            let size = claim.size.unwrap_or_default();
            if !leaf && let Some(level) = self.open(&claim)? {
                self.path.push(level);
                continue;
            }
            if let Some(target) = self.target.take()
                && target != claim.offset
            {
                return Err(LayoutError::NoLeafAt(target));
            }
            let index = self.next_index;
            self.next_index += 1;
            let len = u32::try_from(size).map_err(|_| walk(&claim, WalkError::ChildTooLarge(size)))?;
            return Ok(Some(Leaf { index, cid: claim.cid, offset: claim.offset, len, own }));
        }
    }

    /// The children of a node, or `None` when it is a leaf.
    fn open(&mut self, claim: &Claim) -> Result<Option<Level>, LayoutError<E>> {
        if claim.cid.codec() == RAW {
            return Ok(None);
        }
        let bytes = match identity_content(&claim.cid) {
            Some(content) => Bytes::copy_from_slice(content),
            None => {
                (self.fetch)(&claim.cid).map_err(|source| LayoutError::Fetch { cid: Box::new(claim.cid), source })?
            }
        };
        let expanded = expand_trusted(claim, &bytes).map_err(|source| walk(claim, source))?;
        if expanded.children.is_empty() {
            return Ok(None);
        }
        let mut cids = Vec::with_capacity(expanded.children.len() * 36);
        let mut children = Vec::with_capacity(expanded.children.len());
        let mut pack = |cid: &Cid, leaf, own, offset, size| {
            cids.extend_from_slice(&cid.to_bytes());
            let cid_end = u32::try_from(cids.len()).expect("all CIDs of a node fit its block of 2 MiB");
            children.push(Packed { cid_end, leaf, own, offset, size });
        };
        if let Some((offset, data)) = &expanded.own_data {
            pack(&claim.cid, true, true, *offset, data.len() as u64);
        }
        for child in &expanded.children {
            pack(&child.claim.cid, child.leaf, false, child.claim.offset, child.size());
        }
        Ok(Some(Level { depth: claim.depth + 1, cids, children, at: 0 }))
    }

    fn end(&mut self) {
        self.path.clear();
        self.fresh = false;
        self.target = None;
    }
}

impl Level {
    fn claim(&self, at: usize) -> Claim {
        let child = self.children[at];
        let start = if at == 0 { 0 } else { self.children[at - 1].cid_end };
        let cid = Cid::try_from(&self.cids[start as usize..child.cid_end as usize]).expect("it was written from a CID");
        Claim { cid, offset: child.offset, size: Some(child.size), depth: self.depth }
    }
}

impl<E, F: FnMut(&Cid) -> Result<Bytes, E>> Iterator for Leaves<F> {
    type Item = Result<Leaf, LayoutError<E>>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            self.end();
        }
        next
    }
}

fn walk<E>(claim: &Claim, source: WalkError) -> LayoutError<E> {
    LayoutError::Walk { cid: Box::new(claim.cid), source }
}

#[cfg(test)]
mod tests;
