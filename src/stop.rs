//! The user's wish to end: signals, counted, so that a second one ends what the first has asked to end politely.

use tokio::sync::watch;

use crate::platform::EndSignals;
use crate::transfer::api::Failure;

/// The wish to end. Whoever works waits for [`Stop::next`] beside its work.
#[derive(Debug)]
pub struct Stop {
    wishes: watch::Receiver<u32>,
}

impl Stop {
    /// Takes over SIGINT and SIGTERM (on Windows the console's events). Needs a tokio runtime.
    ///
    /// # Errors
    /// That the system does not give the signals.
    pub fn on_signals() -> Result<Self, Failure> {
        let mut signals = EndSignals::listen()
            .map_err(|error| Failure::new("signals", format!("cannot take over the signals: {error}")))?;
        let (sender, stop) = Self::by_hand();
        tokio::spawn(async move {
            loop {
                signals.next().await;
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(stop)
    }

    /// A wish that the holder of the sender counts up.
    #[must_use]
    pub fn by_hand() -> (watch::Sender<u32>, Self) {
        let (sender, wishes) = watch::channel(0);
        (sender, Self { wishes })
    }

    /// Waits for a wish that has not been seen yet; for ever when there can be none.
    pub async fn next(&mut self) {
        if self.wishes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stop;
    use futures::FutureExt;

    #[tokio::test]
    async fn each_wish_is_seen_once() {
        let (sender, mut stop) = Stop::by_hand();
        assert!(stop.next().now_or_never().is_none());
        sender.send_modify(|count| *count += 1);
        stop.next().await;
        assert!(stop.next().now_or_never().is_none());
        sender.send_modify(|count| *count += 1);
        stop.next().await;
        drop(sender);
        assert!(stop.next().now_or_never().is_none());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn signals_are_wishes() {
        use rustix::process::{Signal, getpid, kill_process};
        let mut stop = Stop::on_signals().unwrap();
        for signal in [Signal::TERM, Signal::INT] {
            kill_process(getpid(), signal).unwrap();
            stop.next().await;
        }
    }
}
