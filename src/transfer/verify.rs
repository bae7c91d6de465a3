//! Re-hashes what lies in a file and compares it with the tree: for `verify`, and for taking over a file that is there
//! already.

use std::path::Path;

use bytes::Bytes;

use crate::block::{Block, identity_content};
use crate::dag::layout::Leaf;
use crate::dag::walk::{Claim, expand};
use crate::dag::wrap::Wrap;
use crate::store::{SourceFile, Store, Writer};

use super::failure::{Failure, from_store, from_write};
use super::plan::{Tree, broken_tree, widen};

/// What a verify found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Bytes checked.
    pub bytes: u64,
    /// Bytes that differ or are missing.
    pub bad_bytes: u64,
}

/// Re-hashes the file at `path` against `tree`. `bad` gets each differing range once, joined where they touch.
///
/// # Errors
/// `not-found`, `permission` and those of the index. A short file is not an error: its end is bad.
pub fn verify(
    store: &Store,
    tree: &Tree,
    path: &Path,
    bad: &mut dyn FnMut(u64, u64),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verdict, Failure> {
    let source = SourceFile::open(path).map_err(|e| from_store(&e))?;
    let wrap = Wrap::from_tag(&tree.wrap).map_err(|e| Failure::new("index-damaged", e))?;
    let mut verdict = Verdict::default();
    if tree.size == 0 {
        return Ok(verdict);
    }
    let mut range: Option<(u64, u64)> = None;
    let mut buffer = Vec::new();
    for leaf in tree.leaves(store) {
        let leaf = leaf.map_err(broken_tree)?;
        buffer.resize(leaf.len as usize, 0);
        let good = leaf.offset + u64::from(leaf.len) <= source.len()
            && source.read_at(leaf.offset, &mut buffer).is_ok()
            && is_leaf(store, &leaf, &wrap, &buffer);
        verdict.bytes += u64::from(leaf.len);
        if !good {
            verdict.bad_bytes += u64::from(leaf.len);
            range = match range {
                Some((start, end)) if end == leaf.offset => Some((start, end + u64::from(leaf.len))),
                other => {
                    if let Some((start, end)) = other {
                        bad(start, end - start);
                    }
                    Some((leaf.offset, leaf.offset + u64::from(leaf.len)))
                }
            };
        }
        source.release(leaf.offset..leaf.offset + u64::from(leaf.len));
        progress(verdict.bytes, tree.size);
    }
    if let Some((start, end)) = range {
        bad(start, end - start);
    }
    Ok(verdict)
}

/// Marks every leaf of a partial file that is already right where it lies.
///
/// # Errors
/// Those of the disk and the index.
pub fn adopt(store: &Store, tree: &Tree, writer: &Writer) -> Result<(), Failure> {
    let wrap = Wrap::from_tag(&tree.wrap).map_err(|e| Failure::new("index-damaged", e))?;
    let mut buffer = Vec::new();
    for leaf in tree.leaves(store) {
        let leaf = leaf.map_err(broken_tree)?;
        if writer.has(leaf.index) {
            continue;
        }
        buffer.resize(leaf.len as usize, 0);
        if store.read_range(writer.file(), leaf.offset, &mut buffer).is_ok() && is_leaf(store, &leaf, &wrap, &buffer) {
            writer.adopt(leaf.index, leaf.offset, leaf.len).map_err(from_write)?;
        }
    }
    writer.commit_epoch().map_err(from_write)
}

/// Whether `data`, wrapped as this file's leaves are, hashes to the leaf's CID. Leaves that are wrapped otherwise, and what
/// an inner node carries itself, are compared with the block, which the index or the CID has.
fn is_leaf(store: &Store, leaf: &Leaf, wrap: &Wrap, data: &[u8]) -> bool {
    let inlined = identity_content(&leaf.cid).map(Bytes::copy_from_slice);
    if let Some(node) = inlined.or_else(|| store.node(&widen(&leaf.cid)).ok().flatten()) {
        let own = Block::verify(&leaf.cid, node).ok().and_then(|node| expand(&Claim::root(leaf.cid), &node).ok());
        return own.and_then(|expanded| expanded.own_data).is_some_and(|(_, own)| own == data);
    }
    let (before, after) = wrap.affixes(leaf.len);
    let bytes = if before.is_empty() && after.is_empty() {
        Bytes::copy_from_slice(data)
    } else {
        Bytes::from([&before[..], data, &after[..]].concat())
    };
    Block::verify(&leaf.cid, bytes).is_ok()
}
