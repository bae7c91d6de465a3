//! From a complete tree of inner nodes to references in the index, without holding the leaves in memory.
//!
//! The index wants its references sorted by key and in bounded transactions. The tree gives them in file order. So the
//! tree, whose inner nodes are in the index already, is walked once per slice of the key space, and each walk keeps only
//! its slice's leaves. A tree of 1 TiB at 1 MiB leaves has about a thousand inner nodes: a walk is cheap, a sort is not.

use bytes::Bytes;

use crate::block::{BLOCK_BYTES_MAX, Block, Cid, Multihash, identity_content};
use crate::dag::layout::{LayoutError, Leaf, Leaves};
use crate::dag::walk::{Claim, expand};
use crate::store::{EXTENT_LEAVES, FileId, FileRecord, LeafPlace, Store};

use super::failure::{Failure, from_store};

/// References gathered in one walk. At about 220 bytes each in memory this is 14 MiB.
const SLICE_KEYS: u64 = 65_536;

/// The most leaves that one file may have: its bitmap is 16 MiB then. 128 TiB at 1 MiB leaves.
pub const LEAVES_MAX: u64 = 1 << 27;

/// What a plan needs to know of a tree whose inner nodes are all in the index.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The root.
    pub root: Cid,
    /// Bytes of the file.
    pub size: u64,
    /// How a leaf's block is made of the file's bytes, as the index's tag.
    pub wrap: Vec<u8>,
    /// Whether the root is the only leaf: it is then in the file, not among the inner nodes.
    pub single: bool,
}

impl Tree {
    /// The tree of a file that the index holds; the reference of the first leaf that has one tells the wrap of all. Of a
    /// file that has none, all of which is in nodes or CIDs, the wrap counts for nothing.
    ///
    /// # Errors
    /// `index-damaged` when the index does not hold what it says, and those of the index.
    pub fn of(store: &Store, file: &FileRecord) -> Result<Self, Failure> {
        let damaged =
            |what| Failure::new("index-damaged", format!("{}: {what}; get or add it again", file.path.display()));
        let root = file.root.ok_or_else(|| damaged("its root is unknown"))?;
        let single = file.leaves == 1 && store.node(&widen(&root)).map_err(|e| from_store(&e))?.is_none();
        let mut tree = Self { root, size: file.len, wrap: Vec::new(), single };
        if tree.size == 0 {
            return Ok(tree);
        }
        let Some(first) = tree.leaves(store).find(|leaf| leaf.as_ref().map_or(true, is_referred_to)) else {
            return Ok(tree);
        };
        let first = first.map_err(broken_tree)?;
        let place = store.reference(&widen(&first.cid), file.id).map_err(|e| from_store(&e))?;
        tree.wrap = place.ok_or_else(|| damaged("its first leaf has no reference"))?.wrap;
        Ok(tree)
    }

    /// Its leaves, from the inner nodes in the index.
    pub fn leaves(&self, store: &Store) -> Leaves<impl FnMut(&Cid) -> Result<Bytes, Failure> + use<>> {
        if self.single {
            Leaves::of_leaf(self.root, self.size, node_source(store))
        } else {
            Leaves::new(self.root, self.size, node_source(store))
        }
    }
}

/// Where the leaves of a planned file begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents {
    /// Number of leaves.
    pub leaves: u64,
    /// Offset of every [`EXTENT_LEAVES`]-th leaf.
    pub offsets: Vec<u64>,
}

/// The files that may hold a root: those that the index has under it, and members of folders, which are known by their
/// leaves only.
pub(super) fn files_of(store: &Store, root: &Cid) -> Result<Vec<FileId>, Failure> {
    if let Some(known) = store.root(root).map_err(|e| from_store(&e))? {
        return Ok(known.files);
    }
    let Some(node) = store.node(&widen(root)).map_err(|e| from_store(&e))? else {
        let places = store.places(&widen(root)).map_err(|e| from_store(&e))?;
        return Ok(places.into_iter().map(|place| place.file).collect());
    };
    let Some(expanded) = Block::verify(root, node).ok().and_then(|block| expand(&Claim::root(*root), &block).ok())
    else {
        return Ok(Vec::new());
    };
    let Some(Ok(first)) =
        Leaves::new(*root, expanded.size, node_source(store)).find(|leaf| leaf.as_ref().map_or(true, is_referred_to))
    else {
        return Ok(Vec::new());
    };
    let places = store.places(&widen(&first.cid)).map_err(|e| from_store(&e))?;
    Ok(places.into_iter().map(|place| place.file).collect())
}

/// The inner nodes' bytes, from the index.
fn node_source(store: &Store) -> impl FnMut(&Cid) -> Result<Bytes, Failure> + use<> {
    let store = store.clone();
    move |cid| {
        store.node(&widen(cid)).map_err(|e| from_store(&e))?.ok_or_else(|| {
            Failure::new("index-incomplete", format!("the index lacks the inner node {cid}; get the file again"))
        })
    }
}

/// The key under which the index holds a CID's block.
#[must_use]
pub fn widen(cid: &Cid) -> Multihash {
    *cid.hash()
}

/// Writes the references of every leaf of `tree` to the index under `file`, and says where the leaves begin.
///
/// # Errors
/// Those of the index, and a tree with more than [`LEAVES_MAX`] leaves.
pub fn write_references(store: &Store, file: FileId, tree: &Tree) -> Result<Extents, Failure> {
    let extents = measure(store, tree)?;
    let slices = extents.leaves.div_ceil(SLICE_KEYS).max(1);
    let mut slice_refs: Vec<(Multihash, LeafPlace)> = Vec::new();
    for slice in 0..slices {
        for leaf in tree.leaves(store) {
            let leaf = leaf.map_err(broken_tree)?;
            let key = widen(&leaf.cid);
            if !is_referred_to(&leaf) || slice_of(&key, slices) != slice {
                continue;
            }
            let place =
                LeafPlace { file, leaf: leaf.index, offset: leaf.offset, len: leaf.len, wrap: tree.wrap.clone() };
            slice_refs.push((key, place));
            // Digests that an attacker chose may all fall into one slice: sorting suffers, memory does not.
            if slice_refs.len() as u64 >= 2 * SLICE_KEYS {
                store.put_refs(file, &mut slice_refs).map_err(|e| from_store(&e))?;
                slice_refs.clear();
            }
        }
        store.put_refs(file, &mut slice_refs).map_err(|e| from_store(&e))?;
        slice_refs.clear();
    }
    Ok(extents)
}

/// Whether a leaf has a reference: what an inner node carries itself is served with it, and what is in its CID need not
/// be served.
fn is_referred_to(leaf: &Leaf) -> bool {
    !leaf.own && identity_content(&leaf.cid).is_none()
}

/// Counts the leaves and notes where every extent begins.
fn measure(store: &Store, tree: &Tree) -> Result<Extents, Failure> {
    let mut offsets = Vec::new();
    let mut leaves = 0;
    for leaf in tree.leaves(store) {
        let leaf = leaf.map_err(broken_tree)?;
        if leaf.len as usize > BLOCK_BYTES_MAX {
            return Err(Failure::new(
                "bad-tree",
                format!("leaf {} claims {} bytes, more than a block may have", leaf.cid, leaf.len),
            ));
        }
        if leaves % EXTENT_LEAVES == 0 {
            offsets.push(leaf.offset);
        }
        leaves += 1;
        if leaves > LEAVES_MAX {
            return Err(Failure::new(
                "too-many-leaves",
                format!("{} has more than {LEAVES_MAX} leaves, the limit of one file", tree.root),
            ));
        }
    }
    Ok(Extents { leaves, offsets })
}

/// Which of `slices` equal parts of the key space a key lies in.
fn slice_of(key: &Multihash, slices: u64) -> u64 {
    let head =
        key.digest().iter().chain(std::iter::repeat(&0)).take(4).fold(0_u64, |acc, byte| acc << 8 | u64::from(*byte));
    (head * slices) >> 32
}

/// A tree that was verified when it was pulled or built, and yet does not read back.
pub fn broken_tree(error: LayoutError<Failure>) -> Failure {
    match error {
        LayoutError::Fetch { source, .. } => source,
        other => Failure::new("bad-tree", other),
    }
}
