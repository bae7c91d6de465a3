//! Members that are killed or restarted, and a network that falls apart, always in the middle of pulls.

use std::time::Duration;

use crate::fleet::{Setting, case, docker, wait};
use crate::member::{done_bytes, pulled_bytes};
use crate::support::PATIENCE;

const MIB: usize = 1 << 20;

/// What a crash may cost: the bytes that wait to be made durable (`epoch_bytes`).
const AT_RISK: u64 = 64 << 20;

/// After a network has healed, its members are to have found each other within this time.
const WHOLE_AGAIN: Duration = Duration::from_secs(30);

#[test]
fn killed_members_go_on_where_they_were() {
    case("killed", Setting { down: Some("16MiB"), ..Setting::default() }, |fleet| {
        let original = fleet.publish("big.bin", 192 * MIB);
        let publisher = fleet.member("publisher");
        let killed = [fleet.member("reader1"), fleet.member("reader2")];
        fleet.pull(&original);
        for reader in fleet.readers() {
            reader.wait_middle(&original, 16 << 20);
        }
        publisher.kill();
        publisher.start();
        assert_eq!(publisher.ask(&["ls"])[0]["complete"], true);

        let before = killed.map(|reader| reader.wait_middle(&original, 112 << 20));
        for reader in killed {
            reader.kill();
        }
        for reader in killed {
            reader.start();
        }
        // Nobody tells them to.
        fleet.check_all(&original);
        for (reader, before) in killed.into_iter().zip(before) {
            let job = reader.job(&original).unwrap();
            let (kept, pulled) = (job["local_bytes"].as_u64().unwrap(), pulled_bytes(&job));
            assert!(kept + AT_RISK >= before, "{} had {before} bytes and kept {kept}", reader.name);
            assert!(
                pulled <= original.bytes - kept + 4 * MIB as u64,
                "{} pulled again what it had: {job}",
                reader.name
            );
        }
    });
}

#[test]
fn parted_halves_become_whole_and_finish() {
    case("parted", Setting { down: Some("8MiB"), more: Some("parted.yml") }, |fleet| {
        let original = fleet.publish("big.bin", 96 * MIB);
        fleet.pull(&original);
        for reader in fleet.readers() {
            reader.wait_middle(&original, 16 << 20);
        }
        let network = fleet.network();
        let away = [fleet.member("reader3"), fleet.member("reader4")];
        let near = ["publisher", "reader1", "reader2"].map(|name| fleet.member(name));
        for reader in away {
            docker(&["network", "disconnect", &network, &reader.id]);
        }
        for (side, others) in [(near.as_slice(), 2), (&away, 1)] {
            for member in side {
                wait(&format!("cut off: {}", member.name), PATIENCE, || (member.peers().len() == others).then_some(()));
            }
        }
        for reader in &near[1..] {
            fleet.check(reader, &original);
        }
        for reader in away {
            let job = reader.job(&original).unwrap();
            assert!(job["state"] == "fetching" && done_bytes(&job) < original.bytes, "{}: {job}", reader.name);
        }
        for reader in away {
            docker(&["network", "connect", "--alias", &reader.name, &network, &reader.id]);
        }
        fleet.wait_whole(WHOLE_AGAIN);
        fleet.check_all(&original);
    });
}

#[test]
fn members_restart_one_after_the_other_while_all_pull() {
    case("rolling", Setting { down: Some("8MiB"), ..Setting::default() }, |fleet| {
        let original = fleet.publish("big.bin", 160 * MIB);
        fleet.pull(&original);
        for reader in fleet.readers() {
            reader.wait_middle(&original, 4 << 20);
        }
        for member in fleet.all() {
            if member.name != "publisher" {
                member.wait_middle(&original, 0);
            }
            member.stop();
            member.start();
        }
        fleet.check_all(&original);
        for reader in fleet.readers() {
            let job = reader.job(&original).unwrap();
            let kept = job["local_bytes"].as_u64().unwrap();
            // A stop makes everything durable first.
            assert!(pulled_bytes(&job) <= original.bytes - kept + 4 * MIB as u64, "{}: {job}", reader.name);
        }
        fleet.wait_whole(PATIENCE);
    });
}
