//! Files whose CIDs others have published, or that Kubo gave when asked: ours must be the same.
//!
//! Some are written here; all the others are read from a folder of conformance vectors where there is one (the
//! environment's `BITSHOAL_VECTORS`, else `../shared/vectors`).

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bitshoal::cli::args::{Cli, Command};
use bitshoal::dag::builder::{HashFunction, Profile, Version};
use bitshoal::dag::chunker::Chunker;
use bitshoal::dag::directory::Estimate;
use bitshoal::transfer::api::AddOptions;
use bitshoal::transfer::provide::{self, Import, Imported};
use clap::Parser;
use orion::hazardous::stream::chacha20::{ChaCha20, Nonce, SecretKey};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::say;

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
            Content::Bytes(bytes) => bytes,
            Keystream(seed, size) => &keystream(seed, usize::try_from(*size).unwrap()),
            // Leaves of a hole are hashed once.
            Zeros(size) => return File::create(path).unwrap().set_len(*size).unwrap(),
        };
        fs::write(path, bytes).unwrap();
    }

    fn of(fact: &Value, folder: &Path) -> Self {
        if let Some(text) = fact["utf8"].as_str() {
            Content::Bytes(text.as_bytes().to_vec())
        } else if let Some(path) = fact["path"].as_str() {
            Content::Bytes(fs::read(folder.join(path.strip_prefix("vectors/").unwrap())).unwrap())
        } else if let Some(seed) = fact["chacha20Seed"].as_str() {
            Content::Bytes(keystream(seed, usize::try_from(fact["size"].as_u64().unwrap()).unwrap()))
        } else {
            Zeros(fact["zeros"].as_u64().unwrap_or_else(|| panic!("unknown content {fact}")))
        }
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

/// The names of the flags are Kubo's, so a fact that was asked of Kubo goes through our own command line.
#[cfg(unix)]
#[test]
fn every_fact_of_the_vectors_folder_is_ours() {
    let chosen = env::var_os("BITSHOAL_VECTORS").map(PathBuf::from);
    let folder =
        chosen.clone().unwrap_or_else(|| [env!("CARGO_MANIFEST_DIR"), "..", "shared", "vectors"].iter().collect());
    if chosen.is_none() && !folder.exists() {
        say(&format!("no vectors in {}: only the CIDs written in this test are checked", folder.display()));
        return;
    }
    let (mut right, mut wrong, mut untold) = (0, Vec::new(), 0);
    for name in ["facts.json", "kubo_facts.json"] {
        let facts: Vec<Value> = serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap();
        for fact in &facts {
            let keeps_times = fact["add"].as_array().is_some_and(|flags| flags.contains(&"--preserve-mtime".into()));
            if keeps_times && fact["kind"] == "dir" {
                untold += 1;
                continue;
            }
            let found = ours(fact, &folder);
            let tsize_fits = |imported: &Imported| fact["tsize"].as_u64().is_none_or(|tsize| tsize == imported.tsize);
            match found {
                Ok(imported) if fact["cid"] == imported.cid.to_string().as_str() && tsize_fits(&imported) => right += 1,
                Ok(imported) => wrong.push(format!("{} {}, not {fact}", imported.cid, imported.tsize)),
                Err(reason) => wrong.push(format!("{reason}: {fact}")),
            }
        }
    }
    say(&format!("{right} of {} facts", right + wrong.len() + untold));
    if untold > 0 {
        say(&format!(
            "  exceptions: {untold} facts of folders with --preserve-mtime do not tell the times of their files"
        ));
    }
    assert!(wrong.is_empty(), "{} are not ours:\n{}", wrong.len(), wrong.join("\n"));
}

/// What we make of a fact's content.
#[cfg(unix)]
fn ours(fact: &Value, vectors: &Path) -> Result<Imported, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let content = &fact["content"];
    match fact["kind"].as_str().unwrap() {
        "file" => Content::of(content, vectors).write(&path),
        "symlink" => std::os::unix::fs::symlink(content["target"].as_str().unwrap(), &path).unwrap(),
        "dir" | "hamt" => tree::make(&path, content, vectors),
        other => panic!("unknown kind {other}: {fact}"),
    }
    let said = |own, of_root| if fact[own].is_null() { &fact[of_root] } else { &fact[own] };
    tree::date(&path, said("mode", "rootMode"), said("mtime", "rootMtime"));
    let import = if fact["add"].is_array() { asked_of_kubo(fact) } else { published(fact) }?;
    let done = if fact["add"].as_array().is_some_and(|flags| flags.contains(&"--wrap-with-directory".into())) {
        provide::import_wrapped(None, &[path], &import, &mut |_| true).map(|mut all| all.pop().unwrap())
    } else {
        provide::import(None, &path, &import, &mut |_| true)
    };
    done.map_err(|failure| failure.message)
}

/// How a fact was added that Kubo gave.
#[cfg(unix)]
fn asked_of_kubo(fact: &Value) -> Result<Import, String> {
    let flags = fact["add"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap());
    let line = ["bitshoal", "add"].into_iter().chain(flags).chain(["in"]);
    let Command::Add(arguments) = Cli::try_parse_from(line).unwrap().command else { panic!("add is add") };
    Import::new(&arguments.options.options(true).unwrap()).map_err(|failure| failure.message)
}

/// How a fact was added that somebody published.
#[cfg(unix)]
fn published(fact: &Value) -> Result<Import, String> {
    let options = &fact["opts"];
    let (chunk, width) = (options["chunk"].as_u64().unwrap(), options["width"].as_u64().unwrap());
    let mut add = AddOptions {
        profile: (chunk == 1 << 20).then(|| "unixfs-v1-2025".into()),
        cid_version: options["cidVersion"].as_u64().map(|version| version.try_into().unwrap()),
        raw_leaves: options["rawLeaves"].as_bool(),
        chunker: Some(format!("size-{chunk}")),
        max_file_links: Some(width.try_into().unwrap()),
        trickle: options["layout"] == "trickle",
        mode: fact["meta"]["mode"].as_u64().map(|mode| mode.try_into().unwrap()),
        mtime: fact["meta"]["mtime"][0].as_i64(),
        mtime_nsecs: fact["meta"]["mtime"][1].as_u64().map(|nanos| nanos.try_into().unwrap()),
        ..AddOptions::default()
    };
    if add.mode.is_some() || add.mtime.is_some() {
        add.raw_leaves = None;
    }
    let mut import = Import::new(&add).map_err(|failure| failure.message)?;
    if fact["kind"] == "hamt" {
        import.directory.threshold.bytes = 1;
    }
    if fact["content"]["gen"] == "js-sharding" {
        // Helia measures otherwise than the profile whose other values it has.
        import.directory.threshold.estimate = Estimate::Links;
    }
    Ok(import)
}

/// Makes the folders that facts speak of.
#[cfg(unix)]
mod tree {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::*;

    /// What entries have of which a fact does not speak.
    const MODE: u32 = 0o755;
    const FILE_MODE: u32 = 0o644;

    pub(super) fn make(path: &Path, content: &Value, vectors: &Path) {
        fs::create_dir(path).unwrap();
        if !content["gen"].is_null() {
            for (name, text) in generated(content) {
                fs::write(path.join(name), text).unwrap();
            }
            return;
        }
        for (name, entry) in content.as_object().unwrap() {
            let path = path.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if let Some(target) = entry["symlink"].as_str() {
                std::os::unix::fs::symlink(target, &path).unwrap();
            } else if entry["dir"].is_object() {
                make(&path, &entry["dir"], vectors);
            } else {
                Content::of(entry, vectors).write(&path);
            }
            date(&path, &entry["mode"], &entry["mtime"]);
        }
    }

    /// Gives an entry its mode and its time, where they are said.
    pub(super) fn date(path: &Path, mode: &Value, mtime: &Value) {
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        if !kind.is_symlink() {
            let usual = if kind.is_dir() { MODE } else { FILE_MODE };
            let mode = mode.as_str().map_or(usual, |mode| u32::from_str_radix(mode, 8).unwrap());
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        if let Some(seconds) = mtime.as_i64() {
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
    }

    /// Names and contents that a rule makes.
    fn generated(content: &Value) -> Vec<(String, String)> {
        let rule = &content["gen"];
        if let Some(count) = rule["count"].as_u64() {
            let numbered = |text: &Value, i: u64| text.as_str().unwrap().replace("{i}", &i.to_string());
            return (0..count).map(|i| (numbered(&rule["name"], i), numbered(&rule["text"], i))).collect();
        }
        let files = content["files"].as_u64().unwrap();
        match rule.as_str().unwrap() {
            "t0260" => (1..=files).map(|i| (format!("file{i}"), format!("{i}\n"))).collect(),
            "js-sharding" => (0..files)
                .map(|i| {
                    let name = format!(
                        "long name to fill out bytes to make the sharded directory test flip over the sharded \
                         directory limit because link names are included in the directory entry {i}"
                    );
                    (name.clone(), name)
                })
                .collect(),
            "kubo-profile-dir" => {
                let letters = b"abcdefghijklmnopqrstuvwxyz01234567890-_";
                let stream = keystream(content["seed"].as_str().unwrap(), 1 << 20);
                let mut names = stream.iter().map(|byte| char::from(letters[usize::from(*byte) % letters.len()]));
                let length = |i| &content[if i + 1 == files { "lastNameLen" } else { "nameLen" }];
                let name = |i| names.by_ref().take(length(i).as_u64().unwrap().try_into().unwrap()).collect();
                (0..files).map(name).map(|name: String| (name, "x".to_owned())).collect()
            }
            other => panic!("unknown rule {other}"),
        }
    }
}
