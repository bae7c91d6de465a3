//! Pulls and imports: what joins the swarm, the DAG and the disk.
//!
//! [`Engine`] is the one handle that every edge of the program ends in. It owns the jobs; the bytes are the store's, the
//! peers the node's. It decides nothing about protocol or disk.

pub mod api;
mod cat;
pub mod failure;
pub mod fetch;
mod jobs;
mod list;
pub mod pin;
pub mod plan;
pub mod progress;
pub mod provide;
pub mod pull;
pub mod resolve;
mod roots;
mod serve;
mod tree;
pub mod verify;

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, poll_fn};
use tokio::sync::mpsc;

use crate::block::parse_cid;
use crate::node;
use crate::platform;
use crate::store::{FileMemory, Store};

use api::{
    AddOptions, AddRequest, CatRequest, Event, FileCache, GetRequest, LsRequest, MemoryInfo, PeerInfo, Request,
    WirePath,
};
use failure::Failure;
use jobs::Jobs;
use provide::{Done, Import, Imported};

/// What a node says to one request. Dropping it ends an import, and leaves a pull to itself.
pub type EventStream = BoxStream<'static, Result<Event, Failure>>;

/// The bytes of a file, as they come. Dropping it ends the pull of the rest.
pub type ByteStream = BoxStream<'static, Result<Bytes, Failure>>;

/// Pieces of a file that may wait for a slow reader, each of at most a block.
const PIECES_BUFFERED: usize = 2;

/// Events that may wait for a slow reader before the work behind them waits too.
const EVENTS_BUFFERED: usize = 64;

/// Between two words on how far an import has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The index and the files.
    pub store: Store,
    /// The swarm; without one only what needs no peers can be asked.
    pub node: Option<(node::Handle, node::Reads)>,
    /// Options of all pulls.
    pub pull: pull::Options,
    /// The repo folder, for `id`.
    pub repo: PathBuf,
    /// Peer id of this repo.
    pub peer_id: String,
    /// Fingerprint of the swarm key, `None` in an open swarm.
    pub swarm: Option<String>,
    /// The memory budget, and the system's limit, in bytes.
    pub memory: (u64, Option<u64>),
}

/// The handle that every edge ends in. Clones share everything.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    node: Option<node::Handle>,
    jobs: Jobs,
    repo: PathBuf,
    peer_id: String,
    swarm: Option<String>,
    memory: (u64, Option<u64>),
}

/// After how long a served file is closed when nobody reads it.
const IDLE: Duration = Duration::from_secs(10);

/// Closes idle files for as long as there is an engine.
async fn close_idle(engine: Weak<Inner>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        let Some(engine) = engine.upgrade() else { return };
        let _ = tokio::task::spawn_blocking(move || engine.store.close_idle(IDLE)).await;
    }
}

impl Engine {
    /// Starts serving, and goes on with the pulls that the index remembers. Needs a multi-threaded runtime.
    ///
    /// # Errors
    /// Those of the index.
    pub fn start(parts: Parts) -> Result<Self, Failure> {
        let (node, reads) = parts.node.unzip();
        if let Some(reads) = reads {
            tokio::spawn(serve::serve(parts.store.clone(), reads));
        }
        let jobs = Jobs::new(parts.store.clone(), node.clone(), parts.pull);
        jobs.restore()?;
        let engine = Self(Arc::new(Inner {
            store: parts.store,
            node,
            jobs,
            repo: parts.repo,
            peer_id: parts.peer_id,
            swarm: parts.swarm,
            memory: parts.memory,
        }));
        tokio::spawn(close_idle(Arc::downgrade(&engine.0)));
        Ok(engine)
    }

    /// Answers a request as a stream of events; the stream ends after the last one or with an error.
    #[must_use]
    pub fn call(&self, request: Request) -> EventStream {
        let (events, mut answers) = mpsc::channel(EVENTS_BUFFERED);
        let engine = self.clone();
        tokio::spawn(async move {
            let events = Events(events);
            if let Err(failure) = engine.answer(request, &events).await {
                events.fail(failure).await;
            }
        });
        poll_fn(move |cx| answers.poll_recv(cx)).boxed()
    }

    /// The bytes of a file or a part of it, in order; after an error the stream ends.
    #[must_use]
    pub fn cat(&self, request: CatRequest) -> ByteStream {
        let (pieces, mut answers) = mpsc::channel(PIECES_BUFFERED);
        let engine = self.clone();
        tokio::spawn(async move {
            if let Err(failure) = engine.cat_into(&request, &pieces).await {
                // Nobody reading any more is not an error of ours.
                let _ = pieces.send(Err(failure)).await;
            }
        });
        poll_fn(move |cx| answers.poll_recv(cx)).boxed()
    }

    async fn cat_into(
        &self,
        request: &CatRequest,
        pieces: &mpsc::Sender<Result<Bytes, Failure>>,
    ) -> Result<(), Failure> {
        let node = self.node()?;
        for peer in &request.peers {
            node.keep(address(peer)?);
        }
        cat::cat(&self.0.store, node, request, pieces).await
    }

    /// Makes durable what the running pulls have written, and stops them.
    pub async fn stop(&self) {
        self.0.jobs.stop().await;
        if let Some(node) = &self.0.node {
            node.shutdown().await;
        }
    }

    async fn answer(&self, request: Request, events: &Events) -> Result<(), Failure> {
        let inner = &self.0;
        match request {
            Request::Add(request) => self.add(request, events).await,
            Request::Get(request) => self.get(request, events).await,
            Request::Pin { cid, peers, timeout_seconds } => self.pin(&cid, &peers, timeout_seconds, events).await,
            Request::Ls(LsRequest { cid: Some(cid), peers, timeout_seconds }) => {
                self.list(&cid, &peers, timeout_seconds, events).await
            }
            Request::Ls(LsRequest { cid: None, .. }) => {
                let roots = self.blocking(|engine| roots::list(&engine.0.store)).await?;
                for root in roots {
                    events.say(Event::Root(root)).await;
                }
                Ok(())
            }
            Request::Memory => {
                let info = self.blocking(|engine| Ok(engine.memory())).await?;
                events.say(Event::Memory(info)).await;
                Ok(())
            }
            Request::Stat { cid } => {
                let info = self.blocking(move |engine| roots::stat(&engine.0.store, &cid)).await?;
                for root in info {
                    events.say(Event::Root(root)).await;
                }
                Ok(())
            }
            Request::Rm { cid, delete_partial } => {
                inner.jobs.cancel_root(&cid).await;
                let removed = self.blocking(move |engine| roots::remove(&engine.0.store, &cid, delete_partial)).await?;
                for (cid, path) in removed {
                    if let (Some(node), Ok(root)) = (&inner.node, parse_cid(&cid)) {
                        node.look_again(root);
                    }
                    events.say(Event::Removed { cid, path: WirePath(path) }).await;
                }
                Ok(())
            }
            Request::Verify { cid } => self.verify(cid, events).await,
            Request::Jobs => {
                for status in inner.jobs.list() {
                    events.say(Event::Job(status)).await;
                }
                Ok(())
            }
            Request::JobPause { id } => self.command(id, pull::Command::Pause, events).await,
            Request::JobResume { id } => self.command(id, pull::Command::Resume, events).await,
            Request::JobCancel { id } => self.command(id, pull::Command::Cancel, events).await,
            Request::JobWatch { id } => self.watch(id, events).await,
            Request::Id => {
                let addresses = match &inner.node {
                    Some(node) => node.addresses().await.iter().map(ToString::to_string).collect(),
                    None => Vec::new(),
                };
                let identity = Event::Identity {
                    peer_id: inner.peer_id.clone(),
                    addresses,
                    agent: node::AGENT.to_owned(),
                    swarm: inner.swarm.clone(),
                    repo: WirePath(inner.repo.clone()),
                };
                events.say(identity).await;
                Ok(())
            }
            Request::Peers => {
                for peer in self.node()?.peers().await {
                    let info = PeerInfo {
                        peer_id: peer.id.to_string(),
                        address: peer.address.to_string(),
                        agent: peer.agent,
                        received_bytes: peer.received_bytes,
                        sent_bytes: peer.sent_bytes,
                    };
                    events.say(Event::Peer(info)).await;
                }
                Ok(())
            }
            Request::Connect { addr } => {
                let peer =
                    self.node()?.connect(address(&addr)?).await.map_err(|e| Failure::new("connect-failed", e))?;
                events.say(Event::Connected { peer_id: peer.to_string() }).await;
                Ok(())
            }
            Request::Limit { up, down } => {
                let (to, from) = self.node()?.rates();
                for (rate, wanted) in [(to, up), (from, down)] {
                    if let Some(bytes) = wanted {
                        rate.set(Some(bytes));
                    }
                }
                let limits = Event::Limits { up: to.get().unwrap_or(0), down: from.get().unwrap_or(0) };
                events.say(limits).await;
                Ok(())
            }
            Request::Health => {
                events.say(Event::Healthy).await;
                Ok(())
            }
        }
    }

    async fn add(&self, request: AddRequest, events: &Events) -> Result<(), Failure> {
        let import = Arc::new(Import::new(&request.options)?);
        let AddOptions { wrap_with_directory, only_hash, .. } = request.options;
        let paths: Vec<PathBuf> = request.paths.into_iter().map(|path| path.0).collect();
        let steps = if wrap_with_directory { vec![paths] } else { paths.into_iter().map(|path| vec![path]).collect() };
        for paths in steps {
            let (import, progress) = (Arc::clone(&import), events.clone());
            let imported = self
                .blocking(move |engine| {
                    let store = (!only_hash).then_some(&engine.0.store);
                    let mut watch = progress.of_import(paths.first().cloned().unwrap_or_default());
                    if wrap_with_directory {
                        return provide::import_wrapped(store, &paths, &import, &mut watch);
                    }
                    paths.iter().map(|path| provide::import(store, path, &import, &mut watch)).collect()
                })
                .await?;
            for Imported { path, cid, size, .. } in imported {
                events.say(Event::Added { cid: cid.to_string(), path: WirePath(path), size }).await;
                if let Some(node) = &self.0.node {
                    node.arrived(vec![cid]);
                    node.look_again(cid);
                }
            }
        }
        Ok(())
    }

    async fn get(&self, request: GetRequest, events: &Events) -> Result<(), Failure> {
        let detach = request.detach;
        let node = self.node()?;
        for peer in &request.peers {
            node.keep(address(peer)?);
        }
        let id = self.blocking(move |engine| engine.0.jobs.start(request)).await?;
        if detach {
            events.say(Event::Job(self.0.jobs.status(id)?)).await;
            return Ok(());
        }
        self.watch(id, events).await
    }

    async fn pin(
        &self,
        cid: &str,
        peers: &[String],
        timeout_seconds: Option<u64>,
        events: &Events,
    ) -> Result<(), Failure> {
        let node = self.node()?;
        let path = resolve::Path::parse(cid)?;
        for peer in peers {
            node.keep(address(peer)?);
        }
        let (shown, hints) = (WirePath(cid.into()), events.clone());
        let progress = |done| hints.hint(Event::Progress { path: shown.clone(), done, total: 0, files: None });
        let patience = timeout_seconds.map(Duration::from_secs);
        let pin::Pinned { cid, blocks, bytes } = pin::pin(&self.0.store, node, &path, patience, progress).await?;
        events.say(Event::Pinned { cid: cid.to_string(), blocks, bytes }).await;
        Ok(())
    }

    fn memory(&self) -> MemoryInfo {
        let report = self.0.store.memory();
        let process = platform::process_memory();
        let file =
            |file: FileMemory| FileCache { path: WirePath(file.path), size: file.len, cached_bytes: file.cached_bytes };
        MemoryInfo {
            anonymous_bytes: process.map(|process| process.anonymous_bytes),
            mapped_bytes: process.map(|process| process.mapped_bytes),
            idle_buffer_bytes: report.idle_bytes,
            windows_bytes: report.windows_bytes,
            index: file(report.index),
            files: report.files.into_iter().map(file).collect(),
            cache_bytes: self.0.memory.0,
            limit_bytes: self.0.memory.1,
        }
    }

    async fn list(
        &self,
        cid: &str,
        peers: &[String],
        timeout_seconds: Option<u64>,
        events: &Events,
    ) -> Result<(), Failure> {
        let node = self.node()?;
        let path = resolve::Path::parse(cid)?;
        for peer in peers {
            node.keep(address(peer)?);
        }
        let patience = timeout_seconds.map(Duration::from_secs);
        tokio::select! {
            biased;
            // Nobody may wait for blocks that nobody waits for.
            () = events.0.closed() => Ok(()),
            listed = list::list(&self.0.store, node, &path, patience, events) => listed,
        }
    }

    /// Says every change of a job until it ends; a failed one ends the stream with its error.
    async fn watch(&self, id: u64, events: &Events) -> Result<(), Failure> {
        let mut changes = self.0.jobs.follow(id)?;
        let mut told = 0;
        loop {
            let status = changes.borrow_and_update().clone();
            for file in self.0.jobs.finished(id, told) {
                told += 1;
                let event = Event::File { cid: file.cid.to_string(), path: WirePath(file.path), size: file.bytes };
                if !events.say(event).await {
                    return Ok(());
                }
            }
            let (ended, failed) = (status.state.is_final(), status.state == api::JobState::Failed);
            let message = status.message.clone();
            let cancelled = status.state == api::JobState::Cancelled;
            if !events.say(Event::Job(status)).await {
                return Ok(());
            }
            if failed {
                let code = self.0.jobs.failure_code(id);
                return Err(Failure { code, message: message.unwrap_or_else(|| "the pull has failed".into()) });
            }
            if cancelled {
                return Err(Failure::new("cancelled", "the pull was cancelled; its .part is kept"));
            }
            if ended {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                return Err(Failure::new("stopped", "the node has been stopped; the pull goes on when it runs again"));
            }
        }
    }

    async fn command(&self, id: u64, command: pull::Command, events: &Events) -> Result<(), Failure> {
        let status = self.0.jobs.command(id, command).await?;
        events.say(Event::Job(status)).await;
        Ok(())
    }

    async fn verify(&self, cid: String, events: &Events) -> Result<(), Failure> {
        let hints = events.clone();
        let verified = self
            .blocking(move |engine| {
                roots::verify(&engine.0.store, &cid, &mut |bad| hints.hint_blocking(bad), &mut |path, done, total| {
                    hints.hint(Event::Progress { path: WirePath(path.to_owned()), done, total, files: None });
                    !hints.0.is_closed()
                })
            })
            .await?;
        for event in verified {
            events.say(event).await;
        }
        Ok(())
    }

    fn node(&self) -> Result<&node::Handle, Failure> {
        self.0.node.as_ref().ok_or_else(|| {
            Failure::new("no-daemon", "this needs a running node; start one in this repo with `bitshoal daemon`")
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || work(&engine)).await.map_err(|e| Failure::new("bug", e))?
    }
}

fn address(text: &str) -> Result<libp2p::Multiaddr, Failure> {
    text.parse().map_err(|e| {
        let message = format!("{text:?} is not a multiaddr ({e}); it looks like /ip4/10.0.0.1/tcp/4001/p2p/12D3…");
        Failure::new("bad-address", message)
    })
}

/// Where a call's events go.
#[derive(Debug, Clone)]
struct Events(mpsc::Sender<Result<Event, Failure>>);

impl Events {
    /// False when nobody listens any more.
    async fn say(&self, event: Event) -> bool {
        self.0.send(Ok(event)).await.is_ok()
    }

    async fn fail(&self, failure: Failure) {
        // Nobody listening any more is not an error of ours.
        let _ = self.0.send(Err(failure)).await;
    }

    /// Tells how far an import has come, now and then; the import ends when nobody listens any more.
    fn of_import(&self, path: PathBuf) -> impl FnMut(Done) -> bool + use<'_> {
        let mut told = Instant::now();
        move |Done { bytes: done, total, files }| {
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                let files = total.is_none().then_some(files);
                self.hint(Event::Progress { path: WirePath(path.clone()), done, total: total.unwrap_or(0), files });
            }
            !self.0.is_closed()
        }
    }

    /// Says it if there is room: progress that nobody reads may be dropped.
    fn hint(&self, event: Event) {
        let _ = self.0.try_send(Ok(event));
    }

    /// Says it from a blocking thread, waiting for room.
    fn hint_blocking(&self, event: Event) {
        let _ = self.0.blocking_send(Ok(event));
    }
}
