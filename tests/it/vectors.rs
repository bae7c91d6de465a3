//! Every file of the folder of conformance vectors, each against what it is a vector of; prints `vectors: N of M pass`.
//!
//! The folder is the environment's `BITSHOAL_VECTORS`, else `../shared/vectors`; where there is none this says so, and the
//! golden values in the unit tests and in `facts.rs` still hold. A file that is no vector (a licence, a text for people)
//! or a vector of something that this program does not do is an exception, and printed with its reason. CAR files are read
//! here, by the test: they are not a format of the program.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use bitshoal::block::{Block, Cid, DAG_PB, Prefix, RAW};
use bitshoal::dag::builder::{Profile, Version, leaf};
use bitshoal::dag::chunker::Chunker;
use bitshoal::dag::dagpb::{Link, Name, Node, decode, encode};
use bitshoal::dag::directory::{Found, look};
use bitshoal::dag::hamt::{ShardItem, ShardPlace};
use bitshoal::dag::unixfs::Data;
use bitshoal::dag::walk::{Claim, expand};
use bitshoal::exchange::wire;
use bytes::Bytes;
use data_encoding::{BASE64_NOPAD, HEXLOWER};
use orion::hazardous::stream::chacha20::{ChaCha20, Nonce, SecretKey};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::say;

/// A file that holds, or why it is no vector for us.
enum Verdict {
    Holds,
    Exception(&'static str),
}
use Verdict::{Exception, Holds};

type Checked = Result<Verdict, String>;

#[test]
fn every_vector_holds_or_is_an_exception_with_a_reason() {
    let Some(folder) = folder() else {
        say("vectors: no folder of vectors here; set BITSHOAL_VECTORS to one");
        return;
    };
    let mut files = Vec::new();
    list(&folder, &mut files);
    let (mut held, mut exceptions, mut failed) = (0, Vec::new(), Vec::new());
    for file in &files {
        let name = file.strip_prefix(&folder).unwrap().to_string_lossy().replace('\\', "/");
        match check(&folder, &name, &std::fs::read(file).unwrap()) {
            Ok(Holds) => held += 1,
            Ok(Exception(reason)) => exceptions.push((name, reason)),
            Err(error) => failed.push(format!("{name}: {error}")),
        }
    }
    say(&format!("vectors: {held} of {} pass", files.len()));
    for (name, reason) in exceptions {
        say(&format!("  exception: {name}: {reason}"));
    }
    assert_eq!(failed, [""; 0]);
    assert!(held > 80, "only {held} files were checked");
}

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("BITSHOAL_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

fn check(folder: &Path, name: &str, bytes: &[u8]) -> Checked {
    let file = name.rsplit('/').next().unwrap_or(name);
    let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
    match extension {
        _ if file.starts_with("LICENSE") || extension == "md" => Ok(Exception("a text for people")),
        "car" => car(name, bytes),
        "dag-pb" => dag_pb(folder, name, stem, bytes),
        "dag-cbor" | "dag-json" => plain_block(stem, bytes),
        "unixfs" => unixfs(folder, name, bytes),
        "csv" => multihashes(name, bytes),
        "json" if name.contains("negative-fixtures/dag-pb/decode") => refused_by_the_decoder(bytes),
        "json" if name.contains("negative-fixtures/dag-pb/encode") => refused_by_the_encoder(bytes),
        "json" if name.contains("car/fixture") => annotated_car(folder, name, bytes),
        "json" if name.ends_with("facts.json") => Ok(Exception("every fact is asked of `bitshoal add` by facts.rs")),
        "json" if name == "boxo/cdc_derived.json" => cuts(bytes),
        "json" if name == "boxo/buzhash_table.json" => {
            Ok(Exception("the table is part of what cdc_derived.json tests"))
        }
        "txt" if name.starts_with("gateway-conformance/tooling") => imported(folder, bytes),
        "txt" if name.contains("ipfs-unixfs-exporter") => Ok(Exception("the content of facts in facts.json")),
        "txt" => unixfs_source(folder, name, bytes),
        "" if name.starts_with("js-ipfs-bitswap") => bitswap(name, bytes),
        _ => Err("nothing is known of this kind of file".into()),
    }
}

/// A block whose file's name is its CID, and the same node in dag-json beside it.
fn dag_pb(folder: &Path, name: &str, stem: &str, bytes: &[u8]) -> Checked {
    let cid: Cid = stem.parse().map_err(text)?;
    let block = Block::verify(&cid, Bytes::copy_from_slice(bytes)).map_err(text)?;
    let node = decode(block.bytes()).map_err(text)?;
    if encode(&node) != bytes {
        return Err(format!("is written as {}", HEXLOWER.encode(&encode(&node))));
    }
    let beside = folder.join(name).parent().unwrap().to_path_buf();
    let mut models = std::fs::read_dir(beside).unwrap().map(|entry| entry.unwrap().path());
    let model = models.find(|path| path.extension().is_some_and(|e| e == "dag-json")).ok_or("no dag-json beside it")?;
    let model: Value = serde_json::from_slice(&std::fs::read(model).unwrap()).map_err(text)?;
    if node_of(&model)? != node {
        return Err("differs from its dag-json".into());
    }
    Ok(Holds)
}

/// A block of a codec that is moved as it is.
fn plain_block(stem: &str, bytes: &[u8]) -> Checked {
    let cid: Cid = stem.parse().map_err(text)?;
    Block::verify(&cid, Bytes::copy_from_slice(bytes)).map_err(text)?;
    Ok(Holds)
}

/// The node that a value of dag-json's data model is, if it is one.
fn node_of(model: &Value) -> Result<Node, String> {
    let map = model.as_object().filter(|map| !map.contains_key("/")).ok_or("Invalid DAG-PB form")?;
    if map.keys().any(|key| key != "Data" && key != "Links") {
        return Err("extraneous properties".into());
    }
    let data = match map.get("Data") {
        None => None,
        Some(value) => Some(bytes_of(value).ok_or("Data must be bytes")?),
    };
    let links = map.get("Links").and_then(Value::as_array).ok_or("Links must be a list")?;
    let links = links.iter().map(link_of).collect::<Result<Vec<_>, _>>()?;
    if !links.is_sorted_by(|a, b| *a.name <= *b.name) {
        return Err("links must be sorted by Name bytes".into());
    }
    Ok(Node { links, data })
}

fn link_of(model: &Value) -> Result<Link, String> {
    let map = model.as_object().filter(|map| !map.contains_key("/")).ok_or("bad link")?;
    if map.keys().any(|key| !["Hash", "Name", "Tsize"].contains(&key.as_str())) {
        return Err("extraneous properties on link".into());
    }
    let hash = map.get("Hash").ok_or("link must have a Hash")?;
    let cid =
        hash.get("/").and_then(Value::as_str).and_then(|cid| cid.parse().ok()).ok_or("link Hash must be a CID")?;
    let name = match map.get("Name") {
        None => None,
        Some(name) => Some(name.as_str().ok_or("link Name must be a string")?),
    };
    let tsize = match map.get("Tsize") {
        None => None,
        Some(Value::Number(n)) if n.as_i64().is_some_and(|n| n < 0) => {
            return Err("link Tsize cannot be negative".into());
        }
        Some(tsize) => Some(tsize.as_u64().ok_or("link Tsize must be an integer")?),
    };
    let name = name.map_or(Name::ABSENT, |name| Bytes::copy_from_slice(name.as_bytes()).into());
    Ok(Link { cid, name, tsize })
}

fn bytes_of(model: &Value) -> Option<Bytes> {
    let text = model.get("/")?.get("bytes")?.as_str()?;
    BASE64_NOPAD.decode(text.as_bytes()).ok().map(Bytes::from)
}

fn refused_by_the_decoder(bytes: &[u8]) -> Checked {
    let cases: Vec<Value> = serde_json::from_slice(bytes).map_err(text)?;
    for case in &cases {
        let bad = HEXLOWER.decode(case["hex"].as_str().unwrap().as_bytes()).map_err(text)?;
        let Err(error) = decode(&bad.into()) else { return Err(format!("{} was read", case["name"])) };
        let expected = match case["error"].as_str().unwrap() {
            "Invalid Hash field found in link, expected CID" => "hash",
            "duplicate Links section" => "links before and after its data",
            other => return Err(format!("nothing is known of the error {other:?}")),
        };
        if !error.to_string().contains(expected) {
            return Err(format!("{} was refused because {error}", case["name"]));
        }
    }
    Ok(Holds)
}

/// What is no node of the data model has no [`Node`] either, so that there is nothing to encode.
fn refused_by_the_encoder(bytes: &[u8]) -> Checked {
    let cases: Vec<Value> = serde_json::from_slice(bytes).map_err(text)?;
    for case in &cases {
        let Err(reason) = node_of(&case["dag-json"]) else { return Err(format!("{} is a node", case["name"])) };
        let expected = case["error"].as_str().unwrap();
        if !expected.contains(&reason) {
            return Err(format!("{}: {reason} instead of {expected}", case["name"]));
        }
    }
    Ok(Holds)
}

fn unixfs(folder: &Path, name: &str, bytes: &[u8]) -> Checked {
    let data = Data::decode(&Bytes::copy_from_slice(bytes)).map_err(text)?;
    if data.encode() != bytes {
        return Err("is written otherwise".into());
    }
    let source = folder.join(name.trim_end_matches(".unixfs"));
    match std::fs::read(source) {
        Ok(source) if data.data.as_deref() != Some(&source[..]) => Err("holds other bytes than its source".into()),
        _ => Ok(Holds),
    }
}

fn unixfs_source(folder: &Path, name: &str, bytes: &[u8]) -> Checked {
    match std::fs::read(folder.join(format!("{name}.unixfs"))) {
        Ok(message) => match Data::decode(&message.into()).map_err(text)?.data {
            Some(data) if data == bytes => Ok(Holds),
            _ => Err("is not what its .unixfs holds".into()),
        },
        Err(_) => Ok(Exception("a file beside directory.unixfs, whose message says nothing of it")),
    }
}

fn multihashes(name: &str, bytes: &[u8]) -> Checked {
    let lines = std::str::from_utf8(bytes).map_err(text)?.lines();
    if name.ends_with("random_vals.csv") {
        return Ok(Exception("the inputs of test_cases.csv"));
    }
    let mut seen = BTreeSet::new();
    for line in lines.skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [algorithm, bits, input, multihash] = fields[..] else { return Err(format!("{line:?}")) };
        // What is hashed is the text, not what it would be in hex.
        let expected = HEXLOWER.decode(multihash.as_bytes()).map_err(text)?;
        let prefix = Prefix::decode(&[&[1, 0x55], &expected[..2]].concat());
        if bits == "80" {
            if prefix.is_ok() {
                return Err(format!("{line:?}: 10 bytes of digest are too few to be safe"));
            }
            continue;
        }
        let cid = prefix.and_then(|prefix| prefix.hash(input.as_bytes())).map_err(text)?;
        if cid.hash().to_bytes() != expected {
            return Err(format!("{line:?} is hashed to {}", HEXLOWER.encode(&cid.hash().to_bytes())));
        }
        seen.insert(algorithm);
    }
    if seen.len() < 4 { Err(format!("only {seen:?}")) } else { Ok(Holds) }
}

fn bitswap(name: &str, bytes: &[u8]) -> Checked {
    let wire::FrameLength::Ready { length, header_bytes } = wire::frame_length(bytes).map_err(text)? else {
        return Err("its length is cut short".into());
    };
    if header_bytes + length != bytes.len() {
        return Err("has another length than it says".into());
    }
    let decoded = wire::decode(&Bytes::copy_from_slice(&bytes[header_bytes..])).map_err(text)?;
    if name.ends_with("full-wantlist") {
        let priorities: Vec<i32> = decoded.wants.iter().map(|want| want.priority).collect();
        if !decoded.full || decoded.wants.is_empty() || priorities.contains(&0) {
            return Err(format!("is read as {decoded:?}"));
        }
        return Ok(Holds);
    }
    match &decoded.blocks[..] {
        [(prefix, data)] if *prefix == Prefix::DAG_PB_V0 && data == "Foo Bar Baz" => Ok(Holds),
        other => Err(format!("is read as {other:?}")),
    }
}

/// A file of `dag.car`, which has its leaf under the CID that an import gives it.
fn imported(folder: &Path, bytes: &[u8]) -> Checked {
    let car = std::fs::read(folder.join("gateway-conformance/tooling/car/_fixtures/dag.car")).unwrap();
    let blocks = read_car(&car)?.blocks;
    let cid = leaf(&Profile::kubo_defaults(Version::V1), bytes).cid;
    if blocks.contains_key(&cid) { Ok(Holds) } else { Err(format!("{cid} is not in dag.car")) }
}

/// Where content-defined chunkers cut generated files.
fn cuts(bytes: &[u8]) -> Checked {
    let cases: Vec<Value> = serde_json::from_slice(bytes).map_err(text)?;
    for case in &cases {
        let chunker: Chunker = case["chunker"].as_str().unwrap().parse().map_err(text)?;
        let seed = case["chacha20Seed"].as_str().unwrap();
        let mut file = vec![0; usize::try_from(case["size"].as_u64().unwrap()).unwrap()];
        let key: [u8; 32] = Sha256::digest(seed).into();
        ChaCha20::new(&SecretKey::from(key), &Nonce::from([0; 12])).xor_keystream_into(&mut file).unwrap();
        let (mut rest, mut found) = (&file[..], Vec::new());
        while !rest.is_empty() {
            found.push(chunker.cut(rest) as u64);
            rest = &rest[chunker.cut(rest)..];
        }
        let expected: Vec<u64> = case["cuts"].as_array().unwrap().iter().map(|cut| cut.as_u64().unwrap()).collect();
        if found != expected {
            return Err(format!("{chunker} of {seed}: {found:?} instead of {expected:?}"));
        }
    }
    Ok(Holds)
}

/// A CAR's blocks, in any order, and its roots.
struct Car {
    roots: Vec<Cid>,
    blocks: HashMap<Cid, Block>,
    /// Where each section begins, and its CID.
    sections: Vec<(usize, Cid, usize)>,
}

const BAD_CARS: [&str; 4] =
    ["badheaderlength.car", "badsectionlength.car", "sample-corrupt-pragma.car", "sample-rootless-v42.car"];
/// Nodes of the codec that are no UnixFS.
const NO_FILES: [&str; 2] = ["carv1-basic.car", "carv2-basic.car"];
/// Parts of a DAG: what is missing is missing on purpose.
const PARTIAL_CARS: [&str; 4] = [
    "file-3k-and-3-blocks-missing-block.car",
    "simple-unixfs-missing-blocks.car",
    "single-layer-hamt-with-multi-block-files.car",
    "partial-dag-scope-entity.car",
];

fn car(name: &str, bytes: &[u8]) -> Checked {
    if BAD_CARS.iter().any(|bad| name.ends_with(bad)) {
        return match read_car(bytes) {
            Ok(_) => Err("was read".into()),
            Err(_) => Ok(Exception("a broken container; this program reads no CARs")),
        };
    }
    let car = read_car(bytes)?;
    let partial = PARTIAL_CARS.iter().any(|partial| name.ends_with(partial));
    for block in car.blocks.values().filter(|block| block.cid().codec() == DAG_PB) {
        let node = decode(block.bytes()).map_err(|e| format!("{}: {e}", block.cid()))?;
        if encode(&node) != *block.bytes() && !name.ends_with("fixtures.car") {
            return Err(format!("{} is written otherwise", block.cid()));
        }
    }
    if NO_FILES.iter().any(|plain| name.ends_with(plain)) {
        return Ok(Holds);
    }
    let mut files = BTreeMap::new();
    for root in car.roots.iter().filter(|root| matches!(root.codec(), DAG_PB | RAW)) {
        tree(&car, root, String::new(), partial, &mut files)?;
    }
    if files.is_empty() && !car.roots.is_empty() && car.roots.iter().all(|root| root.codec() == DAG_PB) && !partial {
        return Err("holds no file".into());
    }
    Ok(Holds)
}

/// Walks a file tree as a pull does and reads every file of it.
fn tree(car: &Car, cid: &Cid, path: String, partial: bool, files: &mut BTreeMap<String, usize>) -> Result<(), String> {
    let Some(block) = car.blocks.get(cid) else {
        return if partial { Ok(()) } else { Err(format!("{path}: {cid} is missing")) };
    };
    let links = match look(cid, block.bytes()).map_err(|e| format!("{path}: {e}"))? {
        // Not every dag-pb node is UnixFS: the fixtures of the codec itself are none.
        Found::File { .. } => {
            let length = content(car, &Claim::root(*cid), partial).map_err(|e| format!("{path}: {e}"))?;
            files.insert(path, length);
            return Ok(());
        }
        Found::Symlink { target, .. } => {
            files.insert(path, target.len());
            return Ok(());
        }
        Found::Metadata { file } => return tree(car, &file, path, partial, files),
        Found::Other(kind) => return Err(format!("{path} is a {kind}")),
        Found::Directory(listing) => listing.entries,
        Found::Shard(node) => {
            let mut entries = Vec::new();
            let mut shards = node.expand(&ShardPlace::ROOT).map_err(text)?;
            while let Some(item) = shards.pop() {
                match item {
                    ShardItem::Entry(entry) => entries.push(entry),
                    ShardItem::Shard { cid, place } => {
                        let block = car.blocks.get(&cid).ok_or_else(|| format!("{path}: shard {cid} is missing"))?;
                        let Found::Shard(node) = look(&cid, block.bytes()).map_err(text)? else {
                            return Err(format!("{cid} is no shard"));
                        };
                        shards.extend(node.expand(&place).map_err(text)?);
                    }
                }
            }
            entries
        }
    };
    files.entry(path.clone()).or_default();
    for link in links {
        let name = String::from_utf8_lossy(&link.name).into_owned();
        tree(car, &link.cid, format!("{path}/{name}"), partial, files)?;
    }
    Ok(())
}

/// How many bytes a file has, each looked at.
fn content(car: &Car, claim: &Claim, partial: bool) -> Result<usize, String> {
    let Some(block) = car.blocks.get(&claim.cid) else {
        return if partial { Ok(0) } else { Err(format!("{} is missing", claim.cid)) };
    };
    let expanded = expand(claim, block).map_err(text)?;
    let mut bytes = expanded.own_data.map_or(0, |(_, data)| data.len());
    for child in expanded.children {
        bytes += content(car, &child.claim, partial)?;
    }
    Ok(bytes)
}

fn annotated_car(folder: &Path, name: &str, bytes: &[u8]) -> Checked {
    let described: Value = serde_json::from_slice(bytes).map_err(text)?;
    let bytes = std::fs::read(folder.join(name.replace(".json", ".car"))).unwrap();
    let car = read_car(&bytes)?;
    let said: Vec<(u64, String)> = described["blocks"]
        .as_array()
        .ok_or("no blocks")?
        .iter()
        .map(|block| (block["offset"].as_u64().unwrap(), block["cid"]["/"].as_str().unwrap().to_owned()))
        .collect();
    let found: Vec<(u64, String)> = car.sections.iter().map(|(at, cid, _)| (*at as u64, cid.to_string())).collect();
    if said == found { Ok(Holds) } else { Err(format!("{found:?} instead of {said:?}")) }
}

fn read_car(bytes: &[u8]) -> Result<Car, String> {
    let pragma = [0x0a, 0xa1, 0x67, b'v', b'e', b'r', b's', b'i', b'o', b'n', 0x02];
    let (start, end) = if bytes.starts_with(&pragma) {
        let number = |at: usize| -> Result<usize, String> {
            let field = bytes.get(at..at + 8).ok_or("the header is cut short")?;
            usize::try_from(u64::from_le_bytes(field.try_into().unwrap())).map_err(text)
        };
        let (offset, length) = (number(11 + 16)?, number(11 + 24)?);
        (offset, offset + length)
    } else {
        (0, bytes.len())
    };
    let mut rest = bytes.get(start..end).ok_or("the data are cut short")?;
    let header = take(&mut rest)?;
    let roots = roots(header)?;
    let (mut blocks, mut sections) = (HashMap::new(), Vec::new());
    while !rest.is_empty() {
        let at = end - rest.len();
        let section = take(&mut rest)?;
        let mut data = section;
        let cid = Cid::read_bytes(&mut data).map_err(text)?;
        sections.push((at, cid, data.len()));
        blocks.insert(cid, Block::verify(&cid, Bytes::copy_from_slice(data)).map_err(text)?);
    }
    Ok(Car { roots, blocks, sections })
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = bitshoal::block::varint(rest).map_err(text)?;
    let (section, after) = usize::try_from(length)
        .ok()
        .filter(|length| *length > 0)
        .and_then(|length| rest.split_at_checked(length))
        .ok_or("a section is longer than the file")?;
    *rest = after;
    Ok(section)
}

/// The roots of a CAR's header, which is a map of dag-cbor with `roots` and `version` 1.
fn roots(header: &[u8]) -> Result<Vec<Cid>, String> {
    if !header.ends_with(b"gversion\x01") || !header.starts_with(&[0xa2, 0x65]) {
        return Err("the header is not that of a CAR of version 1".into());
    }
    let mut rest = &header[7..header.len() - 9];
    let count = rest.split_off_first().ok_or("no roots")? & 0x1f;
    let mut roots = Vec::new();
    for _ in 0..count {
        // Tag 42, then bytes with a length in one byte, of which the first is 0.
        let [0xd8, 0x2a, 0x58, length, 0, ..] = *rest else { return Err("a root is no link".into()) };
        let cid = rest.get(5..4 + usize::from(length)).ok_or("a root is cut short")?;
        roots.push(Cid::try_from(cid).map_err(text)?);
        rest = &rest[4 + usize::from(length)..];
    }
    Ok(roots)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
