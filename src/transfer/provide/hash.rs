//! Hashes the leaves of one file on all cores and hands them over in file order.
//!
//! Where the chunker cuts every so many bytes, each worker reads its own runs, dealt in turn. Where the content says
//! where to cut, one thread reads and cuts, and deals what it has cut. Either way a worker hands its results back through
//! a small queue of its own, so that they come in file order and memory is bounded whatever the file's size.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use crate::dag::builder::{LeafRef, Profile, leaf};
use crate::dag::chunker::Chunker;
use crate::store::SourceFile;
use crate::transfer::failure::{Failure, from_store};

/// Bytes that a worker hashes at once.
const RUN_BYTES: u64 = 1 << 20;
/// Leaves in one run at the most, for tiny chunks.
const RUN_LEAVES_MAX: u64 = 4096;
/// Results that a worker may be ahead of the tree.
const RUNS_AHEAD: usize = 8;
/// Cut runs that may wait for a worker.
const CUTS_AHEAD: usize = 2;
/// A run of chunks cut by content is so many of the largest.
const CHUNKS_PER_CUT: usize = 4;

type Leaves = Result<Vec<LeafRef>, Failure>;

/// Hashes a file that is not empty. `each` gets the leaves of some bytes at a time.
pub(super) fn hash_leaves(
    source: &SourceFile,
    profile: &Profile,
    each: &mut dyn FnMut(Vec<LeafRef>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let queues = match profile.chunker.fixed() {
            Some(chunk) => even(scope, source, profile, chunk, workers),
            None => cut(scope, source, profile, workers),
        };
        let mut done = 0;
        for queue in queues.iter().cycle() {
            if done == source.len() {
                break;
            }
            let leaves = queue.recv().map_err(|_| Failure::new("bug", "an import worker has died"))??;
            done += leaves.iter().map(|leaf| leaf.file_bytes).sum::<u64>();
            each(leaves)?;
        }
        Ok(())
    })
}

/// Workers that read where they are told.
fn even<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    source: &'env SourceFile,
    profile: &'env Profile,
    chunk: u32,
    workers: usize,
) -> Vec<Receiver<Leaves>> {
    let run_bytes = u64::from(chunk) * (RUN_BYTES / u64::from(chunk)).clamp(1, RUN_LEAVES_MAX);
    let runs = source.len().div_ceil(run_bytes);
    let zero_leaf = leaf(profile, &vec![0; chunk as usize]);
    let worker = |worker| {
        let (results, queue) = sync_channel(RUNS_AHEAD);
        let mut even = Even { source, profile, chunk, zero_leaf, buffer: Vec::new() };
        scope.spawn(move || {
            for run in (worker as u64..runs).step_by(workers) {
                let start = run * run_bytes;
                let result = even.hash(start..(start + run_bytes).min(source.len()));
                let failed = result.is_err();
                if results.send(result).is_err() || failed {
                    return;
                }
            }
        });
        queue
    };
    (0..workers).map(worker).collect()
}

/// One worker where chunks are even.
struct Even<'a> {
    source: &'a SourceFile,
    profile: &'a Profile,
    chunk: u32,
    /// What a chunk of zeros is.
    zero_leaf: LeafRef,
    buffer: Vec<u8>,
}

impl Even<'_> {
    fn hash(&mut self, range: Range<u64>) -> Leaves {
        let bytes = range.end - range.start;
        let full_chunks = bytes / u64::from(self.chunk);
        if full_chunks * u64::from(self.chunk) == bytes && self.source.is_hole(&range) {
            return Ok((0..full_chunks).map(|_| self.zero_leaf).collect());
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most RUN_BYTES or one chunk")]
        self.buffer.resize(bytes as usize, 0);
        self.source.read_at(range.start, &mut self.buffer).map_err(|e| from_store(&e))?;
        let leaves = self.buffer.chunks(self.chunk as usize).map(|chunk| leaf(self.profile, chunk)).collect();
        self.source.release(range);
        Ok(leaves)
    }
}

/// Bytes, and where the chunks in them end.
struct Cut {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Workers that get what one thread has read and cut.
fn cut<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    source: &'env SourceFile,
    profile: &'env Profile,
    workers: usize,
) -> Vec<Receiver<Leaves>> {
    let worker = |_| {
        let (cuts, queue) = sync_channel::<Result<Cut, Failure>>(CUTS_AHEAD);
        let (results, leaves) = sync_channel(RUNS_AHEAD);
        scope.spawn(move || {
            for cut in queue {
                if results.send(cut.map(|cut| cut.hash(profile))).is_err() {
                    return;
                }
            }
        });
        (cuts, leaves)
    };
    let (cuts, leaves): (Vec<_>, Vec<_>) = (0..workers).map(worker).unzip();
    scope.spawn(move || deal(source, profile.chunker, &cuts));
    leaves
}

impl Cut {
    fn hash(self, profile: &Profile) -> Vec<LeafRef> {
        let mut start = 0;
        let chunk = |end| leaf(profile, &self.bytes[std::mem::replace(&mut start, end)..end]);
        self.ends.iter().copied().map(chunk).collect()
    }
}

/// Reads and cuts a file, and deals the pieces in turn.
fn deal(source: &SourceFile, chunker: Chunker, workers: &[SyncSender<Result<Cut, Failure>>]) {
    let mut offset = 0;
    let mut rest = Vec::new();
    for worker in workers.iter().cycle() {
        let cut = next_cut(source, chunker, &mut offset, &mut rest);
        let ended = !matches!(&cut, Ok(cut) if !cut.bytes.is_empty());
        if worker.send(cut).is_err() || ended {
            return;
        }
    }
}

/// Some whole chunks. `offset` is how far the file has been read, `rest` what was read and not yet cut.
fn next_cut(source: &SourceFile, chunker: Chunker, offset: &mut u64, rest: &mut Vec<u8>) -> Result<Cut, Failure> {
    let chunk_bytes_max = chunker.bytes_max() as usize;
    let mut bytes = std::mem::take(rest);
    let have = bytes.len();
    let want = (CHUNKS_PER_CUT * chunk_bytes_max - have) as u64;
    #[expect(clippy::cast_possible_truncation, reason = "some chunks")]
    bytes.resize(have + want.min(source.len() - *offset) as usize, 0);
    source.read_at(*offset, &mut bytes[have..]).map_err(|e| from_store(&e))?;
    let end = *offset + (bytes.len() - have) as u64;
    source.release(*offset..end);
    *offset = end;
    let mut ends = Vec::new();
    let mut at = 0;
    while bytes.len() - at >= chunk_bytes_max || (end == source.len() && at < bytes.len()) {
        at += chunker.cut(&bytes[at..]);
        ends.push(at);
    }
    *rest = bytes.split_off(at);
    Ok(Cut { bytes, ends })
}
