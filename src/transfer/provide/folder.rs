//! Imports folders: one thread walks, several read and hash, one puts folders together and gathers what the index gets.
//!
//! A folder's node is made when all of its entries are known, which is soon after the walk has left it. What grows with
//! the number of files is only the compact list of entries of the folders under way. Nobody waits for anybody in a
//! circle: the walk sends to the readers and to the collector, the readers to the collector, the collector to the index.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::lot::Lots;
use super::small::{Hashed, Read, Reader, Whole};
use super::walk::{Batch, Folder, FolderId, Halt, Listener, Start, Walk};
use super::{Done, Import, Watch, cancelled, file, unreadable};
use crate::block::Cid;
use crate::dag::directory::{self, Entries};
use crate::store::{self, Attributes, CollectionId, Member, Store};
use crate::transfer::failure::Failure;

/// Messages that may wait for the collector.
const MESSAGES: usize = 64;
/// Batches that may wait for the readers.
const BATCHES: usize = 64;
/// Threads that read at the least: files that are not in the page cache are waited for side by side.
const READERS_MIN: usize = 16;
/// A reader tells of what it has read at least every so many bytes.
const TELL_BYTES: u64 = 16 << 20;

/// Where the walk begins.
#[derive(Debug)]
pub(super) enum Top<'a> {
    /// This folder is the root.
    Folder(&'a Path),
    /// The root is a directory of these.
    Wrapping(Vec<Start>),
}

impl Top<'_> {
    /// The attributes of the root, if they are asked for and there are any.
    fn attributes(&self, import: &Import) -> Result<Option<Attributes>, Failure> {
        match self {
            Self::Folder(path) if import.keep.own() => {
                let metadata = std::fs::symlink_metadata(path).map_err(unreadable(path))?;
                Ok(Some(store::path_attributes(&metadata)))
            }
            _ => Ok(None),
        }
    }
}

/// What has been made of a folder.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) root: Part,
    /// Files and links.
    pub(super) files: u64,
    /// Of a wrapping directory: what is in it.
    pub(super) wrapped: Vec<(OsString, Part)>,
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) cid: Cid,
    /// Bytes of all blocks.
    pub(super) tsize: u64,
    /// Bytes of the file, or of all files.
    pub(super) bytes: u64,
}

/// Where an import's files go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) store: &'a Store,
    pub(super) collection: CollectionId,
}

/// Imports all that is below `top`. The files are in the collection when this returns; finishing or forgetting it is the
/// caller's.
pub(super) fn import(
    target: Option<Target<'_>>,
    top: Top<'_>,
    import: &Import,
    watch: &mut Watch<'_>,
) -> Result<Made, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let readers = cores.max(READERS_MIN);
    std::thread::scope(|scope| {
        let lots = Lots::new(scope, target.map(|target| target.store));
        let (messages, inbox) = sync_channel(MESSAGES);
        let (batches, queue) = sync_channel(BATCHES);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..readers {
            let (queue, messages) = (Arc::clone(&queue), messages.clone());
            scope.spawn(move || read_batches(import, &queue, &messages));
        }
        let wrapping = matches!(top, Top::Wrapping(_));
        let root = Open::new(top.attributes(import)?, wrapping);
        scope.spawn(move || walk(top, import, Tell { messages, batches }));
        let mut collector = Collector::new(target, import, lots, root);
        let made = collector.collect(&inbox, watch);
        // Whoever is still at work ends with his next message.
        drop((inbox, queue));
        let stored = collector.lots.finish(made.is_err());
        // What stopped the index stopped the collector.
        stored.and(made)
    })
}

/// What the collector hears.
enum Message {
    Folder(Folder),
    Read { folder: FolderId, path: Arc<PathBuf>, items: Vec<(OsString, Read)> },
    Failed(Failure),
}

/// The walk's end of the channels.
struct Tell {
    messages: SyncSender<Message>,
    batches: SyncSender<Batch>,
}

impl Listener for Tell {
    fn folder(&mut self, folder: Folder) -> Result<(), Halt> {
        self.messages.send(Message::Folder(folder)).map_err(|_| Halt::Unheard)
    }

    fn batch(&mut self, batch: Batch) -> Result<(), Halt> {
        self.batches.send(batch).map_err(|_| Halt::Unheard)
    }
}

fn walk(top: Top<'_>, import: &Import, tell: Tell) {
    let messages = tell.messages.clone();
    let walk = Walk::new(&import.rules, import.keep.own(), tell);
    let ended = match top {
        Top::Folder(path) => walk.folder(path),
        Top::Wrapping(starts) => walk.several(starts),
    };
    if let Err(Halt::Failed(failure)) = ended {
        let _ = messages.send(Message::Failed(failure));
    }
}

/// One reader: reads and hashes until there is nothing more, an error, or nobody listens.
fn read_batches(import: &Import, queue: &Mutex<Receiver<Batch>>, messages: &SyncSender<Message>) {
    let mut reader = Reader::new(import);
    loop {
        let batch = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Batch { folder, path, names }) = batch else { return };
        let mut items = Vec::with_capacity(names.len());
        let mut bytes = 0;
        for (name, leaf) in names {
            match reader.read(path.join(&name), leaf) {
                Ok(read) => {
                    bytes += read.bytes();
                    items.push((name, read));
                }
                Err(failure) => {
                    let _ = messages.send(Message::Failed(failure));
                    return;
                }
            }
            if bytes >= TELL_BYTES {
                bytes = 0;
                let items = std::mem::take(&mut items);
                if messages.send(Message::Read { folder, path: Arc::clone(&path), items }).is_err() {
                    return;
                }
            }
        }
        if messages.send(Message::Read { folder, path, items }).is_err() {
            return;
        }
    }
}

/// Puts folders together.
struct Collector<'scope, 'a> {
    target: Option<Target<'a>>,
    import: &'a Import,
    lots: Lots<'scope>,
    open: HashMap<FolderId, Open>,
    made: Option<Made>,
    entry: u32,
    done: Done,
}

/// A folder of which something is still to come.
struct Open {
    parent: FolderId,
    name: OsString,
    attributes: Option<Attributes>,
    entries: Entries,
    /// How many entries there are and will be, the latter once it has been listed.
    seen: u64,
    expected: Option<u64>,
    bytes: u64,
    /// What is in it by name, if that is asked for.
    wrapped: Option<Vec<(OsString, Part)>>,
}

impl Open {
    fn new(attributes: Option<Attributes>, wrapping: bool) -> Self {
        Self {
            parent: 0,
            name: OsString::new(),
            attributes,
            entries: Entries::default(),
            seen: 0,
            expected: None,
            bytes: 0,
            wrapped: wrapping.then(Vec::new),
        }
    }
}

impl<'scope, 'a> Collector<'scope, 'a> {
    fn new(target: Option<Target<'a>>, import: &'a Import, lots: Lots<'scope>, root: Open) -> Self {
        let open = HashMap::from([(0, root)]);
        Self { target, import, lots, open, made: None, entry: 0, done: Done::default() }
    }

    /// Hears all messages, until the top is made.
    fn collect(&mut self, inbox: &Receiver<Message>, watch: &mut Watch<'_>) -> Result<Made, Failure> {
        loop {
            if self.lots.has_failed() {
                return Err(cancelled());
            }
            if let Some(made) = self.made.take() {
                return Ok(made);
            }
            match inbox.recv().map_err(|_| Failure::new("bug", "an import worker has died"))? {
                Message::Folder(Folder::Found { id, parent, name, attributes }) => {
                    self.open.insert(id, Open { parent, name, ..Open::new(attributes, false) });
                }
                Message::Folder(Folder::Listed { id, entries }) => {
                    self.folder(id)?.expected = Some(entries);
                    self.settle(id)?;
                }
                Message::Read { folder, path, items } => {
                    for (name, read) in items {
                        self.take(folder, &path, name, read, watch)?;
                    }
                    self.settle(folder)?;
                }
                Message::Failed(failure) => return Err(failure),
            }
            if !watch(self.done) {
                return Err(cancelled());
            }
        }
    }

    /// Enters one file or link in its folder.
    fn take(
        &mut self,
        folder: FolderId,
        path: &Path,
        name: OsString,
        read: Read,
        watch: &mut Watch<'_>,
    ) -> Result<(), Failure> {
        let part = match read {
            Read::Node(whole) => {
                let Whole { cid, tsize, block } = *whole;
                if let Some(block) = block {
                    self.lots.node(block);
                }
                Part { cid, tsize, bytes: 0 }
            }
            Read::File(hashed) => {
                let Hashed { root, nodes, mut file } = *hashed;
                for block in nodes {
                    self.lots.node(block);
                }
                file.file.member = self.next_member()?;
                self.lots.file(file);
                self.done.bytes += root.size;
                Part { cid: root.cid, tsize: root.tsize, bytes: root.size }
            }
            Read::Large(attributes) => {
                let path = path.join(&name);
                let member = self.next_member()?;
                let before = self.done;
                let mut watch_file = |bytes| watch(Done { bytes: before.bytes + bytes, ..before });
                let store = self.target.map(|target| target.store);
                let root = file::import_member(store, &path, self.import, attributes, member, &mut watch_file)?;
                self.done.bytes += root.size;
                Part { cid: root.cid, tsize: root.tsize, bytes: root.size }
            }
        };
        self.done.files += 1;
        self.enter(folder, &name, part)
    }

    fn enter(&mut self, id: FolderId, name: &OsStr, part: Part) -> Result<(), Failure> {
        let folder = self.folder(id)?;
        let in_directory = store::name_bytes(name).ok_or_else(|| {
            Failure::new(
                "bad-name",
                format!("{} is not Unicode, which names in a directory have to be", name.display()),
            )
        })?;
        folder.entries.push(in_directory, &part.cid, part.tsize);
        folder.seen += 1;
        folder.bytes += part.bytes;
        if let Some(wrapped) = &mut folder.wrapped {
            wrapped.push((name.to_owned(), part));
        }
        Ok(())
    }

    /// Makes a folder's node if all of its entries are here, and enters it in its parent, and so on up.
    fn settle(&mut self, mut id: FolderId) -> Result<(), Failure> {
        loop {
            let folder = self.folder(id)?;
            if folder.expected != Some(folder.seen) {
                return Ok(());
            }
            let Some(folder) = self.open.remove(&id) else { return Ok(()) };
            let metadata = self.import.keep.metadata(folder.attributes.as_ref());
            let lots = &mut self.lots;
            let mut options = self.import.directory;
            if id == 0 {
                // Kubo does not heed this for the directory that an import begins with.
                options.max_links = None;
            }
            let made = directory::build(&options, &folder.entries, metadata, &mut |block| lots.node(block))
                .map_err(|e| Failure::new("bad-directory", e))?;
            let root = Part { cid: made.cid, tsize: made.tsize, bytes: folder.bytes };
            if id == 0 {
                let wrapped = folder.wrapped.unwrap_or_default();
                self.made = Some(Made { root, files: self.done.files, wrapped });
                return Ok(());
            }
            self.enter(folder.parent, &folder.name, root)?;
            id = folder.parent;
        }
    }

    fn folder(&mut self, id: FolderId) -> Result<&mut Open, Failure> {
        self.open.get_mut(&id).ok_or_else(|| Failure::new("bug", "an entry of a folder that is made already"))
    }

    /// The next place in the collection, if there is one.
    fn next_member(&mut self) -> Result<Option<Member>, Failure> {
        let entry = self.entry;
        self.entry = entry.checked_add(1).ok_or_else(|| Failure::new("too-many-files", "2³² files in one folder"))?;
        Ok(self.target.map(|target| Member { collection: target.collection, entry }))
    }
}
