//! `kill -9` at random instants: the index never claims a leaf that the file does not hold, and every pull goes on.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use bitshoal::store::{FileState, Options, SourceFile, Store};
use bitshoal::transfer::plan::Tree;

use crate::support::{Repo, assert_same, noise};

const KILLS: usize = 20;
const SIZE: usize = 96 << 20;

#[test]
fn a_reader_killed_at_any_instant_never_lies_and_always_finishes() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original.bin");
    noise(&original, SIZE, 3);
    let added = publisher.ask(&["add", original.to_str().unwrap()]);
    let cid = added[0]["cid"].as_str().unwrap().to_owned();
    let from = publisher.daemon();
    let mut random = 0x1234_5678_9abc_def1_u64;
    let (mut claimed, mut pulls) = (0, 0);
    let mut copy = PathBuf::new();
    for kill in 0..KILLS {
        // A pull that has finished would make the next kills meaningless.
        if kill % 4 == 0 || copy.exists() {
            pulls += 1;
            copy = folder.path().join(format!("copy{pulls}.bin"));
        }
        let to = reader.daemon();
        reader.run(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address(), "--detach"]);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Half of the kills come at a random time, half at a random place of the file.
        if kill % 2 == 0 {
            wait_a_moment(Duration::from_micros(random % 300_000));
        } else {
            let place = random % SIZE as u64;
            reader.wait_job(&copy, |job| job["done_bytes"].as_u64() >= Some(place) || job["state"] == "done");
        }
        to.kill();
        claimed += check(&reader, &original, &copy);
    }
    assert!(claimed > 0, "no kill ever met a durable leaf: the test is blind");
    let _to = reader.daemon();
    for pull in 1..=pulls {
        let copy = folder.path().join(format!("copy{pull}.bin"));
        if !copy.exists() {
            let events = reader.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
            assert_eq!(events.last().unwrap()["state"], "done");
        }
        assert_same(&original, &copy);
    }
}

#[test]
fn a_publisher_killed_while_it_serves_or_adds_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original.bin");
    noise(&original, SIZE, 4);
    let mut child =
        publisher.command(&["add", original.to_str().unwrap()]).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_a_moment(Duration::from_millis(15));
    child.kill().unwrap();
    child.wait().unwrap();
    let listed = publisher.ask(&["ls"]);
    assert!(listed.is_empty() || listed[0]["complete"] == true, "half an entry: {listed:?}");
    let added = publisher.ask(&["add", original.to_str().unwrap()]);
    let cid = added[0]["cid"].as_str().unwrap().to_owned();

    let from = publisher.daemon();
    let (listen, address) = (from.address().split("/p2p/").next().unwrap().to_owned(), from.address().to_owned());
    let _to = reader.daemon();
    let copy = folder.path().join("copy.bin");
    let get = reader.start_get(&cid, &copy, &["--peer", &address]);
    reader.wait_job(&copy, |job| job["state"] == "fetching" || job["state"] == "done");
    from.kill();
    let _from = publisher.daemon_at(&listen, &[]);
    assert!(get.finish());
    assert_same(&original, &copy);
}

/// Reads the index of a dead daemon and compares every leaf that it calls durable with the original; how many there were.
fn check(reader: &Repo, original: &Path, copy: &Path) -> u64 {
    let store = Store::open(&reader.path, Options::default()).unwrap();
    let truth = SourceFile::open(original).unwrap();
    let mut claimed = 0;
    for file in store.files().unwrap() {
        if file.final_path != *copy || !matches!(file.state, FileState::Partial | FileState::Complete) {
            continue;
        }
        let tree = Tree::of(&store, &file).unwrap();
        let bytes = SourceFile::open(&file.path).unwrap();
        for leaf in tree.leaves(&store) {
            let leaf = leaf.unwrap();
            if !store.is_present(file.id, leaf.index).unwrap() {
                continue;
            }
            claimed += 1;
            let (mut is, mut should) = (vec![0; leaf.len as usize], vec![0; leaf.len as usize]);
            bytes.read_at(leaf.offset, &mut is).unwrap();
            truth.read_at(leaf.offset, &mut should).unwrap();
            assert!(is == should, "leaf {} is called durable and is not there", leaf.index);
        }
    }
    claimed
}

/// The random instant of a kill. It is no synchronisation: whatever has happened by then, the test must hold.
fn wait_a_moment(how_long: Duration) {
    let (_keep, never) = channel::<()>();
    let _ = never.recv_timeout(how_long);
}
