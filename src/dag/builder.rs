//! From a file's chunks to its root: leaves are named one by one, inner nodes come out as they fill.
//!
//! [`leaf`] is the costly part, a pure function to be called on as many threads as there are; [`Builder`] takes the
//! leaves in file order and holds at most `width` links a level, whatever the file's size. It makes balanced trees only
//! (protocols.md §3.4) and never sees a file: whoever calls reads the chunks and keeps the references.

use bytes::Bytes;
pub use cid::Version;
use multihash_codetable::{Code, MultihashDigest};
use sha2::{Digest, Sha256};

use super::{
    DagError,
    chunker::Chunker,
    dagpb::{self, Link, Node},
    unixfs::{Data, Kind},
    wrap::Wrap,
};
use crate::block::{BLOCK_BYTES_MAX, Block, Cid, DAG_PB, Multihash, Prefix, RAW, SHA2_256};

/// The most children that a node may be given. A link and its size entry take at most 100 bytes (64-byte digest), so
/// that a full node stays below a block's 2 MiB.
pub const WIDTH_MAX: usize = 16_384;

/// How a file becomes a tree. Two files with the same bytes and profile have the same root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Of every dag-pb node. Raw leaves are always version 1, and so is everything not hashed by SHA-256.
    pub cid_version: Version,
    /// Whether leaves are bare bytes, or dag-pb nodes.
    pub raw_leaves: bool,
    /// Where a file is cut into leaves.
    pub chunker: Chunker,
    /// Children of each inner node but the last of its level: 2 to [`WIDTH_MAX`].
    pub width: usize,
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
        hash: HashFunction::SHA2_256,
    };
    /// `unixfs-v0-2015` (IPIP-499): 256 KiB dag-pb leaves, 174 a node; what `ipfs add` does without options.
    pub const V0_2015: Self = Self {
        cid_version: Version::V0,
        raw_leaves: false,
        chunker: Chunker::Size(262_144),
        width: 174,
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
        if self.raw_leaves { Wrap::Raw } else { Wrap::File }
    }

    /// The name of a dag-pb node with that digest.
    fn node_cid(&self, multihash: Multihash) -> Cid {
        if self.cid_version == Version::V0
            && let Ok(cid) = Cid::new_v0(multihash)
        {
            return cid;
        }
        Cid::new_v1(DAG_PB, multihash)
    }

    fn leaf_cid(&self, multihash: Multihash) -> Cid {
        if self.raw_leaves { Cid::new_v1(RAW, multihash) } else { self.node_cid(multihash) }
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
    /// Leaves of the tree; 1 for an empty file.
    pub leaves: u64,
}

/// Names one chunk without copying it (with SHA-256, or raw leaves).
///
/// # Panics
/// When the leaf's block would be larger than [`BLOCK_BYTES_MAX`], which no [`super::chunker::Chunker`] allows.
#[must_use]
pub fn leaf(profile: &Profile, data: &[u8]) -> LeafRef {
    let length = u32::try_from(data.len()).expect("chunks are far below 4 GiB");
    let (prefix, suffix) = profile.wrap().affixes(length);
    let block_bytes = prefix.len() + data.len() + suffix.len();
    assert!(block_bytes <= BLOCK_BYTES_MAX, "a leaf of {block_bytes} bytes is larger than a block may be");
    let cid = profile.leaf_cid(profile.hash.digest([&prefix, data, &suffix]));
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
    seal(&profile.leaf_cid(profile.hash.digest([&[], &[], &[]])), bytes)
}

/// Seals our own bytes under the version, codec and hash of `like`.
fn seal(like: &Cid, bytes: Vec<u8>) -> Block {
    Block::seal(Prefix::of(like), Bytes::from(bytes)).expect("our own nodes fit a block and have a known hash")
}

/// Makes the inner nodes of a balanced tree from its leaves in file order.
#[derive(Debug)]
pub struct Builder {
    profile: Profile,
    /// `levels[0]` holds leaves that have no parent yet, `levels[1]` their parents without a parent, and so on.
    levels: Vec<Vec<LeafRef>>,
    leaves: u64,
}

impl Builder {
    /// A builder without leaves.
    ///
    /// # Panics
    /// When the profile's width is not in 2 to [`WIDTH_MAX`].
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        assert!((2..=WIDTH_MAX).contains(&profile.width), "width {} is not in 2..={WIDTH_MAX}", profile.width);
        Self { profile, levels: Vec::new(), leaves: 0 }
    }

    /// Takes the next leaf and gives every inner node that is now full to `sink`, children before parents.
    pub fn push(&mut self, leaf: LeafRef, sink: &mut dyn FnMut(Block)) {
        self.leaves += 1;
        self.put(0, leaf);
        let mut level = 0;
        while self.levels.get(level).is_some_and(|links| links.len() == self.profile.width) {
            self.close(level, sink);
            level += 1;
        }
    }

    /// Gives the remaining nodes to `sink` and names the tree. Without any leaf this is the empty file, whose one empty
    /// leaf is given to `sink` as well, because there is no file that it could be served from.
    pub fn finish(mut self, sink: &mut dyn FnMut(Block)) -> Root {
        if self.leaves == 0 {
            let block = leaf_block(&self.profile, &[]);
            self.leaves = 1;
            self.put(0, LeafRef { cid: *block.cid(), file_bytes: 0, tsize: block.bytes().len() as u64 });
            sink(block);
        }
        let mut level = 0;
        loop {
            // The highest level is the last: every other one that still holds something gets its parent, also when it
            // is one alone, so that all leaves are equally deep.
            if let ([only], true) = (&self.levels[level][..], level + 1 == self.levels.len()) {
                return Root { cid: only.cid, size: only.file_bytes, tsize: only.tsize, leaves: self.leaves };
            }
            if !self.levels[level].is_empty() {
                self.close(level, sink);
            }
            level += 1;
        }
    }

    fn put(&mut self, level: usize, link: LeafRef) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(link);
    }

    /// Makes the parent of everything that waits at `level`.
    fn close(&mut self, level: usize, sink: &mut dyn FnMut(Block)) {
        let children = &mut self.levels[level];
        let blocksizes: Vec<u64> = children.iter().map(|child| child.file_bytes).collect();
        let file_bytes = blocksizes.iter().sum();
        let below: u64 = children.iter().map(|child| child.tsize).sum();
        let data = Data { filesize: Some(file_bytes), blocksizes, ..Data::new(Kind::File) }.encode();
        let links = children.drain(..).map(|child| Link {
            cid: child.cid,
            name: Bytes::new().into(),
            tsize: Some(child.tsize),
        });
        let node = Node { links: links.collect(), data: Some(data.into()) };
        let like = self.profile.node_cid(self.profile.hash.digest([&[], &[], &[]]));
        let block = seal(&like, dagpb::encode(&node));
        let parent = LeafRef { cid: *block.cid(), file_bytes, tsize: below + block.bytes().len() as u64 };
        self.put(level + 1, parent);
        sink(block);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(profile: Profile, file: &[u8]) -> (Root, Vec<Block>) {
        let mut blocks = Vec::new();
        let mut builder = Builder::new(profile);
        for chunk in file.chunks(profile.chunker.bytes_max() as usize) {
            builder.push(leaf(&profile, chunk), &mut |block| blocks.push(block));
        }
        let root = builder.finish(&mut |block| blocks.push(block));
        (root, blocks)
    }

    /// Collect all, group, repeat: the definition of the balanced layout.
    fn naive(profile: &Profile, file: &[u8]) -> (Cid, u64, u64) {
        let mut level: Vec<(Cid, u64, u64)> = file
            .chunks(profile.chunker.bytes_max() as usize)
            .map(|chunk| {
                let block = leaf_block(profile, chunk);
                (*block.cid(), chunk.len() as u64, block.bytes().len() as u64)
            })
            .collect();
        if level.is_empty() {
            let block = leaf_block(profile, &[]);
            level.push((*block.cid(), 0, block.bytes().len() as u64));
        }
        while level.len() > 1 {
            level = level
                .chunks(profile.width)
                .map(|group| {
                    let data = Data {
                        filesize: Some(group.iter().map(|g| g.1).sum()),
                        blocksizes: group.iter().map(|g| g.1).collect(),
                        ..Data::new(Kind::File)
                    };
                    let links =
                        group.iter().map(|g| Link { cid: g.0, name: Bytes::new().into(), tsize: Some(g.2) }).collect();
                    let bytes = Bytes::from(dagpb::encode(&Node { links, data: Some(data.encode().into()) }));
                    let length = bytes.len() as u64;
                    let prefix = if profile.cid_version == Version::V0 { Prefix::DAG_PB_V0 } else { Prefix::DAG_PB_V1 };
                    let cid = *Block::seal(prefix, bytes).unwrap().cid();
                    (cid, group.iter().map(|g| g.1).sum(), length + group.iter().map(|g| g.2).sum::<u64>())
                })
                .collect();
        }
        level[0]
    }

    #[test]
    fn a_leaf_has_the_name_of_its_block() {
        for hash in ["sha2-256", "sha2-512", "blake2b-256", "blake3"] {
            let hash = HashFunction::parse(hash).unwrap();
            assert_eq!(HashFunction::from_code(hash.code()), Ok(hash));
            for profile in [Profile::V1_2025, Profile::V0_2015] {
                let profile = Profile { hash, ..profile };
                for length in [0, 1, 127, 128, 300_000] {
                    let data = vec![5; length];
                    let (named, block) = (leaf(&profile, &data), leaf_block(&profile, &data));
                    assert_eq!((named.cid, named.tsize), (*block.cid(), block.bytes().len() as u64));
                    assert_eq!(named.file_bytes, length as u64);
                }
            }
        }
    }

    #[test]
    fn short_and_unknown_hashes_are_refused() {
        assert!(HashFunction::from_code(0x9999).is_err());
        assert!(HashFunction::from_code(0xb250).is_err(), "blake2s-128");
        assert!(HashFunction::parse("md5").is_err());
    }

    #[test]
    fn version_0_is_only_for_sha2_256() {
        let profile = Profile { hash: HashFunction::parse("blake3").unwrap(), ..Profile::V0_2015 };
        assert_eq!(build(profile, &[1; 300_000]).0.cid.version(), Version::V1);
        assert_eq!(build(Profile::V0_2015, &[1; 300_000]).0.cid.version(), Version::V0);
    }

    #[test]
    fn one_chunk_is_its_own_root_and_the_empty_file_one_empty_leaf() {
        let (root, blocks) = build(Profile::V0_2015, b"hello world");
        assert_eq!(root.cid.to_string(), "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD");
        assert_eq!((root.size, root.tsize, root.leaves, blocks.len()), (11, 19, 1, 0));
        let (root, blocks) = build(Profile::V1_2025, b"");
        assert_eq!(root.cid.to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
        assert_eq!((root.size, root.leaves, blocks.len()), (0, 1, 1));
    }

    #[test]
    fn the_widest_node_fits_a_block() {
        let profile = Profile {
            width: WIDTH_MAX,
            hash: HashFunction::parse("sha2-512").unwrap(),
            ..Profile::kubo_defaults(Version::V1)
        };
        let big = LeafRef { file_bytes: 1 << 39, tsize: 1 << 40, ..leaf(&profile, &[1]) };
        let mut builder = Builder::new(profile);
        let mut longest = 0;
        for _ in 0..WIDTH_MAX {
            builder.push(big, &mut |block| longest = longest.max(block.bytes().len()));
        }
        assert!(longest > 1 << 20 && longest <= BLOCK_BYTES_MAX);
    }

    #[test]
    fn memory_is_bounded_by_width_and_depth() {
        let profile = Profile { width: 16, ..Profile::V1_2025 };
        let one = leaf(&profile, &[0; 1024]);
        let mut builder = Builder::new(profile);
        let mut nodes = 0_u64;
        for _ in 0..70_000 {
            builder.push(one, &mut |_| nodes += 1);
            assert!(builder.levels.iter().map(Vec::len).sum::<usize>() < 16 * 5);
        }
        let root = builder.finish(&mut |_| nodes += 1);
        assert_eq!((root.size, root.leaves), (70_000 * 1024, 70_000));
        assert_eq!(nodes, 4375 + 274 + 18 + 2 + 1);
    }

    proptest! {
        #[test]
        fn the_tree_is_the_naive_one(
            (chunk, width) in (1_u32..5, 2_usize..6),
            file in prop::collection::vec(any::<u8>(), 0..300),
            raw_leaves: bool,
            version_1: bool,
        ) {
            let cid_version = if version_1 { Version::V1 } else { Version::V0 };
            let profile = Profile { cid_version, raw_leaves, chunker: Chunker::Size(chunk), width, hash: HashFunction::SHA2_256 };
            let (root, _) = build(profile, &file);
            prop_assert_eq!((root.cid, root.size, root.tsize), naive(&profile, &file));
            prop_assert_eq!(root.leaves, (file.len() as u64).div_ceil(u64::from(chunk)).max(1));
        }
    }
}
