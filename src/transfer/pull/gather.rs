//! A small file that is put together in memory: which blocks it still needs, and when it is whole.
//!
//! Pure: blocks in, claims out. It is told that the root is a file; every block is checked against what its parent
//! claimed of it ([`crate::dag::walk`]), so that a lying tree ends here and nothing of it is written.

use bytes::Bytes;

use crate::block::Block;
use crate::dag::walk::{Claim, WalkError, expand};
use crate::dag::wrap::Wrap;
use crate::store::LeafAt;

/// The most blocks of a file that is put together in memory; one of more is pulled leaf by leaf.
const BLOCKS_MAX: usize = 1024;

/// A file under way.
#[derive(Debug)]
pub(super) struct Gather {
    root: Block,
    size: u64,
    /// Bytes of the blocks that are here.
    held: u64,
    /// Blocks that were asked for and have not come.
    missing: usize,
    blocks: usize,
    nodes: Vec<Block>,
    parts: Vec<Part>,
}

/// Bytes of the file and the leaf that brought them.
#[derive(Debug)]
struct Part {
    offset: u64,
    data: Bytes,
    /// A leaf's block and how it is made of its data; not of an inner node that carries data itself.
    leaf: Option<(Block, Option<Vec<u8>>)>,
}

/// A file with all its bytes.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Its bytes in order, without gaps.
    pub(super) pieces: Vec<Bytes>,
    /// Leaves that can be served from it; all are wrapped alike.
    pub(super) leaves: Vec<LeafAt>,
    /// How.
    pub(super) wrap: Vec<u8>,
    /// Blocks that cannot.
    pub(super) nodes: Vec<Block>,
}

/// Why a file is not put together.
#[derive(Debug)]
pub(super) enum Refused {
    /// It has too many blocks for this.
    TooManyBlocks,
    /// The tree lies.
    Lie(WalkError),
}

impl Gather {
    /// A file whose root has come, and what it needs next.
    pub(super) fn start(root: &Block) -> Result<(Self, Vec<Claim>), Refused> {
        let claim = Claim::root(*root.cid());
        let size = expand(&claim, root).map_err(Refused::Lie)?.size;
        let mut gather =
            Self { root: root.clone(), size, held: 0, missing: 1, blocks: 0, nodes: Vec::new(), parts: Vec::new() };
        let next = gather.take(&claim, root)?;
        Ok((gather, next))
    }

    /// The file's root.
    pub(super) const fn root(&self) -> &Block {
        &self.root
    }

    /// Bytes of the blocks that are here.
    pub(super) const fn held(&self) -> u64 {
        self.held
    }

    /// Bytes of the file.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Whether every block is here.
    pub(super) const fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// Takes a block that `claim` asked for; gives what it shows to be needed besides.
    pub(super) fn take(&mut self, claim: &Claim, block: &Block) -> Result<Vec<Claim>, Refused> {
        let expanded = expand(claim, block).map_err(Refused::Lie)?;
        self.missing -= 1;
        self.blocks += 1;
        self.held += block.bytes().len() as u64;
        if let Some((offset, data)) = expanded.own_data {
            let leaf = expanded.children.is_empty().then(|| (block.clone(), wrap_of(block)));
            self.parts.push(Part { offset, data, leaf });
        }
        if expanded.children.is_empty() {
            return Ok(Vec::new());
        }
        self.nodes.push(block.clone());
        self.missing += expanded.children.len();
        if self.blocks + self.missing > BLOCKS_MAX {
            return Err(Refused::TooManyBlocks);
        }
        Ok(expanded.children.into_iter().map(|child| child.claim).collect())
    }

    /// The file, once it is whole.
    pub(super) fn finish(mut self) -> Gathered {
        debug_assert!(self.is_whole(), "a file is finished when nothing is missing");
        self.parts.sort_by_key(|part| part.offset);
        let wrap = self.parts.iter().find_map(|part| part.leaf.as_ref()?.1.clone());
        let mut file = Gathered { nodes: self.nodes, ..Gathered::default() };
        for Part { offset, data, leaf } in self.parts {
            let Ok(len) = u32::try_from(data.len()) else { continue };
            match leaf {
                // What is wrapped unlike the file's first leaf, or has no data, is kept whole.
                Some((block, leaf_wrap)) if leaf_wrap.is_none() || leaf_wrap != wrap || len == 0 => {
                    file.nodes.push(block);
                }
                Some((block, _)) => file.leaves.push(LeafAt { multihash: *block.cid().hash(), offset, len }),
                None => {}
            }
            if len > 0 {
                file.pieces.push(data);
            }
        }
        file.wrap = wrap.unwrap_or_default();
        file
    }
}

/// How a verified leaf's block is made of its data, as the index's tag.
fn wrap_of(leaf: &Block) -> Option<Vec<u8>> {
    let (wrap, _) = Wrap::split(leaf.bytes(), leaf.cid().codec()).ok()?;
    let mut tag = Vec::new();
    wrap.to_tag(&mut tag);
    Some(tag)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::block::Cid;
    use crate::dag::builder::{Builder, Profile, leaf, leaf_block};

    fn tree(profile: &Profile, file: &[u8], chunk: usize) -> (Cid, HashMap<Cid, Block>) {
        let mut blocks = HashMap::new();
        let mut builder = Builder::new(*profile);
        for data in file.chunks(chunk) {
            let block = leaf_block(profile, data);
            builder.push(leaf(profile, data), &mut |block| drop(blocks.insert(*block.cid(), block)));
            blocks.insert(*block.cid(), block);
        }
        let root = builder.finish(&mut |block| drop(blocks.insert(*block.cid(), block)));
        (root.cid, blocks)
    }

    fn gathered(root: &Cid, blocks: &HashMap<Cid, Block>) -> Result<Gathered, Refused> {
        let (mut gather, mut wanted) = Gather::start(&blocks[root])?;
        while let Some(claim) = wanted.pop() {
            assert!(!gather.is_whole());
            wanted.extend(gather.take(&claim, &blocks[&claim.cid])?);
        }
        assert!(gather.is_whole());
        Ok(gather.finish())
    }

    proptest! {
        #[test]
        fn any_file_comes_back_and_all_its_blocks_are_accounted_for(
            file in prop::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..60, raw: bool,
        ) {
            let profile = Profile { raw_leaves: raw, width: 3, ..Profile::V1_2025 };
            let (root, blocks) = tree(&profile, &file, chunk);
            let whole = gathered(&root, &blocks).unwrap();
            prop_assert_eq!(whole.pieces.concat(), file);
            let mut kept: Vec<_> = whole.nodes.iter().map(|node| *node.cid().hash()).collect();
            kept.extend(whole.leaves.iter().map(|leaf| leaf.multihash));
            for block in blocks.keys() {
                prop_assert!(kept.contains(block.hash()), "{}", block);
            }
        }
    }

    #[test]
    fn a_file_of_too_many_blocks_is_left_to_others() {
        let profile = Profile { width: 64, ..Profile::V1_2025 };
        let (root, blocks) = tree(&profile, &vec![7; BLOCKS_MAX + 100], 1);
        assert!(matches!(gathered(&root, &blocks), Err(Refused::TooManyBlocks)));
    }
}
