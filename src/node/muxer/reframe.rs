//! Cuts long frames of yamux into shorter ones as they are read.
//!
//! yamux (hashicorp's spec.md) bounds a frame by the receiver's window alone, and Helia fills one with as much as the
//! window allows. The crate `yamux` breaks the connection at a frame of more than 1 MiB, which a grown window does not
//! exclude; it also holds each frame whole before anybody sees its first byte. So it is shown shorter frames that say the
//! same. This is no parser of the protocol: what is not a long frame of data passes as it is, right or wrong.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// Bytes of a frame's header: version, type, flags (2), stream (4), length (4), in network order.
const HEADER_BYTES: usize = 12;
/// The type of frames with data.
const DATA: u8 = 0;
/// The flag of a frame after which its sender sends no more. All the others belong to a frame's begin.
const FIN: u16 = 4;
/// Data of one frame as the reader sees it, in bytes: what the first window of a stream has room for.
const BODY_BYTES_MAX: u32 = yamux::DEFAULT_CREDIT;

/// A connection on which no data frame that is read is longer than [`BODY_BYTES_MAX`]. Writes pass as they are.
#[derive(Debug)]
pub(super) struct Reframe<C> {
    inner: C,
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` that have come.
    come: usize,
    /// Bytes of `header` that have been read from here.
    read: usize,
    /// What is left of the shown frame's body.
    body: u32,
    /// What is left of the real frame's body beyond that.
    beyond: u32,
    /// Whether the real frame was its stream's last.
    fin: bool,
}

impl<C> Reframe<C> {
    pub(super) const fn new(inner: C) -> Self {
        Self { inner, header: [0; HEADER_BYTES], come: 0, read: 0, body: 0, beyond: 0, fin: false }
    }

    /// Takes the header that has come.
    fn begin(&mut self) {
        self.read = 0;
        if self.header[1] != DATA {
            (self.body, self.beyond) = (0, 0);
            return;
        }
        let [.., a, b, c, d] = self.header;
        self.beyond = u32::from_be_bytes([a, b, c, d]);
        let flags = u16::from_be_bytes([self.header[2], self.header[3]]);
        self.fin = flags & FIN != 0;
        self.piece(flags & !FIN);
    }

    /// Makes the header of the next piece of the frame.
    fn piece(&mut self, flags: u16) {
        self.read = 0;
        self.body = self.beyond.min(BODY_BYTES_MAX);
        self.beyond -= self.body;
        let last = if self.fin && self.beyond == 0 { FIN } else { 0 };
        self.header[2..4].copy_from_slice(&(flags | last).to_be_bytes());
        self.header[8..].copy_from_slice(&self.body.to_be_bytes());
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Reframe<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if this.come < HEADER_BYTES {
                match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut this.header[this.come..]))? {
                    0 if this.come == 0 => return Poll::Ready(Ok(0)),
                    0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    bytes => this.come += bytes,
                }
                if this.come == HEADER_BYTES {
                    this.begin();
                }
            } else if this.read < HEADER_BYTES {
                let rest = &this.header[this.read..];
                let bytes = rest.len().min(buffer.len());
                buffer[..bytes].copy_from_slice(&rest[..bytes]);
                this.read += bytes;
                return Poll::Ready(Ok(bytes));
            } else if this.body > 0 {
                let most = buffer.len().min(this.body as usize);
                let bytes = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer[..most]))?;
                // At most `most`, which fits.
                this.body -= u32::try_from(bytes).unwrap_or(this.body);
                return Poll::Ready(Ok(bytes));
            } else if this.beyond > 0 {
                this.piece(0);
            } else {
                this.come = 0;
            }
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Reframe<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use futures::{AsyncReadExt, FutureExt};
    use proptest::prelude::*;

    use super::*;

    const SYN: u16 = 1;

    fn frame(kind: u8, flags: u16, length: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, kind];
        bytes.extend(flags.to_be_bytes());
        bytes.extend(7_u32.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn data(flags: u16, length: usize, from: u8) -> Vec<u8> {
        let body: Vec<u8> = (0..=255).cycle().skip(from.into()).flat_map(|byte| [byte; 1000]).take(length).collect();
        frame(DATA, flags, u32::try_from(length).unwrap(), &body)
    }

    /// All that is read, in reads of these lengths in turn.
    fn reread(bytes: Vec<u8>, reads: &[usize]) -> io::Result<Vec<u8>> {
        let mut reframe = Reframe::new(Cursor::new(bytes));
        let mut all = Vec::new();
        for &length in reads.iter().cycle() {
            let mut buffer = vec![0; length];
            match reframe.read(&mut buffer).now_or_never().unwrap()? {
                0 => break,
                bytes => all.extend(&buffer[..bytes]),
            }
        }
        Ok(all)
    }

    #[test]
    fn long_frames_are_cut_and_their_flags_stay_at_their_ends() {
        let most = BODY_BYTES_MAX as usize;
        let whole = data(SYN | FIN, most * 2 + 5, 3);
        let body = &whole[HEADER_BYTES..];
        let mut cut = frame(DATA, SYN, BODY_BYTES_MAX, &body[..most]);
        cut.extend(frame(DATA, 0, BODY_BYTES_MAX, &body[most..2 * most]));
        cut.extend(frame(DATA, FIN, 5, &body[2 * most..]));
        // A window of this size is no length of a body.
        let update = frame(1, SYN, u32::MAX, &[]);
        let bytes = [update.clone(), whole, update.clone()].concat();
        assert_eq!(reread(bytes, &[4096]).unwrap(), [update.clone(), cut, update].concat());
    }

    #[test]
    fn an_end_within_a_header_is_an_error() {
        let bytes = data(0, 10, 0);
        assert_eq!(reread(bytes[..5].to_vec(), &[64]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(reread(bytes[..15].to_vec(), &[64]).unwrap(), bytes[..15]);
        assert!(reread(Vec::new(), &[64]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_short_enough_passes_as_it_is(
            frames in proptest::collection::vec((0_u16..16, 0_usize..=BODY_BYTES_MAX as usize), 0..6),
            reads in proptest::collection::vec(1_usize..100_000, 1..5),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|&(flags, length)| data(flags, length, 9)).collect();
            prop_assert_eq!(reread(bytes.clone(), &reads).unwrap(), bytes);
        }
    }
}
