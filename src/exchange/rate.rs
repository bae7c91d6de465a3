//! How many bytes a second may pass, all connections together: a limit that can be changed while they do.
//!
//! [`Bucket`] is the pure reckoning, [`Rate`] what the streams share. Whoever sends or receives asks for the next piece,
//! and waits; what the other side sends meanwhile waits in the network's windows, so that it slows down, too. It counts
//! the exchange's bytes, not those that encryption and TCP add (some 1 %).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_timer::Delay;

/// Bytes that pass at once: pieces are small enough that others have their turn within milliseconds at 10 Mbit/s.
pub const PIECE_BYTES: usize = 16 << 10;

/// What may be saved up while nothing passes.
const SAVED: Duration = Duration::from_millis(100);

/// The reckoning: when the next byte may pass.
#[derive(Debug, Default)]
struct Bucket {
    /// Bytes a second.
    limit: Option<u64>,
    free_at: Option<Instant>,
}

impl Bucket {
    /// Lets bytes pass, and says how long from now they have to wait.
    fn pass(&mut self, now: Instant, bytes: usize) -> Duration {
        let Some(limit) = self.limit else { return Duration::ZERO };
        let earliest = now.checked_sub(SAVED).unwrap_or(now);
        let at = self.free_at.map_or(now, |at| at.max(earliest));
        self.free_at = Some(at + Duration::from_secs_f64(bytes as f64 / limit as f64));
        at.saturating_duration_since(now)
    }

    /// What waits already waits on.
    fn set(&mut self, now: Instant, limit: Option<u64>) {
        *self = Self { limit, free_at: Some(now) };
    }
}

/// A limit in bytes a second that many share. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Rate(Arc<Mutex<Bucket>>);

impl Rate {
    /// A limit, `None` for none.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        let rate = Self::default();
        rate.set(limit);
        rate
    }

    /// Changes it for all that has not passed yet.
    pub fn set(&self, limit: Option<u64>) {
        self.bucket().set(Instant::now(), limit.filter(|limit| *limit > 0));
    }

    /// The limit now.
    #[must_use]
    pub fn get(&self) -> Option<u64> {
        self.bucket().limit
    }

    /// Waits until so many bytes may pass; of at most [`PIECE_BYTES`], or others wait long.
    pub(super) async fn pass(&self, bytes: usize) {
        let wait = self.bucket().pass(Instant::now(), bytes);
        if !wait.is_zero() {
            Delay::new(wait).await;
        }
    }

    /// Counts bytes that cannot wait: wants and presences, on which the rest depends.
    pub(super) fn count(&self, bytes: usize) {
        let _ = self.bucket().pass(Instant::now(), bytes);
    }

    fn bucket(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_pass_in_ten_seconds_as_the_limit_says() {
        for limit in [100_000, 6_250_000, 1_000_000_000] {
            let mut bucket = Bucket { limit: Some(limit), free_at: None };
            let start = Instant::now();
            let (mut now, mut passed) = (start, 0);
            while now < start + Duration::from_secs(10) {
                now += bucket.pass(now, PIECE_BYTES);
                passed += PIECE_BYTES as u64;
            }
            assert!(passed.abs_diff(limit * 10) <= limit / 2, "{limit}: {passed}");
        }
    }

    #[test]
    fn little_is_saved_up_and_a_new_limit_holds_at_once() {
        let mut bucket = Bucket { limit: Some(1 << 20), free_at: None };
        let start = Instant::now();
        assert_eq!(bucket.pass(start, 1 << 20), Duration::ZERO);
        assert_eq!(bucket.pass(start, 1), Duration::from_secs(1));
        let later = start + Duration::from_secs(100);
        assert_eq!(bucket.pass(later, 1 << 20), Duration::ZERO);
        let wait = bucket.pass(later, 1);
        assert!(wait >= Duration::from_secs(1) - SAVED && wait <= Duration::from_secs(1), "{wait:?}");
        bucket.set(later, None);
        assert_eq!(bucket.pass(later, usize::MAX), Duration::ZERO);
        bucket.set(later, Some(1000));
        assert_eq!((bucket.pass(later, 1000), bucket.pass(later, 1)), (Duration::ZERO, Duration::from_secs(1)));
    }
}
