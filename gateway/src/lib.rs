//! The metering gateway: every request to the engine passes through it, and is counted.
//!
//! Ollama exports no metrics, so what its users feel (how long, how often, how often in vain) can only be measured
//! from the outside. This stands in front of it on loopback, forwards everything as it comes and writes down what it
//! saw. It also does what Ollama cannot: it asks for API keys, and has clients take turns.
//!
//! A request's way: [`server`] accepts the connection, `door` sees who it is, `queue` gives it a turn, `proxy` forwards
//! the request between two `body` wrappers that look at the bytes in passing, `upstream` has the connections to the
//! engine, and `meter` writes one line of account into `metrics` when the last byte has gone. `poll` asks the engine
//! every two seconds whether it is there, which models it has, and which are in memory; `warm` has those that are to
//! stay there loaded after its start.
//!
//! `GET /metrics` and `GET /healthz` are the gateway's own, on the same listener, and are not counted. `/healthz` is
//! about the gateway alone; whether the engine answers is `ollama_up`.
//!
//! Invariant: unless settings ask for it, the gateway neither changes, delays nor holds a body. Whatever it learns, it learns in passing; memory
//! per request is bounded, whatever the size of request and response.

mod body;
mod door;
mod endpoint;
mod header;
pub mod key;
mod meter;
mod metrics;
mod model;
mod poll;
mod proxy;
mod queue;
mod reply;
mod semconv;
pub mod server;
mod strip;
mod upstream;
mod warm;

use std::{io, net::SocketAddr, path::PathBuf};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

pub use server::Server;

/// What a gateway needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where to listen. Port 0 lets the system choose, see [`Server::address`].
    pub listen: SocketAddr,
    /// The engine, in plain HTTP. It is told that it is `localhost`, whatever its address.
    pub upstream: SocketAddr,
    /// The file of API keys; none: nobody needs one.
    pub keys: Option<PathBuf>,
    /// The host's own clients need a key as well.
    pub keys_on_loopback: bool,
    /// Requests that the engine is given at a time for each model; 0: all of them, and nobody waits here.
    pub slots: usize,
    /// Requests that may wait for a model, of which one client has at most half.
    pub queue: usize,
    /// Asks for the counters of streams in OpenAI's dialect, and takes them out again where the client did not ask.
    pub ask_for_usage: bool,
    /// Has the engine refuse a prompt that does not fit, in place of cutting it.
    pub refuse_truncation: bool,
    /// Models that are to be in memory from the engine's start on.
    pub warm: Vec<String>,
}

impl Options {
    /// A gateway that lets everything through as it is.
    pub fn new(listen: SocketAddr, upstream: SocketAddr) -> Self {
        Options {
            listen,
            upstream,
            keys: None,
            keys_on_loopback: false,
            slots: 0,
            queue: 0,
            ask_for_usage: false,
            refuse_truncation: false,
            warm: Vec::new(),
        }
    }
}

/// Why a gateway could not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// No threads, or no signals.
    #[error("cannot start the gateway's runtime")]
    Runtime(#[source] io::Error),
}

impl Error {
    /// The next command to run.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                Some(format!("see who holds the port: lsof -nP -iTCP:{} -sTCP:LISTEN", address.port()))
            }
            Error::Bind { .. } | Error::Runtime(_) => None,
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains as [`Server::run`] does and returns.
///
/// Blocks; it brings its own runtime and must not be called from within another one.
pub fn serve(options: Options) -> Result<(), Error> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        // Before the listener: who sees the port open may already send a signal.
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Runtime)?;
        let server = Server::bind(options).await?;
        let stopped = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.run(stopped).await;
        Ok(())
    })
}
