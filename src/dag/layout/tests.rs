//! The leaves of built trees, in order and from any leaf on.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    block::Block,
    dag::{
        builder::{Builder, LeafRef, Profile, Version, leaf},
        chunker::Chunker,
        unixfs::{Data, Kind},
        walk::tests::{file, node, tree},
    },
};

fn no_blocks(cid: &Cid) -> Result<Bytes, String> {
    Err(format!("asked for {cid}"))
}

/// Gives what is in the map, as an index does.
fn from(blocks: &HashMap<Cid, Block>) -> impl FnMut(&Cid) -> Result<Bytes, String> {
    move |cid| blocks.get(cid).map(|block| block.bytes().clone()).ok_or_else(|| format!("asked for {cid}"))
}

/// The inner nodes only: what the index holds.
fn inner(profile: &Profile, content: &[u8]) -> (Cid, u64, HashMap<Cid, Block>, Vec<Leaf>) {
    let mut blocks = HashMap::new();
    let mut leaves = Vec::new();
    let mut builder = Builder::new(*profile);
    for chunk in content.chunks(profile.chunker.bytes_max() as usize) {
        let named = leaf(profile, chunk);
        let index = leaves.len() as u64;
        leaves.push(Leaf {
            index,
            cid: named.cid,
            offset: index * u64::from(profile.chunker.bytes_max()),
            len: u32::try_from(chunk.len()).unwrap(),
            own: false,
        });
        builder.push(named, &mut |block| drop(blocks.insert(*block.cid(), block)));
    }
    let root = builder.finish(&mut |block| drop(blocks.insert(*block.cid(), block)));
    if leaves.len() == 1 && !profile.raw_leaves {
        let block = crate::dag::builder::leaf_block(profile, content);
        blocks.insert(*block.cid(), block);
    }
    (root.cid, root.size, blocks, leaves)
}

#[test]
fn the_empty_file_has_one_empty_leaf() {
    for profile in [Profile::V1_2025, Profile::V0_2015] {
        let (root, blocks) = tree(profile, b"");
        let leaves: Vec<Leaf> = Leaves::new(root.cid, 0, from(&blocks)).map(Result::unwrap).collect();
        assert_eq!(leaves, [Leaf { index: 0, cid: root.cid, offset: 0, len: 0, own: false }]);
    }
}

#[test]
fn a_raw_root_is_its_own_leaf_and_nothing_is_asked_for() {
    let (root, _) = tree(Profile::V1_2025, b"abc");
    let mut leaves = Leaves::new(root.cid, 3, no_blocks);
    let only = Leaf { index: 0, cid: root.cid, offset: 0, len: 3, own: false };
    assert_eq!(leaves.next().unwrap().unwrap(), only);
    assert!(leaves.next().is_none());
    leaves.seek(0, 0).unwrap();
    assert_eq!(leaves.next().unwrap().unwrap(), only);
    assert!(matches!(leaves.seek(1, 1), Err(LayoutError::NoLeafAt(1))));
    assert!(leaves.next().is_none());
}

#[test]
fn a_missing_or_wrong_node_is_an_error_and_the_end() {
    let profile = Profile { chunker: Chunker::Size(1), width: 2, ..Profile::V1_2025 };
    let (root, size, mut blocks, _) = inner(&profile, b"abcdef");
    let mut liar = Leaves::new(root, size + 1, from(&blocks));
    assert!(matches!(liar.next(), Some(Err(LayoutError::Walk { source: WalkError::SizeMismatch { .. }, .. }))));
    assert!(liar.next().is_none());
    drop(liar);
    blocks.retain(|cid, _| *cid == root);
    let mut leaves = Leaves::new(root, size, from(&blocks));
    assert!(matches!(leaves.next(), Some(Err(LayoutError::Fetch { .. }))));
    assert!(leaves.next().is_none());
}

#[test]
fn leaves_that_are_not_canonical_are_found_by_their_bytes() {
    let dated = |byte: u8| {
        let data = Some(Bytes::copy_from_slice(&[byte; 5]));
        node(&[], &Data { data, filesize: Some(5), mode: Some(0o644), ..Data::new(Kind::File) })
    };
    let (a, b) = (dated(1), dated(2));
    let weight = a.bytes().len() as u64;
    let root = node(&[(*a.cid(), weight), (*b.cid(), weight)], &file(&[5, 5]));
    let blocks: HashMap<_, _> = [&a, &b, &root].map(|block| (*block.cid(), block.clone())).into();
    let mut leaves = Leaves::new(*root.cid(), 10, from(&blocks));
    let found: Vec<_> = leaves.by_ref().map(|leaf| leaf.map(|l| (l.index, l.cid, l.offset, l.len)).unwrap()).collect();
    assert_eq!(found, [(0, *a.cid(), 0, 5), (1, *b.cid(), 5, 5)]);
    leaves.seek(5, 1).unwrap();
    assert_eq!(leaves.next().unwrap().unwrap().cid, *b.cid());
}

#[test]
fn leaves_at_different_depths_are_found_without_asking_for_them() {
    let data = Data { data: Some(Bytes::from_static(b"12345")), filesize: Some(5), ..Data::new(Kind::Raw) };
    let leaf = node(&[], &data);
    let (cid, weight) = (*leaf.cid(), leaf.bytes().len() as u64);
    let one = node(&[(cid, weight)], &file(&[5]));
    let one_weight = weight + one.bytes().len() as u64;
    let root = node(&[(cid, weight), (cid, weight), (*one.cid(), one_weight), (cid, weight)], &file(&[5; 4]));
    let blocks: HashMap<_, _> = [&one, &root].map(|block| (*block.cid(), block.clone())).into();
    let leaves = Leaves::new(*root.cid(), 20, from(&blocks));
    let found: Vec<_> = leaves.map(|leaf| leaf.map(|l| (l.index, l.offset, l.cid)).unwrap()).collect();
    assert_eq!(found, [(0, 0, cid), (1, 5, cid), (2, 10, cid), (3, 15, cid)]);
}

#[test]
fn a_tebibyte_is_laid_out_from_one_node_a_level() {
    let profile = Profile::V1_2025;
    let mut blocks = HashMap::new();
    let mut builder = Builder::new(profile);
    let one = LeafRef { file_bytes: 1 << 20, tsize: 1 << 20, ..leaf(&profile, b"all leaves are alike") };
    for _ in 0..1 << 20 {
        builder.push(one, &mut |block| drop(blocks.insert(*block.cid(), block)));
    }
    let root = builder.finish(&mut |block| drop(blocks.insert(*block.cid(), block)));
    assert_eq!((root.size, blocks.len()), (1 << 40, 2), "a thousand equal nodes and their parent");
    let mut leaves = Leaves::new(root.cid, root.size, from(&blocks));
    for index in [0, 1, 1023, 1024, 777_777, (1 << 20) - 1] {
        leaves.seek(index << 20, index).unwrap();
        let leaf = leaves.next().unwrap().unwrap();
        assert_eq!((leaf.index, leaf.offset, leaf.len), (index, index << 20, 1 << 20));
        assert!(leaves.path.len() <= 2);
    }
    assert!(leaves.next().is_none());
    assert!(matches!(leaves.seek(1 << 40, 1 << 20), Err(LayoutError::NoLeafAt(_))));
    leaves.seek((1 << 40) - (1 << 30), 0).unwrap();
    assert_eq!(leaves.filter(|leaf| leaf.as_ref().is_ok_and(|l| l.cid == one.cid)).count(), 1024);
}

proptest! {
    #[test]
    fn leaves_come_back_in_order_and_from_anywhere(
        (chunk, width) in (1_u32..5, 2_usize..6),
        content in prop::collection::vec(any::<u8>(), 1..300),
        raw_leaves: bool,
        from_leaf: prop::sample::Index,
        off_by: u64,
    ) {
        let profile = Profile { chunker: Chunker::Size(chunk), width, raw_leaves, ..Profile::kubo_defaults(Version::V1) };
        let (root, size, blocks, expected) = inner(&profile, &content);
        let mut leaves = Leaves::new(root, size, from(&blocks));
        let found: Vec<Leaf> = leaves.by_ref().map(Result::unwrap).collect();
        prop_assert_eq!(&found, &expected);
        let start = from_leaf.index(expected.len());
        leaves.seek(expected[start].offset, start as u64).unwrap();
        let found: Vec<Leaf> = leaves.by_ref().map(Result::unwrap).collect();
        prop_assert_eq!(&found, &expected[start..]);
        let inside = off_by % (size + 10);
        if !expected.iter().any(|leaf| leaf.offset == inside) {
            prop_assert!(leaves.seek(inside, 0).is_err());
            prop_assert!(leaves.next().is_none());
        }
    }
}

#[test]
fn what_an_inner_node_carries_itself_comes_before_its_children() {
    let profile = Profile::V1_2025;
    let (a, b) = (leaf(&profile, b"aaa"), leaf(&profile, b"bb"));
    let own = |data: &'static [u8], sizes: &[u64]| Data {
        data: Some(Bytes::from_static(data)),
        filesize: Some(data.len() as u64 + sizes.iter().sum::<u64>()),
        ..file(sizes)
    };
    let below = node(&[(b.cid, 2)], &own(b"xy", &[2]));
    let root = node(&[(a.cid, 3), (*below.cid(), 60)], &own(b"0123", &[3, 4]));
    let blocks: HashMap<Cid, Block> = [&root, &below].map(|block| (*block.cid(), block.clone())).into();
    let all: Vec<Leaf> = Leaves::new(*root.cid(), 11, from(&blocks)).map(Result::unwrap).collect();
    let shape: Vec<_> = all.iter().map(|leaf| (leaf.cid, leaf.offset, leaf.len, leaf.own)).collect();
    let expected = [(*root.cid(), 0, 4, true), (a.cid, 4, 3, false), (*below.cid(), 7, 2, true), (b.cid, 9, 2, false)];
    assert_eq!(shape, expected);
    for (i, leaf) in all.iter().enumerate() {
        let mut from_here = Leaves::new(*root.cid(), 11, from(&blocks));
        from_here.seek(leaf.offset, leaf.index).unwrap();
        assert_eq!(from_here.map(Result::unwrap).collect::<Vec<_>>(), all[i..], "from {}", leaf.offset);
    }
}
