//! Puts a node together and runs it: the one place that knows every layer.
//!
//! The edges see a node as a [`Running`], opened by a [`Host`]; [`LocalHost`] is the real one. `run` is the life of
//! `bitshoal daemon`: open, serve the RPC, print the addresses and `ready`, stop cleanly.
//!
//! Order of a start: the RPC's port, the node (which takes the repo's lock), then the files that tell commands where to
//! ask, so that only the holder of the lock writes them. A stop takes them away first.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::budget::{self, Budget};
use crate::config::{self, Config, Preallocate, Security};
use crate::dag::wrap::affixes_of_tag;
use crate::exchange::rate::Rate;
use crate::node::swarm_key::{SwarmKey, SwarmKeys};
use crate::repo::{Endpoint, Repo};
use crate::rpc::server::Server;
use crate::rpc::{self, Service};
use crate::stop::Stop;
use crate::store::{self, Store};
use crate::transfer::api::{Event, Failure, Request};
use crate::transfer::{Engine, failure};
use crate::{node, platform, transfer};

/// How long a node may take to stop. With the RPC's grace before it (1 s) and the threads' after it (0.5 s) a stop takes
/// less than the promised 5 s.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// How often the members that were met are written down at most.
const MEMBERS_PAUSE: Duration = Duration::from_secs(1);

/// How much of a node is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The index and the files alone: no socket, pulls stay where they are.
    Offline,
    /// All of it, listening at `listen`, or where the settings say.
    Online {
        /// Stands in for the configured addresses.
        listen: Option<Vec<Multiaddr>>,
    },
}

/// A node that this process runs, and holds the repo's lock for.
pub struct Running {
    /// Answers requests.
    pub service: Arc<dyn Service>,
    /// Stops everything and gives the lock back.
    pub stop: BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Running {
    /// Stops it: in time, or at the next signal, whichever is first.
    pub async fn stop(self, signals: &mut Stop) {
        let Self { service, stop } = self;
        drop(service);
        tokio::select! {
            ended = tokio::time::timeout(STOP_PATIENCE, stop) => {
                if ended.is_err() {
                    tracing::warn!("the node has not stopped in {} s and is abandoned", STOP_PATIENCE.as_secs_f32());
                }
            }
            () = signals.next() => {}
        }
    }
}

/// Who opens nodes; tests have their own.
pub trait Host: Send + Sync {
    /// Opens the node of `repo`. Whatever fails, the lock is free again.
    fn open<'a>(&'a self, repo: &'a Repo, config: &'a Config, mode: Mode) -> BoxFuture<'a, Result<Running, Failure>>;
}

/// What the daemon tells its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It can be reached at this address, which has `/p2p/ID`.
    Listening(String),
    /// All addresses have been told, and commands are answered.
    Ready,
    /// It has been asked to end.
    Stopping,
}

/// Where the daemon's news go; an error ends it.
pub type Tell<'a> = &'a mut (dyn FnMut(News) -> Result<(), Failure> + Send);

/// Runs the daemon of `repo` until a signal.
///
/// # Errors
/// What keeps it from starting: a port that is taken, a repo in use, a bad key.
pub async fn run(
    host: &dyn Host,
    repo: &Repo,
    config: &Config,
    listen: Option<Vec<Multiaddr>>,
    tell: Tell<'_>,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let wanted = config.rpc.listen;
    let listener = TcpListener::bind(wanted).await.map_err(|error| {
        let settings = repo.settings_path();
        let advice = format!("set another port under [rpc] in {}, or 0 for a free one", settings.display());
        Failure::new("port-taken", format!("cannot listen at {wanted} for commands: {error}; {advice}"))
    })?;
    let running = host.open(repo, config, Mode::Online { listen }).await?;
    let result = serve(listener, repo, running.service.clone(), tell, stop).await;
    running.stop(stop).await;
    result
}

/// The part of the daemon's life in which it answers.
async fn serve(
    listener: TcpListener,
    repo: &Repo,
    service: Arc<dyn Service>,
    tell: Tell<'_>,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let token = rpc::fresh_token();
    let server = Server::start(listener, token.clone(), service.clone())
        .map_err(|error| Failure::new("rpc", format!("cannot serve commands: {error}")))?;
    let published = repo.publish(&Endpoint { addr: server.addr(), token })?;
    let told = announce(service, tell).await;
    if told.is_ok() {
        stop.next().await;
        // Whoever read the news may be gone; the node stops as cleanly without.
        let _ = tell(News::Stopping);
    }
    drop(published);
    server.stop().await;
    told
}

/// Tells the addresses, then that commands are answered.
async fn announce(service: Arc<dyn Service>, tell: Tell<'_>) -> Result<(), Failure> {
    for address in identity(&service).await?.addresses {
        tell(News::Listening(address))?;
    }
    tell(News::Ready)
}

/// Who a node is; the fields of [`Event::Identity`] that the edges print.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Addresses with `/p2p/ID`.
    pub(crate) addresses: Vec<String>,
    /// Whether a swarm key is asked of peers.
    pub(crate) private: bool,
}

/// Asks a node who it is.
pub(crate) async fn identity(service: &Arc<dyn Service>) -> Result<Identity, Failure> {
    match service.call(Request::Id).next().await {
        Some(Ok(Event::Identity { addresses, swarm, .. })) => Ok(Identity { addresses, private: swarm.is_some() }),
        Some(Err(failure)) => Err(failure),
        _ => Err(Failure::new("bug", "the node does not say who it is")),
    }
}

// The seams to the layers below: everything that the edges ask of identity, swarm key, store, node and engine.

/// The host that opens real nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalHost;

impl Host for LocalHost {
    fn open<'a>(&'a self, repo: &'a Repo, config: &'a Config, mode: Mode) -> BoxFuture<'a, Result<Running, Failure>> {
        Box::pin(open_node(repo, config, mode))
    }
}

async fn open_node(repo: &Repo, config: &Config, mode: Mode) -> Result<Running, Failure> {
    let identity = repo.identity()?;
    let keypair = keypair(&identity)?;
    let swarm_keys = swarm_keys(repo, config)?;
    let fingerprint = swarm_keys.as_ref().map(|keys| keys.first.fingerprint());
    let budget = budget(config);
    let (dir, options) = (repo.dir().to_owned(), store_options(config, &budget));
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir, options)).await;
    let store = opened.map_err(|e| Failure::new("bug", e))?.map_err(|e| failure::from_store(&e))?;
    let node = match mode {
        Mode::Offline => None,
        Mode::Online { listen } => {
            let mut options = node_options(config, &budget, listen, swarm_keys);
            options.members = repo.members();
            options.remember = Some(keep_members(repo));
            let started = node::start(keypair.clone(), options).await;
            Some(started.map_err(|error| Failure::new(error.code(), &error))?)
        }
    };
    let engine = Engine::start(transfer::Parts {
        store,
        node,
        pull: pull_options(config, &budget),
        repo: repo.dir().to_owned(),
        peer_id: keypair.public().to_peer_id().to_string(),
        swarm: fingerprint,
        memory: (budget.bytes, budget::system_limit(Path::new("/"))),
    })?;
    let stopping = engine.clone();
    Ok(Running { service: Arc::new(engine), stop: Box::pin(async move { stopping.stop().await }) })
}

/// Writes down the members that the node has met, as long as it says of any: at once, and then no more often than
/// [`MEMBERS_PAUSE`].
fn keep_members(repo: &Repo) -> watch::Sender<Vec<Vec<u8>>> {
    let (sender, mut receiver) = watch::channel(Vec::new());
    let repo = repo.clone();
    tokio::spawn(async move {
        while receiver.changed().await.is_ok() {
            let records = receiver.borrow_and_update().clone();
            let repo = repo.clone();
            let kept = tokio::task::spawn_blocking(move || repo.remember_members(&records)).await;
            if let Ok(Err(error)) = kept {
                tracing::warn!(%error, "the members of the swarm could not be noted");
            }
            tokio::time::sleep(MEMBERS_PAUSE).await;
        }
    });
    sender
}

/// The repo's swarm keys, `None` in an open swarm.
fn swarm_keys(repo: &Repo, config: &Config) -> Result<Option<SwarmKeys>, Failure> {
    let parsed = |file: &[u8], path: &Path| {
        if platform::is_open_to_others(path) {
            tracing::warn!("other users of this machine can read {}: chmod 600 it", path.display());
        }
        SwarmKey::parse(file)
            .map_err(|error| Failure::new("bad-swarm-key", format!("{} is not a swarm key: {error}", path.display())))
    };
    let Some(first) = repo.swarm_key(config)? else { return Ok(None) };
    let first = parsed(&first, &repo.swarm_key_path(config))?;
    let next = repo.next_swarm_key(config)?;
    let next = next.map(|file| parsed(&file, &repo.next_swarm_key_path(config))).transpose()?;
    Ok(Some(SwarmKeys { first, next }))
}

fn node_options(
    config: &Config,
    budget: &Budget,
    listen: Option<Vec<Multiaddr>>,
    swarm_keys: Option<SwarmKeys>,
) -> node::Options {
    let mut exchange = node::ExchangeOptions::default();
    exchange.server.bytes_total = usize::try_from(budget.serving).unwrap_or(usize::MAX);
    (exchange.up, exchange.down) = (Rate::new(config.up.limit()), Rate::new(config.down.limit()));
    exchange.server.bytes_per_peer = exchange.server.bytes_per_peer.min(exchange.server.bytes_total);
    node::Options {
        exchange,
        listen: listen.unwrap_or_else(|| config.listen.clone()),
        announce: config.announce.clone(),
        static_peers: config.peers.clone(),
        swarm_keys,
        security: match config.security {
            Security::Both => node::Security::Both,
            Security::Tls => node::Security::Tls,
            Security::Noise => node::Security::Noise,
        },
        quic: config.quic,
        connections_max: config.connections_max,
        meet: config.meet,
        ..node::Options::default()
    }
}

/// The memory budget, which a limit of the system's may have lowered.
fn budget(config: &Config) -> Budget {
    let limit = budget::system_limit(Path::new("/"));
    let budget = Budget::within(config.cache_bytes.0, limit);
    if let Some(limit) = limit.filter(|_| budget.bytes < config.cache_bytes.0) {
        let (limit, bytes) = (limit >> 20, budget.bytes >> 20);
        tracing::info!("the system allows this process {limit} MiB, so cache_bytes is {bytes} MiB here");
    }
    budget
}

fn store_options(config: &Config, budget: &Budget) -> store::Options {
    store::Options {
        windows_bytes_max: budget.windows,
        window_bytes: budget.window,
        idle_bytes_max: usize::try_from(budget.idle).unwrap_or(usize::MAX),
        reader: match config.reader {
            config::Reader::Auto => store::Options::default().reader,
            config::Reader::Mmap => store::ReaderKind::Mmap,
            config::Reader::Pread => store::ReaderKind::Pread,
            config::Reader::Direct => store::ReaderKind::Direct,
        },
        writer: match config.writer {
            config::Writer::Buffered => store::WriterKind::Buffered,
            config::Writer::Direct => store::WriterKind::Direct,
        },
        affixes: |tag, len| affixes_of_tag(tag, len).unwrap_or_default(),
        ..store::Options::default()
    }
}

fn pull_options(config: &Config, budget: &Budget) -> transfer::pull::Options {
    // Asking stops when this much is not durable, so that a crash costs no more; a commit starts well before.
    let unsynced_bytes_max = config.epoch_bytes.0.min(budget.unsynced);
    transfer::pull::Options {
        fetch: transfer::fetch::Options {
            window_bytes: budget.in_flight,
            epoch_bytes: unsynced_bytes_max * 3 / 8,
            unsynced_bytes_max,
            epoch_interval: Duration::from_secs(config.epoch_seconds).mul_f64(0.8),
        },
        preallocate: match config.preallocate {
            Preallocate::Sparse => store::Preallocate::Sparse,
            Preallocate::Full => store::Preallocate::Full,
        },
    }
}

fn keypair(identity: &[u8]) -> Result<libp2p::identity::Keypair, Failure> {
    libp2p::identity::Keypair::from_protobuf_encoding(identity).map_err(|error| {
        Failure::new("bad-identity", format!("identity.key is not a private key ({error}): restore it from a backup"))
    })
}

/// A new private key, as libp2p's protobuf.
///
/// # Errors
/// None in practice: every Ed25519 key can be encoded.
pub fn new_identity() -> Result<Vec<u8>, Failure> {
    let key = libp2p::identity::Keypair::generate_ed25519();
    key.to_protobuf_encoding().map_err(|error| Failure::new("bug", format!("cannot encode a new identity: {error}")))
}

/// The peer id of a private key.
///
/// # Errors
/// `bad-identity` when the bytes are no key.
pub fn peer_id(identity: &[u8]) -> Result<String, Failure> {
    Ok(keypair(identity)?.public().to_peer_id().to_string())
}

/// A new swarm key in the standard form (protocols.md §6).
#[must_use]
pub fn new_swarm_key() -> String {
    SwarmKey::generate().to_text()
}

/// Whether these bytes are the file of a swarm key, in any of its three forms (protocols.md §6).
///
/// # Errors
/// What is wrong with them; never a part of the key.
pub fn check_swarm_key(file: &[u8]) -> Result<(), String> {
    SwarmKey::parse(file).map(|_| ()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_keys_are_good_keys() {
        assert_eq!(check_swarm_key(new_swarm_key().as_bytes()), Ok(()));
        assert_ne!(new_swarm_key(), new_swarm_key());
        assert!(peer_id(&new_identity().unwrap()).unwrap().starts_with("12D3KooW"));
        assert_eq!(peer_id(b"nonsense").unwrap_err().code, "bad-identity");
    }

    #[test]
    fn swarm_keys_are_taken_in_all_forms_and_nothing_else() {
        let hex = "ab".repeat(32);
        let base64 = data_encoding::BASE64.encode(&[7; 32]);
        let mut binary = b"/key/swarm/psk/1.0.0/\n/bin/\n".to_vec();
        binary.extend([b'\n'; 32]);
        assert_eq!(check_swarm_key(&binary), Ok(()));
        assert!(check_swarm_key(&binary[..binary.len() - 1]).is_err());
        for (good, text) in [
            (true, format!("/key/swarm/psk/1.0.0/\r\n/base16/\r\n{hex}\r\n")),
            (true, format!("/key/swarm/psk/1.0.0/\n/base64/\n{base64}")),
            (false, format!("/key/swarm/psk/1.0.0/\n/base16/\n{hex}00")),
            (false, format!("/key/swarm/psk/1.0.0/\n/base58/\n{hex}")),
            (false, hex.clone()),
            (false, String::new()),
        ] {
            assert_eq!(check_swarm_key(text.as_bytes()).is_ok(), good, "{text}");
        }
        let error = check_swarm_key(format!("/key/swarm/psk/1.0.0/\n/base16/\n{}", &hex[2..]).as_bytes()).unwrap_err();
        assert!(!error.contains("abab"));
    }
}
