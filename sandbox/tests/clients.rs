//! The real Python clients against the stand-in: what they cannot parse, an agent that is built on them cannot either.
//!
//! `STACK_TESTS_PYTHON` is a Python that has `clients/requirements.txt` installed. Without it the tests say that they
//! are left out, and fail where `STACK_TESTS_REQUIRE` names `python-clients`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::disallowed_methods, reason = "a client is a program of its own")]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};

use sandbox::{Options, Server, Timing};

#[tokio::test]
async fn ollama_package() {
    passes("ollama").await;
}

#[tokio::test]
async fn openai_package() {
    passes("openai").await;
}

#[tokio::test]
async fn anthropic_package() {
    passes("anthropic").await;
}

async fn passes(client: &'static str) {
    let Some(python) = std::env::var_os("STACK_TESTS_PYTHON").filter(|python| !python.is_empty()) else {
        let required = std::env::var("STACK_TESTS_REQUIRE").unwrap_or_default();
        let is_required = required.split([',', ' ']).any(|part| part == "python-clients");
        assert!(!is_required, "STACK_TESTS_REQUIRE names python-clients: set STACK_TESTS_PYTHON");
        // Past what captures the output of tests that pass.
        let _ = writeln!(std::io::stderr(), "SKIPPED {client}_package: STACK_TESTS_PYTHON is not set");
        return;
    };
    let here = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
    let dir = tempfile::TempDir::new().unwrap();
    let ms = std::time::Duration::from_millis(1);
    let server = Server::bind(Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        seed: ["qwen3:8b", "nomic-embed-text"].map(str::to_owned).to_vec(),
        timing: Timing { time_to_first_token: ms, time_per_output_token: ms, load: ms },
        scenarios: Some(here.join("scenarios.toml")),
        ..Options::new(dir.path().join("models"))
    });
    let server = server.await.unwrap();
    let url = format!("http://{}", server.address());
    let running = tokio::spawn(server.run(std::future::pending()));
    let checked = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(python);
        // Whoever runs this may be behind a proxy; loopback is not.
        command.args([here.join("check.py").as_os_str(), client.as_ref(), url.as_ref()]).env("NO_PROXY", "*");
        command.output().unwrap()
    });
    let Output { status, stderr, .. } = checked.await.unwrap();
    running.abort();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}
