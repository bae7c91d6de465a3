//! The trickle layout: every node has `width` leaves, then sub-trees that get deeper (protocols.md §3.4).

use super::{LeafRef, Profile, close};
use crate::{block::Block, dag::unixfs::Metadata};

/// Sub-trees of each depth in a node (`depthRepeat` in boxo).
const SUBTREES_A_DEPTH: usize = 4;

/// The path from the root to where the next leaf goes. Depth grows with the logarithm of the number of leaves, and a
/// node has at most `width` links and [`SUBTREES_A_DEPTH`] for each depth below it.
#[derive(Debug, Default)]
pub(super) struct Trickle {
    root: Vec<LeafRef>,
    /// Unfinished sub-trees, each below the one before it; none is full.
    pub(super) open: Vec<Subtree>,
}

#[derive(Debug)]
pub(super) struct Subtree {
    pub(super) links: Vec<LeafRef>,
    /// Levels of nodes that it may have; one level holds leaves only.
    depth: usize,
}

impl Subtree {
    fn is_full(&self, width: usize) -> bool {
        self.links.len() == width + SUBTREES_A_DEPTH * (self.depth - 1)
    }
}

impl Trickle {
    pub(super) fn push(&mut self, profile: &Profile, leaf: LeafRef, sink: &mut dyn FnMut(Block)) {
        let node = self.open.last_mut().map_or(&mut self.root, |subtree| &mut subtree.links);
        if let Some(subtrees) = node.len().checked_sub(profile.width) {
            self.open.push(Subtree { links: vec![leaf], depth: subtrees / SUBTREES_A_DEPTH + 1 });
        } else {
            node.push(leaf);
        }
        while self.open.last().is_some_and(|subtree| subtree.is_full(profile.width)) {
            self.close_last(profile, sink);
        }
    }

    /// The root, which is a node of its own above a single leaf too, and one without links when there is no leaf.
    pub(super) fn finish(mut self, profile: &Profile, metadata: Metadata, sink: &mut dyn FnMut(Block)) -> LeafRef {
        while !self.open.is_empty() {
            self.close_last(profile, sink);
        }
        close(profile, &mut self.root, metadata, sink)
    }

    fn close_last(&mut self, profile: &Profile, sink: &mut dyn FnMut(Block)) {
        if let Some(mut subtree) = self.open.pop() {
            let link = close(profile, &mut subtree.links, Metadata::default(), sink);
            self.open.last_mut().map_or(&mut self.root, |parent| &mut parent.links).push(link);
        }
    }
}
