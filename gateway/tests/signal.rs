//! `serve` and signals. Alone in its file, since a signal reaches a whole process.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use gateway::{Options, serve};
use rustix::process::{Signal, getpid, kill_process};

const DEADLINE: Duration = Duration::from_secs(25);

#[test]
fn serves_until_sigterm() {
    let listen = free_address();
    let serving = thread::spawn(move || serve(Options::new(listen, listen)));
    let begun = Instant::now();
    while !is_healthy(listen) {
        assert!(begun.elapsed() < DEADLINE, "never healthy");
        thread::sleep(Duration::from_millis(5));
    }
    kill_process(getpid(), Signal::TERM).unwrap();
    serving.join().unwrap().unwrap();
    assert!(TcpStream::connect(listen).is_err(), "something still listens");
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
