//! A file of 1 TiB is planned in bounded memory: nothing is kept per leaf but its bit.
//!
//! The measuring happens in a process of its own, this binary again with one test and an environment variable, so that
//! the other tests' memory does not count.

use std::process::Command;

use bitshoal::block::{Block, Cid, Multihash, RAW, SHA2_256};
use bitshoal::dag::builder::{Builder, LeafRef, Profile};
use bitshoal::store::{Activation, Options, Store};
use bitshoal::transfer::plan::{Tree, write_references};

const CHILD: &str = "BITSHOAL_TEST_PLAN";
const LEAF_BYTES: u64 = 1 << 20;
const LEAVES: u64 = 1 << 20;
const ANONYMOUS_BYTES_MAX: u64 = 64 << 20;
const INDEX_BYTES_MAX: u64 = 200_000_000;

#[test]
fn one_tebibyte_is_planned_in_64_mebibytes() {
    if std::env::var_os(CHILD).is_some() {
        return plan();
    }
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plan::one_tebibyte_is_planned_in_64_mebibytes", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn plan() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("repo"), Options::default()).unwrap();
    let tree = synthetic_tree(&store);
    let base = anonymous_bytes();
    let watch = Watch::start();
    let output = folder.path().join("huge.bin");
    // An existing file, since the disk need not have that much space: it is all a hole.
    std::fs::File::create(&output).unwrap();
    let file = store.adopt_existing(&tree.root, &output, tree.size, None).unwrap();
    let extents = write_references(&store, file, &tree).unwrap();
    assert_eq!(extents.leaves, LEAVES);
    store.activate(file, Activation { root: &tree.root, leaves: extents.leaves, extents: &extents.offsets }).unwrap();
    let writer = store.writer(file).unwrap();
    assert_eq!(writer.missing_count(0..LEAVES), LEAVES);
    let peak = watch.stop();
    if let (Some(base), Some(peak)) = (base, peak) {
        assert!(peak <= ANONYMOUS_BYTES_MAX, "planning took {peak} bytes, {base} of them before");
    }
    assert!(store.index_bytes() <= INDEX_BYTES_MAX, "the index has {} bytes", store.index_bytes());
    // Random leaves are found where they are.
    for leaf in [0, 1, 4711, LEAVES / 2, LEAVES - 1] {
        let place = store.reference(key(leaf).hash(), file).unwrap().unwrap();
        assert_eq!((place.leaf, place.offset), (leaf, leaf * LEAF_BYTES));
    }
}

/// The inner nodes of a file whose leaves nobody has.
fn synthetic_tree(store: &Store) -> Tree {
    let mut builder = Builder::new(Profile::V1_2025);
    let mut nodes: Vec<Block> = Vec::new();
    for leaf in 0..LEAVES {
        let named = LeafRef { cid: key(leaf), file_bytes: LEAF_BYTES, tsize: LEAF_BYTES };
        builder.push(named, &mut |block| nodes.push(block));
        if nodes.len() >= 64 {
            store.put_nodes(&nodes).unwrap();
            nodes.clear();
        }
    }
    let root = builder.finish(&mut |block| nodes.push(block));
    store.put_nodes(&nodes).unwrap();
    Tree { root: root.cid, size: root.size, wrap: Vec::new(), single: false }
}

/// A name that spreads over the key space as a hash does, and costs nothing.
fn key(leaf: u64) -> Cid {
    let mut state = leaf.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0;
    let mut digest = [0; 32];
    for word in digest.chunks_exact_mut(8) {
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (state >> 31);
        word.copy_from_slice(&state.to_le_bytes());
    }
    Cid::new_v1(RAW, Multihash::wrap(SHA2_256, &digest).unwrap())
}

/// `None` where the platform does not tell.
fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Looks at this process's memory until it is stopped.
struct Watch {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Option<u64>>,
}

impl Watch {
    fn start() -> Self {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut peak = anonymous_bytes();
            while stopped.recv_timeout(std::time::Duration::from_millis(5)).is_err() {
                peak = peak.max(anonymous_bytes());
            }
            peak
        });
        Self { stop, thread }
    }

    fn stop(self) -> Option<u64> {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap()
    }
}
