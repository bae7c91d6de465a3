//! Bitswap as a libp2p behaviour: drives the client and server cores and the teller, and nothing else.
//!
//! It is the only place that reads the clock for them. Messages to a peer go to one of its connections, the first; when
//! that one ends the others are closed, too: what was on its streams is lost, and a peer to whom it had ended long ago,
//! and who asked on another one, would wait for that for ever.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures_timer::Delay;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::client::{self, Client, Followed, PeerCounters, SessionId};
use super::handler::{self, FromPeer, Handler, Shared, ToPeer, Verify};
use super::have::{self, Held, Teller};
use super::message::{Outgoing, Version};
use super::pool::Pool;
use super::rate::Rate;
use super::server::{self, ReadKind, ReadOutcome, Server, Ticket};
use crate::block::{Block, Cid};

/// How the exchange behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The client core.
    pub client: client::Options,
    /// The server core.
    pub server: server::Options,
    /// The newest protocol version that is offered.
    pub newest: Version,
    /// Bytes a second to all peers together.
    pub up: Rate,
    /// Bytes a second from all peers together.
    pub down: Rate,
}

impl Default for Options {
    fn default() -> Self {
        let (client, server) = (client::Options::default(), server::Options::default());
        Self { client, server, newest: Version::V120, up: Rate::default(), down: Rate::default() }
    }
}

/// What the driver has to know or do.
#[derive(Debug)]
pub enum Event {
    /// A session's block has come.
    Block {
        /// Whose.
        session: SessionId,
        /// The block.
        block: Block,
        /// From whom.
        from: PeerId,
    },
    /// No connected peer has what a session wants.
    NobodyHas {
        /// Whose want.
        session: SessionId,
        /// Of what.
        cid: Cid,
    },
    /// Read these and answer with [`Behaviour::read_done`].
    Read {
        /// To be handed back.
        ticket: Ticket,
        /// What.
        items: Vec<(Cid, ReadKind)>,
    },
    /// Leaves that a session had better want now.
    Pick {
        /// Which session.
        session: SessionId,
        /// Their numbers.
        leaves: Vec<u32>,
    },
    /// Whether a session had better want leaves of its own choice, too.
    Roam {
        /// Which session.
        session: SessionId,
        /// Whether it had.
        on: bool,
    },
    /// Somebody pulls this: answer with [`Behaviour::held`] what of it is here.
    Look {
        /// The file's root.
        root: Cid,
    },
}

/// The exchange of one node.
pub struct Behaviour {
    client: Client,
    server: Server,
    teller: Teller,
    shared: Shared,
    /// Connections by peer, the one in use first.
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    received: HashMap<PeerId, u64>,
    pending: VecDeque<ToSwarm<Event, ToPeer>>,
    timer: Option<(Instant, Delay)>,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour").field("peers", &self.connections.len()).finish_non_exhaustive()
    }
}

impl Behaviour {
    /// An exchange without peers. `verify` hashes received blocks; `seed` breaks ties in the client.
    #[must_use]
    pub fn new(options: Options, verify: Verify, seed: u64) -> Self {
        let Options { client, server, newest, up, down } = options;
        Self {
            client: Client::new(client, seed),
            server: Server::new(server),
            teller: Teller::new(seed),
            shared: Shared { verify, pool: Pool::default(), offers: handler::offers(newest), up, down },
            connections: HashMap::new(),
            received: HashMap::new(),
            pending: VecDeque::new(),
            timer: None,
        }
    }

    /// Opens a session.
    pub fn open(&mut self) -> SessionId {
        self.client.open(Instant::now())
    }

    /// Closes a session.
    pub fn close(&mut self, session: SessionId) {
        self.client.close(Instant::now(), session);
    }

    /// Adds wants with their expected lengths in bytes.
    pub fn want(&mut self, session: SessionId, wants: &[(Cid, u32)]) {
        self.client.want(Instant::now(), session, wants);
    }

    /// Withdraws wants.
    pub fn forget(&mut self, session: SessionId, cids: &[Cid]) {
        self.client.forget(Instant::now(), session, cids);
    }

    /// Answers an [`Event::Read`].
    pub fn read_done(&mut self, ticket: Ticket, outcomes: Vec<ReadOutcome>) {
        self.server.read_done(Instant::now(), ticket, outcomes);
    }

    /// The local store now has these.
    pub fn arrived(&mut self, cids: &[Cid]) {
        self.server.arrived(Instant::now(), cids);
    }

    /// A session's leaves are picked from now on; the others are told what is there.
    pub fn follow(&mut self, session: SessionId, file: Followed) {
        let now = Instant::now();
        if self.teller.follow(now, file.root, file.leaves, file.there.clone()) {
            self.client.follow(now, session, file);
        }
    }

    /// A session's file is there, or rests.
    pub fn unfollow(&mut self, session: SessionId, root: &Cid) {
        self.client.unfollow(Instant::now(), session);
        self.teller.unfollow(root);
    }

    /// Wants leaves of the followed file: number, CID, expected length in bytes.
    pub fn want_leaves(&mut self, session: SessionId, leaves: &[(u32, Cid, u32)]) {
        self.client.want_leaves(Instant::now(), session, leaves);
    }

    /// A leaf of a followed file is there and can be served.
    pub fn leaf_added(&mut self, root: &Cid, leaf: u32) {
        let now = Instant::now();
        self.client.leaf_added(now, root, leaf);
        self.teller.added(now, root, leaf);
    }

    /// Answers an [`Event::Look`].
    pub fn held(&mut self, root: Cid, held: Option<(u32, Held)>) {
        self.teller.held(Instant::now(), root, held);
    }

    /// A file has come here by another way than a pull, or has gone.
    pub fn look_again(&mut self, root: &Cid) {
        self.teller.look_again(root);
    }

    /// What each peer has given a session.
    #[must_use]
    pub fn session_peers(&self, session: SessionId) -> Vec<(PeerId, PeerCounters)> {
        self.client.session_peers(session)
    }

    /// Bytes of blocks received from and sent to a connected peer.
    #[must_use]
    pub fn traffic(&self, peer: &PeerId) -> (u64, u64) {
        let sent = self.server.ledger(peer).map_or(0, |ledger| ledger.bytes);
        (self.received.get(peer).copied().unwrap_or(0), sent)
    }

    fn connected(&mut self, peer: PeerId) {
        let now = Instant::now();
        self.client.peer_connected(now, peer);
        self.server.peer_connected(now, peer);
        self.teller.peer_connected(now, peer);
    }

    fn disconnected(&mut self, peer: PeerId) {
        let now = Instant::now();
        self.client.peer_disconnected(now, peer);
        self.server.peer_disconnected(now, peer);
        self.teller.peer_disconnected(now, peer);
    }

    fn send(&mut self, peer: PeerId, message: ToPeer) {
        match self.connections.get(&peer).and_then(|connections| connections.first()) {
            Some(connection) => self.pending.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(*connection),
                event: message,
            }),
            None => {
                if let ToPeer::Message(message) = message {
                    self.server.sent(Instant::now(), peer, message.block_bytes());
                }
            }
        }
    }

    /// Takes what the cores have to say; false when they are silent.
    fn drain(&mut self) -> bool {
        let mut progress = false;
        while let Some(output) = self.client.poll() {
            progress = true;
            match output {
                client::Output::Send { peer, entries, full } => {
                    self.send(peer, ToPeer::Message(Outgoing { full, wants: entries, ..Outgoing::default() }));
                }
                client::Output::Block { session, block, from } => {
                    self.pending.push_back(ToSwarm::GenerateEvent(Event::Block { session, block, from }));
                }
                client::Output::Pick { session, leaves } => {
                    self.pending.push_back(ToSwarm::GenerateEvent(Event::Pick { session, leaves }));
                }
                client::Output::Roam { session, on } => {
                    self.pending.push_back(ToSwarm::GenerateEvent(Event::Roam { session, on }));
                }
                client::Output::NobodyHas { session, cid } => {
                    self.pending.push_back(ToSwarm::GenerateEvent(Event::NobodyHas { session, cid }));
                }
            }
        }
        while let Some(output) = self.teller.poll() {
            progress = true;
            match output {
                have::Output::Send { peer, notices } => self.send(peer, ToPeer::Notices(notices)),
                have::Output::Told { peer, notice } => self.client.told(Instant::now(), peer, &notice),
                have::Output::Look { root } => {
                    self.pending.push_back(ToSwarm::GenerateEvent(Event::Look { root }));
                }
            }
        }
        while let Some(output) = self.server.poll() {
            progress = true;
            match output {
                server::Output::Read { ticket, items, .. } => {
                    self.pending.push_back(ToSwarm::GenerateEvent(Event::Read { ticket, items }));
                }
                server::Output::Send { peer, message } => self.send(peer, ToPeer::Message(message)),
            }
        }
        progress
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(due) = self.client.next_timeout().into_iter().chain(self.teller.next_timeout()).min() else {
            self.timer = None;
            return false;
        };
        let now = Instant::now();
        if self.timer.as_ref().is_none_or(|(at, _)| *at != due) {
            self.timer = Some((due, Delay::new(due.saturating_duration_since(now))));
        }
        let Some((_, delay)) = &mut self.timer else { return false };
        if delay.poll_unpin(cx).is_pending() {
            return false;
        }
        self.timer = None;
        let now = Instant::now().max(due);
        if self.client.next_timeout().is_some_and(|at| at <= now) {
            self.client.timeout(now);
        }
        if self.teller.next_timeout().is_some_and(|at| at <= now) {
            self.teller.timeout(now);
        }
        true
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler::new(peer, self.shared.clone())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let connections = self.connections.entry(established.peer_id).or_default();
                connections.push(established.connection_id);
                if connections.len() == 1 {
                    self.connected(established.peer_id);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                let peer = closed.peer_id;
                let Some(connections) = self.connections.get_mut(&peer) else { return };
                let was_in_use = connections.first() == Some(&closed.connection_id);
                connections.retain(|connection| *connection != closed.connection_id);
                if connections.is_empty() {
                    self.connections.remove(&peer);
                    self.received.remove(&peer);
                    self.disconnected(peer);
                } else if was_in_use {
                    let connection = CloseConnection::All;
                    self.pending.push_back(ToSwarm::CloseConnection { peer_id: peer, connection });
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        if !self.connections.contains_key(&peer) {
            return;
        }
        let now = Instant::now();
        match event {
            FromPeer::Message(message) => {
                let bytes: u64 = message.blocks.iter().map(|block| block.bytes().len() as u64).sum();
                *self.received.entry(peer).or_default() += bytes;
                if message.full || !message.wants.is_empty() {
                    self.server.wants(now, peer, message.full, &message.wants);
                }
                let before = self.client.unwanted_from(&peer);
                self.client.message(now, peer, message.blocks, &message.presences, message.pending_bytes);
                let unwanted = self.client.unwanted_from(&peer);
                if unwanted > before {
                    let blocks = unwanted - before;
                    tracing::debug!(%peer, blocks, in_all = unwanted, "blocks that nobody asked for are dropped");
                }
            }
            FromPeer::Sent(bytes) => self.server.sent(now, peer, bytes),
            FromPeer::Notices(notices) => self.teller.message(now, peer, notices),
            FromPeer::Mute => {
                self.client.peer_is_mute(now, peer);
                self.teller.peer_is_mute(now, peer);
            }
            FromPeer::NoticesLost => {
                // It does not know where we are any more: it is told from the beginning.
                self.teller.peer_disconnected(now, peer);
                self.teller.peer_connected(now, peer);
            }
            FromPeer::Version(version) => {
                self.client.peer_version(now, peer, version);
                self.server.peer_version(now, peer, version);
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        loop {
            if let Some(action) = self.pending.pop_front() {
                return Poll::Ready(action);
            }
            if !self.drain() && !self.poll_timer(cx) {
                return Poll::Pending;
            }
        }
    }
}
