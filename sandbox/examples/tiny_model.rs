//! Writes two tiny models of random weights, for comparing the stand-in with a real Ollama:
//! `cargo run -p sandbox --example tiny_model -- FOLDER`. What to do with them stands in `docs/sandbox-engine.md`.

#![allow(clippy::print_stderr, reason = "an example talks to whoever started it")]

use std::path::PathBuf;

use sandbox::{Tiny, tiny_model};

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: tiny_model FOLDER");
        std::process::exit(2);
    };
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("writer.gguf"), tiny_model(Tiny::Writer))?;
    std::fs::write(folder.join("embedder.gguf"), tiny_model(Tiny::Embedder))
}
