//! The daemon's end of the RPC.
//!
//! Owns the listener and the checks, in this order: host, origin, token, method, body. Nothing of a request's body is
//! read before its token is known to be right. Knows nothing of what requests mean.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{CAT, ErrorLine, EventStream, METHODS, PREFIX, REQUEST_BYTES_MAX, Service};
use crate::transfer::api::{CatRequest, Failure, Request};

/// How long a stopping server waits for answers under way to take their last line.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// A server that answers until it is stopped. Dropping it without [`Server::stop`] stops it as well, less politely.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    stopping: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Shared {
    service: Arc<dyn Service>,
    token: String,
    port: u16,
    stopping: watch::Receiver<bool>,
}

impl Server {
    /// Answers on `listener`, which is on loopback, with `service`, to who shows `token`.
    ///
    /// # Errors
    /// That the listener does not know its own address.
    pub fn start(listener: TcpListener, token: String, service: Arc<dyn Service>) -> std::io::Result<Self> {
        let addr = listener.local_addr()?;
        let (stopping, stop) = watch::channel(false);
        let shared = Arc::new(Shared { service, token, port: addr.port(), stopping: stop.clone() });
        let router = axum::Router::new().fallback(answer).with_state(shared);
        let task = tokio::spawn(async move {
            let serve = axum::serve(listener, router).with_graceful_shutdown(stopped(stop));
            if let Err(error) = serve.await {
                tracing::error!("the local RPC has ended: {error}");
            }
        });
        Ok(Self { addr, stopping, task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more requests, ends the answers under way with a last line that says so, and waits a moment for them.
    pub async fn stop(self) {
        let _ = self.stopping.send(true);
        let _ = tokio::time::timeout(STOP_GRACE, self.task).await;
    }
}

/// Resolves when the server stops or is gone.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// One request, from its checks to its answer.
async fn answer(State(shared): State<Arc<Shared>>, request: HttpRequest) -> Response {
    match accept(&shared, request).await {
        Ok(Asked::Events(request)) => reply(&shared, request).await,
        Ok(Asked::Bytes(request)) => reply_bytes(&shared, request).await,
        Err(refused) => refused,
    }
}

/// A request that is let in.
enum Asked {
    Events(Request),
    Bytes(CatRequest),
}

async fn accept(shared: &Shared, http: HttpRequest) -> Result<Asked, Response> {
    let (head, body) = http.into_parts();
    if !host_is_local(&head.headers, &head.uri, shared.port) {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "forbidden",
            "the Host of the request is not this machine's loopback",
        ));
    }
    if head.headers.contains_key(header::ORIGIN) {
        return Err(refuse(StatusCode::FORBIDDEN, "forbidden", "web pages may not talk to this node"));
    }
    if !token_is_right(&head.headers, &shared.token) {
        let advice = "the request has no valid token: send `Authorization: Bearer …` with the text of rpc.token";
        return Err(refuse(StatusCode::UNAUTHORIZED, "unauthorized", advice));
    }
    let name = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    if !METHODS.contains(&name) && name != CAT {
        let message = format!("there is no {}; the methods are {}", head.uri.path(), METHODS.join(", "));
        return Err(refuse(StatusCode::NOT_FOUND, "unknown-method", message));
    }
    if head.method == Method::GET && name == "health" {
        return Ok(Asked::Events(Request::Health));
    }
    if head.method != Method::POST {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "bad-request", "methods are called with POST"));
    }
    let body = axum::body::to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|_| {
        let message = format!("the body is cut short, or longer than {REQUEST_BYTES_MAX} bytes");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, "bad-request", message)
    })?;
    let bad = |message: String| refuse(StatusCode::BAD_REQUEST, "bad-request", message);
    if name == CAT {
        let request = serde_json::from_slice(&body).map_err(|error| bad(format!("the body of cat: {error}")))?;
        return Ok(Asked::Bytes(request));
    }
    parse(name, &body).map(Asked::Events).map_err(bad)
}

/// The request of a route and a body; an empty body stands for no fields.
fn parse(name: &str, body: &[u8]) -> Result<Request, String> {
    let body: &[u8] = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).map_err(|error| format!("the body of {name} is not a JSON object: {error}"))?;
    fields.insert("method".to_owned(), name.into());
    serde_json::from_value(fields.into()).map_err(|error| format!("the body of {name}: {error}"))
}

async fn reply(shared: &Shared, request: Request) -> Response {
    let stopping = shared.stopping.clone();
    let mut events = until_stopped(shared.service.call(request), stopping);
    // The first event is waited for, since an error in its place is told by the status.
    let first = match events.next().await {
        Some(Err(failure)) => return (status_of(&failure), axum::Json(failure)).into_response(),
        first => first,
    };
    let lines = futures::stream::iter(first).chain(events).map(|event| {
        let mut line = match event {
            Ok(event) => serde_json::to_vec(&event),
            Err(error) => serde_json::to_vec(&ErrorLine { error }),
        }
        .map_err(std::io::Error::other)?;
        line.push(b'\n');
        Ok::<_, std::io::Error>(Bytes::from(line))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn reply_bytes(shared: &Shared, request: CatRequest) -> Response {
    let mut pieces = shared.service.cat(request);
    let first = match pieces.next().await {
        Some(Err(failure)) => return (status_of(&failure), axum::Json(failure)).into_response(),
        first => first,
    };
    let stopping = shared.stopping.clone();
    let bytes = futures::stream::iter(first).chain(pieces).map(|piece| {
        piece.map_err(|failure| {
            tracing::warn!(%failure, "a file that was being read could not be read to its end");
            std::io::Error::other(failure)
        })
    });
    // A stopping server cuts it, too: a part must not be taken for the whole.
    let cut = futures::stream::once(async move {
        stopped(stopping).await;
        Err(std::io::Error::other("the daemon is stopping"))
    });
    let until = futures::stream::select_with_strategy(
        bytes.map(Some).chain(futures::stream::iter([None])),
        cut.map(Some),
        |(): &mut ()| futures::stream::PollNext::Left,
    );
    let body =
        Body::from_stream(until.take_while(|piece| std::future::ready(piece.is_some())).filter_map(std::future::ready));
    ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response()
}

/// The events until their end, their first error, or the server's end, which is told as one.
fn until_stopped(events: EventStream, stopping: watch::Receiver<bool>) -> EventStream {
    futures::stream::unfold(Some((events, stopping)), |state| async move {
        let (mut events, stopping) = state?;
        let event = tokio::select! {
            biased;
            event = events.next() => event?,
            () = stopped(stopping.clone()) => Err(Failure::new("stopping", "the daemon is stopping")),
        };
        let rest = event.is_ok().then_some((events, stopping));
        Some((event, rest))
    })
    .fuse()
    .boxed()
}

fn status_of(failure: &Failure) -> StatusCode {
    match failure.code.as_str() {
        "not-a-cid" | "unknown-codec" | "bad-request" | "bad-address" | "bad-option" | "not-a-file"
        | "is-a-directory" | "not-a-directory" => StatusCode::BAD_REQUEST,
        "not-found" | "unknown-root" | "unknown-job" => StatusCode::NOT_FOUND,
        "path-exists" => StatusCode::CONFLICT,
        "stopping" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refuse(status: StatusCode, code: &str, message: impl std::fmt::Display) -> Response {
    (status, axum::Json(Failure::new(code, message))).into_response()
}

/// Whether exactly one host is named and it is `localhost` or a loopback address, with our port: a page of a site whose
/// name was made to resolve to loopback (DNS rebinding) names that site.
fn host_is_local(headers: &HeaderMap, uri: &Uri, port: u16) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let local = |text: &str| match text.parse::<SocketAddr>() {
        Ok(addr) => addr.ip().is_loopback() && addr.port() == port,
        Err(_) => text
            .rsplit_once(':')
            .is_some_and(|(name, given)| name.eq_ignore_ascii_case("localhost") && given.parse() == Ok(port)),
    };
    // The absolute form of a request line stands in for the header, so it has to be local too.
    local(host) && uri.authority().is_none_or(|authority| local(authority.as_str()))
}

/// Whether the one `Authorization` is `Bearer TOKEN`.
fn token_is_right(headers: &HeaderMap, token: &str) -> bool {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else { return false };
    given.as_bytes().strip_prefix(b"Bearer ").is_some_and(|given| equal_in_constant_time(given, token.as_bytes()))
}

/// Compares without stopping at the first difference, whose place the time taken would tell. The length is no secret.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0_u8, |seen, (a, b)| std::hint::black_box(seen | (a ^ b)));
    a.len() == b.len() && difference == 0
}
