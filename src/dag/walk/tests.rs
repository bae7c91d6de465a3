//! Honest trees expand to their leaves; every lie of a block is named.

use std::collections::HashMap;

use super::*;
use crate::{
    block::{Multihash, Prefix, parse_cid},
    dag::{
        builder::{Builder, Profile, Root, Version, leaf, leaf_block},
        chunker::Chunker,
        dagpb::{Link, Node},
    },
};

/// A file's blocks, leaves included, and its root.
pub(in crate::dag) fn tree(profile: Profile, file: &[u8]) -> (Root, HashMap<Cid, Block>) {
    let mut blocks = HashMap::new();
    let mut builder = Builder::new(profile);
    for chunk in file.chunks(profile.chunker.bytes_max() as usize) {
        let block = leaf_block(&profile, chunk);
        blocks.insert(*block.cid(), block);
        builder.push(leaf(&profile, chunk), &mut |block| drop(blocks.insert(*block.cid(), block)));
    }
    let root = builder.finish(&mut |block| drop(blocks.insert(*block.cid(), block)));
    (root, blocks)
}

/// A node of the given links and message.
pub(in crate::dag) fn node(links: &[(Cid, u64)], message: &Data) -> Block {
    let links = links.iter().map(|&(cid, tsize)| Link { cid, name: Bytes::new().into(), tsize: Some(tsize) }).collect();
    let bytes = dagpb::encode(&Node { links, data: Some(message.encode().into()) });
    Block::seal(Prefix::DAG_PB_V1, bytes.into()).unwrap()
}

pub(in crate::dag) fn file(blocksizes: &[u64]) -> Data {
    Data { filesize: Some(blocksizes.iter().sum()), blocksizes: blocksizes.to_vec(), ..Data::new(Kind::File) }
}

fn raw() -> Cid {
    parse_cid("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e").unwrap()
}

fn expand_root(block: &Block) -> Result<Expanded, WalkError> {
    expand(&Claim::root(*block.cid()), block)
}

#[test]
fn a_built_tree_walks_back_to_the_file() {
    let file: Vec<u8> = (0..=255).cycle().take(5000).collect();
    for raw_leaves in [true, false] {
        for length in [0, 1, 9, 10, 11, 99, 100, 101, 1000, 5000] {
            let profile = Profile { raw_leaves, chunker: Chunker::Size(10), width: 3, ..Profile::V1_2025 };
            let (root, blocks) = tree(profile, &file[..length]);
            let mut found = Vec::new();
            let mut todo = vec![(Claim::root(root.cid), None)];
            while let Some((claim, expected_leaf)) = todo.pop() {
                let expanded = expand(&claim, &blocks[&claim.cid]).unwrap();
                if let Some(leaf) = expected_leaf {
                    assert_eq!(leaf, expanded.children.is_empty(), "the hint is right for canonical trees");
                }
                if let Some((offset, data)) = expanded.own_data {
                    assert_eq!(offset, found.len() as u64);
                    found.extend_from_slice(&data);
                }
                todo.extend(expanded.children.iter().rev().map(|child| (child.claim, Some(child.leaf))));
            }
            assert_eq!(found, file[..length]);
        }
    }
}

#[test]
fn data_of_an_inner_node_comes_before_its_children() {
    let message = Data { data: Some(Bytes::from_static(b"abc")), filesize: Some(14), ..file(&[11]) };
    let block = node(&[(raw(), 11)], &message);
    let expanded = expand(&Claim { offset: 100, ..Claim::root(*block.cid()) }, &block).unwrap();
    assert_eq!(expanded.own_data, Some((100, Bytes::from_static(b"abc"))));
    assert_eq!((expanded.size, expanded.children[0].claim.offset), (14, 103));
}

#[test]
fn what_is_no_file_is_named() {
    for kind in [Kind::Directory, Kind::HamtShard, Kind::Symlink, Kind::Metadata] {
        let block = node(&[], &Data::new(kind));
        assert_eq!(expand_root(&block), Err(WalkError::NotAFile(kind)));
    }
    let cbor = Cid::new_v1(0x71, *raw().hash());
    assert_eq!(expand_trusted(&Claim::root(cbor), &Bytes::new()), Err(WalkError::UnknownCodec(0x71)));
    let block = node(&[(cbor, 1)], &file(&[1]));
    assert_eq!(expand_root(&block), Err(WalkError::UnknownCodec(0x71)));
    let block = Block::seal(Prefix::DAG_PB_V1, Bytes::from_static(b"\xff")).unwrap();
    assert!(matches!(expand_root(&block), Err(WalkError::Malformed(_))));
    let block = Block::seal(Prefix::DAG_PB_V1, Bytes::new()).unwrap();
    assert!(matches!(expand_root(&block), Err(WalkError::Malformed(_))));
}

#[test]
fn lies_about_sizes_are_named() {
    let block = node(&[(raw(), 11)], &file(&[11, 11]));
    assert_eq!(expand_root(&block), Err(WalkError::LinkCount { links: 1, sizes: 2 }));
    let block = node(&[(raw(), 11), (raw(), 11)], &file(&[11]));
    assert_eq!(expand_root(&block), Err(WalkError::LinkCount { links: 2, sizes: 1 }));
    let block = node(&[(raw(), 11)], &Data { filesize: Some(12), ..file(&[11]) });
    assert_eq!(expand_root(&block), Err(WalkError::Sum { says: 12, parts: 11 }));
    let block = node(&[(raw(), 11)], &file(&[11]));
    let claim = Claim { size: Some(10), ..Claim::root(*block.cid()) };
    assert_eq!(expand(&claim, &block), Err(WalkError::SizeMismatch { claimed: 10, actual: 11 }));
    let leaf = Block::seal(Prefix::RAW_V1, Bytes::from_static(b"hello world")).unwrap();
    let claim = Claim { size: Some(10), ..Claim::root(*leaf.cid()) };
    assert_eq!(expand(&claim, &leaf), Err(WalkError::SizeMismatch { claimed: 10, actual: 11 }));
    let claim = Claim { size: Some(11), ..Claim::root(*block.cid()) };
    assert_eq!(expand(&claim, &leaf), Err(WalkError::WrongBlock(Box::new(*leaf.cid()))));
}

#[test]
fn sizes_end_at_their_limits() {
    let dag_pb = Cid::new_v1(DAG_PB, *raw().hash());
    let at = node(&[(dag_pb, 1), (dag_pb, 1)], &file(&[FILE_BYTES_MAX - 1, 1]));
    assert_eq!(expand_root(&at).unwrap().size, FILE_BYTES_MAX);
    let over = node(&[(dag_pb, 1), (dag_pb, 1)], &file(&[FILE_BYTES_MAX, 1]));
    assert_eq!(expand_root(&over), Err(WalkError::TooLarge));
    let message = Data { filesize: Some(0), blocksizes: vec![u64::MAX, 1], ..Data::new(Kind::File) };
    assert_eq!(expand_root(&node(&[(dag_pb, 1), (dag_pb, 1)], &message)), Err(WalkError::TooLarge));
    let deep = Claim { offset: FILE_BYTES_MAX, ..Claim::root(*at.cid()) };
    assert_eq!(expand(&deep, &at), Err(WalkError::TooLarge));

    let limit = BLOCK_BYTES_MAX as u64;
    let at = expand_root(&node(&[(raw(), limit)], &file(&[limit]))).unwrap();
    assert_eq!((at.children[0].size(), u64::from(at.children[0].block_bytes_hint)), (limit, limit));
    let over = node(&[(raw(), limit + 1)], &file(&[limit + 1]));
    assert_eq!(expand_root(&over), Err(WalkError::ChildTooLarge(limit + 1)));
}

#[test]
fn chains_of_nodes_end_at_the_depth_limit() {
    let block = node(&[(raw(), 11)], &file(&[11]));
    let at = Claim { depth: DEPTH_MAX - 1, ..Claim::root(*block.cid()) };
    assert_eq!(expand(&at, &block).unwrap().children[0].claim.depth, DEPTH_MAX);
    let over = Claim { depth: DEPTH_MAX, ..at };
    assert_eq!(expand(&over, &block), Err(WalkError::TooDeep));
    let leaf = Block::seal(Prefix::RAW_V1, Bytes::from_static(b"hello world")).unwrap();
    assert!(expand(&Claim { depth: DEPTH_MAX, ..Claim::root(*leaf.cid()) }, &leaf).is_ok());
}

#[test]
fn children_without_bytes_are_refused() {
    let block = node(&[(raw(), 11), (raw(), 0)], &file(&[11, 0]));
    assert_eq!(expand_root(&block), Err(WalkError::EmptyChild));
}

#[test]
fn leaves_are_told_from_inner_nodes_by_their_weight() {
    let profile = Profile { raw_leaves: false, chunker: Chunker::Size(1), width: 2, ..Profile::V1_2025 };
    let (root, blocks) = tree(profile, b"abc");
    let top = expand(&Claim::root(root.cid), &blocks[&root.cid]).unwrap();
    assert_eq!(
        top.children.iter().map(|child| (child.size(), child.leaf)).collect::<Vec<_>>(),
        [(2, false), (1, false)]
    );
    let last = top.children[1].claim;
    let one = expand(&last, &blocks[&last.cid]).unwrap();
    assert_eq!(
        one.children.iter().map(|child| (child.size(), child.leaf, child.block_bytes_hint)).collect::<Vec<_>>(),
        [(1, true, 9)]
    );
    // An inner node over an identity CID is the lightest there is.
    let tiny = Cid::new_v1(RAW, Multihash::wrap(0, b"x").unwrap());
    let inner = node(&[(tiny, 1)], &file(&[1]));
    let above = node(&[(*inner.cid(), 1 + inner.bytes().len() as u64)], &file(&[1]));
    assert!(!expand_root(&above).unwrap().children[0].leaf);
}

#[test]
fn the_same_bytes_under_another_codec_are_the_claims() {
    let (root, blocks) = tree(Profile::kubo_defaults(Version::V0), b"abc");
    let as_raw = blocks[&root.cid].renamed(&Cid::new_v1(RAW, *root.cid.hash())).unwrap();
    assert_eq!(expand(&Claim::root(root.cid), &as_raw).unwrap().size, 3);
}

#[test]
fn the_bound_on_inner_nodes_leaves_room_for_every_honest_file() {
    let nodes = |size: u64, chunk: u64, width: u64| {
        let (mut level, mut sum) = (size.div_ceil(chunk), 0);
        while level > 1 {
            level = level.div_ceil(width);
            sum += level;
        }
        sum
    };
    for (chunk, width) in [(262_144, 174), (1_048_576, 1024), (65_536, 2), (16_384, 2), (1, 1024)] {
        for size in [1, 1 << 20, 1 << 25, if chunk == 1 { 0 } else { 1 << 40 }] {
            assert!(nodes(size, chunk, width) <= inner_nodes_max(size), "{size} {chunk} {width}");
        }
    }
}
