//! One pull from its request to the finished file or folder: resolve → plan → fetch → done, and what can interrupt it.
//!
//! `mod.rs` is the job, `work` one attempt and how it shows itself, `file` one large file, `directory` a folder of many
//! files, of which the small ones are put together in memory (`gather`).
//!
//! The work itself is one future that can be dropped at any await: everything that it must not lose is in the index, so
//! pausing, a full disk and a killed process are the same thing to it, and resuming starts from what is durable. The job
//! around it decides when to drop it and when to start it again.

mod discover;
mod file;
mod folder;
mod fresh;
mod gather;
mod land;
mod work;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::block::Cid;
use crate::node::Handle;
use crate::store::{CollectionState, FileRecord, FileState, Preallocate, Store, Writer, part_path};

use super::api::{GetRequest, JobState, JobStatus, WirePath};
use super::failure::{Failure, from_store};
use super::fetch;
use super::resolve;
use work::Work;

/// How long a pull that ran out of space waits before it looks again.
const SPACE_POLL: Duration = Duration::from_secs(2);

/// Bytes that must be free before a pull that ran out of space goes on: an epoch and the index's own growth.
const SPACE_RESUME_BYTES: u64 = 96 << 20;

/// The code of a failure for want of space, and of a pull that waits for it.
const NO_SPACE: &str = "no-space";

/// Why a pull waits.
#[derive(Debug)]
enum Pause {
    /// It goes on when the user says so.
    ByUser,
    /// It goes on when there is space; with what is full.
    NoSpace(String),
}

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
    /// What was asked for.
    pub asked: resolve::Path,
    /// Where others see how it stands.
    pub status: watch::Sender<JobStatus>,
    /// Whether it starts paused.
    pub paused: bool,
    /// Held while the file is being planned: a plan that was dropped half-way ends before the next one begins.
    pub planning: Arc<Mutex<()>>,
    /// Read-locked by every lot of small files that is being written, which an attempt that was dropped may have left.
    pub landing: Arc<RwLock<()>>,
    /// Files of a folder that are complete, in the order of their completion, if the request wants to be told.
    pub finished: Finished,
}

/// A file of a folder that is complete.
#[derive(Debug, Clone)]
pub struct FileDone {
    /// Where it is.
    pub path: PathBuf,
    /// Its root.
    pub cid: Cid,
    /// Its length.
    pub bytes: u64,
}

/// A growing list that several read.
pub type Finished = Arc<Mutex<Vec<FileDone>>>;

/// The writers of the pull's files by final path, kept over pauses so that late writes and new ones share their bits.
type OpenFiles = Mutex<HashMap<PathBuf, (FileRecord, Arc<Writer>)>>;

impl Pull {
    /// Runs until done, failed, cancelled or stopped, as `commands` say; the last state is in the status.
    pub async fn run(self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let open = OpenFiles::default();
        let mut paused = self.paused.then_some(Pause::ByUser);
        loop {
            if let Some(pause) = paused.take() {
                self.set_paused(&open, &pause).await;
                match self.wait_paused(&mut commands, &pause).await {
                    // At once, so that it never looks as if the user had paused it.
                    Command::Resume | Command::Pause => self.status.send_modify(|status| {
                        (status.state, status.code) = (JobState::Resolving, None);
                    }),
                    Command::Cancel => return self.end(JobState::Cancelled, Some("cancelled by the user".into())),
                    Command::Stop => return,
                }
            }
            let work = Work::new(&self, &open);
            let ended = tokio::select! {
                result = work.run() => Ok(result),
                command = next_command(&mut commands) => Err(command),
            };
            match ended {
                // What a folder could not have, its links that point outside for example, is said with its end.
                Ok(Ok(())) => {
                    let message = self.status.borrow().message.clone();
                    return self.end(JobState::Done, message);
                }
                Ok(Err(failure)) if failure.code == NO_SPACE => paused = Some(Pause::NoSpace(failure.message)),
                Ok(Err(failure)) => {
                    self.make_durable(&open).await;
                    self.status.send_if_modified(|status| {
                        status.code = Some(failure.code);
                        false
                    });
                    return self.end(JobState::Failed, Some(failure.message));
                }
                Err(Command::Pause) => paused = Some(Pause::ByUser),
                Err(Command::Resume) => {}
                Err(Command::Cancel) => {
                    self.make_durable(&open).await;
                    return self.end(JobState::Cancelled, Some("cancelled by the user".into()));
                }
                Err(Command::Stop) => {
                    self.make_durable(&open).await;
                    return;
                }
            }
        }
    }

    /// Shows the pause.
    async fn set_paused(&self, open: &OpenFiles, pause: &Pause) {
        self.make_durable(open).await;
        let (code, message) = match pause {
            Pause::ByUser => (None, "paused by the user".to_owned()),
            Pause::NoSpace(message) => (Some(NO_SPACE.to_owned()), message.clone()),
        };
        self.status.send_modify(|status| {
            status.state = JobState::Paused;
            (status.code, status.message) = (code, Some(message));
            status.rate = 0.0;
            status.eta_seconds = None;
        });
    }

    async fn wait_paused(&self, commands: &mut mpsc::UnboundedReceiver<Command>, pause: &Pause) -> Command {
        let out_of_space = matches!(pause, Pause::NoSpace(_));
        loop {
            tokio::select! {
                command = next_command(commands) => if command != Command::Pause { return command },
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

    async fn make_durable(&self, open: &OpenFiles) {
        let writers: Vec<Arc<Writer>> = lock(open).values().map(|(_, writer)| writer.clone()).collect();
        for writer in writers {
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

/// Whether an earlier pull to this path can be gone on with: an unfinished one, whatever its root is, and a folder that is
/// complete, which may lack what was not selected or is gone since. Where a path is asked for, what it leads to is not
/// known yet, and any complete folder may be that.
fn is_begun(store: &Store, output: &Path, asked: &resolve::Path) -> Result<bool, Failure> {
    let files = store.single_files().map_err(|e| from_store(&e))?;
    let roots: Vec<Cid> = files.iter().filter(|file| file.final_path == output).filter_map(|file| file.root).collect();
    for root in roots {
        if unfinished(store, &root, output)?.is_some() {
            return Ok(true);
        }
    }
    let folders = store.collections().map_err(|e| from_store(&e))?;
    Ok(folders.iter().any(|found| {
        let may_be = match found.state {
            CollectionState::Partial => true,
            CollectionState::Complete => !asked.names.is_empty() || found.root == Some(asked.root),
            _ => false,
        };
        may_be && found.path.as_deref() == Some(output)
    }))
}

/// Where a pull goes that was sent to a folder: into it, unless the folder is what an earlier pull of the same has made.
///
/// # Errors
/// `not-a-cid`, and those of the index.
pub fn settle_output(store: &Store, request: &mut GetRequest) -> Result<(), Failure> {
    let Some(name) = request.name_in_folder.take() else { return Ok(()) };
    let asked = resolve::Path::parse(&request.cid)?;
    let output = &mut request.output.0;
    if output.is_dir() && !request.into_existing && !is_begun(store, output, &asked)? {
        output.push(name);
    }
    Ok(())
}

/// What must be true before a pull may start: nothing is made yet, so a refusal leaves nothing behind.
///
/// # Errors
/// `path-exists`, `part-exists`, `parent-missing`, `not-a-file`.
pub fn check_output(store: &Store, request: &GetRequest) -> Result<(), Failure> {
    let output = &request.output.0;
    if is_begun(store, output, &resolve::Path::parse(&request.cid)?)? {
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
        (Ok(found), true) if !found.is_file() && !found.is_dir() => {
            let message = format!("{} is neither a regular file nor a folder", output.display());
            return Err(Failure::new("not-a-file", message));
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
                "{} exists and does not belong to a pull that this repo knows; remove it or choose another path with -o",
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
        done_files: 0,
        total_files: 0,
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

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::new("bug", e))?
}
