//! Pulls of ours from more than one implementation at a time, and from peers that leave in the middle.

use std::path::Path;

use crate::content::Recipe;
use crate::nodes::{Ours, Wire};
use crate::peers::{Far, Link, Programs};
use crate::support::{assert_same, noise};
use crate::{Tally, attempt, table};

const MIB: u64 = 1 << 20;

/// Large enough that a pull is still under way when the driver has seen a third of it.
const LEAVING_BYTES: u64 = 256 * MIB;

/// Runs them all and prints what came of each.
pub(crate) fn run(programs: &Programs, folder: &Path) -> Tally {
    let mut tally = Tally::default();
    let mut lines = Vec::new();
    for (name, party) in [
        ("boxo has one half of the leaves, Helia the other", halves as fn(&Programs, &Path) -> String),
        ("one of two boxo leaves after a third", one_leaves),
        ("the only boxo leaves after a third, and comes back", the_only_one_leaves),
    ] {
        let done = attempt(|| {
            let folder = tempfile::tempdir_in(folder).unwrap();
            party(programs, folder.path())
        });
        tally += Tally { passed: usize::from(done.is_ok()), failed: usize::from(done.is_err()) };
        lines.push(vec![name.to_owned(), done.map_or_else(|e| format!("FAIL {e}"), |text| format!("ok, {text}"))]);
    }
    table::print(&lines);
    println!();
    tally
}

fn halves(programs: &Programs, folder: &Path) -> String {
    let size = 33 * MIB;
    let original = folder.join("original.bin");
    noise(&original, size as usize, 33);
    let serve = |far, part| programs.serve(far, &Link::default(), Recipe::PLAIN, &["--part", part], &[&original]);
    let (boxo, helia) = (serve(Far::Boxo, "0/2"), serve(Far::Helia, "1/2"));
    assert_eq!(boxo.roots, helia.roots, "the same settings make different DAGs");
    let ours = ours(folder);
    let copy = folder.join("copy.bin");
    let peers = ["--peer", &boxo.address, "--peer", &helia.address];
    assert!(ours.repo.start_get(&boxo.roots[0], &copy, &peers).finish(), "the pull failed");
    assert_same(&original, &copy);
    let [theirs, others] = [&boxo, &helia].map(|peer| given(&ours, &copy, peer.peer_id()));
    assert!(theirs.min(others) > size / 3, "boxo gave {theirs} bytes, Helia {others}");
    format!("{} MiB from boxo, {} MiB from Helia", theirs / MIB, others / MIB)
}

fn one_leaves(programs: &Programs, folder: &Path) -> String {
    let original = folder.join("original.bin");
    noise(&original, LEAVING_BYTES as usize, 1);
    let serve = || programs.serve(Far::Boxo, &Link::default(), Recipe::PLAIN, &[], &[&original]);
    let (leaves, stays) = (serve(), serve());
    let ours = ours(folder);
    let copy = folder.join("copy.bin");
    let get = ours.repo.start_get(&stays.roots[0], &copy, &["--peer", &leaves.address, "--peer", &stays.address]);
    ours.repo.wait_job(&copy, |job| job["done_bytes"].as_u64() > Some(LEAVING_BYTES / 3));
    let gone = leaves.peer_id().to_owned();
    leaves.kill();
    let have = ours.repo.job(&copy).unwrap()["done_bytes"].as_u64().unwrap();
    assert!(have < LEAVING_BYTES, "the pull was over before the peer was gone");
    assert!(get.finish(), "the pull failed");
    assert_same(&original, &copy);
    let [before, after] = [&gone, stays.peer_id()].map(|peer| given(&ours, &copy, peer));
    assert!(before > 0, "the peer that left had given nothing");
    format!("{} MiB from it, {} MiB from the other", before / MIB, after / MIB)
}

fn the_only_one_leaves(programs: &Programs, folder: &Path) -> String {
    let original = folder.join("original.bin");
    noise(&original, LEAVING_BYTES as usize, 2);
    let serve = || programs.serve(Far::Boxo, &Link::default(), Recipe::PLAIN, &[], &[&original]);
    let leaves = serve();
    let ours = ours(folder);
    let copy = folder.join("copy.bin");
    let get = ours.repo.start_get(&leaves.roots[0], &copy, &["--peer", &leaves.address]);
    ours.repo.wait_job(&copy, |job| job["done_bytes"].as_u64() > Some(LEAVING_BYTES / 3));
    leaves.kill();
    let waits = |job: &serde_json::Value| job["message"].as_str().is_some_and(|text| text.contains("no peers"));
    let waiting = ours.repo.wait_job(&copy, |job| waits(job) || job["state"] == "done");
    let have = waiting["done_bytes"].as_u64().unwrap();
    assert!(have < LEAVING_BYTES, "the pull was over before the peer was gone");
    // Its identity is a new one: what counts is that somebody has the leaves again.
    let back = serve();
    ours.repo.ask(&["connect", &back.address]);
    assert!(get.finish(), "the pull failed");
    assert_same(&original, &copy);
    let after = given(&ours, &copy, back.peer_id());
    format!("waited at {} MiB, then {} MiB more", have / MIB, after / MIB)
}

/// A node that takes what anybody offers over TCP.
fn ours(folder: &Path) -> Ours {
    Ours::start(folder, "repo", Wire::Tcp)
}

/// Bytes that a peer has given to the pull of an output.
fn given(ours: &Ours, output: &Path, peer: &str) -> u64 {
    let job = ours.repo.job(output).unwrap();
    let sources = job["sources"].as_array().unwrap();
    sources.iter().filter(|source| source["peer_id"] == peer).filter_map(|source| source["bytes"].as_u64()).sum()
}
