//! Bodies pass as they come, in constant memory, and end when either side says so.

use std::io;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, Response, StatusCode, body::Incoming};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time,
};

use crate::support::{AnyBody, Engine, Gateway, Raw, chunks, hold_address, ndjson, next, soon, text, until, whole};

/// An engine whose every answer is an NDJSON stream that the test writes through the sender it is given here.
async fn streaming() -> (Engine, mpsc::Receiver<mpsc::Sender<io::Result<Bytes>>>) {
    let (senders, given) = mpsc::channel(1);
    let engine = Engine::start(move |_| {
        let senders = senders.clone();
        async move {
            let (sender, body) = chunks();
            senders.send(sender).await.unwrap();
            ndjson(body)
        }
    })
    .await;
    (engine, given)
}

fn chat() -> Request<AnyBody> {
    Request::post("/api/chat").body(whole("{\"model\":\"m:1\"}")).unwrap()
}

#[tokio::test]
async fn each_chunk_of_a_response_passes_as_it_comes() {
    let (engine, mut given) = streaming().await;
    let gateway = Gateway::before(&engine).await;
    let (mut body, sender) =
        tokio::join!(async { gateway.send(chat()).await.into_body() }, async { given.recv().await.unwrap() });
    // The engine has no second chunk before the client has the first.
    for chunk in ["{\"a\":1}\n", "{\"b\"", ":2}\n{\"c\":3}\n"] {
        sender.send(Ok(chunk.into())).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap(), chunk);
    }
    drop(sender);
    assert_eq!(next(&mut body).await, None);
    gateway.counts(&["{model=\"m:1\",endpoint=\"chat\",outcome=\"ok\",code=\"200\"} 1"]).await;
}

#[tokio::test]
async fn each_chunk_of_a_request_passes_as_it_comes() {
    let (seen, mut arrived) = mpsc::channel(1);
    let engine = Engine::start(move |request| {
        let seen = seen.clone();
        async move {
            let mut body = request.into_body();
            while let Some(chunk) = next(&mut body).await {
                seen.send(chunk).await.unwrap();
            }
            Response::new(whole("done"))
        }
    })
    .await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    client.write("POST /api/blobs/sha256:00 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for chunk in ["one", "two"] {
        client.write(format!("3\r\n{chunk}\r\n")).await;
        assert_eq!(soon(chunk, arrived.recv()).await.unwrap(), chunk);
    }
    client.write("0\r\n\r\n").await;
    client.read_until("\r\n\r\ndone").await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_cancels_it() {
    let (engine, mut given) = streaming().await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    client.write("POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{\"model\":\"m:1\"}").await;
    let sender = soon("the request", given.recv()).await.unwrap();
    sender.send(Ok("{}\n".into())).await.unwrap();
    client.read_until("{}\n\r\n").await;
    drop(client);
    // The engine writes nothing more, and learns it all the same.
    soon("the engine sees the connection close", sender.closed()).await;
    gateway.counts(&["{model=\"m:1\",endpoint=\"chat\",outcome=\"cancelled\",code=\"200\"} 1"]).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_cancels_the_request() {
    let (seen, mut arrived) = mpsc::channel::<mpsc::Sender<()>>(1);
    let engine = Engine::start(move |request| {
        let seen = seen.clone();
        async move {
            request.into_body().collect().await.unwrap();
            // Lives as long as the engine works on the answer.
            let (working, _work) = mpsc::channel(1);
            seen.send(working).await.unwrap();
            std::future::pending().await
        }
    })
    .await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    client.write("POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{\"model\":\"m:1\"}").await;
    let working = soon("the request", arrived.recv()).await.unwrap();
    assert_eq!(gateway.value("ollama_requests_in_flight").await, Some(1.0));
    drop(client);
    soon("the engine sees the connection close", working.closed()).await;
    gateway.counts(&["{model=\"m:1\",endpoint=\"chat\",outcome=\"cancelled\",code=\"499\"} 1"]).await;
}

#[tokio::test]
async fn half_an_upload_is_not_taken_for_a_whole_one() {
    let (seen, mut ended) = mpsc::channel(1);
    let engine = Engine::start(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            seen.send(request.into_body().collect().await.is_ok()).await.unwrap();
            Response::new(whole(""))
        }
    })
    .await;
    let gateway = Gateway::before(&engine).await;
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = Raw::connect(&gateway).await;
        client.write(format!("POST /api/blobs/sha256:00 HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n3\r\nabc\r\n")).await;
        drop(client);
        assert!(!soon("the end of the upload", ended.recv()).await.unwrap(), "{framing}");
    }
    gateway.counts(&["{model=\"none\",endpoint=\"blobs\",outcome=\"cancelled\",code=\"499\"} 2"]).await;
}

#[tokio::test]
async fn a_stream_that_the_engine_breaks_off_is_broken_off() {
    let (engine, mut given) = streaming().await;
    let gateway = Gateway::before(&engine).await;
    let (mut body, sender) =
        tokio::join!(async { gateway.send(chat()).await.into_body() }, async { given.recv().await.unwrap() });
    sender.send(Ok("{}\n".into())).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "{}\n");
    sender.send(Err(io::Error::other("the engine dies"))).await.unwrap();
    assert!(soon("the end", body.frame()).await.unwrap().is_err());
    gateway.counts(&["{model=\"m:1\",endpoint=\"chat\",outcome=\"error\",code=\"200\"} 1"]).await;
}

/// A prime number of bytes, so that no buffer's size divides it: a frame lost or moved shows.
fn block() -> Bytes {
    (0..1_000_003_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// True if `bytes` are what `block` over and over has at `offset`.
fn is_block_at(block: &[u8], offset: usize, mut bytes: &[u8]) -> bool {
    let mut start = offset % block.len();
    while !bytes.is_empty() {
        let count = bytes.len().min(block.len() - start);
        if bytes[..count] != block[start..start + count] {
            return false;
        }
        bytes = &bytes[count..];
        start = 0;
    }
    true
}

#[tokio::test]
async fn a_hundred_megabytes_arrive_as_they_were_sent() {
    const BLOCKS: usize = 100;
    let block = block();
    let expected = block.clone();
    let engine = Engine::start(move |request| {
        let block = expected.clone();
        async move {
            let chunked = request.headers().get("transfer-encoding").is_some_and(|value| value == "chunked");
            let (mut body, mut received) = (request.into_body(), 0);
            while let Some(chunk) = next(&mut body).await {
                assert!(is_block_at(&block, received, &chunk), "wrong after {received} bytes");
                received += chunk.len();
            }
            Response::new(whole(format!("{received} {chunked}")))
        }
    })
    .await;
    let gateway = Gateway::before(&engine).await;
    let (sender, body) = chunks();
    let upload = Request::post("/api/blobs/sha256:00").body(body).unwrap();
    let (response, ()) = tokio::join!(gateway.send(upload), async {
        for _ in 0..BLOCKS {
            sender.send(Ok(block.clone())).await.unwrap();
        }
        drop(sender);
    });
    assert_eq!(text(response).await, format!("{} true", BLOCKS * block.len()));
}

#[tokio::test]
async fn an_engine_that_reads_slowly_holds_back_the_client() {
    const PIECE: usize = 1024 * 1024;
    // Far more than the sockets and hyper's buffers hold between client and engine.
    const PIECES: usize = 96;
    let reading = &*Box::leak(Box::new(Semaphore::new(0)));
    let engine = Engine::start(move |request| async move {
        drop(reading.acquire().await.unwrap());
        let (mut body, mut received) = (request.into_body(), 0);
        while let Some(chunk) = next(&mut body).await {
            received += chunk.len();
        }
        Response::new(whole(format!("{received}")))
    })
    .await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    let head = format!("POST /api/blobs/sha256:00 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", PIECES * PIECE);
    client.write(head).await;

    let sent = send_until_held_back(&mut client.stream, PIECES * PIECE).await;
    assert!(sent < PIECES * PIECE, "the gateway took {sent} bytes that nobody read");
    reading.add_permits(1);
    client.write(vec![0; PIECES * PIECE - sent]).await;
    client.read_until(&format!("\r\n\r\n{}", PIECES * PIECE)).await;
}

/// Writes up to `most` bytes, until for half a second not one is taken. Being wrong about that only makes the test
/// weaker, never fail.
async fn send_until_held_back(stream: &mut TcpStream, most: usize) -> usize {
    let piece = vec![0; 64 * 1024];
    let mut sent = 0;
    while sent < most {
        let next = &piece[..piece.len().min(most - sent)];
        match time::timeout(time::Duration::from_millis(500), stream.write(next)).await {
            Ok(count) => sent += count.unwrap(),
            Err(_) => break,
        }
    }
    sent
}

#[tokio::test]
async fn a_stop_lets_a_stream_finish_and_takes_no_new_client() {
    let (engine, mut given) = streaming().await;
    let gateway = Gateway::before(&engine).await;
    let address = gateway.address;
    let (mut body, sender) =
        tokio::join!(async { gateway.send(chat()).await.into_body() }, async { given.recv().await.unwrap() });
    sender.send(Ok("{\"a\":1}\n".into())).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "{\"a\":1}\n");

    let ended = gateway.stop();
    until("no new client", || async { TcpStream::connect(address).await.is_err() }).await;
    sender.send(Ok("{\"done\":true}\n".into())).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "{\"done\":true}\n");
    assert!(!ended.is_finished(), "it stopped while a stream was open");
    drop(sender);
    assert_eq!(next(&mut body).await, None);
    soon("the gateway has stopped", ended).await.unwrap();
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_stop() {
    let gateway = Gateway::alone().await;
    let _silent = Raw::connect(&gateway).await;
    let mut idle = Raw::connect(&gateway).await;
    idle.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    idle.read_until("ok\n").await;
    soon("the gateway has stopped", gateway.stop()).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_came_back_is_used_again() {
    let (_held, address) = hold_address();
    let engine = Engine::start_at(address, |_| async { Response::new(whole("first")) }).await;
    let gateway = Gateway::before(&engine).await;
    assert_eq!(gateway.get("/api/version").await, (StatusCode::OK, "first".to_owned()));
    drop(engine);
    until("the engine is gone", || async { gateway.get("/api/version").await.0 == StatusCode::BAD_GATEWAY }).await;
    let _engine = Engine::start_at(address, |_| async { Response::new(whole("second")) }).await;
    assert_eq!(gateway.get("/api/version").await, (StatusCode::OK, "second".to_owned()));
}
