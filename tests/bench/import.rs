//! How fast `add` is beside the SHA-256 of one core, with the file in the page cache, in one run.
//!
//! `cargo bench --bench import -- [--size 2GiB] [--dir DIR] [--rounds 3]`
//!
//! Printed are the rate of one core hashing the same bytes from memory, the rate of an import into a fresh index (a
//! process of its own), their ratio, and the import's peak anonymous memory.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a benchmark that cannot go on panics; its numbers are small"
)]

mod common;

use std::time::Instant;

use common::{Sampler, arguments, megabytes, parse_size};
use sha2::{Digest, Sha256};

fn main() {
    let arguments = arguments();
    let size = parse_size(&arguments.value("size").unwrap_or_else(|| "2GiB".into()));
    let rounds: usize = arguments.value("rounds").map_or(3, |n| n.parse().unwrap());
    let folder = arguments.value("dir").map_or_else(std::env::temp_dir, Into::into);
    let work = tempfile::tempdir_in(folder).unwrap();
    let file = work.path().join("original.bin");
    common::generate(&file, size);
    println!("{:>12} {:>12} {:>6} {:>10}", "sha256 MB/s", "add MB/s", "ratio", "peak anon");
    let mut ratios = Vec::new();
    for round in 0..rounds {
        common::warm(&file);
        let core = hash_rate();
        let repo = work.path().join(format!("repo{round}"));
        common::init(&repo);
        let mut child = common::program(&repo)
            .args(["--quiet", "add", file.to_str().unwrap()])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let sampler = Sampler::start(&[child.id()]);
        assert!(child.wait().unwrap().success());
        let rate = size as f64 / 1e6 / started.elapsed().as_secs_f64();
        let memory = sampler.stop()[0];
        ratios.push(rate / core);
        println!("{core:>12.0} {rate:>12.0} {:>6.2} {:>10}", rate / core, megabytes(memory.anonymous));
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2} on {} cores", ratios[ratios.len() / 2], std::thread::available_parallelism().unwrap());
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
