//! The table of pulls: each runs as a task, is remembered by the index until it is done, and can be followed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::node::Handle;
use crate::store::Store;

use super::api::{GetRequest, JobState, JobStatus};
use super::failure::{Failure, from_store};
use super::pull::{self, Command, FileDone, Finished, Pull};
use super::resolve::Path;

/// How long a command waits for the pull to show its effect.
const COMMAND_PATIENCE: Duration = Duration::from_secs(5);

/// Ended pulls that stay in the list of this process, oldest dropped first.
const ENDED_JOBS_MAX: usize = 100;

/// All pulls of one engine.
#[derive(Debug, Clone)]
pub(super) struct Jobs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    node: Option<Handle>,
    options: pull::Options,
    table: Mutex<BTreeMap<u64, Job>>,
}

#[derive(Debug)]
struct Job {
    request: GetRequest,
    status: watch::Receiver<JobStatus>,
    commands: mpsc::UnboundedSender<Command>,
    finished: Finished,
    task: Option<JoinHandle<()>>,
}

/// What the index remembers of a pull.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    request: GetRequest,
    state: JobState,
    message: Option<String>,
    /// Bytes in place and bytes in all when it was last remembered.
    done_bytes: u64,
    total_bytes: u64,
}

impl Jobs {
    pub(super) fn new(store: Store, node: Option<Handle>, options: pull::Options) -> Self {
        Self(Arc::new(Shared { store, node, options, table: Mutex::new(BTreeMap::new()) }))
    }

    /// Goes on with what the index remembers. Without a node the jobs are only listed.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        for (id, bytes) in self.0.store.jobs().map_err(|e| from_store(&e))? {
            let Ok(remembered) = serde_json::from_slice::<Remembered>(&bytes) else {
                tracing::warn!(id, "a job in the index cannot be read; it is left alone");
                continue;
            };
            for peer in &remembered.request.peers {
                if let (Some(node), Ok(addr)) = (&self.0.node, peer.parse()) {
                    node.keep(addr);
                }
            }
            if self.0.node.is_none() || remembered.state.is_final() {
                self.list_only(id, remembered);
            } else {
                self.spawn(id, remembered.request, remembered.state == JobState::Paused)?;
            }
        }
        Ok(())
    }

    /// Starts a pull, or finds the one that is already running for the same root and path.
    pub(super) fn start(&self, mut request: GetRequest) -> Result<u64, Failure> {
        pull::settle_output(&self.0.store, &mut request)?;
        let asked = Path::parse(&request.cid)?;
        if !matches!(asked.root.codec(), crate::block::RAW | crate::block::DAG_PB) {
            return Err(super::tree::unknown_codec(&asked.root));
        }
        let same = |job: &Job| job.request.output == request.output && !job.status.borrow().state.is_final();
        let running = self.table().iter().find(|(_, job)| same(job)).map(|(id, job)| (*id, job.request.cid.clone()));
        match running {
            Some((id, cid)) if Path::parse(&cid).is_ok_and(|path| path == asked) => {
                if self.status(id)?.state == JobState::Paused {
                    self.send(id, Command::Resume)?;
                }
                return Ok(id);
            }
            Some((id, cid)) => {
                return Err(Failure::new(
                    "path-exists",
                    format!("job {id} is already pulling {cid} to {}; choose another path with -o", request.output),
                ));
            }
            None => {}
        }
        pull::check_output(&self.0.store, &request)?;
        let id = self.0.store.next_job_id().map_err(|e| from_store(&e))?;
        // A failed or cancelled job for the same file is superseded by this one.
        let stale: Vec<u64> = self
            .table()
            .iter()
            .filter(|(_, job)| job.request.output == request.output && job.status.borrow().state.is_final())
            .map(|(id, _)| *id)
            .collect();
        for old in stale {
            self.table().remove(&old);
            let _ = self.0.store.delete_job(old).map_err(|e| from_store(&e))?;
        }
        self.spawn(id, request, false)?;
        Ok(id)
    }

    pub(super) fn list(&self) -> Vec<JobStatus> {
        self.table().values().map(|job| job.status.borrow().clone()).collect()
    }

    pub(super) fn status(&self, id: u64) -> Result<JobStatus, Failure> {
        Ok(self.follow(id)?.borrow().clone())
    }

    pub(super) fn follow(&self, id: u64) -> Result<watch::Receiver<JobStatus>, Failure> {
        self.table().get(&id).map(|job| job.status.clone()).ok_or_else(|| no_such_job(id))
    }

    /// Files of a job's folder that were completed after the first `from` of them.
    pub(super) fn finished(&self, id: u64, from: usize) -> Vec<FileDone> {
        let log = self.table().get(&id).map(|job| job.finished.clone());
        log.and_then(|log| Some(log.lock().unwrap_or_else(PoisonError::into_inner).get(from..)?.to_vec()))
            .unwrap_or_default()
    }

    /// The code of a failed job.
    pub(super) fn failure_code(&self, id: u64) -> String {
        self.table().get(&id).and_then(|job| job.status.borrow().code.clone()).unwrap_or_else(|| "failed".to_owned())
    }

    /// Asks a pull something and waits until it shows.
    pub(super) async fn command(&self, id: u64, command: Command) -> Result<JobStatus, Failure> {
        let mut status = self.follow(id)?;
        let state = status.borrow().state;
        if state.is_final() {
            if state == JobState::Failed && command == Command::Resume {
                let request = self.table().get(&id).map(|job| job.request.clone()).ok_or_else(|| no_such_job(id))?;
                let new = self.start(request)?;
                return self.status(new);
            }
            if command == Command::Cancel && state != JobState::Done {
                let _ = self.0.store.delete_job(id).map_err(|e| from_store(&e))?;
                self.table().remove(&id);
                return Ok(status.borrow().clone());
            }
            return Err(Failure::new("job-ended", format!("job {id} has already ended")));
        }
        self.send(id, command)?;
        let shown = |status: &JobStatus| match command {
            Command::Pause => status.state == JobState::Paused || status.state.is_final(),
            Command::Resume => status.state != JobState::Paused,
            Command::Cancel | Command::Stop => status.state.is_final(),
        };
        let waited = tokio::time::timeout(COMMAND_PATIENCE, status.wait_for(shown)).await;
        match waited {
            Ok(Ok(status)) => Ok(status.clone()),
            Ok(Err(_)) | Err(_) => Err(Failure::new("busy", format!("job {id} has not answered yet; try again"))),
        }
    }

    /// Cancels every running pull of a root.
    pub(super) async fn cancel_root(&self, cid: &str) {
        let running: Vec<u64> = self
            .table()
            .iter()
            .filter(|(_, job)| job.request.cid == cid && !job.status.borrow().state.is_final())
            .map(|(id, _)| *id)
            .collect();
        for id in running {
            if let Err(error) = self.command(id, Command::Cancel).await {
                tracing::warn!(id, %error, "a pull could not be cancelled");
            }
        }
    }

    /// Stops all pulls where they are; they go on when the engine starts again.
    pub(super) async fn stop(&self) {
        let tasks: Vec<JoinHandle<()>> = self
            .table()
            .values_mut()
            .filter_map(|job| {
                let _ = job.commands.send(Command::Stop);
                job.task.take()
            })
            .collect();
        for task in tasks {
            let _ = task.await;
        }
    }

    fn spawn(&self, id: u64, request: GetRequest, paused: bool) -> Result<(), Failure> {
        let Some(node) = self.0.node.clone() else {
            return Err(Failure::new("no-daemon", "a pull needs a running node"));
        };
        let asked = Path::parse(&request.cid)?;
        let state = if paused { JobState::Paused } else { JobState::Resolving };
        let first = pull::first_status(id, &request, state);
        remember(&self.0.store, &request, &first)?;
        let (sender, status) = watch::channel(first);
        let (commands, received) = mpsc::unbounded_channel();
        let finished = Finished::default();
        let work = Pull {
            store: self.0.store.clone(),
            node,
            options: self.0.options.clone(),
            request: request.clone(),
            asked,
            status: sender,
            paused,
            planning: Arc::default(),
            landing: Arc::default(),
            finished: finished.clone(),
        };
        let keeper = tokio::spawn(keep(self.0.store.clone(), request.clone(), status.clone()));
        let task = tokio::spawn(async move {
            work.run(received).await;
            let _ = keeper.await;
        });
        let mut table = self.table();
        table.insert(id, Job { request, status, commands, finished, task: Some(task) });
        let ended: Vec<u64> =
            table.iter().filter(|(_, job)| job.status.borrow().state.is_final()).map(|(id, _)| *id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(ENDED_JOBS_MAX)) {
            table.remove(id);
        }
        Ok(())
    }

    fn list_only(&self, id: u64, remembered: Remembered) {
        let mut status = pull::first_status(id, &remembered.request, remembered.state);
        status.message = remembered.message;
        status.done_bytes = remembered.done_bytes;
        status.total_bytes = remembered.total_bytes;
        let (_, receiver) = watch::channel(status);
        let (commands, _) = mpsc::unbounded_channel();
        self.table().insert(
            id,
            Job { request: remembered.request, status: receiver, commands, finished: Finished::default(), task: None },
        );
    }

    fn send(&self, id: u64, command: Command) -> Result<(), Failure> {
        let sent = self.table().get(&id).is_some_and(|job| job.commands.send(command).is_ok());
        if sent { Ok(()) } else { Err(no_such_job(id)) }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<u64, Job>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes each change of a job's state to the index, so that a restart goes on with it.
async fn keep(store: Store, request: GetRequest, mut status: watch::Receiver<JobStatus>) {
    let mut last = None;
    loop {
        let now = status.borrow_and_update().clone();
        let kept = kept_state(&now);
        if last != Some(kept) {
            let (store, request) = (store.clone(), request.clone());
            let written = tokio::task::spawn_blocking(move || remember(&store, &request, &now)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(%error, "a job's state could not be written to the index");
            }
            last = Some(kept);
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// A job's state as a restart finds it. Resolving, planning, fetching and waiting for space are one to it: it starts over
/// from what is durable.
fn kept_state(status: &JobStatus) -> JobState {
    let paused_by_user = status.state == JobState::Paused && status.code.is_none();
    if status.state.is_final() || paused_by_user { status.state } else { JobState::Resolving }
}

/// A finished pull needs no remembering: its file is a root of the index.
fn remember(store: &Store, request: &GetRequest, status: &JobStatus) -> Result<(), Failure> {
    let written = if status.state == JobState::Done {
        store.delete_job(status.id).map(|_| ())
    } else {
        let remembered = Remembered {
            request: GetRequest { detach: true, ..request.clone() },
            state: kept_state(status),
            message: status.message.clone(),
            done_bytes: status.done_bytes,
            total_bytes: status.total_bytes,
        };
        let bytes = serde_json::to_vec(&remembered).map_err(|e| Failure::new("bug", e))?;
        store.put_job(status.id, &bytes)
    };
    written.map_err(|e| from_store(&e))
}

fn no_such_job(id: u64) -> Failure {
    Failure::new("no-such-job", format!("there is no job {id}; `bitshoal jobs` lists them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_user_pauses_a_pull_over_a_restart() {
        let request = serde_json::from_str(r#"{"cid": "a", "output": "b"}"#).unwrap();
        for (state, code, kept) in [
            (JobState::Paused, None, JobState::Paused),
            (JobState::Paused, Some("no-space"), JobState::Resolving),
            (JobState::Fetching, None, JobState::Resolving),
            (JobState::Failed, Some("bad-tree"), JobState::Failed),
        ] {
            let status = JobStatus { code: code.map(str::to_owned), ..pull::first_status(1, &request, state) };
            assert_eq!(kept_state(&status), kept, "{state:?} {code:?}");
        }
    }
}
