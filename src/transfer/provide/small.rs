//! Reads and hashes one file or link among many, on one thread, all of it: what comes out is ready for the index.

use std::path::{Path, PathBuf};

use super::walk::Leaf;
use super::{Import, unreadable};
use crate::block::{Block, Cid, identity_content};
use crate::dag::builder::{Builder, Root, leaf, sole_leaf};
use crate::dag::chunker::Chunker;
use crate::dag::directory;
use crate::store::{self, Attributes, CompleteFile, LeafAt, SmallFile};
use crate::transfer::failure::{Failure, from_store};

/// Larger files are read by several threads at once.
const BYTES_MAX: u64 = 64 << 20;
/// As are files with more leaves than that, which would take much memory here.
const LEAVES_MAX: u64 = 4096;
/// Bytes that are read at once, or one leaf's.
const RUN_BYTES: u64 = 1 << 20;

/// What has been read.
#[derive(Debug)]
pub(super) enum Read {
    /// A link or an empty file.
    Node(Box<Whole>),
    File(Box<Hashed>),
    /// It is too large to be read here.
    Large(Attributes),
}

/// What is a node and nothing else.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) cid: Cid,
    pub(super) tsize: u64,
    /// `None` when it is in the CID.
    pub(super) block: Option<Block>,
}

impl Read {
    /// Bytes of the file, as far as they have been read.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::File(hashed) => hashed.root.size,
            Self::Node(_) | Self::Large(_) => 0,
        }
    }
}

/// A file that has been read and hashed.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) root: Root,
    /// Inner nodes.
    pub(super) nodes: Vec<Block>,
    /// Its entry of the index; the place in a collection is still to come.
    pub(super) file: CompleteFile,
}

/// Reads one file after the other.
pub(super) struct Reader<'a> {
    import: &'a Import,
    buffer: Vec<u8>,
    /// What is around the leaves of a file that has several.
    wrap: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(import: &'a Import) -> Self {
        let mut wrap = Vec::new();
        import.profile.wrap().to_tag(&mut wrap);
        Self { import, buffer: Vec::new(), wrap }
    }

    pub(super) fn read(&mut self, path: PathBuf, leaf: Leaf) -> Result<Read, Failure> {
        match leaf {
            Leaf::File => self.file(path),
            Leaf::Link => link(self.import, &path),
        }
    }

    fn file(&mut self, path: PathBuf) -> Result<Read, Failure> {
        let mut file = SmallFile::open(path).map_err(|e| from_store(&e))?;
        let profile = &self.import.profile;
        if file.len() > BYTES_MAX || file.len() / u64::from(shortest(profile.chunker)) > LEAVES_MAX {
            return Ok(Read::Large(file.attributes()));
        }
        let metadata = self.import.keep.metadata(Some(&file.attributes()));
        let mut wrap = self.wrap.clone();
        let mut nodes = Vec::new();
        let mut leaves = Vec::new();
        let mut builder = Builder::new(*profile);
        let longest = u64::from(profile.chunker.bytes_max());
        let run_bytes = match profile.chunker.fixed() {
            Some(_) => longest * (RUN_BYTES / longest).max(1),
            None => RUN_BYTES.max(2 * longest),
        };
        let mut offset = 0;
        while offset < file.len() {
            #[expect(clippy::cast_possible_truncation, reason = "at most RUN_BYTES or one chunk")]
            let run = run_bytes.min(file.len() - offset) as usize;
            self.buffer.resize(run.max(self.buffer.len()), 0);
            let bytes = &mut self.buffer[..run];
            file.read_at(offset, bytes).map_err(|e| from_store(&e))?;
            let last = offset + run as u64 == file.len();
            let mut rest = &bytes[..];
            // A cut that looks at fewer bytes than it may need is made again with more of the file.
            while !rest.is_empty() && (last || rest.len() as u64 >= longest) {
                let (data, after) = rest.split_at(profile.chunker.cut(rest));
                rest = after;
                let leaf = if data.len() as u64 == file.len() {
                    let (leaf, around) = sole_leaf(profile, data, metadata);
                    wrap.clear();
                    around.to_tag(&mut wrap);
                    leaf
                } else {
                    leaf(profile, data)
                };
                #[expect(clippy::cast_possible_truncation, reason = "a chunk is far below 4 GiB")]
                leaves.push(LeafAt { multihash: *leaf.cid.hash(), offset, len: data.len() as u32 });
                offset += data.len() as u64;
                builder.push(leaf, &mut |block| nodes.push(block));
            }
        }
        let root = builder.finish_with(metadata, &mut |block| nodes.push(block));
        let file = file.finish().map_err(|e| from_store(&e))?;
        if root.size == 0 {
            return Ok(Read::Node(Box::new(Whole { cid: root.cid, tsize: root.tsize, block: nodes.pop() })));
        }
        let file = CompleteFile { file, root: root.cid, leaves, wrap };
        Ok(Read::File(Box::new(Hashed { root, nodes, file })))
    }
}

/// Bytes that all chunks but the last have at the least.
const fn shortest(chunker: Chunker) -> u32 {
    match chunker {
        Chunker::Size(bytes) => bytes,
        Chunker::Rabin { min, .. } => min,
        Chunker::Buzhash => 128 << 10,
    }
}

fn link(import: &Import, path: &Path) -> Result<Read, Failure> {
    let target = std::fs::read_link(path).map_err(unreadable(path))?;
    let target = store::target_bytes(&target)
        .ok_or_else(|| Failure::new("bad-name", format!("{} points to what is not Unicode", path.display())))?;
    let attributes = if import.keep.mtime {
        Some(store::path_attributes(&std::fs::symlink_metadata(path).map_err(unreadable(path))?))
    } else {
        None
    };
    let metadata = import.keep.link_metadata(attributes.as_ref());
    let block = directory::symlink(&import.directory, &target, metadata)
        .map_err(|e| Failure::new("bad-name", format!("{}: {e}", path.display())))?;
    let cid = *block.cid();
    let tsize = block.bytes().len() as u64;
    Ok(Read::Node(Box::new(Whole { cid, tsize, block: identity_content(&cid).is_none().then_some(block) })))
}
