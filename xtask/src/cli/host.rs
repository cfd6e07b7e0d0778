//! What runs on the host: these arguments are written by `stack`, never by people.

use std::path::PathBuf;

use clap::Subcommand;
use stack::{component::Component, settings::value};

#[derive(Debug, Subcommand)]
pub(crate) enum HostVerb {
    /// Keep the current release running
    Supervise {
        #[arg(long)]
        root: PathBuf,
        #[arg(long)]
        expected: Option<String>,
        #[arg(long)]
        stay: bool,
    },
    /// Answer a client over a connection
    Serve {
        #[arg(long)]
        root: PathBuf,
        #[arg(long)]
        nonce: String,
    },
    /// Carry out a job
    Job {
        id: String,
        #[arg(long)]
        root: PathBuf,
    },
    /// Become a component
    Run {
        component: Component,
        #[arg(long)]
        root: PathBuf,
        #[arg(long)]
        release: String,
        #[arg(long)]
        asked_restarts: u64,
    },
    /// The stand-in engine; Ollama's own variables say where and how it serves
    Engine {
        #[arg(long, env = "OLLAMA_HOST")]
        listen: std::net::SocketAddr,
        #[arg(long, env = "OLLAMA_MODELS")]
        models: PathBuf,
        #[arg(long, env = "OLLAMA_KEEP_ALIVE", value_parser = value::keep_alive)]
        keep_alive: KeepAlive,
        #[arg(long, env = "OLLAMA_NUM_PARALLEL")]
        num_parallel: u32,
        #[arg(long, env = "OLLAMA_MAX_LOADED_MODELS")]
        max_loaded_models: u32,
        #[arg(long, env = "OLLAMA_CONTEXT_LENGTH")]
        context_length: u32,
        #[arg(long, env = "OLLAMA_MAX_QUEUE")]
        max_queue: u32,
        #[arg(long, default_value_t = 0)]
        memory_bytes: u64,
        #[arg(long)]
        seed: Vec<String>,
        #[arg(long)]
        time_to_first_token_ms: u64,
        #[arg(long)]
        time_per_output_token_ms: u64,
        #[arg(long)]
        load_ms: u64,
        #[arg(long)]
        scenarios: Option<PathBuf>,
    },
    /// The gateway
    Gateway {
        #[arg(long)]
        listen: std::net::SocketAddr,
        #[arg(long)]
        upstream: std::net::SocketAddr,
        #[arg(long)]
        keys: Option<PathBuf>,
        #[arg(long)]
        keys_on_loopback: bool,
        #[arg(long, default_value_t)]
        slots: usize,
        #[arg(long, default_value_t)]
        queue: usize,
        #[arg(long)]
        ask_for_usage: bool,
        #[arg(long)]
        refuse_truncation: bool,
        #[arg(long)]
        warm: Vec<String>,
    },
    /// In a container: tell what a volume holds, as a tar stream
    Source {
        name: String,
        folder: PathBuf,
        #[arg(long)]
        url: Option<String>,
        #[arg(long)]
        entries: bool,
    },
    /// In a container: restore a source to a volume, and tell how far it is
    Restore {
        id: String,
        #[arg(long)]
        repository: PathBuf,
        #[arg(long)]
        source: String,
        #[arg(long)]
        path: Option<String>,
        #[arg(long)]
        to: PathBuf,
    },
    /// Ask whether a URL answers: the health check of a container that has nothing but this program
    Probe { url: String },
}

/// An alias, because clap reads a plain `Option` as "may be missing".
pub(super) type KeepAlive = std::option::Option<std::time::Duration>;
