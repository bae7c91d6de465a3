//! Directories that others have published, or that Kubo made when asked; what is refused, and what is read back.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use orion::hazardous::stream::chacha20::{ChaCha20, Nonce, SecretKey};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    block::parse_cid,
    dag::{
        builder::{Builder, leaf_block},
        hamt::tests::{Blocks, car, read_back},
        unixfs::Mtime,
    },
};

/// Something to be added, with what Kubo would preserve of it.
enum Item<'a> {
    Text(&'a str),
    Bytes(Vec<u8>),
    Link(&'a str),
    Dir(Vec<(&'a str, Self)>),
    Dated(Metadata, Box<Self>),
}
use Item::{Dated, Dir, Link, Text};

type Options = (DirOptions, Profile);
const V0: Options = (DirOptions::V0_2015, Profile::V0_2015);
const V1: Options = (DirOptions::kubo_defaults(Version::V1), Profile::kubo_defaults(Version::V1));
const V1_NODES: Options = (V1.0, Profile { raw_leaves: false, ..V1.1 });
const V1_2025: Options = (DirOptions::V1_2025, Profile::V1_2025);
const NARROW: Options = (DirOptions { fanout: 128, max_links: Some(100), ..V1.0 }, V1.1);
const SHARDED_V0: Options = (DirOptions { threshold: Threshold { bytes: 1, estimate: Estimate::Links }, ..V0.0 }, V0.1);

fn at(mode: u32, seconds: i64) -> Metadata {
    Metadata { mode: Some(mode), mtime: Some(Mtime { seconds, nanos: 0 }) }
}

fn dated<'a>(metadata: Metadata, item: Item<'a>) -> Item<'a> {
    Dated(metadata, Box::new(item))
}

fn add(options: &Options, item: &Item<'_>, metadata: Metadata) -> LinkTo {
    match item {
        Text(text) => file(&options.1, text.as_bytes()),
        Item::Bytes(bytes) => file(&options.1, bytes),
        Link(target) => {
            let block = symlink(&options.0, target.as_bytes(), metadata).unwrap();
            LinkTo { cid: *block.cid(), tsize: block.bytes().len() as u64 }
        }
        Dir(items) => {
            let mut entries = Entries::default();
            for (name, item) in items {
                let link = add(options, item, Metadata::default());
                entries.push(name.as_bytes(), &link.cid, link.tsize);
            }
            build(&options.0, &entries, metadata, &mut drop).unwrap()
        }
        Dated(metadata, item) => add(options, item, *metadata),
    }
}

fn file(profile: &Profile, bytes: &[u8]) -> LinkTo {
    let mut builder = Builder::new(*profile);
    bytes.chunks(profile.chunker.bytes_max() as usize).for_each(|chunk| builder.push(leaf(profile, chunk), &mut drop));
    let root = builder.finish(&mut drop);
    LinkTo { cid: root.cid, tsize: root.tsize }
}

/// The first bytes of ChaCha20's key stream under SHA-256 of the seed, nonce and counter 0.
fn keystream(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let key: [u8; 32] = Sha256::digest(seed).into();
    ChaCha20::new(&SecretKey::from(key), &Nonce::from([0; 12])).xor_keystream_into(&mut bytes).unwrap();
    bytes
}

/// `count` files of one `x`; names are slices of the seed's key stream in letters.
fn random_names(options: &Options, seed: &str, count: usize, name_bytes: usize, last_name_bytes: usize) -> LinkTo {
    let letters = b"abcdefghijklmnopqrstuvwxyz01234567890-_";
    let mut stream = keystream(seed, 1 << 20).into_iter().map(|byte| letters[usize::from(byte) % letters.len()]);
    let mut entries = Entries::default();
    let content = leaf(&options.1, b"x");
    for i in 1..=count {
        let length = if i == count { last_name_bytes } else { name_bytes };
        let name: Vec<u8> = stream.by_ref().take(length).collect();
        entries.push(&name, &content.cid, content.tsize);
    }
    build(&options.0, &entries, Metadata::default(), &mut drop).unwrap()
}

/// Files numbered in `numbers`, each of one leaf.
fn numbered(options: &Options, numbers: Range<u32>, make: impl Fn(u32) -> (String, String)) -> LinkTo {
    let mut entries = Entries::default();
    for i in numbers {
        let (name, content) = make(i);
        let content = leaf(&options.1, content.as_bytes());
        entries.push(name.as_bytes(), &content.cid, content.tsize);
    }
    build(&options.0, &entries, Metadata::default(), &mut drop).unwrap()
}

#[test]
fn small_directories_have_the_published_cids() {
    let planets = || Dir(vec![("venus.txt", Text("Hello Venus!\n")), ("mars.txt", Text("Hello Mars!\n"))]);
    let mtime = |seconds| Metadata { mode: None, ..at(0, seconds) };
    let linked = || {
        Dir(vec![
            ("foo", Dir(vec![("baz", Text("some text\n"))])),
            ("bar", Dir(vec![("baz", Link("files/foo/baz"))])),
            ("bad", Link("files/does/not/exist")),
        ])
    };
    let hello = Dir(vec![("hey", Text("Hey\n")), ("hello", Dir(vec![("world", Text("World\n"))]))]);
    for (item, options, cid, tsize) in [
        (Dir(vec![]), V0, "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn", 4),
        (Dir(vec![]), V1, "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354", 4),
        (hello, V0, "QmZQWnfcqJ6hNkkPvrY9Q5X39GP3jUnUbAV4AbmbbR3Cb1", 173),
        (planets(), V0, "QmWSgS32xQEcXMeqd3YPJLrNBLSdsfYCep2U7CFkyrjXwY", 146),
        (planets(), V1, "bafybeih7e5dmkyk25up5vxug4q3hrg2fxbzf23dfrac2fns5h7z4aa7ioi", 134),
        (planets(), V1_NODES, "bafybeif5tuep5ap2d7zyhbktucey75aoacxufgt6i3v4gebmixyipnyp7y", 150),
        (linked(), V1, "bafybeibyhlx64cklod6isy3h7tsmr4qvam3ae3b74n3hfes5bythjrwyua", 302),
        (
            Dir(vec![("foo", Text("content\n")), ("bar", Link("foo"))]),
            V0,
            "QmWvY6FaqFMS89YAQ9NAPjVP4WZKA1qbHbicc9HeSKQTgt",
            119,
        ),
        (
            dated(Metadata { mode: Some(0o755), mtime: None }, Dir(vec![])),
            V0,
            "QmRviohgafvCsbkiTgfQFipbuXJ6k1YtoiaQW4quttJPKu",
            7,
        ),
        (dated(mtime(1_655_158_722), Dir(vec![])), V0, "QmYMy7CZGb498QFSQBF5ZFwv1FYbrAtYZMe4VxhDXxAcvf", 12),
        (Link("files/foo/baz"), V0, "QmdocmZeF7qwPT9Z8SiVhMSyKA2KKoA2J7jToW6z6WBmxR", 19),
        (Link("files/does/not/exist"), V0, "QmWYN8SEXCgNT2PSjB6BnxAx6NJQtazWoBkTRH9GRfPFFQ", 26),
        (dated(mtime(1_604_320_482), Link("nothing")), V0, "QmbJwotgtr84JxcnjpwJ86uZiyMoxbZuNH4YrdJMypkYaB", 21),
        (dated(mtime(1_603_539_720), Link("nothing")), V0, "QmV1Uot2gy4bhY9yvYiZxhhchhyYC6MKKoGV1XtWNmpCLe", 21),
    ] {
        let link = add(&options, &item, Metadata::default());
        assert_eq!((link.cid.to_string().as_str(), link.tsize), (cid, tsize));
    }
}

#[test]
fn directories_are_what_kubo_made_of_them() {
    let nested = || {
        let below = Dir(vec![("c", Text("entry 2\n")), ("d", Dir(vec![]))]);
        Dir(vec![("a", Text("entry 1\n")), ("b", below), ("ln", Link("b/c"))])
    };
    let plain = || {
        let sub = Dir(vec![("n", Text("entry 9\n"))]);
        Dir(vec![("m", Text("entry 8\n")), ("sub", sub)])
    };
    let foreign = || Dir(vec![("ü", Text("entry 5\n")), ("日本", Text("entry 6\n")), ("sp ace", Text("entry 7\n"))]);
    let seen = || Dir(vec![("seen", Text("entry 4\n"))]);
    let large = || {
        let big = Item::Bytes(keystream("dirbig", 5_000_001));
        Dir(vec![("big", big), ("same1", Item::Bytes(vec![0; 300_000])), ("same2", Item::Bytes(vec![0; 300_000]))])
    };
    for (item, options, cid) in [
        (nested(), V1, "bafybeifierbpkrss4joiozktvgdtow746vpaprfyqamq5w5fjchpkhn3we"),
        (nested(), NARROW, "bafybeifierbpkrss4joiozktvgdtow746vpaprfyqamq5w5fjchpkhn3we"),
        (nested(), V0, "QmdGEMK5P8dX5BVmaqoLRK8xrQ1RbDay6J8vhUgR6FhfBA"),
        (Dir(vec![("in", nested())]), V1, "bafybeia7wh5waxdpixr2nhydjh4kwrrt4sckl36a5xcmgewp5fd26uid6m"),
        (plain(), V1, "bafybeicwyxe5346fkvt2uh6c3vfjc6yu3brtnomcwisetlkisihutjbrzq"),
        (plain(), V0, "QmTTb75EJAK4NP2njEerH62uHJYf1E3MsaPY8pKvnbebLx"),
        (foreign(), V1, "bafybeihpln3glkvhrg7jkb4zajp4h6yd4uwv2uuesm22ujkf4y34pz5q4y"),
        (foreign(), NARROW, "bafybeihpln3glkvhrg7jkb4zajp4h6yd4uwv2uuesm22ujkf4y34pz5q4y"),
        (foreign(), V0, "QmS7xMeZpzHMb9B4d34ZXgib6AHXQGATyeWrWyCc3pkFZK"),
        (seen(), V1, "bafybeihjfxsjszjwepg63d4e4vtzfvb6a72uzumd2ge4sthaafczzvihna"),
        (seen(), V0, "QmPfABYGP5ryuA1xpNdFxL4kDnBYkEX8AAFaM3wLxR3dpv"),
        (large(), NARROW, "bafybeic7wuhzzvs6coyz7tgnv72fbfvpf3lzm4q42ct2nrnuzvi5dcciye"),
        (Dir(vec![("in", large())]), V1, "bafybeicngyokydxasyvke2hfnfhoquvfr5qwtxi5mowqxwgoxcsslpwt54"),
    ] {
        assert_eq!(add(&options, &item, Metadata::default()).cid.to_string(), cid);
    }
}

/// Directories and links with mode and time as Kubo wrote them (boxo's `unixfs-dir-with-mode-mtime.car`).
#[test]
fn preserved_metadata_is_where_kubo_puts_it() {
    let Some(blocks) = car("boxo/gateway/testdata/unixfs-dir-with-mode-mtime.car") else { return };
    let mut counted = [0; 2];
    for (cid, block) in &blocks {
        match looked(block) {
            Found::Directory(Listing { entries, metadata }) if metadata != Metadata::default() => {
                let mut again = Entries::default();
                entries.iter().for_each(|entry| again.push(&entry.name, &entry.cid, entry.tsize.unwrap()));
                assert_eq!(build(&DirOptions::V1_2025, &again, metadata, &mut drop).unwrap().cid, *cid);
                counted[0] += 1;
            }
            Found::Symlink { target, metadata } if metadata != Metadata::default() => {
                assert_eq!(metadata.mode, None);
                assert_eq!(symlink(&DirOptions::V1_2025, &target, metadata).unwrap().cid(), cid);
                counted[1] += 1;
            }
            _ => {}
        }
    }
    assert!(counted.iter().all(|&count| count > 0), "{counted:?}");
}

#[test]
fn only_the_root_of_shards_has_metadata() {
    let names: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    let mut found = Vec::new();
    let mut keep = |block: Block| found.push(looked(&block));
    let options = DirOptions { fanout: 8, ..SHARDED_V0.0 };
    build(&options, &entries_of(names.iter().map(String::as_bytes)), at(0o750, 7), &mut keep).unwrap();
    let of = |found: &Found| match found {
        Found::Shard(shard) => shard.metadata(),
        other => panic!("{other:?}"),
    };
    let (root, others) = found.split_last().unwrap();
    assert_eq!(of(root), at(0o750, 7));
    assert!(!others.is_empty() && others.iter().all(|shard| of(shard) == Metadata::default()));
}

#[test]
fn directories_are_sharded_one_byte_above_the_threshold() {
    for (options, seed, count, name_bytes, last_name_bytes, cid) in [
        (V0, "hamt-unixfs-v0-2015", 4096, 30, 30, "QmX5GtRk3TSSEHtdrykgqm4eqMEn3n2XhfkFAis5fjyZmN"),
        (V0, "hamt-unixfs-v0-2015", 4033, 31, 31, "QmeMiJzmhpJAUgynAcxTQYek5PPKgdv3qEvFsdV3XpVnvP"),
        (V1_2025, "hamt-unixfs-v1-2025", 4766, 11, 21, "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4"),
        (V1_2025, "hamt-unixfs-v1-2025", 4766, 11, 22, "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu"),
    ] {
        let link = random_names(&options, seed, count, name_bytes, last_name_bytes);
        assert_eq!(link.cid.to_string(), cid, "{seed} {count} {last_name_bytes}");
    }
    let helia = (DirOptions { threshold: DirOptions::V0_2015.threshold, ..V1_2025.0 }, V1_2025.1);
    let long = |i| {
        let name = "long name to fill out bytes to make the sharded directory test flip over the sharded directory \
                    limit because link names are included in the directory entry";
        (format!("{name} {i}"), format!("{name} {i}"))
    };
    for (count, cid, tsize) in [
        (1343, "bafybeihecq4rpl4nw3cgfb2uiwltgsmw5sutouvuldv5fxn4gfbihvnalq", 490_665),
        (1344, "bafybeigyvxs6og5jbmpaa43qbhhd5swklqcfzqdrtjgfh53qjon6hpjaye", 515_735),
    ] {
        let link = numbered(&helia, 0..count, long);
        assert_eq!((link.cid.to_string().as_str(), link.tsize), (cid, tsize));
    }
}

#[test]
fn large_directories_are_what_kubo_made_of_them() {
    let lines = |i| (format!("file{i}"), format!("{i}\n"));
    for (options, cid, tsize) in [
        (V0, "QmavrTrQG4VhoJmantURAYuw3bowq3E2WcvP36NRQDAC1N", 123_790),
        (SHARDED_V0, "QmSCJD1KYLhVVHqBK3YyXuoEqHt7vggyJhzoFYbT8v1XYL", 152_212),
    ] {
        let link = numbered(&options, 1..2001, lines);
        assert_eq!((link.cid.to_string().as_str(), link.tsize), (cid, tsize));
    }
    let short = |i| (format!("n{i}"), format!("entry {i}\n"));
    let long = |i| (format!("name-{i}-{}", "x".repeat(40)), format!("entry {i}\n"));
    // With --max-directory-links=100, which Kubo forgets for the root.
    let forgetful = (DirOptions { max_links: None, ..NARROW.0 }, NARROW.1);
    for (cid, link) in [
        ("Qmd31ZDXdHVZFgpAtrbMDwckvxjmCqLAjmKjdC9zqv3aYK", numbered(&V0, 0..300, short)),
        ("bafybeibotrqusgjxzmuuap5vn2xtryy3g33t7rgszigqetjlpgctqiwyzu", numbered(&V1, 0..300, short)),
        ("bafybeibotrqusgjxzmuuap5vn2xtryy3g33t7rgszigqetjlpgctqiwyzu", numbered(&forgetful, 0..300, short)),
        ("Qmekc8CD21frsjWqRcUV92cko94cLnMFa6ttbqqQQV4Loa", numbered(&V0, 0..6000, long)),
        ("bafybeia4d5ubdyt6rfpq5n6vzaukey3udoouzxraw6ywm3qgto5yxc644e", numbered(&V1, 0..6000, long)),
    ] {
        assert_eq!(link.cid.to_string(), cid);
    }
}

fn some_cid() -> Cid {
    parse_cid("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e").unwrap()
}

fn entries_of<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Entries {
    let mut entries = Entries::default();
    names.into_iter().for_each(|name| entries.push(name, &some_cid(), 11));
    entries
}

fn built(options: &DirOptions, entries: &Entries) -> Result<(LinkTo, Blocks), BuildError> {
    let mut blocks = HashMap::new();
    let link = build(options, entries, Metadata::default(), &mut |block| drop(blocks.insert(*block.cid(), block)))?;
    Ok((link, blocks))
}

fn is_sharded(options: &DirOptions, entries: &Entries) -> bool {
    let (link, blocks) = built(options, entries).unwrap();
    matches!(look(&link.cid, blocks[&link.cid].bytes()), Ok(Found::Shard(_)))
}

#[test]
fn more_entries_than_allowed_are_sharded() {
    let names: Vec<String> = (0..101).map(|i| format!("n{i}")).collect();
    let some = |count: usize| entries_of(names[..count].iter().map(String::as_bytes));
    let allowed = |max_links| DirOptions { max_links, ..DirOptions::V1_2025 };
    assert!(!is_sharded(&allowed(Some(100)), &some(100)));
    assert!(is_sharded(&allowed(Some(100)), &some(101)));
    assert!(!is_sharded(&allowed(None), &some(101)));
    assert!(!is_sharded(&allowed(Some(0)), &some(101)), "as Kubo's default, 0");
    let by_count =
        |bytes| DirOptions { threshold: Threshold { bytes, estimate: Estimate::Disabled }, ..allowed(Some(9)) };
    assert!(is_sharded(&by_count(1), &some(10)));
    assert!(!is_sharded(&by_count(1), &some(9)), "no byte counts");
    assert!(!is_sharded(&by_count(0), &some(101)), "nothing is ever sharded");
    let one_byte = Threshold { bytes: 1, estimate: Estimate::Block };
    assert!(!is_sharded(&DirOptions { threshold: one_byte, ..allowed(None) }, &some(0)), "there is nothing to shard");
}

#[test]
fn what_fits_inline_is_in_its_cid_and_nowhere_else() {
    let inline = |bytes| DirOptions { inline: Some(bytes), ..DirOptions::V0_2015 };
    let (empty, blocks) = built(&inline(4), &Entries::default()).unwrap();
    assert_eq!((empty.cid.to_string().as_str(), empty.tsize, blocks.len()), ("bafyaabakaieac", 4, 0));
    assert_eq!(built(&inline(3), &Entries::default()).unwrap().1.len(), 1);
    let link = symlink(&inline(32), b"foo", Metadata::default()).unwrap();
    assert_eq!((link.cid().hash().code(), link.cid().hash().digest()), (IDENTITY, &link.bytes()[..]));
    // 36 bytes of CID, 8 of other fields, 4 of message, and the name.
    for (name_bytes, inlined) in [(80, true), (81, false)] {
        let (link, blocks) = built(&inline(u32::MAX), &entries_of([&[b'n'; 100][..name_bytes]])).unwrap();
        assert_eq!((link.tsize, blocks.is_empty()), (11 + 48 + name_bytes as u64, inlined));
    }
}

#[test]
fn names_that_no_path_can_hold_are_not_written() {
    for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
        let refused = built(&DirOptions::V1_2025, &entries_of([&b"fine"[..], bad]));
        assert!(matches!(refused, Err(BuildError::Name { .. })), "{bad:?}");
    }
    let strange = [&b"..."[..], b" ", b"a\\b", b"\xff\xfe", b"con", b"-rf"];
    let (link, blocks) = built(&DirOptions::V1_2025, &entries_of(strange)).unwrap();
    assert_eq!(read_back(&link.cid, &blocks).len(), strange.len());
}

#[test]
fn names_given_twice_are_refused_in_both_layouts() {
    for options in [V0.0, SHARDED_V0.0, DirOptions { fanout: 8, ..SHARDED_V0.0 }] {
        let entries = entries_of([&b"b"[..], b"a", b"c", b"a"]);
        assert_eq!(built(&options, &entries).unwrap_err(), BuildError::Duplicate("a".into()));
    }
}

#[test]
fn impossible_directories_are_refused() {
    for fanout in [0, 1, 4, 7, 100, 2048, 1 << 40] {
        let options = DirOptions { fanout, ..DirOptions::V1_2025 };
        assert_eq!(built(&options, &Entries::default()).unwrap_err(), BuildError::Fanout(fanout));
    }
    let names: Vec<String> = (0..10_000).map(|i| format!("{i:0250}")).collect();
    let entries = entries_of(names.iter().map(String::as_bytes));
    let never = DirOptions { threshold: Threshold { bytes: 0, estimate: Estimate::Block }, ..DirOptions::V1_2025 };
    assert!(matches!(built(&never, &entries), Err(BuildError::TooLarge(bytes)) if bytes > 2 << 20));
    assert!(matches!(symlink(&never, &vec![b'x'; BLOCK_BYTES_MAX], Metadata::default()), Err(BuildError::TooLarge(_))));
}

#[test]
fn an_arena_is_hardly_larger_than_its_records() {
    let mut entries = Entries::default();
    for i in 0..100_000 {
        entries.push(format!("{i:012}").as_bytes(), &some_cid(), 1024);
    }
    assert_eq!(entries.len(), 100_000);
    assert!(entries.allocated() <= 100_000 * 66, "{} bytes", entries.allocated());
}

/// A node whose links stand as they are given, which [`dagpb::encode`] would sort.
fn node(links: &[(&[u8], Option<u64>)], message: &Data) -> Block {
    let mut bytes = Vec::new();
    for &(name, tsize) in links {
        dagpb::push_link(&mut bytes, &some_cid().to_bytes(), [&[], name], tsize);
    }
    push_bytes(&mut bytes, 1, &message.encode());
    Block::seal(Prefix::DAG_PB_V1, bytes.into()).unwrap()
}

fn looked(block: &Block) -> Found {
    look(block.cid(), block.bytes()).unwrap()
}

#[test]
fn foreign_directories_are_read_as_they_are() {
    let odd = node(&[(b"b", None), (b"../a", Some(7)), (b"", Some(0)), (b"b", Some(2))], &Data::new(Kind::Directory));
    let found = looked(&odd);
    let Found::Directory(listing) = &found else { panic!("{found:?}") };
    let names: Vec<&[u8]> = listing.entries.iter().map(|entry| &entry.name[..]).collect();
    assert_eq!(names, [&b"b"[..], b"../a", b"", b"b"]);
    assert_eq!(listing.duplicate(), Some(&b"b"[..]));
    let step = lookup(b"b", &found, &ShardPlace::ROOT).unwrap();
    assert!(matches!(step, Step::Entry(Entry { tsize: None, .. })), "the first wins");
    assert_eq!(lookup(b"c", &found, &ShardPlace::ROOT), Ok(Step::Absent));
    let fine = Found::Directory(Listing { entries: listing.entries[..3].to_vec(), metadata: Metadata::default() });
    assert!(matches!(fine, Found::Directory(listing) if listing.duplicate().is_none()));
}

#[test]
fn other_nodes_are_told_apart_and_have_nothing_below() {
    let metadata = at(0o600, -5);
    let dated = |data: Data| Data { mode: metadata.mode, mtime: metadata.mtime, ..data };
    let link = symlink(&DirOptions::V1_2025, b"../x", metadata).unwrap();
    let whole = node(&[], &dated(Data { data: Some(Bytes::from_static(b"abc")), ..Data::new(Kind::File) }));
    let part = node(&[(b"", Some(9))], &dated(Data::new(Kind::Raw)));
    for (found, expected, kind) in [
        (looked(&link), Found::Symlink { target: Bytes::from_static(b"../x"), metadata }, Kind::Symlink),
        (looked(&whole), Found::File { size: Some(3), metadata }, Kind::File),
        (looked(&part), Found::File { size: None, metadata }, Kind::File),
        (looked(&node(&[], &Data::new(Kind::Metadata))), Found::Other(Kind::Metadata), Kind::Metadata),
    ] {
        assert_eq!(found, expected);
        assert_eq!(lookup(b"x", &found, &ShardPlace::ROOT), Err(DirError::NotADirectory(kind)));
    }
    let raw = look(&some_cid(), &Bytes::from_static(b"hello world"));
    assert_eq!(raw, Ok(Found::File { size: Some(11), metadata: Metadata::default() }));
    let other = look(&Cid::new_v1(0x71, *some_cid().hash()), &Bytes::new());
    assert_eq!(other, Err(DirError::Malformed(DagError::UnknownCodec(0x71))));
    let empty = Block::seal(Prefix::DAG_PB_V1, Bytes::new()).unwrap();
    assert!(matches!(look(empty.cid(), empty.bytes()), Err(DirError::Malformed(DagError::Unixfs(_)))));
}

pub(in crate::dag) fn any_options() -> impl Strategy<Value = DirOptions> {
    let threshold = prop::sample::select(vec![Estimate::Links, Estimate::Block, Estimate::Disabled])
        .prop_flat_map(|estimate| (0_u64..3000).prop_map(move |bytes| Threshold { bytes, estimate }));
    (prop::bool::ANY, 3_u32..=10, threshold, prop::option::of(0_usize..40), prop::option::of(0_u32..200)).prop_map(
        |(old, bits, threshold, max_links, inline)| DirOptions {
            cid_version: if old { Version::V0 } else { Version::V1 },
            fanout: 1 << bits,
            threshold,
            max_links,
            inline,
            ..DirOptions::V1_2025
        },
    )
}

proptest! {
    #[test]
    fn what_is_built_is_read_back_in_either_layout(
        options in any_options(),
        names in prop::collection::btree_map("[a-z.]{0,2}[a-z0-9]{1,9}", any::<u32>(), 0..120),
    ) {
        let mut entries = Entries::default();
        for (name, &tsize) in names.iter().rev() {
            entries.push(name.as_bytes(), &some_cid(), tsize.into());
        }
        let (link, blocks) = built(&options, &entries).unwrap();
        let read: BTreeMap<String, u32> = read_back(&link.cid, &blocks)
            .into_iter()
            .map(|(name, cid, tsize)| {
                assert_eq!(cid, some_cid());
                (String::from_utf8(name.to_vec()).unwrap(), u32::try_from(tsize.unwrap()).unwrap())
            })
            .collect();
        prop_assert_eq!(&read, &names);
        let below: u64 = names.values().map(|&tsize| u64::from(tsize)).sum();
        let own: u64 = blocks.values().map(|block| block.bytes().len() as u64).sum();
        prop_assert!(link.tsize >= below + own, "shards of the same content, and inlined ones, count each time");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let cid = *Block::seal(Prefix::DAG_PB_V1, bytes.clone().into()).unwrap().cid();
        let _ = look(&cid, &bytes.into());
    }
}

/// A dag-pb leaf is what the form of all nodes' CIDs is taken from.
#[test]
fn nodes_have_the_hash_and_version_of_their_options() {
    for name in ["sha2-256", "sha2-512", "blake3"] {
        let hash = HashFunction::parse(name).unwrap();
        for cid_version in [Version::V0, Version::V1] {
            let (link, _) = built(&DirOptions { hash, cid_version, ..V0.0 }, &Entries::default()).unwrap();
            let like = leaf_block(&Profile { hash, cid_version, ..V0.1 }, b"x");
            assert_eq!(Prefix::of(&link.cid), Prefix::of(like.cid()), "{name}");
        }
    }
}
