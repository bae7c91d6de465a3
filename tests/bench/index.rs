//! Size of the index and speed of its look-ups as it grows.
//!
//! `cargo bench --bench index -- [--most 10000000] [--dir DIR]`
//!
//! For 10⁴, 10⁶ and 10⁷ references (until `--most`): bytes of the index per reference, references written a second, and
//! the time of a look-up of a random one, beside that of the smallest index of the same run.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a benchmark that cannot go on panics; its numbers are small"
)]

mod common;

use std::path::Path;
use std::time::Instant;

use bitshoal::block::{Cid, Multihash, RAW, SHA2_256};
use bitshoal::store::{Activation, EXTENT_LEAVES, LeafPlace, NewFile, Options, SourceFile, Store};
use sha2::{Digest, Sha256};

/// Bytes of a leaf in the synthetic file.
const LEAF_BYTES: u64 = 1 << 20;

/// References handed over at once, as the planner does.
const SLICE: usize = 65_536;

fn main() {
    let arguments = common::arguments();
    let most: u64 = arguments.value("most").map_or(10_000_000, |n| n.parse().unwrap());
    let folder = arguments.value("dir").map_or_else(std::env::temp_dir, Into::into);
    println!(
        "{:>10} {:>10} {:>9} {:>10} {:>10} {:>6}",
        "references", "index", "bytes/ref", "refs/s", "µs/look-up", "ratio"
    );
    let mut first = None;
    for references in [10_000, 1_000_000, 10_000_000].into_iter().filter(|n| *n <= most) {
        let work = tempfile::tempdir_in(&folder).unwrap();
        let (seconds, store) = fill(work.path(), references);
        let micros = look_up(&store, references);
        let bytes = folder_bytes(&work.path().join("repo").join("index"));
        let base = *first.get_or_insert(micros);
        println!(
            "{references:>10} {:>10} {:>9.0} {:>10.0} {micros:>10.2} {:>6.2}",
            common::megabytes(bytes),
            bytes as f64 / references as f64,
            references as f64 / seconds,
            micros / base,
        );
    }
}

/// One sparse file with that many leaves, its references written slice of the key space by slice.
fn fill(folder: &Path, references: u64) -> (f64, Store) {
    let path = folder.join("sparse.bin");
    std::fs::File::create(&path).unwrap().set_len(references * LEAF_BYTES).unwrap();
    let store = Store::open(&folder.join("repo"), Options::default()).unwrap();
    let source = SourceFile::open(&path).unwrap();
    let root = Cid::new_v1(RAW, key(u64::MAX));
    let started = Instant::now();
    let file = store.register(&NewFile::in_place(&source)).unwrap();
    let mut seconds = started.elapsed();
    // In the order of their keys, as the planner hands them over.
    let mut keys: Vec<([u8; 32], u64)> = (0..references).map(|leaf| (digest(leaf), leaf)).collect();
    keys.sort_unstable();
    for slice in keys.chunks(SLICE) {
        let place =
            |leaf: u64| LeafPlace { file, leaf, offset: leaf * LEAF_BYTES, len: LEAF_BYTES as u32, wrap: Vec::new() };
        let mut refs: Vec<_> =
            slice.iter().map(|(digest, leaf)| (Multihash::wrap(SHA2_256, digest).unwrap(), place(*leaf))).collect();
        let started = Instant::now();
        store.put_refs(file, &mut refs).unwrap();
        seconds += started.elapsed();
    }
    let extents: Vec<u64> = (0..references.div_ceil(EXTENT_LEAVES)).map(|n| n * EXTENT_LEAVES * LEAF_BYTES).collect();
    store.activate(file, Activation { root: &root, leaves: references, extents: &extents }).unwrap();
    (seconds.as_secs_f64(), store)
}

/// Microseconds of a look-up, over many random ones.
fn look_up(store: &Store, references: u64) -> f64 {
    let mut state = 1_u64;
    let keys: Vec<Multihash> = (0..200_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            key((state >> 33) % references)
        })
        .collect();
    let started = Instant::now();
    for key in &keys {
        assert!(store.has(key).unwrap().is_some());
    }
    started.elapsed().as_secs_f64() * 1e6 / keys.len() as f64
}

fn digest(leaf: u64) -> [u8; 32] {
    Sha256::digest(leaf.to_le_bytes()).into()
}

fn key(leaf: u64) -> Multihash {
    Multihash::wrap(SHA2_256, &digest(leaf)).unwrap()
}

#[cfg(unix)]
fn folder_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|entry| entry.unwrap().metadata().unwrap()).map(|meta| meta.blocks() * 512).sum()
}

#[cfg(not(unix))]
fn folder_bytes(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}
