//! Pulls in which nobody fails: as they should be, with little memory, and with too little space for a while.

use crate::fleet::{Setting, case, wait};
use crate::support::PATIENCE;

const MIB: usize = 1 << 20;

#[test]
fn all_finish_and_match() {
    case("finish", Setting::default(), |fleet| {
        let original = fleet.publish("big.bin", 128 * MIB);
        fleet.pull(&original);
        fleet.check_all(&original);
        for member in fleet.all() {
            assert_eq!(member.inspect("{{.Config.User}}"), "10001:10001");
            wait(&format!("healthy for docker: {}", member.name), PATIENCE, || {
                (member.inspect("{{.State.Health.Status}}") == "healthy").then_some(())
            });
        }
    });
}

#[test]
fn limit_of_memory_kills_nobody() {
    case("memory", Setting { more: Some("memory.yml"), ..Setting::default() }, |fleet| {
        // Three times the limit.
        let original = fleet.publish("big.bin", 384 * MIB);
        fleet.pull(&original);
        fleet.check_all(&original);
        for member in fleet.all() {
            assert!(member.log().contains("allows this process 128 MiB"), "{} does not know its limit", member.name);
            assert_eq!(member.inspect("{{.State.OOMKilled}} {{.RestartCount}}"), "false 0", "{}", member.name);
        }
    });
}

/// Each of two files fits into the reader's volume (96 MiB), and both together do not.
#[test]
fn full_volume_pauses_and_goes_on() {
    case("full", Setting { more: Some("full.yml"), down: Some("8MiB") }, |fleet| {
        let files = [fleet.publish("a.bin", 88 * MIB), fleet.publish("b.bin", 80 * MIB)];
        let reader = fleet.member("reader1");
        let [a, b] = &files;
        // One after the other, so that there is space enough when each begins.
        reader.pull(a);
        reader.wait_middle(a, 4 << 20);
        let id = reader.job(a).unwrap()["id"].to_string();
        reader.ask(&["jobs", "pause", &id]);
        reader.pull(b);
        reader.wait_middle(b, 4 << 20);
        reader.ask(&["jobs", "resume", &id]);
        let pause = || {
            for file in &files {
                let job = reader.wait_job(file, |job| job["state"] == "paused");
                assert_eq!(job["code"], "no-space", "{job}");
                assert!(
                    job["message"].as_str().unwrap().contains(&file.there()),
                    "it does not say what is full: {job}"
                );
            }
        };
        pause();
        // A restart is no reason to forget why, nor to take the user for the one who paused.
        reader.kill();
        reader.start();
        pause();
        reader.ask(&["rm", &a.cid, "--delete-partial"]);
        fleet.check(reader, b);
    });
}
