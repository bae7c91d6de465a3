//! How fast a pull is beside a bare libp2p stream on the same transport, in separate processes, in one run.
//!
//! `cargo bench --bench transfer -- [--size 4GiB] [--dir DIR]… [--transports tls,noise,quic,private] [--rounds 3]`
//!
//! For each folder and transport, in turns: stock libp2p moves `size` bytes of memory from one process to another; then
//! two daemons of this binary move a file of that size. Printed are both rates, their ratio, the memory of both sides and
//! the page cache that both files left, and for each folder the rate of a plain sequential write with fsync.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a benchmark that cannot go on panics; its numbers are small"
)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{Daemon, Memory, arguments, megabytes, parse_size};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, StreamProtocol, Swarm, SwarmBuilder, pnet, tcp, yamux};

/// What both sides of the bare stream speak.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/bench/raw/1.0.0");

fn main() {
    let arguments = arguments();
    if let Some(transport) = arguments.value("raw-send") {
        return run(raw_send(&transport, parse_size(&arguments.value("size").unwrap())));
    }
    if let Some(transport) = arguments.value("raw-receive") {
        return run(raw_receive(&transport, &arguments.value("address").unwrap()));
    }
    let size = parse_size(&arguments.value("size").unwrap_or_else(|| "4GiB".into()));
    let rounds: usize = arguments.value("rounds").map_or(3, |n| n.parse().unwrap());
    let transports = arguments.value("transports").unwrap_or_else(|| "tls,noise,quic,private".into());
    let mut folders: Vec<PathBuf> = arguments.values("dir").into_iter().map(PathBuf::from).collect();
    if folders.is_empty() {
        folders = [PathBuf::from("/dev/shm"), std::env::temp_dir()].into_iter().filter(|dir| dir.is_dir()).collect();
    }
    println!(
        "{:<12} {:<8} {:>9} {:>9} {:>6}  {:>10} {:>10} {:>9} {:>9}  {:>11} {:>11}",
        "folder",
        "",
        "raw MB/s",
        "pull MB/s",
        "ratio",
        "anon send",
        "anon recv",
        "rss send",
        "rss recv",
        "cache send",
        "cache recv"
    );
    for folder in &folders {
        let work = tempfile::tempdir_in(folder).unwrap();
        let file = work.path().join("original.bin");
        common::generate(&file, size);
        println!("{:<12} write + fsync {:.0} MB/s", folder.display(), write_rate(work.path(), size.min(1 << 30)));
        for transport in transports.split(',') {
            let mut ratios = Vec::new();
            for _ in 0..rounds {
                let raw = raw(transport, size);
                let pull = pull(transport, work.path(), &file, size);
                ratios.push(pull.rate / raw);
                println!(
                    "{:<12} {:<8} {raw:>9.0} {:>9.0} {:>6.2}  {:>10} {:>10} {:>9} {:>9}  {:>11} {:>11}",
                    "",
                    transport,
                    pull.rate,
                    pull.rate / raw,
                    megabytes(pull.sender.anonymous),
                    megabytes(pull.receiver.anonymous),
                    megabytes(pull.sender.resident),
                    megabytes(pull.receiver.resident),
                    megabytes(pull.cached_sender),
                    megabytes(pull.cached_receiver),
                );
            }
            ratios.sort_by(f64::total_cmp);
            println!("{:<12} {transport:<8} median ratio {:.2}", "", ratios[ratios.len() / 2]);
        }
    }
}

struct Pull {
    rate: f64,
    sender: Memory,
    receiver: Memory,
    cached_sender: u64,
    cached_receiver: u64,
}

/// Our side: two daemons, one file.
fn pull(transport: &str, folder: &Path, file: &Path, size: u64) -> Pull {
    let work = tempfile::tempdir_in(folder).unwrap();
    let sender = Daemon::start(&work.path().join("sender"), transport, None);
    let key = work.path().join("sender").join("swarm.key");
    let receiver = Daemon::start(&work.path().join("receiver"), transport, Some(&key));
    let added = sender.ask(&["add", file.to_str().unwrap()]);
    let cid = added.last().unwrap()["cid"].as_str().unwrap().to_owned();
    receiver.ask(&["connect", &sender.address]);
    let output = work.path().join("copy.bin");
    let sampler = common::Sampler::start(&[sender.pid(), receiver.pid()]);
    let started = Instant::now();
    receiver.ask(&["get", &cid, "-o", output.to_str().unwrap()]);
    let seconds = started.elapsed().as_secs_f64();
    let peaks = sampler.stop();
    let cached = |path: &Path| bitshoal::store::resident_bytes(path).unwrap_or(0);
    let result = Pull {
        rate: size as f64 / 1e6 / seconds,
        sender: peaks[0],
        receiver: peaks[1],
        cached_sender: cached(file),
        cached_receiver: cached(&output),
    };
    assert!(common::equal(file, &output), "the copy differs");
    result
}

/// Megabytes a second of the bare stream between two processes.
fn raw(transport: &str, size: u64) -> f64 {
    let own = std::env::current_exe().unwrap();
    let size_text = size.to_string();
    let mut sender =
        common::Lines::spawn(std::process::Command::new(&own).args(["--raw-send", transport, "--size", &size_text]));
    let address = sender.next();
    let mut receiver = common::Lines::spawn(std::process::Command::new(&own).args([
        "--raw-receive",
        transport,
        "--address",
        &address,
    ]));
    let seconds: f64 = receiver.next().parse().unwrap();
    size as f64 / 1e6 / seconds
}

async fn raw_send(transport: &str, size: u64) {
    let mut swarm = stock_swarm(transport);
    let mut incoming = swarm.behaviour().new_control().accept(PROTOCOL).unwrap();
    let listen: Multiaddr =
        if transport == "quic" { "/ip4/127.0.0.1/udp/0/quic-v1" } else { "/ip4/127.0.0.1/tcp/0" }.parse().unwrap();
    swarm.listen_on(listen).unwrap();
    let peer = *swarm.local_peer_id();
    tokio::spawn(async move {
        while let Some(event) = swarm.next().await {
            if let libp2p::swarm::SwarmEvent::NewListenAddr { address, .. } = event {
                println!("{address}/p2p/{peer}");
            }
        }
    });
    let (_, mut stream) = incoming.next().await.unwrap();
    let buffer = vec![7; 1 << 20];
    let mut left = size;
    while left > 0 {
        let part = left.min(buffer.len() as u64) as usize;
        stream.write_all(&buffer[..part]).await.unwrap();
        left -= part as u64;
    }
    stream.close().await.unwrap();
    // The receiver has it all when it closes its side.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

async fn raw_receive(transport: &str, address: &str) {
    let mut swarm = stock_swarm(transport);
    let mut control = swarm.behaviour().new_control();
    let address: Multiaddr = address.parse().unwrap();
    let Some(libp2p::multiaddr::Protocol::P2p(peer)) = address.iter().last() else { panic!("no peer id") };
    swarm.dial(address).unwrap();
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    let mut stream = loop {
        if let Ok(stream) = control.open_stream(peer, PROTOCOL).await {
            break stream;
        }
        tokio::task::yield_now().await;
    };
    let started = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    while stream.read(&mut buffer).await.unwrap() > 0 {}
    println!("{}", started.elapsed().as_secs_f64());
    stream.close().await.unwrap();
}

/// libp2p as it comes, with nothing of ours.
fn stock_swarm(transport: &str) -> Swarm<libp2p_stream::Behaviour> {
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let behaviour = |_: &libp2p::identity::Keypair| libp2p_stream::Behaviour::new();
    let idle = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(std::time::Duration::from_secs(60));
    let tcp = || tcp::Config::default().nodelay(true);
    match transport {
        "tls" => builder
            .with_tcp(tcp(), libp2p::tls::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build(),
        "noise" => builder
            .with_tcp(tcp(), libp2p::noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build(),
        "quic" => builder.with_quic().with_behaviour(behaviour).unwrap().with_swarm_config(idle).build(),
        "private" => builder
            .with_other_transport(|key| {
                use libp2p::Transport;
                use libp2p::core::upgrade::Version;
                let secret = pnet::PnetConfig::new(pnet::PreSharedKey::new([7; 32]));
                tcp::tokio::Transport::new(tcp())
                    .and_then(move |socket, _| secret.handshake(socket))
                    .upgrade(Version::V1Lazy)
                    .authenticate(libp2p::tls::Config::new(key).unwrap())
                    .multiplex(yamux::Config::default())
            })
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build(),
        other => panic!("unknown transport {other}: tls, noise, quic, private"),
    }
}

/// What the disk itself takes.
fn write_rate(folder: &Path, size: u64) -> f64 {
    let path = folder.join("plain.bin");
    let started = Instant::now();
    common::generate(&path, size);
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    size as f64 / 1e6 / seconds
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work);
}
