//! Bitswap: bytes on streams, and the two pure cores that decide what they say.
//!
//! [`wire`] alone knows the format. [`client`] decides who is asked for what, [`server`] who is sent what, in virtual
//! time if need be, and [`have`] who is told what we have; none does any I/O. [`behaviour`] drives them, [`handler`] owns a connection's streams. Nothing here
//! knows a store: the server asks for reads and whoever drives it answers.

pub mod behaviour;
pub mod client;
pub mod handler;
pub mod have;
pub mod limits;
pub mod message;
pub mod pool;
pub mod rate;
pub mod server;
#[cfg(test)]
mod sim;
pub mod wire;
