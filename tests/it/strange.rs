//! DAGs that our own importer never makes: of other makers, and made to harm.

use std::fs;

use bitshoal::block::{Block, Cid, Prefix, RAW};
use bitshoal::dag::dagpb::{Link, Node, encode};
use bitshoal::dag::unixfs::{Data, Kind};
use bitshoal::store::{Options, Store};
use bytes::Bytes;

#[cfg(unix)]
use crate::support::noise;
use crate::support::{Daemon, Repo};

/// A node of UnixFS with these links and the sizes that they are said to have.
fn node(kind: Kind, links: &[(&str, Cid, u64)]) -> Block {
    let sizes = links.iter().map(|(_, _, size)| *size);
    let is_file = kind == Kind::File;
    let message = Data {
        filesize: is_file.then(|| sizes.clone().sum()),
        blocksizes: if is_file { sizes.collect() } else { Vec::new() },
        ..Data::new(kind)
    };
    let links = links
        .iter()
        .map(|(name, cid, _)| Link { cid: *cid, name: Bytes::copy_from_slice(name.as_bytes()).into(), tsize: None })
        .collect();
    let bytes = encode(&Node { links, data: Some(message.encode().into()) });
    Block::seal(Prefix::DAG_PB_V1, bytes.into()).unwrap()
}

/// A directory of entries with what is claimed to lie below them.
fn directory(entries: &[(&str, Cid, u64)]) -> Block {
    let link = |(name, cid, tsize): &(&str, Cid, u64)| {
        let name = Bytes::copy_from_slice(name.as_bytes()).into();
        Link { cid: *cid, name, tsize: Some(*tsize) }
    };
    let data = Some(Data::new(Kind::Directory).encode().into());
    let bytes = encode(&Node { links: entries.iter().map(link).collect(), data });
    Block::seal(Prefix::DAG_PB_V1, bytes.into()).unwrap()
}

/// The CID that holds these bytes itself.
fn identity(codec: u64, bytes: &[u8]) -> Cid {
    Cid::new_v1(codec, multihash(bytes))
}

fn multihash(bytes: &[u8]) -> bitshoal::block::Multihash {
    bitshoal::block::Multihash::wrap(0, bytes).unwrap()
}

/// A publisher that has these blocks, and a reader that knows it.
fn swarm(folder: &std::path::Path, blocks: &[Block]) -> (Repo, [Daemon; 2]) {
    let publisher = Repo::new(folder, "publisher");
    let reader = Repo::member(folder, "reader", &publisher);
    Store::open(&publisher.path, Options::default()).unwrap().put_nodes(blocks).unwrap();
    let daemons = [publisher.daemon(), reader.daemon()];
    reader.ask(&["connect", daemons[0].address()]);
    (reader, daemons)
}

#[test]
fn a_metadata_node_is_the_file_that_it_is_about() {
    let folder = tempfile::tempdir().unwrap();
    let leaf = Block::seal(Prefix::RAW_V1, Bytes::from_static(b"content")).unwrap();
    let file = node(Kind::File, &[("", *leaf.cid(), 7)]);
    let about = node(Kind::Metadata, &[("", *file.cid(), 0)]);
    let twice = node(Kind::Metadata, &[("", *about.cid(), 0)]);
    let whole = node(Kind::Directory, &[("a", *twice.cid(), 0), ("b", *leaf.cid(), 0)]);
    let (reader, _daemons) = swarm(folder.path(), &[leaf, file, about.clone(), twice.clone(), whole.clone()]);
    for (i, root) in [&about, &twice].into_iter().enumerate() {
        let copy = folder.path().join(i.to_string());
        reader.ask(&["get", &root.cid().to_string(), "-o", copy.to_str().unwrap()]);
        assert_eq!(fs::read(copy).unwrap(), b"content");
        let said = reader.command(&["cat", &root.cid().to_string()]).output().unwrap();
        assert_eq!(said.stdout, b"content");
    }
    let copy = folder.path().join("whole");
    reader.ask(&["get", &whole.cid().to_string(), "-o", copy.to_str().unwrap()]);
    assert_eq!(
        (fs::read(copy.join("a")).unwrap(), fs::read(copy.join("b")).unwrap()),
        (b"content".into(), b"content".into())
    );
}

// Wine makes no links.
#[cfg(unix)]
#[test]
fn no_link_leads_what_is_pulled_out_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original");
    fs::create_dir_all(original.join("a")).unwrap();
    noise(&original.join("a/big"), 9 << 20, 1);
    noise(&original.join("a/small"), 9, 2);
    let added = publisher.ask(&["add", original.to_str().unwrap()]);
    let cid = added.last().unwrap()["cid"].as_str().unwrap();
    let from = publisher.daemon();
    let victim = folder.path().join("victim");
    for (i, name) in ["big", "small"].into_iter().enumerate() {
        fs::write(&victim, b"mine").unwrap();
        let target = folder.path().join(format!("target-{i}"));
        fs::create_dir_all(target.join("a")).unwrap();
        std::os::unix::fs::symlink(&victim, target.join("a").join(name)).unwrap();
        let to = target.to_str().unwrap();
        let said = reader.refused(&["get", cid, "-o", to, "--into-existing", "--peer", from.address()]);
        assert!(said.contains(name), "{said}");
        assert_eq!(fs::read(&victim).unwrap(), b"mine", "{name}");
    }
}

/// Nodes in nodes, each with tens of thousands of links that are there at once, before a first byte that never comes.
#[test]
fn trees_made_to_fill_memory_do_not() {
    const LINKS: usize = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let gone = *Block::seal(Prefix::RAW_V1, Bytes::from_static(b"gone")).unwrap().cid();
    let byte = identity(RAW, b"x");
    let (mut blocks, mut below, mut size) = (Vec::new(), gone, 4_u64);
    for _ in 0..30 {
        let mut links = vec![("", below, size)];
        links.resize(LINKS, ("", byte, 1));
        size += LINKS as u64 - 1;
        let above = node(Kind::File, &links);
        below = *above.cid();
        blocks.push(above);
    }
    // The same in a codec that is no file: 24 blocks of distinct identity links.
    let mut parts = Vec::new();
    for i in 0..24_u32 {
        let mut cbor = vec![0x9a];
        cbor.extend(u32::try_from(LINKS).unwrap().to_be_bytes());
        for j in 0..u32::try_from(LINKS).unwrap() {
            let cid = identity(RAW, &[i.to_be_bytes(), j.to_be_bytes()].concat()).to_bytes();
            cbor.extend([0xd8, 0x2a, 0x58, u8::try_from(cid.len() + 1).unwrap(), 0]);
            cbor.extend(cid);
        }
        let block = Block::seal(Prefix::RAW_V1, cbor.into()).unwrap();
        let cid = Cid::new_v1(0x71, *block.cid().hash());
        parts.push(block.renamed(&cid).unwrap());
    }
    let mut cbor = vec![0x98, u8::try_from(parts.len()).unwrap()];
    for part in &parts {
        cbor.extend([0xd8, 0x2a, 0x58, 0x25, 0x00]);
        cbor.extend(part.cid().to_bytes());
    }
    let block = Block::seal(Prefix::RAW_V1, cbor.into()).unwrap();
    let pinned = Cid::new_v1(0x71, *block.cid().hash());
    parts.push(block.renamed(&pinned).unwrap());
    let (reader, daemons) = swarm(folder.path(), &[blocks, parts].concat());
    let said = reader.refused(&["cat", &below.to_string(), "--timeout", "5s"]);
    assert!(said.contains("parts to be known at once"), "{said}");
    assert_eq!(reader.ask(&["pin", &pinned.to_string()]).last().unwrap()["blocks"], 25);
    let peak = peak_kib(&daemons[1]);
    assert!(peak < 300 << 10, "{peak} KiB");
}

/// The most memory that a daemon has taken so far; nothing where no file tells it of other processes.
fn peak_kib(daemon: &Daemon) -> u64 {
    if cfg!(not(target_os = "linux")) {
        return 0;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Sizes that add up to more than a number holds, and a block of directories of which each names tens of thousands more.
#[test]
fn directories_made_to_overflow_or_to_fill_memory_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let leaf = Block::seal(Prefix::RAW_V1, Bytes::from_static(b"content")).unwrap();
    let huge = directory(&[("a", *leaf.cid(), 1 << 63), ("b", *leaf.cid(), 1 << 63), ("c", *leaf.cid(), u64::MAX)]);
    let names: Vec<String> = (0..40_000).map(|i| format!("{i:05}")).collect();
    let nothing = identity(RAW, b"");
    let wide = directory(&names.iter().map(|name| (name.as_str(), nothing, 0)).collect::<Vec<_>>());
    let bomb = directory(&names.iter().take(300).map(|name| (name.as_str(), *wide.cid(), 0)).collect::<Vec<_>>());
    let (reader, [_from, to]) = swarm(folder.path(), &[leaf, huge.clone(), wide, bomb.clone()]);
    let copy = folder.path().join("huge");
    reader.ask(&["get", &huge.cid().to_string(), "-o", copy.to_str().unwrap()]);
    assert_eq!(fs::read(copy.join("c")).unwrap(), b"content");
    let copy = folder.path().join("bomb");
    let pull = reader.start_get(&bomb.cid().to_string(), &copy, &[]);
    reader.wait_job(&copy, |job| job["done_files"].as_u64().is_some_and(|files| files > 2000));
    let peak = peak_kib(&to);
    assert!(peak < 700 << 10, "{peak} KiB");
    drop(pull);
}
