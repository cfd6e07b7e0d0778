//! `serve` and signals. Alone in its file, since a signal reaches a whole process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use gateway::{Options, serve};
use rustix::process::{Signal, getpid, kill_process};

const DEADLINE: Duration = Duration::from_secs(25);

const STREAMS: usize = 100;

#[test]
fn sigterm_takes_no_new_client_and_loses_no_stream() {
    // Everybody has begun; the gateway was told to stop.
    let (begun, told) = (Arc::new(Barrier::new(STREAMS + 1)), Arc::new(Barrier::new(STREAMS + 1)));
    let engine = engine(Arc::clone(&told));
    let listen = free_address();
    let serving = thread::spawn(move || serve(Options::new(listen, engine)));
    until("healthy", || is_healthy(listen));
    let clients: Vec<_> = (0..STREAMS)
        .map(|_| {
            let begun = Arc::clone(&begun);
            thread::spawn(move || stream(listen, &begun))
        })
        .collect();
    begun.wait();
    kill_process(getpid(), Signal::TERM).unwrap();
    until("no new client", || TcpStream::connect(listen).is_err());
    assert!(!serving.is_finished(), "it ended while streams were open");
    told.wait();
    for client in clients {
        // Lengths of chunks may be written in either case.
        let said = client.join().unwrap().to_lowercase();
        assert!(said.ends_with("{\"done\":false}\n\r\ne\r\n{\"done\":true}\n\r\n0\r\n\r\n"), "{said:?}");
    }
    serving.join().unwrap().unwrap();
}

/// Begins every answer at once, and ends it once the gateway was told to stop.
fn engine(told: Arc<Barrier>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let told = Arc::clone(&told);
            thread::spawn(move || answer(stream, &told));
        }
    });
    address
}

fn answer(stream: TcpStream, told: &Barrier) {
    let mut reader = BufReader::new(stream);
    let (mut line, mut first) = (String::new(), String::new());
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        if first.is_empty() {
            first.clone_from(&line);
        }
        line.clear();
    }
    let stream = reader.get_mut();
    if !first.contains("/api/chat") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\n{\"models\":[]}");
        return;
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(format!("{head}f\r\n{{\"done\":false}}\n\r\n").as_bytes()).unwrap();
    told.wait();
    stream.write_all(b"e\r\n{\"done\":true}\n\r\n0\r\n\r\n").unwrap();
}

/// All that a client of one stream gets.
fn stream(address: SocketAddr, begun: &Barrier) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"{\"done\":false}\n\r\n") {
        let mut some = [0; 1024];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&some[..count]);
    }
    begun.wait();
    stream.read_to_end(&mut read).unwrap();
    String::from_utf8(read).unwrap()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An address that was free a moment ago: `serve` does not tell which port it got.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn is_healthy(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut answer = String::new();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.0 200 OK")
}
