//! What the index knows of files, in the words of the edges: listing, detail, forgetting, verifying, and the import
//! options that name a profile.

use std::path::{Path, PathBuf};

use crate::block::parse_cid;
use crate::dag::builder::{Profile, Version, WIDTH_MAX};
use crate::dag::chunker::Chunker;
use crate::store::{FileRecord, FileState, Store};

use super::api::{AddOptions, Event, RootInfo, WirePath};
use super::failure::{Failure, from_store};
use super::plan::Tree;
use super::verify::verify as verify_file;

/// All files, oldest first.
pub(super) fn list(store: &Store) -> Result<Vec<RootInfo>, Failure> {
    Ok(store.single_files().map_err(|e| from_store(&e))?.iter().filter(|file| is_shown(file)).map(info).collect())
}

/// Every file under one root.
pub(super) fn stat(store: &Store, cid: &str) -> Result<Vec<RootInfo>, Failure> {
    Ok(under(store, cid)?.iter().map(info).collect())
}

/// Forgets a root; what was removed.
pub(super) fn remove(store: &Store, cid: &str, delete_partial: bool) -> Result<Vec<(String, PathBuf)>, Failure> {
    let files = under(store, cid)?;
    let mut removed = Vec::new();
    for file in files {
        store.forget_file(file.id).map_err(|e| from_store(&e))?;
        // A `.part` is ours; the same bytes under the user's own name never are.
        let deletable = !matches!(file.state, FileState::Complete) && file.path != file.final_path;
        if delete_partial && deletable {
            match std::fs::remove_file(&file.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::new(
                        "delete-failed",
                        format!("{} could not be deleted: {error}", file.path.display()),
                    ));
                }
                _ => {}
            }
        }
        removed.push((root_text(&file), file.path));
    }
    Ok(removed)
}

/// Re-hashes every complete file under a root.
pub(super) fn verify(
    store: &Store,
    cid: &str,
    bad: &mut dyn FnMut(u64, u64),
    progress: &mut dyn FnMut(&Path, u64, u64),
) -> Result<Vec<Event>, Failure> {
    let mut verified = Vec::new();
    for file in under(store, cid)? {
        if matches!(file.state, FileState::Partial) {
            return Err(Failure::new(
                "not-complete",
                format!("{cid} is not complete yet; `bitshoal jobs` shows its pull"),
            ));
        }
        let tree = Tree::of(store, &file)?;
        let verdict = verify_file(store, &tree, &file.path, bad, &mut |done, total| progress(&file.path, done, total))?;
        verified.push(Event::Verified {
            cid: root_text(&file),
            path: WirePath(file.path),
            bytes: verdict.bytes,
            bad_bytes: verdict.bad_bytes,
        });
    }
    Ok(verified)
}

/// The import profile that options name, under the rules of `ipfs add`.
pub(super) fn profile(options: &AddOptions) -> Result<Profile, Failure> {
    let bad = |what: String| Failure::new("bad-option", what);
    let version = match options.cid_version {
        None => None,
        Some(0) => Some(Version::V0),
        Some(1) => Some(Version::V1),
        Some(other) => return Err(bad(format!("--cid-version {other}: CID versions are 0 and 1"))),
    };
    let mut profile = match (options.profile.as_deref(), version) {
        (Some(name), _) => Profile::named(name)
            .ok_or_else(|| bad(format!("--profile {name}: profiles are unixfs-v1-2025 and unixfs-v0-2015")))?,
        (None, None) => Profile::V1_2025,
        (None, Some(version)) => Profile::kubo_defaults(version),
    };
    if let Some(version) = version {
        profile.cid_version = version;
        if options.raw_leaves.is_none() && options.profile.is_some() {
            profile.raw_leaves = version == Version::V1;
        }
    }
    if let Some(raw) = options.raw_leaves {
        profile.raw_leaves = raw;
    }
    if let Some(chunker) = &options.chunker {
        profile.chunk = Chunker::parse(chunker).map_err(|e| bad(format!("--chunker {chunker}: {e}")))?.bytes();
    }
    if let Some(width) = options.max_file_links {
        if !(2..=WIDTH_MAX).contains(&width) {
            return Err(bad(format!("--max-file-links {width}: from 2 to {WIDTH_MAX}")));
        }
        profile.width = width;
    }
    Ok(profile)
}

fn under(store: &Store, cid: &str) -> Result<Vec<FileRecord>, Failure> {
    let root = parse_cid(cid).map_err(|e| Failure::new("not-a-cid", e))?;
    let mut files = store.single_files().map_err(|e| from_store(&e))?;
    files.retain(|file| file.root.is_some_and(|cid| cid.hash() == root.hash()) && is_shown(file));
    if files.is_empty() {
        return Err(Failure::new("not-found", format!("{cid} is not in this repo; `bitshoal ls` lists what is")));
    }
    Ok(files)
}

fn is_shown(file: &FileRecord) -> bool {
    !matches!(file.state, FileState::Planning | FileState::Forgetting)
}

fn info(file: &FileRecord) -> RootInfo {
    let complete = matches!(file.state, FileState::Complete);
    let broken = if let FileState::Broken(reason) = &file.state { Some(reason.clone()) } else { None };
    RootInfo {
        cid: root_text(file),
        path: WirePath(file.path.clone()),
        size: file.len,
        present_bytes: present_bytes(file),
        leaves: file.leaves,
        complete,
        problem: broken.or_else(|| file.trouble.clone()),
    }
}

/// Bytes that are there, counting all leaves as equally long: only the last may be shorter.
pub(super) fn present_bytes(file: &FileRecord) -> u64 {
    if file.leaves == 0 || file.present_leaves >= file.leaves {
        return if file.leaves == 0 { 0 } else { file.len };
    }
    let share = u128::from(file.len) * u128::from(file.present_leaves) / u128::from(file.leaves);
    u64::try_from(share).unwrap_or(file.len)
}

fn root_text(file: &FileRecord) -> String {
    file.root.map(|root| root.to_string()).unwrap_or_default()
}
