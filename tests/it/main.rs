//! The one integration-test binary; a module per subject.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails; clippy exempts only the test functions themselves"
)]

mod copies;
mod crash;
mod errors;
mod facts;
mod folders;
mod import;
mod meeting;
mod memory;
mod names;
mod nodes;
mod plan;
mod rates;
mod service;
mod strange;
mod support;
mod swarm;
mod vectors;
