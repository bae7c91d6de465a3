//! One pull from its request to the finished file: resolve → plan → fetch → done, and what can interrupt it.
//!
//! The work itself is one future that can be dropped at any await: everything that it must not lose is in the index, so
//! pausing, a full disk and a killed process are the same thing to it, and resuming starts from what is durable. The job
//! around it decides when to drop it and when to start it again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::block::Cid;
use crate::node::{Handle, Session};
use crate::store::{Activation, FileRecord, FileState, Preallocate, Store, Writer};

use super::api::{GetRequest, JobState, JobStatus, SourceInfo, WirePath};
use super::failure::{Failure, from_store, from_write};
use super::fetch::{self, Fetch, Progress};
use super::plan::{self, Extents, Tree};
use super::progress::Meter;
use super::tree::{Notice, PulledTree, pull_tree};

/// How long a pull that ran out of space waits before it looks again.
const SPACE_POLL: Duration = Duration::from_secs(2);

/// Bytes that must be free before a pull that ran out of space goes on: an epoch and the index's own growth.
const SPACE_RESUME_BYTES: u64 = 96 << 20;

/// How often the status is brought up to date.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// Options of all pulls.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Limits of the leaf phase.
    pub fetch: fetch::Options,
    /// How space for a new file is set aside.
    pub preallocate: Preallocate,
}

/// What the outside can ask of a running pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Stop working, keep everything.
    Pause,
    /// Work again.
    Resume,
    /// End, keep the `.part`.
    Cancel,
    /// The node is stopping: make durable what is written, and end without a verdict.
    Stop,
}

/// Everything that one pull works with.
#[derive(Debug)]
pub struct Pull {
    /// The index and the files.
    pub store: Store,
    /// The swarm.
    pub node: Handle,
    /// Options.
    pub options: Options,
    /// What was asked.
    pub request: GetRequest,
    /// Its root.
    pub root: Cid,
    /// Where others see how it stands.
    pub status: watch::Sender<JobStatus>,
    /// What others ask.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// Whether it starts paused.
    pub paused: bool,
    /// Held while the file is being planned: a plan that was dropped half-way ends before the next one begins.
    pub planning: Arc<Mutex<()>>,
}

/// The writer of the pull's file, kept over pauses so that late writes and new ones share their bits.
type OpenFile = Option<(FileRecord, Arc<Writer>)>;

impl Pull {
    /// Runs until done, failed, cancelled or stopped; the last state is in the status.
    pub async fn run(mut self) {
        let mut open: OpenFile = None;
        let mut paused = std::mem::take(&mut self.paused).then(|| "paused by the user".to_owned());
        loop {
            if let Some(reason) = paused.take() {
                let out_of_space = self.set_paused(&mut open, reason).await;
                match self.wait_paused(out_of_space).await {
                    Command::Resume | Command::Pause => {}
                    Command::Cancel => return self.end(JobState::Cancelled, Some("cancelled by the user".into())),
                    Command::Stop => return,
                }
            }
            let work = Work {
                store: &self.store,
                node: &self.node,
                options: &self.options,
                request: &self.request,
                root: self.root,
                status: &self.status,
                planning: &self.planning,
            };
            let ended = tokio::select! {
                result = work.run(&mut open) => Ok(result),
                command = next_command(&mut self.commands) => Err(command),
            };
            match ended {
                Ok(Ok(())) => return self.end(JobState::Done, None),
                Ok(Err(failure)) if failure.code == "no-space" => paused = Some(failure.message),
                Ok(Err(failure)) => {
                    self.make_durable(&mut open).await;
                    self.status.send_if_modified(|status| {
                        status.code = Some(failure.code);
                        false
                    });
                    return self.end(JobState::Failed, Some(failure.message));
                }
                Err(Command::Pause) => paused = Some("paused by the user".into()),
                Err(Command::Resume) => {}
                Err(Command::Cancel) => {
                    self.make_durable(&mut open).await;
                    return self.end(JobState::Cancelled, Some("cancelled by the user".into()));
                }
                Err(Command::Stop) => {
                    self.make_durable(&mut open).await;
                    return;
                }
            }
        }
    }

    /// Shows the pause; true when it is for want of space.
    async fn set_paused(&self, open: &mut OpenFile, reason: String) -> bool {
        self.make_durable(open).await;
        let by_user = reason.starts_with("paused by");
        self.status.send_modify(|status| {
            status.state = JobState::Paused;
            status.message = Some(reason);
            status.rate = 0.0;
            status.eta_seconds = None;
        });
        !by_user
    }

    async fn wait_paused(&mut self, out_of_space: bool) -> Command {
        loop {
            tokio::select! {
                command = next_command(&mut self.commands) => if command != Command::Pause { return command },
                () = tokio::time::sleep(SPACE_POLL), if out_of_space => {
                    let folder = self.request.output.0.parent().unwrap_or_else(|| Path::new(".")).to_owned();
                    let status = self.status.borrow().clone();
                    let needed = SPACE_RESUME_BYTES.min(status.total_bytes.saturating_sub(status.done_bytes).max(1 << 20));
                    if crate::store::free_bytes(&folder).is_ok_and(|free| free >= needed) {
                        return Command::Resume;
                    }
                }
            }
        }
    }

    async fn make_durable(&self, open: &mut OpenFile) {
        if let Some((_, writer)) = open {
            let writer = writer.clone();
            let committed = tokio::task::spawn_blocking(move || writer.commit_epoch()).await;
            if let Ok(Err(error)) = committed {
                tracing::warn!(%error, "the last epoch could not be committed; its leaves will be asked for again");
            }
        }
    }

    fn end(&self, state: JobState, message: Option<String>) {
        self.status.send_modify(|status| {
            status.state = state;
            status.message = message;
            status.eta_seconds = None;
        });
    }
}

/// When something last arrived.
struct LastByte(Mutex<Instant>);

impl LastByte {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn touch(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// One attempt. Borrowed parts only, so that dropping it gives everything back.
struct Work<'a> {
    store: &'a Store,
    node: &'a Handle,
    options: &'a Options,
    request: &'a GetRequest,
    root: Cid,
    status: &'a watch::Sender<JobStatus>,
    planning: &'a Arc<Mutex<()>>,
}

impl Work<'_> {
    async fn run(&self, open: &mut OpenFile) -> Result<(), Failure> {
        let mut session = self.node.open_session().await;
        self.set_state(JobState::Resolving, None);
        let last_byte = LastByte::now();
        let patience = self.request.timeout_seconds.map(Duration::from_secs);
        let work = self.bring(&mut session, open, &last_byte);
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = tokio::time::sleep(STATUS_INTERVAL) => {
                    if let Some(patience) = patience && last_byte.elapsed() >= patience {
                        let why = self.status.borrow().message.clone().unwrap_or_else(|| "no block came".into());
                        return Err(Failure::new("timeout", format!("nothing arrived for {} s: {why}. What is already there is kept; run the same `bitshoal get` again to go on", patience.as_secs())));
                    }
                    self.explain_waiting(last_byte.elapsed()).await;
                }
            }
        }
    }

    async fn bring(&self, session: &mut Session, open: &mut OpenFile, last_byte: &LastByte) -> Result<(), Failure> {
        let known = blocking({
            let (store, root, output) = (self.store.clone(), self.root, self.request.output.0.clone());
            move || unfinished(&store, &root, &output)?.map(|record| Tree::of(&store, &record)).transpose()
        })
        .await?;
        let pulled = match known {
            Some(tree) => PulledTree { tree, first_leaf: None },
            None => {
                pull_tree(self.store, session, self.root, |notice| match notice {
                    Notice::NobodyHas(cid) => self.nobody_has(&cid),
                    Notice::Peers(connected) => self.set_peers(connected),
                    Notice::Progress => {
                        last_byte.touch(Instant::now());
                        self.set_message(None);
                    }
                })
                .await?
            }
        };
        let (file, extents) = self.planned(&pulled.tree, open).await?;
        let writer = match open {
            Some((record, writer)) if record.id == file.id => writer.clone(),
            _ => {
                let writer = blocking({
                    let (store, id) = (self.store.clone(), file.id);
                    move || store.writer(id).map_err(|e| from_store(&e))
                })
                .await?;
                let writer = Arc::new(writer);
                *open = Some((file.clone(), writer.clone()));
                writer
            }
        };
        if self.request.into_existing {
            self.adopt(&pulled.tree, &writer, last_byte).await?;
        }
        let present =
            self.store.file(file.id).map_err(|e| from_store(&e))?.as_ref().map_or(0, super::roots::present_bytes);
        let started = Instant::now();
        let mut meter = Meter::new(started);
        self.status.send_modify(|status| {
            status.state = JobState::Fetching;
            status.total_bytes = pulled.tree.size;
            status.done_bytes = present;
            status.local_bytes = status.local_bytes.max(present);
        });
        last_byte.touch(started);
        let mut fetch = Fetch::new(
            self.store.clone(),
            self.node.clone(),
            writer.clone(),
            pulled.tree.clone(),
            extents,
            self.options.fetch.clone(),
        );
        if let Some(block) = pulled.first_leaf {
            fetch.take_first(block)?;
        }
        let reports = session.reporter();
        let total = pulled.tree.size;
        let fetched = fetch.run(session, |progress| match progress {
            Progress::Written { bytes, local } => {
                let now = Instant::now();
                last_byte.touch(now);
                meter.add(now, bytes);
                self.status.send_if_modified(|status| {
                    status.done_bytes += bytes;
                    status.local_bytes += if local { bytes } else { 0 };
                    status.message = None;
                    status.rate = meter.rate(now);
                    status.eta_seconds = meter.eta_seconds(now, total.saturating_sub(status.done_bytes));
                    status.elapsed_seconds = meter.elapsed_seconds(now);
                    false
                });
            }
            Progress::NobodyHas(cid) => self.nobody_has(&cid),
            Progress::Peers(connected) => self.set_peers(connected),
        });
        let watched = async {
            loop {
                tokio::time::sleep(STATUS_INTERVAL).await;
                self.report(&reports).await;
            }
        };
        tokio::select! {
            result = fetched => result?,
            never = watched => never,
        }
        self.report(&reports).await;
        let finished = blocking(move || writer.finish().map_err(from_write)).await;
        *open = None;
        finished
    }

    /// The file of this pull: the one that the index already holds, or a new `.part` with its references.
    async fn planned(&self, tree: &Tree, open: &OpenFile) -> Result<(FileRecord, Extents), Failure> {
        self.set_state(JobState::Planning, None);
        if let Some((record, _)) = open {
            return Ok((record.clone(), extents_of(self.store, record)?));
        }
        let store = self.store.clone();
        let tree = tree.clone();
        let output = self.request.output.0.clone();
        let into_existing = self.request.into_existing;
        let preallocate = self.options.preallocate;
        let planning = self.planning.clone();
        blocking(move || {
            let _alone = planning.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(record) = unfinished(&store, &tree.root, &output)? {
                let extents = extents_of(&store, &record)?;
                return Ok((record, extents));
            }
            let existing = into_existing && output.exists();
            if !existing {
                crate::store::preflight(&output, tree.size).map_err(from_write)?;
            }
            let made = if existing {
                store.adopt_existing(&tree.root, &output, tree.size)
            } else {
                store.create_part(&tree.root, &output, tree.size, preallocate, None)
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
    async fn adopt(&self, tree: &Tree, writer: &Arc<Writer>, last_byte: &LastByte) -> Result<(), Failure> {
        let (store, tree, writer) = (self.store.clone(), tree.clone(), writer.clone());
        blocking(move || super::verify::adopt(&store, &tree, &writer)).await?;
        last_byte.touch(Instant::now());
        Ok(())
    }

    async fn report(&self, reports: &crate::node::Reporter) {
        let report = reports.report().await;
        self.status.send_modify(|status| {
            status.peers = report.connected;
            status.duplicate_blocks = report.duplicate_blocks;
            status.sources = report
                .sources
                .iter()
                .map(|source| SourceInfo {
                    peer_id: source.peer.to_string(),
                    bytes: source.bytes,
                    blocks: source.blocks,
                })
                .collect();
        });
    }

    /// When nothing comes, says what we wait for.
    async fn explain_waiting(&self, idle: Duration) {
        if idle < Duration::from_secs(1) {
            return;
        }
        let peers = self.node.peers().await.len();
        let waiting = if peers == 0 {
            let mut text =
                "no peers connected; waiting for one (`--peer ADDR` or `peers` in node.toml say where to look)"
                    .to_owned();
            for (address, reason) in self.node.dial_report().await {
                text = format!("{text}; {address}: {reason}");
            }
            Some(text)
        } else {
            None
        };
        self.status.send_if_modified(|status| {
            status.peers = peers;
            let changed = waiting.is_some() && status.message != waiting;
            if changed {
                status.message = waiting;
            }
            changed
        });
    }

    fn nobody_has(&self, cid: &Cid) {
        let what = if *cid == self.root { format!("{cid}") } else { format!("the rest of {}", self.root) };
        self.set_message(Some(format!("none of the connected peers has {what}; waiting for one that does")));
    }

    fn set_peers(&self, connected: usize) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.peers, connected) != connected);
    }

    fn set_state(&self, state: JobState, message: Option<String>) {
        self.status.send_modify(|status| {
            status.state = state;
            status.message = message;
        });
    }

    fn set_message(&self, message: Option<String>) {
        self.status.send_if_modified(|status| {
            let changed = status.message != message;
            status.message = message;
            changed
        });
    }
}

/// The unfinished file of this very pull, if the index holds one.
fn unfinished(store: &Store, root: &Cid, output: &Path) -> Result<Option<FileRecord>, Failure> {
    let files = store.single_files().map_err(|e| from_store(&e))?;
    let ours = files.into_iter().find(|file| file.root == Some(*root) && file.final_path == output);
    match ours {
        Some(file) => match &file.state {
            FileState::Partial => Ok(Some(file)),
            FileState::Broken(_) => {
                // Its bytes are gone; what the index says of it is worth nothing any more.
                store.forget_file(file.id).map_err(|e| from_store(&e))?;
                Ok(None)
            }
            FileState::Complete if !output.exists() => {
                store.forget_file(file.id).map_err(|e| from_store(&e))?;
                Ok(None)
            }
            _ => Ok(None),
        },
        None => Ok(None),
    }
}

fn extents_of(store: &Store, record: &FileRecord) -> Result<Extents, Failure> {
    let offsets = store.extents(record.id).map_err(|e| from_store(&e))?;
    Ok(Extents { leaves: record.leaves, offsets })
}

/// Where the bytes are until the file is complete.
#[must_use]
pub fn part_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// What must be true before a pull may start: nothing is made yet, so a refusal leaves nothing behind.
///
/// # Errors
/// `path-exists`, `part-exists`, `parent-missing`, `not-a-file`.
pub fn check_output(store: &Store, root: &Cid, request: &GetRequest) -> Result<(), Failure> {
    let output = &request.output.0;
    if unfinished(store, root, output)?.is_some() {
        return Ok(());
    }
    match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            return Err(Failure::new(
                "parent-missing",
                format!("the folder {} does not exist; make it first or choose another path with -o", parent.display()),
            ));
        }
        _ => {}
    }
    match (output.symlink_metadata(), request.into_existing) {
        (Ok(found), true) if !found.is_file() => {
            return Err(Failure::new("not-a-file", format!("{} is not a regular file", output.display())));
        }
        (Ok(_), false) => {
            return Err(Failure::new(
                "path-exists",
                format!(
                    "{} exists already; choose another path with -o, or --into-existing to keep what is right in it and fetch the rest",
                    output.display()
                ),
            ));
        }
        _ => {}
    }
    let part = part_path(output);
    if !request.into_existing && part.symlink_metadata().is_ok() {
        return Err(Failure::new(
            "part-exists",
            format!(
                "{} exists and does not belong to a pull of {root} that this repo knows; remove it or choose another path with -o",
                part.display()
            ),
        ));
    }
    Ok(())
}

/// A status for a job that has not begun.
#[must_use]
pub fn first_status(id: u64, request: &GetRequest, state: JobState) -> JobStatus {
    JobStatus {
        id,
        cid: request.cid.clone(),
        output: WirePath(request.output.0.clone()),
        state,
        message: None,
        code: None,
        done_bytes: 0,
        total_bytes: 0,
        rate: 0.0,
        eta_seconds: None,
        elapsed_seconds: 0.0,
        peers: 0,
        sources: Vec::new(),
        local_bytes: 0,
        duplicate_blocks: 0,
    }
}

async fn next_command(commands: &mut mpsc::UnboundedReceiver<Command>) -> Command {
    commands.recv().await.unwrap_or(Command::Stop)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::new("bug", e))?
}
