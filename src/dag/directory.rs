//! Directories: from entries to blocks and back, one node at a time (protocols.md §3.6 to §3.8).
//!
//! [`build`] makes a directory as Kubo does: one node while that is small, else the shards of [`super::hamt`]. [`look`]
//! says what a foreign block is, [`lookup`] takes one step of a path. Nothing is fetched here, and nothing is looked
//! for below the given node: whoever walks keeps count of what is found ([`ENTRIES_MAX`], [`super::hamt::shards_max`]).
//!
//! Names are bytes. What is written has no name that a path cannot hold; what is read may have any, and whoever makes
//! files of them must look first.

mod entries;

use bytes::Bytes;

pub use self::entries::Entries;
pub(in crate::dag) use self::entries::Record;
pub use super::dagpb::Link as Entry;
use super::{
    DagError,
    builder::{HashFunction, Profile, Version, leaf},
    dagpb::{self, Node},
    hamt::{self, ShardNode, ShardPlace},
    proto::{push_bytes, varint_bytes},
    unixfs::{Data, Kind, Metadata},
};
use crate::block::{
    BLOCK_BYTES_MAX, Block, BlockError, Cid, DAG_PB, DIGEST_BYTES_MAX, IDENTITY, Multihash, Prefix, RAW,
};

/// The most entries of one directory that a reader should take before it gives up: some 2 GiB of [`Entries`]. One node
/// has at most [`dagpb::LINKS_MAX`].
pub const ENTRIES_MAX: u64 = 1 << 24;

/// How entries become a directory. The same entries, options and metadata have the same root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirOptions {
    /// Of every node. Whatever is not hashed by SHA-256, or inlined, is always version 1.
    pub cid_version: Version,
    /// What all blocks are hashed with.
    pub hash: HashFunction,
    /// Children of a shard: a power of two from 8 to 1024.
    pub fanout: u64,
    /// When a directory is sharded.
    pub threshold: Threshold,
    /// The most entries of a directory that is not sharded; 0 is as good as none. Kubo's `--max-directory-links`, of
    /// which it knows nothing in the directory that it is asked to add: 300 entries stay in one node there.
    pub max_links: Option<usize>,
    /// Nodes of up to so many bytes are not hashed: their CID holds them, and nobody stores them. Never more than
    /// [`DIGEST_BYTES_MAX`]. Kubo's `--inline`.
    pub inline: Option<u32>,
}

/// How large a directory may grow before it is sharded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// The largest estimate, in bytes, that is still one node (Kubo since 0.40; earlier ones shard there already).
    /// With 0 nothing is ever sharded.
    pub bytes: u64,
    /// What is compared with it.
    pub estimate: Estimate,
}

/// What a directory's size is taken to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimate {
    /// The bytes of all names and CIDs (`links-bytes`).
    Links,
    /// The bytes of the block (`block-bytes`).
    Block,
    /// Nothing: only [`DirOptions::max_links`] counts (`disabled`).
    Disabled,
}

impl DirOptions {
    /// `unixfs-v1-2025` (IPIP-499): sharded when the block has more than 256 KiB.
    pub const V1_2025: Self = Self {
        cid_version: Version::V1,
        threshold: Threshold { bytes: 262_144, estimate: Estimate::Block },
        ..Self::V0_2015
    };
    /// `unixfs-v0-2015` (IPIP-499): sharded when names and CIDs have more than 256 KiB; what `ipfs add` does without
    /// options.
    pub const V0_2015: Self = Self {
        cid_version: Version::V0,
        hash: HashFunction::SHA2_256,
        fanout: 256,
        threshold: Threshold { bytes: 262_144, estimate: Estimate::Links },
        max_links: None,
        inline: None,
    };

    /// What `ipfs add --cid-version=N` does: version 1 changes only the CIDs.
    #[must_use]
    pub const fn kubo_defaults(cid_version: Version) -> Self {
        Self { cid_version, ..Self::V0_2015 }
    }

    /// The options of the profile of that name: `unixfs-v1-2025` or `unixfs-v0-2015`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "unixfs-v1-2025" => Some(Self::V1_2025),
            "unixfs-v0-2015" => Some(Self::V0_2015),
            _ => None,
        }
    }
}

/// A finished node as its parent needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkTo {
    /// Its name.
    pub cid: Cid,
    /// Bytes of all blocks at and below it, counted each time they occur: what `ipfs add` calls size.
    pub tsize: u64,
}

/// Why entries cannot become a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Two entries have the same name.
    #[error("two entries are called {0:?}")]
    Duplicate(String),
    /// No path can name the entry.
    #[error("an entry is called {name:?}, which {reason}; rename it or leave it out")]
    Name {
        /// As it is.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Different names whose hashes are the same as far as shards can tell.
    #[error("{0:?} and {1:?} have the same place in a sharded directory; rename one of them")]
    Collision(String, String),
    /// A node larger than a block may be.
    #[error("a node of {0} bytes is larger than the {BLOCK_BYTES_MAX} of a block; let the directory be sharded")]
    TooLarge(u64),
    /// Not a power of two from 8 to 1024.
    #[error("a shard cannot have {0} children; use a power of two from 8 to 1024")]
    Fanout(u64),
}

/// Makes a directory of `entries` and gives its blocks to `sink`, children before parents. What is inlined is in its
/// CID and not given. Beside the entries this takes 16 bytes for each, and the nodes of one path.
///
/// # Errors
/// Any [`BuildError`]; some shards may then have been given to `sink` already.
pub fn build(
    options: &DirOptions,
    entries: &Entries,
    metadata: Metadata,
    sink: &mut dyn FnMut(Block),
) -> Result<LinkTo, BuildError> {
    if !hamt::is_fanout(options.fanout) {
        return Err(BuildError::Fanout(options.fanout));
    }
    let mut message = Data::new(Kind::Directory);
    metadata.set_in(&mut message);
    let data = message.encode();
    let weight = Weight::of(entries, data.len() as u64)?;
    let mut nodes = Nodes::new(options, sink);
    if weight.is_too_much(options, entries.len()) {
        hamt::build(options.fanout, entries, metadata, &mut nodes)
    } else if weight.block > BLOCK_BYTES_MAX as u64 {
        Err(BuildError::TooLarge(weight.block))
    } else {
        basic(entries, &data, &weight, &mut nodes)
    }
}

/// Makes a symbolic link. Kubo never gives one a mode. An inlined one need not be kept.
///
/// # Errors
/// [`BuildError::TooLarge`], for targets that no file system has.
pub fn symlink(options: &DirOptions, target: &[u8], metadata: Metadata) -> Result<Block, BuildError> {
    let mut message = Data { data: Some(Bytes::copy_from_slice(target)), ..Data::new(Kind::Symlink) };
    metadata.set_in(&mut message);
    let bytes = dagpb::encode(&Node { links: Vec::new(), data: Some(message.encode().into()) });
    Nodes::new(options, &mut drop).seal(bytes)
}

/// All entries in one node, in the order of their names.
fn basic(entries: &Entries, data: &[u8], weight: &Weight, nodes: &mut Nodes<'_>) -> Result<LinkTo, BuildError> {
    let mut records: Vec<Record<'_>> = entries.records().map(|(_, record)| record).collect();
    records.sort_unstable_by_key(|record| record.name);
    if let Some(twice) = records.array_windows().find(|[a, b]| a.name == b.name) {
        return Err(BuildError::Duplicate(readable(twice[0].name)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(weight.block).expect("a block fits memory"));
    for record in records {
        dagpb::push_link(&mut bytes, record.cid, [&[], record.name], Some(record.tsize));
    }
    push_bytes(&mut bytes, 1, data);
    debug_assert_eq!(bytes.len() as u64, weight.block, "the estimate is exact");
    nodes.put(bytes, weight.below)
}

/// A name for messages.
pub(in crate::dag) fn readable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// What the decision to shard depends on, in bytes.
struct Weight {
    links: u64,
    block: u64,
    below: u64,
}

impl Weight {
    /// Of a directory whose message has `data_bytes`. Refuses bad names on the way.
    fn of(entries: &Entries, data_bytes: u64) -> Result<Self, BuildError> {
        let mut weight = Self { links: 0, block: 1 + varint_bytes(data_bytes) + data_bytes, below: 0 };
        for (_, Record { name, cid, tsize }) in entries.records() {
            let reason = match name {
                b"" => "is nothing",
                b"." | b".." => "paths have another meaning for",
                name if name.contains(&b'/') => "has a slash in it",
                name if name.contains(&0) => "has a NUL in it",
                name => {
                    weight.links += (name.len() + cid.len()) as u64;
                    weight.block += dagpb::link_bytes(cid.len(), name.len(), Some(tsize));
                    weight.below = weight.below.saturating_add(tsize);
                    continue;
                }
            };
            return Err(BuildError::Name { name: readable(name), reason });
        }
        Ok(weight)
    }

    const fn is_too_much(&self, options: &DirOptions, entries: usize) -> bool {
        let bytes = match options.threshold.estimate {
            Estimate::Links => self.links,
            Estimate::Block => self.block,
            Estimate::Disabled => 0,
        };
        let too_many = match options.max_links {
            None | Some(0) => false,
            Some(most) => entries > most,
        };
        // Kubo looks at the size only when it adds an entry, so that an empty directory is never sharded.
        options.threshold.bytes > 0 && entries > 0 && (bytes > options.threshold.bytes || too_many)
    }
}

/// Names the nodes of one directory and gives them away.
pub(in crate::dag) struct Nodes<'a> {
    prefix: Prefix,
    inline_bytes: usize,
    sink: &'a mut dyn FnMut(Block),
}

impl<'a> Nodes<'a> {
    fn new(options: &DirOptions, sink: &'a mut dyn FnMut(Block)) -> Self {
        let &DirOptions { cid_version, hash, inline, .. } = options;
        // A leaf that is a node has the form of every node's CID.
        let like = leaf(&Profile { cid_version, hash, raw_leaves: false, ..Profile::V0_2015 }, &[]).cid;
        let inline_bytes = inline.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX).min(DIGEST_BYTES_MAX));
        Self { prefix: Prefix::of(&like), inline_bytes, sink }
    }

    /// A node of `bytes`, above blocks of `below` bytes in all.
    pub(in crate::dag) fn put(&mut self, bytes: Vec<u8>, below: u64) -> Result<LinkTo, BuildError> {
        let tsize = below.saturating_add(bytes.len() as u64);
        let block = self.seal(bytes)?;
        let cid = *block.cid();
        if cid.hash().code() != IDENTITY {
            (self.sink)(block);
        }
        Ok(LinkTo { cid, tsize })
    }

    fn seal(&self, bytes: Vec<u8>) -> Result<Block, BuildError> {
        let prefix = if bytes.len() <= self.inline_bytes {
            let content = Multihash::wrap(IDENTITY, &bytes).expect("not longer than a digest may be");
            Prefix::of(&Cid::new_v1(DAG_PB, content))
        } else {
            self.prefix
        };
        let length = bytes.len() as u64;
        Block::seal(prefix, bytes.into()).map_err(|error| match error {
            BlockError::TooLarge(_) => BuildError::TooLarge(length),
            other => unreachable!("our own prefixes name whatever fits a block: {other}"),
        })
    }
}

/// What a block is to whoever walks directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A directory in one node.
    Directory(Listing),
    /// The root or a part of a sharded directory.
    Shard(ShardNode),
    /// A symbolic link.
    Symlink {
        /// Where it leads: any bytes, not to be trusted.
        target: Bytes,
        /// What is known of it.
        metadata: Metadata,
    },
    /// A file or a part of one, which [`super::walk`] must look at.
    File {
        /// Bytes of the file, as the block claims.
        size: Option<u64>,
        /// What is known of it.
        metadata: Metadata,
    },
    /// A metadata node around a file, which is its first link (boxo `unixfs/io/dagreader.go`).
    Metadata {
        /// What it is about.
        file: Cid,
    },
    /// Something else.
    Other(Kind),
}

/// The entries of a directory in one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the block's order; at most [`dagpb::LINKS_MAX`].
    pub entries: Vec<Entry>,
    /// What is known of the directory.
    pub metadata: Metadata,
}

impl Listing {
    /// A name that more than one entry has. Others read the first of them or the last, so that nobody can say what such
    /// a directory holds; it should be refused.
    #[must_use]
    pub fn duplicate(&self) -> Option<&[u8]> {
        let mut names: Vec<&[u8]> = self.entries.iter().map(|entry| &*entry.name).collect();
        names.sort_unstable();
        names.array_windows().find(|[a, b]| a == b).map(|[twice, _]| *twice)
    }

    /// The entry of that name, the first if there are more (as Kubo).
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Entry> {
        self.entries.iter().find(|entry| *entry.name == *name)
    }
}

/// Why a block cannot be, or be part of, a directory that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirError {
    /// Not well formed, or of another codec.
    #[error(transparent)]
    Malformed(#[from] DagError),
    /// A path goes on below something that has no entries.
    #[error("it is a {0}, not a directory")]
    NotADirectory(Kind),
    /// The hash of names is not murmur3, or nothing is said of it.
    #[error("a shard hashes names by {0:?}; only murmur3 (0x22) is known")]
    NameHash(Option<u64>),
    /// Not a power of two from 8 to 1024.
    #[error("a shard claims a fan-out of {0:?}; powers of two from 8 to 1024 are possible")]
    Fanout(Option<u64>),
    /// Another fan-out than above.
    #[error("a shard of fan-out {found} stands below those of {expected}")]
    FanoutChanged {
        /// Of the root.
        expected: u64,
        /// Of the shard.
        found: u64,
    },
    /// The bit field does not describe the links.
    #[error("a shard's bit field {0}")]
    BitField(&'static str),
    /// A link's name does not begin with the number that the bit field has for it.
    #[error("a shard's link is called {name:?} where names begin with {prefix}")]
    LinkName {
        /// The link's name.
        name: String,
        /// What it should begin with.
        prefix: String,
    },
    /// The name's hash belongs elsewhere.
    #[error("{0:?} stands in a shard where nobody would look for it")]
    WrongPlace(String),
    /// A part of a sharded directory that holds nothing.
    #[error("a shard below the root is empty")]
    EmptyShard,
    /// Deeper than hashes are long.
    #[error("shards are nested deeper than 64 bits of hash allow")]
    TooDeep,
}

/// Says what a block is. Its bytes must be proven to be the CID's.
///
/// # Errors
/// [`DirError::Malformed`], and for shards whatever can be seen of them without knowing their place.
pub fn look(cid: &Cid, block: &Bytes) -> Result<Found, DirError> {
    match cid.codec() {
        RAW => return Ok(Found::File { size: Some(block.len() as u64), metadata: Metadata::default() }),
        DAG_PB => {}
        other => return Err(DagError::UnknownCodec(other).into()),
    }
    let Node { links, data } = dagpb::decode(block)?;
    let message = Data::decode(&data.ok_or(DagError::Unixfs("it is absent"))?)?;
    let metadata = message.metadata();
    Ok(match message.kind {
        Kind::Directory => Found::Directory(Listing { entries: links, metadata }),
        Kind::HamtShard => Found::Shard(ShardNode::new(links, &message)?),
        Kind::Symlink => Found::Symlink { target: message.data.unwrap_or_default(), metadata },
        Kind::File | Kind::Raw => {
            let own = || links.is_empty().then(|| message.data.as_ref().map_or(0, Bytes::len) as u64);
            Found::File { size: message.filesize.or_else(own), metadata }
        }
        Kind::Metadata => match links.first() {
            Some(link) => Found::Metadata { file: link.cid },
            None => Found::Other(Kind::Metadata),
        },
    })
}

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To this entry.
    Entry(Entry),
    /// To a part of the directory, where to look next.
    Shard {
        /// Its block.
        cid: Cid,
        /// Its place, to be given to the next [`lookup`].
        place: ShardPlace,
    },
    /// Nowhere: the directory has no such entry.
    Absent,
}

/// Takes one step towards `name`, from a directory or the shard of one at `place` ([`ShardPlace::ROOT`] for what a CID
/// or an entry leads to).
///
/// # Errors
/// [`DirError::NotADirectory`], and what is wrong with a shard on the way.
pub fn lookup(name: &[u8], found: &Found, place: &ShardPlace) -> Result<Step, DirError> {
    match found {
        Found::Directory(listing) => Ok(listing.find(name).cloned().map_or(Step::Absent, Step::Entry)),
        Found::Shard(shard) => shard.lookup(name, place),
        Found::Symlink { .. } => Err(DirError::NotADirectory(Kind::Symlink)),
        Found::File { .. } => Err(DirError::NotADirectory(Kind::File)),
        Found::Metadata { .. } => Err(DirError::NotADirectory(Kind::Metadata)),
        Found::Other(kind) => Err(DirError::NotADirectory(*kind)),
    }
}

#[cfg(test)]
mod tests;
