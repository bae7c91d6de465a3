//! What idle peers cost a node: memory and messages.
//!
//! `cargo bench --bench idle -- [--peers 500] [--minutes 3] [--transport private]`
//!
//! One daemon of this binary; `peers` nodes in this process connect to it, each through a relay that counts what passes
//! in pieces as they come. Nobody wants anything. Printed are the growth of the daemon's anonymous memory by peer (what
//! the kernel keeps for sockets is not in it), and the pieces a minute and peer in each direction once all are connected
//! and have said who they are.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a benchmark that cannot go on panics; its numbers are small"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bitshoal::node::swarm_key::SwarmKey;
use bitshoal::node::{self, Options, Security};
use common::{Daemon, arguments, memory_of};
use libp2p::identity::Keypair;
use libp2p::multiaddr::{Multiaddr, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// After the last peer has connected, until all have introduced themselves.
const SETTLING: Duration = Duration::from_secs(20);

/// What has passed the relay.
#[derive(Debug, Default)]
struct Counts {
    to_daemon: AtomicU64,
    from_daemon: AtomicU64,
}

fn main() {
    let arguments = arguments();
    let peers: u32 = arguments.value("peers").map_or(500, |n| n.parse().unwrap());
    let minutes: u32 = arguments.value("minutes").map_or(3, |n| n.parse().unwrap());
    let transport = arguments.value("transport").unwrap_or_else(|| "private".into());
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run(peers, minutes, &transport));
}

async fn run(peers: u32, minutes: u32, transport: &str) {
    let work = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&work.path().join("node"), transport, None);
    let swarm_keys = (transport == "private").then(|| {
        let file = std::fs::read(work.path().join("node").join("swarm.key")).unwrap();
        SwarmKey::parse(&file).unwrap().into()
    });
    let security = if transport == "noise" { Security::Noise } else { Security::Tls };
    let options = Options { swarm_keys, security, quic: false, meet: false, ..Options::default() };
    let counts = Arc::new(Counts::default());
    let address = relay(&daemon.address.parse().unwrap(), counts.clone()).await;

    let mut nodes = Vec::new();
    let mut connect = async || {
        let (handle, reads) = node::start(Keypair::generate_ed25519(), options.clone()).await.unwrap();
        handle.connect(address.clone()).await.unwrap();
        nodes.push((handle, reads));
    };
    // The first one makes what all of them share.
    connect().await;
    tokio::time::sleep(SETTLING).await;
    let before = anonymous(&daemon);
    for _ in 1..peers {
        connect().await;
    }
    let connected = anonymous(&daemon);
    tokio::time::sleep(SETTLING).await;
    let settled = anonymous(&daemon);
    let by_peer = |now: u64| now.saturating_sub(before) as f64 / 1e3 / f64::from(peers - 1);
    println!("{peers} peers: {:.1} kB a peer when connected, {:.1} kB settled", by_peer(connected), by_peer(settled));

    let started = Instant::now();
    let begin = counts.read();
    tokio::time::sleep(Duration::from_secs(60) * minutes).await;
    let end = counts.read();
    let a_minute = |count: u64| count as f64 / f64::from(peers) / (started.elapsed().as_secs_f64() / 60.0);
    println!(
        "{:.2} messages a minute and peer to the node, {:.2} from it; {:.1} kB a peer after {minutes} minutes",
        a_minute(end.0 - begin.0),
        a_minute(end.1 - begin.1),
        by_peer(anonymous(&daemon)),
    );
}

fn anonymous(daemon: &Daemon) -> u64 {
    memory_of(daemon.pid()).unwrap().anonymous
}

impl Counts {
    fn read(&self) -> (u64, u64) {
        (self.to_daemon.load(Ordering::Relaxed), self.from_daemon.load(Ordering::Relaxed))
    }
}

/// Stands between the peers and the node at this address; gives the address to be dialled instead.
async fn relay(node: &Multiaddr, counts: Arc<Counts>) -> Multiaddr {
    let parts: Vec<Protocol<'_>> = node.iter().collect();
    let [Protocol::Ip4(host), Protocol::Tcp(port), Protocol::P2p(peer)] = parts[..] else { panic!("{node}") };
    let to = SocketAddr::from((host, port));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            let (there, back) = (counts.clone(), counts.clone());
            tokio::spawn(async move { pass(near_read, far_write, &there.to_daemon).await });
            tokio::spawn(async move { pass(far_read, near_write, &back.from_daemon).await });
        }
    });
    Multiaddr::from(at.ip()).with(Protocol::Tcp(at.port())).with(Protocol::P2p(peer))
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: &AtomicU64) {
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(1, Ordering::Relaxed);
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}
