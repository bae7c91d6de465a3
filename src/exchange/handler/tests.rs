//! Inbound streams against peers that send too much, too little, or what cannot be read; no connection is needed.

use std::pin::Pin;

use futures::future::ready as at_once;

use super::*;
use crate::block::{self, Cid};
use crate::exchange::limits;
use crate::exchange::message::{WantEntry, WantKind};

/// A stream on which these bytes have come. After them it ends, or stalls for ever.
struct Came {
    bytes: io::Cursor<Vec<u8>>,
    stalls: bool,
}

impl AsyncRead for Came {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        match io::Read::read(&mut self.bytes, out)? {
            0 if self.stalls && !out.is_empty() => Poll::Pending,
            read => Poll::Ready(Ok(read)),
        }
    }
}

impl AsyncWrite for Came {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        panic!("inbound streams are never written to")
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(RECEIVE_BYTES_PER_CONNECTION))
}

fn stream(bytes: Vec<u8>, stalls: bool, room: &Arc<Semaphore>) -> Messages {
    let verify: Verify = Arc::new(|blocks| {
        at_once(blocks.into_iter().map(|(prefix, bytes)| Block::seal(prefix, bytes)).collect()).boxed()
    });
    let (up, down) = (Rate::default(), Rate::default());
    let shared = Shared { verify, pool: Pool::default(), offers: offers(Version::V120), up, down };
    messages(Came { bytes: io::Cursor::new(bytes), stalls }, Speech::Bitswap(Version::V120), shared, room.clone())
}

type Message = Result<(Received, OwnedSemaphorePermit), Fault>;

fn bitswap(received: Received) -> Incoming {
    match received {
        Received::Message(message) => message,
        Received::Notices(notices) => panic!("{notices:?}"),
    }
}

/// What there is to be had of a stream without waiting; whether it has ended.
fn taken(messages: &mut Messages) -> (Vec<Message>, bool) {
    let mut taken = Vec::new();
    loop {
        match messages.next().now_or_never() {
            Some(Some(message)) => taken.push(message),
            Some(None) => return (taken, true),
            None => return (taken, false),
        }
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    block::push_varint(&mut bytes, body.len() as u64);
    bytes.extend(body);
    bytes
}

/// A message that consists of one field that nobody knows, `length` bytes in all.
fn of_length(length: usize) -> Vec<u8> {
    // Field 15, and the length of its bytes as a varint of four, whether it needs them or not.
    let content = u32::try_from(length - 5).unwrap();
    let digits = [content | 0x80, content >> 7 | 0x80, content >> 14 | 0x80, content >> 21];
    let mut body = vec![0x7a];
    body.extend(digits.map(|digit| digit.to_le_bytes()[0]));
    body.resize(length, 0);
    assert_eq!(wire::decode(&Bytes::from(body.clone())), Ok(Decoded::default()));
    body
}

fn sent(message: &Outgoing) -> Vec<u8> {
    wire::encode(message, Version::V120).iter().flat_map(|frame| frame.parts.concat()).collect()
}

#[test]
fn a_message_of_the_limit_passes_and_a_longer_one_ends_its_stream_unread() {
    let max = limits::MESSAGE_BYTES_MAX;
    let room = room();
    let (messages, ended) = taken(&mut stream([framed(&of_length(max)), framed(b"")].concat(), false, &room));
    assert!(messages.iter().all(Result::is_ok) && messages.len() == 2 && ended);
    drop(messages);

    // The length is enough to refuse it; nothing was reserved for what would follow.
    let mut over = framed(b"");
    block::push_varint(&mut over, max as u64 + 1);
    let (messages, ended) = taken(&mut stream(over, true, &room));
    assert!(matches!(&messages[..], [Ok(_), Err(Fault::Wire(wire::WireError::TooLong(_)))]), "{messages:?}");
    drop(messages);
    assert!(ended && room.available_permits() == RECEIVE_BYTES_PER_CONNECTION);
}

#[test]
fn a_stream_that_ends_within_a_message_is_a_fault_and_one_that_ends_after_it_is_not() {
    let whole = framed(&of_length(100));
    for cut in 0..=whole.len() {
        let (messages, ended) = taken(&mut stream(whole[..cut].to_vec(), false, &room()));
        assert!(ended);
        let faults = messages.iter().filter(|message| message.is_err()).count();
        assert_eq!(faults, usize::from(cut > 0 && cut < whole.len()), "{cut}");
    }
}

#[test]
fn a_block_under_an_unknown_hash_costs_nothing_but_itself() {
    let data = Bytes::from_static(b"wanted");
    let cid = Prefix::RAW_V1.hash(&data).unwrap();
    let unknown = Cid::new_v1(block::RAW, block::Multihash::wrap(0x1052, &[1; 32]).unwrap());
    let blocks = vec![(unknown, data.clone()), (cid, data.clone()), (unknown, data.clone())];
    let message = sent(&Outgoing { blocks, ..Outgoing::default() });
    let (messages, _) = taken(&mut stream([message.clone(), message].concat(), true, &room()));
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert_eq!(bitswap(message.unwrap().0).blocks, [Block::seal(Prefix::RAW_V1, data.clone()).unwrap()]);
    }
}

#[test]
fn a_want_under_an_unknown_hash_does_not_break_the_stream() {
    let unknown = Cid::new_v1(block::RAW, block::Multihash::wrap(0x1052, &[1; 32]).unwrap());
    let entry = |cid| WantEntry { cid, priority: 1, kind: WantKind::Block, cancel: false, send_dont_have: true };
    let known = Prefix::RAW_V1.hash(b"known").unwrap();
    let wants = vec![entry(unknown), entry(known)];
    let bytes = sent(&Outgoing { wants: wants.clone(), ..Outgoing::default() });
    let (mut messages, ended) = taken(&mut stream(bytes, true, &room()));
    assert!(!ended && messages.len() == 1);
    assert_eq!(bitswap(messages.remove(0).unwrap().0).wants, wants);
}

#[test]
fn announced_lengths_take_no_more_memory_than_a_connection_may_have() {
    let room = room();
    let announcement = {
        let mut bytes = Vec::new();
        block::push_varint(&mut bytes, limits::MESSAGE_BYTES_MAX as u64);
        bytes
    };
    let mut stalled: Vec<Messages> =
        (0..STREAMS_PER_CONNECTION).map(|_| stream(announcement.clone(), true, &room)).collect();
    assert!(stalled.iter_mut().all(|stream| taken(stream).0.is_empty()));
    assert_eq!(room.available_permits(), 0);
    // Its own other messages wait too, until one of those streams gives up; other connections have their own room.
    let mut own = stream(framed(&of_length(100)), false, &room);
    assert!(taken(&mut own).0.is_empty());
    stalled.clear();
    assert_eq!(taken(&mut own).0.len(), 1);
    assert_eq!(room.available_permits(), RECEIVE_BYTES_PER_CONNECTION);
}

#[test]
fn messages_that_are_not_taken_hold_up_only_their_own_connection() {
    // More streams than there is room for, each with two messages of the limit, and nobody who takes them.
    let room = room();
    let bytes = framed(&of_length(limits::MESSAGE_BYTES_MAX)).repeat(2);
    let streams = RECEIVE_BYTES_PER_CONNECTION / limits::MESSAGE_BYTES_MAX + 2;
    let mut flood: Vec<Messages> = (0..streams).map(|_| stream(bytes.clone(), false, &room)).collect();
    let held: Vec<_> = flood.iter_mut().flat_map(|stream| taken(stream).0).collect();
    assert_eq!(held.len(), RECEIVE_BYTES_PER_CONNECTION / limits::MESSAGE_BYTES_MAX);
    drop(held);
    // Each that is taken lets the next in, so that all come in the end.
    let rest: usize = (0..streams).map(|_| flood.iter_mut().map(|stream| taken(stream).0.len()).sum::<usize>()).sum();
    assert_eq!(rest, 2 * streams - RECEIVE_BYTES_PER_CONNECTION / limits::MESSAGE_BYTES_MAX);
}
