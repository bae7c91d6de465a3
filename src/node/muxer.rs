//! Many streams over one connection: yamux with limits of our own.
//!
//! The wire is that of libp2p-yamux, and so is the logic. That crate hides two settings that matter to us, which is why
//! this file stands in for it:
//!
//! - What a peer may make us hold for one connection. There it is 1 GiB; here it is [`WINDOW_BYTES_MAX`].
//! - How data is cut up. There each 16 KiB go to TLS as two writes, 12 bytes of header and the rest, and each write is a
//!   TLS record and a system call; here frames are larger, and a header goes with its data ([`join`]).
//!
//! And it reads longer frames than the crate `yamux` would ([`reframe`]).

mod join;
mod reframe;

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::iter::{Once, once};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use join::Join;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use reframe::Reframe;
use yamux::{Connection, ConnectionError, DEFAULT_CREDIT, Mode};

/// Streams of one connection that may be open at once. Bitswap holds a few, ping and identify one each; yamux breaks the
/// connection of a peer that opens more, so the number has room.
pub(crate) const STREAMS_MAX: u32 = 256;

/// What one stream may have in flight at most, in bytes, as long as others have not grown: 16 MiB fill 10 Gbit/s over
/// 13 ms, or 1 Gbit/s over 130 ms. Windows start at 256 KiB and grow only as far as the way is long and we are fast.
pub(crate) const STREAM_WINDOW_BYTES_MAX: u32 = 16 << 20;

/// What all streams of one connection may have in flight, and so make us hold, in bytes: every stream its first window,
/// and besides that what one of them needs to grow to its most.
const WINDOW_BYTES_MAX: usize = STREAMS_MAX as usize * DEFAULT_CREDIT as usize + STREAM_WINDOW_BYTES_MAX as usize;

/// Data of one frame, in bytes. Go sends as much; a ping waits half a millisecond behind it at 1 Gbit/s.
const FRAME_BYTES: usize = 64 * 1024;

/// Streams that a peer has opened and nobody has taken yet. Further ones are reset.
const WAITING_MAX: usize = STREAMS_MAX as usize;

/// Makes a [`Muxer`] of a secured connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config;

/// A multiplexed connection.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    connection: Connection<Join<Reframe<C>>>,
    /// Streams that came while the connection was driven for other reasons.
    waiting: VecDeque<yamux::Stream>,
    /// Who waits for a stream.
    waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> Muxer<C> {
    fn new(socket: C, mode: Mode) -> Self {
        let mut config = yamux::Config::default();
        // In this order: each setting is checked against the other as it is then.
        config.set_max_num_streams(STREAMS_MAX as usize);
        config.set_max_connection_receive_window(Some(WINDOW_BYTES_MAX));
        config.set_split_send_size(FRAME_BYTES);
        let socket = Join::new(Reframe::new(socket));
        Self { connection: Connection::new(socket, config, mode), waiting: VecDeque::new(), waker: None }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_next(cx);
        if next.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    /// Drives the connection, which yamux does only while it is asked for the next stream.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let stream = ready!(self.poll_next(cx))?;
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(stream);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        } else {
            tracing::debug!("a stream is reset: {WAITING_MAX} others wait to be taken");
        }
        // There may be more; others have their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> InboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(socket, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> OutboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(socket, Mode::Client)))
    }
}
