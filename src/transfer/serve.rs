//! Answers the swarm's reads, and its questions about files, from the store.
//!
//! Which block goes to whom and when is the exchange's business; here each read only finds its bytes, on a blocking
//! thread, and a bounded number of them at once.

use std::sync::Arc;

use roaring::RoaringBitmap;
use tokio::sync::Semaphore;

use crate::block::Cid;
use crate::exchange::have::Held;
use crate::exchange::server::{ReadKind, ReadOutcome};
use crate::node::{Asked, Reads};
use crate::store::{FileRecord, Store};

use super::failure::{Failure, from_store};
use super::plan::{files_of, widen};

/// Reads under way at once: enough to keep a disk's queue filled; each holds one block in memory.
const READS_AT_ONCE: usize = 4;

/// Answers until the node stops.
pub(super) async fn serve(store: Store, mut reads: Reads) {
    let permits = Arc::new(Semaphore::new(READS_AT_ONCE));
    while let Some(asked) = reads.next_of_any().await {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            match asked {
                Asked::Blocks(request) => {
                    let outcomes = request.items.iter().map(|(cid, kind)| read(&store, cid, *kind)).collect();
                    request.answer(outcomes);
                }
                Asked::File(request) => {
                    let held = look(&store, &request.root).unwrap_or_else(|error| {
                        tracing::warn!(root = %request.root, %error, "cannot tell what is here of a file");
                        None
                    });
                    request.answer(held);
                }
            }
            drop(permit);
        });
    }
}

/// How many leaves a file has and what of them is here: of several places the fullest. Nothing of what the disk has changed.
fn look(store: &Store, root: &Cid) -> Result<Option<(u32, Held)>, Failure> {
    let mut fullest: Option<FileRecord> = None;
    for file in files_of(store, root)? {
        let Some(record) = store.file(file).map_err(|e| from_store(&e))? else { continue };
        let is_it = record.root == Some(*root) && record.leaves > 0 && record.trouble.is_none();
        if is_it && fullest.as_ref().is_none_or(|other| other.present_leaves < record.present_leaves) {
            fullest = Some(record);
        }
    }
    let Some(record) = fullest else { return Ok(None) };
    let Ok(leaves) = u32::try_from(record.leaves) else { return Ok(None) };
    if record.present_leaves == record.leaves {
        return Ok(Some((leaves, Held::All)));
    }
    let mut there = RoaringBitmap::new();
    there.insert_range(0..leaves);
    for missing in store.missing_leaves(record.id).map_err(|e| from_store(&e))? {
        there.remove(u32::try_from(missing).unwrap_or(u32::MAX));
    }
    Ok(Some((leaves, Held::Some(there))))
}

fn read(store: &Store, cid: &Cid, kind: ReadKind) -> ReadOutcome {
    let key = widen(cid);
    let found = match kind {
        ReadKind::Presence => store.has(&key).map(|size| size.map(|size| ReadOutcome::Have { size })),
        ReadKind::Block => store.read(&key).map(|bytes| bytes.map(ReadOutcome::Block)),
    };
    match found {
        Ok(outcome) => outcome.unwrap_or(ReadOutcome::Missing),
        Err(error) => {
            tracing::warn!(%cid, %error, "a block could not be read");
            ReadOutcome::Missing
        }
    }
}
