//! From a file's chunks to its root: leaves are named one by one, inner nodes come out as they fill.
//!
//! [`leaf`] is the costly part, a pure function to be called on as many threads as there are; [`Builder`] takes the
//! leaves in file order and holds a node's links for each level, whatever the file's size. It never sees a file: whoever
//! calls reads the chunks and keeps the references.

mod balanced;
#[cfg(test)]
mod tests;
mod trickle;

use balanced::Balanced;
use bytes::Bytes;
pub use cid::Version;
use multihash_codetable::{Code, MultihashDigest};
use sha2::{Digest, Sha256};
use trickle::Trickle;

use super::{
    DagError,
    chunker::Chunker,
    dagpb::{self, Link, Node},
    unixfs::{Data, Kind, Metadata},
    wrap::{Wrap, canonical_block_bytes},
};
use crate::block::{
    BLOCK_BYTES_MAX, Block, Cid, DAG_PB, DIGEST_BYTES_MAX, IDENTITY, Multihash, Prefix, RAW, SHA2_256, identity_content,
};

/// The most children that a node may be given. A link and its size entry take at most 100 bytes (64-byte digest), so
/// that a full node stays below a block's 2 MiB.
pub const WIDTH_MAX: usize = 16_384;

/// As [`WIDTH_MAX`], where links may be 128-byte identity CIDs.
const WIDTH_MAX_INLINE: usize = 12_288;

/// How leaves are put into a tree (protocols.md §3.4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// All leaves are equally deep.
    #[default]
    Balanced,
    /// Each node has leaves first and then ever deeper sub-trees, so that a file's start is near its root.
    Trickle,
}

/// How a file becomes a tree. Two files with the same bytes and profile have the same root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Of every dag-pb node. Raw leaves are always version 1, and so is everything not hashed by SHA-256.
    pub cid_version: Version,
    /// Whether leaves are bare bytes, or dag-pb nodes.
    pub raw_leaves: bool,
    /// Where a file is cut into leaves.
    pub chunker: Chunker,
    /// Children of each inner node but the last of its level, not counting a trickle node's sub-trees: 2 to
    /// [`Self::width_max`].
    pub width: usize,
    /// The tree's form.
    pub layout: Layout,
    /// Blocks of at most that many bytes, leaves and nodes alike, become identity CIDs, which hold them and are of
    /// version 1 always; above 128 bytes none can. `None` differs from 0, which makes one of the empty raw leaf.
    pub inline: Option<u32>,
    /// What all blocks are hashed with.
    pub hash: HashFunction,
}

impl Profile {
    /// `unixfs-v1-2025` (IPIP-499): 1 MiB raw leaves, 1024 a node.
    pub const V1_2025: Self = Self {
        cid_version: Version::V1,
        raw_leaves: true,
        chunker: Chunker::Size(1_048_576),
        width: 1024,
        layout: Layout::Balanced,
        inline: None,
        hash: HashFunction::SHA2_256,
    };
    /// `unixfs-v0-2015` (IPIP-499): 256 KiB dag-pb leaves, 174 a node; what `ipfs add` does without options.
    pub const V0_2015: Self = Self {
        cid_version: Version::V0,
        raw_leaves: false,
        chunker: Chunker::Size(262_144),
        width: 174,
        layout: Layout::Balanced,
        inline: None,
        hash: HashFunction::SHA2_256,
    };

    /// What `ipfs add --cid-version=N` does: version 1 changes only the CIDs and makes leaves raw.
    #[must_use]
    pub const fn kubo_defaults(cid_version: Version) -> Self {
        Self { cid_version, raw_leaves: matches!(cid_version, Version::V1), ..Self::V0_2015 }
    }

    /// The profile of that name: `unixfs-v1-2025` or `unixfs-v0-2015`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "unixfs-v1-2025" => Some(Self::V1_2025),
            "unixfs-v0-2015" => Some(Self::V0_2015),
            _ => None,
        }
    }

    /// What is around the file's bytes in each leaf.
    #[must_use]
    pub const fn wrap(&self) -> Wrap {
        match (self.raw_leaves, self.layout) {
            (true, _) => Wrap::Raw,
            (false, Layout::Balanced) => Wrap::File,
            (false, Layout::Trickle) => Wrap::RawNode,
        }
    }

    /// The profile for files that keep their mode or modification time: the same with dag-pb leaves, because Kubo makes
    /// no raw leaves then, however many the file has.
    #[must_use]
    pub const fn for_metadata(self) -> Self {
        Self { raw_leaves: false, ..self }
    }

    /// The most that `width` may be: less than [`WIDTH_MAX`] where links may hold blocks. Such a link and its size
    /// entry take at most 163 bytes.
    #[must_use]
    pub const fn width_max(&self) -> usize {
        if self.inline.is_some() { WIDTH_MAX_INLINE } else { WIDTH_MAX }
    }

    const fn leaf_codec(&self) -> u64 {
        if self.raw_leaves { RAW } else { DAG_PB }
    }

    const fn inlines(&self, block_bytes: usize) -> bool {
        match self.inline {
            Some(limit) => block_bytes <= limit as usize && block_bytes <= DIGEST_BYTES_MAX,
            None => false,
        }
    }

    /// The name of the block that is the parts' concatenation.
    fn name(&self, codec: u64, parts: [&[u8]; 3]) -> Cid {
        if self.inlines(parts.iter().map(|part| part.len()).sum()) {
            return identity(codec, &parts.concat());
        }
        let multihash = self.hash.digest(parts);
        if self.cid_version == Version::V0
            && codec == DAG_PB
            && let Ok(cid) = Cid::new_v0(multihash)
        {
            return cid;
        }
        Cid::new_v1(codec, multihash)
    }

    /// Makes a block of our own bytes.
    fn seal(&self, codec: u64, bytes: Vec<u8>) -> Block {
        let like = if self.inlines(bytes.len()) {
            identity(codec, &bytes)
        } else {
            Self { inline: None, ..*self }.name(codec, [&[], &[], &[]])
        };
        Block::seal(Prefix::of(&like), Bytes::from(bytes)).expect("our own nodes fit a block and have a known hash")
    }
}

fn identity(codec: u64, bytes: &[u8]) -> Cid {
    Cid::new_v1(codec, Multihash::wrap(IDENTITY, bytes).expect("not longer than a digest may be"))
}

/// Gives `sink` what somebody must keep: an identity CID is its own block.
fn give(block: Block, sink: &mut dyn FnMut(Block)) {
    if identity_content(block.cid()).is_none() {
        sink(block);
    }
}

/// A hash that files may be added with: any of multihash-codetable whose digest has 20 bytes or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashFunction(Code);

impl HashFunction {
    /// The default of everybody.
    pub const SHA2_256: Self = Self(Code::Sha2_256);

    /// By multihash code.
    ///
    /// # Errors
    /// [`DagError::UnknownHash`], also for digests too short to be safe.
    pub fn from_code(code: u64) -> Result<Self, DagError> {
        match Code::try_from(code) {
            Ok(known) if known.digest(&[]).size() >= 20 => Ok(Self(known)),
            _ => Err(DagError::UnknownHash(format!("0x{code:x}"))),
        }
    }

    /// By the name in the multicodec table, as in Kubo's `--hash`.
    ///
    /// # Errors
    /// [`DagError::UnknownHash`].
    pub fn parse(name: &str) -> Result<Self, DagError> {
        Ok(Self(match name {
            "sha2-256" => Code::Sha2_256,
            "sha2-512" => Code::Sha2_512,
            "sha3-256" => Code::Sha3_256,
            "sha3-384" => Code::Sha3_384,
            "sha3-512" => Code::Sha3_512,
            "blake2b-256" => Code::Blake2b256,
            "blake2b-512" => Code::Blake2b512,
            "blake2s-256" => Code::Blake2s256,
            "blake3" => Code::Blake3_256,
            other => return Err(DagError::UnknownHash(format!("{other:?}"))),
        }))
    }

    /// The multihash code.
    #[must_use]
    pub fn code(self) -> u64 {
        self.0.into()
    }

    /// The digest of the parts' concatenation, which is made only for hashes other than SHA-256.
    fn digest(self, parts: [&[u8]; 3]) -> Multihash {
        let wrap =
            |code, digest: &[u8]| Multihash::wrap(code, digest).expect("digests of the code table fit 128 bytes");
        if self.code() == SHA2_256 {
            let mut hasher = Sha256::new();
            for part in parts {
                hasher.update(part);
            }
            return wrap(SHA2_256, &hasher.finalize());
        }
        let digest = match parts {
            [[], data, []] => self.0.digest(data),
            parts => self.0.digest(&parts.concat()),
        };
        wrap(self.code(), digest.digest())
    }
}

/// A leaf as its parent needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafRef {
    /// The leaf's name.
    pub cid: Cid,
    /// File bytes in it.
    pub file_bytes: u64,
    /// Bytes of its block.
    pub tsize: u64,
}

/// A finished tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The file's name.
    pub cid: Cid,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of all blocks, counted each time they occur: what `ipfs add` calls size.
    pub tsize: u64,
    /// Leaves of the tree; 1 for an empty file, whose root has no child.
    pub leaves: u64,
}

/// Names one chunk without copying it (with SHA-256, or raw leaves).
///
/// # Panics
/// When the leaf's block would be larger than [`BLOCK_BYTES_MAX`], which no [`super::chunker::Chunker`] allows.
#[must_use]
pub fn leaf(profile: &Profile, data: &[u8]) -> LeafRef {
    wrapped(profile, &profile.wrap(), data)
}

/// Names the one chunk of a file that keeps `metadata`, and says what is around its bytes: the leaf is the root where
/// the layout is balanced and leaves are dag-pb, and then it holds the metadata. It is the same as [`leaf`] everywhere
/// else.
///
/// # Panics
/// As [`leaf`].
#[must_use]
pub fn sole_leaf(profile: &Profile, data: &[u8], metadata: Metadata) -> (LeafRef, Wrap) {
    let wrap = if metadata == Metadata::default() || profile.wrap() != Wrap::File {
        profile.wrap()
    } else {
        let content = (!data.is_empty()).then(|| Bytes::copy_from_slice(data));
        let mut message = Data { data: content, filesize: Some(data.len() as u64), ..Data::new(Kind::File) };
        metadata.set_in(&mut message);
        let block = dagpb::encode(&Node { links: Vec::new(), data: Some(message.encode().into()) });
        Wrap::split(&block.into(), DAG_PB).expect("our own leaf is well formed").0
    };
    (wrapped(profile, &wrap, data), wrap)
}

fn wrapped(profile: &Profile, wrap: &Wrap, data: &[u8]) -> LeafRef {
    let length = u32::try_from(data.len()).expect("chunks are far below 4 GiB");
    let (prefix, suffix) = wrap.affixes(length);
    let block_bytes = prefix.len() + data.len() + suffix.len();
    assert!(block_bytes <= BLOCK_BYTES_MAX, "a leaf of {block_bytes} bytes is larger than a block may be");
    let cid = profile.name(profile.leaf_codec(), [&prefix, data, &suffix]);
    LeafRef { cid, file_bytes: data.len() as u64, tsize: block_bytes as u64 }
}

/// The leaf's whole block, copied together: for the empty file, and for tests.
///
/// # Panics
/// As [`leaf`].
#[must_use]
pub fn leaf_block(profile: &Profile, data: &[u8]) -> Block {
    let length = u32::try_from(data.len()).expect("chunks are far below 4 GiB");
    let (mut bytes, suffix) = profile.wrap().affixes(length);
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(&suffix);
    profile.seal(profile.leaf_codec(), bytes)
}

/// Makes the inner nodes of a tree from its leaves in file order.
#[derive(Debug)]
pub struct Builder {
    profile: Profile,
    tree: Tree,
    leaves: u64,
}

#[derive(Debug)]
enum Tree {
    Balanced(Balanced),
    Trickle(Trickle),
}

impl Builder {
    /// A builder without leaves.
    ///
    /// # Panics
    /// When the profile's width is not in 2 to [`Profile::width_max`].
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        let widths = 2..=profile.width_max();
        assert!(widths.contains(&profile.width), "width {} is not in {widths:?}", profile.width);
        let tree = match profile.layout {
            Layout::Balanced => Tree::Balanced(Balanced::default()),
            Layout::Trickle => Tree::Trickle(Trickle::default()),
        };
        Self { profile, tree, leaves: 0 }
    }

    /// Takes the next leaf and gives inner nodes that are now complete to `sink`, children before parents.
    ///
    /// A leaf without file bytes, which only the empty file has, is not put into a trickle tree.
    pub fn push(&mut self, leaf: LeafRef, sink: &mut dyn FnMut(Block)) {
        match &mut self.tree {
            Tree::Balanced(tree) => tree.push(&self.profile, leaf, sink),
            Tree::Trickle(_) if leaf.file_bytes == 0 => return,
            Tree::Trickle(tree) => tree.push(&self.profile, leaf, sink),
        }
        self.leaves += 1;
    }

    /// Gives the remaining nodes to `sink` and names the tree. Without any leaf this is the empty file, whose one block
    /// is given to `sink` as well, because there is no file that it could be served from. Blocks that became identity
    /// CIDs are never given.
    pub fn finish(self, sink: &mut dyn FnMut(Block)) -> Root {
        self.finish_with(Metadata::default(), sink)
    }

    /// As [`Self::finish`], with `metadata` in the root. A file's only leaf must have been named by [`sole_leaf`] with
    /// the same metadata; where it is raw and so cannot hold any, it gets a parent, which Kubo does not make: use
    /// [`Profile::for_metadata`] for its CIDs.
    pub fn finish_with(self, metadata: Metadata, sink: &mut dyn FnMut(Block)) -> Root {
        let Self { profile, tree, leaves } = self;
        let plain = metadata == Metadata::default();
        let root = match tree {
            Tree::Balanced(_) if leaves == 0 && plain => {
                let block = leaf_block(&profile, &[]);
                let root = LeafRef { cid: *block.cid(), file_bytes: 0, tsize: block.bytes().len() as u64 };
                give(block, sink);
                root
            }
            // The empty leaf that holds metadata is the same as a node without children.
            Tree::Balanced(_) if leaves == 0 => close(&profile, &mut Vec::new(), metadata, sink),
            Tree::Balanced(tree) => {
                if let (Some(leaf), false) = (tree.only_leaf(), plain || profile.raw_leaves) {
                    debug_assert_ne!(leaf.tsize, canonical_block_bytes(leaf.file_bytes), "not by sole_leaf");
                }
                tree.finish(&profile, metadata, sink)
            }
            Tree::Trickle(tree) => tree.finish(&profile, metadata, sink),
        };
        Root { cid: root.cid, size: root.file_bytes, tsize: root.tsize, leaves: leaves.max(1) }
    }
}

/// Makes the parent of `children`, gives it to `sink` and leaves no child. Only a root has metadata.
fn close(profile: &Profile, children: &mut Vec<LeafRef>, metadata: Metadata, sink: &mut dyn FnMut(Block)) -> LeafRef {
    let blocksizes: Vec<u64> = children.iter().map(|child| child.file_bytes).collect();
    let file_bytes = blocksizes.iter().sum();
    let below: u64 = children.iter().map(|child| child.tsize).sum();
    let mut data = Data { filesize: Some(file_bytes), blocksizes, ..Data::new(Kind::File) };
    metadata.set_in(&mut data);
    let links =
        children.drain(..).map(|child| Link { cid: child.cid, name: Bytes::new().into(), tsize: Some(child.tsize) });
    let node = Node { links: links.collect(), data: Some(data.encode().into()) };
    let block = profile.seal(DAG_PB, dagpb::encode(&node));
    let parent = LeafRef { cid: *block.cid(), file_bytes, tsize: below + block.bytes().len() as u64 };
    give(block, sink);
    parent
}
