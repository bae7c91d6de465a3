//! Folders between real processes: whole trees, parts of them, in the middle, into what is there, and those that lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bitshoal::block::{Block, Cid, Prefix, RAW};
use bitshoal::dag::dagpb::{Link, Node, encode};
use bitshoal::dag::unixfs::{Data, Kind};
use bitshoal::store::{NewCollection, Options, Store};
use bytes::Bytes;

#[cfg(unix)]
use crate::support::bounded;
use crate::support::{Repo, json_lines, noise, stderr};

const MIB: usize = 1 << 20;

/// What a tree holds, by path: a file's bytes, a link's target, nothing for a folder.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap();
            let bytes = if kind.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display()).into_bytes()
            } else if kind.is_dir() {
                folders.push(path.clone());
                b"folder".to_vec()
            } else {
                std::fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().to_path_buf(), bytes);
        }
    }
    found
}

fn assert_same_tree(a: &Path, b: &Path) {
    let (a, b) = (tree(a), tree(b));
    let only = |one: &BTreeMap<PathBuf, _>, other: &BTreeMap<PathBuf, _>| -> Vec<PathBuf> {
        one.keys().filter(|path| !other.contains_key(*path)).take(5).cloned().collect()
    };
    assert_eq!((only(&a, &b), only(&b, &a)), (vec![], vec![]));
    for (path, bytes) in &a {
        assert!(b[path] == *bytes, "{} differs", path.display());
    }
}

/// A tree with everything that trees have.
fn plant(root: &Path) {
    for folder in ["deep/er/still", "empty", "many", "sp ace/ünï"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    noise(&root.join("deep/er/still/large.bin"), 9 * MIB + 17, 1);
    noise(&root.join("deep/leaf.bin"), MIB, 2);
    noise(&root.join("sp ace/ünï/two leaves"), MIB + 1, 3);
    std::fs::write(root.join("none"), b"").unwrap();
    for i in 0..300_u32 {
        std::fs::write(root.join(format!("many/{i}")), format!("file {}\n", i % 250)).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("../leaf.bin", root.join("deep/er/link")).unwrap();
}

/// Adds a folder and returns its CID.
fn published(repo: &Repo, path: &Path, more: &[&str]) -> String {
    let arguments: Vec<&str> = ["add", path.to_str().unwrap()].iter().chain(more).copied().collect();
    repo.ask(&arguments).last().unwrap()["cid"].as_str().unwrap().to_owned()
}

#[test]
fn a_folder_comes_whole_by_every_profile_and_is_served_on() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let first = Repo::member(folder.path(), "first", &publisher);
    let second = Repo::member(folder.path(), "second", &publisher);
    let original = folder.path().join("original");
    plant(&original);
    for profile in ["unixfs-v1-2025", "unixfs-v0-2015"] {
        let cid = published(&publisher, &original, &["--profile", profile]);
        let from = publisher.daemon();
        let one = first.daemon();
        let copy = folder.path().join(format!("first-{profile}"));
        let events = first.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
        assert_same_tree(&original, &copy);
        let files = events.iter().filter(|event| event["event"] == "file").count();
        let last = events.last().unwrap();
        assert_eq!((last["state"].as_str(), files), (Some("done"), 304));
        assert_eq!(last["done_bytes"], last["total_bytes"]);
        // Every block of it comes from the copy, without the publisher.
        from.kill();
        let copy = folder.path().join(format!("second-{profile}"));
        second.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", one.address()]);
        assert_same_tree(&original, &copy);
    }
    let listed = first.ask(&["ls"]);
    assert_eq!(listed.len(), 2, "{listed:?}");
}

#[test]
fn a_folder_that_is_sharded_from_its_root_comes_whole() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    plant(&original);
    let cid = published(&publisher, &original, &["--max-directory-links", "2", "--max-hamt-fanout", "8"]);
    let from = publisher.daemon();
    let copy = folder.path().join("copy");
    reader.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    assert_same_tree(&original, &copy);
}

#[test]
fn a_folder_goes_on_after_a_crash_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    plant(&original);
    for i in 0..4 {
        noise(&original.join(format!("large{i}")), 16 * MIB, 10 + i);
    }
    let cid = published(&publisher, &original, &[]);
    let from = publisher.daemon();
    let copy = folder.path().join("copy");
    let to = reader.daemon();
    reader.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address(), "--detach"]);
    reader.wait_job(&copy, |job| job["done_bytes"].as_u64() > Some(20 * MIB as u64) || job["state"] == "done");
    to.kill();
    let _to = reader.daemon();
    let events = reader.ask(&["get", &cid, "-o", copy.to_str().unwrap()]);
    assert_same_tree(&original, &copy);
    let last = events.last().unwrap();
    let pulled: u64 = last["sources"].as_array().unwrap().iter().map(|source| source["bytes"].as_u64().unwrap()).sum();
    let total = last["total_bytes"].as_u64().unwrap();
    assert!(pulled < total, "{pulled} of {total} bytes were pulled again");
    assert!(tree(&copy).keys().all(|path| path.extension().is_none_or(|extension| extension != "part")));
}

#[test]
fn a_part_of_a_folder_is_what_the_globs_select() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    plant(&original);
    let cid = published(&publisher, &original, &[]);
    let from = publisher.daemon();
    let copy = folder.path().join("copy");
    let globs = ["--select", "**/*.bin", "--select", "many/1?"];
    let arguments = ["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()];
    reader.ask(&[&arguments[..], &globs[..]].concat());
    let found: Vec<PathBuf> = tree(&copy).into_iter().filter(|(_, bytes)| bytes != b"folder").map(|(p, _)| p).collect();
    let mut expected: Vec<PathBuf> = (10..20).map(|i| PathBuf::from(format!("many/{i}"))).collect();
    expected.extend(["deep/er/still/large.bin", "deep/leaf.bin"].map(PathBuf::from));
    expected.sort();
    assert_eq!(found, expected);
}

#[cfg(unix)]
#[test]
fn permissions_and_times_come_along_unless_they_are_not_wanted() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    std::fs::create_dir_all(original.join("inner")).unwrap();
    let past = std::time::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 5_000);
    noise(&original.join("inner/large"), 5 * MIB, 1);
    for (name, mode) in [("small", 0o600), ("inner/large", 0o750), ("inner", 0o700)] {
        let path = original.join(name);
        if name == "small" {
            std::fs::write(&path, b"small").unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(past).unwrap();
    }
    let cid = published(&publisher, &original, &["--preserve-mode", "--preserve-mtime"]);
    let from = publisher.daemon();
    for (name, more) in [("with", None), ("without", Some("--no-preserve"))] {
        let copy = folder.path().join(name);
        let arguments: Vec<&str> =
            ["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()].into_iter().chain(more).collect();
        reader.ask(&arguments);
        for (name, mode) in [("small", 0o600), ("inner/large", 0o750), ("inner", 0o700)] {
            let found = copy.join(name).metadata().unwrap();
            let restored = (found.mode() & 0o777, found.mtime(), found.mtime_nsec()) == (mode, 1_600_000_000, 5_000);
            assert_eq!(restored, more.is_none(), "{name}: {:o} {}", found.mode(), found.mtime());
        }
    }
    // A file with a time of its own is no changed file.
    assert!(reader.ask(&["ls"]).iter().all(|root| root["problem"].is_null()));
}

#[test]
fn a_folder_goes_into_what_is_there_only_when_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    plant(&original);
    let cid = published(&publisher, &original, &[]);
    let from = publisher.daemon();
    let copy = folder.path().join("parent").join(&cid);
    std::fs::create_dir_all(copy.join("many")).unwrap();
    std::fs::write(copy.join("many/7"), b"file 7\n").unwrap();
    std::fs::write(copy.join("many/8"), b"something else").unwrap();
    std::fs::write(copy.join("mine"), b"mine").unwrap();
    let parent = folder.path().join("parent");
    let arguments = ["get", &cid, "-o", parent.to_str().unwrap(), "--peer", from.address()];
    assert!(reader.refused(&arguments).contains("exists already"));
    assert_eq!(std::fs::read(copy.join("many/8")).unwrap(), b"something else");
    let arguments = ["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address(), "--into-existing"];
    reader.ask(&arguments);
    assert_eq!(std::fs::read(copy.join("mine")).unwrap(), b"mine");
    std::fs::remove_file(copy.join("mine")).unwrap();
    assert_same_tree(&original, &copy);
}

/// A folder that was pulled once is looked after, not pulled again into itself: what is gone from it comes back, what was
/// left out can be had in addition, and what somebody has changed is not overwritten.
#[test]
fn the_same_pull_again_mends_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    plant(&original);
    let cid = published(&publisher, &original, &[]);
    let from = publisher.daemon();
    let copy = folder.path().join("copy");
    let part = format!("{cid}/deep");
    let deep = folder.path().join("deep");
    let (whole, path) = (["get", &cid, "-o", copy.to_str().unwrap()], ["get", &part, "-o", deep.to_str().unwrap()]);
    let peer = ["--peer", from.address()];
    let nothing = reader.refused(&[&whole[..], &peer, &["--select", "nowhere/*"]].concat());
    assert!(nothing.contains("nothing-selected") && nothing.contains("nowhere/*"), "{nothing}");
    assert!(!copy.exists() && reader.ask(&["ls"]).is_empty());
    reader.ask(&[&whole[..], &peer, &["--select", "deep/**"]].concat());
    reader.ask(&[&path[..], &peer].concat());
    for _ in 0..2 {
        reader.ask(&[&whole[..], &peer].concat());
        assert_same_tree(&original, &copy);
    }
    std::fs::remove_file(copy.join("many/7")).unwrap();
    std::fs::remove_dir_all(copy.join("deep")).unwrap();
    let events = reader.ask(&[&whole[..], &peer].concat());
    assert_same_tree(&original, &copy);
    let last = events.last().unwrap();
    assert!(last["local_bytes"].as_u64().unwrap() > 0, "{last}");
    // The path's folder needs nothing; a folder of the user's takes what it is given as an entry.
    reader.ask(&[&path[..], &peer].concat());
    assert_same_tree(&original.join("deep"), &deep);
    std::fs::write(copy.join("many/8"), b"the user's").unwrap();
    reader.refused(&[&whole[..], &peer].concat());
    assert_eq!(std::fs::read(copy.join("many/8")).unwrap(), b"the user's");
    let file = format!("{cid}/none");
    let refused = reader.refused(&["get", &file, "-o", folder.path().join("none").to_str().unwrap(), "--select", "x"]);
    assert!(refused.contains("--select is for folders"), "{refused}");
}

/// Thousands of small files with no more open files than a careful administrator allows.
#[cfg(unix)]
#[test]
fn a_folder_of_small_files_needs_few_open_files() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    std::fs::create_dir(&original).unwrap();
    for i in 0..6000_u32 {
        std::fs::write(original.join(i.to_string()), i.to_string()).unwrap();
    }
    let cid = published(&publisher, &original, &[]);
    let from = publisher.daemon();
    let copy = folder.path().join("copy");
    let get = reader.command(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 600; exec \"$@\"", "sh"]).arg(get.get_program()).args(get.get_args());
    let done = bounded(&mut limited);
    assert!(done.status.success(), "{}", stderr(&done));
    assert_same_tree(&original, &copy);
}

/// A name that is as long as names can be leaves no room for `.part` behind it.
#[cfg(unix)]
#[test]
fn the_longest_names_come_along() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    let long = original.join("d".repeat(255));
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join("s".repeat(255)), b"small").unwrap();
    noise(&long.join("l".repeat(251)), 5 * MIB, 1);
    let cid = published(&publisher, &original, &[]);
    let from = publisher.daemon();
    let copy = folder.path().join("copy");
    reader.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    assert_same_tree(&original, &copy);
}

/// A large file whose rest nobody has does not keep the small ones from coming.
#[test]
fn one_file_that_nobody_has_does_not_starve_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let poor = Repo::member(folder.path(), "poor", &publisher);
    let rich = Repo::member(folder.path(), "rich", &publisher);
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    std::fs::create_dir(&original).unwrap();
    noise(&original.join("large"), 9 * MIB, 1);
    for i in 0..50_u32 {
        std::fs::write(original.join(format!("small{i}")), i.to_string()).unwrap();
    }
    let cid = published(&publisher, &original, &[]);
    // `poor` has the folder's own block and the large file's tree, and no leaf; `rich` has the small files only.
    let parts = folder.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    for i in 0..50_u32 {
        std::fs::copy(original.join(format!("small{i}")), parts.join(format!("small{i}"))).unwrap();
    }
    published(&rich, &parts, &[]);
    let root = Cid::try_from(cid.as_str()).unwrap();
    let mut nodes = Vec::new();
    {
        let from = Store::open(&publisher.path, Options::default()).unwrap();
        let folder = bitshoal::dag::dagpb::decode(&from.read(root.hash()).unwrap().unwrap()).unwrap();
        let large = folder.links.iter().find(|link| *link.name == *b"large").unwrap().cid;
        for cid in [root, large] {
            nodes.push(Block::verify(&cid, from.read(cid.hash()).unwrap().unwrap()).unwrap());
        }
    }
    Store::open(&poor.path, Options::default()).unwrap().put_nodes(&nodes).unwrap();
    let (poor, rich) = (poor.daemon(), rich.daemon());
    let _node = reader.daemon();
    reader.ask(&["connect", poor.address()]);
    let copy = folder.path().join("copy");
    let _pull = reader.start_get(&cid, &copy, &[]);
    // The large file is begun, and waits.
    reader.wait_job(&copy, |job| job["message"].as_str().is_some_and(|text| text.contains("none of the connected")));
    reader.ask(&["connect", rich.address()]);
    reader.wait_job(&copy, |job| job["done_files"] == 50);
    for i in 0..50_u32 {
        assert!(copy.join(format!("small{i}")).exists());
    }
}

#[test]
fn a_file_of_a_folder_is_read_and_pulled_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    plant(&original);
    noise(&original.join("deep/huge"), 64 * MIB, 5);
    let expected = std::fs::read(original.join("deep/huge")).unwrap();
    let cid = published(&publisher, &original, &[]);
    let from = publisher.daemon();
    let path = format!("{cid}/deep/huge");
    let cat = |more: &[&str]| {
        let arguments = [&["cat", &path, "--peer", from.address()][..], more].concat();
        let done = reader.run(&arguments);
        assert!(done.status.success(), "{}", stderr(&done));
        done.stdout
    };
    let middle = expected.len() / 2 + 3;
    assert!(cat(&["--offset", &(expected.len() + 5).to_string()]).is_empty());
    assert!(cat(&["--offset", &middle.to_string(), "--length", "100000"]) == expected[middle..middle + 100_000]);
    {
        let _daemon = reader.daemon();
        assert!(cat(&["--offset", &middle.to_string(), "--length", "100000"]) == expected[middle..middle + 100_000]);
        let peers = reader.ask(&["peers"]);
        let cost: u64 = peers.iter().map(|peer| peer["received_bytes"].as_u64().unwrap()).sum();
        assert!(cost < 4 * MIB as u64, "a range of 100 kB cost {cost} bytes");
        assert!(cat(&[]) == expected);
        assert!(reader.refused(&["cat", &format!("{cid}/deep/nothing")]).contains("there is no"));
        assert!(reader.refused(&["cat", &format!("{cid}/deep")]).contains("is a directory"));
        assert!(reader.refused(&["cat", &format!("{cid}/none/more")]).contains("not a directory"));
    }
    let copy = folder.path().join("copy");
    reader.ask(&["get", &format!("/ipfs/{cid}/deep/leaf.bin"), "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    crate::support::assert_same(&original.join("deep/leaf.bin"), &copy);
    let copy = folder.path().join("part");
    reader.ask(&["get", &format!("{cid}/deep/er/still"), "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    assert_same_tree(&original.join("deep/er/still"), &copy);
}

/// Only the directory's own nodes are pulled for it, whether it is one or many, with a daemon and without.
#[test]
fn a_directory_is_listed_without_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    plant(&original);
    noise(&original.join("deep/huge"), 16 * MIB, 5);
    let cids = [&[][..], &["--max-directory-links", "2", "--max-hamt-fanout", "8"]]
        .map(|more| published(&publisher, &original, more));
    let from = publisher.daemon();
    let _daemon = {
        // Without a daemon first.
        let path = format!("{}/sp ace", cids[0]);
        let listed = reader.ask(&["ls", &path, "--peer", from.address()]);
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0]["event"].as_str(), listed[0]["name"].as_str()), (Some("entry"), Some("ünï")));
        reader.daemon()
    };
    for cid in &cids {
        let list = |path: &str| {
            let mut listed = reader.ask(&["ls", &format!("{cid}{path}"), "--peer", from.address()]);
            listed.sort_by_key(|entry| entry["name"].as_str().unwrap().to_owned());
            listed
        };
        let names = |listed: &[serde_json::Value]| -> Vec<String> {
            listed.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&list("")), ["deep", "empty", "many", "none", "sp ace"]);
        let mut many: Vec<String> = (0..300).map(|i| i.to_string()).collect();
        many.sort();
        let listed = list("/many");
        assert_eq!(names(&listed), many);
        assert_eq!((listed[0]["size"].as_u64(), listed[0]["kind"].as_str()), (Some(7), Some("file")));
        assert!(list("/empty").is_empty());
        let deep = list("/deep");
        let huge = &deep[names(&deep).iter().position(|name| name == "huge").unwrap()];
        assert!(huge["size"].as_u64() > Some(16 * MIB as u64), "{huge}");
        // Resolving has brought `deep` here, so that it is known what that is.
        let known = list("/deep/er").len();
        assert_eq!(known, if cfg!(unix) { 2 } else { 1 });
        let kinds: Vec<_> = list("").iter().map(|entry| entry["kind"].as_str().map(str::to_owned)).collect();
        assert_eq!(kinds[0].as_deref(), Some("directory"));
        let listed = reader.command(&["ls", cid]).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.ends_with("  deep/")));
        assert!(reader.refused(&["ls", &format!("{cid}/many/7")]).contains("not a directory"));
        assert!(reader.refused(&["ls", &format!("{cid}/deep/huge")]).contains("is a file"));
        assert!(reader.refused(&["ls", &format!("{cid}/nothing")]).contains("there is no"));
    }
    let peers = reader.ask(&["peers"]);
    let cost: u64 = peers.iter().map(|peer| peer["received_bytes"].as_u64().unwrap()).sum();
    assert!(cost < MIB as u64, "listing cost {cost} bytes");
    assert!(reader.ask(&["ls"]).is_empty(), "what was listed is no root");
}

fn node(kind: Kind, data: Option<&[u8]>, links: &[(&str, Cid)]) -> Block {
    let links = links
        .iter()
        .map(|(name, cid)| Link { cid: *cid, name: Bytes::copy_from_slice(name.as_bytes()).into(), tsize: Some(9) })
        .collect();
    let message = Data { data: data.map(Bytes::copy_from_slice), ..Data::new(kind) };
    let bytes = encode(&Node { links, data: Some(message.encode().into()) });
    Block::seal(Prefix::DAG_PB_V1, bytes.into()).unwrap()
}

/// Folders that no honest program makes are refused, and nothing outside of the target is ever touched.
#[test]
fn folders_that_lead_outside_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let evil = Block::seal(Prefix::RAW_V1, Bytes::from_static(b"evil")).unwrap();
    let file = *evil.cid();
    let up = node(Kind::Symlink, Some(b"../outside"), &[]);
    let absolute = node(Kind::Symlink, Some(b"/outside"), &[]);
    let trap = node(Kind::Directory, None, &[("planted", file)]);
    let cbor = Cid::new_v1(0x71, *file.hash());
    assert_eq!(file.codec(), RAW);
    let refused = [
        node(Kind::Directory, None, &[("../evil", file)]),
        node(Kind::Directory, None, &[("..", *trap.cid())]),
        node(Kind::Directory, None, &[("/evil", file)]),
        node(Kind::Directory, None, &[("", file)]),
        node(Kind::Directory, None, &[("a\0b", file)]),
        node(Kind::Directory, None, &[("twice", *up.cid()), ("twice", *trap.cid())]),
        node(Kind::Directory, None, &[("x", cbor)]),
        node(Kind::HamtShard, None, &[("00evil", file)]),
    ];
    // A link and, beside it, a folder that would have to go through it if names were one.
    let around = node(Kind::Symlink, Some(b"sub/../ok"), &[]);
    let through = node(Kind::Symlink, Some(b"around/../ok"), &[]);
    let links = [
        ("absolute", *absolute.cid()),
        ("around", *around.cid()),
        ("ok", file),
        ("sub", *trap.cid()),
        ("through", *through.cid()),
        ("up", *up.cid()),
    ];
    let links = node(Kind::Directory, None, &links);
    {
        let store = Store::open(&publisher.path, Options::default()).unwrap();
        let all: Vec<Block> =
            refused.iter().chain([&evil, &up, &absolute, &around, &through, &trap, &links]).cloned().collect();
        store.put_nodes(&all).unwrap();
    }
    let from = publisher.daemon();
    let _to = reader.daemon();
    reader.ask(&["connect", from.address()]);
    let target = folder.path().join("target");
    for (i, root) in refused.iter().enumerate() {
        let output = target.join(i.to_string());
        std::fs::create_dir_all(&target).unwrap();
        let said = reader.refused(&["get", &root.cid().to_string(), "-o", output.to_str().unwrap()]);
        assert!(said.contains("error"), "{i}: {said}");
        let left: Vec<_> = tree(folder.path()).into_iter().filter(|(_, bytes)| bytes == b"evil").collect();
        assert_eq!(left, [], "folder {i}");
    }
    let output = target.join("links");
    let events = reader.ask(&["get", &links.cid().to_string(), "-o", output.to_str().unwrap()]);
    let mut there = tree(&output);
    // Not everybody may make a link on Windows, and nobody in Wine.
    assert!(there.remove(Path::new("around")).is_some() || cfg!(windows));
    assert_eq!(there.into_keys().collect::<Vec<_>>(), ["ok", "sub", "sub/planted"].map(PathBuf::from));
    let message = events.last().unwrap()["message"].as_str().unwrap().to_owned();
    for left_out in ["absolute", "through", "up"] {
        assert!(message.contains(&format!("{left_out} (it may point outside")), "{message}");
    }
    // Nor is a link made that is all there is.
    for link in [&absolute, &up] {
        let output = target.join("alone");
        let said = reader.refused(&["get", &link.cid().to_string(), "-o", output.to_str().unwrap()]);
        assert!(said.contains("link-outside") && output.symlink_metadata().is_err(), "{said}");
    }
}

/// A DAG of dag-cbor, dag-json and a codec that nobody knows is pulled block by block, kept over a restart, and served on.
#[test]
fn a_dag_of_any_codec_is_pinned_and_served() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let third = Repo::member(folder.path(), "third", &publisher);
    let seal = |codec: u64, bytes: Vec<u8>| {
        let block = Block::seal(Prefix::RAW_V1, bytes.into()).unwrap();
        let cid = Cid::new_v1(codec, *block.cid().hash());
        (cid, block.renamed(&cid).unwrap())
    };
    let (git, leaf) = seal(0x78, b"blob 3\0abc".to_vec());
    let (json, middle) = seal(0x0129, format!(r#"{{"leaf":{{"/":"{git}"}}}}"#).into_bytes());
    // [link, link, 7]
    let link = |cid: &Cid| [&[0xd8, 0x2a, 0x58, 0x25, 0x00][..], &cid.to_bytes()[..36]].concat();
    assert_eq!((json.to_bytes().len(), git.to_bytes().len()), (37, 36));
    let long = [&[0xd8, 0x2a, 0x58, 0x26, 0x00][..], &json.to_bytes()].concat();
    let (root, top) = seal(0x71, [&[0x83][..], &long, &link(&git), &[7]].concat());
    Store::open(&publisher.path, Options::default()).unwrap().put_nodes(&[leaf, middle, top.clone()]).unwrap();
    let from = publisher.daemon();
    {
        // What says that it is whole, and is not.
        let store = Store::open(&third.path, Options::default()).unwrap();
        store.put_nodes(&[top]).unwrap();
        let hollow = NewCollection { root: Some(root), path: None, partial: true };
        let hollow = store.begin_collection(&hollow).unwrap();
        store.finish_collection(hollow, &root, 9, 3).unwrap();
    }
    let root = root.to_string();
    let said = third.run(&["verify", &root]);
    assert!(!said.status.success());
    assert!(json_lines(&said.stdout).iter().any(|event| event["path"].as_str() == Some(&*git.to_string())));
    third.ask(&["rm", &root]);
    let said = reader.ask(&["pin", &root, "--peer", from.address(), "--timeout", "60s"]);
    assert_eq!(said.last().unwrap()["blocks"], 3);
    let verified = reader.ask(&["verify", &root]);
    let last = verified.last().unwrap();
    assert_eq!((&last["bad_bytes"], last["bytes"].as_u64()), (&0.into(), said.last().unwrap()["bytes"].as_u64()));
    from.kill();
    assert_eq!(reader.ask(&["ls"])[0]["cid"].as_str(), Some(&*root));
    let to = reader.daemon();
    let said = third.ask(&["pin", &root, "--peer", to.address(), "--timeout", "60s"]);
    assert_eq!(said.last().unwrap()["blocks"], 3);
    reader.ask(&["rm", &root]);
    assert_eq!(reader.ask(&["ls"]), Vec::<serde_json::Value>::new());
}
