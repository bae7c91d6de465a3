//! The runs: what swarms of every kind must come to, by the thousand.

use std::time::Duration;

use super::{Link, Manner, World, large_blocks, small_blocks};
use crate::block::{Block, Cid};
use crate::exchange::message::Version;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn link(world: &mut World) -> Link {
    Link {
        delay: Duration::from_micros(100 + world.below(50_000)),
        rate: 1_000_000 + world.below(50_000_000),
        version: Version::V120,
    }
}

/// Some blocks of both sizes.
fn content(world: &mut World, at_most: u64) -> Vec<Block> {
    let count = usize::try_from(1 + world.below(at_most)).unwrap();
    let large = world.below(2) == 0;
    if large { large_blocks()[..count.min(512)].to_vec() } else { small_blocks()[1..=count].to_vec() }
}

pub(super) fn wants(blocks: &[Block]) -> Vec<(Cid, u32)> {
    blocks.iter().map(|block| (*block.cid(), u32::try_from(block.bytes().len()).unwrap())).collect()
}

fn shuffled(world: &mut World, blocks: &[Block]) -> Vec<(Cid, u32)> {
    let mut wants = wants(blocks);
    for i in (1..wants.len()).rev() {
        let j = usize::try_from(world.below(i as u64 + 1)).unwrap();
        wants.swap(i, j);
    }
    wants
}

pub(super) fn duplicates(world: &World) -> (u64, u64) {
    world.nodes.iter().fold((0, 0), |(blocks, duplicates), node| {
        let counters = node.client.counters();
        (blocks + counters.blocks, duplicates + counters.duplicates + counters.unwanted)
    })
}

#[test]
fn two_nodes_always_finish() {
    for seed in 0..2000 {
        let mut world = World::new(seed);
        let (a, b) = (link(&mut world), link(&mut world));
        let (a, b) = (world.add(a, Manner::Honest), world.add(b, Manner::Honest));
        let blocks = content(&mut world, 60);
        blocks.iter().for_each(|block| world.give(a, block));
        world.connect_in(Duration::ZERO, a, b);
        world.want_in(Duration::from_millis(seed % 3), b, wants(&blocks));
        assert!(world.run(HOUR), "seed {seed}: {} missing", world.nodes[b].missing.len());
        assert_eq!(duplicates(&world).1, 0, "seed {seed}");
        assert!(world.nodes[b].told.is_empty(), "seed {seed}");
        world.tear_down();
    }
}

#[test]
fn more_wants_than_a_peer_keeps_all_come() {
    let mut world = World::new(1);
    let (a, b) = (link(&mut world), link(&mut world));
    let (a, b) = (world.add(a, Manner::Honest), world.add(b, Manner::Honest));
    let blocks = &small_blocks()[..3000];
    blocks.iter().for_each(|block| world.give(a, block));
    world.connect_in(Duration::ZERO, a, b);
    world.want_in(Duration::ZERO, b, wants(blocks));
    assert!(world.run(HOUR));
    world.tear_down();
}

/// Every node has some blocks, every block is somewhere, all are connected.
pub(super) fn swarm(seed: u64, honest: u64, at_most: u64, liars: &[Manner]) -> World {
    let mut world = World::new(seed);
    let blocks = content(&mut world, at_most);
    let nodes = 2 + world.below(honest);
    for _ in 0..nodes {
        let link = link(&mut world);
        world.add(link, Manner::Honest);
    }
    for block in &blocks {
        let holders = 1 + world.below(2);
        for _ in 0..holders {
            let holder = usize::try_from(world.below(nodes)).unwrap();
            world.give(holder, block);
        }
    }
    for &liar in liars {
        let link = link(&mut world);
        world.add(link, liar);
    }
    for node in 0..usize::try_from(nodes).unwrap() {
        let lacking: Vec<Block> =
            blocks.iter().filter(|block| !world.nodes[node].store.contains_key(block.cid().hash())).cloned().collect();
        let wants = shuffled(&mut world, &lacking);
        let after = Duration::from_millis(world.below(200));
        if !wants.is_empty() {
            world.want_in(after, node, wants);
        }
    }
    for a in 0..world.nodes.len() {
        for b in 0..a {
            let after = Duration::from_millis(world.below(500));
            world.connect_in(after, a, b);
        }
    }
    world
}

#[test]
fn scattered_blocks_reach_everybody_with_few_duplicates() {
    // Blocks that are smaller than a HAVE is worth come unasked for, more than once, and are counted apart.
    let (mut large, mut small) = ((0, 0), (0, 0));
    for seed in 0..100 {
        let mut world = swarm(seed, 7, 500, &[]);
        assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
        let (blocks, extra) = duplicates(&world);
        let is_small = world.names.values().all(|block| block.bytes().len() <= 1024);
        let sum = if is_small { &mut small } else { &mut large };
        *sum = (sum.0 + blocks, sum.1 + extra);
        world.tear_down();
    }
    println!("large: {large:?}, small: {small:?} (blocks, duplicates)");
    assert!(large.1 * 100 <= large.0, "{large:?}");
    assert!(small.1 * 5 <= small.0, "{small:?}");
}

#[test]
fn liars_only_cost_time() {
    let manners = [Manner::Silent, Manner::HaveThenNothing, Manner::HaveThenDontHave, Manner::WrongBlock];
    let mut longest = Duration::ZERO;
    for seed in 0..250 {
        let first = manners[usize::try_from(seed % 4).unwrap()];
        let second = manners[usize::try_from(seed / 4 % 4).unwrap()];
        let mut world = swarm(seed, 4, 120, &[first, second]);
        assert!(world.run(HOUR), "seed {seed} {first:?} {second:?}: {}", world.unfinished());
        longest = longest.max(world.now - world.began);
        world.tear_down();
    }
    println!("longest {longest:?}");
    assert!(longest < Duration::from_secs(600), "{longest:?}");
}

#[test]
fn peers_that_come_and_go_do_not_stop_anybody() {
    for seed in 0..250 {
        let mut world = swarm(seed, 6, 120, &[]);
        let nodes = world.nodes.len() as u64;
        for _ in 0..40 {
            let a = usize::try_from(world.below(nodes)).unwrap();
            let b = usize::try_from(world.below(nodes)).unwrap();
            if a != b {
                let after = Duration::from_millis(world.below(4000));
                world.disconnect_in(after, a, b);
                let back = after + Duration::from_millis(world.below(2000));
                world.connect_in(back, a, b);
            }
        }
        assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
        world.tear_down();
    }
}

#[test]
fn old_peers_are_asked_in_their_own_way() {
    for seed in 0..300 {
        let mut world = swarm(seed, 4, 120, &[]);
        // Node 0 has everything and speaks 1.2, so that CIDv1 blocks can be had by all but by 1.0 peers.
        let blocks: Vec<Block> = world.names.values().cloned().collect();
        for node in 1..world.nodes.len() {
            let version = [Version::V120, Version::V110, Version::V110][usize::try_from(world.below(3)).unwrap()];
            world.nodes[node].link.version = version;
        }
        blocks.iter().for_each(|block| world.give(0, block));
        assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
        world.tear_down();
    }
}

#[test]
fn peers_of_the_first_version_get_and_are_asked_only_cidv0() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let (a, b) = (link(&mut world), link(&mut world));
        let (a, b) = (world.add(Link { version: Version::V100, ..a }, Manner::Honest), world.add(b, Manner::Honest));
        let blocks = small_blocks()[1..40].to_vec();
        blocks.iter().for_each(|block| world.give(a, block));
        world.connect_in(Duration::ZERO, a, b);
        world.want_in(Duration::ZERO, b, wants(&blocks));
        world.run(Duration::from_secs(100));
        for block in &blocks {
            let came = !world.nodes[b].missing.contains(block.cid().hash());
            let told = world.nodes[b].told.contains_key(block.cid());
            let first = block.cid().version() == cid::Version::V0;
            assert_eq!((came, told), (first, !first), "seed {seed}");
        }
        world.tear_down();
    }
}

#[test]
fn what_nobody_has_is_said_once_and_comes_when_somebody_gets_it() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        for _ in 0..3 {
            let link = link(&mut world);
            world.add(link, Manner::Honest);
        }
        let blocks = content(&mut world, 300);
        world.connect_in(Duration::ZERO, 0, 1);
        world.connect_in(Duration::ZERO, 0, 2);
        world.want_in(Duration::from_millis(1), 0, wants(&blocks));
        assert!(!world.run(Duration::from_secs(20)), "seed {seed}");
        assert!(blocks.iter().all(|block| world.nodes[0].told.get(block.cid()) == Some(&1)), "seed {seed}");
        // One of them gets the blocks from elsewhere and says so.
        blocks.iter().for_each(|block| world.give(1, block));
        let before = world.now;
        assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
        assert!(world.now - before < Duration::from_secs(25), "seed {seed}: {:?}", world.now - before);
        world.tear_down();
    }
}

#[test]
fn a_late_holder_is_asked_when_it_connects() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..3 {
            let link = link(&mut world);
            world.add(link, Manner::Honest);
        }
        let blocks = content(&mut world, 100);
        blocks.iter().for_each(|block| world.give(2, block));
        world.connect_in(Duration::ZERO, 0, 1);
        world.connect_in(Duration::from_secs(10), 0, 2);
        world.want_in(Duration::from_millis(1), 0, wants(&blocks));
        assert!(world.run(Duration::from_secs(40)), "seed {seed}");
        world.tear_down();
    }
}

#[test]
fn a_slow_peer_holds_nobody_up() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        let fast = Link { delay: Duration::from_millis(1), rate: 20_000_000, version: Version::V120 };
        let slow = Link { rate: 20_000, ..fast };
        let (a, b, c) =
            (world.add(slow, Manner::Honest), world.add(fast, Manner::Honest), world.add(fast, Manner::Honest));
        let blocks = large_blocks()[..200].to_vec();
        for block in &blocks {
            world.give(a, block);
            world.give(b, block);
        }
        world.connect_in(Duration::ZERO, a, c);
        world.connect_in(Duration::ZERO, b, c);
        world.want_in(Duration::from_millis(1), c, wants(&blocks));
        assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
        // 13 MB at 20 MB/s; the slow peer alone would take eleven minutes.
        assert!(world.now - world.began < Duration::from_secs(30), "seed {seed}: {:?}", world.now - world.began);
        world.tear_down();
    }
}
