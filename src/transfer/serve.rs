//! Answers the swarm's reads from the store.
//!
//! Which block goes to whom and when is the exchange's business; here each read only finds its bytes, on a blocking
//! thread, and a bounded number of them at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::exchange::server::{ReadKind, ReadOutcome};
use crate::node::Reads;
use crate::store::Store;

use super::plan::widen;

/// Reads under way at once: enough to keep a disk's queue filled; each holds one block in memory.
const READS_AT_ONCE: usize = 4;

/// Answers until the node stops.
pub(super) async fn serve(store: Store, mut reads: Reads) {
    let permits = Arc::new(Semaphore::new(READS_AT_ONCE));
    while let Some(request) = reads.next().await {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            let outcomes = request.items.iter().map(|(cid, kind)| read(&store, cid, *kind)).collect();
            request.answer(outcomes);
            drop(permit);
        });
    }
}

fn read(store: &Store, cid: &crate::block::Cid, kind: ReadKind) -> ReadOutcome {
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
