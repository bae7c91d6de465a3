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

/// What is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// An address that the user has named.
    Address(Multiaddr),
    /// A member of the swarm, wherever it is.
    Member(PeerId),
}

/// What is to be kept connected.
#[derive(Debug)]
pub(super) struct Redial {
    entries: Vec<Entry>,
    random: u64,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    /// Where it may be found.
    addresses: Vec<Multiaddr>,
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
        let peer = peer_of(&address);
        self.keep_target(now, Target::Address(address.clone()), peer, vec![address]);
    }

    /// Keeps a member connected from `at` on, at the addresses that are known now.
    pub(super) fn keep_member(&mut self, at: Instant, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.keep_target(at, Target::Member(peer), Some(peer), addresses);
    }

    fn keep_target(&mut self, at: Instant, target: Target, peer: Option<PeerId>, addresses: Vec<Multiaddr>) {
        match self.entries.iter_mut().find(|entry| entry.target == target) {
            Some(entry) => {
                entry.addresses = addresses;
                if let State::Waiting(_) = entry.state {
                    entry.state = State::Waiting(at);
                }
            }
            None => {
                let state = State::Waiting(at);
                self.entries.push(Entry { target, addresses, peer, state, delay: DELAY_FIRST, failure: None });
            }
        }
    }

    /// What is to be dialled now, and where; it counts as being dialled from then on.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Target, Vec<Multiaddr>)> {
        let due = |entry: &&mut Entry| matches!(entry.state, State::Waiting(at) if at <= now);
        let entry = self.entries.iter_mut().find(due)?;
        entry.state = State::Dialling(now);
        Some((entry.target.clone(), entry.addresses.clone()))
    }

    /// When [`Redial::due`] will next have something.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let waiting = |entry: &Entry| if let State::Waiting(at) = entry.state { Some(at) } else { None };
        self.entries.iter().filter_map(waiting).min()
    }

    /// A dial of this target, or any connection with this peer, has succeeded.
    pub(super) fn connected(&mut self, peer: PeerId, dialled: Option<&Target>) {
        for entry in &mut self.entries {
            if Some(&entry.target) == dialled {
                entry.peer = Some(peer);
            }
            if entry.peer == Some(peer) {
                entry.state = State::Connected;
                entry.delay = DELAY_FIRST;
                entry.failure = None;
            }
        }
    }

    /// A dial of this target has failed.
    pub(super) fn failed(&mut self, now: Instant, target: &Target, reason: String) {
        let random = self.random();
        for entry in &mut self.entries {
            if entry.target == *target && matches!(entry.state, State::Dialling(_)) {
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

    /// What keeps those who are not connected from being so.
    pub(super) fn report(&self, now: Instant) -> Vec<(Multiaddr, String)> {
        let reason = |entry: &Entry| {
            let address = entry.addresses.first()?.clone();
            match (entry.state, &entry.failure) {
                (State::Connected, _) => None,
                (_, Some(failure)) => Some((address, failure.clone())),
                (State::Dialling(since), None) if now.saturating_duration_since(since) > Duration::from_secs(1) => {
                    Some((address, STILL_CONNECTING.to_owned()))
                }
                _ => None,
            }
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
        let target = Target::Address(address.clone());
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(redial.due(now), Some((target.clone(), vec![address.clone()])));
            assert_eq!(redial.due(now), None);
            redial.failed(now, &target, "refused".into());
            let next = redial.next_timeout().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] <= DELAY_FIRST && waits.iter().all(|wait| *wait <= DELAY_MAX));
        assert!(waits[11] >= DELAY_MAX / 2);
        assert_eq!(redial.report(now), [(address.clone(), "refused".to_owned())]);
        assert!(redial.due(now).is_some());
        redial.connected(peer, Some(&target));
        assert_eq!(redial.next_timeout(), None);
        assert!(redial.report(now).is_empty());
        redial.disconnected(now, &peer);
        assert!(redial.next_timeout().unwrap() - now <= DELAY_FIRST);
    }

    #[test]
    fn a_member_is_dialled_where_it_was_last_said_to_be() {
        let mut redial = Redial::new(7);
        let (now, peer) = (Instant::now(), PeerId::random());
        let at = |port: u16| -> Multiaddr { format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap() };
        redial.keep_member(now + DELAY_FIRST, peer, vec![at(1)]);
        assert_eq!(redial.due(now), None);
        redial.keep_member(now, peer, vec![at(2), at(3)]);
        assert_eq!(redial.due(now), Some((Target::Member(peer), vec![at(2), at(3)])));
        redial.keep_member(now, peer, vec![at(4)]);
        assert_eq!(redial.due(now), None, "it is being dialled");
        redial.failed(now, &Target::Member(peer), "refused".into());
        assert_eq!(redial.due(now + DELAY_FIRST), Some((Target::Member(peer), vec![at(4)])));
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
