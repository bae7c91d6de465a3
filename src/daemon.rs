//! Puts a node together and runs it: the one place that knows every layer.
//!
//! The edges see a node as a [`Running`], opened by a [`Host`]; [`LocalHost`] is the real one. `run` is the life of
//! `bitshoal daemon`: open, serve the RPC, print the addresses and `ready`, stop cleanly.
//!
//! Order of a start: the RPC's port, the node (which takes the repo's lock), then the files that tell commands where to
//! ask, so that only the holder of the lock writes them. A stop takes them away first.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::repo::{Endpoint, Repo};
use crate::rpc::server::Server;
use crate::rpc::{self, Service};
use crate::stop::Stop;
use crate::transfer::api::{Event, Failure, Request};

/// How long a node may take to stop. With the RPC's grace before it (1 s) and the threads' after it (0.5 s) a stop takes
/// less than the promised 5 s.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

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
    fn open<'a>(
        &'a self,
        _repo: &'a Repo,
        _config: &'a Config,
        _mode: Mode,
    ) -> BoxFuture<'a, Result<Running, Failure>> {
        Box::pin(async { Err(Failure::new("bug", "this build has no engine")) })
    }
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
    let key = libp2p::identity::Keypair::from_protobuf_encoding(identity).map_err(|error| {
        Failure::new("bad-identity", format!("identity.key is not a private key ({error}): restore it from a backup"))
    })?;
    Ok(key.public().to_peer_id().to_string())
}

/// A new swarm key in the standard form (protocols.md §6).
#[must_use]
pub fn new_swarm_key() -> String {
    let key = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 32]>());
    format!("/key/swarm/psk/1.0.0/\n/base16/\n{key}\n")
}

/// Whether these bytes are the file of a swarm key, in any of its three forms (protocols.md §6).
///
/// # Errors
/// What is wrong with them; never a part of the key.
pub fn check_swarm_key(file: &[u8]) -> Result<(), String> {
    let mut rest = file;
    let mut line = || {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let (line, after) = end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 1..]));
        rest = after;
        (line.trim_ascii_end(), after)
    };
    if line().0 != b"/key/swarm/psk/1.0.0/" {
        return Err("its first line is not /key/swarm/psk/1.0.0/".to_owned());
    }
    let (encoding, raw) = line();
    let text = raw.trim_ascii();
    let key = match encoding {
        b"/base16/" => data_encoding::HEXLOWER_PERMISSIVE.decode(text).ok(),
        b"/base64/" => data_encoding::BASE64.decode(text).ok(),
        b"/bin/" => raw.get(..32).map(<[u8]>::to_vec),
        _ => return Err("its second line is not /base16/, /base64/ or /bin/".to_owned()),
    };
    match key {
        Some(key) if key.len() == 32 => Ok(()),
        _ => Err("its key is not 32 bytes in that encoding".to_owned()),
    }
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
