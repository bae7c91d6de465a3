//! A member of a swarm: transports, identity, the connections that are kept, and the exchange on top of them.
//!
//! [`start`] makes it; a [`Handle`] asks, [`Reads`] is asked. One task owns everything ([`driver`]). It knows the
//! exchange and blocks; files, trees and the index are unknown here, so what is wanted and what is served both come from
//! outside.

mod driver;
mod members;
mod muxer;
mod private;
mod redial;
pub mod swarm_key;
mod tls;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use libp2p::identity::Keypair;
use libp2p::swarm::Swarm;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{Multiaddr, PeerId, connection_limits, identify, ping, request_response};
use tokio::sync::{mpsc, oneshot, watch};

use crate::block::{Block, Cid};
use crate::exchange::behaviour::Behaviour;
pub use crate::exchange::behaviour::Options as ExchangeOptions;
use crate::exchange::client::{Followed, SessionId};
use crate::exchange::handler::Verify;
use crate::exchange::have::Held;
use crate::exchange::rate::Rate;
use crate::exchange::server::{ReadKind, ReadOutcome, Ticket};
use crate::platform;

use driver::{Command, Composed, Driver, Parts};
use members::wire::PROTOCOL as MEMBERS;
use swarm_key::SwarmKeys;
pub use transport::Security;

/// Program and version, as identify says it to peers.
pub const AGENT: &str = concat!("bitshoal/", env!("CARGO_PKG_VERSION"));

/// Connections of one peer: two that dialled each other at once, and one to spare.
const CONNECTIONS_PER_PEER: u32 = 3;

/// Handshakes under way in each direction; more wait their turn or are refused.
const HANDSHAKES_MAX: u32 = 128;

/// How often a peer is asked for an answer. Where the system notices machines that are gone (`transport`), that is left
/// for programs that hang.
const PING_INTERVAL: Duration = Duration::from_secs(if platform::ENDS_DEAD_CONNECTIONS { 300 } else { 10 });

/// How long a probe may take. The second in a row that fails ends the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// Addresses to tell others before those of the interfaces.
    pub announce: Vec<Multiaddr>,
    /// Peers to stay connected with.
    pub static_peers: Vec<Multiaddr>,
    /// The private swarm, `None` for the open one. With a key only TCP is spoken.
    pub swarm_keys: Option<SwarmKeys>,
    /// Encryptions that TCP connections offer.
    pub security: Security,
    /// Whether QUIC is spoken in an open swarm.
    pub quic: bool,
    /// Most connections, both directions together.
    pub connections_max: u32,
    /// How often a peer is asked for an answer.
    pub ping_interval: Duration,
    /// The exchange.
    pub exchange: ExchangeOptions,
    /// Whether members of a private swarm tell each other of the members that they know, and all stay connected.
    pub meet: bool,
    /// Records of members that an earlier life has met.
    pub members: Vec<Vec<u8>>,
    /// Is sent all records whenever they change, to be given to the next life.
    pub remember: Option<watch::Sender<Vec<Vec<u8>>>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            announce: Vec::new(),
            static_peers: Vec::new(),
            swarm_keys: None,
            security: Security::Both,
            quic: true,
            connections_max: 900,
            ping_interval: PING_INTERVAL,
            exchange: ExchangeOptions::default(),
            meet: true,
            members: Vec::new(),
            remember: None,
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or an address is not this machine's.
    #[error("cannot listen at {address}: {source}; choose another with --listen or `listen` in node.toml")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No transport for an address.
    #[error("cannot listen at {address}: no such transport here (TCP, and QUIC in open swarms)")]
    Unsupported {
        /// The address.
        address: Multiaddr,
    },
    /// The transports could not be made.
    #[error("the network could not be set up: {0}")]
    Transport(#[source] std::io::Error),
}

impl StartError {
    /// The word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        if self.is_port_taken() { "port-taken" } else { "network" }
    }

    fn is_port_taken(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
    }
}

/// Why a peer could not be reached.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot connect to {address}: {reason}")]
pub struct ConnectError {
    /// Where.
    pub address: Multiaddr,
    /// Why, for the user.
    pub reason: String,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: PeerId,
    /// The address of its first connection.
    pub address: Multiaddr,
    /// Program and version by identify, once it has come.
    pub agent: Option<String>,
    /// Bytes of blocks received from it since it connected.
    pub received_bytes: u64,
    /// Bytes of blocks sent to it since it connected.
    pub sent_bytes: u64,
}

/// Starts a node; it listens when this returns. Needs a tokio runtime.
///
/// # Errors
/// [`StartError`], naming the address that does not work.
pub async fn start(identity: Keypair, options: Options) -> Result<(Handle, Reads), StartError> {
    let private = options.swarm_keys.is_some();
    let transport = transport::build(&identity, options.security, options.quic, options.swarm_keys.as_ref())
        .map_err(StartError::Transport)?;
    let peer = identity.public().to_peer_id();
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established(Some(options.connections_max))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
        .with_max_pending_incoming(Some(HANDSHAKES_MAX))
        .with_max_pending_outgoing(Some(HANDSHAKES_MAX));
    let mut exchange = options.exchange;
    // With its own name the client can share out with the other readers who asks the publisher for what.
    exchange.client.local = Some(peer);
    let (up, down) = (exchange.up.clone(), exchange.down.clone());
    let meet = private && options.meet;
    let members = meet.then(|| request_response::Behaviour::new([MEMBERS], request_response::Config::default()));
    let behaviour = Composed {
        members: Toggle::from(members),
        limits: connection_limits::Behaviour::new(limits),
        identify: identify::Behaviour::new(
            identify::Config::new("ipfs/0.1.0".into(), identity.public()).with_agent_version(AGENT.into()),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(options.ping_interval).with_timeout(PING_TIMEOUT)),
        exchange: Behaviour::new(exchange, verifier(), rand::random()),
    };
    let config = libp2p::swarm::Config::with_tokio_executor();
    let swarm = Swarm::new(transport, behaviour, peer, config);
    let (commands, received) = mpsc::unbounded_channel();
    let (reads, asked) = mpsc::unbounded_channel();
    let (looks, looked) = mpsc::unbounded_channel();
    let to_self = commands.downgrade();
    let mut driver = Driver::new(Parts {
        swarm,
        keypair: identity,
        private,
        announce: options.announce,
        commands: received,
        to_self,
        reads,
        looks,
        remember: options.remember,
    });
    let (usable, left): (Vec<_>, Vec<_>) = options.listen.into_iter().partition(|address| !private || is_tcp(address));
    if !left.is_empty() {
        tracing::info!(addresses = ?left, "not listened at: a private swarm speaks TCP only");
    }
    driver.listen(&usable).await?;
    for address in options.static_peers {
        driver.keep(address);
    }
    if meet {
        driver.remember(&options.members);
    }
    tokio::spawn(driver.run());
    Ok((Handle { peer, up, down, commands }, Reads { blocks: asked, files: looked }))
}

fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, libp2p::multiaddr::Protocol::Tcp(_)))
}

/// Hashes blocks on the blocking threads: a leaf takes half a millisecond, which a connection's task must not spend.
fn verifier() -> Verify {
    Arc::new(|blocks| {
        let hashed = tokio::task::spawn_blocking(move || {
            blocks.into_iter().map(|(prefix, bytes)| Block::seal(prefix, bytes)).collect()
        });
        async move {
            match hashed.await {
                Ok(blocks) => blocks,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is going down, and the stream with it.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    })
}

/// Asks the node. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Handle {
    peer: PeerId,
    up: Rate,
    down: Rate,
    commands: mpsc::UnboundedSender<Command>,
}

impl Handle {
    /// This node's id.
    #[must_use]
    pub const fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// What may pass to and from all peers together, in bytes a second; both can be changed at any time.
    #[must_use]
    pub const fn rates(&self) -> (&Rate, &Rate) {
        (&self.up, &self.down)
    }

    /// Every address at which it can be reached, with `/p2p/ID`, announced ones first.
    pub async fn addresses(&self) -> Vec<Multiaddr> {
        self.ask(Command::Addresses).await.unwrap_or_default()
    }

    /// Dials an address once.
    ///
    /// # Errors
    /// [`ConnectError`] with the reason.
    pub async fn connect(&self, address: Multiaddr) -> Result<PeerId, ConnectError> {
        let asked = address.clone();
        let answer = self.ask(|answer| Command::Connect(asked, answer)).await;
        answer.unwrap_or_else(|| Err(ConnectError { address, reason: "the node has been stopped".into() }))
    }

    /// Stays connected with an address from now on, for ever.
    pub fn keep(&self, address: Multiaddr) {
        self.say(Command::Keep(address));
    }

    /// The connected peers.
    pub async fn peers(&self) -> Vec<Peer> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// What keeps each address that should be connected from being so.
    pub async fn dial_report(&self) -> Vec<(Multiaddr, String)> {
        self.ask(Command::DialReport).await.unwrap_or_default()
    }

    /// Opens a session of wants.
    pub async fn open_session(&self) -> Session {
        let (events, received) = mpsc::unbounded_channel();
        let id = self.ask(|answer| Command::OpenSession(events, answer)).await;
        Session { id, node: self.clone(), events: received }
    }

    /// The local store now has these: whoever waits for them is answered.
    pub fn arrived(&self, cids: Vec<Cid>) {
        self.say(Command::Arrived(cids));
    }

    /// A leaf of a file that a session follows is there now and can be served.
    pub fn leaf_added(&self, root: Cid, leaf: u32) {
        self.say(Command::LeafAdded(root, leaf));
    }

    /// A file is here now by another way than a pull, or has gone: whoever pulls it is told.
    pub fn look_again(&self, root: Cid) {
        self.say(Command::LookAgain(root));
    }

    /// Closes all connections and stops.
    pub async fn shutdown(&self) {
        let _ = self.ask(Command::Shutdown).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.say(command(sender));
        answer.await.ok()
    }

    /// A node that has stopped hears nothing; whoever needs an answer notices by its absence.
    fn say(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

/// What a session hears.
#[derive(Debug)]
pub enum SessionEvent {
    /// A wanted block, under the CID that was wanted.
    Block {
        /// The block.
        block: Block,
        /// Who sent it.
        from: PeerId,
    },
    /// No connected peer has it; the want stays.
    NobodyHas {
        /// What.
        cid: Cid,
    },
    /// Leaves of the followed file that are best wanted now.
    Pick {
        /// Their numbers.
        leaves: Vec<u32>,
    },
    /// Whether leaves of one's own choice had better be wanted, too.
    Roam {
        /// Whether they had.
        on: bool,
    },
    /// Peers came or went.
    PeersChanged {
        /// How many are connected now.
        connected: usize,
    },
}

/// The wants of one pull. Dropping it withdraws them. Its events are bounded by its wants.
#[derive(Debug)]
pub struct Session {
    /// `None` when the node had stopped before.
    id: Option<SessionId>,
    node: Handle,
    events: mpsc::UnboundedReceiver<SessionEvent>,
}

impl Session {
    /// Adds wants in order of preference, with the expected lengths of their blocks in bytes.
    pub fn want(&self, wants: Vec<(Cid, u32)>) {
        if let Some(id) = self.id {
            self.node.say(Command::Want(id, wants));
        }
    }

    /// Follows a file: its leaves are picked from now on, and others are told what is there, until what is returned is
    /// dropped.
    #[must_use]
    pub fn follow(&self, file: Followed) -> Following {
        let root = file.root;
        if let Some(id) = self.id {
            self.node.say(Command::Follow(id, file));
        }
        Following { id: self.id, root, node: self.node.clone() }
    }

    /// Wants leaves of the followed file: number, CID, expected length in bytes.
    pub fn want_leaves(&self, leaves: Vec<(u32, Cid, u32)>) {
        if let Some(id) = self.id {
            self.node.say(Command::WantLeaves(id, leaves));
        }
    }

    /// Withdraws wants.
    pub fn forget(&self, cids: Vec<Cid>) {
        if let Some(id) = self.id {
            self.node.say(Command::Forget(id, cids));
        }
    }

    /// The next event; `None` when the node has stopped.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        self.events.recv().await
    }

    /// Something that tells how the session goes while it is being read from.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        Reporter { id: self.id, node: self.node.clone() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.node.say(Command::CloseSession(id));
        }
    }
}

/// Says that a session follows a file until it is dropped.
#[derive(Debug)]
pub struct Following {
    id: Option<SessionId>,
    root: Cid,
    node: Handle,
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.node.say(Command::Unfollow(id, self.root));
        }
    }
}

/// Tells how a session goes.
#[derive(Debug, Clone)]
pub struct Reporter {
    id: Option<SessionId>,
    node: Handle,
}

impl Reporter {
    /// Whether both tell of the same session.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// How it stands now; empty when the session or the node is gone.
    pub async fn report(&self) -> SessionReport {
        match self.id {
            Some(id) => self.node.ask(|answer| Command::Report(id, answer)).await.unwrap_or_default(),
            None => SessionReport::default(),
        }
    }
}

/// How a session stands.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SessionReport {
    /// Connected peers.
    pub connected: usize,
    /// Blocks that came again.
    pub duplicate_blocks: u64,
    /// From whom how much.
    pub sources: Vec<Source>,
}

impl SessionReport {
    /// Counts another session's blocks to this one's.
    pub fn add(&mut self, other: &Self) {
        self.duplicate_blocks += other.duplicate_blocks;
        for source in &other.sources {
            match self.sources.iter_mut().find(|known| known.peer == source.peer) {
                Some(known) => {
                    known.bytes += source.bytes;
                    known.blocks += source.blocks;
                }
                None => self.sources.push(source.clone()),
            }
        }
    }
}

/// What one peer has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Who.
    pub peer: PeerId,
    /// Bytes of blocks.
    pub bytes: u64,
    /// Blocks.
    pub blocks: u64,
}

/// What peers want read, and what they want to know.
#[derive(Debug)]
pub struct Reads {
    blocks: mpsc::UnboundedReceiver<ReadRequest>,
    files: mpsc::UnboundedReceiver<LookRequest>,
}

impl Reads {
    /// The next request; `None` when the node has stopped. The server core bounds how many are unanswered.
    pub async fn next(&mut self) -> Option<ReadRequest> {
        loop {
            match self.next_of_any().await? {
                Asked::Blocks(request) => return Some(request),
                // Dropped: there are no files here.
                Asked::File(_) => {}
            }
        }
    }

    /// As [`Reads::next`], with questions about files, of which each peer may have
    /// [`crate::exchange::limits::FILES_TOLD_PER_PEER`] open.
    pub async fn next_of_any(&mut self) -> Option<Asked> {
        tokio::select! {
            request = self.blocks.recv() => request.map(Asked::Blocks),
            request = self.files.recv() => request.map(Asked::File),
        }
    }
}

/// One of the things that peers ask for.
#[derive(Debug)]
pub enum Asked {
    /// Blocks.
    Blocks(ReadRequest),
    /// What is here of a file.
    File(LookRequest),
}

/// A file that some peer pulls. Dropped unanswered, nothing of it is here.
#[derive(Debug)]
pub struct LookRequest {
    /// Its root.
    pub root: Cid,
    reply: Option<mpsc::UnboundedSender<Command>>,
}

impl LookRequest {
    /// Answers: how many leaves the file has, and what of it is here.
    pub fn answer(mut self, held: Option<(u32, Held)>) {
        self.reply(held);
    }

    fn reply(&mut self, held: Option<(u32, Held)>) {
        if let Some(commands) = self.reply.take() {
            let _ = commands.send(Command::Held(self.root, held));
        }
    }
}

impl Drop for LookRequest {
    fn drop(&mut self) {
        self.reply(None);
    }
}

/// Blocks to be read for a peer. Dropped unanswered, all count as missing.
#[derive(Debug)]
pub struct ReadRequest {
    /// What, and whether its bytes or only its presence.
    pub items: Vec<(Cid, ReadKind)>,
    reply: Option<(Ticket, mpsc::UnboundedSender<Command>)>,
}

impl ReadRequest {
    const fn new(items: Vec<(Cid, ReadKind)>, ticket: Ticket, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { items, reply: Some((ticket, commands)) }
    }

    /// Answers, in the order of the items.
    pub fn answer(mut self, outcomes: Vec<ReadOutcome>) {
        self.reply(outcomes);
    }

    fn reply(&mut self, outcomes: Vec<ReadOutcome>) {
        if let Some((ticket, commands)) = self.reply.take() {
            let _ = commands.send(Command::ReadDone(ticket, outcomes));
        }
    }
}

impl Drop for ReadRequest {
    fn drop(&mut self) {
        let missing = self.items.iter().map(|_| ReadOutcome::Missing).collect();
        self.reply(missing);
    }
}
