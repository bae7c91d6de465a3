//! Buffers for blocks on their way out, used again instead of being mapped, zeroed and faulted in anew.
//!
//! A block's buffer goes back when the last [`Bytes`] of it is dropped. What lies idle is bounded; how many are out at a
//! time is bounded by those who ask (the exchange's limits). Buffers begin where unbuffered reads and writes want them to.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// What buffers for unbuffered reads and writes begin at a multiple of, and what offsets and lengths of these are
/// multiples of, in bytes: no disk has larger sectors.
pub(crate) const ALIGNMENT: usize = 4096;
/// Capacities that are kept. The slack takes the few bytes that a dag-pb leaf has around its data, and the alignment.
const CLASSES: [usize; 3] = [(256 << 10) + 8192, (1 << 20) + 8192, (2 << 20) + 8192];
/// Smaller ones are left to the allocator.
const POOLED_MIN: usize = 32 << 10;

#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Vec<u8>>>,
    idle_bytes_max: usize,
}

impl Pool {
    pub(crate) fn new(idle_bytes_max: usize) -> Self {
        Self { idle: Mutex::default(), idle_bytes_max }
    }

    /// Bytes that lie idle.
    pub(crate) fn idle_bytes(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Vec::len).sum()
    }

    /// A buffer of `len` bytes with any content, of which those from `aligned_at` on begin at a multiple of
    /// [`ALIGNMENT`]; small ones are not aligned.
    pub(crate) fn take(self: &Arc<Self>, len: usize, aligned_at: usize) -> Buffer {
        let class = CLASSES.iter().copied().find(|class| len + ALIGNMENT <= *class && len >= POOLED_MIN);
        let bytes = match class {
            None => vec![0; len],
            Some(class) => {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let found = idle.iter().position(|buffer| buffer.len() == class);
                found.map(|at| idle.swap_remove(at)).unwrap_or_else(|| vec![0; class])
            }
        };
        let data = bytes.as_ptr().addr() + aligned_at;
        let start = if class.is_some() { data.next_multiple_of(ALIGNMENT) - data } else { 0 };
        Buffer { bytes, start, len, pool: class.is_some().then(|| Arc::clone(self)) }
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.iter().map(Vec::len).sum::<usize>() + buffer.len() <= self.idle_bytes_max {
            idle.push(buffer);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    pool: Option<Arc<Pool>>,
}

impl Buffer {
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }

    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use super::*;

    #[test]
    fn buffers_come_back_and_few_lie_idle() {
        let pool = Arc::new(Pool::new(4 << 20));
        let out: Vec<Bytes> = (0..20).map(|_| pool.take(1 << 20, 0).freeze()).collect();
        assert!(out.iter().all(|b| b.len() == 1 << 20));
        drop(out);
        let idle = pool.idle_bytes();
        assert!(idle > 2 << 20 && idle <= 4 << 20, "{idle}");
        let again = pool.take(1 << 20, 0);
        assert_eq!(idle - pool.idle_bytes(), CLASSES[1]);
        drop(again);
        drop(pool.take(10, 0));
        assert_eq!(pool.idle_bytes(), idle);
    }

    #[test]
    fn data_begins_where_a_disk_wants_it() {
        let pool = Arc::new(Pool::new(4 << 20));
        for (len, prefix) in [(32 << 10, 0), (256 << 10, 0), ((1 << 20) + 14, 6), ((2 << 20) - 1, 4095)] {
            let mut buffer = pool.take(len, prefix);
            let address = buffer.as_mut().as_ptr().addr() + prefix;
            assert!(address.is_multiple_of(ALIGNMENT) && buffer.as_mut().len() == len);
        }
    }
}
