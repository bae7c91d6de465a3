//! One file leaf by leaf: its tree, its `.part` with references in the index, its leaves, its name.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use crate::block::{Block, Cid};
use crate::dag::unixfs;
use crate::node::Session;
use crate::store::{Activation, FileRecord, Member, Restore, Store, Writer};
use crate::transfer::api::JobState;
use crate::transfer::failure::{Failure, from_store, from_write};
use crate::transfer::fetch::{Fetch, Progress};
use crate::transfer::plan::{self, Extents, Tree, widen};
use crate::transfer::tree::{PulledTree, pull_tree};

use super::work::Work;
use super::{blocking, lock, unfinished};

/// What is to be brought, and to where.
#[derive(Debug)]
pub(super) struct Target {
    /// The file's root.
    pub(super) root: Cid,
    /// Where it will be.
    pub(super) output: PathBuf,
    /// Its place in the folder that is being pulled, if it is one.
    pub(super) member: Option<Member>,
    /// Its root's block, if that has come already.
    pub(super) top: Option<Block>,
    /// What an earlier attempt left of a member.
    pub(super) known: Option<FileRecord>,
}

impl Work<'_> {
    /// Brings a file, gives it its name and says how many bytes it has. With a member, the bytes to be expected are counted
    /// by the folder.
    pub(super) async fn bring_file(&self, session: &mut Session, target: Target) -> Result<u64, Failure> {
        let Target { root, output, member, top, known } = target;
        let store = &self.pull.store;
        let known = blocking({
            let (store, output) = (store.clone(), output.clone());
            move || {
                let found = if member.is_some() { known } else { unfinished(&store, &root, &output)? };
                found.map(|record| Tree::of(&store, &record).map(|tree| (record, tree))).transpose()
            }
        })
        .await?;
        let (known, pulled) = match known {
            Some((record, tree)) => (Some(record), PulledTree { tree, first_leaf: None }),
            None => (None, pull_tree(store, session, root, top, |notice| self.notice(notice)).await?),
        };
        let tree = pulled.tree;
        if member.is_none() {
            self.set_state(JobState::Planning, None);
        }
        let place = Place { output, member, known };
        let (file, extents, writer) = self.opened(&tree, place).await?;
        if self.pull.request.into_existing {
            self.adopt(&tree, &writer).await?;
        }
        let record = store.file(file.id).map_err(|e| from_store(&e))?;
        let present = record.as_ref().map_or(0, crate::transfer::roots::present_bytes);
        if member.is_none() {
            self.expect_bytes(tree.size, present);
            self.start_meter();
        } else if present > 0 {
            self.update(|status| {
                status.done_bytes += present;
                status.local_bytes += present;
            });
        }
        let mut fetch = Fetch::new(
            store.clone(),
            self.pull.node.clone(),
            writer.clone(),
            tree,
            extents,
            self.pull.options.fetch.clone(),
            &self.share,
        );
        if let Some(block) = pulled.first_leaf {
            fetch.take_first(block)?;
        }
        fetch
            .run(session, |progress| match progress {
                Progress::Written { bytes, local } => self.add_bytes(bytes, local),
                Progress::NobodyHas(cid) => self.nobody_has(&cid),
                Progress::Peers(connected) => self.set_peers(connected),
            })
            .await?;
        drop(fetch);
        self.finish(root, &file, writer).await?;
        Ok(file.len)
    }

    /// Gives the file its metadata and its name.
    async fn finish(&self, root: Cid, file: &FileRecord, writer: Arc<Writer>) -> Result<(), Failure> {
        let (store, preserve) = (self.pull.store.clone(), !self.pull.request.no_preserve);
        let finished = blocking(move || {
            if preserve && let Some(block) = store.read(&widen(&root)).map_err(|e| from_store(&e))? {
                let restore = preserved(&Block::verify(&root, block).map_err(|e| Failure::new("index-damaged", e))?);
                if restore != Restore::default() {
                    writer.restore(&restore).map_err(from_write)?;
                }
            }
            writer.finish().map_err(from_write)
        })
        .await;
        lock(self.open).remove(&file.final_path);
        finished
    }

    /// The file with its writer: the one that an earlier attempt left open, the one that the index holds, or a new `.part`
    /// with its references.
    async fn opened(&self, tree: &Tree, place: Place) -> Result<(FileRecord, Extents, Arc<Writer>), Failure> {
        let left = lock(self.open).get(&place.output).cloned();
        if let Some((record, writer)) = left {
            let extents = extents_of(&self.pull.store, &record)?;
            return Ok((record, extents, writer));
        }
        let (file, extents) = self.planned(tree, place).await?;
        let writer = blocking({
            let (store, id) = (self.pull.store.clone(), file.id);
            move || store.writer(id).map_err(|e| from_store(&e))
        })
        .await?;
        let writer = Arc::new(writer);
        lock(self.open).insert(file.final_path.clone(), (file.clone(), writer.clone()));
        Ok((file, extents, writer))
    }

    async fn planned(&self, tree: &Tree, place: Place) -> Result<(FileRecord, Extents), Failure> {
        let Place { output, member, known } = place;
        let (store, tree) = (self.pull.store.clone(), tree.clone());
        let into_existing = self.pull.request.into_existing;
        let preallocate = self.pull.options.preallocate;
        let planning = self.pull.planning.clone();
        blocking(move || {
            let _alone = planning.lock().unwrap_or_else(PoisonError::into_inner);
            let known = if member.is_some() { known } else { unfinished(&store, &tree.root, &output)? };
            if let Some(record) = known {
                let extents = extents_of(&store, &record)?;
                return Ok((record, extents));
            }
            let existing = into_existing && output.symlink_metadata().is_ok();
            if !existing {
                crate::store::preflight(&output, tree.size).map_err(from_write)?;
            }
            let made = if existing {
                store.adopt_existing(&tree.root, &output, tree.size, member)
            } else {
                store.create_part(&tree.root, &output, tree.size, preallocate, member)
            };
            let id = made.map_err(from_write)?;
            let planned = plan::write_references(&store, id, &tree).and_then(|extents| {
                let activation = Activation { root: &tree.root, leaves: extents.leaves, extents: &extents.offsets };
                store.activate(id, activation).map_err(|e| from_store(&e))?;
                Ok(extents)
            });
            match planned {
                Ok(extents) => {
                    let record = store.file(id).map_err(|e| from_store(&e))?;
                    let record = record.ok_or_else(|| Failure::new("bug", "a planned file is not in the index"))?;
                    Ok((record, extents))
                }
                Err(failure) => {
                    // Nothing has been written into the part; a leftover would only block the next try.
                    let forgotten = store.forget_file(id).map_err(|e| from_store(&e))?;
                    if let Some(file) = forgotten.filter(|file| file.path != file.final_path) {
                        let _ = std::fs::remove_file(&file.path);
                    }
                    Err(failure)
                }
            }
        })
        .await
    }

    /// Hashes what is already in the file and marks the leaves that are right.
    async fn adopt(&self, tree: &Tree, writer: &Arc<Writer>) -> Result<(), Failure> {
        let (store, tree, writer) = (self.pull.store.clone(), tree.clone(), writer.clone());
        blocking(move || crate::transfer::verify::adopt(&store, &tree, &writer)).await?;
        self.touch();
        Ok(())
    }
}

/// Where a file goes, and what is there of it.
struct Place {
    output: PathBuf,
    member: Option<Member>,
    known: Option<FileRecord>,
}

fn extents_of(store: &Store, record: &FileRecord) -> Result<Extents, Failure> {
    let offsets = store.extents(record.id).map_err(|e| from_store(&e))?;
    Ok(Extents { leaves: record.leaves, offsets })
}

/// What a root says of its file besides the bytes; nothing for raw leaves and what cannot be read.
pub(super) fn preserved(root: &Block) -> Restore {
    if root.cid().codec() != crate::block::DAG_PB {
        return Restore::default();
    }
    let data = crate::dag::dagpb::decode(root.bytes()).ok().and_then(|node| node.data);
    let Some(data) = data.and_then(|data| unixfs::Data::decode(&data).ok()) else { return Restore::default() };
    Restore { mode: data.mode, mtime: data.mtime.and_then(|mtime| mtime.to_system_time()) }
}
