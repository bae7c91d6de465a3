//! Transports.
use std::io;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::Transport;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OrTransport};
use libp2p::core::upgrade::{SelectUpgrade, Version};
use libp2p::identity::Keypair;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security { Both, Tls, Noise }

pub(crate) fn build(k: &Keypair, _s: Security, quic: bool, key: Option<&super::swarm_key::SwarmKey>) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let tcp = libp2p::tcp::tokio::Transport::new(libp2p::tcp::Config::default().nodelay(true));
    let key = key.map(|k| libp2p::pnet::PnetConfig::new(k.pre_shared()));
    let tls = libp2p::tls::Config::new(k).map_err(io::Error::other)?;
    match key {
        Some(key) => Ok(tcp.and_then(move |s, _| key.handshake(s)).upgrade(Version::V1Lazy).authenticate(tls).multiplex(libp2p::yamux::Config::default()).timeout(Duration::from_secs(8)).boxed()),
        None => Ok(tcp.upgrade(Version::V1Lazy).authenticate(tls).multiplex(libp2p::yamux::Config::default()).timeout(Duration::from_secs(8)).boxed()),
    }
}
