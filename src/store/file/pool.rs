//! Buffers for blocks on their way out, used again instead of being mapped, zeroed and faulted in anew.
//!
//! A block's buffer goes back when the last [`Bytes`] of it is dropped. What lies idle is bounded by
//! [`IDLE_BYTES_MAX`]; how many are out at a time is bounded by those who ask (the exchange's limits).

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Capacities that are kept. The slack takes the few bytes that a dag-pb leaf has around its data.
const CLASSES: [usize; 3] = [(256 << 10) + 4096, (1 << 20) + 4096, (2 << 20) + 4096];
/// Smaller ones are left to the allocator.
const POOLED_MIN: usize = 32 << 10;
/// How many bytes may lie idle.
const IDLE_BYTES_MAX: usize = 12 << 20;

#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// A buffer of `len` bytes with any content.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let class = CLASSES.iter().copied().find(|class| len <= *class && len >= POOLED_MIN);
        let bytes = match class {
            None => vec![0; len],
            Some(class) => {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let found = idle.iter().position(|buffer| buffer.len() == class);
                found.map(|at| idle.swap_remove(at)).unwrap_or_else(|| vec![0; class])
            }
        };
        Buffer { bytes, len, pool: class.is_some().then(|| Arc::clone(self)) }
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.iter().map(Vec::len).sum::<usize>() + buffer.len() <= IDLE_BYTES_MAX {
            idle.push(buffer);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Option<Arc<Pool>>,
}

impl Buffer {
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
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
        let pool = Arc::new(Pool::default());
        let out: Vec<Bytes> = (0..20).map(|_| pool.take(1 << 20).freeze()).collect();
        assert!(out.iter().all(|b| b.len() == 1 << 20));
        drop(out);
        let idle: usize = pool.idle.lock().unwrap().iter().map(Vec::len).sum();
        assert!(idle > 0 && idle <= IDLE_BYTES_MAX, "{idle}");
        let before = pool.idle.lock().unwrap().len();
        let again = pool.take(1 << 20);
        assert_eq!(pool.idle.lock().unwrap().len(), before - 1);
        drop(again);
        drop(pool.take(10));
        assert_eq!(pool.idle.lock().unwrap().len(), before);
    }
}
