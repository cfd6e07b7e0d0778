//! Accepts connections, and lets go of them in order.
//!
//! Invariant: no connection outlives [`Server::run`], and one with a response under way is cut only when the drain's
//! deadline has passed.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time,
};

use crate::{
    Error, Options,
    door::Door,
    key::Ring,
    metrics::Metrics,
    poll,
    proxy::{Proxy, Wishes},
    queue::Queues,
    reply::{self, Protocol, ReplyBody},
    upstream::Upstream,
    warm::Warm,
};

/// How long streams under way may take to finish once the gateway is told to stop.
pub const DRAIN: Duration = Duration::from_secs(30);

/// How long a connection may sit between requests, or take to send a request's head. Longer than the 60 s for which
/// nginx keeps an idle connection: it is the edge that closes, so that no request of its meets a closed connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);

/// The longest head of a request, and what is read at a time of its body.
const READ_BYTES: usize = 64 * 1024;

/// How often the number of those who wait is looked at, and connections that nobody uses are closed.
const LOOK: Duration = Duration::from_millis(500);

/// The pause after a failed `accept`, which fails again at once for as long as file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A gateway that is bound and not yet serving: [`crate::serve`] for those who have a runtime.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: Options,
}

impl Server {
    /// Takes the address. From here on clients can connect, though nobody answers before [`Server::run`].
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let failed = |source| Error::Bind { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Server { listener, address, options })
    }

    /// Where it listens; the real port if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes. Then it takes no more connections, closes idle ones, gives those with a
    /// request under way [`DRAIN`] to finish it, and cuts the rest.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        log::info!("gateway listens on {}, engine at {}", self.address, self.options.upstream);
        let mut background = JoinSet::new();
        let proxy = Arc::new(proxy(&self.options, &mut background));
        let mut connections = JoinSet::new();
        let (running, stopped) = watch::channel(());
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(connection(stream, peer.ip(), Arc::clone(&proxy), stopped.clone()));
                    }
                    Err(error) => {
                        log::warn!("cannot accept a connection: {error}");
                        time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(self.listener);
        drop(running);
        drain(connections).await;
    }
}

/// The way to the engine, and what goes on beside it for as long as `background` is held.
fn proxy(options: &Options, background: &mut JoinSet<Infallible>) -> Proxy {
    let metrics = Arc::new(Metrics::new());
    background.spawn(poll::run(
        options.upstream,
        Arc::clone(&metrics),
        Warm::new(options.upstream, options.warm.clone()),
    ));
    let keys = options.keys.clone().map(|path| Arc::new(Ring::new(path)));
    if let Some(keys) = keys.clone() {
        background.spawn(async move { keys.follow().await });
    }
    let proxy = Proxy {
        upstream: Upstream::at(options.upstream),
        metrics,
        door: Door { keys, keys_on_loopback: options.keys_on_loopback },
        queues: (options.slots > 0).then(|| Arc::new(Queues::new(options.slots, options.queue))),
        wishes: Wishes { usage: options.ask_for_usage, no_truncation: options.refuse_truncation },
    };
    let (upstream, metrics, queues) = (Arc::clone(&proxy.upstream), Arc::clone(&proxy.metrics), proxy.queues.clone());
    background.spawn(async move {
        let mut ticks = time::interval(LOOK);
        loop {
            ticks.tick().await;
            upstream.forget_idle();
            metrics.waiting.set(queues.as_ref().map_or(0, |queues| queues.waiting()).cast_signed() as i64);
        }
    });
    proxy
}

/// Waits for connections to end; what is left at the deadline is cut by dropping it.
async fn drain(mut connections: JoinSet<()>) {
    log::info!("gateway stops; open connections: {}", connections.len());
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if time::timeout(DRAIN, all_ended).await.is_err() {
        log::warn!("gateway cuts connections still open after {} s: {}", DRAIN.as_secs(), connections.len());
    }
}

/// Serves one connection until either side closes it, or until it has no request under way once `stopped` says so,
/// by its sender being gone.
async fn connection(stream: TcpStream, peer: IpAddr, proxy: Arc<Proxy>, mut stopped: watch::Receiver<()>) {
    // Tokens are small and each is awaited: Nagle's algorithm would hold them back.
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("cannot set TCP_NODELAY: {error}");
    }
    let service = service_fn(|request| answer(&proxy, request, peer));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(READ_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        // By the order they stand in: a coin for each token is thrown for nothing.
        biased;
        ended = &mut connection => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that left, an idle connection past its time, a head that is no HTTP: none is the gateway's fault.
        log::debug!("connection ended: {error}");
    }
}

/// Two paths are the gateway's own; everything else is the engine's.
async fn answer(proxy: &Proxy, request: Request<Incoming>, peer: IpAddr) -> Result<Response<ReplyBody>, Infallible> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        "/metrics" if read => match proxy.door.shows(request.headers(), peer) {
            Ok(()) => reply::metrics(&proxy.metrics),
            Err(refusal) => reply::unknown(refusal, Protocol::Ollama),
        },
        "/healthz" if read => reply::healthy(),
        "/metrics" | "/healthz" => reply::read_only(),
        _ => proxy.forward(request, peer).await,
    })
}
