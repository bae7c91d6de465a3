//! Verified descent from a root: what a block says about its children, or why it may not say so.
//!
//! A root's CID proves its bytes but not that they make sense. [`expand`] takes one verified block and the [`Claim`]
//! that its parent made of it, and checks everything that allocation, offsets and loops will later rely on: sizes add
//! up and are the claimed ones, every child has bytes, depth and total size are bounded. It holds no state, so that a
//! puller may take the tree in any order.
//!
//! What it cannot see from one node: a node may be reached many times, so a tiny set of blocks can describe a huge file.
//! That file's size is bounded by [`FILE_BYTES_MAX`], its inner nodes by [`inner_nodes_max`], which a walker counts.

use bytes::Bytes;

use super::{
    DagError, dagpb,
    unixfs::{Data, Kind},
    wrap::canonical_block_bytes,
};
use crate::block::{BLOCK_BYTES_MAX, Block, Cid, DAG_PB, RAW};

/// The deepest node's distance from the root. The deepest honest tree that anybody makes, 2⁵³ bytes in Kubo's 256 KiB
/// leaves, needs 5 levels at width 174, 23 at width 3 and 35 at width 2; chains of one-link nodes end here.
pub const DEPTH_MAX: u32 = 36;

/// The largest file, in bytes: 2⁵³, up to which every implementation (JavaScript too) counts exactly.
pub const FILE_BYTES_MAX: u64 = 1 << 53;

/// How many inner nodes, counted each time they occur, a file of `size` bytes may have before it is taken for a bomb:
/// one for each 16 KiB, and 65 536 that even small files in absurdly small chunks may use.
#[must_use]
pub const fn inner_nodes_max(size: u64) -> u64 {
    65_536 + size / 16_384
}

/// What is believed about a block before it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The block's name.
    pub cid: Cid,
    /// Where its first byte is in the file.
    pub offset: u64,
    /// File bytes at and below it, as its parent says; `None` for a root.
    pub size: Option<u64>,
    /// Distance from the root.
    pub depth: u32,
}

impl Claim {
    /// A root: nobody has said anything about it.
    #[must_use]
    pub const fn root(cid: Cid) -> Self {
        Self { cid, offset: 0, size: None, depth: 0 }
    }
}

/// What a block turned out to be. One without children is a leaf, whatever was expected of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// File bytes at and below the block.
    pub size: u64,
    /// File bytes in the block itself and their offset in the file: always there (maybe empty) in a leaf, and in an
    /// inner node that carries some (nobody writes such, all must read them).
    pub own_data: Option<(u64, Bytes)>,
    /// In file order, without gaps.
    pub children: Vec<Child>,
}

/// A link to be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// What its block must turn out to be; its size is always there.
    pub claim: Claim,
    /// Codec raw, so that the block is its file bytes.
    pub raw: bool,
    /// Whether it is a leaf: raw, or dag-pb with exactly the `Tsize` that a canonical leaf of that size has. An inner
    /// node always weighs more. Its block may refute this ([`DagError::HasLinks`] from [`super::wrap::Wrap::split`]);
    /// a dag-pb child for which it is false may still turn out to be a leaf.
    pub leaf: bool,
    /// How many bytes its block likely has, for pacing; exact for raw leaves.
    pub block_bytes_hint: u32,
}

impl Child {
    /// File bytes at and below it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.claim.size.unwrap_or_default()
    }
}

/// Why a tree cannot be a file that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// A directory, a symbolic link, …
    #[error("it is a {0}, not a file")]
    NotAFile(Kind),
    /// Neither raw nor dag-pb.
    #[error("codec 0x{0:x} is not supported; files are made of raw (0x55) and dag-pb (0x70) blocks")]
    UnknownCodec(u64),
    /// The block is not the claim's.
    #[error("the block is {0}, which nobody asked for")]
    WrongBlock(Box<Cid>),
    /// Not well formed.
    #[error(transparent)]
    Malformed(DagError),
    /// As many links as sizes there must be.
    #[error("a node has {links} links and {sizes} sizes for them")]
    LinkCount {
        /// Links of the node.
        links: usize,
        /// Sizes in its UnixFS message.
        sizes: usize,
    },
    /// The sizes of the children and the node's own data are not the size that the node says it has.
    #[error("a node says it has {says} bytes, its parts have {parts}")]
    Sum {
        /// The node's `filesize`.
        says: u64,
        /// Sum of the parts, in bytes.
        parts: u64,
    },
    /// The parent said something else.
    #[error("a node of {actual} bytes stands where its parent says {claimed}")]
    SizeMismatch {
        /// The parent's word, in bytes.
        claimed: u64,
        /// What the block says or has, in bytes.
        actual: u64,
    },
    /// More than [`FILE_BYTES_MAX`], or more than 64 bits can count.
    #[error("the file claims more than 2^53 bytes")]
    TooLarge,
    /// A child of no bytes: nobody writes them, and they can be nested without end.
    #[error("a node has a child without any bytes")]
    EmptyChild,
    /// A raw leaf of more bytes than a block may have.
    #[error("a raw leaf claims {0} bytes, more than the {BLOCK_BYTES_MAX} of a block")]
    ChildTooLarge(u64),
    /// Deeper than [`DEPTH_MAX`].
    #[error("the tree is deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// Checks a block against what its parent claimed and lists what is below it.
///
/// # Errors
/// Any [`WalkError`]; the tree must then be given up, since no other block can have that CID.
pub fn expand(claim: &Claim, block: &Block) -> Result<Expanded, WalkError> {
    if block.cid().hash() != claim.cid.hash() {
        return Err(WalkError::WrongBlock(Box::new(*block.cid())));
    }
    expand_trusted(claim, block.bytes())
}

/// As [`expand`], of bytes that the caller knows to be the claim's: from its own index, verified when they came.
///
/// # Errors
/// As [`expand`].
pub fn expand_trusted(claim: &Claim, block: &Bytes) -> Result<Expanded, WalkError> {
    match claim.cid.codec() {
        RAW => {
            let size = settle(claim, block.len() as u64)?;
            Ok(Expanded { size, own_data: Some((claim.offset, block.clone())), children: Vec::new() })
        }
        DAG_PB => expand_node(claim, block),
        other => Err(WalkError::UnknownCodec(other)),
    }
}

fn expand_node(claim: &Claim, block: &Bytes) -> Result<Expanded, WalkError> {
    let node = dagpb::decode(block).map_err(WalkError::Malformed)?;
    let message = node.data.as_ref().ok_or(WalkError::Malformed(DagError::Unixfs("it is absent")))?;
    let message = Data::decode(message).map_err(WalkError::Malformed)?;
    if !matches!(message.kind, Kind::File | Kind::Raw) {
        return Err(WalkError::NotAFile(message.kind));
    }
    if node.links.len() != message.blocksizes.len() {
        return Err(WalkError::LinkCount { links: node.links.len(), sizes: message.blocksizes.len() });
    }
    if !node.links.is_empty() && claim.depth >= DEPTH_MAX {
        return Err(WalkError::TooDeep);
    }
    let own = message.data.unwrap_or_default();
    let mut size = own.len() as u64;
    let mut children = Vec::with_capacity(node.links.len());
    for (link, &child_size) in node.links.iter().zip(&message.blocksizes) {
        let offset = claim.offset.checked_add(size).ok_or(WalkError::TooLarge)?;
        children.push(child(&link.cid, link.tsize, offset, child_size, claim.depth + 1)?);
        size = size.checked_add(child_size).ok_or(WalkError::TooLarge)?;
    }
    if let Some(says) = message.filesize
        && says != size
    {
        return Err(WalkError::Sum { says, parts: size });
    }
    let size = settle(claim, size)?;
    let own_data = (children.is_empty() || !own.is_empty()).then_some((claim.offset, own));
    Ok(Expanded { size, own_data, children })
}

fn child(cid: &Cid, tsize: Option<u64>, offset: u64, size: u64, depth: u32) -> Result<Child, WalkError> {
    if size == 0 {
        return Err(WalkError::EmptyChild);
    }
    let raw = match cid.codec() {
        RAW => true,
        DAG_PB => false,
        other => return Err(WalkError::UnknownCodec(other)),
    };
    if raw && size > BLOCK_BYTES_MAX as u64 {
        return Err(WalkError::ChildTooLarge(size));
    }
    let fits_block = size <= BLOCK_BYTES_MAX as u64 && canonical_block_bytes(size) <= BLOCK_BYTES_MAX as u64;
    let leaf = raw || (fits_block && tsize == Some(canonical_block_bytes(size)));
    let block_bytes = match (raw, leaf) {
        (true, _) => size,
        (false, true) => canonical_block_bytes(size),
        // No one knows how many links an inner node has; a link's entry takes some 55 bytes, so this is 1192 of them.
        (false, false) => tsize.unwrap_or(u64::MAX).min(65_536),
    };
    let block_bytes_hint = u32::try_from(block_bytes).unwrap_or(u32::MAX);
    Ok(Child { claim: Claim { cid: *cid, offset, size: Some(size), depth }, raw, leaf, block_bytes_hint })
}

/// Compares a size with the parent's word and the limit.
fn settle(claim: &Claim, actual: u64) -> Result<u64, WalkError> {
    match claim.size {
        Some(claimed) if claimed != actual => Err(WalkError::SizeMismatch { claimed, actual }),
        _ if claim.offset.checked_add(actual).is_none_or(|end| end > FILE_BYTES_MAX) => Err(WalkError::TooLarge),
        _ => Ok(actual),
    }
}

#[cfg(test)]
pub(in crate::dag) mod tests;
