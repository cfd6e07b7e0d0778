//! The blocking form, in a process of its own: signals are a process's, not a test's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use sandbox::{Options, serve};

#[test]
fn serves_until_sigterm() {
    let dir = tempfile::TempDir::new().unwrap();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let options = Options { listen: free, ..Options::new(dir.path().to_owned()) };
    let serving = thread::spawn(move || serve(options));
    wait_for(free);
    let body = reqwest::blocking::get(format!("http://{free}/")).unwrap().text().unwrap();
    assert_eq!(body, "Ollama is running");
    kill_process(getpid(), Signal::TERM).unwrap();
    serving.join().unwrap().unwrap();
    assert!(TcpStream::connect(free).is_err());
}

fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {address}");
        thread::sleep(Duration::from_millis(10));
    }
}
