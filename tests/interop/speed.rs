//! One large file by each pair over TCP+TLS, in the same run and of the same DAG. Printed, not judged.
//!
//! Boxo keeps its blocks on disk, as Kubo does. Its time runs from the first want to the last byte written; ours from the
//! start of the command `get` to its end, at which everything is on disk durably.

use std::path::Path;
use std::time::Instant;

use bitshoal::config::ByteSize;

use crate::content::Recipe;
use crate::nodes::{Ours, Wire};
use crate::peers::{Far, Link, Programs};
use crate::{Tally, attempt, common, table};

/// Runs the pairs and prints their rates.
pub(crate) fn run(programs: &Programs, folder: &Path) -> Tally {
    let size = std::env::var("BITSHOAL_INTEROP_SIZE").map_or(Ok(ByteSize(256 << 20)), |text| text.parse::<ByteSize>());
    let done = attempt(|| {
        let size = size.unwrap_or_else(|error| panic!("BITSHOAL_INTEROP_SIZE: {error}")).0;
        let folder = tempfile::tempdir_in(folder).unwrap();
        let original = folder.path().join("original.bin");
        common::generate(&original, size);
        let rates = pairs(programs, folder.path(), &original, size);
        println!("{} MiB over TCP+TLS in 1 MiB leaves, MB/s", size >> 20);
        table::print(&rates.map(|(pair, rate)| vec![pair.to_owned(), format!("{rate:>6.0}")]));
        println!();
    });
    if let Err(reason) = &done {
        println!("speed: FAIL {reason}\n");
    }
    Tally { passed: usize::from(done.is_ok()), failed: usize::from(done.is_err()) }
}

/// Copies are removed as soon as they have been compared, to need little disk.
fn pairs(programs: &Programs, folder: &Path, original: &Path, size: u64) -> [(&'static str, f64); 4] {
    let rate = |seconds: f64| size as f64 / 1e6 / seconds;
    let copy = folder.join("copy.bin");
    let compared = |seconds| {
        assert!(common::equal(original, &copy), "the copy differs");
        std::fs::remove_file(&copy).unwrap();
        rate(seconds)
    };
    let link = |store: &str| Link { security: Some("tls"), store: Some(folder.join(store)), ..Link::default() };
    let get = |from: &str, cid: &str| {
        let reader = Ours::start(folder, &format!("reader-{}", &from[from.len() - 6..]), Wire::Tls);
        reader.repo.ask(&["connect", from]);
        let started = Instant::now();
        reader.get(cid, &copy, from);
        compared(started.elapsed().as_secs_f64())
    };
    let fetch = |from: &str, cid: &str, store: &str| {
        let fetched = programs.fetch(Far::Boxo, &link(store), from, cid, &copy);
        assert_eq!(fetched.bytes, size);
        std::fs::remove_dir_all(folder.join(store)).unwrap();
        compared(fetched.seconds)
    };

    let boxo = programs.serve(Far::Boxo, &link("served"), Recipe::LARGE, &[], &[original]);
    let cid = boxo.roots[0].clone();
    let boxo_boxo = fetch(&boxo.address, &cid, "fetched");
    let boxo_us = get(&boxo.address, &cid);
    boxo.leave();
    std::fs::remove_dir_all(folder.join("served")).unwrap();
    let ours = Ours::start(folder, "publisher", Wire::Tls);
    assert_eq!(ours.add(original, Recipe::LARGE), cid, "the same settings make different DAGs");
    let us_boxo = fetch(ours.daemon.address(), &cid, "fetched");
    let us_us = get(ours.daemon.address(), &cid);
    [("boxo→boxo", boxo_boxo), ("boxo→us", boxo_us), ("us→boxo", us_boxo), ("us→us", us_us)]
}
