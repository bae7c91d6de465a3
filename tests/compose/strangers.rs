//! Those who do not have the swarm's key: they knock at every door, get nothing, and learn of nobody.

use std::fs;
use std::path::Path;

use libp2p::PeerId;

use crate::fleet::{Setting, case};

#[test]
fn strangers_get_nothing_and_learn_nothing() {
    case("strangers", Setting { more: Some("strangers.yml"), ..Setting::default() }, |fleet| {
        let original = fleet.publish("big.bin", 8 << 20);
        let members: Vec<String> = fleet.all().map(|member| member.peer_id()).collect();
        let strangers = ["keyless", "other-key"].map(|name| fleet.member(name));
        for stranger in strangers {
            stranger.wait_ready();
            let itself = stranger.peer_id();
            // Some doors stay shut for long before it is said that they do.
            std::thread::scope(|tries| {
                for member in fleet.all() {
                    tries.spawn(|| stranger.refused(&["connect", &format!("/dns4/{}/tcp/4001", member.name)]));
                    tries.spawn(|| member.refused(&["connect", &format!("/dns4/{}/tcp/4001", stranger.name)]));
                }
                tries.spawn(|| stranger.refused(&["cat", &original.cid, "--length", "1", "--timeout", "5s"]));
            });
            let said = stranger.refused(&["get", &original.cid, "-o", "/files/stolen", "--timeout", "5s"]);
            assert!(said.contains("nothing arrived"), "{said}");
            assert!(stranger.peers().is_empty());
            assert!(fleet.all().all(|member| !member.peers().contains(&itself)));

            // Its repo and its log hold all that it can know.
            let (known, said) = (fleet.folder_of(stranger, "/data"), stranger.log());
            for member in &members {
                assert!(!said.contains(member), "{} has heard of {member}: {said}", stranger.name);
                assert!(!mentions(&known, member), "{} has noted {member}", stranger.name);
            }
            for member in fleet.all() {
                let remembered = fleet.folder_of(member, "/data");
                assert!(!mentions(&remembered, &itself), "{} remembers {}", member.name, stranger.name);
                fs::remove_dir_all(remembered).unwrap();
            }
        }
        // Members do not mind.
        fleet.pull(&original);
        fleet.check_all(&original);
        fleet.wait_whole(crate::support::PATIENCE);
    });
}

/// Whether any file below a folder has this peer's id, as text or as bytes.
fn mentions(folder: &Path, peer: &str) -> bool {
    let bytes = peer.parse::<PeerId>().unwrap().to_bytes();
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return mentions(&path, peer);
        }
        let content = fs::read(&path).unwrap();
        [bytes.as_slice(), peer.as_bytes()].iter().any(|id| content.windows(id.len()).any(|window| window == *id))
    })
}
