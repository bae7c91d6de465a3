//! How fast `add` is: one large file beside the SHA-256 of one core, or many small ones.
//!
//! `cargo bench --bench import -- [--size 2GiB] [--dir DIR] [--rounds 3]`
//!
//! With the file in the page cache. Printed are the rate of one core hashing the same bytes from memory, the rate of an
//! import into a fresh index (a process of its own), their ratio, and the import's peak anonymous memory.
//!
//! `cargo bench --bench import -- --files 200000 [--folders 200] [--each 1024] [--dir DIR] [--rounds 3]`
//!
//! So many files in so many folders, each of so many bytes that occur in no other. Printed are files a second into a
//! fresh index and the import's peak memory.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a benchmark that cannot go on panics; its numbers are small"
)]

mod common;

use std::path::Path;
use std::time::Instant;

use common::{Memory, Sampler, arguments, megabytes, parse_size};
use sha2::{Digest, Sha256};

fn main() {
    let arguments = arguments();
    let number = |name: &str, usual| arguments.value(name).map_or(usual, |n| n.parse::<u64>().unwrap());
    let folder = arguments.value("dir").map_or_else(std::env::temp_dir, Into::into);
    let work = tempfile::tempdir_in(folder).unwrap();
    let rounds = number("rounds", 3);
    match number("files", 0) {
        0 => {
            let size = parse_size(&arguments.value("size").unwrap_or_else(|| "2GiB".into()));
            one_file(work.path(), size, rounds);
        }
        files => many_files(work.path(), files, number("folders", 200), number("each", 1024), rounds),
    }
}

fn one_file(work: &Path, size: u64, rounds: u64) {
    let file = work.join("original.bin");
    common::generate(&file, size);
    println!("{:>12} {:>12} {:>6} {:>10}", "sha256 MB/s", "add MB/s", "ratio", "peak anon");
    let mut ratios = Vec::new();
    for round in 0..rounds {
        common::warm(&file);
        let core = hash_rate();
        let (seconds, memory) = import(&work.join(format!("repo{round}")), &file);
        let rate = size as f64 / 1e6 / seconds;
        ratios.push(rate / core);
        println!("{core:>12.0} {rate:>12.0} {:>6.2} {:>10}", rate / core, megabytes(memory.anonymous));
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2} on {} cores", ratios[ratios.len() / 2], std::thread::available_parallelism().unwrap());
}

fn many_files(work: &Path, files: u64, folders: u64, each: u64, rounds: u64) {
    let root = work.join("original");
    let mut bytes = vec![7; each as usize];
    for folder in 0..folders {
        let path = root.join(format!("folder-{folder:05}"));
        std::fs::create_dir_all(&path).unwrap();
        for file in (folder..files).step_by(folders as usize) {
            let number = file.to_le_bytes();
            let start = bytes.len().min(number.len());
            bytes[..start].copy_from_slice(&number[..start]);
            std::fs::write(path.join(format!("file-{file:08}.bin")), &bytes).unwrap();
        }
    }
    println!("{:>12} {:>12} {:>10} {:>10}", "seconds", "files/s", "peak anon", "peak all");
    let mut rates = Vec::new();
    for round in 0..rounds {
        let (seconds, memory) = import(&work.join(format!("repo{round}")), &root);
        let rate = files as f64 / seconds;
        rates.push(rate);
        let (anonymous, resident) = (megabytes(memory.anonymous), megabytes(memory.resident));
        println!("{seconds:>12.2} {rate:>12.0} {anonymous:>10} {resident:>10}");
    }
    rates.sort_by(f64::total_cmp);
    println!("median {:.0} files/s on {} cores", rates[rates.len() / 2], std::thread::available_parallelism().unwrap());
}

/// Adds to a fresh repo in a process of its own; how many seconds it took, and how much memory.
fn import(repo: &Path, path: &Path) -> (f64, Memory) {
    common::init(repo);
    let mut child = common::program(repo)
        .args(["--quiet", "add", path.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let sampler = Sampler::start(&[child.id()]);
    assert!(child.wait().unwrap().success());
    (started.elapsed().as_secs_f64(), sampler.stop()[0])
}

/// Megabytes a second of one core over a buffer that does not fit the caches.
fn hash_rate() -> f64 {
    let buffer = vec![7_u8; 64 << 20];
    let started = Instant::now();
    for _ in 0..16 {
        for chunk in buffer.chunks(1 << 20) {
            std::hint::black_box(Sha256::digest(chunk));
        }
    }
    16.0 * buffer.len() as f64 / 1e6 / started.elapsed().as_secs_f64()
}
