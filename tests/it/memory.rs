//! Ways to read and write, what becomes of a served file that its user changes, and what `stat --memory` says.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::support::{PATIENCE, Repo, Running, assert_same, noise, remove, replace};
#[cfg(target_os = "linux")]
use crate::support::{bounded, say};

const MIB: usize = 1 << 20;
const READERS: [&str; 3] = ["mmap", "pread", "direct"];

/// Puts lines before all others of a repo's settings.
fn set(repo: &Repo, lines: &str) {
    let path = repo.path.join("node.toml");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{lines}\n{before}")).unwrap();
}

fn add(repo: &Repo, path: &Path, more: &[&str]) -> String {
    let added = repo.ask(&[&["add", path.to_str().unwrap()], more].concat());
    added.last().unwrap()["cid"].as_str().unwrap().to_owned()
}

#[test]
fn every_reader_and_writer_moves_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.bin");
    noise(&original, 9 * MIB + 12_345, 3);
    for (i, reader) in READERS.into_iter().enumerate() {
        let publisher = Repo::new(folder.path(), &format!("publisher-{i}"));
        set(&publisher, &format!("reader = \"{reader}\"\ncache_bytes = \"16MiB\""));
        let from = publisher.daemon();
        for (j, writer) in ["buffered", "direct"].into_iter().enumerate() {
            let repo = Repo::member(folder.path(), &format!("reader-{i}-{j}"), &publisher);
            set(&repo, &format!("reader = \"{reader}\"\nwriter = \"{writer}\"\ncache_bytes = \"16MiB\""));
            let _to = repo.daemon();
            // Whole blocks of the disk, leaves with bytes around their data, and leaves that begin anywhere.
            let recipes: [&[&str]; 3] = [&[], &["--profile", "unixfs-v0-2015"], &["--chunker", "size-100003"]];
            for (k, recipe) in recipes.into_iter().enumerate() {
                let cid = add(&publisher, &original, recipe);
                let copy = folder.path().join(format!("copy-{i}-{j}-{k}"));
                repo.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
                assert_same(&original, &copy);
                // What has been written so is read so again.
                repo.ask(&["verify", &cid]);
            }
        }
    }
}

/// What a user may do to a file that is being served.
#[derive(Clone, Copy)]
enum Harm {
    Cut,
    Replace,
    Delete,
}

fn harm(path: &Path, how: Harm) {
    match how {
        Harm::Cut => OpenOptions::new().write(true).open(path).unwrap().set_len(MIB as u64).unwrap(),
        Harm::Replace => {
            let other = path.with_extension("other");
            noise(&other, 3 * MIB, 99);
            replace(&other, path);
        }
        Harm::Delete => remove(path),
    }
}

#[test]
fn what_becomes_of_a_file_under_eight_readers_costs_its_blocks_alone() {
    // What is mapped cannot be cut on Windows, nor deleted.
    let order =
        if cfg!(windows) { [Harm::Replace, Harm::Cut, Harm::Delete] } else { [Harm::Cut, Harm::Replace, Harm::Delete] };
    for (reader, how) in READERS.into_iter().zip(order) {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Repo::new(folder.path(), "publisher");
        set(&publisher, &format!("reader = \"{reader}\""));
        let (victim, other) = (folder.path().join("victim.bin"), folder.path().join("other.bin"));
        noise(&victim, 96 * MIB, 1);
        noise(&other, 2 * MIB, 2);
        let (kept, cid, unharmed) =
            (folder.path().join("kept.bin"), add(&publisher, &victim, &[]), add(&publisher, &other, &[]));
        fs::copy(&victim, &kept).unwrap();
        let from = publisher.daemon();
        let copies: Vec<PathBuf> = (0..8).map(|i| folder.path().join(format!("copy-{i}.bin"))).collect();
        let pulls: Vec<Running> = (0..8)
            .map(|i| {
                let repo = Repo::member(folder.path(), &format!("reader-{i}"), &publisher);
                repo.start_get(&cid, &copies[i], &["--peer", from.address(), "--listen", "/ip4/127.0.0.1/tcp/0"])
            })
            .collect();
        for pull in &pulls {
            pull.wait_for(|event| event["done_bytes"].as_u64().is_some_and(|done| done > 0));
        }
        harm(&victim, how);
        // The daemon lives, and serves what it can.
        let late = Repo::member(folder.path(), "late", &publisher);
        let copy = folder.path().join("other.copy");
        late.ask(&["get", &unharmed, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
        assert_same(&other, &copy);
        // Others ask, however fast the eight were: what is deleted is served from the open file until it is looked at again.
        let marked = || publisher.ask(&["stat", &cid]).iter().any(|root| !root["problem"].is_null());
        let mut others = 0;
        wait_until(|| {
            let other = Repo::member(folder.path(), &format!("other-{others}"), &publisher);
            others += 1;
            let output = other.path.join("copy.bin");
            let peer = ["--peer", from.address(), "--listen", "/ip4/127.0.0.1/tcp/0", "--timeout", "2s"];
            other.run(&[&["get", &cid, "-o", output.to_str().unwrap()], &peer[..]].concat());
            marked()
        });
        // The same bytes are back: everybody gets to the end, from wherever they were.
        replace(&kept, &victim);
        for (pull, copy) in pulls.into_iter().zip(&copies) {
            assert!(pull.finish());
            assert_same(&victim, copy);
        }
        assert_eq!(publisher.ask(&["health"])[0]["event"], "healthy");
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "it never came to that");
        std::thread::yield_now();
    }
}

/// A file system on a disk that loses its second half: reading there is an error of the disk, and a signal where the
/// file is mapped.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fails_under_a_served_file_costs_its_blocks_alone() {
    use std::process::Command;

    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = bounded(Command::new("umount").arg("-l").arg(self.0));
        }
    }
    for reader in READERS {
        let folder = tempfile::tempdir().unwrap();
        let (image, mount) = (folder.path().join("disk.img"), folder.path().join("mount"));
        fs::create_dir(&mount).unwrap();
        fs::File::create(&image).unwrap().set_len(256 * MIB as u64).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output().is_ok_and(|o| o.status.success());
        let mounted = made
            && Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &mount])
                .output()
                .is_ok_and(|o| o.status.success());
        if !mounted {
            say("no loop device may be mounted here: only the store's own test has a disk that fails");
            return;
        }
        let _mounted = Mounted(&mount);
        let (victim, other) = (mount.join("victim.bin"), folder.path().join("other.bin"));
        noise(&victim, 160 * MIB, 1);
        noise(&other, 2 * MIB, 2);
        let publisher = Repo::new(folder.path(), "publisher");
        set(&publisher, &format!("reader = \"{reader}\""));
        let (cid, unharmed) = (add(&publisher, &victim, &[]), add(&publisher, &other, &[]));
        // So that blocks come from the disk: what is in memory would be served from there.
        assert!(bounded(Command::new("mount").args(["-o", "remount"]).arg(&mount)).status.success());
        let from = publisher.daemon();
        // Only what is on the disk already is dropped.
        fs::File::open(&victim).unwrap().sync_all().unwrap();
        fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        OpenOptions::new().write(true).open(&image).unwrap().set_len(64 * MIB as u64).unwrap();
        let copy = folder.path().join("copy.bin");
        let reader = Repo::member(folder.path(), "reader", &publisher);
        let pull = reader.start_get(&cid, &copy, &["--peer", from.address(), "--listen", "/ip4/127.0.0.1/tcp/0"]);
        wait_until(|| publisher.ask(&["stat", &cid]).iter().any(|root| !root["problem"].is_null()));
        drop(pull);
        let late = Repo::member(folder.path(), "late", &publisher);
        let copy = folder.path().join("other.copy");
        late.ask(&["get", &unharmed, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
        assert_same(&other, &copy);
        assert_eq!(publisher.ask(&["health"])[0]["event"], "healthy");
    }
}

#[test]
fn memory_is_told_share_by_share() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    set(&publisher, "cache_bytes = \"16MiB\"");
    let (from, _to) = (publisher.daemon(), reader.daemon());
    let original = folder.path().join("original.bin");
    noise(&original, 20 * MIB, 5);
    let cid = add(&publisher, &original, &[]);
    let copy = folder.path().join("copy.bin");
    reader.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    let told = publisher.ask(&["stat", "--memory"]);
    let [memory] = &told[..] else { panic!("{told:?}") };
    let number = |name: &str| memory[name].as_u64();
    assert_eq!(memory["event"], "memory");
    assert!(number("cache_bytes").unwrap() <= 16 * MIB as u64);
    assert!(number("windows_bytes").unwrap() <= 4 * MIB as u64);
    assert!(number("idle_buffer_bytes").unwrap() <= MIB as u64);
    let files = memory["files"].as_array().unwrap();
    assert!(
        files.iter().any(|file| file["path"].as_str() == original.to_str() && file["size"] == 20 * MIB),
        "{memory}"
    );
    if cfg!(target_os = "linux") {
        assert!(number("anonymous_bytes").unwrap() > MIB as u64 && number("mapped_bytes").unwrap() > 0);
        let cached: Vec<Option<u64>> = files.iter().map(|file: &Value| file["cached_bytes"].as_u64()).collect();
        assert!(cached.iter().all(Option::is_some), "{memory}");
    }
    let text = publisher.command(&["stat", "--memory"]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for line in ["heap", "windows", "page cache of the index", "original.bin", "cache_bytes"] {
        assert!(text.lines().filter(|one| one.contains(line)).count() == 1, "{text}");
    }
}
