//! Imports one file in place: its leaves are hashed where they lie, on all cores, and the index gets references.
//!
//! The file is read once, in runs of about one MiB that are dealt to the workers in turn; each worker hands its results
//! back through its own small queue, so that they come in file order and memory is bounded whatever the file's size.
//! Nothing is in the index as a file until all of it is there and the file is still what it was at the start.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::block::Block;
use crate::dag::builder::{Builder, LeafRef, Profile, Root, leaf, leaf_block};
use crate::store::{Activation, Attributes, FileState, Member, NewFile, SmallFile, SourceFile, Store};
use crate::transfer::failure::{Failure, from_store};
use crate::transfer::plan::{self, Tree};

use super::{Done, Import, Watch, cancelled};

/// Bytes that a worker reads at once.
const RUN_BYTES: u64 = 1 << 20;

/// Leaves in one run at the most, for tiny chunks.
const RUN_LEAVES_MAX: u64 = 4096;

/// Runs that a worker may be ahead of the tree.
const RUNS_AHEAD: usize = 8;

/// Bytes of a file in memory while its content says where it is cut.
const CUT_WINDOW_BYTES: usize = 4 << 20;

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
    _attributes: Attributes,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<(Root, Tree), Failure> {
    let profile = &import.profile;
    let mut nodes = NodeBatch { store, blocks: Vec::new() };
    let root = hash_file(source, profile, &mut nodes, watch)?;
    if root.size == 0 {
        nodes.blocks.push(leaf_block(profile, &[]));
    }
    nodes.flush()?;
    source.unchanged().map_err(|e| from_store(&e))?;
    let mut wrap = Vec::new();
    profile.wrap().to_tag(&mut wrap);
    let tree = Tree { root: root.cid, size: root.size, wrap, single: root.leaves == 1 };
    Ok((root, tree))
}

/// Hashes all leaves and builds the tree.
fn hash_file(
    source: &SourceFile,
    profile: &Profile,
    nodes: &mut NodeBatch<'_>,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<Root, Failure> {
    let total = source.len();
    let Some(chunk) = profile.chunker.fixed() else { return hash_by_content(source, profile, nodes, watch) };
    let chunk = u64::from(chunk);
    let run_bytes = chunk * (RUN_BYTES / chunk).clamp(1, RUN_LEAVES_MAX);
    let runs = total.div_ceil(run_bytes);
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let zero_leaf = leaf(profile, &vec![0; profile.chunker.bytes_max() as usize]);
    let mut builder = Builder::new(*profile);
    if total == 0 {
        let empty = leaf(profile, &[]);
        builder.push(empty, &mut |block| nodes.blocks.push(block));
        return Ok(builder.finish(&mut |block| nodes.blocks.push(block)));
    }
    std::thread::scope(|scope| {
        let queues: Vec<Receiver<Result<Vec<LeafRef>, Failure>>> = (0..workers)
            .map(|worker| {
                let (results, queue) = sync_channel(RUNS_AHEAD);
                let zero_leaf = &zero_leaf;
                scope.spawn(move || {
                    let mine = (worker as u64..runs).step_by(workers);
                    hash_runs(source, profile, run_bytes, zero_leaf, mine, &results);
                });
                queue
            })
            .collect();
        let mut done = 0;
        for (_, queue) in (0..runs).zip(queues.iter().cycle()) {
            let leaves = queue.recv().map_err(|_| Failure::new("bug", "an import worker has died"))??;
            for leaf in leaves {
                done += leaf.file_bytes;
                builder.push(leaf, &mut |block| nodes.blocks.push(block));
            }
            nodes.flush_when_full()?;
            if !watch(done) {
                return Err(cancelled());
            }
        }
        Ok(builder.finish(&mut |block| nodes.blocks.push(block)))
    })
}

/// As [`hash_file`] where the content says where a leaf ends: nobody knows that of the middle of a file, so one thread goes
/// through it.
fn hash_by_content(
    source: &SourceFile,
    profile: &Profile,
    nodes: &mut NodeBatch<'_>,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<Root, Failure> {
    let longest = profile.chunker.bytes_max() as usize;
    let mut builder = Builder::new(*profile);
    let mut window = vec![0; CUT_WINDOW_BYTES.max(2 * longest)];
    let (mut offset, mut filled) = (0_u64, 0_usize);
    loop {
        let read_at = offset + filled as u64;
        let room = window.len() - filled;
        let more = usize::try_from(source.len() - read_at).unwrap_or(usize::MAX).min(room);
        source.read_at(read_at, &mut window[filled..filled + more]).map_err(|e| from_store(&e))?;
        filled += more;
        let last = offset + filled as u64 == source.len();
        let mut rest = &window[..filled];
        while !rest.is_empty() && (last || rest.len() >= longest) {
            let (data, after) = rest.split_at(profile.chunker.cut(rest));
            builder.push(leaf(profile, data), &mut |block| nodes.blocks.push(block));
            rest = after;
        }
        let (used, left) = (filled - rest.len(), rest.len());
        source.release(offset..offset + used as u64);
        window.copy_within(used..filled, 0);
        (offset, filled) = (offset + used as u64, left);
        nodes.flush_when_full()?;
        if !watch(offset) {
            return Err(cancelled());
        }
        if last {
            return Ok(builder.finish(&mut |block| nodes.blocks.push(block)));
        }
    }
}

/// One worker: hashes its runs until there are none, an error, or nobody listens.
fn hash_runs(
    source: &SourceFile,
    profile: &Profile,
    run_bytes: u64,
    zero_leaf: &LeafRef,
    runs: impl Iterator<Item = u64>,
    results: &SyncSender<Result<Vec<LeafRef>, Failure>>,
) {
    #[expect(clippy::cast_possible_truncation, reason = "at most RUN_BYTES or one chunk")]
    let mut buffer = vec![0; run_bytes.min(source.len()) as usize];
    for run in runs {
        let result = hash_run(source, profile, run * run_bytes, run_bytes, zero_leaf, &mut buffer);
        let failed = result.is_err();
        if results.send(result).is_err() || failed {
            return;
        }
    }
}

fn hash_run(
    source: &SourceFile,
    profile: &Profile,
    offset: u64,
    run_bytes: u64,
    zero_leaf: &LeafRef,
    buffer: &mut [u8],
) -> Result<Vec<LeafRef>, Failure> {
    let end = (offset + run_bytes).min(source.len());
    let chunk = profile.chunker.bytes_max();
    let full_chunks = (end - offset) / u64::from(chunk);
    if full_chunks * u64::from(chunk) == end - offset && source.is_hole(&(offset..end)) {
        return Ok((0..full_chunks).map(|_| *zero_leaf).collect());
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most RUN_BYTES or one chunk")]
    let Some(bytes) = buffer.get_mut(..(end - offset) as usize) else {
        return Err(Failure::new("bug", "an import buffer is too small"));
    };
    source.read_at(offset, bytes).map_err(|e| from_store(&e))?;
    let leaves = bytes.chunks(chunk as usize).map(|chunk| leaf(profile, chunk)).collect();
    source.release(offset..end);
    Ok(leaves)
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
