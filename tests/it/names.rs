//! Names and paths that not every system takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use bitshoal::block::{Block, Prefix};
use bitshoal::dag::dagpb::{Link, Node, encode};
use bitshoal::dag::path::Rules;
use bitshoal::dag::unixfs::{Data, Kind};
use bitshoal::store::{Options, Store};
use bytes::Bytes;

use crate::support::{Repo, assert_same, noise};

#[test]
fn paths_longer_than_windows_once_took_are_added_pulled_and_served() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let deep: PathBuf = ["a", "b", "c"].iter().map(|name| name.repeat(120)).collect();
    let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
    fs::create_dir_all(original.join(&deep)).unwrap();
    for (name, size) in [("big", 5 << 20), ("small", 100)] {
        noise(&original.join(&deep).join(name), size, size as u64);
    }
    let (from, _to) = (publisher.daemon(), reader.daemon());
    let added = publisher.ask(&["add", original.to_str().unwrap()]);
    let cid = added.last().unwrap()["cid"].as_str().unwrap();
    reader.ask(&["get", cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    for name in ["big", "small"] {
        assert_same(&original.join(&deep).join(name), &copy.join(&deep).join(name));
    }
    // What has been pulled is found, read and hashed again there.
    reader.ask(&["verify", cid]);
    // A single file, whose own path is long.
    let single = copy.join(&deep).join("single");
    let added = publisher.ask(&["add", original.join(&deep).join("big").to_str().unwrap()]);
    reader.ask(&["get", added.last().unwrap()["cid"].as_str().unwrap(), "-o", single.to_str().unwrap()]);
    assert_same(&original.join(&deep).join("big"), &single);
}

#[test]
fn names_that_this_system_would_misread_become_others_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let names = ["CON", "NUL", "aux.txt", "com1", "dot.", "space ", "stream:x", "back\\slash", "q?", "plain"];
    let (mut blocks, mut links) = (Vec::new(), Vec::new());
    for name in names {
        let leaf = Block::seal(Prefix::RAW_V1, Bytes::copy_from_slice(name.as_bytes())).unwrap();
        let tsize = Some(name.len() as u64);
        links.push(Link { cid: *leaf.cid(), name: Bytes::copy_from_slice(name.as_bytes()).into(), tsize });
        blocks.push(leaf);
    }
    let root = encode(&Node { links, data: Some(Data::new(Kind::Directory).encode().into()) });
    let root = Block::seal(Prefix::DAG_PB_V1, root.into()).unwrap();
    let cid = root.cid().to_string();
    blocks.push(root);
    Store::open(&publisher.path, Options::default()).unwrap().put_nodes(&blocks).unwrap();
    let (from, _to) = (publisher.daemon(), reader.daemon());
    let copy = folder.path().join("copy");
    reader.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    let expected: BTreeMap<String, Vec<u8>> = names
        .iter()
        .map(|name| {
            let named = Rules::native().component(name.as_bytes()).unwrap();
            (String::from_utf8(named.as_bytes().to_vec()).unwrap(), name.as_bytes().to_vec())
        })
        .collect();
    assert_eq!(expected.len(), names.len());
    assert_eq!(cfg!(windows), !expected.contains_key("CON"));
    let found: BTreeMap<String, Vec<u8>> = fs::read_dir(&copy)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    assert_eq!(found, expected);
    reader.ask(&["verify", &cid]);
}
