//! Two real nodes in one process, with a map for a store: every version of Bitswap over loopback.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitshoal::block::{Block, Multihash, Prefix};
use bitshoal::exchange::message::Version;
use bitshoal::exchange::server::{ReadKind, ReadOutcome};
use bitshoal::node::{self, Handle, Options, Reads, SessionEvent};
use bytes::Bytes;
use libp2p::identity::Keypair;
use libp2p::multiaddr::{Multiaddr, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::PATIENCE;

/// Serves a map of blocks until the node stops.
async fn serve(mut reads: Reads, blocks: HashMap<Multihash, Bytes>) {
    while let Some(request) = reads.next().await {
        let outcome = |(cid, kind): &(bitshoal::block::Cid, ReadKind)| match (blocks.get(cid.hash()), kind) {
            (Some(bytes), ReadKind::Block) => ReadOutcome::Block(bytes.clone()),
            (Some(bytes), ReadKind::Presence) => ReadOutcome::Have { size: u32::try_from(bytes.len()).unwrap() },
            (None, _) => ReadOutcome::Missing,
        };
        let outcomes = request.items.iter().map(outcome).collect();
        request.answer(outcomes);
    }
}

async fn node(newest: Version, blocks: &[Block]) -> Handle {
    let mut options = Options { listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()], ..Options::default() };
    options.exchange.newest = newest;
    let (handle, reads) = node::start(Keypair::generate_ed25519(), options).await.unwrap();
    let blocks = blocks.iter().map(|block| (*block.cid().hash(), block.bytes().clone())).collect();
    tokio::spawn(serve(reads, blocks));
    handle
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_move_in_every_version_of_the_protocol() {
    for (theirs, ours) in [
        (Version::V120, Version::V120),
        (Version::V110, Version::V120),
        (Version::V120, Version::V110),
        (Version::V100, Version::V120),
        (Version::V120, Version::V100),
    ] {
        let blocks: Vec<Block> = (0..40_usize)
            .map(|n| {
                // From a byte to the largest that is allowed; bare 1.0 blocks are CIDv0 by definition.
                let size = if n == 39 { 2 << 20 } else { 1 + n * 9000 };
                let bytes = Bytes::from(vec![u8::try_from(n).unwrap(); size]);
                Block::seal(Prefix::DAG_PB_V0, bytes).unwrap()
            })
            .collect();
        let server = node(theirs, &blocks).await;
        let client = node(ours, &[]).await;
        client.connect(server.addresses().await[0].clone()).await.unwrap();
        let mut session = client.open_session().await;
        session.want(blocks.iter().map(|block| (*block.cid(), 300_000)).collect());
        let mut missing: HashMap<_, _> = blocks.iter().map(|block| (*block.cid(), block.clone())).collect();
        let pulled = async {
            while !missing.is_empty() {
                if let Some(SessionEvent::Block { block, .. }) = session.next().await {
                    assert_eq!(missing.remove(block.cid()).as_ref(), Some(&block));
                }
            }
        };
        tokio::time::timeout(PATIENCE, pulled).await.unwrap_or_else(|_| panic!("{theirs:?} to {ours:?} hangs"));
        client.shutdown().await;
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_said_and_what_arrives_later_is_sent() {
    let block = Block::seal(Prefix::RAW_V1, Bytes::from_static(b"late")).unwrap();
    let server = node(Version::V120, std::slice::from_ref(&block)).await;
    let client = node(Version::V120, &[]).await;
    client.connect(server.addresses().await[0].clone()).await.unwrap();
    let absent = Block::seal(Prefix::RAW_V1, Bytes::from_static(b"absent")).unwrap();
    let mut session = client.open_session().await;
    session.want(vec![(*absent.cid(), 6), (*block.cid(), 4)]);
    let (mut told, mut came) = (false, false);
    let heard = async {
        while !(told && came) {
            match session.next().await.unwrap() {
                SessionEvent::Block { block: got, .. } => came |= got == block,
                SessionEvent::NobodyHas { cid } => told |= cid == *absent.cid(),
                SessionEvent::PeersChanged { .. } | SessionEvent::Pick { .. } | SessionEvent::Roam { .. } => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
}

/// Gives on what arrives until it is silenced; then it takes everything and gives nothing, as a program that hangs would.
async fn relay(to: u16, silent: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near_read, far_write), (far_read, near_write)] {
                let silent = Arc::clone(&silent);
                tokio::spawn(async move {
                    let mut buffer = [0; 1 << 16];
                    while let Ok(n @ 1..) = from.read(&mut buffer).await {
                        if !silent.load(Ordering::Acquire) && to.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_falls_silent_is_no_peer_for_long() {
    let server = node(Version::V120, &[]).await;
    let options = Options { ping_interval: Duration::from_secs(1), ..Options::default() };
    let (client, _reads) = node::start(Keypair::generate_ed25519(), options).await.unwrap();
    let address = server.addresses().await[0].clone();
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    let [Protocol::Ip4(host), Protocol::Tcp(port), Protocol::P2p(peer)] = parts[..] else { panic!("{address}") };
    let silent = Arc::new(AtomicBool::new(false));
    let port = relay(port, Arc::clone(&silent)).await;
    let through = Multiaddr::from(host).with(Protocol::Tcp(port)).with(Protocol::P2p(peer));
    client.connect(through).await.unwrap();
    assert_eq!(client.peers().await.len(), 1);
    silent.store(true, Ordering::Release);
    let gone = async {
        while !client.peers().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    // Nothing is in the way of the same peer's return.
    silent.store(false, Ordering::Release);
    client.connect(address).await.unwrap();
    assert_eq!(client.peers().await.len(), 1);
}
