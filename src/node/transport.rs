//! stub
use libp2p::core::muxing::StreamMuxerBox; use libp2p::PeerId;
#[derive(Debug, Clone, Copy)] pub enum Security { Both, Tls, Noise }
pub(crate) fn build(k: &libp2p::identity::Keypair, s: Security, q: bool, key: Option<&super::swarm_key::SwarmKey>) -> std::io::Result<libp2p::core::transport::Boxed<(PeerId, StreamMuxerBox)>> { unimplemented!() }
