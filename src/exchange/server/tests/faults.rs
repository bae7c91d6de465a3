//! The server against wantlists as other implementations may send them.

use super::*;
use crate::block::IDENTITY;

/// The bytes of blocks behind each message, by the messages that really follow.
fn really_behind(messages: &[Outgoing]) -> Vec<usize> {
    let mut behind = 0;
    let mut all: Vec<usize> = messages
        .iter()
        .rev()
        .map(|message| {
            let here = behind;
            behind += message.block_bytes();
            here
        })
        .collect();
    all.reverse();
    all
}

#[test]
fn pending_bytes_are_what_follows() {
    for size in [100, 5000, limits::BLOCK_ALONE_BYTES_MIN, 300_000, block::BLOCK_BYTES_MAX] {
        let mut f = Fixture::with(0..200, size);
        f.wants(&(0..200).map(block).collect::<Vec<_>>());
        let messages = f.drain();
        let announced: Vec<usize> = messages.iter().map(|m| usize::try_from(m.pending_bytes).unwrap()).collect();
        assert_eq!(announced, really_behind(&messages), "blocks of {size}");
        assert_eq!(announced.last(), Some(&0));
    }
}

#[test]
fn pending_bytes_count_what_has_been_read_whatever_its_length() {
    // Read in one go, then packed into several messages of blocks of different lengths.
    let mut f = Fixture::with([], 0);
    f.store.extend((0..100).map(|number| (*cid(number).hash(), 1000)));
    f.wants(&(0..100).map(block).collect::<Vec<_>>());
    f.drain();
    f.store.extend((100..160).map(|number| (*cid(number).hash(), 500 + 1700 * number as usize)));
    f.wants(&(100..160).map(block).collect::<Vec<_>>());
    let mut messages = Vec::new();
    while let Some(output) = f.server.poll() {
        match output {
            Output::Read { ticket, items, .. } => {
                messages.clear();
                let outcomes = f.outcomes(&items);
                f.server.read_done(now(), ticket, outcomes);
            }
            Output::Send { message, .. } => {
                f.server.sent(now(), f.peer, message.block_bytes());
                messages.push(message);
            }
        }
    }
    // Nothing is queued behind the last read: only what it brought itself.
    let announced: Vec<usize> = messages.iter().map(|m| usize::try_from(m.pending_bytes).unwrap()).collect();
    assert_eq!(announced, really_behind(&messages));
}

#[test]
fn a_presence_that_overtakes_blocks_counts_them_as_pending() {
    let mut f = Fixture::with([1], 100_000);
    f.wants(&[block(1)]);
    let Some(Output::Read { ticket, items, .. }) = f.server.poll() else { panic!("nothing is read") };
    f.server.read_done(now(), ticket, f.outcomes(&items));
    let Some(Output::Send { message, .. }) = f.server.poll() else { panic!("nothing is sent") };
    assert_eq!((message.block_bytes(), message.pending_bytes), (100_000, 0));
    // The block has not left yet when the next question is answered.
    f.wants(&[have(2)]);
    let messages = f.drain();
    assert_eq!((messages.len(), messages[0].pending_bytes), (1, 100_000));
    f.server.sent(now(), f.peer, 100_000);
    f.wants(&[have(3)]);
    assert_eq!(f.drain()[0].pending_bytes, 0);
}

#[test]
fn empty_lists_and_lists_of_cancels_only_are_heeded() {
    let mut f = Fixture::new();
    f.wants(&[]);
    f.wants(&[cancel(1), cancel(2)]);
    assert_eq!((f.drain(), f.kept()), (vec![], 0));
    f.wants(&[block(1), block(2), block(3)]);
    f.drain();
    f.wants(&[]);
    assert_eq!((f.drain(), f.kept()), (vec![], 3));
    f.wants(&[cancel(1), cancel(4)]);
    assert_eq!((f.drain(), f.kept()), (vec![], 2));
    // A full list of nothing but cancels, or of nothing, leaves nothing.
    f.server.wants(now(), f.peer, true, &[cancel(2)]);
    assert_eq!((f.drain(), f.kept()), (vec![], 0));
    f.wants(&[block(1)]);
    f.drain();
    f.server.wants(now(), f.peer, true, &[]);
    assert_eq!((f.drain(), f.kept()), (vec![], 0));
}

#[test]
fn a_want_and_its_cancel_in_one_list_cancel_in_either_order() {
    for entries in [[block(1), cancel(1)], [cancel(1), block(1)]] {
        let mut f = Fixture::with([1], 10);
        f.wants(&entries);
        assert_eq!((f.drain(), f.kept()), (vec![], 0));
        // The same when it had been wanted before.
        let mut f = Fixture::new();
        f.wants(&[block(1)]);
        f.drain();
        f.wants(&entries);
        f.store.insert(*cid(1).hash(), 10);
        f.server.arrived(now(), &[cid(1)]);
        assert_eq!((f.drain(), f.kept()), (vec![], 0));
    }
}

#[test]
fn an_entry_that_comes_twice_is_answered_once() {
    let mut f = Fixture::with([1, 2], 5000);
    f.wants(&[block(1), have(2), block(3), block(1), have(2), block(3), block(1)]);
    let messages = f.drain();
    assert_eq!(blocks_of(&messages), [cid(1)]);
    let answered: Vec<_> = messages.iter().flat_map(|message| message.presences.clone()).collect();
    assert_eq!(answered, [(cid(2), Presence::Have), (cid(3), Presence::DontHave)]);
    assert_eq!(f.kept(), 1);
}

#[test]
fn priorities_of_zero_and_below_only_order() {
    let mut f = Fixture::with(0..5, 100_000);
    let priorities = [-1, 0, i32::MIN, i32::MAX, 1];
    let wants: Vec<WantEntry> =
        priorities.iter().zip(0..).map(|(priority, number)| entry(cid(number), WantKind::Block, *priority)).collect();
    f.wants(&wants);
    assert_eq!(blocks_of(&f.drain()), [3, 4, 1, 0, 2].map(cid));
    // Who is lacking waits whatever its priority, and gives way in the same order.
    let mut f = Fixture::new();
    let limit = u32::try_from(limits::WANTS_PER_PEER).unwrap();
    let wants: Vec<WantEntry> =
        (0..limit).map(|number| entry(cid(number), WantKind::Block, -i32::try_from(number).unwrap())).collect();
    f.wants(&wants);
    f.drain();
    f.wants(&[entry(cid(limit), WantKind::Block, 0)]);
    f.drain();
    f.store.extend([limit - 1, limit - 2].map(|number| (*cid(number).hash(), 10)));
    f.server.arrived(now(), &[cid(limit - 1), cid(limit - 2)]);
    assert_eq!(blocks_of(&f.drain()), [cid(limit - 2)], "the lowest has gone");
}

#[test]
fn wants_under_unknown_hashes_are_lacking_and_identity_is_not_answered() {
    let named = |hash, digest: &[u8]| Cid::new_v1(RAW, Multihash::wrap(hash, digest).unwrap());
    let odd = [named(0xd5, &[1; 16]), named(0x7fff_ffff, &[1; 32]), named(SHA2_256, &[]), named(SHA2_256, &[1; 128])];
    let identity = [named(IDENTITY, b""), named(IDENTITY, b"hello"), named(IDENTITY, &[1; 128])];
    let mut f = Fixture::with([1], 10);
    let wants = |kind| odd.iter().chain(&identity).map(move |cid| entry(*cid, kind, 1));
    f.wants(&wants(WantKind::Block).chain([block(1)]).collect::<Vec<_>>());
    let messages = f.drain();
    assert_eq!(blocks_of(&messages), [cid(1)]);
    assert_eq!(presences_of(&messages), odd.iter().map(|cid| (*cid, Presence::DontHave)).collect());
    f.wants(&wants(WantKind::Have).collect::<Vec<_>>());
    assert_eq!(presences_of(&f.drain()).len(), odd.len());
    f.server.arrived(now(), &identity);
    assert_eq!(f.drain(), []);
    f.wants(&identity.map(|cid| WantEntry { cancel: true, ..entry(cid, WantKind::Block, 0) }));
    f.server.peer_disconnected(now(), f.peer);
    assert!(f.server.is_clean());
}

#[test]
fn a_block_is_sent_under_every_name_that_was_asked_for() {
    let hash = *cid(1).hash();
    let names = [Cid::new_v0(hash).unwrap(), Cid::new_v1(DAG_PB, hash), Cid::new_v1(RAW, hash)];
    let mut f = Fixture::with([1], 100_000);
    f.wants(&names.map(|cid| entry(cid, WantKind::Block, 1)));
    assert_eq!(blocks_of(&f.drain()).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(names));
    assert_eq!(f.kept(), 0);
}

#[test]
fn before_presences_a_question_is_answered_by_the_block_or_not_at_all() {
    for size in [100, 5000] {
        let mut f = Fixture::with([1], size);
        f.server.peer_version(now(), f.peer, Version::V110);
        f.wants(&[have(1), have(2), block(3)]);
        let messages = f.drain();
        assert_eq!((blocks_of(&messages), presences_of(&messages).len()), (vec![cid(1)], 0));
        // What is lacking is sent when it comes.
        f.store.extend([2, 3].map(|number| (*cid(number).hash(), size)));
        f.server.arrived(now(), &[cid(2), cid(3)]);
        assert_eq!(blocks_of(&f.drain()).len(), 2);
        assert_eq!(f.kept(), 0);
    }
    // The same for a question that was put before the version was known.
    let mut f = Fixture::with([1], 5000);
    f.wants(&[have(1)]);
    f.server.peer_version(now(), f.peer, Version::V110);
    assert_eq!(blocks_of(&f.drain()), [cid(1)]);
}

#[test]
fn a_full_list_replaces_before_it_is_capped() {
    let limit = u32::try_from(limits::WANTS_PER_PEER).unwrap();
    let mut f = Fixture::new();
    f.wants(&(0..limit).map(block).collect::<Vec<_>>());
    // None of the old ones takes room from the new ones, read or not.
    f.server.wants(now(), f.peer, true, &(limit..2 * limit + 10).map(block).collect::<Vec<_>>());
    f.drain();
    assert_eq!(f.kept(), limits::WANTS_PER_PEER);
    let all: Vec<Cid> = (0..2 * limit + 10).map(cid).collect();
    f.store.extend(all.iter().map(|cid| (*cid.hash(), 10)));
    f.server.arrived(now(), &all);
    assert_eq!(
        blocks_of(&f.drain()).into_iter().collect::<BTreeSet<_>>(),
        (limit..2 * limit).map(cid).collect::<BTreeSet<_>>()
    );
}
