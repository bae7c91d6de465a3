//! Compose: the fleet of docker-compose.yml in real containers, through what fleets live through.
//!
//! A module per kind of case: [`pulls`] in which nothing bad happens but want of memory and space, [`faults`] in which
//! members and networks fail, [`strangers`] who do not belong. Each case has a fleet of its own ([`fleet`]), and only one
//! runs at a time. "In the middle" is where a job says that it is, at a rate that is limited; nothing waits by sleeping.
//!
//! It needs docker, docker-compose and the static binary in target/docker (README, "With docker-compose"), so that plain
//! `cargo test` leaves it out: `cargo test --release --test compose`. Nothing of the protocols is tested here, and no clock
//! is touched: what one that jumps does is in the unit tests of `node::members` and `node::tls`, the only two places where
//! the time of day means something.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails; clippy exempts only the test functions themselves"
)]

mod faults;
mod fleet;
mod member;
mod pulls;
mod strangers;
#[allow(dead_code, reason = "the integration tests use all of it")]
#[path = "../it/support.rs"]
mod support;
