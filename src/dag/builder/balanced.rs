//! The balanced layout: leaves are grouped, then their parents, until one node is left (protocols.md §3.4).

use super::{LeafRef, Profile, close};
use crate::{block::Block, dag::unixfs::Metadata};

/// A balanced tree that grows to the right and upwards; it holds at most `width` links a level.
#[derive(Debug, Default)]
pub(super) struct Balanced {
    /// `levels[0]` holds leaves that have no parent yet, `levels[1]` their parents without a parent, and so on; none is
    /// empty. A full level is closed when one more link comes, because only then its parent is not the root.
    pub(super) levels: Vec<Vec<LeafRef>>,
}

impl Balanced {
    pub(super) fn push(&mut self, profile: &Profile, leaf: LeafRef, sink: &mut dyn FnMut(Block)) {
        self.put(0, profile, leaf, sink);
    }

    /// The leaf of a tree that has but one.
    pub(super) fn only_leaf(&self) -> Option<LeafRef> {
        match &self.levels[..] {
            [leaves] if leaves.len() == 1 => leaves.first().copied(),
            _ => None,
        }
    }

    /// The root, which is the only leaf itself unless that is raw and there is metadata. At least one leaf was pushed.
    pub(super) fn finish(mut self, profile: &Profile, metadata: Metadata, sink: &mut dyn FnMut(Block)) -> LeafRef {
        if let Some(leaf) = self.only_leaf()
            && (metadata == Metadata::default() || !profile.raw_leaves)
        {
            return leaf;
        }
        // A node that is alone at its level gets a parent too, so that all leaves are equally deep.
        let mut level = 0;
        while level + 1 < self.levels.len() {
            let parent = close(profile, &mut self.levels[level], Metadata::default(), sink);
            level += 1;
            self.put(level, profile, parent, sink);
        }
        close(profile, &mut self.levels[level], metadata, sink)
    }

    fn put(&mut self, from: usize, profile: &Profile, link: LeafRef, sink: &mut dyn FnMut(Block)) {
        let mut link = link;
        for level in &mut self.levels[from..] {
            if level.len() < profile.width {
                level.push(link);
                return;
            }
            let parent = close(profile, level, Metadata::default(), sink);
            level.push(link);
            link = parent;
        }
        self.levels.push(vec![link]);
    }
}
