//! Pulls the inner nodes of a file's tree, depth first from all peers.
//!
//! Every node is verified against what its parent claimed before its children are asked for. Each distinct node is
//! pulled, checked and expanded once however often the tree repeats it, so the work is bounded by the distinct blocks
//! that somebody really sent. Nodes go to the index in batches; leaves are not pulled here, but for the leftmost one of
//! a dag-pb tree, which is handed to the caller.

use std::collections::HashMap;

use crate::block::{Block, Cid, DAG_PB, Multihash, RAW};
use crate::dag::walk::{Claim, Expanded, expand, inner_nodes_max};
use crate::dag::wrap::Wrap;
use crate::node::{Session, SessionEvent};
use crate::store::Store;

use super::failure::{Failure, from_store, from_walk};
use super::plan::{Tree, widen};

/// Inner nodes asked for at once: enough to fill a pipe with 50 kB nodes, few enough to hold in memory.
const NODES_IN_FLIGHT_MAX: usize = 128;

/// Inner nodes in one commit of the index.
const NODES_PER_COMMIT: usize = 64;

/// The most distinct inner nodes of a tree, some 150 bytes of memory each: more than the most leaves that a file may have
/// need at Kubo's old width, 174.
const NODES_MAX: u64 = 1 << 20;

/// Expected length of an inner node in bytes, for the pipelines: 1024 links of 46 bytes.
const NODE_BYTES_HINT: u32 = 48 * 1024;

/// A tree whose inner nodes are all in the index.
#[derive(Debug)]
pub(super) struct PulledTree {
    /// What planning needs.
    pub(super) tree: Tree,
    /// The leftmost leaf, when it had to be pulled to learn the tree's shape.
    pub(super) first_leaf: Option<Block>,
}

/// What happened meanwhile that the user may want to know.
#[derive(Debug)]
pub(super) enum Notice {
    /// No connected peer has this block; it is asked for again when that changes.
    NobodyHas(Cid),
    /// The number of connected peers.
    Peers(usize),
    /// A block arrived.
    Progress,
}

/// Pulls the tree of `root`, whose own block may be here already.
///
/// # Errors
/// Trees that lie or are not files, and those of the index. It waits for ever for peers.
pub(super) async fn pull_tree(
    store: &Store,
    session: &mut Session,
    root: Cid,
    top: Option<Block>,
    mut notice: impl FnMut(Notice),
) -> Result<PulledTree, Failure> {
    if !matches!(root.codec(), RAW | DAG_PB) {
        return Err(unknown_codec(&root));
    }
    let top_claim = Claim::root(root);
    let top = match top {
        Some(block) => block,
        None => obtain(store, session, &root, &mut notice).await?,
    };
    let expanded = expand(&top_claim, &top).map_err(|e| from_walk(&root, e))?;
    let size = expanded.size;
    if expanded.children.is_empty() {
        return Ok(PulledTree { tree: Tree { root, size, wrap: wrap_of(&top)?, single: true }, first_leaf: Some(top) });
    }
    let mut nodes = Nodes {
        store,
        root,
        nodes_max: inner_nodes_max(size).min(NODES_MAX),
        seen: HashMap::from([(widen(&root), size)]),
        queue: Vec::new(),
        pending: Vec::new(),
        leftmost: None,
    };
    nodes.take_in(top, expanded, true)?;
    nodes.pull_all(session, &mut notice).await?;
    // A dag-pb leaf shows how the leaves of this tree are wrapped; raw ones are bare.
    let (wrap, first_leaf) = match nodes.leftmost {
        Some(leaf) if leaf.codec() == DAG_PB => {
            let block = obtain(store, session, &leaf, &mut notice).await?;
            (wrap_of(&block)?, Some(block))
        }
        _ => (wrap_tag(&Wrap::Raw), None),
    };
    Ok(PulledTree { tree: Tree { root, size, wrap, single: false }, first_leaf })
}

fn wrap_of(leaf: &Block) -> Result<Vec<u8>, Failure> {
    let (wrap, _) = Wrap::split(leaf.bytes(), leaf.cid().codec()).map_err(|e| Failure::new("bad-tree", e))?;
    Ok(wrap_tag(&wrap))
}

fn wrap_tag(wrap: &Wrap) -> Vec<u8> {
    let mut tag = Vec::new();
    wrap.to_tag(&mut tag);
    tag
}

/// Depth-first state.
struct Nodes<'a> {
    store: &'a Store,
    root: Cid,
    /// What makes a tree a bomb.
    nodes_max: u64,
    /// Every inner node met so far, and the size that its first parent claimed.
    seen: HashMap<Multihash, u64>,
    /// The newest goes first, so that no more wait than the nodes on one way down have children.
    queue: Vec<Claim>,
    pending: Vec<Block>,
    /// The leaf at offset 0, once known.
    leftmost: Option<Cid>,
}

impl Nodes<'_> {
    /// Queues the inner nodes among a node's children, each once in the whole tree.
    fn enqueue(&mut self, expanded: &Expanded) -> Result<(), Failure> {
        for child in &expanded.children {
            if child.claim.offset == 0 && child.leaf {
                self.leftmost = Some(child.claim.cid);
            }
            if child.leaf {
                continue;
            }
            let size = child.size();
            match self.seen.insert(widen(&child.claim.cid), size) {
                None => self.queue.push(child.claim),
                Some(before) if before != size => {
                    return Err(Failure::new(
                        "bad-tree",
                        format!(
                            "the tree of {} lies: {} is claimed to hold {before} and {size} bytes",
                            self.root, child.claim.cid
                        ),
                    ));
                }
                Some(_) => {}
            }
        }
        if self.seen.len() as u64 > self.nodes_max {
            let text = format!(
                "the tree of {} has more than {} inner nodes, too many for its size",
                self.root, self.nodes_max
            );
            return Err(Failure::new("bad-tree", text));
        }
        Ok(())
    }

    async fn pull_all(&mut self, session: &mut Session, notice: &mut impl FnMut(Notice)) -> Result<(), Failure> {
        let mut in_flight: HashMap<Multihash, Claim> = HashMap::new();
        loop {
            let mut wants = Vec::new();
            while in_flight.len() < NODES_IN_FLIGHT_MAX {
                let Some(claim) = self.queue.pop() else { break };
                if let Some(bytes) = self.store.node(&widen(&claim.cid)).map_err(|e| from_store(&e))? {
                    let block = Block::verify(&claim.cid, bytes).map_err(|e| Failure::new("index-damaged", e))?;
                    self.accept(&claim, block, false)?;
                } else {
                    wants.push((claim.cid, NODE_BYTES_HINT));
                    in_flight.insert(widen(&claim.cid), claim);
                }
            }
            if !wants.is_empty() {
                session.want(wants);
            }
            if in_flight.is_empty() && self.queue.is_empty() {
                return self.flush();
            }
            if in_flight.is_empty() {
                continue;
            }
            match next_event(session).await? {
                SessionEvent::Block { block, .. } => {
                    notice(Notice::Progress);
                    if let Some(claim) = in_flight.remove(&widen(block.cid())) {
                        self.accept(&claim, block, true)?;
                    }
                }
                SessionEvent::NobodyHas { cid } => notice(Notice::NobodyHas(cid)),
                SessionEvent::PeersChanged { connected } => notice(Notice::Peers(connected)),
                SessionEvent::Pick { .. } | SessionEvent::Roam { .. } => {}
            }
        }
    }

    fn accept(&mut self, claim: &Claim, block: Block, fresh: bool) -> Result<(), Failure> {
        let expanded = expand(claim, &block).map_err(|e| from_walk(&self.root, e))?;
        self.take_in(block, expanded, fresh)
    }

    /// Keeps a verified node and queues what is below it. What turns out to be a leaf is kept whole, too: only its bytes
    /// tell that it is one.
    fn take_in(&mut self, block: Block, expanded: Expanded, fresh: bool) -> Result<(), Failure> {
        self.enqueue(&expanded)?;
        if fresh {
            self.pending.push(block);
        }
        if self.pending.len() >= NODES_PER_COMMIT { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let batch = std::mem::take(&mut self.pending);
        if batch.is_empty() {
            return Ok(());
        }
        // A commit waits for the disk; the runtime's other tasks must not.
        tokio::task::block_in_place(|| self.store.put_nodes(&batch)).map_err(|e| from_store(&e))
    }
}

/// One block, from the index or from the swarm.
pub(super) async fn obtain(
    store: &Store,
    session: &mut Session,
    cid: &Cid,
    notice: &mut impl FnMut(Notice),
) -> Result<Block, Failure> {
    if let Some(bytes) = known_or_local(store, cid)? {
        return Block::verify(cid, bytes).map_err(|e| Failure::new("index-damaged", e));
    }
    session.want(vec![(*cid, NODE_BYTES_HINT)]);
    loop {
        match next_event(session).await? {
            SessionEvent::Block { block, .. } if block.cid().hash() == cid.hash() => {
                notice(Notice::Progress);
                return block.renamed(cid).ok_or_else(|| Failure::new("bug", "a block changed its hash"));
            }
            SessionEvent::Block { .. } | SessionEvent::Pick { .. } | SessionEvent::Roam { .. } => {}
            SessionEvent::NobodyHas { cid } => notice(Notice::NobodyHas(cid)),
            SessionEvent::PeersChanged { connected } => notice(Notice::Peers(connected)),
        }
    }
}

/// What needs no network: identity CIDs, inner nodes of the index, and leaves of local files.
pub(super) fn known_or_local(store: &Store, cid: &Cid) -> Result<Option<bytes::Bytes>, Failure> {
    if let Some(content) = crate::block::known_content(cid) {
        return Ok(Some(content));
    }
    match store.node(&widen(cid)).map_err(|e| from_store(&e))? {
        Some(bytes) => Ok(Some(bytes)),
        None => store.read(&widen(cid)).map_err(|e| from_store(&e)),
    }
}

async fn next_event(session: &mut Session) -> Result<SessionEvent, Failure> {
    session.next().await.ok_or_else(|| Failure::new("stopped", "the node has been stopped"))
}

/// The codecs whose blocks can be files.
#[must_use]
pub(super) fn unknown_codec(cid: &Cid) -> Failure {
    Failure::new(
        "unknown-codec",
        format!(
            "{cid} has codec 0x{:x}, which is not a file: files have codec raw (0x55) or dag-pb (0x70)",
            cid.codec()
        ),
    )
}
