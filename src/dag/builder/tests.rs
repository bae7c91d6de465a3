//! Trees against their definitions, and against CIDs that Kubo gave.

use proptest::prelude::*;

use super::*;
use crate::dag::unixfs::Mtime;

fn build(profile: Profile, file: &[u8]) -> (Root, Vec<Block>) {
    let mut blocks = Vec::new();
    let mut builder = Builder::new(profile);
    for chunk in file.chunks(profile.chunker.bytes_max() as usize) {
        builder.push(leaf(&profile, chunk), &mut |block| blocks.push(block));
    }
    let root = builder.finish(&mut |block| blocks.push(block));
    (root, blocks)
}

/// Collect all, group, repeat: the definition of the balanced layout.
fn naive(profile: &Profile, file: &[u8]) -> (Cid, u64, u64) {
    let mut level: Vec<(Cid, u64, u64)> = file
        .chunks(profile.chunker.bytes_max() as usize)
        .map(|chunk| {
            let block = leaf_block(profile, chunk);
            (*block.cid(), chunk.len() as u64, block.bytes().len() as u64)
        })
        .collect();
    if level.is_empty() {
        let block = leaf_block(profile, &[]);
        level.push((*block.cid(), 0, block.bytes().len() as u64));
    }
    while level.len() > 1 {
        level = level
            .chunks(profile.width)
            .map(|group| {
                let data = Data {
                    filesize: Some(group.iter().map(|g| g.1).sum()),
                    blocksizes: group.iter().map(|g| g.1).collect(),
                    ..Data::new(Kind::File)
                };
                let links =
                    group.iter().map(|g| Link { cid: g.0, name: Bytes::new().into(), tsize: Some(g.2) }).collect();
                let bytes = Bytes::from(dagpb::encode(&Node { links, data: Some(data.encode().into()) }));
                let length = bytes.len() as u64;
                let prefix = if profile.cid_version == Version::V0 { Prefix::DAG_PB_V0 } else { Prefix::DAG_PB_V1 };
                let cid = *Block::seal(prefix, bytes).unwrap().cid();
                (cid, group.iter().map(|g| g.1).sum(), length + group.iter().map(|g| g.2).sum::<u64>())
            })
            .collect();
    }
    level[0]
}

#[test]
fn a_leaf_has_the_name_of_its_block() {
    for hash in ["sha2-256", "sha2-512", "blake2b-256", "blake3"] {
        let hash = HashFunction::parse(hash).unwrap();
        assert_eq!(HashFunction::from_code(hash.code()), Ok(hash));
        for profile in [Profile::V1_2025, Profile::V0_2015] {
            let profile = Profile { hash, ..profile };
            for length in [0, 1, 127, 128, 300_000] {
                let data = vec![5; length];
                let (named, block) = (leaf(&profile, &data), leaf_block(&profile, &data));
                assert_eq!((named.cid, named.tsize), (*block.cid(), block.bytes().len() as u64));
                assert_eq!(named.file_bytes, length as u64);
            }
        }
    }
}

#[test]
fn short_and_unknown_hashes_are_refused() {
    assert!(HashFunction::from_code(0x9999).is_err());
    assert!(HashFunction::from_code(0xb250).is_err(), "blake2s-128");
    assert!(HashFunction::parse("md5").is_err());
}

#[test]
fn version_0_is_only_for_sha2_256() {
    let profile = Profile { hash: HashFunction::parse("blake3").unwrap(), ..Profile::V0_2015 };
    assert_eq!(build(profile, &[1; 300_000]).0.cid.version(), Version::V1);
    assert_eq!(build(Profile::V0_2015, &[1; 300_000]).0.cid.version(), Version::V0);
}

#[test]
fn one_chunk_is_its_own_root_and_the_empty_file_one_empty_leaf() {
    let (root, blocks) = build(Profile::V0_2015, b"hello world");
    assert_eq!(root.cid.to_string(), "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD");
    assert_eq!((root.size, root.tsize, root.leaves, blocks.len()), (11, 19, 1, 0));
    let (root, blocks) = build(Profile::V1_2025, b"");
    assert_eq!(root.cid.to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    assert_eq!((root.size, root.leaves, blocks.len()), (0, 1, 1));
}

#[test]
fn the_widest_node_fits_a_block() {
    let hashed = Profile {
        width: WIDTH_MAX,
        hash: HashFunction::parse("sha2-512").unwrap(),
        ..Profile::kubo_defaults(Version::V1)
    };
    let inlined = Profile { inline: Some(128), ..Profile::V1_2025 };
    let inlined = Profile { width: inlined.width_max(), ..inlined };
    for profile in [hashed, inlined] {
        let big = LeafRef { file_bytes: 1 << 39, tsize: 1 << 40, ..leaf(&profile, &[1; 128]) };
        let mut builder = Builder::new(profile);
        let mut longest = 0;
        for _ in 0..profile.width {
            builder.push(big, &mut |_| {});
        }
        builder.finish(&mut |block| longest = longest.max(block.bytes().len()));
        assert!(longest > 1 << 20 && longest <= BLOCK_BYTES_MAX);
    }
}

#[test]
fn memory_is_bounded_by_width_and_depth() {
    let profile = Profile { width: 16, ..Profile::V1_2025 };
    let one = leaf(&profile, &[0; 1024]);
    let mut builder = Builder::new(profile);
    let mut nodes = 0_u64;
    for _ in 0..70_000 {
        builder.push(one, &mut |_| nodes += 1);
        let Tree::Balanced(tree) = &builder.tree else { panic!("{builder:?}") };
        assert!(tree.levels.iter().map(Vec::len).sum::<usize>() <= 16 * 5);
    }
    let root = builder.finish(&mut |_| nodes += 1);
    assert_eq!((root.size, root.leaves), (70_000 * 1024, 70_000));
    assert_eq!(nodes, 4375 + 274 + 18 + 2 + 1);
}

/// The definition of the trickle layout, by recursion over leaves that are all there: appends `node`'s children and
/// returns what is left. The root has no `depth`.
fn naive_trickle<'a>(profile: &Profile, mut leaves: &'a [LeafRef], depth: Option<usize>) -> (LeafRef, &'a [LeafRef]) {
    let (direct, rest) = leaves.split_at(leaves.len().min(profile.width));
    let mut children = direct.to_vec();
    leaves = rest;
    for below in 1..depth.unwrap_or(usize::MAX) {
        if leaves.is_empty() {
            break;
        }
        for _ in 0..4 {
            if !leaves.is_empty() {
                let (child, rest) = naive_trickle(profile, leaves, Some(below));
                children.push(child);
                leaves = rest;
            }
        }
    }
    (close(profile, &mut children, Metadata::default(), &mut |_| {}), leaves)
}

#[test]
fn trickle_trees_are_kubos() {
    let profile = Profile { layout: Layout::Trickle, ..Profile::V0_2015 };
    let (root, blocks) = build(profile, b"Hello Worlds!\n");
    assert_eq!(root.cid.to_string(), "QmUkUQgxXeggyaD5Ckv8ZqfW8wHBX6cYyeiyqvVZYzq5Bi");
    assert_eq!((root.size, root.tsize, root.leaves, blocks.len()), (14, 72, 1, 1));
    let (root, _) = build(profile, &[0; 1_048_577]);
    assert_eq!(root.cid.to_string(), "QmZh6F2zhsWtNFJTbBrET16xzB5AX5zteB5j7gCk4BZxVJ");
}

#[test]
fn an_empty_trickle_file_is_a_node_also_with_raw_leaves() {
    let profile = Profile { layout: Layout::Trickle, ..Profile::V1_2025 };
    let mut with_leaf = Builder::new(profile);
    with_leaf.push(leaf(&profile, &[]), &mut |_| panic!("no node is complete"));
    for (root, blocks) in [build(profile, b""), (with_leaf.finish(&mut |_| {}), Vec::new())] {
        assert_eq!(root.cid.to_string(), "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y");
        assert_eq!((root.size, root.tsize, root.leaves), (0, 6, 1));
        assert!(blocks.iter().all(|block| *block.cid() == root.cid));
    }
}

#[test]
fn memory_of_trickle_trees_is_bounded_by_width_and_depth() {
    let profile = Profile { width: 2, layout: Layout::Trickle, ..Profile::V1_2025 };
    let one = leaf(&profile, &[0; 1024]);
    let mut builder = Builder::new(profile);
    for _ in 0..70_000 {
        builder.push(one, &mut |_| {});
        let Tree::Trickle(tree) = &builder.tree else { panic!("{builder:?}") };
        assert!(tree.open.len() <= 7);
        assert!(tree.open.iter().all(|subtree| subtree.links.len() < 2 + 4 * 7));
    }
    assert_eq!(builder.finish(&mut |_| {}).size, 70_000 * 1024);
}

fn dated(mode: u32, seconds: i64) -> Metadata {
    Metadata { mode: Some(mode), mtime: Some(Mtime { seconds, nanos: 0 }) }
}

#[test]
fn empty_files_with_metadata_are_kubos() {
    let mtime = Some(Mtime { seconds: 1_604_320_482, nanos: 0 });
    for (metadata, cid, tsize) in [
        (Metadata { mode: Some(416), mtime: None }, "QmQLgxypSNGNFTuUPGCecq6dDEjb6hNB5xSyVmP3cEuNtq", 9),
        (Metadata { mode: None, mtime }, "QmQ6kErEW8kztQFV8vbwNU8E4dmtGsYpRiboiLxUEwibvj", 14),
        (Metadata { mode: Some(416), mtime }, "QmYkvboLsvLFcSYmqVJRxvBdYRQLroLv9kELf3LRiCqBri", 17),
    ] {
        let mut given = Vec::new();
        let root = Builder::new(Profile::V0_2015).finish_with(metadata, &mut |block| given.push(*block.cid()));
        assert_eq!((root.cid.to_string().as_str(), root.tsize, root.leaves, given), (cid, tsize, 1, vec![root.cid]));
        let (leaf, _) = sole_leaf(&Profile::V0_2015, b"", metadata);
        let mut builder = Builder::new(Profile::V0_2015);
        builder.push(leaf, &mut |_| {});
        assert_eq!(builder.finish_with(metadata, &mut |_| {}), root);
    }
}

/// Whatever the tree's form, its root holds the metadata and nothing else changes.
#[test]
fn only_the_root_has_metadata() {
    let metadata = dated(0o640, 1_700_000_049);
    for layout in [Layout::Balanced, Layout::Trickle] {
        for (raw_leaves, length) in (0..20).flat_map(|length| [(false, length), (true, length)]) {
            let profile = Profile { chunker: Chunker::Size(1), width: 3, layout, raw_leaves, ..Profile::V1_2025 };
            let mut blocks = Vec::new();
            let mut builder = Builder::new(profile);
            for _ in 0..length {
                let leaf = if length == 1 { sole_leaf(&profile, b"x", metadata).0 } else { leaf(&profile, b"x") };
                builder.push(leaf, &mut |block| blocks.push(block));
            }
            let root = builder.finish_with(metadata, &mut |block| blocks.push(block));
            assert_eq!((root.size, root.cid.codec()), (length, DAG_PB));
            if (layout, raw_leaves, length) == (Layout::Balanced, false, 1) {
                assert!(blocks.is_empty());
                continue;
            }
            for block in &blocks {
                let data = Data::decode(&dagpb::decode(block.bytes()).unwrap().data.unwrap()).unwrap();
                let expected = if *block.cid() == root.cid { metadata } else { Metadata::default() };
                assert_eq!((data.metadata(), data.kind), (expected, Kind::File));
            }
            assert_eq!(blocks.last().map(|block| *block.cid()), Some(root.cid));
            if length > 1 || layout == Layout::Trickle {
                let (plain, without) = build(profile, &vec![b'x'; usize::try_from(length).unwrap()]);
                assert_eq!((without.len(), plain.leaves), (blocks.len(), root.leaves));
            }
        }
    }
}

#[test]
fn the_sole_leaf_is_wrapped_as_it_says() {
    for metadata in [Metadata::default(), dated(0o4755, -1)] {
        for profile in [Profile::V0_2015, Profile::V1_2025, Profile { layout: Layout::Trickle, ..Profile::V0_2015 }] {
            for length in [1, 127, 128, 262_144] {
                let data = vec![9; length];
                let (named, wrap) = sole_leaf(&profile, &data, metadata);
                let (mut block, suffix) = wrap.affixes(u32::try_from(length).unwrap());
                block.extend_from_slice(&data);
                block.extend_from_slice(&suffix);
                assert_eq!(named.tsize, block.len() as u64);
                assert!(Block::verify(&named.cid, block.into()).is_ok());
                let holds_it = matches!(wrap, Wrap::Custom { .. });
                assert_eq!(holds_it, metadata.mode.is_some() && profile == Profile::V0_2015);
            }
        }
    }
}

#[test]
fn blocks_up_to_the_limit_are_inlined_and_not_given_away() {
    let profile = Profile { inline: Some(32), ..Profile::kubo_defaults(Version::V1) };
    let (root, blocks) = build(Profile { inline: Some(0), ..profile }, b"");
    assert_eq!((root.cid.to_string().as_str(), blocks.len()), ("bafkqaaa", 0));
    let named = |length| leaf(&profile, &vec![1; length]).cid;
    assert_eq!(identity_content(&named(32)), Some(&[1; 32][..]));
    assert_eq!(named(33), leaf(&Profile { inline: None, ..profile }, &[1; 33]).cid);
    let without_bound = Profile { inline: Some(u32::MAX), ..Profile::V0_2015 };
    let content = leaf(&without_bound, &[1; 117]).cid;
    assert_eq!((content.version(), content.codec(), content.hash().size()), (Version::V1, DAG_PB, 125));
    assert_eq!(leaf(&without_bound, &[1; 128]).cid.version(), Version::V0);
}

#[test]
fn inlined_inner_nodes_are_linked_like_others() {
    let profile = Profile { chunker: Chunker::Size(1), width: 3, inline: Some(u32::MAX), ..Profile::V1_2025 };
    for layout in [Layout::Balanced, Layout::Trickle] {
        for length in 0..40 {
            let profile = Profile { layout, ..profile };
            let (root, blocks) = build(profile, &vec![7; length]);
            let (plain, all) = build(Profile { inline: None, ..profile }, &vec![7; length]);
            assert_eq!((root.size, root.leaves), (plain.size, plain.leaves));
            assert!(blocks.len() < all.len() || length == 1);
            assert!(blocks.iter().all(|block| block.bytes().len() > 128));
            assert!(root.tsize <= plain.tsize);
        }
    }
}

proptest! {
    #[test]
    fn the_tree_is_the_naive_one(
        (chunk, width) in (1_u32..5, 2_usize..6),
        file in prop::collection::vec(any::<u8>(), 0..300),
        raw_leaves: bool,
        version_1: bool,
    ) {
        let cid_version = if version_1 { Version::V1 } else { Version::V0 };
        let profile = Profile { cid_version, raw_leaves, chunker: Chunker::Size(chunk), width, layout: Layout::Balanced, inline: None, hash: HashFunction::SHA2_256 };
        let (root, _) = build(profile, &file);
        prop_assert_eq!((root.cid, root.size, root.tsize), naive(&profile, &file));
        prop_assert_eq!(root.leaves, (file.len() as u64).div_ceil(u64::from(chunk)).max(1));
    }

    #[test]
    fn the_trickle_tree_is_the_naive_one(length in 0_usize..3000, width in 2_usize..5, raw_leaves: bool) {
        let profile = Profile { chunker: Chunker::Size(1), width, raw_leaves, layout: Layout::Trickle, ..Profile::V1_2025 };
        let file: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
        let leaves: Vec<LeafRef> = file.iter().map(|&byte| leaf(&profile, &[byte])).collect();
        let (root, blocks) = build(profile, &file);
        let (naive, rest) = naive_trickle(&profile, &leaves, None);
        prop_assert!(rest.is_empty());
        prop_assert_eq!((root.cid, root.size, root.tsize), (naive.cid, naive.file_bytes, naive.tsize));
        prop_assert_eq!(root.leaves, length.max(1) as u64);
        prop_assert_eq!(blocks.last().map(|block| *block.cid()), Some(root.cid));
    }
}
