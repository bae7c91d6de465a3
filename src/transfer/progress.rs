//! How fast something goes and when it will be done: a pure meter over the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(10);

/// Samples closer together than this are joined, so that a fast pull costs no memory.
const STEP: Duration = Duration::from_millis(250);

/// Bytes over time.
#[derive(Debug, Clone)]
pub struct Meter {
    started: Instant,
    samples: VecDeque<(Instant, u64)>,
    total: u64,
}

impl Meter {
    /// A meter that starts at `now` with nothing done.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { started: now, samples: VecDeque::from([(now, 0)]), total: 0 }
    }

    /// Counts `bytes` more.
    pub fn add(&mut self, now: Instant, bytes: u64) {
        self.total += bytes;
        let several = self.samples.len() > 1;
        match self.samples.back_mut() {
            Some((at, total)) if several && now.saturating_duration_since(*at) < STEP => {
                // The newest sample moves up to its step's end only in value; its time stays, so that steps do not stretch.
                *total = self.total;
            }
            _ => self.samples.push_back((now, self.total)),
        }
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes a second over the last seconds, 0 at the very start.
    #[must_use]
    pub fn rate(&self, now: Instant) -> f64 {
        let Some((from, base)) = self.samples.iter().rev().find(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        else {
            let seconds = now.saturating_duration_since(self.started).as_secs_f64();
            return if seconds > 0.0 { self.total as f64 / seconds } else { 0.0 };
        };
        (self.total - base) as f64 / now.saturating_duration_since(*from).as_secs_f64()
    }

    /// Whole seconds until `left` more bytes are done, `None` when nothing moves.
    #[must_use]
    pub fn eta_seconds(&self, now: Instant, left: u64) -> Option<u64> {
        let rate = self.rate(now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a saturating cast of a positive number"
        )]
        (rate >= 1.0).then(|| (left as f64 / rate).ceil() as u64)
    }

    /// Seconds since the start.
    #[must_use]
    pub fn elapsed_seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.started).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_forgets_what_is_long_past() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::new(start);
        for second in 1..=20 {
            meter.add(at(second), 100);
        }
        assert!((meter.rate(at(20)) - 100.0).abs() < 10.0, "{}", meter.rate(at(20)));
        assert_eq!(meter.eta_seconds(at(20), 1000), Some(10));
        assert!(meter.rate(at(60)) < 1.0, "{}", meter.rate(at(60)));
        assert_eq!(meter.eta_seconds(at(60), 1000), None);
    }

    #[test]
    fn many_small_steps_cost_few_samples() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for i in 0..100_000 {
            meter.add(start + Duration::from_millis(i), 1);
        }
        assert!(meter.samples.len() < 60, "{}", meter.samples.len());
    }
}
