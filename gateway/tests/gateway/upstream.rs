//! What engines say, byte by byte, and what becomes of the connection to them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use gateway::Options;
use hyper::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{self, JoinSet},
};

use crate::support::{ANYWHERE, Gateway, Raw, soon, until};

/// What an engine does when it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It waits for the next request.
    Wait,
    Close,
    /// It waits until the test says so, and closes.
    CloseWhenTold,
}

/// An engine that reads heads of requests, and says to each the same bytes.
struct Script {
    address: SocketAddr,
    /// Connections on which it was asked what the test asks.
    asked_on: Arc<AtomicUsize>,
    close: Arc<Notify>,
    _serving: JoinSet<()>,
}

impl Script {
    async fn start(answer: impl Into<Vec<u8>>, piece: usize, then: Then) -> Self {
        let listener = TcpListener::bind(ANYWHERE).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked_on, close) = (Arc::<[u8]>::from(answer.into()), Arc::default(), Arc::new(Notify::new()));
        let mut serving = JoinSet::new();
        let (asked, closing) = (Arc::clone(&asked_on), Arc::clone(&close));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (answer, asked, closing) = (Arc::clone(&answer), Arc::clone(&asked), Arc::clone(&closing));
                connections.spawn(async move {
                    // Ends with an error when the gateway closes.
                    let _ = answer_all(socket, &answer, piece, then, &asked, &closing).await;
                });
            }
        });
        Script { address, asked_on, close, _serving: serving }
    }

    fn asked_on(&self) -> usize {
        self.asked_on.load(Ordering::SeqCst)
    }
}

async fn answer_all(
    mut socket: TcpStream,
    answer: &[u8],
    piece: usize,
    then: Then,
    asked_on: &AtomicUsize,
    close: &Notify,
) -> std::io::Result<()> {
    let mut is_first = true;
    loop {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(socket.read_u8().await?);
        }
        if read.starts_with(b"GET /api/tags") || read.starts_with(b"GET /api/ps") {
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"models\":[]}").await?;
            continue;
        }
        if std::mem::take(&mut is_first) {
            asked_on.fetch_add(1, Ordering::SeqCst);
        }
        for piece in answer.chunks(piece) {
            socket.write_all(piece).await?;
            task::yield_now().await;
        }
        match then {
            Then::Wait => {}
            Then::Close => return Ok(()),
            Then::CloseWhenTold => {
                close.notified().await;
                return Ok(());
            }
        }
    }
}

async fn gateway(engine: &Script) -> Gateway {
    Gateway::with(Options::new(ANYWHERE, engine.address)).await
}

#[tokio::test]
async fn an_answer_may_be_framed_and_cut_in_any_way() {
    for (answer, then, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Then::Wait, "hello"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Wait, ""),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nx: 1\r\n\r\n",
            Then::Wait,
            "hello",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Then::Wait,
            "hello",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nhello", Then::Close, "hello"),
        ("HTTP/1.0 200 OK\r\n\r\nhello", Then::Close, "hello"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Then::Close, "hello"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Then::Wait, "hello"),
    ] {
        for piece in [1, answer.len()] {
            let engine = Script::start(answer, piece, then).await;
            let gateway = gateway(&engine).await;
            for _ in 0..2 {
                assert_eq!(gateway.get("/api/version").await, (StatusCode::OK, body.to_owned()), "{answer}");
            }
            assert_eq!(engine.asked_on(), if then == Then::Wait { 1 } else { 2 }, "{answer}");
            gateway.counts(&["{model=\"none\",endpoint=\"version\",outcome=\"ok\",code=\"200\"} 2"]).await;
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_is_a_bad_gateway() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "1".repeat(64 << 10));
    for (answer, reason) in [
        ("", "it closed the connection before its answer was complete"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "it closed the connection before its answer was complete"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "invalid HTTP version"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "its answer does not say how long it is",
        ),
        (&long, "the head of its answer is longer than 64 KiB"),
    ] {
        let engine = Script::start(answer, usize::MAX, Then::Close).await;
        let gateway = gateway(&engine).await;
        let said = format!("{{\"error\":\"the engine does not answer: {reason}\"}}");
        assert_eq!(gateway.get("/api/version").await, (StatusCode::BAD_GATEWAY, said));
        gateway.counts(&["{model=\"none\",endpoint=\"version\",outcome=\"error\",code=\"502\"} 1"]).await;
    }
}

#[tokio::test]
async fn an_answer_that_stops_short_is_broken_off() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno chunk\r\n",
    ] {
        let engine = Script::start(answer, usize::MAX, Then::Close).await;
        let gateway = gateway(&engine).await;
        let mut client = Raw::connect(&gateway).await;
        client.write("GET /api/version HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let said = client.read_to_end().await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.contains("hello"), "{said}");
        assert!(!said.ends_with("0\r\n\r\n"), "{said}");
        gateway.counts(&["{model=\"none\",endpoint=\"version\",outcome=\"error\",code=\"200\"} 1"]).await;
    }
}

#[tokio::test]
async fn a_connection_is_used_again_only_if_nothing_speaks_against_it() {
    for (answer, connections) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 1),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 3),
        // More than it said.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", 3),
    ] {
        let engine = Script::start(answer, usize::MAX, Then::Wait).await;
        let gateway = gateway(&engine).await;
        for _ in 0..3 {
            assert_eq!(gateway.get("/api/version").await, (StatusCode::OK, "ok".to_owned()));
        }
        assert_eq!(engine.asked_on(), connections, "{answer}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let engine = Script::start("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", usize::MAX, Then::CloseWhenTold).await;
    let gateway = gateway(&engine).await;
    for connections in 1..=3 {
        assert_eq!(gateway.post("/api/chat", "").await, (StatusCode::OK, "ok".to_owned()));
        assert_eq!(engine.asked_on(), connections);
        engine.close.notify_one();
        // A turn of the runtime, in which the gateway's half of it sees the connection close.
        assert_eq!(gateway.get("/healthz").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_whole_request_passes() {
    const REFUSAL: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno";
    for then in [Then::CloseWhenTold, Then::Close] {
        let engine = Script::start(REFUSAL, usize::MAX, then).await;
        let gateway = gateway(&engine).await;
        let mut client = Raw::connect(&gateway).await;
        client.write("POST /api/blobs/sha256:00 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n").await;
        // More than all sockets hold: it is stuck in the middle of it when it is refused.
        let (mut reading, mut writing) = client.stream.split();
        let (mut said, mut sent) = (Vec::new(), vec![0; 1 << 20]);
        sent.fill(b' ');
        let write = async {
            while writing.write_all(&sent).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let read = async {
            while !said.ends_with(b"\r\n\r\nno") {
                assert!(reading.read_buf(&mut said).await.unwrap() > 0, "closed");
            }
        };
        soon("the refusal", async {
            tokio::select! { () = write => {}, () = read => {} }
        })
        .await;
        assert!(said.starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
        drop(client);
        gateway.counts(&["{model=\"none\",endpoint=\"blobs\",outcome=\"error\",code=\"400\"} 1"]).await;
        // What is left of the request is not for the next one's connection.
        assert_eq!(gateway.get("/api/version").await.0, StatusCode::BAD_REQUEST);
        until("another connection", || async { engine.asked_on() == 2 }).await;
    }
}

#[tokio::test]
async fn a_request_whose_body_breaks_is_not_sent_again_without_it() {
    for (body, path) in [
        ("Transfer-Encoding: chunked\r\n\r\nno chunk\r\n", "/api/chat"),
        ("Transfer-Encoding: chunked\r\n\r\nno chunk\r\n", "/api/blobs/sha256:00"),
        ("Content-Length: 73\r\n\r\n", "/api/chat"),
        ("Content-Length: 73\r\n\r\n", "/api/version"),
    ] {
        let engine = Script::start("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", usize::MAX, Then::Wait).await;
        let gateway = gateway(&engine).await;
        // There is an idle connection.
        assert_eq!(gateway.get("/api/show").await.0, StatusCode::OK);
        let mut client = Raw::connect(&gateway).await;
        client.write(format!("POST {path} HTTP/1.1\r\nHost: x\r\n{body}")).await;
        client.stream.shutdown().await.unwrap();
        let said = client.read_to_end().await;
        assert!(!said.starts_with("HTTP/1.1 200"), "{said}");
        // Nothing hangs, and the next request is no part of that one.
        until("none is in flight", || async { gateway.value("ollama_requests_in_flight").await == Some(0.0) }).await;
        assert_eq!(gateway.get("/api/show").await, (StatusCode::OK, "ok".to_owned()), "{path} {body}");
    }
}

#[tokio::test]
async fn many_connections_that_were_closed_meanwhile_are_not_used() {
    // More than a task may poll at a time.
    const MANY: usize = 300;
    let engine = Script::start("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", usize::MAX, Then::CloseWhenTold).await;
    let gateway = gateway(&engine).await;
    let mut clients = Vec::new();
    for _ in 0..MANY {
        let mut client = Raw::connect(&gateway).await;
        client.write("POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n").await;
        clients.push(client);
    }
    for client in &mut clients {
        client.write("x").await;
    }
    for client in &mut clients {
        client.read_until("ok").await;
    }
    engine.close.notify_waiters();
    assert_eq!(gateway.get("/healthz").await.0, StatusCode::OK);
    assert_eq!(gateway.post("/api/chat", "").await, (StatusCode::OK, "ok".to_owned()));
}
