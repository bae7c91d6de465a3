//! Blocks between their arrival and the index: what a second file that holds the same is made from.
//!
//! To ask the swarm again would be a waste, and some would not answer: Helia stays silent for five seconds on what it has
//! just sent. Nothing depends on a block being here, so that all are forgotten rather than their bounds passed.

use std::collections::HashMap;

use crate::block::{Block, Cid, Multihash};
use crate::transfer::plan::widen;

/// The most blocks: several lots of small files.
const BLOCKS_MAX: usize = 8192;

/// Their bytes at which they are forgotten: as much as a pull has under way.
const BYTES_MAX: usize = 32 << 20;

/// The blocks.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    blocks: HashMap<Multihash, Block>,
    bytes: usize,
}

impl Fresh {
    pub(super) fn insert(&mut self, block: &Block) {
        if self.blocks.len() >= BLOCKS_MAX || self.bytes >= BYTES_MAX {
            *self = Self::default();
        }
        self.bytes += block.bytes().len();
        if let Some(old) = self.blocks.insert(widen(block.cid()), block.clone()) {
            self.bytes -= old.bytes().len();
        }
    }

    /// The index has these now.
    pub(super) fn remove(&mut self, cids: &[Cid]) {
        for block in cids.iter().filter_map(|cid| self.blocks.remove(&widen(cid))) {
            self.bytes -= block.bytes().len();
        }
    }

    pub(super) fn get(&self, cid: &Cid) -> Option<Block> {
        self.blocks.get(&widen(cid))?.renamed(cid)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::block::Prefix;

    fn block(n: usize, len: usize) -> Block {
        let mut bytes = vec![0; len.max(8)];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        Block::seal(Prefix::RAW_V1, Bytes::from(bytes)).unwrap()
    }

    #[test]
    fn it_knows_what_came_until_the_index_does() {
        let (one, other) = (block(1, 100), block(2, 100));
        let mut fresh = Fresh::default();
        [&one, &other, &one].into_iter().for_each(|block| fresh.insert(block));
        assert_eq!((fresh.get(one.cid()), fresh.bytes), (Some(one.clone()), 200));
        let by_another_name = Cid::new_v1(crate::block::DAG_PB, *one.cid().hash());
        assert_eq!(fresh.get(&by_another_name).unwrap().cid(), &by_another_name);
        fresh.remove(&[*one.cid(), *one.cid()]);
        assert_eq!((fresh.get(one.cid()), fresh.get(other.cid()), fresh.bytes), (None, Some(other), 100));
    }

    #[test]
    fn it_forgets_rather_than_to_pass_its_bounds() {
        for (count, len) in [(BLOCKS_MAX, 8), (BYTES_MAX >> 20, 1 << 20)] {
            let mut fresh = Fresh::default();
            (0..count).for_each(|n| fresh.insert(&block(n, len)));
            assert_eq!((fresh.blocks.len(), fresh.bytes), (count, count * len));
            fresh.insert(&block(count, len));
            assert_eq!((fresh.blocks.len(), fresh.bytes), (1, len));
        }
    }
}
