//! What a pull allocates: both nodes run in one process, whose large allocations are counted. Every copy of a block's
//! data into memory of its own would show here; what is copied within buffers that exist already would not.
//!
//! Nothing else may run in that process, so the counting test is run by the one beside it, in a process of its own.

#![allow(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bitshoal::daemon::{Host, LocalHost, Mode, Running};
use bitshoal::repo::Repo as OpenRepo;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{Repo, bounded, noise, say, stderr};

/// Leaves of the file that is pulled, of a MiB each.
const LEAVES: usize = 256;

/// Allocations of at least half a block, and how many a pull makes that does not make one for each block: the buffers of
/// both nodes' pools, and what their start takes.
const BLOCK_BYTES: usize = 512 << 10;
const BLOCKS_MAX: usize = LEAVES / 4;

/// Bytes of smaller allocations for each byte that moves: yamux takes a frame's data on either side into a buffer of its
/// own, TLS makes one of what it encrypts and one of what it decrypts; that is 4, and a little for all else.
const COUNTED_BYTES: usize = 4 << 10;
const BYTES_FOR_EACH_MAX: f64 = 4.5;

struct Counting;

static BLOCKS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(size: usize) {
    if size >= BLOCK_BYTES {
        BLOCKS.fetch_add(1, Relaxed);
    } else if size >= COUNTED_BYTES {
        BYTES.fetch_add(size, Relaxed);
    }
}

// SAFETY: all of it is the system's allocator's work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_pull_allocates_nothing_for_a_block() {
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", "copies::a_pull_in_a_process_of_its_own", "--ignored", "--nocapture"]);
    let done = bounded(&mut alone);
    assert!(done.status.success(), "{}{}", String::from_utf8_lossy(&done.stdout), stderr(&done));
    let said = String::from_utf8_lossy(&done.stdout);
    say(said.lines().find(|line| line.starts_with("allocations:")).unwrap());
}

#[test]
#[ignore = "counts what the whole process allocates: the test above runs it, in a process of its own"]
fn a_pull_in_a_process_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let (file, copy) = (folder.path().join("file.bin"), folder.path().join("copy.bin"));
    noise(&file, LEAVES << 20, 5);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (publisher, reader) = (open(&publisher.path).await, open(&reader.path).await);
        let added = ask(&publisher, json!({"method": "add", "paths": [file]})).await;
        let peer = ask(&publisher, json!({"method": "id"})).await["addresses"][0].clone();
        let (blocks, bytes) = (BLOCKS.load(Relaxed), BYTES.load(Relaxed));
        ask(&reader, json!({"method": "get", "cid": added["cid"], "output": copy, "peers": [peer]})).await;
        let (blocks, bytes) = (BLOCKS.load(Relaxed) - blocks, BYTES.load(Relaxed) - bytes);
        let each = bytes as f64 / (LEAVES << 20) as f64;
        println!("allocations: {blocks} of a block's size for {LEAVES} blocks, {each:.2} bytes of smaller ones a byte");
        assert!(blocks <= BLOCKS_MAX && each <= BYTES_FOR_EACH_MAX);
        reader.stop.await;
        publisher.stop.await;
    });
}

async fn open(repo: &Path) -> Running {
    let repo = OpenRepo::open(repo).unwrap();
    LocalHost.open(&repo, &repo.config().unwrap(), Mode::Online { listen: None }).await.unwrap()
}

/// The last answer of a node.
async fn ask(node: &Running, request: Value) -> Value {
    let answers = node.service.call(serde_json::from_value(request).unwrap());
    let last = answers.fold(Value::Null, async |_, event| serde_json::to_value(event.unwrap()).unwrap());
    last.await
}
