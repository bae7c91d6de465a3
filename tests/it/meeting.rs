//! Members that meet: told of one other each, they get to know all, and know them after a restart.

use std::path::PathBuf;

use crate::support::{Daemon, PATIENCE, Repo, noise};

/// Members of the fleet.
const MEMBERS: usize = 20;

fn wait_for_peers(repo: &Repo, count: usize) {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let peers = repo.ask(&["peers"]).len();
        if peers >= count {
            return;
        }
        assert!(std::time::Instant::now() < until, "{peers} of {count} peers");
        std::thread::yield_now();
    }
}

#[test]
fn a_fleet_whose_members_know_one_other_each_finds_a_file_that_one_of_them_has() {
    let folder = tempfile::tempdir().unwrap();
    let first = Repo::new(folder.path(), "0");
    let mut repos = vec![first];
    let mut daemons: Vec<Daemon> = vec![repos[0].daemon()];
    for i in 1..MEMBERS {
        let repo = Repo::member(folder.path(), &i.to_string(), &repos[0]);
        // A random earlier one, by a fixed sequence.
        let known = (i * 7919 + 12) % i;
        let address = daemons[known].address().to_owned();
        daemons.push(repo.daemon_at("/ip4/127.0.0.1/tcp/0", &["--peer", &address]));
        repos.push(repo);
    }
    let file = folder.path().join("file.bin");
    noise(&file, 8 << 20, 1);
    let publisher = &repos[MEMBERS - 1];
    let cid = publisher.ask(&["add", file.to_str().unwrap()]).last().unwrap()["cid"].as_str().unwrap().to_owned();
    let copies: Vec<PathBuf> = (0..MEMBERS - 1).map(|i| folder.path().join(format!("copy-{i}"))).collect();
    let pulls: Vec<_> = repos.iter().zip(&copies).map(|(repo, copy)| repo.start_get(&cid, copy, &[])).collect();
    for (pull, copy) in pulls.into_iter().zip(&copies) {
        assert!(pull.finish());
        assert!(std::fs::read(copy).unwrap() == std::fs::read(&file).unwrap(), "{} differs", copy.display());
    }
    for repo in &repos {
        wait_for_peers(repo, MEMBERS - 1);
    }
    // One that comes back elsewhere, and is told of nobody, is among them again at once.
    daemons.remove(3).kill();
    let _again = repos[3].daemon();
    wait_for_peers(&repos[3], MEMBERS - 1);
    // Whoever wants to be left alone is asked for nothing and tells nothing.
    let alone = Repo::member(folder.path(), "alone", &repos[0]);
    std::fs::write(alone.path.join("node.toml"), "meet = false\n").unwrap();
    let _alone = alone.daemon_at("/ip4/127.0.0.1/tcp/0", &["--peer", daemons[0].address()]);
    wait_for_peers(&alone, 1);
    repos[0].ask(&["connect", daemons[1].address()]);
    assert_eq!(alone.ask(&["peers"]).len(), 1);
}
