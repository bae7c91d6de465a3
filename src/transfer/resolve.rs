//! From `CID/a/b` to what stands there: one directory after the other, and of sharded ones only the shards on the way.

use crate::block::{Block, Cid};
use crate::dag::directory::{Step, look, lookup};
use crate::dag::hamt::ShardPlace;
use crate::dag::path::parse_ipfs_path;
use crate::node::Session;
use crate::store::Store;

use super::failure::{Failure, from_store};
use super::plan::widen;
use super::tree::{Notice, obtain};

/// A root and the names that lead on from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Where it begins.
    pub root: Cid,
    /// The entries' names, foreign ones.
    pub names: Vec<Vec<u8>>,
}

impl Path {
    /// Reads `CID`, `CID/a/b`, `/ipfs/CID/a/b` or `ipfs://CID/a/b`.
    ///
    /// # Errors
    /// `not-a-cid`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let (root, names) = parse_ipfs_path(text).map_err(|e| Failure::new("not-a-cid", e))?;
        Ok(Self { root, names })
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&place_of(self, self.names.len()))
    }
}

/// What stands at a path. The directories on the way are kept in the index.
///
/// # Errors
/// `not-found` with the name that is not there, `not-a-directory`, `bad-tree`. It waits for ever for peers.
pub(super) async fn resolve(
    store: &Store,
    session: &mut Session,
    path: &Path,
    notice: &mut impl FnMut(Notice),
) -> Result<Cid, Failure> {
    let mut cid = path.root;
    let mut passed = Vec::new();
    for (depth, name) in path.names.iter().enumerate() {
        let shown = String::from_utf8_lossy(name).into_owned();
        let (mut at, mut place) = (cid, ShardPlace::ROOT);
        cid = loop {
            let block = obtain(store, session, &at, notice).await?;
            let found = look(&at, block.bytes()).map_err(|e| Failure::new("bad-tree", format!("{at}: {e}")))?;
            let step = lookup(name, &found, &place).map_err(|e| {
                Failure::new("not-a-directory", format!("there is no {shown:?} below {}: {e}", place_of(path, depth)))
            })?;
            passed.push(block);
            match step {
                Step::Entry(entry) => break entry.cid,
                Step::Shard { cid, place: below } => (at, place) = (cid, below),
                Step::Absent => {
                    let message = format!("there is no {shown:?} in {}", place_of(path, depth));
                    return Err(Failure::new("not-found", message));
                }
            }
        };
    }
    keep(store, passed)?;
    Ok(cid)
}

/// The first names of a path, for messages.
fn place_of(path: &Path, names: usize) -> String {
    let mut text = path.root.to_string();
    for name in path.names.iter().take(names) {
        text.push('/');
        text += &String::from_utf8_lossy(name);
    }
    text
}

fn keep(store: &Store, blocks: Vec<Block>) -> Result<(), Failure> {
    let mut fresh = Vec::new();
    for block in blocks {
        if store.node(&widen(block.cid())).map_err(|e| from_store(&e))?.is_none() {
            fresh.push(block);
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    // A commit waits for the disk; the runtime's other tasks must not.
    tokio::task::block_in_place(|| store.put_nodes(&fresh)).map_err(|e| from_store(&e))
}
