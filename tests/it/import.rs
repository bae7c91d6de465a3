//! Folders that are added: every block of them can be read again, and an import that ends early leaves nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bitshoal::block::{Block, Cid, DAG_PB};
use bitshoal::dag::dagpb;
use bitshoal::dag::wrap::affixes_of_tag;
use bitshoal::store::{Options, Store};
use bitshoal::transfer::api::AddOptions;
use bitshoal::transfer::failure::Failure;
use bitshoal::transfer::provide::{self, Import, Imported};

use crate::support::{Repo, noise};

/// Cuts of 16 bytes make a file of 100 KiB one with many leaves.
fn cut_small() -> AddOptions {
    AddOptions { chunker: Some("size-16".into()), max_file_links: Some(32), ..AddOptions::default() }
}

/// Files that are planted. A link only on unix: not everybody may make one on Windows, and nobody in Wine.
const PLANTED: u64 = if cfg!(unix) { 304 } else { 303 };

fn plant(root: &Path) {
    for folder in ["deep/er/still", "empty", "many", "sp ace/ünï"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    noise(&root.join("deep/er/still/large.bin"), 100 << 10, 1);
    noise(&root.join("sp ace/ünï/two leaves"), 17, 3);
    fs::write(root.join("none"), b"").unwrap();
    for i in 0..300_u32 {
        fs::write(root.join(format!("many/{i}")), format!("file {}\n", i % 250)).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("../leaf.bin", root.join("deep/er/link")).unwrap();
}

fn open(repo: &Path) -> Store {
    let affixes = |tag: &[u8], len| affixes_of_tag(tag, len).unwrap();
    Store::open(repo, Options { affixes, ..Options::default() }).unwrap()
}

fn add(store: &Store, path: &Path, options: &AddOptions) -> Result<Imported, Failure> {
    provide::import(Some(store), path, &Import::new(options).unwrap(), &mut |_| true)
}

/// Reads and checks every block of a DAG; how often each is there.
fn blocks(store: &Store, root: Cid) -> BTreeMap<String, u32> {
    let mut seen = BTreeMap::new();
    let mut ahead = vec![root];
    while let Some(cid) = ahead.pop() {
        let times = seen.entry(cid.to_string()).or_default();
        *times += 1;
        if *times > 1 {
            continue;
        }
        let bytes = store.read(cid.hash()).unwrap().unwrap_or_else(|| panic!("{cid} cannot be read"));
        let block = Block::verify(&cid, bytes).unwrap();
        if cid.codec() == DAG_PB {
            ahead.extend(dagpb::decode(block.bytes()).unwrap().links.iter().map(|link| link.cid));
        }
    }
    seen
}

#[test]
fn every_block_of_a_folder_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    plant(&original);
    for (name, options) in [
        ("default", AddOptions::default()),
        ("v0", AddOptions { cid_version: Some(0), ..cut_small() }),
        ("small", cut_small()),
        ("sharded", AddOptions { max_directory_links: Some(8), max_hamt_fanout: Some(8), ..AddOptions::default() }),
    ] {
        let repo = folder.path().join(name);
        let store = open(&repo);
        let imported = add(&store, &original, &options).unwrap();
        let found = blocks(&store, imported.cid);
        assert!(found.len() > 250, "{name}: {}", found.len());
        let hashed = provide::import(None, &original, &Import::new(&options).unwrap(), &mut |_| true).unwrap();
        assert_eq!(hashed, imported, "{name}: the same without a store");
        drop(store);
        assert_eq!(blocks(&open(&repo), imported.cid), found, "{name}: after a restart");
    }
}

#[test]
fn a_folder_that_is_added_again_takes_its_own_place() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    plant(&original);
    let store = open(&folder.path().join("repo"));
    let before = add(&store, &original, &AddOptions::default()).unwrap();
    let files = store.files().unwrap().len();
    assert_eq!(files, 302, "all but the link and the empty file");
    fs::write(original.join("many/7"), b"other bytes\n").unwrap();
    let after = add(&store, &original.join("."), &AddOptions::default()).unwrap();
    assert_ne!(before.cid, after.cid);
    let collections = store.collections().unwrap();
    assert_eq!(collections.len(), 1);
    assert_eq!((collections[0].root, collections[0].path.as_ref()), (Some(after.cid), Some(&original)));
    assert_eq!((collections[0].files, collections[0].size), (PLANTED, after.size));
    assert_eq!(store.files().unwrap().len(), files);
    blocks(&store, after.cid);
}

#[test]
fn an_import_that_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    plant(&original);
    let store = open(&folder.path().join("repo"));
    let nothing = |store: &Store| {
        assert_eq!(store.files().unwrap().len(), 0);
        assert_eq!(store.collections().unwrap().len(), 0);
    };
    for steps in [0, 1, 3] {
        for options in [AddOptions::default(), cut_small()] {
            let mut left = steps;
            let mut watch = |_| {
                left -= 1;
                left >= 0
            };
            let import = Import::new(&options).unwrap();
            let failure = provide::import(Some(&store), &original, &import, &mut watch).unwrap_err();
            assert_eq!(failure.code, "cancelled");
            nothing(&store);
        }
    }
    #[cfg(unix)]
    {
        let pipe = original.join("deep/pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let failure = add(&store, &original, &AddOptions::default()).unwrap_err();
        assert_eq!(failure.code, "not-a-file");
        assert!(failure.message.contains("deep/pipe"), "{failure}");
        nothing(&store);
        let ignore = vec!["pipe".to_owned()];
        add(&store, &original, &AddOptions { ignore, ..AddOptions::default() }).unwrap();
    }
}

#[test]
fn what_is_hidden_or_ignored_stays_out() {
    let folder = tempfile::tempdir().unwrap();
    let (full, bare) = (folder.path().join("full"), folder.path().join("bare"));
    for root in [&full, &bare] {
        plant(root);
    }
    fs::create_dir_all(full.join(".git/objects")).unwrap();
    fs::write(full.join(".git/objects/x"), b"x").unwrap();
    fs::write(full.join("deep/.secret"), b"x").unwrap();
    let hash = |path: &Path, options: AddOptions| {
        provide::import(None, path, &Import::new(&options).unwrap(), &mut |_| true).unwrap().cid
    };
    let usual = hash(&bare, AddOptions::default());
    assert_eq!(hash(&full, AddOptions::default()), usual);
    let hidden = AddOptions { hidden: true, ..AddOptions::default() };
    assert_ne!(hash(&full, hidden.clone()), usual);
    let ignore = vec![".git/".to_owned(), "deep/.s*".to_owned()];
    assert_eq!(hash(&full, AddOptions { ignore, ..hidden }), usual);
    // What is named itself is wanted.
    assert_ne!(hash(&full.join(".git"), AddOptions::default()), hash(&bare.join("empty"), AddOptions::default()));
}

#[test]
fn paths_with_one_name_cannot_be_in_one_directory() {
    let folder = tempfile::tempdir().unwrap();
    plant(folder.path());
    let paths: Vec<PathBuf> = ["many/1", "many/2", "deep"].iter().map(|name| folder.path().join(name)).collect();
    let import = Import::new(&AddOptions::default()).unwrap();
    let all = provide::import_wrapped(None, &paths, &import, &mut |_| true).unwrap();
    let names: Vec<&Path> = all.iter().map(|imported| imported.path.as_path()).collect();
    assert_eq!(names, [&paths[0], &paths[1], &paths[2], Path::new("")]);
    for imported in &all[..3] {
        let alone = provide::import(None, &imported.path, &import, &mut |_| true).unwrap();
        assert_eq!(*imported, alone);
    }
    fs::write(folder.path().join("1"), b"x").unwrap();
    let twice = [paths[0].clone(), folder.path().join("1")];
    let failure = provide::import_wrapped(None, &twice, &import, &mut |_| true).unwrap_err();
    assert_eq!(failure.code, "bad-path");
}

#[test]
fn the_command_line_knows_folders() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let original = folder.path().join("original");
    plant(&original);
    let path = original.to_str().unwrap();
    let added = repo.ask(&["add", "-r", path]);
    let cid = added.last().unwrap()["cid"].as_str().unwrap();
    assert_eq!(added.last().unwrap()["path"], path);
    let listed = repo.ask(&["ls"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["cid"], &listed[0]["path"], &listed[0]["files"]),
        (&cid.into(), &path.into(), &PLANTED.into())
    );
    assert_eq!(repo.ask(&["stat", cid]), listed);
    let none = original.join("none");
    let none = none.to_str().unwrap();
    let wrapped = repo.ask(&["add", "--only-hash", "-w", path, none]);
    let paths: Vec<&str> = wrapped.iter().map(|event| event["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [path, none, ""]);
    assert_eq!(wrapped[0]["cid"], cid);

    let verified = repo.ask(&["verify", cid]);
    assert_eq!((&verified[0]["bad_bytes"], &verified[0]["bytes"]), (&0.into(), &listed[0]["size"]));
    fs::write(original.join("many/3"), b"other\n\n").unwrap();
    fs::remove_file(original.join("many/5")).unwrap();
    let done = repo.run(&["verify", cid]);
    assert!(!done.status.success());
    let told = String::from_utf8(done.stdout).unwrap();
    let bad = told.lines().filter(|line| line.contains("\"event\":\"bad\"")).count();
    assert_eq!(bad, 2, "{told}");
    assert!(
        told.contains(if cfg!(windows) { "many\\\\5" } else { "many/5" }) && told.contains("\"bad_bytes\":14"),
        "{told}"
    );
    repo.ask(&["rm", cid]);
    assert_eq!(repo.ask(&["ls"]).len(), 0);
    assert!(original.join("many/3").exists());
}
