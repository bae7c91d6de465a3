//! The store's vocabulary: files, their states, and where a leaf's bytes lie.
//!
//! Plain values; how they are laid out on the disk is `index/tables.rs`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::file::platform;
use crate::block::{Cid, Multihash};

/// How many leaves make an extent: [`Activation::extents`] has the offset of every so-manyth leaf, so that somebody who
/// knows a leaf's ordinal finds its offset by walking at most this many leaves of the tree.
pub const EXTENT_LEAVES: u64 = 32;

/// A file of the index. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(super) u32);

impl FileId {
    /// The bare number, for messages and logs.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A collection of the index: a directory's files, or a DAG of plain blocks. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionId(pub(super) u32);

impl CollectionId {
    /// The bare number, for messages and logs.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A file's place in a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The collection.
    pub collection: CollectionId,
    /// Which of its entries, in an order that whoever made the collection can make again.
    pub entry: u32,
}

/// Where a collection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectionState {
    /// Being added: the next open removes it and its files' references.
    Planning,
    /// Being pulled: what is there of it stays.
    Partial,
    /// All of it is there.
    Complete,
    /// Its files' references are being removed.
    Forgetting,
}

/// Several files, or a DAG of plain blocks, under one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionRecord {
    /// Its number.
    pub id: CollectionId,
    /// The root of its DAG, once known.
    pub root: Option<Cid>,
    /// The folder that it lies in; `None` for plain blocks, which lie in the index.
    pub path: Option<PathBuf>,
    /// Where it is in its life.
    pub state: CollectionState,
    /// Bytes of its files, or of its blocks.
    pub size: u64,
    /// How many files it has, or blocks.
    pub files: u64,
}

/// A collection to be known to the index.
#[derive(Debug, Clone)]
pub struct NewCollection {
    /// The root, where it is known already (a pull); an added one's comes with [`super::Store::finish_collection`].
    pub root: Option<Cid>,
    /// The folder that it lies in; `None` for plain blocks.
    pub path: Option<PathBuf>,
    /// True for one that is being pulled, which survives a restart before it is complete.
    pub partial: bool,
}

/// A file that is all there, with references to all its leaves: added to a collection with many others at once.
#[derive(Debug, Clone)]
pub struct CompleteFile {
    /// The file; `partial` is false, `member` is set.
    pub file: NewFile,
    /// The root of its tree.
    pub root: Cid,
    /// Its leaves in file order.
    pub leaves: Vec<LeafAt>,
    /// How the leaves' blocks are made of file bytes, as in [`LeafPlace::wrap`].
    pub wrap: Vec<u8>,
}

/// What a finished file is given besides its bytes, as far as the platform can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restore {
    /// Permissions; only the lowest nine bits are taken, because a swarm gives nobody setuid.
    pub mode: Option<u32>,
    /// When it was last written.
    pub mtime: Option<SystemTime>,
}

/// A pulled file whose bytes are all in memory, to be written at once with others.
#[derive(Debug, Clone)]
pub struct WholeFile {
    /// Where it will be; absolute, in a folder that exists.
    pub path: PathBuf,
    /// Its place in the collection.
    pub member: Member,
    /// The root of its tree.
    pub root: Cid,
    /// Its bytes in order, without gaps.
    pub pieces: Vec<Bytes>,
    /// Its leaves that are to be served from it, in file order; none for an empty file.
    pub leaves: Vec<LeafAt>,
    /// How the leaves' blocks are made of file bytes, as in [`LeafPlace::wrap`].
    pub wrap: Vec<u8>,
    /// What it is given besides its bytes.
    pub restore: Restore,
    /// Whether a file that is there with other bytes is replaced.
    pub replace: bool,
}

impl WholeFile {
    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

/// A leaf of a file that is being added.
#[derive(Debug, Clone, Copy)]
pub struct LeafAt {
    /// Its block's multihash.
    pub multihash: Multihash,
    /// Where its file bytes begin.
    pub offset: u64,
    /// How many file bytes it has.
    pub len: u32,
}

/// Where the bytes of a leaf's block lie in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafPlace {
    /// The file.
    pub file: FileId,
    /// Ordinal of the leaf in its file.
    pub leaf: u64,
    /// Where the leaf's file bytes begin.
    pub offset: u64,
    /// How many bytes of the file the leaf has (its block is longer by what `wrap` says).
    pub len: u32,
    /// How the block is made of file bytes: opaque here, [`Options::affixes`] knows. Empty means the bytes as they are.
    pub wrap: Vec<u8>,
}

/// What the file system calls one file, whatever its name: device and inode on unix, volume and file id on Windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Device or volume.
    pub device: u64,
    /// Inode or file id.
    pub inode: u128,
}

impl FileIdentity {
    /// Whether it is the same file, maybe after a boot, by all that lasts so long.
    pub(crate) const fn is_still(&self, then: &Self) -> bool {
        // File systems without a number of their own say 0; Wine says so of files that have been renamed.
        let tells = platform::DEVICE_NUMBERS_LAST && self.device != 0 && then.device != 0;
        self.inode == then.inode && (self.device == then.device || !tells)
    }
}

/// What a file looks like from outside, to tell whether it is still what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which file.
    pub identity: FileIdentity,
    /// Its length in bytes.
    pub len: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl Stamp {
    /// Whether a file still looks as it did then.
    pub(crate) const fn is_still(&self, then: &Self) -> bool {
        self.identity.is_still(&then.identity) && self.len == then.len && self.mtime_ns == then.mtime_ns
    }
}

/// What a file's owner says of it, which a DAG may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions: twelve bits.
    pub mode: u32,
    /// When it was last written, in whole seconds since 1970.
    pub mtime_seconds: i64,
    /// Nanoseconds into that second.
    pub mtime_nanos: u32,
}

/// A file to be known to the index.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Where its bytes are now; absolute.
    pub path: PathBuf,
    /// Where they will be when it is complete; the same for a file that is being added.
    pub final_path: PathBuf,
    /// The root, where it is known already (a pull); an added file's comes with [`Activation::root`].
    pub root: Option<Cid>,
    /// What the file looked like when it was opened.
    pub stamp: Stamp,
    /// True for a file that is being pulled: its leaves are live when their bits are set.
    pub partial: bool,
    /// The collection that it belongs to. A file of none is a root of its own.
    pub member: Option<Member>,
}

/// What turns a planned file into one that is served.
#[derive(Debug, Clone, Copy)]
pub struct Activation<'a> {
    /// The root of the file's tree.
    pub root: &'a Cid,
    /// How many leaves the file has.
    pub leaves: u64,
    /// Offset in bytes of leaves 0, [`EXTENT_LEAVES`], 2 × [`EXTENT_LEAVES`]…
    pub extents: &'a [u64],
}

/// Where a file is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// References are being written; nothing of it is served, and the next open removes it.
    Planning,
    /// Being pulled: leaves whose bit is set are there.
    Partial,
    /// All leaves are durable, the rename to its final name is under way.
    Finishing,
    /// All of it is there.
    Complete,
    /// A partial file that is not what it was; the reason is for people.
    Broken(String),
    /// References are being removed.
    Forgetting,
}

/// All that the index knows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Its number.
    pub id: FileId,
    /// Where its bytes are now.
    pub path: PathBuf,
    /// Where they will be when it is complete.
    pub final_path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// The root of its tree, once known.
    pub root: Option<Cid>,
    /// How many leaves it has; 0 while it is planned.
    pub leaves: u64,
    /// Where it is in its life.
    pub state: FileState,
    /// What it looked like when we learnt it. `None` for a moment while a part is being made.
    pub stamp: Option<Stamp>,
    /// How many leaves are there (all, for a complete file).
    pub present_leaves: u64,
    /// The collection that it belongs to.
    pub member: Option<Member>,
    /// What is wrong with the file on the disk, if something is: changed, gone, not readable. Its blocks are served only
    /// when they hash right. Remembered for a while, at most until the next open.
    pub trouble: Option<String>,
}

/// A root and the files that hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRecord {
    /// The root.
    pub cid: Cid,
    /// Length of the file in bytes.
    pub size: u64,
    /// Every file with that content, in the order of their numbers.
    pub files: Vec<FileId>,
}

/// Which way bytes are read from users' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReaderKind {
    /// Memory-mapped windows where the platform guards them against truncated files, positioned reads elsewhere.
    #[default]
    Mmap,
    /// Positioned reads.
    Pread,
    /// Unbuffered reads, past the page cache; positioned ones where the file system has none.
    Direct,
}

/// Which way leaves are written into users' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriterKind {
    /// Through the page cache, which lets go of them when they are durable.
    #[default]
    Buffered,
    /// Past the page cache, but for the ends of leaves that fill no whole block; buffered where the file system has no
    /// such writes.
    Direct,
}

/// How a pulled file's space is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocate {
    /// A sparse file: space is taken as leaves arrive.
    #[default]
    Sparse,
    /// All space is taken at the beginning.
    Full,
}

/// What a wrap tag puts before and after `len` bytes of file data to make a block of them.
pub type Affixes = fn(tag: &[u8], len: u32) -> (Vec<u8>, Vec<u8>);

fn no_affixes(_tag: &[u8], _len: u32) -> (Vec<u8>, Vec<u8>) {
    (Vec::new(), Vec::new())
}

/// How the store works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of address space for the index; it grows by itself when they are used up.
    pub map_bytes: usize,
    /// Size of a mapped window, in bytes: a power of two, at least a page.
    pub window_bytes: u64,
    /// How many bytes of windows may be mapped at a time.
    pub windows_bytes_max: u64,
    /// How files are read.
    pub reader: ReaderKind,
    /// How files are written.
    pub writer: WriterKind,
    /// Bytes of buffers that may lie idle.
    pub idle_bytes_max: usize,
    /// How often a served file is checked for changes, at most.
    pub recheck: Duration,
    /// Makes blocks of file bytes for non-empty wrap tags.
    pub affixes: Affixes,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            map_bytes: platform::MAP_BYTES,
            window_bytes: 8 << 20,
            windows_bytes_max: 64 << 20,
            reader: platform::READER,
            writer: WriterKind::Buffered,
            idle_bytes_max: 12 << 20,
            recheck: Duration::from_secs(2),
            affixes: no_affixes,
        }
    }
}
