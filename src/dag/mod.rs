//! Files and directories as trees of blocks: the formats, how trees are built, verified and walked.
//!
//! Owns dag-pb and UnixFS bytes, the import [`builder`], the verified descent of a pull ([`walk`]), the order of a
//! finished tree's leaves ([`layout`]), and directories both ways ([`directory`], [`hamt`]). All of it is pure:
//! no file, no socket, no clock, no thread of its own. It does not know where bytes are kept; whoever
//! calls brings them and takes them away.
//!
//! Invariants: what is encoded here is canonical, what is decoded from others is bounded by a block's size before
//! anything is allocated for it, and no number that a foreign block claims is used unchecked.

pub mod builder;
pub mod chunker;
pub mod dagpb;
pub mod directory;
pub mod hamt;
pub mod layout;
pub mod links;
pub mod path;
mod proto;
pub mod unixfs;
pub mod walk;
pub mod wrap;

/// Why bytes are not the node they should be, or options cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DagError {
    /// The block is not well-formed dag-pb (protocols.md §2).
    #[error("malformed dag-pb node: {0}")]
    Node(&'static str),
    /// The node's data is not a well-formed UnixFS message (protocols.md §3.1).
    #[error("malformed UnixFS data: {0}")]
    Unixfs(&'static str),
    /// A leaf was expected, and the node has links.
    #[error("the node has links, so it is no leaf")]
    HasLinks,
    /// A file was expected, and the node is something else.
    #[error("the node is a {0}, not a file")]
    NotAFile(unixfs::Kind),
    /// Neither raw nor dag-pb.
    #[error("codec 0x{0:x} is not supported; only raw (0x55) and dag-pb (0x70) are")]
    UnknownCodec(u64),
    /// The multihash code is not one that files can be added with.
    #[error("hash function {0} is not supported")]
    UnknownHash(String),
    /// The chunker's text cannot be honoured.
    #[error("chunker {text:?}: {reason}")]
    Chunker {
        /// What was asked for.
        text: String,
        /// Why not, and what instead.
        reason: &'static str,
    },
    /// The index's tag of a wrap is damaged.
    #[error("malformed wrap tag")]
    Tag,
}
