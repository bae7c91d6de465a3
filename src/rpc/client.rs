//! The command line's end of the RPC: one connection a request, to a daemon on this machine.
//!
//! A stream that ends without its end (the daemon was killed) ends with the failure `daemon-gone`, never quietly.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{ByteStream, CAT, ErrorLine, EventStream, LINE_BYTES_MAX, PREFIX, Service, refusal};
use crate::repo::Endpoint;
use crate::transfer::api::{CatRequest, Event, Failure, Request};

/// How long a daemon may take to say that it is well. It does so from memory.
const HEALTH_PATIENCE: Duration = Duration::from_secs(10);

/// A daemon on this machine.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
}

impl Client {
    /// The daemon at `endpoint`, whether it lives or not.
    #[must_use]
    pub const fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// The daemon at `endpoint` if it lives. `None` when nobody listens there, or somebody who does not know our token:
    /// then the files of the repo are those of a daemon that was killed.
    ///
    /// # Errors
    /// `daemon-silent` when something listens there and says nothing.
    pub async fn find(endpoint: Endpoint) -> Result<Option<Self>, Failure> {
        let addr = endpoint.addr;
        let client = Self::new(endpoint);
        let mut answer = client.call(Request::Health);
        match tokio::time::timeout(HEALTH_PATIENCE, answer.next()).await {
            Ok(Some(Ok(Event::Healthy))) => Ok(Some(client)),
            Ok(_) => Ok(None),
            Err(_) => {
                let seconds = HEALTH_PATIENCE.as_secs();
                let message =
                    format!("the daemon at {addr} has not answered for {seconds} s: stop it and start it again");
                Err(Failure::new("daemon-silent", message))
            }
        }
    }
}

impl Service for Client {
    fn call(&self, request: Request) -> EventStream {
        let (method, body) = match split(&request) {
            Ok(parts) => parts,
            Err(error) => return refusal(Failure::new("bad-request", error)),
        };
        let endpoint = self.endpoint.clone();
        let answer = async move {
            match send(&endpoint, &method, body).await {
                Ok(body) => lines(body),
                Err(failure) => refusal(failure),
            }
        };
        futures::stream::once(answer).flatten().boxed()
    }

    fn cat(&self, request: CatRequest) -> ByteStream {
        let endpoint = self.endpoint.clone();
        let answer = async move {
            let body = serde_json::to_vec(&request).map_err(|error| Failure::new("bad-request", error));
            let answered = match body {
                Ok(body) => send(&endpoint, CAT, body).await,
                Err(failure) => Err(failure),
            };
            answered.map_or_else(|failure| futures::stream::once(async move { Err(failure) }).boxed(), pieces)
        };
        futures::stream::once(answer).flatten().boxed()
    }
}

/// The bytes of a body, whose early end is an error.
fn pieces(body: Incoming) -> ByteStream {
    let gone = |error: hyper::Error| {
        let message = format!("the daemon has ended before the file did: {error}; its log says why");
        Failure::new("daemon-gone", message)
    };
    http_body_util::BodyDataStream::new(body).map(move |piece| piece.map_err(gone)).boxed()
}

/// The method and the JSON of its fields.
fn split(request: &Request) -> Result<(String, Vec<u8>), serde_json::Error> {
    let mut value = serde_json::to_value(request)?;
    let method = value.as_object_mut().and_then(|fields| fields.remove("method"));
    let method = method.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    Ok((method, serde_json::to_vec(&value)?))
}

/// Sends one request and gives the body of its answer, when that is a stream of events.
async fn send(endpoint: &Endpoint, method: &str, body: Vec<u8>) -> Result<Incoming, Failure> {
    let gone = |error: &dyn std::fmt::Display| {
        Failure::new("daemon-gone", format!("the daemon at {} does not answer: {error}", endpoint.addr))
    };
    let stream = TcpStream::connect(endpoint.addr).await.map_err(|error| gone(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
    // Ends by itself with the answer's body, whose owner learns of its errors.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = hyper::Request::builder()
        .method(Method::POST)
        .uri(format!("{PREFIX}{method}"))
        .header(header::HOST, endpoint.addr.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {}", endpoint.token))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| gone(&error))?;
    let response = sender.send_request(request).await.map_err(|error| gone(&error))?;
    if response.status() == StatusCode::OK {
        return Ok(response.into_body());
    }
    let status = response.status();
    let limited = http_body_util::Limited::new(response.into_body(), LINE_BYTES_MAX);
    let body = limited.collect().await.map_err(|error| gone(&error))?.to_bytes();
    Err(serde_json::from_slice(&body).unwrap_or_else(|_| gone(&status)))
}

/// The events of a body, one a line.
fn lines(body: Incoming) -> EventStream {
    futures::stream::unfold(Some((body, BytesMut::new())), |state| async move {
        let (mut body, mut buffer) = state?;
        let event = next_event(&mut body, &mut buffer).await?;
        let rest = event.is_ok().then_some((body, buffer));
        Some((event, rest))
    })
    .fuse()
    .boxed()
}

async fn next_event(body: &mut Incoming, buffer: &mut BytesMut) -> Option<Result<Event, Failure>> {
    let gone = |message: String| Some(Err(Failure::new("daemon-gone", message)));
    let mut searched = 0;
    loop {
        let rest = buffer.get(searched..).unwrap_or_default();
        if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line = buffer.split_to(searched + end);
            buffer.advance(1);
            return Some(parse(&line));
        }
        searched = buffer.len();
        if searched > LINE_BYTES_MAX {
            return gone(format!("the daemon has sent a line of more than {LINE_BYTES_MAX} bytes"));
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    buffer.extend_from_slice(&data);
                }
            }
            Some(Err(error)) => return gone(format!("the daemon has ended before its answer did: {error}")),
            None if buffer.is_empty() => return None,
            None => return gone("the daemon has ended within a line".to_owned()),
        }
    }
}

fn parse(line: &[u8]) -> Result<Event, Failure> {
    if let Ok(ErrorLine { error }) = serde_json::from_slice(line) {
        return Err(error);
    }
    serde_json::from_slice(line).map_err(|error| {
        let message = format!("the daemon speaks another version of this program's language ({error}): restart it");
        Failure::new("daemon-version", message)
    })
}
