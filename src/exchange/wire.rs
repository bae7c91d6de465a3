//! stub
use bytes::Bytes; use super::message::*; use crate::block::{Cid, Prefix};
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct WireError;
pub enum FrameLength { Incomplete, Ready { length: usize, header_bytes: usize } }
pub fn frame_length(bytes: &[u8]) -> Result<FrameLength, WireError> { unimplemented!() }
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Decoded { pub full: bool, pub wants: Vec<WantEntry>, pub blocks: Vec<(Prefix, Bytes)>, pub presences: Vec<(Cid, Presence)>, pub pending_bytes: u32 }
pub fn decode(frame: &Bytes) -> Result<Decoded, WireError> { unimplemented!() }
pub fn encode(message: &Outgoing, version: Version) -> Vec<Frame> { unimplemented!() }
pub struct Frame { pub parts: Vec<Bytes>, pub block_bytes: usize }
