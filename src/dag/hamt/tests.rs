//! Shards are those of the definition, foreign ones are read, and none is believed what it cannot show.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::PathBuf,
};

use proptest::prelude::*;

use super::{murmur3::tests::name_of, *};
use crate::{
    block::{Block, Prefix, identity_content, parse_cid, varint},
    dag::{
        builder::Version,
        dagpb::{Node, encode},
        directory::{self, DirOptions, Estimate, Found, Threshold, look, lookup},
    },
};

pub(in crate::dag) type Blocks = HashMap<Cid, Block>;

fn fetch(cid: &Cid, blocks: &Blocks) -> Found {
    let inlined = identity_content(cid).map(Bytes::copy_from_slice);
    look(cid, &inlined.unwrap_or_else(|| blocks[cid].bytes().clone())).unwrap()
}

/// All entries of a directory; each is looked up, too.
pub(in crate::dag) fn read_back(root: &Cid, blocks: &Blocks) -> Vec<(Bytes, Cid, Option<u64>)> {
    let mut entries = Vec::new();
    let mut shards = 0;
    let mut todo = vec![(*root, ShardPlace::ROOT)];
    while let Some((cid, place)) = todo.pop() {
        match fetch(&cid, blocks) {
            Found::Directory(listing) => entries.extend(listing.entries),
            Found::Shard(shard) => {
                shards += 1;
                for item in shard.expand(&place).unwrap() {
                    match item {
                        ShardItem::Entry(entry) => entries.push(entry),
                        ShardItem::Shard { cid, place } => todo.push((cid, place)),
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(shards <= shards_max(entries.len() as u64));
    for entry in &entries {
        assert_eq!(find(root, blocks, &entry.name), Some(entry.clone()));
    }
    assert_eq!(find(root, blocks, b"not there"), None);
    entries.into_iter().map(|entry| (entry.name.bytes(), entry.cid, entry.tsize)).collect()
}

fn find(root: &Cid, blocks: &Blocks, name: &[u8]) -> Option<Entry> {
    let (mut cid, mut place) = (*root, ShardPlace::ROOT);
    loop {
        match lookup(name, &fetch(&cid, blocks), &place).unwrap() {
            Step::Entry(entry) => return Some(entry),
            Step::Shard { cid: next, place: there } => (cid, place) = (next, there),
            Step::Absent => return None,
        }
    }
}

fn sharded(fanout: u64) -> DirOptions {
    let threshold = Threshold { bytes: 1, estimate: Estimate::Links };
    DirOptions { cid_version: Version::V1, fanout, threshold, ..DirOptions::V0_2015 }
}

fn built(fanout: u64, entries: &Entries) -> Result<(LinkTo, Blocks), BuildError> {
    let mut blocks = Blocks::new();
    let mut keep = |block: Block| drop(blocks.insert(*block.cid(), block));
    let link = directory::build(&sharded(fanout), entries, Metadata::default(), &mut keep)?;
    Ok((link, blocks))
}

fn some_cid() -> Cid {
    parse_cid("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e").unwrap()
}

fn entries_of<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Entries {
    let mut entries = Entries::default();
    names.into_iter().for_each(|name| entries.push(name, &some_cid(), 11));
    entries
}

/// A trie by its definition: names are put in one by one, and bits are characters.
enum Naive {
    Name(Vec<u8>),
    Shard(BTreeMap<String, Self>),
}

impl Naive {
    fn put(children: &mut BTreeMap<String, Self>, fanout: u64, used: usize, name: Vec<u8>) {
        let bits = fanout.ilog2() as usize;
        let hash = format!("{:064b}", murmur3::hash(&name));
        let slot = usize::from_str_radix(&hash[used..used + bits], 2).unwrap();
        let width = format!("{:X}", fanout - 1).len();
        match children.remove(&format!("{slot:0width$X}")) {
            None => drop(children.insert(format!("{slot:0width$X}"), Self::Name(name))),
            Some(there) => {
                let mut below = match there {
                    Self::Shard(below) => below,
                    Self::Name(other) => {
                        let mut below = BTreeMap::new();
                        Self::put(&mut below, fanout, used + bits, other);
                        below
                    }
                };
                Self::put(&mut below, fanout, used + bits, name);
                children.insert(format!("{slot:0width$X}"), Self::Shard(below));
            }
        }
    }

    fn link(&self, prefix: &str, fanout: u64) -> Link {
        match self {
            Self::Name(name) => {
                let name = [prefix.as_bytes(), name].concat();
                Link { cid: some_cid(), name: Bytes::from(name).into(), tsize: Some(11) }
            }
            Self::Shard(children) => {
                let mut field = vec![0; usize::try_from(fanout / 8).unwrap()];
                for prefix in children.keys() {
                    let slot = usize::from_str_radix(prefix, 16).unwrap();
                    let at = field.len() - slot / 8 - 1;
                    field[at] |= 1 << (slot % 8);
                }
                let field: Vec<u8> = field.into_iter().skip_while(|&byte| byte == 0).collect();
                let links: Vec<Link> = children.iter().map(|(prefix, child)| child.link(prefix, fanout)).collect();
                let below: u64 = links.iter().filter_map(|link| link.tsize).sum();
                let block = shard(fanout, &field, links);
                let tsize = Some(below + block.bytes().len() as u64);
                Link { cid: *block.cid(), name: Bytes::copy_from_slice(prefix.as_bytes()).into(), tsize }
            }
        }
    }
}

fn message(fanout: u64, field: &[u8]) -> Data {
    let field = Some(Bytes::copy_from_slice(field));
    Data { data: field, hash_type: Some(0x22), fanout: Some(fanout), ..Data::new(Kind::HamtShard) }
}

fn shard(fanout: u64, field: &[u8], links: Vec<Link>) -> Block {
    let data = Some(message(fanout, field).encode().into());
    Block::seal(Prefix::DAG_PB_V1, encode(&Node { links, data }).into()).unwrap()
}

proptest! {
    #[test]
    fn shards_are_those_of_the_definition(
        bits in 3_u32..=10,
        names in prop::collection::btree_set("[a-z]{1,3}", 0..200),
        close in prop::collection::btree_set((0_u64..4, 0_u32..6), 0..6),
    ) {
        let fanout = 1 << bits;
        let mut names: BTreeSet<Vec<u8>> = names.into_iter().map(String::into_bytes).collect();
        // Names whose hashes differ late, so that there are shards on all levels.
        names.extend(close.into_iter().filter_map(|(top, bit)| writable(top << 62 | 1 << (10 * bit + 10))));
        let (link, blocks) = built(fanout, &entries_of(names.iter().map(Vec::as_slice))).unwrap();
        let mut naive = BTreeMap::new();
        names.iter().for_each(|name| Naive::put(&mut naive, fanout, 0, name.clone()));
        if !names.is_empty() {
            let root = Naive::Shard(naive).link("", fanout);
            prop_assert_eq!((link.cid, Some(link.tsize)), (root.cid, root.tsize));
        }
        let read: BTreeSet<Vec<u8>> = read_back(&link.cid, &blocks).into_iter().map(|entry| entry.0.into()).collect();
        prop_assert_eq!(read, names);
    }

    #[test]
    fn no_shard_makes_it_panic(
        fanout in prop::option::of(prop::sample::select(vec![0_u64, 8, 16, 256, 1024, 1 << 40])),
        field in prop::collection::vec(any::<u8>(), 0..40),
        names in prop::collection::vec("[0-9A-F]{0,3}[a-z]{0,2}", 0..20),
        place in 0_u64..4,
    ) {
        let links = names.iter().map(|name| Link { cid: some_cid(), name: Bytes::from(name.clone()).into(), tsize: None }).collect();
        if let Ok(node) = ShardNode::new(links, &Data { fanout, ..message(8, &field) }) {
            let place = ShardPlace { used: 3, hash: place, fanout: None };
            let _ = node.lookup(b"a", &place);
            let _ = node.expand(&place);
        }
    }
}

/// A name of that hash that may be written.
fn writable(hashed: u64) -> Option<Vec<u8>> {
    (0..100).map(|salt| name_of(hashed, salt)).find(|name| !name.contains(&b'/') && !name.contains(&0))
}

#[test]
fn names_of_one_hash_cannot_be_in_one_directory() {
    let names: Vec<Vec<u8>> = (0..100)
        .map(|salt| name_of(0x0123_4567_89ab_cdef, salt))
        .filter(|name| !name.contains(&b'/') && !name.contains(&0))
        .take(2)
        .collect();
    for fanout in [8, 128, 256, 1024] {
        let refused = built(fanout, &entries_of(names.iter().map(Vec::as_slice)));
        assert!(matches!(refused, Err(BuildError::Collision(..))), "{fanout}");
    }
    // At fan-out 128 nine levels use 63 bits, at 256 eight use all.
    let twins = [0x0123_4567_89ab_cdee, 0x0123_4567_89ab_cdef].map(|hashed| writable(hashed).unwrap());
    let twins = entries_of(twins.iter().map(Vec::as_slice));
    assert!(matches!(built(128, &twins), Err(BuildError::Collision(..))));
    let (link, blocks) = built(256, &twins).unwrap();
    assert_eq!((blocks.len(), read_back(&link.cid, &blocks).len()), (8, 2));
}

/// The blocks of a CARv1 file of the vectors folder, unless there is no such folder.
pub(in crate::dag) fn car(path: &str) -> Option<Blocks> {
    let folder = std::env::var_os("BITSHOAL_VECTORS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| [env!("CARGO_MANIFEST_DIR"), "..", "shared", "vectors"].iter().collect());
    let path = folder.join(path);
    if !folder.exists() {
        println!("no vectors in {}: nothing is checked", folder.display());
        return None;
    }
    let file = fs::read(path).unwrap();
    let mut rest = &file[..];
    let mut take = || {
        let length = (!rest.is_empty()).then(|| usize::try_from(varint(&mut rest).unwrap()).unwrap())?;
        rest.split_off(..length)
    };
    take().unwrap();
    let section = |mut section: &[u8]| {
        let cid = Cid::read_bytes(&mut section).unwrap();
        (cid, Block::verify(&cid, Bytes::copy_from_slice(section)).unwrap())
    };
    Some(std::iter::from_fn(take).map(section).collect())
}

fn rebuilt(entries: &[(Bytes, Cid, Option<u64>)]) -> Cid {
    let mut again = Entries::default();
    entries.iter().rev().for_each(|(name, cid, tsize)| again.push(name, cid, tsize.unwrap()));
    built(256, &again).unwrap().0.cid
}

#[test]
fn shards_of_two_levels_with_trimmed_bit_fields_are_read_and_made_again() {
    let Some(blocks) = car("boxo/gateway/testdata/directory-with-multilayer-hamt-and-multiblock-files.car") else {
        return;
    };
    let root = parse_cid("bafybeid3fd2xxdcd3dbj7trb433h2aqssn6xovjbwnkargjv7fuog4xjdi").unwrap();
    let hamt = find(&root, &blocks, b"hamtDir").unwrap().cid;
    let Found::Shard(shard) = fetch(&hamt, &blocks) else { panic!("not a shard") };
    assert_eq!(shard.slots, [0x5b, 0x9d]);
    let data = encoded_message(&blocks[&hamt]);
    assert_eq!(data.data.unwrap().len(), 20);
    let entries = read_back(&hamt, &blocks);
    let names: BTreeSet<&[u8]> = entries.iter().map(|entry| &entry.0[..]).collect();
    let collide = ["exampleC-hamt-collide-exampleA-seed-52", "exampleD-hamt-collide-exampleB-seed-364"];
    assert_eq!(names, BTreeSet::from(["exampleA", "exampleB", collide[0], collide[1]].map(str::as_bytes)));
    assert_eq!(rebuilt(&entries), hamt);
}

#[test]
fn a_thousand_names_of_kubo_are_read_and_made_again() {
    let Some(blocks) = car("gateway-conformance/trustless_gateway_car/single-layer-hamt-with-multi-block-files.car")
    else {
        return;
    };
    let root = parse_cid("bafybeidbclfqleg2uojchspzd4bob56dqetqjsj27gy2cq3klkkgxtpn4i").unwrap();
    let entries = read_back(&root, &blocks);
    let names: BTreeSet<Bytes> = entries.iter().map(|entry| entry.0.clone()).collect();
    assert_eq!(names, (1..=1000).map(|i| Bytes::from(format!("{i}.txt"))).collect());
    assert_eq!(rebuilt(&entries), root);
}

fn encoded_message(block: &Block) -> Data {
    Data::decode(&crate::dag::dagpb::decode(block.bytes()).unwrap().data.unwrap()).unwrap()
}

fn link(name: &[u8]) -> Link {
    Link { cid: some_cid(), name: Bytes::copy_from_slice(name).into(), tsize: None }
}

/// `exampleA` hashes to 9DFF91F1…, `exampleB` to 5B0609F2…
fn two_links() -> (Vec<u8>, Vec<Link>) {
    let mut field = BitField::default();
    field.set(0x5b);
    field.set(0x9d);
    (field.trimmed().to_vec(), vec![link(b"5BexampleB"), link(b"9DexampleA")])
}

#[test]
fn a_shard_must_say_how_it_is_made() {
    let (field, links) = two_links();
    let fine = message(256, &field);
    assert!(ShardNode::new(links.clone(), &fine).is_ok());
    for fanout in [None, Some(0), Some(4), Some(12), Some(255), Some(2048), Some(1 << 40), Some(u64::MAX)] {
        let refused = ShardNode::new(links.clone(), &Data { fanout, ..fine.clone() });
        assert_eq!(refused, Err(DirError::Fanout(fanout)));
    }
    for hash_type in [None, Some(0x12), Some(0x1022)] {
        let refused = ShardNode::new(links.clone(), &Data { hash_type, ..fine.clone() });
        assert_eq!(refused, Err(DirError::NameHash(hash_type)));
    }
}

#[test]
fn a_bit_field_must_be_that_of_the_links() {
    let (field, links) = two_links();
    let padded = [vec![0; 32 - field.len()], field.clone()].concat();
    let whole = ShardNode::new(links.clone(), &message(256, &padded));
    assert_eq!(whole, ShardNode::new(links.clone(), &message(256, &field)), "leading zeros may be there or not");
    let mut more = field.clone();
    more[0] |= 0x80;
    for wrong in [[&[0][..], &padded].concat(), more, vec![], field[1..].to_vec()] {
        let refused = ShardNode::new(links.clone(), &message(256, &wrong));
        assert!(matches!(refused, Err(DirError::BitField(_))), "{wrong:?}");
    }
    let absent = ShardNode::new(Vec::new(), &Data { data: None, ..message(256, &[]) }).unwrap();
    assert_eq!(absent.expand(&ShardPlace::ROOT), Ok(Vec::new()), "an empty root is an empty directory");
}

#[test]
fn links_must_be_called_after_their_bits_in_order() {
    let (field, _) = two_links();
    for names in [
        [&b"9DexampleA"[..], b"5BexampleB"],
        [b"5bexampleB", b"9DexampleA"],
        [b"5BexampleB", b"9EexampleA"],
        [b"5BexampleB", b"9"],
        [b"", b"9DexampleA"],
        [b"05BexampleB", b"09DexampleA"],
    ] {
        let refused = ShardNode::new(names.map(link).to_vec(), &message(256, &field));
        assert!(matches!(refused, Err(DirError::LinkName { .. })), "{names:?}");
    }
}

#[test]
fn entries_must_stand_where_they_are_looked_for() {
    let (field, _) = two_links();
    let swapped = vec![link(b"5BexampleA"), link(b"9DexampleB")];
    let swapped = ShardNode::new(swapped, &message(256, &field)).unwrap();
    assert_eq!(swapped.lookup(b"exampleA", &ShardPlace::ROOT), Ok(Step::Absent));
    assert_eq!(swapped.expand(&ShardPlace::ROOT), Err(DirError::WrongPlace("exampleA".into())));

    let mut one = BitField::default();
    one.set(0xff);
    let below = ShardNode::new(vec![link(b"FFexampleA")], &message(256, &one.trimmed())).unwrap();
    let at = |slot| ShardPlace::ROOT.child(Level { bits: 8 }, slot).unwrap();
    assert_eq!(below.clone().expand(&at(0x9d)).unwrap(), [ShardItem::Entry(link(b"exampleA"))]);
    for elsewhere in [at(0x9c), at(0), ShardPlace::ROOT] {
        assert_eq!(below.clone().expand(&elsewhere), Err(DirError::WrongPlace("exampleA".into())));
    }
    assert_eq!(below.lookup(b"exampleB", &at(0x9d)), Err(DirError::WrongPlace("exampleB".into())));
    assert_eq!(below.lookup(b"exampleA", &at(0x9d)), Ok(Step::Entry(link(b"exampleA"))));
}

#[test]
fn one_fan_out_is_for_all_levels() {
    let place = ShardPlace::ROOT.child(Level { bits: 8 }, 0x9d).unwrap();
    let other = ShardNode::new(Vec::new(), &message(128, &[])).unwrap();
    let refused = DirError::FanoutChanged { expected: 256, found: 128 };
    assert_eq!(other.lookup(b"exampleA", &place), Err(refused.clone()));
    assert_eq!(other.expand(&place), Err(refused));
}

#[test]
fn nothing_is_nested_without_end_or_without_entries() {
    for (fanout, levels) in [(8, 21), (16, 16), (128, 9), (256, 8), (1024, 6)] {
        let level = Level::new(fanout);
        // Every level's shard is the same: one sub-shard at bit 0.
        let bomb = ShardNode::new(vec![link(level.prefix(0).as_bytes())], &message(fanout, &[1])).unwrap();
        let mut place = ShardPlace::ROOT;
        for _ in 1..levels {
            let items = bomb.clone().expand(&place).unwrap();
            let [ShardItem::Shard { place: next, .. }] = items[..] else { panic!("{items:?}") };
            place = next;
        }
        assert_eq!(bomb.expand(&place), Err(DirError::TooDeep), "{fanout}");
        let empty = ShardNode::new(Vec::new(), &message(fanout, &[])).unwrap();
        assert_eq!(empty.expand(&place), Err(DirError::EmptyShard));
    }
}
