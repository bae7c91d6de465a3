//! Fleets that pull one file from a publisher: how long it takes in terms of a single copy, what the publisher sends, and
//! what comes twice.

use std::time::Duration;

use super::runs::HOUR;
use super::{Link, Manner, World, huge_blocks};
use crate::block::Block;
use crate::exchange::message::Version;

/// 50 Mbit/s, in bytes per second.
const RATE: u64 = 6_250_000;

/// What a fleet came to.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    /// When all, and when nine of ten, were done, in terms of a single copy.
    last: f64,
    most: f64,
    /// What the publisher sent, in copies.
    copies: f64,
    /// Blocks that came twice, of all.
    duplicates: f64,
    /// Bytes of wants and notices, of all.
    control: f64,
}

/// A publisher that has all blocks, and readers whose links are as `link` says of each.
fn fleet(seed: u64, readers: usize, leaves: usize, link: impl Fn(usize) -> Link) -> (World, Vec<Block>) {
    let mut world = World::new(seed);
    for node in 0..=readers {
        world.add(link(node), Manner::Honest);
    }
    let blocks = huge_blocks()[..leaves].to_vec();
    blocks.iter().for_each(|block| world.give(0, block));
    world.set_file(&blocks);
    (world, blocks)
}

fn fast(delay: u64) -> Link {
    Link { delay: Duration::from_millis(delay), rate: RATE, version: Version::V120 }
}

fn mesh(world: &mut World) {
    for a in 0..world.nodes.len() {
        (0..a).for_each(|b| world.connect_in(Duration::ZERO, a, b));
    }
}

/// Connects every node with some others, chosen by chance, and with the next.
fn tangle(world: &mut World, each: usize) {
    let nodes = world.nodes.len();
    for a in 0..nodes {
        world.connect_in(Duration::ZERO, a, (a + 1) % nodes);
        for _ in 0..each / 2 {
            let b = usize::try_from(world.below(nodes as u64)).unwrap();
            if a != b {
                world.connect_in(Duration::ZERO, a, b);
            }
        }
    }
}

fn pull(world: &mut World) {
    for node in 1..world.nodes.len() {
        world.follow_in(Duration::from_millis(10), node);
    }
}

fn outcome(world: &World, blocks: &[Block]) -> Outcome {
    let bytes: usize = blocks.iter().map(|block| block.bytes().len()).sum();
    let single = bytes as f64 / RATE as f64;
    let (all, extra) = super::runs::duplicates(world);
    let control: u64 = world.nodes.iter().map(|node| node.control_bytes).sum();
    let payload: u64 = world.nodes.iter().map(|node| node.sent_bytes).sum();
    let ends = world.nodes.iter().filter_map(|node| Some((node.finished_at? - world.began).as_secs_f64() / single));
    let mut ends: Vec<f64> = ends.collect();
    ends.sort_by(f64::total_cmp);
    Outcome {
        last: ends.last().copied().unwrap_or_default(),
        most: ends.get((ends.len() * 9 / 10).saturating_sub(1)).copied().unwrap_or_default(),
        copies: world.nodes[0].sent_bytes as f64 / bytes as f64,
        duplicates: extra as f64 / all as f64,
        control: control as f64 / payload as f64,
    }
}

fn finished(world: &mut World, blocks: &[Block], what: &str) -> Outcome {
    assert!(world.run(HOUR), "{what}: {}", world.unfinished());
    let outcome = outcome(world, blocks);
    println!("{what}: {outcome:.3?}");
    world.tear_down();
    outcome
}

#[test]
fn a_fleet_shares_what_the_publisher_sends() {
    for (readers, delay, last) in [(8, 1, 1.15), (16, 1, 1.2), (8, 25, 1.2)] {
        for seed in 0..3 {
            let (mut world, blocks) = fleet(seed, readers, 256, |_| fast(delay));
            mesh(&mut world);
            pull(&mut world);
            let outcome = finished(&mut world, &blocks, &format!("{readers} readers, {delay} ms, seed {seed}"));
            assert!(outcome.last <= last && outcome.copies <= 1.15 && outcome.duplicates <= 0.01, "{outcome:?}");
            assert!(outcome.control <= 0.005, "{outcome:?}");
        }
    }
}

#[test]
fn a_large_fleet_that_is_no_full_mesh_shares_too() {
    let (mut world, blocks) = fleet(1, 100, 256, |_| fast(5));
    tangle(&mut world, 30);
    pull(&mut world);
    let outcome = finished(&mut world, &blocks, "100 readers, 30 peers each");
    assert!(outcome.last <= 2.0 && outcome.duplicates <= 0.02, "{outcome:?}");
}

#[test]
fn a_fleet_with_slow_members_finishes() {
    let slow = |node: usize| if node % 10 == 5 { Link { rate: RATE / 10, ..fast(5) } } else { fast(5) };
    let (mut mixed, blocks) = fleet(2, 20, 128, slow);
    mesh(&mut mixed);
    pull(&mut mixed);
    let mixed = finished(&mut mixed, &blocks, "20 readers, two ten times slower");
    // A single copy takes the slow ones ten times as long.
    assert!(mixed.last <= 30.0 && mixed.most <= 10.0, "{mixed:?}");
}

#[test]
fn the_rest_of_a_fleet_finishes_without_its_publisher() {
    let (mut world, blocks) = fleet(3, 8, 128, |_| fast(5));
    mesh(&mut world);
    pull(&mut world);
    // After 1.3 copies.
    for node in 1..=8 {
        world.disconnect_in(Duration::from_secs(28), 0, node);
    }
    finished(&mut world, &blocks, "8 readers, the publisher leaves");
}

#[test]
fn members_that_come_and_go_cost_little() {
    let (mut world, blocks) = fleet(4, 12, 128, |_| fast(5));
    mesh(&mut world);
    pull(&mut world);
    for turn in 0..30_u64 {
        let (a, b) = (usize::try_from(world.below(13)).unwrap(), usize::try_from(world.below(13)).unwrap());
        if a != b {
            let after = Duration::from_millis(500 * turn);
            world.disconnect_in(after, a, b);
            world.connect_in(after + Duration::from_secs(2), a, b);
        }
    }
    let outcome = finished(&mut world, &blocks, "12 readers, connections break");
    assert!(outcome.last <= 2.0, "{outcome:?}");
}

#[test]
fn one_that_comes_late_is_served_by_all() {
    let (mut world, blocks) = fleet(5, 8, 128, |_| fast(5));
    mesh(&mut world);
    for node in 1..8 {
        world.follow_in(Duration::from_millis(10), node);
    }
    world.follow_in(Duration::from_secs(11), 8);
    let outcome = finished(&mut world, &blocks, "8 readers, one from half on");
    assert!(outcome.last <= 0.5 + 1.4, "{outcome:?}");
}

#[test]
fn two_publishers_are_no_slower_than_one() {
    let (mut world, blocks) = fleet(6, 8, 128, |_| fast(5));
    blocks.iter().for_each(|block| world.give(1, block));
    mesh(&mut world);
    for node in 2..=8 {
        world.follow_in(Duration::from_millis(10), node);
    }
    let outcome = finished(&mut world, &blocks, "7 readers, 2 publishers");
    assert!(outcome.last <= 1.25, "{outcome:?}");
}
