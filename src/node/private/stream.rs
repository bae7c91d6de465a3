//! A connection encrypted with the swarm key, and the exchange by which both sides show that they have it.
//!
//! The wire is that of go-libp2p and libp2p-pnet (protocols.md §6): each side sends 24 random bytes in clear, and all that
//! it writes after them is XORed with XSalsa20 by the swarm key and these bytes. Nothing in that tells a wrong key, so we
//! look at what comes first in every connection, which is multistream's greeting: a dialler sends it at once and waits
//! for the listener's; a listener reads the dialler's, tries its keys on it, sends nothing but its 24 bytes before one
//! fits, and then greets too. Multistream itself speaks in this order, so others notice no difference. The multistream
//! above is handed the peer's greeting as if it came just now, and what it says of ours is left out.
//!
//! It gives membership and no integrity: whoever is between the two sides can flip bits, and TLS or Noise above notices.
//!
//! Invariants: plain text never reaches the socket, and neither key nor plain text an error or a log. What was encrypted
//! is sent whole and in order, since the keystream cannot be taken back: it waits in `outgoing` when the socket is full.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::salsa20::{NONCE_BYTES, XSalsa20};
use crate::node::swarm_key::{SwarmKey, SwarmKeys};

/// What both sides say first in every libp2p connection: multistream-select's own name, with its length before it.
const GREETING: [u8; 20] = *b"\x13/multistream/1.0.0\n";

/// The most that is encrypted before it is sent, in bytes: the 64 KiB that TLS holds ready, with its records' headers.
const OUTGOING_BYTES_MAX: usize = 128 * 1024;

/// When no more than this was sent, in bytes, `outgoing` keeps no memory: hundreds of connections are idle at any time.
const LITTLE_BYTES: usize = 4 * 1024;

/// Why a connection is not one of our private swarm.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The peer's first bytes are in no key of ours.
    #[error("the other side uses another swarm key, or none")]
    Other,
    /// The peer hung up; ours do that to those with another key.
    #[error("the other side hung up when swarm keys were compared: it uses another swarm key, or none")]
    HungUp,
    /// The peer neither showed a key nor hung up; others do that to those with another key.
    #[error("the other side has not shown its swarm key in time: it uses another swarm key, or none")]
    Silent,
    /// The network's fault, or this machine's.
    #[error("the connection broke when swarm keys were compared: {0}")]
    Broken(#[source] io::Error),
}

impl KeyError {
    /// Whether another key may do better.
    pub(super) const fn is_about_the_key(&self) -> bool {
        !matches!(self, Self::Broken(_))
    }
}

impl From<io::Error> for KeyError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => Self::HungUp,
            _ => Self::Broken(error),
        }
    }
}

/// Shows the listener that we have this key, and waits until it has shown the same.
pub(super) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    key: &SwarmKey,
) -> Result<PrivateStream<S>, KeyError> {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let mut write = XSalsa20::new(key.bytes(), &nonce);
    let mut first = [0; NONCE_BYTES + GREETING.len()];
    let (head, greeting) = first.split_at_mut(NONCE_BYTES);
    head.copy_from_slice(&nonce);
    write.apply_to(&GREETING, greeting);
    socket.write_all(&first).await?;
    socket.flush().await?;
    let (nonce, greeting) = read_first(&mut socket).await?;
    let read = understood(key, &nonce, greeting).ok_or(KeyError::Other)?;
    Ok(PrivateStream::new(socket, read, write))
}

/// Waits until the dialler has shown one of our keys, and shows it the same. Sends nothing but random bytes before.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    keys: &SwarmKeys,
) -> Result<PrivateStream<S>, KeyError> {
    let own: [u8; NONCE_BYTES] = rand::random();
    socket.write_all(&own).await?;
    socket.flush().await?;
    let (nonce, greeting) = read_first(&mut socket).await?;
    let fitting = |key| understood(key, &nonce, greeting).map(|read| (key, read));
    let (key, read) = keys.iter().find_map(fitting).ok_or(KeyError::Other)?;
    let mut write = XSalsa20::new(key.bytes(), &own);
    let mut greeting = GREETING;
    write.apply(&mut greeting);
    socket.write_all(&greeting).await?;
    socket.flush().await?;
    Ok(PrivateStream::new(socket, read, write))
}

/// The peer's nonce and its greeting, still encrypted.
async fn read_first<S: AsyncRead + Unpin>(
    socket: &mut S,
) -> Result<([u8; NONCE_BYTES], [u8; GREETING.len()]), KeyError> {
    let (mut nonce, mut greeting) = ([0; NONCE_BYTES], [0; GREETING.len()]);
    socket.read_exact(&mut nonce).await?;
    socket.read_exact(&mut greeting).await?;
    Ok((nonce, greeting))
}

/// How the peer is to be read after its greeting, when that is in this key.
fn understood(key: &SwarmKey, nonce: &[u8; NONCE_BYTES], mut greeting: [u8; GREETING.len()]) -> Option<XSalsa20> {
    let mut read = XSalsa20::new(key.bytes(), nonce);
    read.apply(&mut greeting);
    (greeting == GREETING).then_some(read)
}

/// A connection between two members of the swarm.
pub(crate) struct PrivateStream<S> {
    socket: S,
    read: XSalsa20,
    write: XSalsa20,
    /// The peer's greeting, as far as it has not been handed up.
    heard: &'static [u8],
    /// Our greeting, as far as the layer above has not said it: it has been sent already.
    said: &'static [u8],
    outgoing: Outgoing,
}

impl<S> PrivateStream<S> {
    /// When both greetings are over.
    fn new(socket: S, read: XSalsa20, write: XSalsa20) -> Self {
        Self { socket, read, write, heard: &GREETING, said: &GREETING, outgoing: Outgoing::default() }
    }

    /// Leaves out what is sent already; gives how much that was.
    fn spare_greeting(&mut self, data: &[u8]) -> io::Result<usize> {
        let spared = data.len().min(self.said.len());
        let (now, later) = self.said.split_at(spared);
        if &data[..spared] != now {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "a connection has to begin with multistream's greeting",
            ));
        }
        self.said = later;
        Ok(spared)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrivateStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.heard.is_empty() {
            let (now, later) = this.heard.split_at(this.heard.len().min(buffer.len()));
            buffer[..now.len()].copy_from_slice(now);
            this.heard = later;
            return Poll::Ready(Ok(now.len()));
        }
        let read = ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
        this.read.apply(&mut buffer[..read]);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrivateStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    /// TLS has a piece for each record, and hands up to 64 of them down at once.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.said.is_empty() {
            let first = pieces.iter().find(|piece| !piece.is_empty());
            return Poll::Ready(first.map_or(Ok(0), |piece| this.spare_greeting(piece)));
        }
        ready!(this.outgoing.poll_send(&mut this.socket, cx))?;
        let taken = this.outgoing.fill(pieces, &mut this.write);
        // What is encrypted is ours to send. When the socket is full, that is for the next write, flush or close.
        match this.outgoing.poll_send(&mut this.socket, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.outgoing.poll_send(&mut this.socket, cx))?;
        this.outgoing.rest();
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.outgoing.poll_send(&mut this.socket, cx))?;
        Pin::new(&mut this.socket).poll_close(cx)
    }
}

impl<S> fmt::Debug for PrivateStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateStream").field("cipher", &self.write).finish_non_exhaustive()
    }
}

/// What is encrypted and not sent.
#[derive(Default)]
struct Outgoing {
    buffer: Vec<u8>,
    unsent: Range<usize>,
    /// What was encrypted since it last rested, in bytes.
    lately: usize,
}

impl Outgoing {
    /// Takes from the pieces what fits, in one go. Only when nothing is unsent.
    fn fill(&mut self, pieces: &[IoSlice<'_>], cipher: &mut XSalsa20) -> usize {
        debug_assert!(self.unsent.is_empty());
        let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
        let taken = offered.min(OUTGOING_BYTES_MAX);
        if self.buffer.len() < taken {
            self.buffer.reserve_exact(taken - self.buffer.len());
            self.buffer.resize(taken, 0);
        }
        let mut room = &mut self.buffer[..taken];
        for piece in pieces {
            let (now, later) = room.split_at_mut(piece.len().min(room.len()));
            cipher.apply_to(&piece[..now.len()], now);
            room = later;
        }
        self.unsent = 0..taken;
        self.lately = self.lately.saturating_add(taken);
        taken
    }

    /// Sends until nothing is left.
    fn poll_send<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut *socket).poll_write(cx, &self.buffer[self.unsent.clone()])) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Ok(sent) => self.unsent.start += sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives memory back when all is sent and that was little: after much there is likely to be more.
    fn rest(&mut self) {
        debug_assert!(self.unsent.is_empty());
        if (1..=LITTLE_BYTES).contains(&self.lately) {
            self.buffer = Vec::new();
        }
        self.lately = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::task::Waker;

    use libp2p::pnet::{PnetConfig, PreSharedKey};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Bytes under way in one direction.
    #[derive(Default)]
    struct Way {
        bytes: VecDeque<u8>,
        closed: bool,
        waiting: Vec<Waker>,
    }

    /// One end of a connection that holds a KiB, cuts everything into pieces, and is not ready every other time.
    struct End {
        incoming: Arc<Mutex<Way>>,
        outgoing: Arc<Mutex<Way>>,
        random: StdRng,
    }

    fn ends(seed: u64) -> (End, End) {
        let (a, b): (Arc<Mutex<Way>>, Arc<Mutex<Way>>) = Default::default();
        let end = |incoming: &Arc<_>, outgoing: &Arc<_>, seed| End {
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            random: StdRng::seed_from_u64(seed),
        };
        (end(&a, &b, seed), end(&b, &a, !seed))
    }

    impl End {
        /// At most so many bytes now, or none yet.
        fn piece(&mut self, cx: &Context<'_>, length: usize) -> Poll<usize> {
            if self.random.random() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.random.random_range(1..=length.max(1)))
        }
    }

    impl AsyncRead for End {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
            let length = ready!(self.piece(cx, buffer.len()));
            let mut way = self.incoming.lock().unwrap();
            if way.bytes.is_empty() && !way.closed {
                way.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            let length = length.min(way.bytes.len());
            buffer.iter_mut().zip(way.bytes.drain(..length)).for_each(|(to, from)| *to = from);
            way.waiting.drain(..).for_each(Waker::wake);
            Poll::Ready(Ok(length))
        }
    }

    impl AsyncWrite for End {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            let length = ready!(self.piece(cx, data.len()));
            let mut way = self.outgoing.lock().unwrap();
            let length = length.min(1024 - way.bytes.len());
            if length == 0 {
                way.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            way.bytes.extend(&data[..length]);
            way.waiting.drain(..).for_each(Waker::wake);
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let mut way = self.outgoing.lock().unwrap();
            way.closed = true;
            way.waiting.drain(..).for_each(Waker::wake);
            Poll::Ready(Ok(()))
        }
    }

    impl Drop for End {
        fn drop(&mut self) {
            for way in [&self.incoming, &self.outgoing] {
                let mut way = way.lock().unwrap();
                way.closed = true;
                way.waiting.drain(..).for_each(Waker::wake);
            }
        }
    }

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut random = StdRng::seed_from_u64(seed);
        (0..length).map(|_| random.random()).collect()
    }

    /// Greets as multistream does, then says all this and closes, while it hears all that the other says.
    async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, words: &[u8], vectored: bool) -> Vec<u8> {
        let (mut read, mut write) = stream.split();
        let saying = async {
            write.write_all(&GREETING).await.unwrap();
            let mut rest = words;
            while !rest.is_empty() {
                let (first, second) = rest.split_at(rest.len() / 3);
                let pieces = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(second)];
                let said = if vectored { write.write_vectored(&pieces).await } else { write.write(rest).await };
                rest = &rest[said.unwrap()..];
            }
            write.flush().await.unwrap();
            write.close().await.unwrap();
        };
        let hearing = async {
            let mut heard = Vec::new();
            read.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let ((), heard) = futures::join!(saying, hearing);
        heard.strip_prefix(&GREETING).unwrap().to_vec()
    }

    #[tokio::test]
    async fn all_that_is_said_is_heard_whatever_the_pieces() {
        let key = SwarmKey::generate();
        for seed in 0..8 {
            let (a, b) = ends(seed);
            let keys = SwarmKeys::from(key.clone());
            let (a, b) = futures::join!(dial(a, &key), accept(b, &keys));
            let (from_a, from_b) = (noise(3 * OUTGOING_BYTES_MAX + 1, seed), noise(1000, seed));
            let vectored = seed % 2 == 0;
            let (at_a, at_b) = futures::join!(talk(a.unwrap(), &from_a, vectored), talk(b.unwrap(), &from_b, vectored));
            assert!(at_a == from_b && at_b == from_a, "seed {seed}");
        }
    }

    #[tokio::test]
    async fn it_understands_the_stock_layer_both_ways() {
        let key = SwarmKey::generate();
        let keys = SwarmKeys { first: SwarmKey::generate(), next: Some(key.clone()) };
        let stock = |socket| PnetConfig::new(PreSharedKey::new(*key.bytes())).handshake(socket);
        let (from_a, from_b) = (noise(200_000, 1), noise(100_000, 2));
        let (a, b) = ends(3);
        // The stock one greets only after its handshake, as multistream above it would.
        let ours = async { talk(dial(a, &key).await.unwrap(), &from_a, true).await };
        let theirs = async { talk(stock(b).await.unwrap(), &from_b, false).await };
        let (at_a, at_b) = futures::join!(ours, theirs);
        assert!(at_a == from_b && at_b == from_a, "as dialler");
        let (a, b) = ends(4);
        let ours = async { talk(accept(a, &keys).await.unwrap(), &from_a, true).await };
        let theirs = async { talk(stock(b).await.unwrap(), &from_b, false).await };
        let (at_a, at_b) = futures::join!(ours, theirs);
        assert!(at_a == from_b && at_b == from_a, "as listener");
    }

    #[tokio::test]
    async fn a_listener_takes_each_of_its_keys_and_answers_in_it() {
        let (old, new, other) = (SwarmKey::generate(), SwarmKey::generate(), SwarmKey::generate());
        let during = SwarmKeys { first: old.clone(), next: Some(new.clone()) };
        for (keys, with, fits) in [
            (during.clone(), &old, true),
            (during.clone(), &new, true),
            (during, &other, false),
            (old.clone().into(), &new, false),
            (new.clone().into(), &old, false),
        ] {
            let (a, b) = ends(5);
            let listening = async {
                let stream = accept(b, &keys).await?;
                Ok::<_, KeyError>(talk(stream, b"listener", false).await)
            };
            let dialling = async { Ok::<_, KeyError>(talk(dial(a, with).await?, b"dialler", false).await) };
            let (heard, told) = futures::join!(listening, dialling);
            if fits {
                assert_eq!((heard.unwrap(), told.unwrap()), (b"dialler".to_vec(), b"listener".to_vec()));
            } else {
                assert!(matches!(heard, Err(KeyError::Other)), "{heard:?}");
                assert!(matches!(told, Err(KeyError::HungUp)), "{told:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_stranger_hears_random_bytes_and_no_more() {
        let keys = SwarmKeys { first: SwarmKey::generate(), next: Some(SwarmKey::generate()) };
        for (says, why) in [
            (noise(NONCE_BYTES + GREETING.len(), 6), "noise"),
            ([&[0; NONCE_BYTES][..], &GREETING].concat(), "plain text"),
            (noise(NONCE_BYTES + GREETING.len() - 1, 7), "too little"),
            (Vec::new(), "nothing"),
        ] {
            let (a, mut b) = ends(8);
            let stranger = async {
                b.write_all(&says).await.unwrap();
                b.close().await.unwrap();
                let mut heard = Vec::new();
                b.read_to_end(&mut heard).await.unwrap();
                heard
            };
            let (outcome, heard) = futures::join!(accept(a, &keys), stranger);
            let error = outcome.unwrap_err();
            assert!(matches!(error, KeyError::Other | KeyError::HungUp), "{why}: {error:?}");
            assert_eq!(heard.len(), NONCE_BYTES, "{why}");
            for shown in [format!("{error}"), format!("{error:?}")] {
                let secret = keys.first.to_text();
                assert!(!shown.contains(&secret[secret.len() - 9..secret.len() - 1]), "{shown}");
            }
        }
    }

    #[tokio::test]
    async fn a_dialler_leaves_a_listener_that_answers_in_another_key() {
        let (ours, theirs) = (SwarmKey::generate(), SwarmKey::generate());
        let (a, b) = ends(9);
        // Go greets before it listens.
        let theirs = async {
            let mut stream = PnetConfig::new(PreSharedKey::new(*theirs.bytes())).handshake(b).await.unwrap();
            stream.write_all(&GREETING).await.unwrap();
            stream.flush().await.unwrap();
        };
        let (outcome, ()) = futures::join!(dial(a, &ours), theirs);
        assert!(matches!(outcome, Err(KeyError::Other)));
    }

    #[tokio::test]
    async fn only_a_greeting_may_come_first() {
        let key = SwarmKey::generate();
        let keys = key.clone().into();
        let (a, b) = ends(10);
        let (a, _b) = futures::join!(dial(a, &key), accept(b, &keys));
        let mut stream = a.unwrap();
        stream.write_all(&GREETING[..7]).await.unwrap();
        let error = stream.write_all(b"something else").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn an_idle_connection_keeps_little_memory() {
        let key = SwarmKey::generate();
        let keys = key.clone().into();
        let (a, b) = ends(11);
        let (a, b) = futures::join!(dial(a, &key), accept(b, &keys));
        let (mut a, b) = (a.unwrap(), b.unwrap());
        let saying = async {
            a.write_all(&GREETING).await.unwrap();
            for (length, kept_max) in [(1 << 20, OUTGOING_BYTES_MAX), (1 << 20, OUTGOING_BYTES_MAX), (100, 0)] {
                a.write_all(&noise(length, 12)).await.unwrap();
                a.flush().await.unwrap();
                assert!(a.outgoing.buffer.capacity() <= kept_max, "{}", a.outgoing.buffer.capacity());
            }
            a.close().await.unwrap();
        };
        futures::join!(saying, talk(b, b"", false));
    }
}
