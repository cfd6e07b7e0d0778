//! The stand-in engine: Ollama's API over synthetic text, for a laptop, CI and a first look.
//!
//! It exists so that everything around an engine — gateway, deploy, verify, bench, backup — runs in earnest where no
//! model could. So what others rely on is real: the wire format, the status codes, the model store with its digests,
//! loading and expiry, slots and queues, and a declared pace that measurements can be checked against. Only the
//! thinking is missing, and every answer says so. What else is left out, and what was compared with the real engine,
//! stands in `docs/sandbox-engine.md`.
//!
//! Invariant: nothing leaves this machine, nothing is written outside the store, and the same model name gives the same
//! bytes on every machine.

mod generation;
use wire::gguf;
mod name;
mod random;
mod registry;
mod residency;
mod routes;
mod scenario;
mod schema;
mod script;
mod shape;
mod store;
mod text;
mod timing;
mod tiny;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use wire::ollama::KeepAlive;

use crate::name::Name;
use crate::residency::{Limits, Residency};
pub use crate::scenario::{ScenarioError, Scenarios};
use crate::store::Store;
pub use crate::store::StoreError;
pub use crate::timing::Timing;
pub use crate::tiny::{Tiny, tiny_model};

/// The model that the sandbox has unless told otherwise; the same that the stack deploys.
pub const DEFAULT_MODEL: &str = "qwen2.5-coder:32b-instruct-q8_0";

/// How long requests in flight may take to finish once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Models in memory when [`Options::max_loaded_models`] leaves it open: Ollama's three for one GPU.
const DEFAULT_LOADED_MODELS: u32 = 3;

/// Waiting requests when [`Options::max_queue`] leaves it open: Ollama's.
const DEFAULT_QUEUE: u32 = 512;

/// Context when [`Options::context_length`] leaves it open: Ollama's for a GPU of 23 GiB and more.
const DEFAULT_CONTEXT_LENGTH: u32 = 32_768;

/// How the stand-in is to run. The names are those of Ollama's environment variables where it has them.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The store's root: the directory that holds `manifests/` and `blobs/`. Made if it is not there.
    pub models: PathBuf,
    /// Models that the store holds from the start.
    pub seed: Vec<String>,
    /// The pace of loading and answering.
    pub timing: Timing,
    /// How long a model stays in memory after its last request, unless a request says otherwise; `None` is forever.
    pub keep_alive: Option<Duration>,
    /// Requests that one model answers at a time; 0 counts as 1.
    pub num_parallel: u32,
    /// Models in memory at a time; 0 leaves it to the engine, which takes 3.
    pub max_loaded_models: u32,
    /// Tokens of context, unless a request says otherwise; 0 leaves it to the engine, which takes 32768. A model never
    /// gets more than it was trained for.
    pub context_length: u32,
    /// Requests that may wait for a model to come into memory; more are refused with 503. 0 leaves it to the engine,
    /// which takes 512.
    pub max_queue: u32,
    /// Bytes of memory for models; 0 is no limit. Who is idle longest makes room.
    pub memory_bytes: u64,
    /// Leave blobs in the store that no model uses.
    pub noprune: bool,
    /// A TOML file of scenarios: what to answer to what, and what goes wrong.
    pub scenarios: Option<PathBuf>,
    /// What `/api/version` answers.
    pub version: String,
}

impl Options {
    /// Ollama's defaults, with the default model seeded.
    pub fn new(models: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 11434)),
            models,
            seed: vec![DEFAULT_MODEL.to_owned()],
            timing: Timing::default(),
            keep_alive: Some(Duration::from_secs(5 * 60)),
            num_parallel: 1,
            max_loaded_models: 0,
            context_length: 0,
            max_queue: 0,
            memory_bytes: 0,
            noprune: false,
            scenarios: None,
            version: "0.33.0-sandbox".to_owned(),
        }
    }
}

/// Why the stand-in could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A seed is no model name.
    #[error("{0:?} is not a model name")]
    Name(String),
    /// A seed could not be put into the store.
    #[error("cannot seed {model}")]
    Seed {
        /// The model.
        model: String,
        /// What the store answered.
        source: StoreError,
    },
    /// The scenarios could not be had.
    #[error("cannot play the scenarios")]
    Scenario(#[source] ScenarioError),
    /// The store could not be opened.
    #[error("cannot open the model store")]
    Store(#[source] StoreError),
    /// The address is taken, not this machine's, or not for everyone.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// No runtime, no signals, or no more connections.
    #[error("cannot serve")]
    Serve(#[source] io::Error),
}

impl Error {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                Some(format!("see who listens there: lsof -nP -iTCP:{} -sTCP:LISTEN", address.port()))
            }
            Self::Seed { source: StoreError::UnknownModel, .. } => Some(
                "the sandbox knows the names of Ollama's own library only, and none that starts with no-such"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// What the routes share.
struct Engine {
    options: Options,
    scenarios: Scenarios,
    store: Store,
    house: Arc<Residency>,
}

/// A stand-in that has its address and its models, and waits to run.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    engine: Arc<Engine>,
}

impl Server {
    /// Opens the store, seeds it, and takes the address. From here on clients can connect; they are answered by
    /// [`Server::run`].
    ///
    /// # Errors
    ///
    /// A seed that is no name, a store that cannot be written, an address that cannot be had.
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let scenarios = options.scenarios.as_deref().map(Scenarios::read).transpose().map_err(Error::Scenario)?;
        let scenarios = scenarios.unwrap_or_default();
        let store = Store::open(&options.models, scenarios.pull.clone()).map_err(Error::Store)?;
        if !options.noprune {
            store.prune().map_err(Error::Store)?;
        }
        for model in &options.seed {
            let name = Name::parse(model).ok_or_else(|| Error::Name(model.clone()))?;
            store.seed(&name).map_err(|source| Error::Seed { model: model.clone(), source })?;
        }
        let listen = |source| Error::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let house = Residency::new(Limits {
            capacity: or_default(options.max_loaded_models, DEFAULT_LOADED_MODELS) as usize,
            memory_bytes: if options.memory_bytes == 0 { u64::MAX } else { options.memory_bytes },
            slots: options.num_parallel.max(1) as usize,
            queue: or_default(options.max_queue, DEFAULT_QUEUE) as usize,
            keep_alive: options.keep_alive.map_or(KeepAlive::Forever, KeepAlive::For),
        });
        Ok(Self { listener, address, engine: Arc::new(Engine { options, scenarios, store, house }) })
    }

    /// Where it listens; the port is the real one even if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `stop` completes, then accepts no more and lets those in flight finish, for ten seconds
    /// at most. Those that have not finished then end with the runtime.
    ///
    /// # Errors
    ///
    /// If the listener fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        let (stopping, stopped) = oneshot::channel();
        let stop = async move {
            stop.await;
            log::info!("stopping: requests in flight have {} s", DRAIN.as_secs());
            // Nobody listens any more only if serving has ended by itself.
            let _ = stopping.send(());
        };
        let overdue = async move {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(DRAIN).await;
        };
        log::info!("listening on {}", self.address);
        // Tokens are small and must not wait for each other in the kernel.
        let listener = self.listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                log::debug!("tokens may be late: {error}");
            }
        });
        let routes = routes::router(self.engine, self.address);
        let serving = axum::serve(listener, routes).with_graceful_shutdown(stop);
        tokio::select! {
            result = serving => result.map_err(Error::Serve),
            () = overdue => {
                log::warn!("requests were still in flight after {} s", DRAIN.as_secs());
                Ok(())
            }
        }
    }
}

/// Serves until SIGTERM or SIGINT, on a runtime of its own: the caller's thread blocks. See [`Server::run`] for how
/// it ends.
///
/// # Errors
///
/// As [`Server::bind`] and [`Server::run`], or if the system gives no threads or signals.
pub fn serve(options: Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Serve)?;
    let result = runtime.block_on(async {
        // Before the address is taken: who can connect can also stop us.
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Serve)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Serve)?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Server::bind(options).await?.run(stop).await
    });
    // What is still in flight had its time.
    runtime.shutdown_background();
    result
}

/// Zero leaves the choice to the engine.
fn or_default(given: u32, default: u32) -> u32 {
    if given == 0 { default } else { given }
}
