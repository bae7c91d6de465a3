//! Which addresses are to be dialled when: peers that we want to stay connected with, for ever, with back-off.
//!
//! Pure: time and randomness come from outside, dialling is the driver's. An address may say which peer is there or not;
//! what is known of it is learnt from the first connection.

use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The wait after the first failure; it doubles with each further one.
const DELAY_FIRST: Duration = Duration::from_millis(500);

/// The longest wait: a healed partition is noticed within it.
const DELAY_MAX: Duration = Duration::from_secs(15);

/// What is reported of a dial that has been under way for a while.
pub(super) const STILL_CONNECTING: &str = "still connecting";

/// The addresses to be kept connected.
#[derive(Debug)]
pub(super) struct Redial {
    entries: Vec<Entry>,
    random: u64,
}

#[derive(Debug)]
struct Entry {
    address: Multiaddr,
    peer: Option<PeerId>,
    state: State,
    delay: Duration,
    failure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Instant),
    Dialling(Instant),
    Connected,
}

impl Redial {
    pub(super) const fn new(seed: u64) -> Self {
        Self { entries: Vec::new(), random: seed | 1 }
    }

    /// Keeps an address connected from now on; adding it again tries it at once.
    pub(super) fn keep(&mut self, now: Instant, address: Multiaddr) {
        match self.entries.iter_mut().find(|entry| entry.address == address) {
            Some(entry) if matches!(entry.state, State::Waiting(_)) => entry.state = State::Waiting(now),
            Some(_) => {}
            None => {
                let peer = peer_of(&address);
                let state = State::Waiting(now);
                self.entries.push(Entry { address, peer, state, delay: DELAY_FIRST, failure: None });
            }
        }
    }

    /// An address that is to be dialled now; it counts as being dialled from then on.
    pub(super) fn due(&mut self, now: Instant) -> Option<Multiaddr> {
        let due = |entry: &&mut Entry| matches!(entry.state, State::Waiting(at) if at <= now);
        let entry = self.entries.iter_mut().find(due)?;
        entry.state = State::Dialling(now);
        Some(entry.address.clone())
    }

    /// When [`Redial::due`] will next have something.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let waiting = |entry: &Entry| if let State::Waiting(at) = entry.state { Some(at) } else { None };
        self.entries.iter().filter_map(waiting).min()
    }

    /// A dial of this address, or any connection with this peer, has succeeded.
    pub(super) fn connected(&mut self, peer: PeerId, dialled: Option<&Multiaddr>) {
        for entry in &mut self.entries {
            if Some(&entry.address) == dialled {
                entry.peer = Some(peer);
            }
            if entry.peer == Some(peer) {
                entry.state = State::Connected;
                entry.delay = DELAY_FIRST;
                entry.failure = None;
            }
        }
    }

    /// A dial of this address has failed.
    pub(super) fn failed(&mut self, now: Instant, address: &Multiaddr, reason: String) {
        let random = self.random();
        for entry in &mut self.entries {
            if entry.address == *address && matches!(entry.state, State::Dialling(_)) {
                // Between half of the delay and all of it, so that a fleet does not knock at the same instant.
                let wait = entry.delay.mul_f64(0.5 + random / 2.0);
                entry.state = State::Waiting(now + wait);
                entry.delay = (entry.delay * 2).min(DELAY_MAX);
                entry.failure = Some(reason.clone());
            }
        }
    }

    /// The last connection with this peer is gone.
    pub(super) fn disconnected(&mut self, now: Instant, peer: &PeerId) {
        for entry in &mut self.entries {
            if entry.peer.as_ref() == Some(peer) && entry.state == State::Connected {
                entry.state = State::Waiting(now + DELAY_FIRST / 4);
            }
        }
    }

    /// What keeps the addresses that are not connected from being so.
    pub(super) fn report(&self, now: Instant) -> Vec<(Multiaddr, String)> {
        let reason = |entry: &Entry| match (entry.state, &entry.failure) {
            (State::Connected, _) => None,
            (_, Some(failure)) => Some((entry.address.clone(), failure.clone())),
            (State::Dialling(since), None) if now.saturating_duration_since(since) > Duration::from_secs(1) => {
                Some((entry.address.clone(), STILL_CONNECTING.to_owned()))
            }
            _ => None,
        };
        self.entries.iter().filter_map(reason).collect()
    }

    /// A number from 0 to 1 (xorshift).
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The peer id at the end of an address.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_shrink_again_after_a_connection() {
        let mut redial = Redial::new(7);
        let address: Multiaddr = "/dns4/host/tcp/4001".parse().unwrap();
        let peer = PeerId::random();
        let mut now = Instant::now();
        redial.keep(now, address.clone());
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(redial.due(now), Some(address.clone()));
            assert_eq!(redial.due(now), None);
            redial.failed(now, &address, "refused".into());
            let next = redial.next_timeout().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] <= DELAY_FIRST && waits.iter().all(|wait| *wait <= DELAY_MAX));
        assert!(waits[11] >= DELAY_MAX / 2);
        assert_eq!(redial.report(now), [(address.clone(), "refused".to_owned())]);
        assert!(redial.due(now).is_some());
        redial.connected(peer, Some(&address));
        assert_eq!(redial.next_timeout(), None);
        assert!(redial.report(now).is_empty());
        redial.disconnected(now, &peer);
        assert!(redial.next_timeout().unwrap() - now <= DELAY_FIRST);
    }

    #[test]
    fn a_connection_from_the_peer_itself_counts() {
        let mut redial = Redial::new(7);
        let peer = PeerId::random();
        let address: Multiaddr = format!("/ip4/10.0.0.1/tcp/4001/p2p/{peer}").parse().unwrap();
        let now = Instant::now();
        redial.keep(now, address);
        redial.connected(peer, None);
        assert_eq!(redial.due(now), None);
    }
}
