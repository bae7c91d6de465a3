//! The facts of a folder of conformance vectors, where there is one (the environment's `BITSHOAL_VECTORS`, else
//! `../shared/vectors`). Unix only: they speak of permissions, links and names that other platforms do not have.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use bitshoal::cli::args::{Cli, Command};
use bitshoal::dag::directory::Estimate;
use bitshoal::transfer::api::AddOptions;
use bitshoal::transfer::provide::{self, Import, Imported};
use clap::Parser;
use serde_json::Value;

use super::{Content, keystream};
use crate::support::say;

/// The names of the flags are Kubo's, so a fact that was asked of Kubo goes through our own command line.
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

/// Makes a file of the content that a fact tells.
fn write(fact: &Value, vectors: &Path, path: &Path) {
    if let Some(text) = fact["utf8"].as_str() {
        Content::Text(text).write(path);
    } else if let Some(source) = fact["path"].as_str() {
        fs::copy(vectors.join(source.strip_prefix("vectors/").unwrap()), path).unwrap();
    } else if let Some(seed) = fact["chacha20Seed"].as_str() {
        Content::Keystream(seed, fact["size"].as_u64().unwrap()).write(path);
    } else {
        Content::Zeros(fact["zeros"].as_u64().unwrap_or_else(|| panic!("unknown content {fact}"))).write(path);
    }
}

/// What we make of a fact's content.
fn ours(fact: &Value, vectors: &Path) -> Result<Imported, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let content = &fact["content"];
    match fact["kind"].as_str().unwrap() {
        "file" => write(content, vectors, &path),
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
fn asked_of_kubo(fact: &Value) -> Result<Import, String> {
    let flags = fact["add"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap());
    let line = ["bitshoal", "add"].into_iter().chain(flags).chain(["in"]);
    let Command::Add(arguments) = Cli::try_parse_from(line).unwrap().command else { panic!("add is add") };
    Import::new(&arguments.options.options(true).unwrap()).map_err(|failure| failure.message)
}

/// How a fact was added that somebody published.
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
                write(entry, vectors, &path);
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
