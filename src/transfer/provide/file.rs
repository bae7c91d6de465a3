//! Imports one file in place: its leaves are hashed where they lie, and the index gets inner nodes and references.
//!
//! Nothing is in the index as a file until all of it is there and the file is still what it was at the start.

use std::path::Path;

use crate::block::Block;
use crate::dag::builder::{Builder, LeafRef, Root, sole_leaf};
use crate::dag::chunker::Chunker;
use crate::store::{Activation, Attributes, FileState, Member, NewFile, SmallFile, SourceFile, Store};
use crate::transfer::failure::{Failure, from_store};
use crate::transfer::plan::{self, Tree};

use super::hash::hash_leaves;
use super::{Done, Import, Watch, cancelled};

/// Inner nodes in one commit.
const NODES_PER_COMMIT: usize = 64;

/// Imports a file as a root of its own. With no store only the CID is computed.
pub(super) fn import_alone(
    store: Option<&Store>,
    path: &Path,
    import: &Import,
    watch: &mut Watch<'_>,
) -> Result<Root, Failure> {
    let attributes = SmallFile::open(path.to_owned()).map_err(|e| from_store(&e))?.attributes();
    let source = SourceFile::open(path).map_err(|e| from_store(&e))?;
    let total = Some(source.len());
    let mut watch = |bytes| watch(Done { bytes, total, files: 0 });
    let (root, tree) = hash(store, &source, import, attributes, &mut watch)?;
    let Some(store) = store else { return Ok(root) };
    let before: Vec<_> = store
        .single_files()
        .map_err(|e| from_store(&e))?
        .into_iter()
        .filter(|file| file.path == source.path() && matches!(file.state, FileState::Complete))
        .collect();
    if before.iter().any(|file| file.root == Some(root.cid) && file.stamp == Some(source.stamp())) {
        return Ok(root);
    }
    record(store, &source, &root, &tree, None)?;
    // What the index said of an earlier content at this path is no longer true.
    for file in before {
        store.forget_file(file.id).map_err(|e| from_store(&e))?;
    }
    Ok(root)
}

/// Imports a file as a member of a collection.
pub(super) fn import_member(
    store: Option<&Store>,
    path: &Path,
    import: &Import,
    attributes: Attributes,
    member: Option<Member>,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<Root, Failure> {
    let source = SourceFile::open(path).map_err(|e| from_store(&e))?;
    let (root, tree) = hash(store, &source, import, attributes, watch)?;
    if let Some(store) = store {
        record(store, &source, &root, &tree, member)?;
    }
    Ok(root)
}

/// Hashes a file, and gives the index the tree's inner nodes.
fn hash(
    store: Option<&Store>,
    source: &SourceFile,
    import: &Import,
    attributes: Attributes,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<(Root, Tree), Failure> {
    let profile = &import.profile;
    let mut nodes = NodeBatch { store, blocks: Vec::new() };
    let mut builder = Builder::new(*profile);
    let metadata = import.keep.metadata(Some(&attributes));
    let (mut sole, mut wrap) = (None, profile.wrap());
    if let Some(chunk) = only_chunk(source, profile.chunker)? {
        let (leaf, around) = sole_leaf(profile, &chunk, metadata);
        builder.push(leaf, &mut |block| nodes.blocks.push(block));
        (sole, wrap) = (Some(leaf.cid), around);
    } else {
        let mut done = 0;
        let mut each = |leaves: Vec<LeafRef>| {
            for leaf in leaves {
                done += leaf.file_bytes;
                builder.push(leaf, &mut |block| nodes.blocks.push(block));
            }
            nodes.flush_when_full()?;
            if watch(done) { Ok(()) } else { Err(cancelled()) }
        };
        hash_leaves(source, profile, &mut each)?;
    }
    let root = builder.finish_with(metadata, &mut |block| nodes.blocks.push(block));
    nodes.flush()?;
    source.unchanged().map_err(|e| from_store(&e))?;
    let mut tag = Vec::new();
    wrap.to_tag(&mut tag);
    let tree = Tree { root: root.cid, size: root.size, wrap: tag, single: sole == Some(root.cid) };
    Ok((root, tree))
}

/// The bytes of a file that is one chunk; `None` of an empty one, and of one that has more.
fn only_chunk(source: &SourceFile, chunker: Chunker) -> Result<Option<Vec<u8>>, Failure> {
    let may_be = (1..=u64::from(chunker.bytes_max())).contains(&source.len());
    let Some(bytes) = usize::try_from(source.len()).ok().filter(|_| may_be) else { return Ok(None) };
    let mut chunk = vec![0; bytes];
    source.read_at(0, &mut chunk).map_err(|e| from_store(&e))?;
    Ok((chunker.cut(&chunk) == bytes).then_some(chunk))
}

/// Enters the file and its references.
fn record(store: &Store, source: &SourceFile, root: &Root, tree: &Tree, member: Option<Member>) -> Result<(), Failure> {
    let id = store.register(&NewFile { member, ..NewFile::in_place(source) }).map_err(|e| from_store(&e))?;
    let entered = plan::write_references(store, id, tree).and_then(|extents| {
        source.unchanged().map_err(|e| from_store(&e))?;
        let activation = Activation { root: &root.cid, leaves: extents.leaves, extents: &extents.offsets };
        store.activate(id, activation).map_err(|e| from_store(&e))
    });
    if entered.is_err() {
        store.forget_file(id).map_err(|e| from_store(&e))?;
    }
    entered
}

/// Inner nodes on their way to the index, some at a time.
struct NodeBatch<'a> {
    store: Option<&'a Store>,
    blocks: Vec<Block>,
}

impl NodeBatch<'_> {
    fn flush_when_full(&mut self) -> Result<(), Failure> {
        if self.blocks.len() >= NODES_PER_COMMIT { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if let Some(store) = self.store.filter(|_| !self.blocks.is_empty()) {
            store.put_nodes(&self.blocks).map_err(|e| from_store(&e))?;
        }
        self.blocks.clear();
        Ok(())
    }
}
