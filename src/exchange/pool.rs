//! Buffers for received messages, reused without clearing: a leaf's bytes are read once into one of them, travel as
//! [`Bytes`] slices to the hash, the disk and whoever else wants them, and the buffer comes back when the last is dropped.
//!
//! The pool only bounds what it keeps for reuse; who may have how many buffers at a time is the reader's affair.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers kept for reuse. 16 messages of one MiB leaf each are what a pull at full speed has under way.
const BUFFERS_KEPT: usize = 16;

/// Smaller buffers are not worth keeping.
const KEPT_BYTES_MIN: usize = 64 * 1024;

/// A shared store of idle buffers.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer on loan; it goes back when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    home: Pool,
}

impl Pool {
    /// A buffer of `len` bytes whose content is whatever was in it before.
    #[must_use]
    pub fn take(&self, len: usize) -> Buffer {
        let idle = if len >= KEPT_BYTES_MIN { self.lock().pop() } else { None };
        let mut bytes = idle.unwrap_or_default();
        if bytes.len() < len {
            // A message's length with some room, so that the next, slightly longer one needs no growth.
            bytes.resize(len.next_multiple_of(KEPT_BYTES_MIN), 0);
        }
        Buffer { bytes, len, home: self.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// The loaned bytes, to be filled.
    pub fn filled(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }

    /// Ends the filling: from now on the bytes are shared and read-only.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.home.lock();
        if self.bytes.len() >= KEPT_BYTES_MIN && idle.len() < BUFFERS_KEPT {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_the_last_slice_is_dropped() {
        let pool = Pool::default();
        let mut buffer = pool.take(1 << 20);
        buffer.filled().fill(7);
        let address = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let slice = bytes.slice(5..10);
        drop(bytes);
        assert_eq!(pool.lock().len(), 0);
        assert_eq!(slice[..], [7; 5]);
        drop(slice);
        assert_eq!(pool.take(1 << 20).as_ref().as_ptr(), address);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = Pool::default();
        let loans: Vec<Buffer> = (0..2 * BUFFERS_KEPT).map(|_| pool.take(KEPT_BYTES_MIN)).collect();
        drop(loans);
        assert_eq!(pool.lock().len(), BUFFERS_KEPT);
        drop(pool.take(10));
        assert_eq!(pool.lock().len(), BUFFERS_KEPT);
    }
}
