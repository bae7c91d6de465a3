//! What a crash left, settled when the store is opened.
//!
//! | state found | becomes |
//! |---|---|
//! | Planning | forgotten; the part that we made is removed |
//! | Forgetting | forgotten |
//! | Finishing | Complete if the final name is our file, Partial if the part still is, else Broken |
//! | Partial, Broken | Partial if the part is there with its identity and length, else Broken with the reason |
//! | Complete | stays; whether the file is unchanged is asked when it is served |
//!
//! A collection that was being added or forgotten is forgotten before, with all its files.
//!
//! No file is hashed, and none is removed unless its identity says that it is the part we made (or, for a part whose
//! identity was never written down, that it is empty).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::file::bitmap::Bitmap;
use super::file::platform;
use super::files::{put_file, remove_file};
use super::index::Index;
use super::index::tables::{self, Stored, corrupt};
use super::live::Live;
use super::{FileId, FileState, Stamp, StoreError};

/// Settles every file and returns those that are not complete.
pub(super) fn recover(index: &Index) -> Result<BTreeMap<FileId, Arc<Live>>, StoreError> {
    super::collections::recover(index)?;
    let found = index.read(|txn, tables| {
        let mut files = Vec::new();
        for (seen, entry) in tables.files.iter(txn)?.enumerate() {
            index.release_scanned(seen);
            let (key, value) = entry?;
            if !Stored::is_complete(value) {
                files.push((tables::file_of_key(key)?, Stored::decode(value)?));
            }
        }
        Ok(files)
    })?;
    let mut files = BTreeMap::new();
    for (id, mut stored) in found {
        let before = stored.clone();
        match stored.state {
            FileState::Planning => {
                remove_own_part(&stored);
                // Said first, so that a crash in the middle does not look for a part again.
                stored.state = FileState::Forgetting;
                index.write(|txn, tables| put_file(txn, tables, id, &stored))?;
                remove_file(index, id, &stored)?;
                continue;
            }
            FileState::Forgetting => {
                remove_file(index, id, &stored)?;
                continue;
            }
            FileState::Finishing => settle_finishing(&mut stored),
            FileState::Partial | FileState::Broken(_) => settle_partial(&mut stored),
            FileState::Complete => {}
        }
        if stored != before {
            index.write(|txn, tables| {
                if stored.state == FileState::Complete {
                    let (first, last) = (tables::have_key(id, 0), tables::have_key(id, u64::from(u32::MAX)));
                    tables.have.delete_range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))?;
                }
                put_file(txn, tables, id, &stored)
            })?;
        }
        if stored.state != FileState::Complete {
            let bits = Arc::new(durable_bits(index, id, stored.leaves)?);
            files.insert(id, Arc::new(Live::new(id, stored, Some(bits))));
        }
    }
    Ok(files)
}

/// Reads the bits that epochs have committed.
fn durable_bits(index: &Index, file: FileId, leaves: u64) -> Result<Bitmap, StoreError> {
    let bits = Bitmap::new(leaves);
    index.read(|txn, tables| {
        let (first, last) = (tables::have_key(file, 0), tables::have_key(file, u64::from(u32::MAX)));
        for entry in tables.have.range(txn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))? {
            let (key, value) = entry?;
            let segment = key.last_chunk().map(|k| u64::from(u32::from_be_bytes(*k)));
            segment.and_then(|segment| bits.merge_segment(segment, value)).ok_or_else(|| corrupt("a file's bits"))?;
        }
        Ok(())
    })?;
    Ok(bits)
}

fn settle_partial(stored: &mut Stored) {
    stored.state = match ours(&stored.path, stored.stamp.as_ref()) {
        Ok(_) => FileState::Partial,
        Err(reason) => {
            tracing::warn!(path = %stored.path.display(), reason, "a partial file is lost");
            FileState::Broken(reason)
        }
    };
}

/// All leaves were durable before this state was entered.
fn settle_finishing(stored: &mut Stored) {
    if let Ok(stamp) = ours(&stored.final_path, stored.stamp.as_ref()) {
        // One file under two names: a crash between link and unlink.
        if stored.path != stored.final_path && ours(&stored.path, stored.stamp.as_ref()).is_ok() {
            let _ = std::fs::remove_file(&stored.path);
        }
        stored.path.clone_from(&stored.final_path);
        stored.stamp = Some(stamp);
        stored.state = FileState::Complete;
    } else {
        settle_partial(stored);
    }
}

/// Whether a path still is the file that we wrote, by identity and length.
fn ours(path: &Path, then: Option<&Stamp>) -> Result<Stamp, String> {
    let name = path.display();
    let then = then.ok_or_else(|| format!("{name} was never completely made"))?;
    match platform::stamp_at(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(format!("{name} is gone")),
        Err(e) => Err(format!("{name}: {e}")),
        Ok(now) if !now.identity.is_still(&then.identity) => Err(format!("{name} is another file now")),
        Ok(now) if now.len != then.len => Err(format!("{name} has {} bytes instead of {}", now.len, then.len)),
        Ok(now) => Ok(now),
    }
}

/// Removes the part of a plan that did not come to its end, if it is ours beyond doubt.
fn remove_own_part(stored: &Stored) {
    // A file that the user brought has its final name from the start, and is never ours to remove.
    if !stored.partial || stored.path == stored.final_path {
        return;
    }
    let Ok(now) = platform::stamp_at(&stored.path) else { return };
    let is_ours = match &stored.stamp {
        Some(then) => now.identity.is_still(&then.identity) && (now.len == then.len || now.len == 0),
        None => now.len == 0,
    };
    if is_ours {
        let _ = std::fs::remove_file(&stored.path);
    }
}
