//! The local RPC: the vocabulary of [`crate::transfer::api`] over HTTP on loopback.
//!
//! `POST /api/v1/METHOD` with the request's fields as a JSON object answers one event a line (ndjson) until the request
//! is done. An error before the first event is a 4xx or 5xx status with a [`Failure`] as JSON; a later one is a last line
//! `{"error": Failure}`. Every request carries the bearer token of the repo; one with an `Origin`, or with a `Host` that is
//! not this machine's loopback, comes from a web page and is refused.
//!
//! Both ends are a [`Service`], so the command line does not know whether it talks to a daemon or to a node of its own.

pub mod client;
pub mod server;
#[cfg(test)]
pub(crate) mod tests;

use futures::StreamExt;

use crate::transfer::Engine;
use crate::transfer::api::{CatRequest, Failure, Request};

pub use crate::transfer::{ByteStream, EventStream};

/// Something that answers requests: a node, or a client of one.
pub trait Service: Send + Sync {
    /// Asks; the answer is lazy or not, as the service likes, and ends after its first error.
    fn call(&self, request: Request) -> EventStream;

    /// The bytes of a file, which end after the first error.
    fn cat(&self, request: CatRequest) -> ByteStream;
}

impl Service for Engine {
    fn call(&self, request: Request) -> EventStream {
        Self::call(self, request)
    }

    fn cat(&self, request: CatRequest) -> ByteStream {
        Self::cat(self, request)
    }
}

/// Where the methods are.
const PREFIX: &str = "/api/v1/";

/// The one method whose answer is bytes, as they are. An error after the first of them cuts the connection, so that
/// nobody takes a part for the whole.
const CAT: &str = "cat";

/// Every other method, as the route names it. A test compares it with [`Request`].
const METHODS: &[&str] = &[
    "add",
    "get",
    "pin",
    "ls",
    "memory",
    "stat",
    "rm",
    "verify",
    "jobs",
    "job-pause",
    "job-resume",
    "job-cancel",
    "job-watch",
    "id",
    "peers",
    "connect",
    "limit",
    "health",
];

/// The largest body of a request, in bytes: `add` with some tens of thousands of paths.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// The longest line of an answer, in bytes: a job with thousands of sources has some hundred thousand.
const LINE_BYTES_MAX: usize = 4 << 20;

/// The last line of an answer that has failed after its first event.
#[derive(serde::Serialize, serde::Deserialize)]
struct ErrorLine {
    error: Failure,
}

/// An answer that is one error.
pub(crate) fn refusal(failure: Failure) -> EventStream {
    futures::stream::once(async move { Err(failure) }).boxed()
}

/// A token that nobody guesses: 256 bits, in hex.
#[must_use]
pub fn fresh_token() -> String {
    data_encoding::HEXLOWER.encode(&rand::random::<[u8; 32]>())
}
