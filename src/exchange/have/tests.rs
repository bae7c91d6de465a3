//! What is told to whom, word by word.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::file::{BATCH, OVERDUE_FIRST};
use super::*;
use crate::block::{Block, Prefix};

fn root(number: u8) -> Cid {
    *Block::seal(Prefix::RAW_V1, vec![number].into()).unwrap().cid()
}

fn leaves(numbers: impl IntoIterator<Item = u32>) -> RoaringBitmap {
    numbers.into_iter().collect()
}

/// What is to be sent, by peer, and which files are to be looked for.
fn drain(teller: &mut Teller) -> (Vec<(PeerId, Notice)>, Vec<Cid>) {
    let (mut sent, mut looks) = (Vec::new(), Vec::new());
    while let Some(output) = teller.poll() {
        match output {
            Output::Send { peer, notices } => sent.extend(notices.into_iter().map(|notice| (peer, notice))),
            Output::Look { root } => looks.push(root),
            Output::Told { .. } => {}
        }
    }
    (sent, looks)
}

fn pulls(root: Cid, all: u32, there: RoaringBitmap) -> Notice {
    Notice { anew: true, there, ..Notice::new(root, all, Role::Pulls) }
}

/// A publisher of a file of `all` leaves, and pullers that have said so.
fn publisher(now: Instant, all: u32, pullers: usize) -> (Teller, Vec<PeerId>) {
    let mut teller = Teller::new(7);
    let peers: Vec<PeerId> = (0..pullers).map(|_| PeerId::random()).collect();
    for peer in &peers {
        teller.peer_connected(now, *peer);
        teller.message(now, *peer, vec![pulls(root(1), all, leaves([]))]);
    }
    assert!(drain(&mut teller).1.contains(&root(1)));
    teller.held(now, root(1), Some((all, Held::All)));
    (teller, peers)
}

#[test]
fn a_puller_tells_what_it_has_and_then_what_comes() {
    let now = Instant::now();
    let mut teller = Teller::new(7);
    let other = PeerId::random();
    teller.peer_connected(now, other);
    assert!(teller.follow(now, root(1), 10, leaves([3])));
    let (sent, _) = drain(&mut teller);
    assert_eq!(sent, [(other, pulls(root(1), 10, leaves([3])))]);

    teller.message(now, other, vec![pulls(root(1), 10, leaves([]))]);
    teller.added(now, &root(1), 4);
    teller.added(now, &root(1), 5);
    assert_eq!(drain(&mut teller).0, [], "leaves are told together");
    let later = teller.next_timeout().unwrap();
    teller.timeout(later);
    let news = Notice { there: leaves([4, 5]), ..Notice::new(root(1), 10, Role::Pulls) };
    assert_eq!(drain(&mut teller).0, [(other, news)]);
    assert_eq!(teller.next_timeout(), None);

    // One that comes later hears all at once, and only one who pulls is told that we rest.
    let third = PeerId::random();
    teller.peer_connected(later, third);
    assert_eq!(drain(&mut teller).0, [(third, pulls(root(1), 10, leaves([3, 4, 5])))]);
    teller.peer_disconnected(later, third);
    teller.unfollow(&root(1));
    assert_eq!(drain(&mut teller).0, [(other, Notice::new(root(1), 10, Role::Holds))]);
    teller.peer_disconnected(later, other);
    assert!(teller.is_clean());
}

#[test]
fn a_publisher_is_open_to_one_and_offers_each_leaf_once_to_several() {
    let now = Instant::now();
    let (mut teller, peers) = publisher(now, 100, 1);
    let (sent, _) = drain(&mut teller);
    assert!(sent.iter().all(|(peer, notice)| *peer == peers[0] && notice.role == Role::Open), "{sent:?}");

    let (mut teller, peers) = publisher(now, 100, 3);
    let (mut offered, mut there) = (RoaringBitmap::new(), vec![RoaringBitmap::new(); 3]);
    let mut rounds = 0;
    while offered.len() < 100 {
        let (sent, _) = drain(&mut teller);
        for (peer, notice) in sent {
            let number = peers.iter().position(|other| *other == peer).unwrap();
            assert!(notice.role == Role::Holds || notice.yours.is_empty());
            assert!(notice.yours.is_disjoint(&offered), "a leaf is offered twice");
            offered |= &notice.yours;
            there[number] |= notice.yours;
        }
        for (number, peer) in peers.iter().enumerate() {
            let there = there[number].clone();
            teller.message(now, *peer, vec![Notice { there, ..Notice::new(root(1), 100, Role::Pulls) }]);
        }
        rounds += 1;
        assert!(rounds < 100);
    }
    // All is somewhere: now each may ask for what the others have.
    for (number, peer) in peers.iter().enumerate() {
        let there = there[number].clone();
        teller.message(now, *peer, vec![Notice { there, ..Notice::new(root(1), 100, Role::Pulls) }]);
    }
    teller.timeout(now + BATCH);
    let (sent, _) = drain(&mut teller);
    for (number, peer) in peers.iter().enumerate() {
        let mut told = there[number].clone();
        sent.iter().filter(|(to, _)| to == peer).for_each(|(_, notice)| told |= &notice.there);
        assert_eq!(told.len(), 100, "reader {number}");
    }
}

#[test]
fn what_one_was_offered_that_leaves_or_sleeps_goes_to_another() {
    let now = Instant::now();
    let (mut teller, peers) = publisher(now, 4, 2);
    let (sent, _) = drain(&mut teller);
    let first: RoaringBitmap =
        sent.iter().filter(|(peer, _)| *peer == peers[0]).fold(leaves([]), |all, (_, notice)| all | &notice.yours);
    let other: RoaringBitmap =
        sent.iter().filter(|(peer, _)| *peer == peers[1]).fold(leaves([]), |all, (_, notice)| all | &notice.yours);
    assert_eq!((first.len() + other.len(), first.is_disjoint(&other)), (4, true));
    let late = now + OVERDUE_FIRST * 2;
    teller.timeout(late);
    let (sent, _) = drain(&mut teller);
    assert!(sent.iter().any(|(_, notice)| !notice.yours.is_empty()), "nobody takes them, so they are offered again");
    teller.peer_disconnected(late, peers[0]);
    let (sent, _) = drain(&mut teller);
    assert!(sent.iter().all(|(peer, _)| *peer == peers[1]));
    assert_eq!(sent.last().unwrap().1.role, Role::Open, "the last one may ask for all");
}

#[test]
fn what_is_not_here_is_said_and_remembered_in_bounds() {
    let now = Instant::now();
    let mut teller = Teller::new(7);
    let peer = PeerId::random();
    teller.peer_connected(now, peer);
    teller.message(now, peer, vec![pulls(root(1), 10, leaves([1]))]);
    let (_, looks) = drain(&mut teller);
    assert_eq!(looks, [root(1)]);
    teller.held(now, root(1), None);
    assert_eq!(drain(&mut teller).0, [(peer, Notice::new(root(1), 10, Role::None))]);
    // It is added after all.
    teller.look_again(&root(1));
    assert_eq!(drain(&mut teller).1, [root(1)]);
    teller.held(now, root(1), Some((10, Held::All)));
    let (sent, _) = drain(&mut teller);
    assert_eq!(sent.last().unwrap().1.role, Role::Open);
    for number in 0..=255 {
        teller.message(now, peer, vec![pulls(root(number), 10, leaves([1]))]);
    }
    for number in 0..=255_u16 {
        let other = *Block::seal(Prefix::RAW_V1, number.to_le_bytes().to_vec().into()).unwrap().cid();
        teller.message(now, peer, vec![pulls(other, 10, leaves([1]))]);
    }
    let (_, looks) = drain(&mut teller);
    assert_eq!(looks.len(), limits::FILES_TOLD_PER_PEER);
    teller.peer_is_mute(now, peer);
    teller.peer_disconnected(now, peer);
    assert!(teller.is_clean());
}
