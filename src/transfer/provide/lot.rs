//! Files and nodes on their way to the index, by the lot: each lot is one commit.
//!
//! One lot is written while the next is gathered. Both are bounded here; how much memory a commit takes beside that is
//! the store's to say ([`Store::add_complete`]).

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use crate::block::Block;
use crate::store::{CompleteFile, Store};
use crate::transfer::failure::{Failure, from_store};

/// References in one commit. Each may change a page of its own: 64 MiB, while the index is small less.
const REFS_PER_LOT: usize = 16_384;
/// Bytes of nodes in one commit.
const NODE_BYTES_PER_LOT: usize = 8 << 20;
/// Nodes and files in one commit.
const ITEMS_PER_LOT: usize = 16_384;

#[derive(Debug, Default)]
struct Lot {
    files: Vec<CompleteFile>,
    nodes: Vec<Block>,
    refs: usize,
    node_bytes: usize,
}

impl Lot {
    fn is_full(&self) -> bool {
        self.refs >= REFS_PER_LOT
            || self.node_bytes >= NODE_BYTES_PER_LOT
            || self.files.len() + self.nodes.len() >= ITEMS_PER_LOT
    }
}

/// Where an import puts what it has found. Without a store it goes nowhere.
#[derive(Debug)]
pub(super) struct Lots<'scope> {
    lot: Lot,
    writer: Option<Writer<'scope>>,
    failed: bool,
}

#[derive(Debug)]
struct Writer<'scope> {
    lots: SyncSender<Lot>,
    thread: ScopedJoinHandle<'scope, Result<(), Failure>>,
}

impl<'scope> Lots<'scope> {
    pub(super) fn new<'env>(scope: &'scope Scope<'scope, 'env>, store: Option<&'env Store>) -> Self {
        let writer = store.map(|store| {
            let (lots, queue) = sync_channel(0);
            Writer { lots, thread: scope.spawn(move || write(store, &queue)) }
        });
        Self { lot: Lot::default(), writer, failed: false }
    }

    /// Takes a node. That the index cannot be written any more is told by [`Lots::has_failed`].
    pub(super) fn node(&mut self, block: Block) {
        if self.writer.is_some() {
            self.lot.node_bytes += block.bytes().len();
            self.lot.nodes.push(block);
            self.pass_on(false);
        }
    }

    /// Takes a file, as [`Lots::node`].
    pub(super) fn file(&mut self, file: CompleteFile) {
        if self.writer.is_some() {
            self.lot.refs += file.leaves.len();
            self.lot.files.push(file);
            self.pass_on(false);
        }
    }

    /// Whether the index has refused a lot; [`Lots::finish`] says why.
    pub(super) const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Returns when all is durable, or, if the import is given up, when the index is at rest.
    pub(super) fn finish(mut self, given_up: bool) -> Result<(), Failure> {
        if !given_up {
            self.pass_on(true);
        }
        let Some(Writer { lots, thread }) = self.writer else { return Ok(()) };
        drop(lots);
        thread.join().map_err(|_| Failure::new("bug", "the thread that writes the index has died"))?
    }

    fn pass_on(&mut self, all: bool) {
        let Some(writer) = &self.writer else { return };
        if self.lot.is_full() || all {
            let lot = std::mem::take(&mut self.lot);
            self.failed |= writer.lots.send(lot).is_err();
        }
    }
}

fn write(store: &Store, lots: &Receiver<Lot>) -> Result<(), Failure> {
    for lot in lots {
        store.add_complete(&lot.files, &lot.nodes).map_err(|e| from_store(&e))?;
    }
    Ok(())
}
