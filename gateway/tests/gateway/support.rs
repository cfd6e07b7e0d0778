//! An engine that does as a test says, a gateway before it, and clients.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gateway::{Options, Server};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time,
};

/// No condition takes this long, however busy the machine. Shorter than the gateway's drain.
pub(crate) const DEADLINE: Duration = Duration::from_secs(25);

pub(crate) const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Waits for `future`; fails the test at the deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Asks again and again until `condition` holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    soon(what, async {
        while !condition().await {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn whole(bytes: impl Into<Bytes>) -> AnyBody {
    Full::from(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body whose frames come from elsewhere. The sender learns when nobody wants them any more.
pub(crate) struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

pub(crate) fn chunks() -> (mpsc::Sender<io::Result<Bytes>>, AnyBody) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Chunks(receiver).boxed_unsync())
}

pub(crate) fn ndjson(body: AnyBody) -> Response<AnyBody> {
    Response::builder().header(CONTENT_TYPE, "application/x-ndjson").body(body).unwrap()
}

/// An address at which nobody listens, and that is nobody else's for as long as the socket is held.
pub(crate) fn hold_address() -> (TcpSocket, SocketAddr) {
    let held = bound(ANYWHERE);
    let address = held.local_addr().unwrap();
    (held, address)
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// An engine with the model `m:1` that answers `/api/tags` itself and leaves the rest to `handler`. Ends when dropped.
pub(crate) struct Engine {
    pub(crate) address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Engine {
    pub(crate) async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<AnyBody>> + Send + 'static,
    {
        Engine::start_at(ANYWHERE, handler).await
    }

    /// An engine at an address from [`hold_address`].
    pub(crate) async fn start_at<H, F>(address: SocketAddr, handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<AnyBody>> + Send + 'static,
    {
        let listener = bound(address).listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let handler = Arc::new(handler);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let handler = Arc::clone(&handler);
                connections.spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        let handler = Arc::clone(&handler);
                        async move {
                            Ok::<_, Infallible>(match request.uri().path() {
                                "/api/tags" => Response::new(whole(r#"{"models":[{"name":"m:1"}]}"#)),
                                "/api/ps" => Response::new(whole(r#"{"models":[]}"#)),
                                _ => handler(request).await,
                            })
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Engine { address, serving }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A gateway that runs in the test's runtime.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    /// The address of an engine that is not there.
    _held: Option<TcpSocket>,
}

impl Gateway {
    /// A gateway that knows the engine's models.
    pub(crate) async fn before(engine: &Engine) -> Self {
        let gateway = Gateway::at(engine.address).await;
        until("the engine is up", || async { gateway.value("ollama_up").await == Some(1.0) }).await;
        gateway
    }

    /// A gateway whose engine is not there.
    pub(crate) async fn alone() -> Self {
        let (held, address) = hold_address();
        Gateway { _held: Some(held), ..Gateway::at(address).await }
    }

    async fn at(upstream: SocketAddr) -> Self {
        Gateway::with(Options::new(ANYWHERE, upstream)).await
    }

    /// A gateway with other options; it may not know the engine's models yet.
    pub(crate) async fn with(options: Options) -> Self {
        let server = Server::bind(options).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.run(async { drop(stopped.await) }));
        Gateway { address, stop, serving, _held: None }
    }

    /// Tells it to stop. What it returns ends with it.
    pub(crate) fn stop(self) -> JoinHandle<()> {
        self.stop.send(()).unwrap();
        self.serving
    }

    pub(crate) async fn send(&self, request: Request<AnyBody>) -> Response<Incoming> {
        let (mut head, body) = request.into_parts();
        head.uri = format!("http://{}{}", self.address, head.uri).parse().unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        soon("a response", client.request(Request::from_parts(head, body))).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> (StatusCode, String) {
        let response = self.send(Request::post(path).body(whole(body.to_owned())).unwrap()).await;
        (response.status(), text(response).await)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.send(Request::get(path).body(whole("")).unwrap()).await;
        (response.status(), text(response).await)
    }

    /// The value of one series.
    pub(crate) async fn value(&self, series: &str) -> Option<f64> {
        let (_, metrics) = self.get("/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    /// Every series of `ollama_requests_total` that is not 0, without the name.
    pub(crate) async fn counted(&self) -> Vec<String> {
        let (_, metrics) = self.get("/metrics").await;
        let counted = metrics.lines().filter_map(|line| line.strip_prefix("ollama_requests_total"));
        let mut counted: Vec<String> = counted.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect();
        counted.sort_unstable();
        counted
    }

    /// Once nothing is in flight, `ollama_requests_total` is exactly as given.
    pub(crate) async fn counts(&self, expected: &[&str]) {
        let matches =
            async || self.value("ollama_requests_in_flight").await == Some(0.0) && self.counted().await == expected;
        let waited = time::timeout(DEADLINE, async {
            while !matches().await {
                time::sleep(Duration::from_millis(5)).await;
            }
        });
        if waited.await.is_err() {
            assert_eq!(self.counted().await, expected);
            panic!("something is still in flight");
        }
    }
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = soon("the whole body", response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The next frame's bytes; none at the end.
pub(crate) async fn next(body: &mut Incoming) -> Option<Bytes> {
    Some(soon("a frame", body.frame()).await?.unwrap().into_data().unwrap())
}

/// A client that writes and reads bytes.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(gateway: &Gateway) -> Self {
        Raw { stream: TcpStream::connect(gateway.address).await.unwrap(), read: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon("a write", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads on until what was read ends in `end`, and gives what was read since the last time.
    pub(crate) async fn read_until(&mut self, end: &str) -> String {
        while !self.read.ends_with(end.as_bytes()) {
            let count = soon(end, self.stream.read_buf(&mut self.read)).await.unwrap();
            assert!(count > 0, "closed after {:?}, before {end:?}", String::from_utf8_lossy(&self.read));
        }
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    /// Reads until the gateway closes the connection.
    pub(crate) async fn read_to_end(&mut self) -> String {
        soon("the end", self.stream.read_to_end(&mut self.read)).await.unwrap();
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }
}
