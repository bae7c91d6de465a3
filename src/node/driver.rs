//! The one task that owns the swarm: commands in, swarm events out, and no decision about protocol or disk.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::request_response::{self, OutboundFailure, OutboundRequestId};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, TransportError, connection_limits, identify, ping};
use tokio::sync::{mpsc, oneshot, watch};

use super::members::wire::MembersCodec;
use super::members::{Member, Members, Message};
use super::redial::{Redial, STILL_CONNECTING, Target, peer_of};
use super::{ConnectError, LookRequest, Peer, ReadRequest, SessionEvent, SessionReport, Source, StartError};
use crate::block::Cid;
use crate::exchange::behaviour::{self, Event};
use crate::exchange::client::{Followed, SessionId};
use crate::exchange::have::Held;
use crate::exchange::server::{ReadOutcome, Ticket};
use crate::platform;

/// How long listeners may take to say where they listen.
const LISTEN_PATIENCE: Duration = Duration::from_secs(5);

/// The same after another has said so.
const LISTEN_PATIENCE_REST: Duration = Duration::from_millis(500);

/// Of two members that hear of each other at once, one dials at once and the other after this time, if it has to.
const COURTESY: Duration = Duration::from_secs(2);

/// Everything that runs on a connection.
#[derive(NetworkBehaviour)]
pub(super) struct Composed {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) exchange: behaviour::Behaviour,
    /// In private swarms.
    pub(super) members: Toggle<request_response::Behaviour<MembersCodec>>,
}

/// What handles ask of the task.
#[derive(Debug)]
pub(super) enum Command {
    Addresses(oneshot::Sender<Vec<Multiaddr>>),
    Connect(Multiaddr, oneshot::Sender<Result<PeerId, ConnectError>>),
    Keep(Multiaddr),
    Peers(oneshot::Sender<Vec<Peer>>),
    DialReport(oneshot::Sender<Vec<(Multiaddr, String)>>),
    OpenSession(mpsc::UnboundedSender<SessionEvent>, oneshot::Sender<SessionId>),
    CloseSession(SessionId),
    Want(SessionId, Vec<(Cid, u32)>),
    Forget(SessionId, Vec<Cid>),
    Report(SessionId, oneshot::Sender<SessionReport>),
    Arrived(Vec<Cid>),
    Follow(SessionId, Followed),
    Unfollow(SessionId, Cid),
    WantLeaves(SessionId, Vec<(u32, Cid, u32)>),
    LeafAdded(Cid, u32),
    Held(Cid, Option<(u32, Held)>),
    LookAgain(Cid),
    ReadDone(Ticket, Vec<ReadOutcome>),
    Shutdown(oneshot::Sender<()>),
}

/// What is known of a connected peer.
#[derive(Debug)]
struct Connected {
    address: Multiaddr,
    agent: Option<String>,
}

/// Where the outcome of a dial goes.
type Answer = oneshot::Sender<Result<PeerId, ConnectError>>;

pub(super) struct Driver {
    swarm: Swarm<Composed>,
    private: bool,
    announce: Vec<Multiaddr>,
    commands: mpsc::UnboundedReceiver<Command>,
    to_self: mpsc::WeakUnboundedSender<Command>,
    reads: mpsc::UnboundedSender<ReadRequest>,
    looks: mpsc::UnboundedSender<LookRequest>,
    sessions: HashMap<SessionId, mpsc::UnboundedSender<SessionEvent>>,
    peers: HashMap<PeerId, Connected>,
    redial: Redial,
    /// Dials under way: what was to be reached, and who waits for the outcome.
    dials: HashMap<ConnectionId, (Target, Option<Answer>)>,
    members: Members,
    /// Who wants to be told of new members.
    remember: Option<watch::Sender<Vec<Vec<u8>>>>,
    /// Questions that were asked first, and not in reply to an answer.
    questions: HashSet<OutboundRequestId>,
}

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) swarm: Swarm<Composed>,
    pub(super) keypair: Keypair,
    pub(super) private: bool,
    pub(super) announce: Vec<Multiaddr>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) to_self: mpsc::WeakUnboundedSender<Command>,
    pub(super) reads: mpsc::UnboundedSender<ReadRequest>,
    pub(super) looks: mpsc::UnboundedSender<LookRequest>,
    pub(super) remember: Option<watch::Sender<Vec<Vec<u8>>>>,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { swarm, keypair, private, announce, commands, to_self, reads, looks, remember } = parts;
        let members = Members::new(keypair);
        Self {
            swarm,
            private,
            announce,
            commands,
            to_self,
            reads,
            looks,
            sessions: HashMap::new(),
            peers: HashMap::new(),
            redial: Redial::new(rand::random()),
            dials: HashMap::new(),
            members,
            remember,
            questions: HashSet::new(),
        }
    }

    /// Takes up the members that an earlier life knew.
    pub(super) fn remember(&mut self, records: &[Vec<u8>]) {
        let learned = self.members.learn(Instant::now(), records, &HashSet::new());
        self.learned(learned);
    }

    /// Starts all listeners and waits until each has said where it listens.
    pub(super) async fn listen(&mut self, addresses: &[Multiaddr]) -> Result<(), StartError> {
        let mut waiting: Vec<ListenerId> = Vec::new();
        let mut failures = Vec::new();
        for address in addresses {
            match self.swarm.listen_on(address.clone()) {
                Ok(listener) => waiting.push(listener),
                Err(error) => {
                    let failed = listen_error(address, error);
                    if failed.is_port_taken() {
                        return Err(failed);
                    }
                    failures.push(failed);
                }
            }
        }
        let started = waiting.len();
        // A machine without any interface of a family (a container, often) never says an address for it; that is no reason
        // not to start, and all that there are come at about the same time.
        let mut until = tokio::time::Instant::now() + LISTEN_PATIENCE;
        while !waiting.is_empty() {
            let Ok(event) = tokio::time::timeout_at(until, self.swarm.select_next_some()).await else { break };
            match event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    waiting.retain(|id| *id != listener_id);
                    until = until.min(tokio::time::Instant::now() + LISTEN_PATIENCE_REST);
                }
                SwarmEvent::ListenerClosed { listener_id, .. } => waiting.retain(|id| *id != listener_id),
                other => self.on_swarm(other),
            }
        }
        self.announce();
        match failures.into_iter().next() {
            Some(failed) if started == 0 => Err(failed),
            Some(failed) => {
                tracing::warn!(%failed, "one of the addresses is not listened at");
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let now = Instant::now();
            while let Some((target, addresses)) = self.redial.due(now) {
                self.dial(target, addresses, None);
            }
            let ask_at = self.ask_somebody(now);
            let redial_at = self.redial.next_timeout();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown(done)) => {
                        drop(self.swarm);
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.on_command(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.on_swarm(event),
                () = sleep_until(redial_at), if redial_at.is_some() => {}
                () = sleep_until(ask_at), if ask_at.is_some() => {}
            }
        }
    }

    pub(super) fn keep(&mut self, address: Multiaddr) {
        self.redial.keep(Instant::now(), address);
    }

    fn on_command(&mut self, command: Command) {
        let exchange = &mut self.swarm.behaviour_mut().exchange;
        // A receiver that is gone wants no answer.
        match command {
            Command::Addresses(answer) => drop(answer.send(self.addresses())),
            Command::Connect(address, answer) => {
                self.dial(Target::Address(address.clone()), vec![address], Some(answer));
            }
            Command::Keep(address) => {
                self.keep(address.clone());
                if let Some(peer) = peer_of(&address).filter(|peer| self.peers.contains_key(peer)) {
                    self.redial.connected(peer, None);
                }
            }
            Command::Peers(answer) => drop(answer.send(self.peers())),
            Command::DialReport(answer) => {
                let mut report = self.redial.report(Instant::now());
                for (_, reason) in report.iter_mut().filter(|(_, reason)| self.private && reason == STILL_CONNECTING) {
                    reason.push_str("; when it stays so, the other side may use another swarm key");
                }
                let _ = answer.send(report);
            }
            Command::OpenSession(events, answer) => {
                let session = exchange.open();
                let _ = events.send(SessionEvent::PeersChanged { connected: self.peers.len() });
                self.sessions.insert(session, events);
                let _ = answer.send(session);
            }
            Command::CloseSession(session) => {
                exchange.close(session);
                self.sessions.remove(&session);
            }
            Command::Want(session, wants) => exchange.want(session, &wants),
            Command::Forget(session, cids) => exchange.forget(session, &cids),
            Command::Report(session, answer) => {
                let given = exchange.session_peers(session);
                let report = SessionReport {
                    connected: self.peers.len(),
                    duplicate_blocks: given.iter().map(|(_, counters)| counters.duplicates).sum(),
                    sources: given
                        .into_iter()
                        .filter(|(_, counters)| counters.blocks > 0)
                        .map(|(peer, counters)| Source { peer, bytes: counters.bytes, blocks: counters.blocks })
                        .collect(),
                };
                let _ = answer.send(report);
            }
            Command::Arrived(cids) => exchange.arrived(&cids),
            Command::Follow(session, file) => exchange.follow(session, file),
            Command::Unfollow(session, root) => exchange.unfollow(session, &root),
            Command::WantLeaves(session, leaves) => exchange.want_leaves(session, &leaves),
            Command::LeafAdded(root, leaf) => exchange.leaf_added(&root, leaf),
            Command::Held(root, held) => exchange.held(root, held),
            Command::LookAgain(root) => exchange.look_again(&root),
            Command::ReadDone(ticket, outcomes) => exchange.read_done(ticket, outcomes),
            Command::Shutdown(_) => {}
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<ComposedEvent>) {
        match event {
            SwarmEvent::Behaviour(ComposedEvent::Exchange(event)) => self.on_exchange(event),
            SwarmEvent::Behaviour(ComposedEvent::Members(event)) => self.on_members(event),
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => self.announce(),
            SwarmEvent::Behaviour(ComposedEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                if let Some(peer) = self.peers.get_mut(&peer_id) {
                    peer.agent = Some(info.agent_version.chars().take(128).collect());
                }
            }
            // A machine that lost its power or its network never says that it is gone. Who does not know probes says so.
            SwarmEvent::Behaviour(ComposedEvent::Ping(ping::Event { peer, connection, result: Err(failure) }))
                if !matches!(failure, ping::Failure::Unsupported) =>
            {
                tracing::info!(%peer, %failure, "not answering");
                self.swarm.close_connection(connection);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                let dialled = self.dials.remove(&connection_id);
                self.redial.connected(peer_id, dialled.as_ref().map(|(target, _)| target));
                if let Some((_, Some(answer))) = dialled {
                    let _ = answer.send(Ok(peer_id));
                }
                if num_established.get() == 1 {
                    if endpoint.is_dialer() {
                        self.ask(peer_id);
                    }
                    let address = match endpoint {
                        ConnectedPoint::Dialer { address, .. } => address,
                        ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
                    };
                    tracing::info!(peer = %peer_id, %address, "connected");
                    self.peers.insert(peer_id, Connected { address, agent: None });
                    self.peers_changed();
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                let cause = cause.map(|cause| cause.to_string()).unwrap_or_default();
                tracing::info!(peer = %peer_id, cause, "disconnected");
                self.peers.remove(&peer_id);
                self.members.disconnected(&peer_id);
                self.redial.disconnected(Instant::now(), &peer_id);
                self.peers_changed();
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some((target, answer)) = self.dials.remove(&connection_id) {
                    let reason = self.dial_failure(&error);
                    tracing::debug!(?target, reason, "not connected");
                    self.redial.failed(Instant::now(), &target, reason.clone());
                    if let (Some(answer), Target::Address(address)) = (answer, target) {
                        let _ = answer.send(Err(ConnectError { address, reason }));
                    }
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %send_back_addr, error = %flat(&error), "an incoming connection failed");
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(?addresses, ?reason, "no longer listening");
            }
            _ => {}
        }
    }

    fn on_exchange(&self, event: Event) {
        match event {
            Event::Block { session, block, from } => self.tell(session, SessionEvent::Block { block, from }),
            Event::NobodyHas { session, cid } => self.tell(session, SessionEvent::NobodyHas { cid }),
            Event::Pick { session, leaves } => self.tell(session, SessionEvent::Pick { leaves }),
            Event::Roam { session, on } => self.tell(session, SessionEvent::Roam { on }),
            Event::Read { ticket, items } => {
                if let Some(commands) = self.to_self.upgrade() {
                    let _ = self.reads.send(ReadRequest::new(items, ticket, commands));
                }
            }
            Event::Look { root } => {
                if let Some(commands) = self.to_self.upgrade() {
                    let _ = self.looks.send(LookRequest { root, reply: Some(commands) });
                }
            }
        }
    }

    fn tell(&self, session: SessionId, event: SessionEvent) {
        if let Some(events) = self.sessions.get(&session) {
            let _ = events.send(event);
        }
    }

    fn peers_changed(&self) {
        for events in self.sessions.values() {
            let _ = events.send(SessionEvent::PeersChanged { connected: self.peers.len() });
        }
    }

    fn dial(&mut self, target: Target, addresses: Vec<Multiaddr>, answer: Option<Answer>) {
        let peer = match &target {
            Target::Address(address) => peer_of(address),
            Target::Member(peer) => Some(*peer),
        };
        if let Some(peer) = peer.filter(|peer| self.peers.contains_key(peer)) {
            self.redial.connected(peer, Some(&target));
            if let Some(answer) = answer {
                let _ = answer.send(Ok(peer));
            }
            return;
        }
        let options = match (peer, addresses.first()) {
            (Some(peer), _) => {
                let known = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses);
                if platform::SHARES_PORTS { known.build() } else { known.allocate_new_port().build() }
            }
            (None, Some(address)) => {
                let unknown = DialOpts::unknown_peer_id().address(address.clone());
                if platform::SHARES_PORTS { unknown.build() } else { unknown.allocate_new_port().build() }
            }
            (None, None) => return,
        };
        let connection = options.connection_id();
        self.dials.insert(connection, (target, answer));
        if let Err(error) = self.swarm.dial(options) {
            self.on_swarm(SwarmEvent::OutgoingConnectionError { peer_id: None, connection_id: connection, error });
        }
    }

    /// Says anew where this member is, if that has changed; others hear of it when they ask or are asked.
    fn announce(&mut self) {
        let addresses = self.addresses();
        self.members.announce(Instant::now(), SystemTime::now(), &addresses);
    }

    fn ask(&mut self, peer: PeerId) {
        if let Some(behaviour) = self.swarm.behaviour_mut().members.as_mut() {
            self.questions.insert(behaviour.send_request(&peer, self.members.question()));
        }
    }

    /// Asks a random member when it is time; gives when it will be time next.
    fn ask_somebody(&mut self, now: Instant) -> Option<Instant> {
        if !self.swarm.behaviour().members.is_enabled() {
            return None;
        }
        let connected = self.peers.keys();
        if let Some(peer) = self.members.whom_to_ask(now, connected, rand::random()) {
            self.ask(peer);
        }
        Some(self.members.ask_at(now))
    }

    fn on_members(&mut self, event: request_response::Event<Message, Message>) {
        let (now, connected) = (Instant::now(), self.peers.keys().copied().collect());
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    let (answer, learned) = self.members.answer(now, &request, &connected);
                    if let Some(behaviour) = self.swarm.behaviour_mut().members.as_mut() {
                        // Whoever has asked may be gone by now.
                        let _ = behaviour.send_response(channel, answer);
                    }
                    self.learned(learned);
                }
                request_response::Message::Response { request_id, response } => {
                    let first = self.questions.remove(&request_id);
                    let (more, learned) = self.members.answered(now, &response, &connected);
                    let behaviour = self.swarm.behaviour_mut().members.as_mut();
                    if let (true, Some(more), Some(behaviour)) = (first, more, behaviour) {
                        behaviour.send_request(&peer, more);
                    }
                    self.learned(learned);
                }
            },
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                self.questions.remove(&request_id);
                if matches!(error, OutboundFailure::UnsupportedProtocols) {
                    self.members.is_mute(peer);
                } else {
                    tracing::debug!(%peer, %error, "a member does not say whom it knows");
                }
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a member's question was not answered");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn learned(&mut self, learned: Vec<Member>) {
        if learned.is_empty() {
            return;
        }
        let now = Instant::now();
        for Member { peer, addresses } in learned {
            let at = if *self.swarm.local_peer_id() < peer { now } else { now + COURTESY };
            tracing::debug!(%peer, ?addresses, "a member of the swarm");
            self.redial.keep_member(at, peer, addresses);
            if self.peers.contains_key(&peer) {
                self.redial.connected(peer, None);
            }
        }
        if let Some(remember) = &self.remember {
            remember.send_replace(self.members.records());
        }
    }

    /// The reason of a failed dial for the user; in a private swarm a garbled handshake names its likely cause.
    fn dial_failure(&self, error: &DialError) -> String {
        let DialError::Transport(failures) = error else { return flat(error) };
        let text: Vec<String> = failures.iter().map(|(_, failure)| flat(failure)).collect();
        let text = text.join("; ");
        let reached = !["refused", "unreachable", "No route", "resolve", "not supported", "lookup"]
            .iter()
            .any(|word| text.contains(word));
        // The private layer says itself what it knows.
        if self.private && reached && !text.contains("swarm key") {
            return format!("the handshake failed ({text}): the other side may use another swarm key, or none");
        }
        text
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let peer = *self.swarm.local_peer_id();
        let mut all: Vec<Multiaddr> = Vec::new();
        for address in self.announce.iter().chain(self.swarm.listeners()) {
            let address = match address.clone().with_p2p(peer) {
                Ok(full) | Err(full) => full,
            };
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    fn peers(&self) -> Vec<Peer> {
        let exchange = &self.swarm.behaviour().exchange;
        let peer = |(id, connected): (&PeerId, &Connected)| {
            let (received_bytes, sent_bytes) = exchange.traffic(id);
            Peer {
                id: *id,
                address: connected.address.clone(),
                agent: connected.agent.clone(),
                received_bytes,
                sent_bytes,
            }
        };
        self.peers.iter().map(peer).collect()
    }
}

fn listen_error(address: &Multiaddr, error: TransportError<std::io::Error>) -> StartError {
    match error {
        TransportError::MultiaddrNotSupported(address) => StartError::Unsupported { address },
        TransportError::Other(source) => StartError::Listen { address: address.clone(), source: innermost(source) },
    }
}

/// Transports wrap the system's error several times; its kind is in the innermost.
fn innermost(error: std::io::Error) -> std::io::Error {
    let mut kind = error.kind();
    let text = flat(&error);
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && io.kind() != std::io::ErrorKind::Other
        {
            kind = io.kind();
        }
        source = inner.source();
    }
    if kind == std::io::ErrorKind::Other && text.contains("in use") {
        kind = std::io::ErrorKind::AddrInUse;
    }
    std::io::Error::new(kind, text)
}

/// An error with its causes on one line, each said once.
fn flat(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_start_matches(": ").to_owned()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
