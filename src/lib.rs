//! Bitshoal distributes very large files to fleets of machines in private swarms.
//!
//! Files live in exactly one place, where the user wants them: a node that adds a file keeps references into it, a node
//! that pulls one writes its leaves straight into a sparse file and serves each of them from there.
//!
//! # Layers, and who may know whom
//!
//! ```text
//! main → cli → {daemon, rpc client}
//! daemon → rpc (HTTP) → transfer → {node, dag, store}
//! node (swarm) → exchange (Bitswap) → block
//! dag → block          store → block
//! ```
//!
//! [`block`], [`dag`], the wire format and the two cores of [`exchange`] are pure: no task, no socket, no file, no clock
//! and no randomness of their own. `exchange` never imports `store`; its server asks, and whoever drives it answers.
//! [`config`] composes each layer's own `Options`, and no layer reads it.
//!
//! # Two walks through the code
//!
//! *Pull*: `cli` → `rpc` → `transfer::pull` → `node` → `exchange::client` → `exchange::handler` → the wire; back from
//! the wire, bounded, decoded and hashed into a [`block::Block`], → `exchange::client` → `transfer::pull` → `store`
//! (a leaf at its offset of the file, an inner node into the index) → epoch commit → progress.
//!
//! *Serve*: the wire → `exchange::server` → a read request → `store` (multihash → reference → mapped window → bytes) →
//! `exchange::server` → `exchange::handler` → the wire.

pub mod block;
pub mod budget;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dag;
pub mod exchange;
pub mod node;
mod platform;
pub mod repo;
pub mod rpc;
pub mod stop;
pub mod store;
pub mod telemetry;
pub mod transfer;
