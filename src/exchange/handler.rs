//! The Bitswap streams of one connection: bytes to verified messages and back.
//!
//! Inbound streams are read until their end, any number of messages each. A message is read into a pooled buffer and
//! hashed elsewhere while the next is being read, a few at a time. Outbound there are two lanes, one for wants and
//! presences and one for blocks, so that a want never waits behind megabytes; each is one long-lived stream. A lane that
//! has been idle for [`LANE_IDLE`] is closed, because some peers abort streams that are idle for longer, and a message
//! whose stream turns out to be dead is written once more to a new one. A third lane is for who has what, between members
//! that know that protocol. What is in a message is not this file's business.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Ready, ready};
use futures::stream::{BoxStream, SelectAll, unfold};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt, StreamExt};
use futures_timer::Delay;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent};
use libp2p::swarm::{Stream, StreamUpgradeError, SubstreamProtocol};
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::have::{self, Notice};
use super::limits::{RECEIVE_BYTES_PER_CONNECTION, STREAMS_PER_CONNECTION};
use super::message::{Incoming, Outgoing, Version};
use super::pool::Pool;
use super::rate::{PIECE_BYTES, Rate};
use super::wire::{self, Decoded, FrameLength};
use crate::block::{self, Block, BlockError, Prefix};

/// How long a lane's stream stays open without a message. js-ipfs aborts inbound streams after 10 s (protocols.md §1.3).
const LANE_IDLE: Duration = Duration::from_secs(5);

/// Messages of one stream that are hashed while the next is read: at one MiB each, what keeps two cores busy.
const HASHED_AT_ONCE: usize = 4;

/// Messages that may wait for a lane. The server core bounds their blocks in bytes, the client core their wants.
const QUEUE_MAX: usize = 1024;

/// Hashes blocks away from the connection's own task.
pub type Verify = Arc<dyn Fn(Vec<(Prefix, Bytes)>) -> BoxFuture<'static, Result<Vec<Block>, BlockError>> + Send + Sync>;

/// What every connection of a node shares.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) verify: Verify,
    pub(super) pool: Pool,
    pub(super) offers: Arc<[Offer]>,
    /// Bytes a second to all peers, and from all.
    pub(super) up: Rate,
    pub(super) down: Rate,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Bitswap.
    Bitswap(Version),
    /// Who has what.
    Have,
}

/// A protocol name and what it means.
#[derive(Debug, Clone)]
pub struct Offer {
    name: StreamProtocol,
    speech: Speech,
}

/// Every protocol up to `newest`, best first (protocols.md §1.1).
pub(super) fn offers(newest: Version) -> Arc<[Offer]> {
    [
        ("/ipfs/bitswap/1.2.0", Version::V120),
        ("/ipfs/bitswap/1.1.0", Version::V110),
        ("/ipfs/bitswap/1.0.0", Version::V100),
        ("/ipfs/bitswap", Version::V100),
    ]
    .into_iter()
    .filter(|(_, version)| *version <= newest)
    .map(|(name, version)| Offer { name: StreamProtocol::new(name), speech: Speech::Bitswap(version) })
    .collect()
}

/// The protocol of who has what.
fn have_offer() -> Offer {
    Offer { name: StreamProtocol::new(have::wire::PROTOCOL), speech: Speech::Have }
}

impl AsRef<str> for Offer {
    fn as_ref(&self) -> &str {
        self.name.as_ref()
    }
}

/// Negotiates any of the offers.
#[derive(Debug, Clone)]
pub struct Upgrade(Arc<[Offer]>);

impl UpgradeInfo for Upgrade {
    type Info = Offer;
    type InfoIter = std::vec::IntoIter<Offer>;

    fn protocol_info(&self) -> Self::InfoIter {
        Vec::from(&*self.0).into_iter()
    }
}

impl<C> InboundUpgrade<C> for Upgrade {
    type Output = (C, Speech);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: C, offer: Offer) -> Self::Future {
        ready(Ok((stream, offer.speech)))
    }
}

impl<C> OutboundUpgrade<C> for Upgrade {
    type Output = (C, Speech);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: C, offer: Offer) -> Self::Future {
        ready(Ok((stream, offer.speech)))
    }
}

/// What a handler tells the behaviour.
#[derive(Debug)]
pub enum FromPeer {
    /// A verified message.
    Message(Incoming),
    /// A message with so many bytes of blocks has been written, or is lost.
    Sent(usize),
    /// What the peer speaks.
    Version(Version),
    /// What it says of who has what.
    Notices(Vec<Notice>),
    /// It does not speak of that.
    Mute,
    /// Something that it was to be told did not reach it.
    NoticesLost,
}

/// What the behaviour has for a peer.
#[derive(Debug, Clone)]
pub enum ToPeer {
    /// A Bitswap message.
    Message(Outgoing),
    /// Who has what.
    Notices(Vec<Notice>),
}

impl ToPeer {
    fn block_bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.block_bytes(),
            Self::Notices(_) => 0,
        }
    }
}

/// What came on an inbound stream.
#[derive(Debug)]
enum Received {
    Message(Incoming),
    Notices(Vec<Notice>),
}

/// Which stream a message goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneName {
    Control,
    Blocks,
    Have,
}

/// The streams of one connection.
pub struct Handler {
    peer: PeerId,
    shared: Shared,
    inbound: SelectAll<Messages>,
    /// What is left of [`RECEIVE_BYTES_PER_CONNECTION`].
    room: Arc<Semaphore>,
    control: Lane,
    blocks: Lane,
    have: Lane,
    closing: Vec<BoxFuture<'static, ()>>,
    told: Option<Version>,
    events: VecDeque<FromPeer>,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Why an inbound stream was given up: always the peer's doing.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error(transparent)]
    Have(#[from] have::wire::HaveError),
}

/// One direction of messages over one long-lived stream.
struct Lane {
    queue: VecDeque<Queued>,
    state: LaneState,
}

struct Queued {
    message: ToPeer,
    again: bool,
}

enum LaneState {
    Closed,
    Opening,
    Open { stream: Stream, speech: Speech, idle: Delay },
    Writing(BoxFuture<'static, Written>),
}

struct Written {
    queued: Queued,
    speech: Speech,
    stream: Result<Stream, io::Error>,
}

impl Handler {
    pub(super) fn new(peer: PeerId, shared: Shared) -> Self {
        Self {
            peer,
            shared,
            inbound: SelectAll::new(),
            room: Arc::new(Semaphore::new(RECEIVE_BYTES_PER_CONNECTION)),
            control: Lane::new(),
            blocks: Lane::new(),
            have: Lane::new(),
            closing: Vec::new(),
            told: None,
            events: VecDeque::new(),
        }
    }

    fn tell_version(&mut self, version: Version) {
        // Both directions negotiate; the better of the two is what the peer can do.
        if self.told.is_none_or(|told| told < version) {
            self.told = Some(version);
            self.events.push_back(FromPeer::Version(version));
        }
    }

    const fn lane(&mut self, name: LaneName) -> &mut Lane {
        match name {
            LaneName::Control => &mut self.control,
            LaneName::Blocks => &mut self.blocks,
            LaneName::Have => &mut self.have,
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ToPeer;
    type ToBehaviour = FromPeer;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        let offers = self.shared.offers.iter().cloned().chain([have_offer()]);
        SubstreamProtocol::new(Upgrade(offers.collect()), ())
    }

    /// Members of a swarm stay connected: an idle connection costs little, a new one a handshake.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, message: ToPeer) {
        let name = match &message {
            ToPeer::Message(message) if message.blocks.is_empty() => LaneName::Control,
            ToPeer::Message(_) => LaneName::Blocks,
            ToPeer::Notices(_) => LaneName::Have,
        };
        let lane = self.lane(name);
        if lane.queue.len() >= QUEUE_MAX {
            tracing::debug!(peer = %self.peer, "a message is dropped: its lane is full");
            self.events.push_back(lost(name, message.block_bytes()));
            return;
        }
        lane.queue.push_back(Queued { message, again: false });
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), OpenInfo>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(inbound) => {
                let (stream, speech) = inbound.protocol;
                if let Speech::Bitswap(version) = speech {
                    self.tell_version(version);
                }
                if self.inbound.len() < STREAMS_PER_CONNECTION {
                    self.inbound.push(messages(stream, speech, self.shared.clone(), self.room.clone()));
                } else {
                    tracing::debug!(peer = %self.peer, "an inbound stream is dropped: the peer has too many");
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(outbound) => {
                let (stream, speech) = outbound.protocol;
                if let Speech::Bitswap(version) = speech {
                    self.tell_version(version);
                }
                self.lane(outbound.info.0).state = LaneState::Open { stream, speech, idle: Delay::new(LANE_IDLE) };
            }
            ConnectionEvent::DialUpgradeError(failed) => {
                let name = failed.info.0;
                tracing::debug!(peer = %self.peer, error = %failed.error, ?name, "no stream");
                let lane = self.lane(name);
                lane.state = LaneState::Closed;
                // What cannot be sent now is not kept: the cores ask or offer again when it still matters.
                let bytes: usize = lane.queue.drain(..).map(|queued| queued.message.block_bytes()).sum();
                let unknown = matches!(failed.error, StreamUpgradeError::NegotiationFailed);
                let mute = name == LaneName::Have && unknown;
                self.events.push_back(if mute { FromPeer::Mute } else { lost(name, bytes) });
            }
            _ => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, OpenInfo, FromPeer>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
            }
            let mut progress = false;
            self.closing.retain_mut(|closing| closing.poll_unpin(cx).is_pending());
            for name in [LaneName::Control, LaneName::Blocks, LaneName::Have] {
                let (peer, up) = (self.peer, self.shared.up.clone());
                let lane = self.lane(name);
                match lane.poll(cx, peer, &up) {
                    Some(LaneEvent::Open) => {
                        let offers = match name {
                            LaneName::Control | LaneName::Blocks => self.shared.offers.clone(),
                            LaneName::Have => Arc::new([have_offer()]),
                        };
                        let protocol = SubstreamProtocol::new(Upgrade(offers), OpenInfo(name));
                        return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
                    }
                    Some(LaneEvent::Sent(bytes)) => {
                        return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(FromPeer::Sent(bytes)));
                    }
                    Some(LaneEvent::Lost(bytes)) => {
                        return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(lost(name, bytes)));
                    }
                    Some(LaneEvent::Idle(mut stream)) => {
                        progress = true;
                        let close = async move {
                            // A peer that does not answer the close has its stream reset by the drop.
                            let _ = stream.close().await;
                        };
                        self.closing.push(close.boxed());
                    }
                    None => {}
                }
            }
            match self.inbound.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok((received, _room)))) => self.events.push_back(match received {
                    Received::Message(message) => FromPeer::Message(message),
                    Received::Notices(notices) => FromPeer::Notices(notices),
                }),
                Poll::Ready(Some(Err(fault))) => {
                    progress = true;
                    tracing::debug!(peer = %self.peer, %fault, "an inbound stream is given up");
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if !progress && self.events.is_empty() {
                return Poll::Pending;
            }
        }
    }
}

/// Which lane an outbound stream was opened for.
#[derive(Debug, Clone, Copy)]
pub struct OpenInfo(LaneName);

enum LaneEvent {
    Open,
    Sent(usize),
    Lost(usize),
    Idle(Stream),
}

impl Lane {
    const fn new() -> Self {
        Self { queue: VecDeque::new(), state: LaneState::Closed }
    }

    /// What the lane needs done, or `None` when it waits.
    fn poll(&mut self, cx: &mut Context<'_>, peer: PeerId, up: &Rate) -> Option<LaneEvent> {
        loop {
            match std::mem::replace(&mut self.state, LaneState::Closed) {
                LaneState::Closed if self.queue.is_empty() => return None,
                LaneState::Closed => {
                    self.state = LaneState::Opening;
                    return Some(LaneEvent::Open);
                }
                LaneState::Opening => {
                    self.state = LaneState::Opening;
                    return None;
                }
                LaneState::Open { stream, speech, mut idle } => match self.queue.pop_front() {
                    Some(queued) => self.state = LaneState::Writing(write(stream, speech, queued, up.clone()).boxed()),
                    None if idle.poll_unpin(cx).is_ready() => return Some(LaneEvent::Idle(stream)),
                    None => {
                        self.state = LaneState::Open { stream, speech, idle };
                        return None;
                    }
                },
                LaneState::Writing(mut writing) => match writing.poll_unpin(cx) {
                    Poll::Pending => {
                        self.state = LaneState::Writing(writing);
                        return None;
                    }
                    Poll::Ready(written) => {
                        if let Some(event) = self.written(written, peer) {
                            return Some(event);
                        }
                    }
                },
            }
        }
    }

    fn written(&mut self, written: Written, peer: PeerId) -> Option<LaneEvent> {
        let Written { mut queued, speech, stream } = written;
        let bytes = queued.message.block_bytes();
        match stream {
            Ok(stream) => {
                self.state = LaneState::Open { stream, speech, idle: Delay::new(LANE_IDLE) };
                Some(LaneEvent::Sent(bytes))
            }
            Err(error) if !queued.again => {
                tracing::debug!(%peer, %error, "a stream is dead; its message goes to a new one");
                queued.again = true;
                self.queue.push_front(queued);
                None
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a message could not be sent");
                Some(LaneEvent::Lost(bytes))
            }
        }
    }
}

/// What is to be known of a message that did not go out.
const fn lost(name: LaneName, block_bytes: usize) -> FromPeer {
    match name {
        LaneName::Control | LaneName::Blocks => FromPeer::Sent(block_bytes),
        LaneName::Have => FromPeer::NoticesLost,
    }
}

async fn write(mut stream: Stream, speech: Speech, queued: Queued, up: Rate) -> Written {
    let result = async {
        match (&queued.message, speech) {
            (ToPeer::Message(message), Speech::Bitswap(version)) => {
                write_message(&mut stream, message, version, &up).await?;
            }
            (ToPeer::Notices(notices), _) => {
                let body = have::wire::encode(notices);
                let mut frame = Vec::with_capacity(body.len() + 5);
                block::push_varint(&mut frame, body.len() as u64);
                frame.extend(body);
                up.count(frame.len());
                stream.write_all(&frame).await?;
            }
            (ToPeer::Message(_), Speech::Have) => {}
        }
        stream.flush().await
    }
    .await;
    Written { queued, speech, stream: result.map(|()| stream) }
}

async fn write_message(stream: &mut Stream, message: &Outgoing, version: Version, up: &Rate) -> io::Result<()> {
    for frame in wire::encode(message, version) {
        for part in &frame.parts {
            if message.blocks.is_empty() {
                up.count(part.len());
                stream.write_all(part).await?;
                continue;
            }
            if up.get().is_none() {
                stream.write_all(part).await?;
                continue;
            }
            for piece in part.chunks(PIECE_BYTES) {
                up.pass(piece.len()).await;
                stream.write_all(piece).await?;
            }
        }
    }
    Ok(())
}

/// The messages of one inbound stream, each with the room that its bytes take until it has been handed on.
type Messages = BoxStream<'static, Result<(Received, OwnedSemaphorePermit), Fault>>;

/// The messages of an inbound stream, hashed a few at a time; it ends with the stream or its first fault.
fn messages<S>(stream: S, speech: Speech, shared: Shared, room: Arc<Semaphore>) -> Messages
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Shared { verify, pool, down, .. } = shared;
    let frames = unfold(Some((stream, pool, room, down)), |state| async move {
        let (mut stream, pool, room, down) = state?;
        match read_frame(&mut stream, &pool, &room, &down).await {
            Ok(Some(frame)) => Some((Ok(frame), Some((stream, pool, room, down)))),
            Ok(None) => {
                let _ = stream.close().await;
                None
            }
            Err(fault) => Some((Err(fault), None)),
        }
    });
    frames
        .map(move |frame| {
            let verify = verify.clone();
            async move {
                let (frame, taken) = frame?;
                let received = match speech {
                    Speech::Bitswap(_) => Received::Message(hash(wire::decode(&frame)?, &verify).await?),
                    Speech::Have => Received::Notices(have::wire::decode(&frame)?),
                };
                Ok((received, taken))
            }
        })
        .buffered(HASHED_AT_ONCE)
        .boxed()
}

async fn hash(decoded: Decoded, verify: &Verify) -> Result<Incoming, Fault> {
    let Decoded { full, wants, blocks, presences, pending_bytes } = decoded;
    let blocks = if blocks.is_empty() { Vec::new() } else { verify(blocks).await? };
    Ok(Incoming { full, wants, blocks, presences, pending_bytes })
}

/// The next frame without its length, and the room for it, for which it waits; `None` at the end of the stream.
async fn read_frame<R>(
    stream: &mut R,
    pool: &Pool,
    room: &Arc<Semaphore>,
    down: &Rate,
) -> Result<Option<(Bytes, OwnedSemaphorePermit)>, Fault>
where
    R: AsyncRead + Unpin,
{
    let mut header = [0_u8; 10];
    let mut have = 0;
    loop {
        let Some(next) = header.get_mut(have..=have) else {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        };
        if stream.read(next).await? == 0 {
            return if have == 0 { Ok(None) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
        }
        have += 1;
        if let FrameLength::Ready { length, .. } = wire::frame_length(header.get(..have).unwrap_or_default())? {
            let needed = u32::try_from(length).expect("a frame keeps to the limit, which is far below 4 GiB");
            let taken = room.clone().acquire_many_owned(needed).await.expect("it is never closed");
            let mut buffer = pool.take(length);
            for piece in buffer.filled().chunks_mut(PIECE_BYTES) {
                down.pass(piece.len()).await;
                stream.read_exact(piece).await?;
            }
            return Ok(Some((buffer.freeze(), taken)));
        }
    }
}

#[cfg(test)]
mod tests;
