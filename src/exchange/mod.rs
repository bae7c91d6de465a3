//! Bitswap: the wire's values, the two cores that decide, and the libp2p behaviour that drives them.
//!
//! [`client`] and [`server`] are state machines without I/O: events go in by `&mut self` methods, decisions come out
//! of `poll`, time is an argument. Neither knows the other, a store or a socket.

pub mod client;
pub mod limits;
pub mod message;
pub mod server;
#[cfg(test)]
mod sim;
