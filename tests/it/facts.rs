//! Files whose CIDs others have published, or that Kubo gave when asked: ours must be the same.
//!
//! Some are written here; all the others are read from a folder of conformance vectors where there is one (the
//! environment's `BITSHOAL_VECTORS`, else `../shared/vectors`). What this program cannot make yet is counted by reason.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use bitshoal::dag::{
    builder::{Builder, HashFunction, Layout, Profile, Root, Version, leaf, sole_leaf},
    chunker::Chunker,
    unixfs::{Metadata, Mtime},
};
use orion::hazardous::stream::chacha20::{ChaCha20, Nonce, SecretKey};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A file's bytes, made as they are read.
enum Content<'a> {
    Text(&'a str),
    Bytes(Vec<u8>),
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
const NARROW: Profile = Profile { chunk: 65_536, width: 3, ..KUBO_V1 };

fn hashed(name: &str) -> Profile {
    Profile { hash: HashFunction::parse(name).unwrap(), ..KUBO_V1 }
}

fn add(profile: &Profile, content: &Content<'_>, metadata: Metadata) -> Root {
    let size = match content {
        Text(text) => text.len() as u64,
        Content::Bytes(bytes) => bytes.len() as u64,
        Zeros(size) | Keystream(_, size) => *size,
    };
    let mut stream = match content {
        Keystream(seed, _) => {
            let key: [u8; 32] = Sha256::digest(seed).into();
            Some(ChaCha20::new(&SecretKey::from(key), &Nonce::from([0; 12])))
        }
        _ => None,
    };
    let mut builder = Builder::new(*profile);
    let mut chunk = vec![0; profile.chunk as usize];
    let mut offset = 0_u64;
    while offset < size {
        let length = usize::try_from(size - offset).unwrap().min(chunk.len());
        let start = usize::try_from(offset).unwrap();
        match content {
            Text(text) => chunk[..length].copy_from_slice(&text.as_bytes()[start..start + length]),
            Content::Bytes(bytes) => chunk[..length].copy_from_slice(&bytes[start..start + length]),
            Zeros(_) => {}
            Keystream(..) => {
                chunk[..length].fill(0);
                stream.as_mut().unwrap().xor_keystream_into(&mut chunk[..length]).unwrap();
            }
        }
        let data = &chunk[..length];
        let is_sole = length as u64 == size;
        let leaf = if is_sole { sole_leaf(profile, data, metadata).0 } else { leaf(profile, data) };
        builder.push(leaf, &mut |_| {});
        offset += length as u64;
    }
    builder.finish_with(metadata, &mut |_| {})
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
        assert_eq!(add(&profile, &content, Metadata::default()).cid.to_string(), cid, "{profile:?}");
    }
}

#[test]
fn every_fact_of_the_vectors_folder_is_ours_or_counted() {
    let chosen = env::var_os("BITSHOAL_VECTORS").map(PathBuf::from);
    let folder =
        chosen.clone().unwrap_or_else(|| [env!("CARGO_MANIFEST_DIR"), "..", "shared", "vectors"].iter().collect());
    if chosen.is_none() && !folder.exists() {
        println!("no vectors in {}: only the CIDs written in this test are checked", folder.display());
        return;
    }
    let mut counts = BTreeMap::<&str, u32>::new();
    for name in ["facts.json", "kubo_facts.json"] {
        let facts: Vec<Value> = serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap();
        for fact in &facts {
            let profile = match profile_of(fact) {
                Ok(profile) => profile,
                Err(reason) => {
                    *counts.entry(reason).or_default() += 1;
                    continue;
                }
            };
            let content = &fact["content"];
            let content = if let Some(text) = content["utf8"].as_str() {
                Text(text)
            } else if let Some(path) = content["path"].as_str() {
                Content::Bytes(fs::read(folder.join(path.strip_prefix("vectors/").unwrap())).unwrap())
            } else if let Some(seed) = content["chacha20Seed"].as_str() {
                Keystream(seed, content["size"].as_u64().unwrap())
            } else {
                Zeros(content["zeros"].as_u64().unwrap())
            };
            let root = add(&profile, &content, metadata_of(fact));
            assert_eq!(root.cid.to_string(), fact["cid"].as_str().unwrap(), "{fact}");
            assert!(fact["tsize"].as_u64().is_none_or(|tsize| tsize == root.tsize), "{fact}");
            *counts.entry("checked").or_default() += 1;
        }
    }
    println!("{counts:#?}");
    assert!(counts["checked"] >= 60, "{counts:?}");
}

/// How the fact's file was added, or why this program cannot do so yet.
fn profile_of(fact: &Value) -> Result<Profile, &'static str> {
    match fact["kind"].as_str().unwrap() {
        "file" => {}
        "dir" | "hamt" => return Err("not yet: directories"),
        "symlink" => return Err("not yet: symbolic links"),
        other => panic!("unknown kind {other}: {fact}"),
    }
    let Some(arguments) = fact["add"].as_array() else {
        let options = &fact["opts"];
        return Ok(Profile {
            cid_version: if options["cidVersion"] == 0 { Version::V0 } else { Version::V1 },
            raw_leaves: options["rawLeaves"].as_bool().unwrap(),
            chunk: options["chunk"].as_u64().unwrap().try_into().unwrap(),
            width: options["width"].as_u64().unwrap().try_into().unwrap(),
            layout: if options["layout"] == "trickle" { Layout::Trickle } else { Layout::Balanced },
            inline: None,
            hash: HashFunction::SHA2_256,
        });
    };
    let arguments: Vec<&str> = arguments.iter().map(|argument| argument.as_str().unwrap()).collect();
    let version_1 = arguments.contains(&"--cid-version=1");
    let mut profile = if version_1 { KUBO_V1 } else { KUBO_V0 };
    for argument in arguments {
        match argument.split_once('=').unwrap_or((argument, "true")) {
            ("--cid-version", _) => {}
            ("--raw-leaves", value) => profile.raw_leaves = value == "true",
            ("--max-file-links", width) => profile.width = width.parse().unwrap(),
            ("--hash", name) => profile.hash = HashFunction::parse(name).unwrap(),
            ("--chunker", text) => {
                let chunker = Chunker::parse(text).map_err(|_| "not yet: content-defined chunkers")?;
                profile.chunk = chunker.bytes();
            }
            ("--trickle", _) => profile.layout = Layout::Trickle,
            ("--inline", _) => profile.inline = profile.inline.or(Some(32)),
            ("--inline-limit", limit) => profile.inline = Some(limit.parse().unwrap()),
            ("--wrap-with-directory", _) => return Err("not yet: directories"),
            ("--preserve-mode" | "--preserve-mtime", _) => profile = profile.for_metadata(),
            _ => panic!("unknown option {argument}: {fact}"),
        }
    }
    Ok(profile)
}

/// Mode and time of the fact's file, which it says only when they were kept.
fn metadata_of(fact: &Value) -> Metadata {
    let meta = &fact["meta"];
    let octal = |text| u32::from_str_radix(text, 8).unwrap();
    let mode = meta["mode"].as_u64().map(|mode| mode.try_into().unwrap()).or_else(|| fact["mode"].as_str().map(octal));
    let seconds = meta["mtime"][0].as_i64().or_else(|| fact["mtime"].as_i64());
    let nanos = meta["mtime"][1].as_u64().unwrap_or(0).try_into().unwrap();
    Metadata { mode, mtime: seconds.map(|seconds| Mtime { seconds, nanos }) }
}
