//! What a folder holds, found block by block: safe names, whole directories, what was selected.
//!
//! Pure: blocks in, entries out. Names are checked a directory at a time, before anything of that directory can be
//! written; a sharded directory counts as one, and gives its entries when its last shard has come. Nothing here knows
//! whether an entry of codec dag-pb is a file or a directory before its block shows it.

use std::collections::HashMap;

use crate::block::{Block, Cid, DAG_PB, RAW};
use crate::dag::directory::{Entry as Link, Found, Listing, look};
use crate::dag::hamt::{ShardItem, ShardNode, ShardPlace, shards_max};
use crate::dag::path::{Rules, SafePath, Select, Siblings};
use crate::dag::unixfs::Metadata;
use crate::transfer::failure::Failure;

/// The most entries of one pull, counted over all its directories. Each takes some 250 bytes while it waits its turn.
const ENTRIES_MAX: u64 = 50_000_000;

/// An entry that has to be looked at or brought.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where it will be, below the folder.
    pub(super) path: SafePath,
    /// Its name in the DAG from the root, joined by slashes: what globs are matched with.
    pub(super) name: Vec<u8>,
    /// Its root.
    pub(super) cid: Cid,
    /// Bytes of all blocks below it, as its directory says: a hint, 0 where it says nothing.
    pub(super) expected: u64,
    /// Whether it is wanted itself, or only looked into for what is.
    pub(super) selected: bool,
}

/// A shard of a directory that has to come before the directory is known.
#[derive(Debug, Clone)]
pub(super) struct Shard {
    directory: u64,
    place: ShardPlace,
    /// Its block.
    pub(super) cid: Cid,
}

/// What an entry turned out to be.
#[derive(Debug)]
pub(super) enum Seen {
    /// A directory, with what is in it so far.
    Directory(Contents),
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// A file or a part of one.
    File,
    /// A metadata node: what it is about stands in its place.
    Elsewhere {
        /// The file.
        cid: Cid,
    },
}

/// What a block showed of a directory.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Permissions and time, of the directory's first block.
    pub(super) metadata: Metadata,
    /// Shards that have to come.
    pub(super) shards: Vec<Shard>,
    /// Entries, once all of the directory is here.
    pub(super) entries: Vec<Entry>,
}

/// What is known of the folder.
#[derive(Debug)]
pub(super) struct Discovery {
    rules: Rules,
    fold: bool,
    select: Select,
    /// Sharded directories of which shards are missing.
    open: HashMap<u64, Directory>,
    next: u64,
    entries: u64,
}

#[derive(Debug)]
struct Directory {
    entry: Entry,
    links: Vec<Link>,
    /// Shards that were asked for and have not come.
    missing: usize,
    /// Shards that were met.
    shards: u64,
}

impl Directory {
    const fn new(entry: Entry, links: Vec<Link>, missing: usize) -> Self {
        Self { entry, links, missing, shards: 0 }
    }
}

impl Discovery {
    /// `fold`: whether the target's file system takes names that differ only in case for one.
    pub(super) fn new(rules: Rules, fold: bool, select: Select) -> Self {
        Self { rules, fold, select, open: HashMap::new(), next: 0, entries: 0 }
    }

    /// The folder itself.
    pub(super) fn root(&self, cid: Cid) -> Entry {
        let selected = self.select.matches(&[]);
        Entry { path: SafePath::root(self.rules), name: Vec::new(), cid, expected: 0, selected }
    }

    /// Whether every directory that was seen is known to its end.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// Looks at an entry's block.
    ///
    /// # Errors
    /// `bad-tree`, `bad-name`, `unknown-codec`: the folder cannot be pulled as it is.
    pub(super) fn entry(&mut self, entry: &Entry, block: &Block) -> Result<Seen, Failure> {
        let found = look(&entry.cid, block.bytes()).map_err(|e| bad_tree(entry, &e))?;
        match found {
            Found::Directory(Listing { entries, metadata }) => {
                let entries = self.entries_of(Directory::new(entry.clone(), entries, 0))?;
                Ok(Seen::Directory(Contents { metadata, shards: Vec::new(), entries }))
            }
            Found::Shard(node) => {
                let id = self.next;
                self.next += 1;
                self.open.insert(id, Directory::new(entry.clone(), Vec::new(), 1));
                let metadata = node.metadata();
                let contents = self.take_shard(id, &ShardPlace::ROOT, node)?;
                Ok(Seen::Directory(Contents { metadata, ..contents }))
            }
            Found::Symlink { target, .. } => Ok(Seen::Symlink { target: target.to_vec() }),
            Found::File { .. } => Ok(Seen::File),
            Found::Metadata { file } => Ok(Seen::Elsewhere { cid: file }),
            Found::Other(kind) => Err(Failure::new(
                "bad-tree",
                format!("{} is a {kind}, which is neither file nor folder: leave it out with --select", shown(entry)),
            )),
        }
    }

    /// Looks at a shard's block.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub(super) fn shard(&mut self, shard: &Shard, block: &Block) -> Result<Contents, Failure> {
        let Some(directory) = self.open.get(&shard.directory) else { return Ok(Contents::default()) };
        match look(&shard.cid, block.bytes()) {
            Ok(Found::Shard(node)) => self.take_shard(shard.directory, &shard.place, node),
            Ok(_) => Err(bad_tree(&directory.entry, &"one of its shards is none")),
            Err(error) => Err(bad_tree(&directory.entry, &error)),
        }
    }

    fn take_shard(&mut self, id: u64, place: &ShardPlace, node: ShardNode) -> Result<Contents, Failure> {
        let Some(directory) = self.open.get_mut(&id) else { return Ok(Contents::default()) };
        let mut contents = Contents::default();
        directory.missing -= 1;
        for item in node.expand(place).map_err(|e| bad_tree(&directory.entry, &e))? {
            match item {
                ShardItem::Entry(link) => directory.links.push(link),
                ShardItem::Shard { cid, place } => contents.shards.push(Shard { directory: id, place, cid }),
            }
        }
        directory.missing += contents.shards.len();
        directory.shards += contents.shards.len() as u64;
        if directory.shards > shards_max(directory.links.len() as u64) {
            return Err(bad_tree(&directory.entry, &"it has far more shards than entries"));
        }
        if self.entries + directory.links.len() as u64 > ENTRIES_MAX {
            return Err(too_many());
        }
        if directory.missing == 0
            && let Some(directory) = self.open.remove(&id)
        {
            contents.entries = self.entries_of(directory)?;
        }
        Ok(contents)
    }

    /// The entries of a directory that is here to its end, with safe names, those that may be wanted.
    fn entries_of(&mut self, directory: Directory) -> Result<Vec<Entry>, Failure> {
        let Directory { entry: parent, links, .. } = directory;
        self.entries += links.len() as u64;
        if self.entries > ENTRIES_MAX {
            return Err(too_many());
        }
        let bad = |why: &dyn std::fmt::Display| {
            Failure::new("bad-name", format!("{}: {why}; nothing of this folder was written", shown(&parent)))
        };
        let mut siblings = Siblings::new(self.rules, self.fold);
        for link in &links {
            siblings.push(self.rules.component(&link.name).map_err(|e| bad(&e))?, true);
        }
        let names = siblings.resolve().map_err(|e| bad(&e))?;
        let mut entries = Vec::new();
        for (link, safe) in links.into_iter().zip(names) {
            let mut name = parent.name.clone();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(&link.name);
            let selected = parent.selected || self.select.matches(&name);
            let may_hold = link.cid.codec() == DAG_PB && self.select.may_contain(&name);
            if !selected && !may_hold {
                continue;
            }
            if !matches!(link.cid.codec(), RAW | DAG_PB) {
                let codec = link.cid.codec();
                return Err(bad(&format!(
                    "{safe} has codec 0x{codec:x}, which is no file: leave it out with --select"
                )));
            }
            let path = parent.path.join(&safe).map_err(|e| bad(&e))?;
            entries.push(Entry { path, name, cid: link.cid, expected: link.tsize.unwrap_or(0), selected });
        }
        Ok(entries)
    }
}

fn shown(entry: &Entry) -> String {
    if entry.name.is_empty() { "the folder".to_owned() } else { entry.path.to_string() }
}

fn bad_tree(entry: &Entry, why: &dyn std::fmt::Display) -> Failure {
    Failure::new("bad-tree", format!("{} ({}) lies or is damaged: {why}", shown(entry), entry.cid))
}

fn too_many() -> Failure {
    Failure::new(
        "too-many-entries",
        format!("the folder has more than {ENTRIES_MAX} entries; pull parts with --select"),
    )
}
