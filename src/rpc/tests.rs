//! Both ends over a real loopback socket, and what foreign or hostile clients get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::Client;
use super::server::Server;
use super::{ByteStream, EventStream, METHODS, REQUEST_BYTES_MAX, Service, fresh_token};
use crate::repo::Endpoint;
use crate::transfer::api::{
    AddOptions, AddRequest, CatRequest, Event, Failure, GetRequest, LsRequest, Request, WirePath,
};

/// A service that is a function.
pub(crate) struct Fake<F>(pub(crate) F);

impl<F: Fn(Request) -> EventStream + Send + Sync> Service for Fake<F> {
    fn call(&self, request: Request) -> EventStream {
        (self.0)(request)
    }

    fn cat(&self, request: CatRequest) -> ByteStream {
        let pieces = (0..request.length.unwrap_or(0)).map(|_| Ok(Bytes::from_static(b"piece")));
        let end = (request.offset > 0).then(|| Err(Failure::new("timeout", "nothing more came")));
        stream::iter(pieces.chain(end)).boxed()
    }
}

/// An answer that is known beforehand.
pub(crate) fn answer(events: impl IntoIterator<Item = Result<Event, Failure>>) -> EventStream {
    stream::iter(events.into_iter().collect::<Vec<_>>()).boxed()
}

fn added(n: u64) -> Event {
    Event::Added { cid: format!("bafk{n}"), path: WirePath("/f".into()), size: n }
}

async fn serve(service: impl Fn(Request) -> EventStream + Send + Sync + 'static) -> (Server, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let token = fresh_token();
    let server = Server::start(listener, token.clone(), Arc::new(Fake(service))).unwrap();
    let endpoint = Endpoint { addr: server.addr(), token };
    (server, endpoint)
}

/// Sends bytes as they are and gives all that comes back.
async fn raw(endpoint: &Endpoint, request: &str) -> String {
    let mut stream = TcpStream::connect(endpoint.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses a body unread may reset the connection after its answer.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// A request of the usual form with `headers` between.
fn http(line: &str, headers: &[String], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn host(endpoint: &Endpoint) -> String {
    format!("Host: {}", endpoint.addr)
}

fn bearer(endpoint: &Endpoint) -> String {
    format!("Authorization: Bearer {}", endpoint.token)
}

fn every_request() -> Vec<Request> {
    let cid = || "bafk".to_owned();
    let get = GetRequest {
        cid: cid(),
        output: WirePath("/o".into()),
        peers: vec!["/ip4/127.0.0.1/tcp/1".into()],
        detach: true,
        no_preserve: false,
        name_in_folder: None,
        select: Vec::new(),
        tell_files: false,
        into_existing: true,
        timeout_seconds: Some(3),
    };
    let options = AddOptions { cid_version: Some(0), chunker: Some("size-1".into()), ..AddOptions::default() };
    vec![
        Request::Add(AddRequest { paths: vec![WirePath("/a b".into())], options }),
        Request::Get(get),
        Request::Pin { cid: cid(), peers: vec!["/ip4/127.0.0.1/tcp/1".into()], timeout_seconds: Some(3) },
        Request::Ls(LsRequest {
            cid: Some(cid()),
            peers: vec!["/ip4/127.0.0.1/tcp/1".into()],
            timeout_seconds: Some(3),
        }),
        Request::Memory,
        Request::Stat { cid: cid() },
        Request::Rm { cid: cid(), delete_partial: true },
        Request::Verify { cid: cid() },
        Request::Jobs,
        Request::JobPause { id: u64::MAX },
        Request::JobResume { id: 1 },
        Request::JobCancel { id: 1 },
        Request::JobWatch { id: 1 },
        Request::Id,
        Request::Peers,
        Request::Connect { addr: "/ip4/127.0.0.1/tcp/1".into() },
        Request::Limit { up: Some(1 << 20), down: None },
        Request::Health,
    ]
}

#[tokio::test]
async fn every_request_arrives_as_it_was_sent() {
    let (sender, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let (_server, endpoint) = serve(move |request| {
        sender.send(request).unwrap();
        answer([Ok(Event::Healthy)])
    })
    .await;
    let requests = every_request();
    let names = requests.iter().map(|request| serde_json::to_value(request).unwrap()["method"].clone());
    assert_eq!(names.collect::<Vec<_>>(), METHODS);
    for request in requests {
        let sent = serde_json::to_value(&request).unwrap();
        let events: Vec<_> = Client::new(endpoint.clone()).call(request).collect().await;
        assert_eq!(events, [Ok(Event::Healthy)]);
        assert_eq!(serde_json::to_value(arrived.recv().await.unwrap()).unwrap(), sent);
    }
}

#[tokio::test]
async fn events_come_in_order_and_one_by_one() {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Result<Event, Failure>>();
    let receiver = std::sync::Mutex::new(Some(receiver));
    let (_server, endpoint) = serve(move |_| {
        let receiver = receiver.lock().unwrap().take().unwrap();
        stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed()
    })
    .await;
    let mut events = Client::new(endpoint).call(Request::Ls(LsRequest::default()));
    // Each is read before the next is made: nothing waits in a buffer for more.
    for n in 0..100 {
        sender.send(Ok(added(n))).unwrap();
        assert_eq!(events.next().await, Some(Ok(added(n))));
    }
    sender.send(Err(Failure::new("no-space", "the disk is full"))).unwrap();
    drop(sender);
    assert_eq!(events.next().await, Some(Err(Failure::new("no-space", "the disk is full"))));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn an_error_before_the_first_event_is_a_status() {
    let (_server, endpoint) = serve(|request| match request {
        Request::Stat { .. } => answer([Err(Failure::new("not-found", "no such root"))]),
        _ => answer([]),
    })
    .await;
    let mut events = Client::new(endpoint.clone()).call(Request::Stat { cid: "c".into() });
    assert_eq!(events.next().await, Some(Err(Failure::new("not-found", "no such root"))));
    assert_eq!(events.next().await, None);
    let text =
        raw(&endpoint, &http("POST /api/v1/stat", &[host(&endpoint), bearer(&endpoint)], r#"{"cid":"c"}"#)).await;
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
    assert!(text.ends_with(r#"{"code":"not-found","message":"no such root"}"#), "{text}");
    assert_eq!(Client::new(endpoint).call(Request::Ls(LsRequest::default())).next().await, None);
}

#[tokio::test]
async fn who_has_no_token_or_comes_from_a_page_gets_nothing() {
    let called = Arc::new(AtomicBool::new(false));
    let seen = called.clone();
    let (_server, endpoint) = serve(move |_| {
        seen.store(true, Ordering::SeqCst);
        answer([Ok(Event::Healthy)])
    })
    .await;
    let (host, token, port) = (host(&endpoint), bearer(&endpoint), endpoint.addr.port());
    let long = format!("{token}0");
    let short = token[..token.len() - 1].to_owned();
    let cases: Vec<(&str, Vec<String>)> = vec![
        ("401", vec![host.clone()]),
        ("401", vec![host.clone(), "Authorization: Bearer ".into()]),
        ("401", vec![host.clone(), long]),
        ("401", vec![host.clone(), short]),
        ("401", vec![host.clone(), format!("Authorization: {}", endpoint.token)]),
        ("401", vec![host.clone(), token.clone(), token.clone()]),
        ("403", vec![host.clone(), token.clone(), format!("Origin: http://127.0.0.1:{port}")]),
        ("403", vec![host.clone(), token.clone(), "Origin: null".into()]),
        ("403", vec![format!("Host: evil.example:{port}"), token.clone()]),
        ("403", vec![format!("Host: 127.0.0.1.evil.example:{port}"), token.clone()]),
        ("403", vec![format!("Host: 192.0.2.1:{port}"), token.clone()]),
        ("403", vec!["Host: 127.0.0.1:1".into(), token.clone()]),
        ("403", vec!["Host: localhost".into(), token.clone()]),
        ("403", vec![host.clone(), host.clone(), token.clone()]),
        ("403", vec![token.clone()]),
    ];
    for (status, headers) in cases {
        let text = raw(&endpoint, &http("POST /api/v1/health", &headers, "")).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{headers:?}: {text}");
        assert!(!text.contains(&endpoint.token), "{text}");
    }
    let absolute = format!("POST http://evil.example:{port}/api/v1/health");
    let text = raw(&endpoint, &http(&absolute, &[host.clone(), token.clone()], "")).await;
    assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    assert!(!called.load(Ordering::SeqCst));
    for good in [host, format!("Host: LocalHost:{port}"), format!("Host: [::1]:{port}")] {
        let text = raw(&endpoint, &http("GET /api/v1/health", &[good, token.clone()], "")).await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains(r#"{"event":"healthy"}"#), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_told_why() {
    let (_server, endpoint) = serve(|_| answer([Ok(Event::Healthy)])).await;
    let headers = [host(&endpoint), bearer(&endpoint)];
    for (line, body, status, message) in [
        ("GET /api/v1/ls", "", "405", "POST"),
        ("OPTIONS /api/v1/ls", "", "405", "POST"),
        ("POST /api/v1/format-disk", "", "404", "the methods are add, get"),
        ("POST /api/v1/", "", "404", "the methods"),
        ("POST /", "", "404", "the methods"),
        ("POST /api/v1/stat", "", "400", "missing field `cid`"),
        ("POST /api/v1/stat", "[1]", "400", "not a JSON object"),
        ("POST /api/v1/stat", "{", "400", "not a JSON object"),
        ("POST /api/v1/job-pause", r#"{"id":-1}"#, "400", "invalid value"),
    ] {
        let text = raw(&endpoint, &http(line, &headers, body)).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{line}: {text}");
        assert!(text.contains(message), "{line}: {text}");
    }
    // The route names the method, whatever the body says.
    let text = raw(&endpoint, &http("POST /api/v1/ls", &headers, r#"{"method":"rm"}"#)).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn a_body_of_the_limit_passes_and_one_more_byte_does_not() {
    let (_server, endpoint) = serve(|_| answer([Ok(Event::Healthy)])).await;
    let headers = [host(&endpoint), bearer(&endpoint)];
    let body = |length: usize| format!("{{{}}}", " ".repeat(length - 2));
    let text = raw(&endpoint, &http("POST /api/v1/ls", &headers, &body(REQUEST_BYTES_MAX))).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let request = http("POST /api/v1/ls", &headers, &body(REQUEST_BYTES_MAX + 1));
    let mut stream = TcpStream::connect(endpoint.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_stopping_server_ends_answers_with_a_line_that_says_so() {
    let (server, endpoint) = serve(|_| stream::iter([Ok(added(1))]).chain(stream::pending()).boxed()).await;
    let mut events = Client::new(endpoint.clone()).call(Request::Ls(LsRequest::default()));
    assert_eq!(events.next().await, Some(Ok(added(1))));
    server.stop().await;
    let failure = events.next().await.unwrap().unwrap_err();
    assert_eq!(failure.code, "stopping");
    assert_eq!(events.next().await, None);
    assert_eq!(
        Client::new(endpoint).call(Request::Ls(LsRequest::default())).next().await.unwrap().unwrap_err().code,
        "daemon-gone"
    );
}

#[tokio::test]
async fn an_answer_is_dropped_when_its_client_is_gone() {
    let (sender, mut dropped) = tokio::sync::mpsc::unbounded_channel::<()>();
    let (_server, endpoint) = serve(move |_| {
        let guard = sender.clone();
        stream::iter([Ok(added(1))])
            .chain(stream::once(async move {
                let _guard = guard;
                std::future::pending().await
            }))
            .boxed()
    })
    .await;
    let mut events = Client::new(endpoint).call(Request::Ls(LsRequest::default()));
    events.next().await.unwrap().unwrap();
    drop(events);
    // The service's own sender lives in the closure; what arrives here is that the guard is the last of the others.
    let gone = async {
        while dropped.sender_strong_count() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.unwrap();
    dropped.close();
}

#[tokio::test]
async fn a_daemon_that_dies_within_its_answer_is_an_error_and_not_an_end() {
    for (half, told) in [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{\"event\":\"healthy\"}\n\r\n",
            "ended before its answer",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{\"eve", "ended within a line"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd\n", "another version"),
        ("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", "500"),
        ("", "does not answer"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint { addr: listener.local_addr().unwrap(), token: "t".into() };
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            stream.write_all(half.as_bytes()).await.unwrap();
        });
        let events: Vec<_> = Client::new(endpoint).call(Request::Ls(LsRequest::default())).collect().await;
        let failure = events.last().unwrap().as_ref().unwrap_err();
        assert!(failure.message.contains(told), "{half:?}: {failure}");
    }
}

#[tokio::test]
async fn only_a_living_daemon_of_this_repo_is_found() {
    let (_server, endpoint) = serve(|_| answer([Ok(Event::Healthy)])).await;
    assert!(Client::find(endpoint.clone()).await.unwrap().is_some());
    let stale = Endpoint { token: fresh_token(), ..endpoint };
    assert!(Client::find(stale.clone()).await.unwrap().is_none(), "somebody else has the port now");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = Endpoint { addr: closed.local_addr().unwrap(), ..stale };
    drop(closed);
    assert!(Client::find(dead).await.unwrap().is_none());
}

#[tokio::test]
async fn bytes_come_as_they_are_and_an_early_end_is_an_error() {
    let (server, endpoint) = serve(|_| stream::empty().boxed()).await;
    let client = Client::new(endpoint);
    let ask = |offset, length| CatRequest {
        cid: "c".into(),
        offset,
        length: Some(length),
        peers: Vec::new(),
        timeout_seconds: None,
    };
    let all = |mut pieces: ByteStream| async move {
        let mut got = Vec::new();
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => got.extend_from_slice(&piece),
                Err(failure) => return (got, Some(failure.code)),
            }
        }
        (got, None)
    };
    assert_eq!(all(client.cat(ask(0, 1000))).await, (b"piece".repeat(1000), None));
    assert_eq!(all(client.cat(ask(0, 0))).await, (Vec::new(), None));
    // Before the first byte the failure itself comes, after it a cut.
    assert_eq!(all(client.cat(ask(1, 0))).await, (Vec::new(), Some("timeout".into())));
    assert_eq!(all(client.cat(ask(1, 3))).await.1.as_deref(), Some("daemon-gone"));
    server.stop().await;
}
