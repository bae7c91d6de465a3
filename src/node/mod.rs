//! stub
mod muxer;
pub mod swarm_key;
mod tls;
mod transport;
pub use transport::Security;
use crate::block::{Block, Cid};
use crate::exchange::server::{ReadKind, ReadOutcome};
use libp2p::{Multiaddr, PeerId};
pub const AGENT: &str = "x";
#[derive(Debug, Clone)] pub struct Handle;
#[derive(Debug)] pub struct Reads;
#[derive(Debug)] pub struct ReadRequest { pub items: Vec<(Cid, ReadKind)> }
impl ReadRequest { pub fn answer(self, o: Vec<ReadOutcome>) {} }
impl Reads { pub async fn next(&mut self) -> Option<ReadRequest> { None } }
#[derive(Debug)] pub struct Session;
#[derive(Debug, Clone)] pub struct Reporter;
#[derive(Debug)] pub struct Source { pub peer: PeerId, pub bytes: u64, pub blocks: u64 }
#[derive(Debug)] pub struct SessionReport { pub connected: usize, pub duplicate_blocks: u64, pub sources: Vec<Source> }
impl Reporter { pub async fn report(&self) -> SessionReport { unimplemented!() } }
#[derive(Debug)] pub enum SessionEvent { Block { block: Block, from: PeerId }, NobodyHas { cid: Cid }, PeersChanged { connected: usize } }
impl Session { pub fn want(&self, w: Vec<(Cid, u32)>) {} pub fn forget(&self, c: Vec<Cid>) {} pub async fn next(&mut self) -> Option<SessionEvent> { None } pub fn reporter(&self) -> Reporter { Reporter } }
#[derive(Debug)] pub struct Peer { pub id: PeerId, pub address: Multiaddr, pub agent: Option<String>, pub received_bytes: u64, pub sent_bytes: u64 }
impl Handle {
  pub async fn addresses(&self) -> Vec<Multiaddr> { vec![] }
  pub async fn connect(&self, a: Multiaddr) -> Result<PeerId, std::io::Error> { unimplemented!() }
  pub fn keep(&self, a: Multiaddr) {}
  pub async fn peers(&self) -> Vec<Peer> { vec![] }
  pub async fn open_session(&self) -> Session { Session }
  pub fn arrived(&self, c: Vec<Cid>) {}
  pub async fn shutdown(&self) {}
  pub async fn dial_report(&self) -> Vec<(Multiaddr, String)> { vec![] }
}
