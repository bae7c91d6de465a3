//! One attempt of a pull: finds out what its root is, brings it, and shows how it stands.
//!
//! Everything here is borrowed from the job, so that dropping the attempt gives all of it back. What must not be lost is
//! in the index; what is kept between attempts (open writers) is the job's.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::block::{Block, Cid, DAG_PB, RAW};
use crate::dag::directory::{DirError, Found, look};
use crate::dag::path::{Rules, SafePath, link_is_inside};
use crate::dag::walk::WalkError;
use crate::node::{Reporter, Session, SessionReport};
use crate::platform;
use crate::store::WriteError;
use crate::transfer::api::{JobState, JobStatus, SourceInfo};
use crate::transfer::failure::{Failure, from_store, from_walk, from_write};
use crate::transfer::fetch::Share;
use crate::transfer::progress::Meter;
use crate::transfer::resolve::resolve;
use crate::transfer::tree::{Notice, obtain, unknown_codec};

use super::file::Target;
use super::{FileDone, OpenFiles, Pull, blocking, lock};

/// How often the status is brought up to date.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// One attempt.
pub(super) struct Work<'a> {
    pub(super) pull: &'a Pull,
    pub(super) open: &'a OpenFiles,
    /// What all files of the attempt share of the window.
    pub(super) share: Share,
    last_byte: Mutex<Instant>,
    meter: Mutex<Meter>,
    tally: Mutex<Tally>,
}

/// From whom how much came, over all sessions of an attempt.
#[derive(Default)]
struct Tally {
    live: Vec<Reporter>,
    ended: SessionReport,
}

impl<'a> Work<'a> {
    pub(super) fn new(pull: &'a Pull, open: &'a OpenFiles) -> Self {
        let now = Instant::now();
        Self {
            pull,
            open,
            share: Share::default(),
            last_byte: Mutex::new(now),
            meter: Mutex::new(Meter::new(now)),
            tally: Mutex::default(),
        }
    }

    pub(super) async fn run(&self) -> Result<(), Failure> {
        self.set_state(JobState::Resolving, None);
        let patience = self.pull.request.timeout_seconds.map(Duration::from_secs);
        let work = self.bring();
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => {
                    self.report().await;
                    return result;
                }
                () = tokio::time::sleep(STATUS_INTERVAL) => {
                    let idle = lock(&self.last_byte).elapsed();
                    if let Some(patience) = patience && idle >= patience {
                        let why = self.pull.status.borrow().message.clone().unwrap_or_else(|| "no block came".into());
                        return Err(Failure::new("timeout", format!("nothing arrived for {} s: {why}. What is already there is kept; run the same `bitshoal get` again to go on", patience.as_secs())));
                    }
                    self.report().await;
                    self.explain_waiting(idle).await;
                }
            }
        }
    }

    async fn bring(&self) -> Result<(), Failure> {
        let mut session = self.open_session().await;
        let brought = self.bring_root(&mut session).await;
        self.close_session(session).await;
        brought
    }

    /// Looks at the root, unless it is known to be a file, and brings what it is.
    async fn bring_root(&self, session: &mut Session) -> Result<(), Failure> {
        let output = self.pull.request.output.0.clone();
        let mut root = resolve(&self.pull.store, session, &self.pull.asked, &mut |notice| self.notice(notice)).await?;
        if !matches!(root.codec(), RAW | DAG_PB) {
            return Err(unknown_codec(&root));
        }
        let begun = blocking({
            let (store, output) = (self.pull.store.clone(), output.clone());
            move || super::unfinished(&store, &root, &output)
        })
        .await?;
        let mut top = None;
        while begun.is_none() && top.is_none() && root.codec() == DAG_PB {
            let block = obtain(&self.pull.store, session, &root, &mut |notice| self.notice(notice)).await?;
            let found = look(&root, block.bytes()).map_err(|e| bad_directory(&root, &e))?;
            match found {
                Found::Metadata { file } => root = file,
                Found::Directory(_) | Found::Shard(_) => return self.bring_folder(session, block, output).await,
                Found::Symlink { target, .. } => return self.make_link(block, &target, output).await,
                Found::File { .. } => top = Some(block),
                Found::Other(kind) => return Err(from_walk(&root, WalkError::NotAFile(kind))),
            }
        }
        if !self.pull.request.select.is_empty() {
            let message = format!("--select is for folders; {} is a file", self.pull.request.cid);
            return Err(Failure::new("bad-option", message));
        }
        let target = Target { root, output, member: None, top, known: None };
        self.bring_file(session, target).await.map(|_| ())
    }

    async fn make_link(&self, block: Block, target: &[u8], output: PathBuf) -> Result<(), Failure> {
        let name = Rules::native().component(b"link").map(|name| SafePath::root(Rules::native()).join(&name));
        if !matches!(name, Ok(Ok(at)) if link_is_inside(&at, target, &|_| false)) {
            let message = format!(
                "{} is a symbolic link to {}, which lies elsewhere: such a link is not made",
                block.cid(),
                String::from_utf8_lossy(target)
            );
            return Err(Failure::new("link-outside", message));
        }
        let (store, target) = (self.pull.store.clone(), target.to_vec());
        blocking(move || {
            platform::make_link(&target, &output).map_err(|e| from_write(WriteError::io(&output)(e)))?;
            store.put_nodes(&[block]).map_err(|e| from_store(&e))
        })
        .await
    }

    /// A file of a folder is complete.
    pub(super) fn file_done(&self, path: PathBuf, cid: &Cid, bytes: u64) {
        if self.pull.request.tell_files {
            lock(&self.pull.finished).push(FileDone { path, cid: *cid, bytes });
        }
    }

    /// A session whose figures count for this pull.
    pub(super) async fn open_session(&self) -> Session {
        let session = self.pull.node.open_session().await;
        lock(&self.tally).live.push(session.reporter());
        session
    }

    /// Keeps the figures of a session that is about to end.
    pub(super) async fn close_session(&self, session: Session) {
        let reporter = session.reporter();
        let report = reporter.report().await;
        let mut tally = lock(&self.tally);
        tally.live.retain(|live| !live.is_of(&reporter));
        tally.ended.add(&report);
    }

    /// Bytes that have to come, and those of them that are here already.
    pub(super) fn expect_bytes(&self, total: u64, present: u64) {
        self.pull.status.send_modify(|status| {
            status.state = JobState::Fetching;
            status.total_bytes = total;
            status.done_bytes = present;
            status.local_bytes = status.local_bytes.max(present);
        });
    }

    pub(super) fn add_bytes(&self, bytes: u64, local: bool) {
        let now = Instant::now();
        self.touch();
        let mut meter = lock(&self.meter);
        meter.add(now, bytes);
        self.pull.status.send_if_modified(|status| {
            status.done_bytes += bytes;
            status.local_bytes += if local { bytes } else { 0 };
            status.message = None;
            status.rate = meter.rate(now);
            status.eta_seconds = meter.eta_seconds(now, status.total_bytes.saturating_sub(status.done_bytes));
            status.elapsed_seconds = meter.elapsed_seconds(now);
            false
        });
    }

    /// Something has arrived.
    pub(super) fn touch(&self) {
        *lock(&self.last_byte) = Instant::now();
    }

    /// Starts the clock of the rate: what came before was planning.
    pub(super) fn start_meter(&self) {
        *lock(&self.meter) = Meter::new(Instant::now());
        self.touch();
    }

    pub(super) fn notice(&self, notice: Notice) {
        match notice {
            Notice::NobodyHas(cid) => self.nobody_has(&cid),
            Notice::Peers(connected) => self.set_peers(connected),
            Notice::Progress => {
                self.touch();
                self.set_message(None);
            }
        }
    }

    async fn report(&self) {
        let (live, mut sum) = {
            let tally = lock(&self.tally);
            (tally.live.clone(), tally.ended.clone())
        };
        let mut connected = None;
        for reporter in live {
            let report = reporter.report().await;
            connected = Some(report.connected);
            sum.add(&report);
        }
        self.pull.status.send_modify(|status| {
            status.peers = connected.unwrap_or(status.peers);
            status.duplicate_blocks = sum.duplicate_blocks;
            status.sources = sum
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
        let peers = self.pull.node.peers().await.len();
        let waiting = if peers == 0 {
            let mut text =
                "no peers connected; waiting for one (`--peer ADDR` or `peers` in node.toml say where to look)"
                    .to_owned();
            for (address, reason) in self.pull.node.dial_report().await {
                text = format!("{text}; {address}: {reason}");
            }
            Some(text)
        } else {
            None
        };
        self.pull.status.send_if_modified(|status| {
            status.peers = peers;
            let changed = waiting.is_some() && status.message != waiting;
            if changed {
                status.message = waiting;
            }
            changed
        });
    }

    pub(super) fn nobody_has(&self, cid: &Cid) {
        let root = &self.pull.request.cid;
        let what = if *cid == self.pull.asked.root { format!("{cid}") } else { format!("the rest of {root}") };
        self.set_message(Some(format!("none of the connected peers has {what}; waiting for one that does")));
    }

    pub(super) fn set_peers(&self, connected: usize) {
        self.pull.status.send_if_modified(|status| std::mem::replace(&mut status.peers, connected) != connected);
    }

    pub(super) fn set_state(&self, state: JobState, message: Option<String>) {
        self.pull.status.send_modify(|status| {
            status.state = state;
            status.message = message;
        });
    }

    pub(super) fn set_message(&self, message: Option<String>) {
        self.pull.status.send_if_modified(|status| {
            let changed = status.message != message;
            status.message = message;
            changed
        });
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut JobStatus)) {
        self.pull.status.send_modify(change);
    }
}

fn bad_directory(cid: &Cid, why: &DirError) -> Failure {
    Failure::new("bad-tree", format!("{cid} lies or is damaged: {why}. Nobody can have a better one under this CID"))
}
