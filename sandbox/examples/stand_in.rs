//! The stand-in alone, for trying a client on it: `cargo run -p sandbox --example stand_in -- STORE [SCENARIOS]`.
//! It listens where `OLLAMA_HOST` says (default 127.0.0.1:11434).

#![allow(clippy::print_stderr, reason = "an example talks to whoever started it")]

use std::path::PathBuf;

use sandbox::{Options, serve};

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(models) = arguments.next() else {
        eprintln!("usage: stand_in STORE [SCENARIOS]");
        std::process::exit(2);
    };
    let mut options = Options { scenarios: arguments.next(), ..Options::new(models) };
    if let Some(listen) = std::env::var("OLLAMA_HOST").ok().and_then(|host| host.parse().ok()) {
        options.listen = listen;
    }
    if let Err(error) = serve(options) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}
