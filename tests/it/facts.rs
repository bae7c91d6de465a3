//! Files whose CIDs others have published, or that Kubo gave when asked: ours must be the same.
//!
//! Some are written here; all the others are read from a folder of conformance vectors, see `facts/folder.rs`.

// Facts speak of permissions, links and names that Windows does not have; what they say of CIDs holds on all platforms.
#[cfg(unix)]
mod folder;

use std::fs::{self, File};
use std::path::Path;

use bitshoal::dag::builder::{HashFunction, Profile, Version};
use bitshoal::dag::chunker::Chunker;
use bitshoal::transfer::api::AddOptions;
use bitshoal::transfer::provide::{self, Import, Imported};
use orion::hazardous::stream::chacha20::{ChaCha20, Nonce, SecretKey};
use sha2::{Digest, Sha256};

/// A file's bytes, made as they are read.
enum Content<'a> {
    Text(&'a str),
    Zeros(u64),
    /// ChaCha20's key stream under SHA-256 of the seed, nonce and counter 0.
    Keystream(&'a str, u64),
}
use Content::{Keystream, Text, Zeros};

const V1_2025: Profile = Profile::V1_2025;
const KUBO_V0: Profile = Profile::kubo_defaults(Version::V0);
const KUBO_V1: Profile = Profile::kubo_defaults(Version::V1);
const KUBO_V0_RAW: Profile = Profile { raw_leaves: true, ..KUBO_V0 };
const KUBO_V1_NODES: Profile = Profile { raw_leaves: false, ..KUBO_V1 };
const NARROW: Profile = Profile { chunker: Chunker::Size(65_536), width: 3, ..KUBO_V1 };

fn hashed(name: &str) -> Profile {
    Profile { hash: HashFunction::parse(name).unwrap(), ..KUBO_V1 }
}

/// Imports a file of that content, keeping nothing.
fn add(profile: &Profile, content: &Content<'_>) -> Imported {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    content.write(&path);
    let import = Import { profile: *profile, ..Import::new(&AddOptions::default()).unwrap() };
    provide::import(None, &path, &import, &mut |_| true).unwrap()
}

impl Content<'_> {
    fn write(&self, path: &Path) {
        let bytes = match self {
            Text(text) => text.as_bytes(),
            Keystream(seed, size) => &keystream(seed, usize::try_from(*size).unwrap()),
            // Leaves of a hole are hashed once.
            Zeros(size) => return File::create(path).unwrap().set_len(*size).unwrap(),
        };
        fs::write(path, bytes).unwrap();
    }
}

/// ChaCha20's key stream under SHA-256 of the seed, nonce and counter 0.
fn keystream(seed: &str, size: usize) -> Vec<u8> {
    let key: [u8; 32] = Sha256::digest(seed).into();
    let mut bytes = vec![0; size];
    if size > 0 {
        ChaCha20::new(&SecretKey::from(key), &Nonce::from([0; 12])).xor_keystream_into(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn published_cids_are_ours() {
    for (content, profile, cid) in [
        (Text("hello world"), KUBO_V0, "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"),
        (Text("hello world"), KUBO_V1, "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
        (Text("hello world"), KUBO_V1_NODES, "bafybeihykld7uyxzogax6vgyvag42y7464eywpf55gxi5qpoisibh3c5wa"),
        (Text("hello\n"), KUBO_V1, "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"),
        (Text("hello\n"), KUBO_V0, "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN"),
        (Text("hello world\n"), KUBO_V1, "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
        (Text("foo"), KUBO_V1, "bafkreibme22gw2h7y2h7tg2fhqotaqjucnbc24deqo72b6mkl2egezxhvy"),
        (Text(""), KUBO_V0, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        (Text(""), KUBO_V1_NODES, "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y"),
        (Text(""), KUBO_V1, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (Text("Hello Worlds!\n"), KUBO_V0, "QmVr26fY1tKyspEJBniVhqxQeEjhF78XerGiqWAwraVLQH"),
        (Text("IPFS\n"), KUBO_V0, "QmdFyxZXsFiP4csgfM5uPu99AvFiKH62CSPDw5TP92nr7w"),
        (Text("Hello Mars!\n"), KUBO_V0, "QmPrrHqJzto9m7SyiRzarwkqPcCSsKR2EB1AyqJfe8L8tN"),
        (Text("Hello Venus!\n"), KUBO_V0, "QmU5kp3BH3B8tnWUU2Pikdb2maksBNkb92FHRr56hyghh4"),
        (Text("Hello Mars!\n"), KUBO_V1, "bafkreibmlvvgdyihetgocpof6xk64kjjzdeq2e4c7hqs3krdheosk4tgj4"),
        (Text("Hello Venus!\n"), KUBO_V1, "bafkreihfsphazrk2ilejpekyltjeh5k4yvwgjuwg26ueafohqioeo3sdca"),
        (Text("100\n"), KUBO_V0, "QmZ3RfWk1u5LEGYLHA633B5TNJy3Du27K6Fny9wcxpowGS"),
        (Keystream("chunk-v0-seed", 262144), KUBO_V0, "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE"),
        (Keystream("chunk-v0-seed", 262145), KUBO_V0, "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ"),
        (Keystream("v0-seed", 45613056), KUBO_V0, "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2"),
        (Keystream("chunk-v1-seed", 1048576), V1_2025, "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
        (Zeros(45900000), KUBO_V0, "QmRdPboiJQoZ5cdazR9a8vGqdJvWg6M5bfdtUSKNHpuscj"),
        (Zeros(262144), KUBO_V0, "QmRk1rduJvo5DfEYAaLobS2za9tDszk35hzaNSDCJ74DA7"),
        (Zeros(262144), KUBO_V1, "bafkreiekhhjkxu4ztk3tyng3er3ijhg56mb44oe3gwbgquhzu4afrg2ksa"),
        (Zeros(1000000), V1_2025, "bafkreigss5i7eze3gl7vok26bkpvihvgmcsq7fh7bpxn7mfwsk4sjteaeu"),
        (Zeros(1048576), KUBO_V0, "QmVkbauSDEaMP4Tkq6Epm9uW75mWm136n81YH8fGtfwdHU"),
        (Zeros(1048576), V1_2025, "bafkreibq4fevl27rgurgnxbp7adh42aqiyd6ouflxhj3gzmcxcxzbh6lla"),
        (Zeros(10485760), KUBO_V0, "QmaJ6kN9fW3TKpVkpf1NuW7cjhHjNp5Jwr3cQuHzsoZWkJ"),
        (Zeros(10485760), KUBO_V1, "bafybeicicmkwdi4ejuls6owvsrzcty5kht3ydya35eqf4i46yjgbs6xggy"),
        (Zeros(129), V1_2025, "bafkreibmqbqz27t4lasxfe6nuouhrqj6lblpjydpn6igaetw664rphe6a4"),
        (Keystream("k68", 128), KUBO_V1, "bafkreic4gpzvd43qwhbjrzgihvl2mhes6qqa4qqlppshyudktn7tlfbery"),
        (Keystream("k46", 1048575), NARROW, "bafybeihcipbkx77v7re5d5g7un22mgontmxwghvatccwz6s7k7uj5a53ea"),
        (Keystream("k42", 31), hashed("blake3"), "bafkr4iest3o4f4hqfry5ktqalz5jnxhyqlgid4wnznabnkja5f4wuteuru"),
        (Keystream("k20", 1048576), KUBO_V1_NODES, "bafybeicqzeeyrb4o7vfrvfpcscnbbpfwev26wvsb5qefl5mith26zejuti"),
        (Zeros(10000000), hashed("blake2b-256"), "bafykbzaceajqa354tg3fnitrqzv32mpqod6pmugaor5ulqmjglbowml4tkzb4"),
        (Keystream("k88", 262145), KUBO_V1_NODES, "bafybeifbnidnwcg32m3wmhzu5vxhwq6rerzmbh6bu7hyudyhpjbbfhegi4"),
        (Keystream("k12", 1048577), NARROW, "bafybeihhqb73e3zdakjdw35os45stbk4fp5e76eamr3kjtjsxonp5bo5zu"),
        (Keystream("k54", 129), KUBO_V1_NODES, "bafybeihb5cjx4icxdbqr4evqcegiyzz3yzvl2xr5pmbbmrvndduv4bcccy"),
        (Keystream("k28", 1048575), V1_2025, "bafkreiaonowhdix6ifq3xkjkom77hvliysmnydcwdhiyi67aydntswtj2a"),
        (Keystream("k76", 1), hashed("blake3"), "bafkr4ihnhc6ay6fnurqk6ldjj5jr25grexjqstsmt25ujmex2ayit2oizu"),
        (Keystream("k8", 3000000), hashed("blake3"), "bafyb4ia4vrqayivmiu6vr4csevvhagnqu72xr4sjmolblxol3hhboevgyi"),
        (Keystream("k80", 1048576), NARROW, "bafybeianp6kb722vjz7k3hui645rx3zna7ovlopsorklwmnogh7m7mezkm"),
        (
            Keystream("k94", 10000000),
            hashed("sha2-512"),
            "bafybgqeidg2arptlx4yhyf6rlwujqv6albnhfpmrablrbsznpbd7ucjtohn4z2gu4eqlt7leibywhi7cc2uroo4fh7c6jtgvhnfqlafek47xu",
        ),
        (Keystream("k63", 262144), NARROW, "bafybeicsjk5bfkhnh7whdrmgjompagtetpz5s7o7imy54nq546usmti75i"),
        (Keystream("k85", 262145), KUBO_V1, "bafybeihc236tveuy2gjiftliaexpwobepzt66atbdsvaaycm3xv5tbt77a"),
        (Keystream("k17", 1), KUBO_V1, "bafkreicl7itauzq5naiqu6qkiute2lkdv6lspxusltbobh5wq6zwkhx6tu"),
        (Keystream("k53", 262143), KUBO_V0_RAW, "bafkreieze7pwejzxu5va6xnmpuojkzqngl6imwdnuwfaw4hjn4vfdirmpa"),
        (Keystream("k1", 1048576), KUBO_V0, "Qmdm9jJ3dqGZryJJYycXxZ7yedWjtuhHi4u9ojDETYArww"),
        (Zeros(31), KUBO_V1, "bafkreih5bc7jk662a7offgwycag7omxzzyjk4pscxtngvsv6clac37ljre"),
        (Keystream("k25", 262145), hashed("blake3"), "bafyb4ieo5yukzefek4ha72dqx2jamufc3fxdxesxughgxmmxnc5rujlu7e"),
        (Keystream("k93", 129), hashed("blake3"), "bafkr4ihp4njngnxvdxobxxtrtm3yocbiebur3mufkaybse6wwza666p7my"),
        (Keystream("k37", 127), KUBO_V1_NODES, "bafybeiaaqp5lgb3ix2buce3m33qg3dob2punm3j2sfemxzpstshnsc32l4"),
        (Keystream("k69", 128), KUBO_V0, "QmaNW6HcdCpUc5hRyD9HnboG6i1TePdN47gGKHBcQdTLi8"),
        (
            Keystream("k44", 129),
            hashed("blake2b-256"),
            "bafk2bzaceabgxpfgeyypgntiuudpib4t6vtunwnoktpumyllxqtzdgzzyauew",
        ),
    ] {
        assert_eq!(add(&profile, &content).cid.to_string(), cid, "{profile:?}");
    }
}
