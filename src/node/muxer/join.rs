//! Joins small writes to the large one that follows them, without copying the large one.
//!
//! yamux writes a frame's header and its data one after the other, and each write below it may be a TLS record and a system
//! call. A writer that gathers both into one buffer copies all data once more; this one keeps the small writes only, and
//! hands them on in one vectored write with the data where they lie. Below, TLS takes both at once. What takes only the
//! first of several buffers (Noise) has a buffer of its own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// Small writes that are kept, in bytes: headers, pings, window updates, a wantlist.
const KEPT_BYTES_MAX: usize = 4096;

/// What an idle connection keeps of the memory for them, in bytes.
const KEPT_BYTES_IDLE: usize = 128;

/// A connection whose small writes wait for a large one or for a flush.
#[derive(Debug)]
pub(super) struct Join<C> {
    inner: C,
    kept: Vec<u8>,
}

impl<C> Join<C> {
    pub(super) fn new(inner: C) -> Self {
        Self { inner, kept: Vec::new() }
    }
}

impl<C: AsyncWrite + Unpin> Join<C> {
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let bytes = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.kept))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.drain(..bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Join<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Join<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.kept.len() + buffer.len() <= KEPT_BYTES_MAX {
            this.kept.extend_from_slice(buffer);
            return Poll::Ready(Ok(buffer.len()));
        }
        while !this.kept.is_empty() {
            let both = [IoSlice::new(&this.kept), IoSlice::new(buffer)];
            let bytes = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &both))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_kept = bytes.min(this.kept.len());
            this.kept.drain(..of_kept);
            if bytes > of_kept {
                return Poll::Ready(Ok(bytes - of_kept));
            }
        }
        Pin::new(&mut this.inner).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_kept(cx))?;
        self.kept.shrink_to(KEPT_BYTES_IDLE);
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::{AsyncWriteExt, future::poll_fn};
    use proptest::prelude::*;

    use super::*;

    /// Takes `at_once` bytes of a call, is not ready every other time, and notes where what it takes lies.
    #[derive(Default)]
    struct Sink {
        at_once: usize,
        vectored: bool,
        ready: bool,
        taken: Vec<u8>,
        calls: usize,
        from: Vec<*const u8>,
    }

    impl Sink {
        fn take(&mut self, cx: &Context<'_>, buffers: &[&[u8]]) -> Poll<io::Result<usize>> {
            self.ready = !self.ready;
            if !self.ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.calls += 1;
            let mut room = self.at_once;
            for buffer in buffers.iter().filter(|buffer| !buffer.is_empty()) {
                let bytes = buffer.len().min(room);
                room -= bytes;
                self.from.push(buffer.as_ptr());
                self.taken.extend_from_slice(&buffer[..bytes]);
            }
            Poll::Ready(Ok(self.at_once - room))
        }
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            self.take(cx, &[buffer])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffers: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let most = if self.vectored { buffers.len() } else { 1 };
            let buffers: Vec<&[u8]> = buffers.iter().take(most).map(|buffer| &**buffer).collect();
            self.take(cx, &buffers)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn all_bytes_come_in_order(
            lengths in prop::collection::vec(prop_oneof![0_usize..40, 4000..4200_usize, 9000..9100_usize], 0..12),
            at_once in prop_oneof![1_usize..20, 4000..5000_usize, Just(1 << 20)],
            vectored: bool,
        ) {
            let mut join = Join::new(Sink { at_once, vectored, ..Sink::default() });
            let mut all = Vec::new();
            for (i, length) in lengths.into_iter().enumerate() {
                let part: Vec<u8> = (0..length).map(|at| (at * 7 + i).to_le_bytes()[0]).collect();
                block_on(join.write_all(&part)).unwrap();
                all.extend(part);
            }
            block_on(join.flush()).unwrap();
            prop_assert!(join.kept.is_empty());
            prop_assert_eq!(join.inner.taken, all);
        }
    }

    #[test]
    fn a_header_and_its_data_go_in_one_call_and_the_data_are_not_copied() {
        let mut join = Join::new(Sink { at_once: 1 << 20, vectored: true, ..Sink::default() });
        let data = vec![1; 64 << 10];
        block_on(join.write_all(&[0; 12])).unwrap();
        let written = block_on(poll_fn(|cx| Pin::new(&mut join).poll_write(cx, &data))).unwrap();
        assert_eq!((written, join.inner.calls), (data.len(), 1));
        assert_eq!(join.inner.from[1], data.as_ptr());
    }
}
