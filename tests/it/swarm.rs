//! Whole pulls between real processes: from one, from several, from each other, over every kind of swarm.

use crate::support::{Repo, assert_same, noise};

const MIB: usize = 1 << 20;

/// Adds a file of noise and returns its CID.
fn published(repo: &Repo, path: &std::path::Path, size: usize) -> String {
    noise(path, size, 7);
    let added = repo.ask(&["add", path.to_str().unwrap()]);
    added.last().unwrap()["cid"].as_str().unwrap().to_owned()
}

#[test]
fn a_private_swarm_moves_files_of_every_awkward_size() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let (from, _to) = (publisher.daemon(), reader.daemon());
    reader.ask(&["connect", from.address()]);
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 12_345] {
        for profile in ["unixfs-v1-2025", "unixfs-v0-2015"] {
            let original = folder.path().join(format!("{profile}-{size}.bin"));
            noise(&original, size, size as u64);
            let added = publisher.ask(&["add", "--profile", profile, original.to_str().unwrap()]);
            let cid = added.last().unwrap()["cid"].as_str().unwrap();
            let copy = folder.path().join(format!("{profile}-{size}.copy"));
            reader.ask(&["get", cid, "-o", copy.to_str().unwrap()]);
            assert_same(&original, &copy);
            assert!(!folder.path().join(format!("{profile}-{size}.copy.part")).exists());
        }
    }
}

#[test]
fn holes_and_repeated_blocks_arrive_in_every_place() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let (from, _to) = (publisher.daemon(), reader.daemon());
    reader.ask(&["connect", from.address()]);
    let original = folder.path().join("holes.bin");
    let pattern = vec![0xab; MIB];
    let mut content = vec![0; 40 * MIB];
    for at in [3, 4, 17, 33] {
        content[at * MIB..(at + 1) * MIB].copy_from_slice(&pattern);
    }
    std::fs::write(&original, &content).unwrap();
    let added = publisher.ask(&["add", original.to_str().unwrap()]);
    let copy = folder.path().join("copy.bin");
    let events = reader.ask(&["get", added[0]["cid"].as_str().unwrap(), "-o", copy.to_str().unwrap()]);
    assert_same(&original, &copy);
    let sources = events.last().unwrap()["sources"].as_array().unwrap().clone();
    let pulled: u64 = sources.iter().map(|source| source["bytes"].as_u64().unwrap()).sum();
    assert!(pulled < 4 * MIB as u64, "two distinct blocks cost {pulled} bytes");
}

#[test]
fn open_swarms_work_over_every_transport() {
    for (security, listen) in
        [("tls", "/ip4/127.0.0.1/tcp/0"), ("noise", "/ip4/127.0.0.1/tcp/0"), ("both", "/ip4/127.0.0.1/udp/0/quic-v1")]
    {
        let folder = tempfile::tempdir().unwrap();
        let repos: Vec<Repo> = ["publisher", "reader"]
            .into_iter()
            .map(|name| {
                let repo = Repo::init(folder.path(), name, &["--public"]);
                let config = repo.path.join("node.toml");
                let text = std::fs::read_to_string(&config).unwrap();
                std::fs::write(&config, format!("security = \"{security}\"\n{text}")).unwrap();
                repo
            })
            .collect();
        let (from, _to) = (repos[0].daemon_at(listen, &[]), repos[1].daemon_at(listen, &[]));
        repos[1].ask(&["connect", from.address()]);
        let original = folder.path().join("original.bin");
        let cid = published(&repos[0], &original, 5 * MIB + 1);
        let copy = folder.path().join("copy.bin");
        repos[1].ask(&["get", &cid, "-o", copy.to_str().unwrap()]);
        assert_same(&original, &copy);
    }
}

#[test]
fn get_and_share_run_a_node_of_their_own_when_there_is_no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original.bin");
    let cid = published(&publisher, &original, 3 * MIB);
    let from = publisher.daemon();
    let copy = folder.path().join("copy.bin");
    let events = reader.ask(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address()]);
    assert_same(&original, &copy);
    assert_eq!(events.last().unwrap()["state"], "done");
    assert_eq!(reader.ask(&["ls"])[0]["complete"], true);
}

#[test]
fn a_late_reader_is_served_by_the_other_reader() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let first = Repo::member(folder.path(), "first", &publisher);
    let late = Repo::member(folder.path(), "late", &publisher);
    let original = folder.path().join("original.bin");
    let cid = published(&publisher, &original, 16 * MIB);
    let from = publisher.daemon();
    let (one, _two) = (first.daemon(), late.daemon());
    first.ask(&["connect", from.address()]);
    let copy = folder.path().join("first.bin");
    first.ask(&["get", &cid, "-o", copy.to_str().unwrap()]);
    from.kill();
    late.ask(&["connect", one.address()]);
    let copy = folder.path().join("late.bin");
    let events = late.ask(&["get", &cid, "-o", copy.to_str().unwrap()]);
    assert_same(&original, &copy);
    assert_eq!(events.last().unwrap()["sources"][0]["peer_id"].as_str(), Some(one.peer_id()));
}

#[test]
fn a_half_pulled_file_serves_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let half = Repo::member(folder.path(), "half", &publisher);
    let third = Repo::member(folder.path(), "third", &publisher);
    let original = folder.path().join("original.bin");
    let cid = published(&publisher, &original, 256 * MIB);
    let copy = folder.path().join("half.bin");
    let (one, _two) = (half.daemon(), third.daemon());
    {
        let from = publisher.daemon();
        half.ask(&["connect", from.address()]);
        let get = half.start_get(&cid, &copy, &[]);
        half.wait_job(&copy, |job| job["done_bytes"].as_u64() > Some(32 * MIB as u64));
        from.kill();
        drop(get);
    }
    let have = half.job(&copy).unwrap()["done_bytes"].as_u64().unwrap();
    assert!(have < 256 * MIB as u64, "the pull was over before the publisher was gone");
    third.ask(&["connect", one.address()]);
    let other = folder.path().join("third.bin");
    let get = third.start_get(&cid, &other, &[]);
    third.wait_job(&other, |job| job["done_bytes"].as_u64() > Some(24 * MIB as u64));
    // The publisher comes back, and both finish.
    let from = publisher.daemon();
    half.ask(&["connect", from.address()]);
    third.ask(&["connect", from.address()]);
    assert!(get.finish());
    half.wait_job(&copy, |job| job["state"] == "done");
    assert_same(&original, &copy);
    assert_same(&original, &other);
}

#[test]
fn a_stranger_with_another_swarm_key_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let stranger = Repo::new(folder.path(), "stranger");
    let original = folder.path().join("original.bin");
    let cid = published(&publisher, &original, MIB);
    let (from, _other) = (publisher.daemon(), stranger.daemon());
    let said = stranger.refused(&["connect", from.address()]);
    assert!(said.contains("swarm key"), "{said}");
    let copy = folder.path().join("copy.bin");
    let said =
        stranger.refused(&["get", &cid, "-o", copy.to_str().unwrap(), "--peer", from.address(), "--timeout", "5"]);
    assert!(said.contains("swarm key"), "{said}");
    assert!(!copy.exists());
    assert!(publisher.ask(&["peers"]).is_empty());
}

#[test]
fn peers_find_each_other_again_after_either_side_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original.bin");
    let cid = published(&publisher, &original, 8 * MIB);
    let from = publisher.daemon();
    // The same port again, as a configured node would have it.
    let listen = from.address().split("/p2p/").next().unwrap().to_owned();
    let address = from.address().to_owned();
    let to = reader.daemon();
    from.kill();
    let copy = folder.path().join("copy.bin");
    let get = reader.start_get(&cid, &copy, &["--peer", &address]);
    reader.wait_job(&copy, |job| job["message"].as_str().is_some_and(|text| text.contains("no peers")));
    let _from = publisher.daemon_at(&listen, &[]);
    assert!(get.finish());
    assert_same(&original, &copy);
    drop(to);
}

#[test]
fn what_is_already_in_the_output_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Repo::new(folder.path(), "publisher");
    let reader = Repo::member(folder.path(), "reader", &publisher);
    let original = folder.path().join("original.bin");
    let cid = published(&publisher, &original, 20 * MIB);
    let (from, _to) = (publisher.daemon(), reader.daemon());
    reader.ask(&["connect", from.address()]);
    let brought = folder.path().join("brought.bin");
    let mut content = std::fs::read(&original).unwrap();
    content[5 * MIB + 3] ^= 1;
    content.truncate(18 * MIB);
    std::fs::write(&brought, &content).unwrap();
    let events = reader.ask(&["get", &cid, "-o", brought.to_str().unwrap(), "--into-existing"]);
    assert_same(&original, &brought);
    let status = events.last().unwrap();
    let pulled: u64 = status["sources"].as_array().unwrap().iter().map(|s| s["bytes"].as_u64().unwrap()).sum();
    assert!(pulled < 5 * MIB as u64, "{status}");
}

#[test]
fn a_second_copy_of_a_local_file_is_copied_not_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let original = folder.path().join("original.bin");
    let cid = published(&repo, &original, 5 * MIB + 7);
    let _daemon = repo.daemon();
    let copy = folder.path().join("copy.bin");
    let events = repo.ask(&["get", &cid, "-o", copy.to_str().unwrap()]);
    assert_same(&original, &copy);
    assert_eq!(events.last().unwrap()["local_bytes"].as_u64(), Some(5 * MIB as u64 + 7));
}

#[test]
fn verify_names_the_ranges_that_differ() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repo::new(folder.path(), "repo");
    let original = folder.path().join("original.bin");
    let cid = published(&repo, &original, 6 * MIB);
    assert_eq!(repo.ask(&["verify", &cid]).last().unwrap()["bad_bytes"], 0);
    let mut content = std::fs::read(&original).unwrap();
    content[2 * MIB] ^= 1;
    content[3 * MIB] ^= 1;
    std::fs::write(&original, &content).unwrap();
    let said = repo.run(&["verify", &cid]);
    assert!(!said.status.success());
    let events = crate::support::json_lines(&said.stdout);
    let bad: Vec<_> = events.iter().filter(|event| event["event"] == "bad").collect();
    assert_eq!(bad.len(), 1, "{events:?}");
    assert_eq!((bad[0]["offset"].as_u64(), bad[0]["length"].as_u64()), (Some(2 * MIB as u64), Some(2 * MIB as u64)));
}
