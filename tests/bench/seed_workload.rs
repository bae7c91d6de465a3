//! The workload that this program was begun for: a large sparse file is written in random order while others read it.
//!
//! `cargo bench --bench seed_workload -- [--size 2GiB] [--rates 200Mbit,unbounded] [--readers 4] [--cache 256MiB]
//! [--dir DIR] [--out DIR] [--cgroups /sys/fs/cgroup]`
//!
//! Each variant is a process of its own, in a memory group of its own where there can be one. One thread writes leaves of
//! 256 KiB at the rate, `readers` threads read and compare, as fast as they can, random ones that are written. Ours go
//! through the store, with the budget and the epochs that a daemon gives its pulls, for each reader and writer; *plain* is
//! what people write first: a positioned write, every other read out of a mapping of the whole file (each reader has its
//! own), the rest positioned, and never a word to the system about any of it. Every 100 ms it is looked from outside at anonymous memory,
//! the page cache of the file (and of the index), and the group.
//!
//! Writing ends, for ours, when all of it is durable under its final name; for plain when the last write returns. CPU is
//! the process's own; what the kernel writes back by itself is nobody's. `--dir` must be on a disk: on tmpfs the file is
//! the page cache. Each variant has a new file, so that nothing of it is in memory before.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a benchmark that cannot go on panics; its numbers are small"
)]

mod common;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bitshoal::block::{Cid, Multihash, Prefix, RAW};
use bitshoal::budget::Budget;
use bitshoal::store::{
    Activation, EXTENT_LEAVES, LeafPlace, Options, Preallocate, ReaderKind, Store, Writer, WriterKind, part_path,
};
use common::cgroup::Group;
use common::chart::{Line, Panel};
use common::samples::{Sample, Samples, Subject, peak};
use common::{Arguments, Lines, megabytes, parse_size};

const LEAF_BYTES: usize = 256 << 10;
/// What the program itself may take beyond its budget.
const OWN_BYTES: u64 = 32 << 20;
/// Between two epochs, at most.
const EPOCH_INTERVAL: Duration = Duration::from_secs(4);
/// A daemon's default `epoch_bytes`.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// Of the times in /proc.
const TICKS_PER_SECOND: f64 = 100.0;

const READERS: [(&str, ReaderKind); 3] =
    [("mmap", ReaderKind::Mmap), ("pread", ReaderKind::Pread), ("direct", ReaderKind::Direct)];
const WRITERS: [(&str, WriterKind); 2] = [("buffered", WriterKind::Buffered), ("direct", WriterKind::Direct)];
const PLAIN: &str = "plain";

fn main() {
    let arguments = common::arguments();
    if let Some(variant) = arguments.value("variant") {
        return child(&variant, &arguments);
    }
    let size = arguments.value("size").unwrap_or_else(|| "2GiB".into());
    let readers = arguments.value("readers").unwrap_or_else(|| "4".into());
    let cache = parse_size(&arguments.value("cache").unwrap_or_else(|| "256MiB".into()));
    let rates = arguments.value("rates").unwrap_or_else(|| "200Mbit,unbounded".into());
    let cgroups: PathBuf = arguments.value("cgroups").unwrap_or_else(|| "/sys/fs/cgroup".into()).into();
    let folder = common::disk_folder(&arguments);
    let bound = Budget::of(cache).bytes + OWN_BYTES;
    if let Err(reason) = Group::create(&cgroups, "try") {
        println!("no control groups, so nothing is said of them: {reason}");
    }
    println!("{size} in {}, {readers} readers; peaks in MiB, of ours at most {}", folder.display(), megabytes(bound));
    println!(
        "{:<16} {:<10} {:>10} {:>9}  {:>6} {:>10} {:>6} {:>6}  {:>6}",
        "variant", "rate", "write MB/s", "read MB/s", "anon", "page cache", "both", "group", "CPU s"
    );
    let ours =
        READERS.iter().flat_map(|(reader, _)| WRITERS.iter().map(move |(writer, _)| format!("{reader} {writer}")));
    let variants: Vec<String> = ours.chain([PLAIN.to_owned()]).collect();
    let mut panels = Vec::new();
    let mut most = 0;
    for rate in rates.split(',') {
        let mut lines = Vec::new();
        for variant in &variants {
            let work = tempfile::tempdir_in(&folder).unwrap();
            let run = Run::of(
                variant,
                &[("size", &size), ("readers", &readers), ("rate", rate)],
                cache,
                work.path(),
                &cgroups,
            );
            run.print(variant, rate);
            if variant != PLAIN {
                most = peak(&run.samples, Sample::bytes).max(most);
            }
            lines.push(Line::of(variant.clone(), &run.samples, Sample::bytes));
        }
        // The strongest colour is for the one that is unlike the others.
        lines.rotate_right(1);
        let title = format!("{size}, rate of writes: {rate}; anonymous memory + page cache");
        panels.push(Panel { title, lines, bound: Some(bound), doubling: true });
    }
    let holds = if most <= bound { "holds" } else { "falls short" };
    println!("{holds}: the most of any sample of ours is {}, at most {}", megabytes(most), megabytes(bound));
    let chart = common::out_folder(&arguments).join("seed_workload.svg");
    common::chart::draw(&chart, &panels);
    println!("{}", chart.display());
}

/// What a child told and what was seen of it.
#[derive(Debug)]
struct Run {
    samples: Vec<Sample>,
    group_peak: Option<u64>,
    told: serde_json::Value,
}

impl Run {
    fn of(variant: &str, options: &[(&str, &str)], cache: u64, work: &Path, cgroups: &Path) -> Self {
        // Outlives the child, since a group is removed when it is empty.
        let group = Group::create(cgroups, "child").ok().map(Arc::new);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--variant", variant, "--cache", &cache.to_string(), "--work"]).arg(work);
        for (name, value) in options {
            command.args([&format!("--{name}"), *value]);
        }
        if let Some(group) = &group {
            command = group.enter(&command);
        }
        let mut child = Lines::spawn(&mut command);
        assert_eq!(child.next(), "ready");
        let file = file_in(work);
        let files = vec![part_path(&file), file, work.join("repo").join("index").join("data.mdb")];
        let samples = Samples::start(vec![Subject { pid: child.pid(), files, group: group.clone() }]);
        let told = serde_json::from_str(&child.next()).unwrap();
        let samples = samples.stop().remove(0);
        Self { samples, group_peak: group.as_ref().and_then(|group| group.peak()), told }
    }

    fn print(&self, variant: &str, rate: &str) {
        let told = |name: &str| self.told[name].as_f64();
        let most = |of: fn(&Sample) -> u64| peak(&self.samples, of) >> 20;
        println!(
            "{variant:<16} {rate:<10} {:>10.0} {:>9.0}  {:>6} {:>10} {:>6} {:>6}  {:>6}",
            told("write").unwrap(),
            told("read").unwrap(),
            most(|sample| sample.anonymous),
            most(|sample| sample.cached),
            most(Sample::bytes),
            self.group_peak.map_or_else(|| "-".into(), |bytes| (bytes >> 20).to_string()),
            told("cpu").map_or_else(|| "-".into(), |seconds| format!("{seconds:.1}")),
        );
    }
}

fn file_in(work: &Path) -> PathBuf {
    work.join("file.bin")
}

/// One variant, in a process of its own: says "ready", works, and tells what it did.
fn child(variant: &str, arguments: &Arguments) {
    let value = |name: &str| arguments.value(name).unwrap();
    let leaves = parse_size(&value("size")) / LEAF_BYTES as u64;
    let content = Content::new();
    let (work, cache) = (PathBuf::from(value("work")), parse_size(&value("cache")));
    let way: Box<dyn Way> = match variant.split_once(' ') {
        None => Box::new(Plain::new(&file_in(&work), leaves)),
        Some((reader, writer)) => {
            let kind = |(name, kind): &(&str, ReaderKind)| (*name == reader).then_some(*kind);
            let reader = READERS.iter().find_map(kind).unwrap();
            let kind = |(name, kind): &(&str, WriterKind)| (*name == writer).then_some(*kind);
            let writer = WRITERS.iter().find_map(kind).unwrap();
            Box::new(Ours::new(&work, leaves, &content, cache, reader, writer))
        }
    };
    println!("ready");
    let cpu = cpu_seconds();
    let done = work_through(
        way.as_ref(),
        leaves,
        &content,
        bytes_per_second(&value("rate")),
        value("readers").parse().unwrap(),
    );
    let cpu = cpu_seconds().zip(cpu).map(|(after, before)| after - before);
    println!("{}", serde_json::json!({ "write": done.0, "read": done.1, "cpu": cpu }));
}

/// Writes all leaves in random order while others read; MB/s written and read.
fn work_through(way: &dyn Way, leaves: u64, content: &Content, rate: Option<f64>, readers: u64) -> (f64, f64) {
    let order = shuffled(leaves);
    let (written, read, over) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    let seconds = std::thread::scope(|scope| {
        scope.spawn(|| way.background());
        for reader in 1..=readers {
            let (order, written, read, over) = (&order, &written, &read, &over);
            scope.spawn(move || {
                let mut random = Random(reader.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let mut reads_right = way.reader(content);
                while !over.load(Ordering::Relaxed) {
                    let Some(known) = order.get(..written.load(Ordering::Acquire)).filter(|known| !known.is_empty())
                    else {
                        std::thread::park_timeout(Duration::from_millis(1));
                        continue;
                    };
                    let leaf = known[(random.next() % known.len() as u64) as usize];
                    assert!(reads_right(leaf), "leaf {leaf} differs");
                    read.fetch_add(LEAF_BYTES as u64, Ordering::Relaxed);
                }
            });
        }
        let mut leaf_bytes = content.template.clone();
        for (at, leaf) in order.iter().enumerate() {
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64((at * LEAF_BYTES) as f64 / rate);
                while let Some(early) = due.checked_sub(started.elapsed()).filter(|early| !early.is_zero()) {
                    std::thread::park_timeout(early);
                }
            }
            Content::mark(&mut leaf_bytes, *leaf);
            way.write(*leaf, &leaf_bytes);
            written.store(at + 1, Ordering::Release);
        }
        way.finish();
        over.store(true, Ordering::Relaxed);
        started.elapsed().as_secs_f64()
    });
    let bytes = leaves * LEAF_BYTES as u64;
    (bytes as f64 / 1e6 / seconds, read.into_inner() as f64 / 1e6 / seconds)
}

/// A way to write and read the file.
trait Way: Sync {
    fn write(&self, leaf: u64, bytes: &[u8]);
    /// One thread's: whether a leaf that is written reads as it should.
    fn reader<'a>(&'a self, content: &'a Content) -> Box<dyn FnMut(u64) -> bool + 'a>;
    /// Goes on until the file is finished.
    fn background(&self);
    fn finish(&self);
}

struct Ours {
    store: Store,
    writer: Writer,
    hashes: Vec<Multihash>,
    unsynced_bytes_max: u64,
    epoch_bytes: u64,
    epoch: Mutex<Epoch>,
    /// An epoch begins or ends.
    turn: Condvar,
}

#[derive(Default)]
struct Epoch {
    /// Of the one that runs.
    bytes: u64,
    over: bool,
}

impl Ours {
    fn new(work: &Path, leaves: u64, content: &Content, cache: u64, reader: ReaderKind, writer: WriterKind) -> Self {
        let budget = Budget::of(cache);
        let options = Options {
            reader,
            writer,
            window_bytes: budget.window,
            windows_bytes_max: budget.windows,
            idle_bytes_max: budget.idle as usize,
            ..Options::default()
        };
        let store = Store::open(&work.join("repo"), options).unwrap();
        let hashes = content.hashes(leaves);
        let root = Cid::new_v1(RAW, *Prefix::RAW_V1.hash(b"the root of the workload").unwrap().hash());
        let len = leaves * LEAF_BYTES as u64;
        let file = store.create_part(&root, &file_in(work), len, Preallocate::Sparse, None).unwrap();
        let place = |leaf: u64| {
            let offset = leaf * LEAF_BYTES as u64;
            LeafPlace { file, leaf, offset, len: LEAF_BYTES as u32, wrap: Vec::new() }
        };
        let mut refs = hashes.iter().zip(0..).map(|(hash, leaf)| (*hash, place(leaf))).collect();
        store.put_refs(file, &mut refs).unwrap();
        let extents: Vec<u64> =
            (0..leaves).step_by(EXTENT_LEAVES as usize).map(|leaf| leaf * LEAF_BYTES as u64).collect();
        store.activate(file, Activation { root: &root, leaves, extents: &extents }).unwrap();
        let unsynced_bytes_max = UNSYNCED_BYTES_MAX.min(budget.unsynced);
        Self {
            writer: store.writer(file).unwrap(),
            store,
            hashes,
            unsynced_bytes_max,
            epoch_bytes: unsynced_bytes_max * 3 / 8,
            epoch: Mutex::default(),
            turn: Condvar::new(),
        }
    }
}

impl Way for Ours {
    fn write(&self, leaf: u64, bytes: &[u8]) {
        let room = |epoch: &mut Epoch| {
            self.writer.unsynced_bytes() + epoch.bytes + bytes.len() as u64 > self.unsynced_bytes_max
        };
        drop(self.turn.wait_while(self.epoch.lock().unwrap(), room).unwrap());
        assert!(self.writer.write(leaf, leaf * LEAF_BYTES as u64, bytes).unwrap());
        if self.writer.unsynced_bytes() >= self.epoch_bytes {
            let _epoch = self.epoch.lock().unwrap();
            self.turn.notify_all();
        }
    }

    fn reader<'a>(&'a self, content: &'a Content) -> Box<dyn FnMut(u64) -> bool + 'a> {
        Box::new(|leaf| {
            let bytes = self.store.read(&self.hashes[leaf as usize]).unwrap();
            content.is(leaf, &bytes.expect("what is written is served"))
        })
    }

    fn background(&self) {
        let mut epoch = self.epoch.lock().unwrap();
        while !epoch.over {
            let early = |epoch: &mut Epoch| !epoch.over && self.writer.unsynced_bytes() < self.epoch_bytes;
            epoch = self.turn.wait_timeout_while(epoch, EPOCH_INTERVAL, early).unwrap().0;
            epoch.bytes = self.writer.unsynced_bytes();
            drop(epoch);
            self.writer.commit_epoch().unwrap();
            epoch = self.epoch.lock().unwrap();
            epoch.bytes = 0;
            self.turn.notify_all();
        }
    }

    fn finish(&self) {
        self.epoch.lock().unwrap().over = true;
        self.turn.notify_all();
        self.writer.finish().unwrap();
    }
}

/// No thought about memory.
struct Plain {
    file: File,
}

impl Plain {
    fn new(path: &Path, leaves: u64) -> Self {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(leaves * LEAF_BYTES as u64).unwrap();
        Self { file }
    }
}

impl Way for Plain {
    fn write(&self, leaf: u64, bytes: &[u8]) {
        positioned::write(&self.file, leaf * LEAF_BYTES as u64, bytes);
    }

    fn reader<'a>(&'a self, content: &'a Content) -> Box<dyn FnMut(u64) -> bool + 'a> {
        let map = vmap::Map::with_options().map(&self.file).unwrap();
        let mut buffer = vec![0; LEAF_BYTES];
        let mut mapped = false;
        Box::new(move |leaf| {
            let offset = leaf * LEAF_BYTES as u64;
            mapped = !mapped;
            if mapped {
                return content.is(leaf, &map[offset as usize..][..LEAF_BYTES]);
            }
            positioned::read(&self.file, offset, &mut buffer);
            content.is(leaf, &buffer)
        })
    }

    fn background(&self) {}

    fn finish(&self) {}
}

#[cfg(unix)]
mod positioned {
    use std::os::unix::fs::FileExt;

    pub fn write(file: &std::fs::File, offset: u64, bytes: &[u8]) {
        file.write_all_at(bytes, offset).unwrap();
    }

    pub fn read(file: &std::fs::File, offset: u64, out: &mut [u8]) {
        file.read_exact_at(out, offset).unwrap();
    }
}

#[cfg(windows)]
mod positioned {
    use std::os::windows::fs::FileExt;

    pub fn write(file: &std::fs::File, offset: u64, bytes: &[u8]) {
        assert_eq!(file.seek_write(bytes, offset).unwrap(), bytes.len());
    }

    pub fn read(file: &std::fs::File, offset: u64, out: &mut [u8]) {
        assert_eq!(file.seek_read(out, offset).unwrap(), out.len());
    }
}

/// The content of all leaves: one noise, marked with the leaf's ordinal.
struct Content {
    template: Vec<u8>,
}

impl Content {
    fn new() -> Self {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        Self { template: (0..LEAF_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect() }
    }

    fn mark(bytes: &mut [u8], leaf: u64) {
        bytes[..8].copy_from_slice(&leaf.to_le_bytes());
    }

    fn is(&self, leaf: u64, bytes: &[u8]) -> bool {
        bytes.len() == LEAF_BYTES && bytes[..8] == leaf.to_le_bytes() && bytes[8..] == self.template[8..]
    }

    fn hashes(&self, leaves: u64) -> Vec<Multihash> {
        let mut bytes = self.template.clone();
        let hash = |leaf| {
            Self::mark(&mut bytes, leaf);
            *Prefix::RAW_V1.hash(&bytes).unwrap().hash()
        };
        (0..leaves).map(hash).collect()
    }
}

/// Xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn shuffled(leaves: u64) -> Vec<u64> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut order: Vec<u64> = (0..leaves).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, (random.next() % (last as u64 + 1)) as usize);
    }
    order
}

/// `200Mbit`, or `unbounded`.
fn bytes_per_second(rate: &str) -> Option<f64> {
    if rate == "unbounded" {
        return None;
    }
    let megabits = rate.strip_suffix("Mbit").unwrap_or_else(|| panic!("unknown rate {rate}: 200Mbit, unbounded"));
    Some(megabits.parse::<f64>().unwrap() * 1e6 / 8.0)
}

/// Of this process so far, where the system tells it as text.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // proc(5): after the name in parentheses come the fields from the third on; utime and stime are 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}
