//! Swarms with peers that drop, stall or flood as other implementations may: everything comes, and in good time.

use std::time::Duration;

use super::runs::{HOUR, link, swarm, wants};
use super::{Link, Manner, World, large_blocks, small_blocks};
use crate::exchange::message::Version;

const FAST: Link = Link { delay: Duration::from_millis(1), rate: 20_000_000, version: Version::V120 };

#[test]
fn a_server_that_drops_what_it_has_no_room_for_never_has_to() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let (a, b, c) = (link(&mut world), link(&mut world), link(&mut world));
        let a = world.add(a, Manner::Keeps(1024));
        let (b, c) = (world.add(b, Manner::Honest), world.add(c, Manner::Keeps(1024)));
        let blocks = &small_blocks()[..3000];
        // One has all of them from the first moment; the other has every third, and lacks what it is asked ahead.
        blocks.iter().for_each(|block| world.give(a, block));
        blocks.iter().step_by(3).for_each(|block| world.give(c, block));
        world.connect_in(Duration::ZERO, b, c);
        let after = if seed % 2 == 0 { Duration::ZERO } else { Duration::from_secs(30) };
        world.connect_in(after, a, b);
        world.want_in(Duration::ZERO, b, wants(blocks));
        // A reconnect in the middle sends the whole list anew.
        world.disconnect_in(after + Duration::from_millis(50), a, b);
        world.connect_in(after + Duration::from_millis(60), a, b);
        assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
        assert_eq!((world.nodes[a].dropped, world.nodes[c].dropped), (0, 0), "seed {seed}");
        assert!(
            world.now - world.began < after + Duration::from_secs(10),
            "seed {seed}: {:?}",
            world.now - world.began
        );
        world.tear_down();
    }
}

#[test]
fn a_lone_peer_is_used_to_its_full_however_small_its_blocks() {
    for seed in 0..20 {
        for blocks in [&small_blocks()[..3000], large_blocks()] {
            let mut world = World::new(seed);
            let (from, to) = (link(&mut world), link(&mut world));
            let (a, b) = (world.add(from, Manner::Honest), world.add(to, Manner::Honest));
            blocks.iter().for_each(|block| world.give(a, block));
            world.connect_in(Duration::ZERO, a, b);
            world.want_in(Duration::ZERO, b, wants(blocks));
            assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
            let bytes: usize = blocks.iter().map(|block| block.bytes().len()).sum();
            let round_trip = (from.delay + to.delay) * 2;
            let at_best = Duration::from_secs_f64(bytes as f64 / from.rate.min(to.rate) as f64);
            let took = world.now - world.began;
            // Twelve round trips are needed for 3000 blocks of which 256 may be asked for at a time, and some until the
            // pace is known. Two blocks in each would make 1500.
            assert!(took < at_best.mul_f64(1.5) + round_trip * 60, "seed {seed}: {took:?}, not {at_best:?}");
            world.tear_down();
        }
    }
}

#[test]
fn wants_that_a_server_drops_all_the_same_only_cost_time() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let (a, b) = (link(&mut world), link(&mut world));
        let (a, b) = (world.add(a, Manner::Keeps(100)), world.add(b, Manner::Honest));
        let blocks = &small_blocks()[..2000];
        blocks.iter().for_each(|block| world.give(a, block));
        world.connect_in(Duration::ZERO, a, b);
        world.want_in(Duration::ZERO, b, wants(blocks));
        assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
        assert!(world.nodes[a].dropped > 0, "seed {seed}");
        world.tear_down();
    }
}

#[test]
fn a_peer_that_sends_only_what_nobody_wants_slows_nobody_much() {
    for seed in 0..20 {
        let mut times = Vec::new();
        for manner in [None, Some(Manner::Flood), Some(Manner::WrongBlock), Some(Manner::HaveThenNothing)] {
            let mut world = World::new(seed);
            let (a, b) = (world.add(FAST, Manner::Honest), world.add(FAST, Manner::Honest));
            let blocks = large_blocks();
            blocks.iter().for_each(|block| world.give(a, block));
            world.connect_in(Duration::ZERO, a, b);
            if let Some(manner) = manner {
                let c = world.add(FAST, manner);
                world.connect_in(Duration::ZERO, b, c);
            }
            world.want_in(Duration::from_millis(5), b, wants(blocks));
            assert!(world.run(HOUR), "seed {seed} {manner:?}: {}", world.unfinished());
            times.push(world.now - world.began);
            let counters = world.nodes[b].client.counters();
            let floods = matches!(manner, Some(Manner::Flood | Manner::WrongBlock));
            assert_eq!(counters.unwanted > 0, floods, "seed {seed} {manner:?}");
            world.tear_down();
        }
        // What it sits on is asked elsewhere after two seconds, twice at worst: at the beginning and at the end.
        assert!(times.iter().all(|time| *time < times[0] + Duration::from_secs(5)), "seed {seed}: {times:?}");
    }
}

#[test]
fn floods_and_stalls_in_a_swarm_only_cost_time() {
    for seed in 0..60 {
        let mut world = swarm(seed, 4, 120, &[Manner::Flood, Manner::HaveThenNothing, Manner::HaveThenDontHave]);
        assert!(world.run(HOUR), "seed {seed}: {}", world.unfinished());
        assert!(world.now - world.began < Duration::from_secs(600), "seed {seed}: {:?}", world.now - world.began);
        world.tear_down();
    }
}

#[test]
fn a_block_that_the_oldest_protocol_cannot_name_comes_from_somebody_else() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        let (a, b, c) = (link(&mut world), link(&mut world), link(&mut world));
        let old = world.add(Link { version: Version::V100, ..a }, Manner::Honest);
        let (b, c) = (world.add(b, Manner::Honest), world.add(c, Manner::Honest));
        let blocks = &small_blocks()[1..200];
        for block in blocks {
            world.give(old, block);
            world.give(c, block);
        }
        world.connect_in(Duration::ZERO, old, b);
        world.connect_in(Duration::from_millis(200), b, c);
        world.want_in(Duration::ZERO, b, wants(blocks));
        assert!(world.run(Duration::from_secs(60)), "seed {seed}: {}", world.unfinished());
        world.tear_down();
    }
}
