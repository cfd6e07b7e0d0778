//! Asks an endpoint and stamps what comes, as close to the socket as a program can.
//!
//! The stamp is taken when a read returns, below HTTP: chunked coding, JSON and waiting for a turn come after it. A
//! connection and whoever reads from it are one task, so nothing is read on before a chunk was handed over.
//!
//! Invariant: a request is written once. Only one that a kept connection could not begin to write goes to another.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{endpoint::Endpoint, stream::Reader};

/// The endpoint is on this machine or one switch away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of a refusal is read: it is a sentence.
const REFUSAL_BYTES: usize = 64 * 1024;

/// How long nothing may come.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Before the first byte of an answer: a model may have to be loaded, and others may be before us.
    pub first: Duration,
    /// Between two reads of one answer.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { first: Duration::from_secs(600), stall: Duration::from_secs(120) }
    }
}

/// When what happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// Just before the request was written.
    pub(super) at: Instant,
}

/// One endpoint and the connections to it that are idle.
pub(super) struct Client {
    endpoint: Endpoint,
    patience: Patience,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, patience: Patience) -> Self {
        Client { endpoint, patience, idle: Mutex::default() }
    }

    /// Opens connections ahead of the measurement, which is not one of a handshake.
    pub(super) async fn warm(&self, connections: usize) {
        for _ in 0..connections {
            match self.connect().await {
                Ok(connection) => self.keep(connection),
                // Whoever asks first will say what is wrong.
                Err(_) => return,
            }
        }
    }

    /// Asks, and has `reader` see the answer. `sent` is set when the request is about to be written. The error is what
    /// the transport or a refusal said; what the stream says is the reader's.
    pub(super) async fn ask(
        &self,
        path: &str,
        body: Bytes,
        sent: &mut Option<Sent>,
        reader: &mut Reader,
    ) -> Result<(), String> {
        let (mut connection, response) = self.send(path, body, sent).await?;
        let begun = sent.map_or_else(Instant::now, |sent| sent.at);
        let status = response.status();
        let mut incoming = response.into_body();
        if status != StatusCode::OK {
            return Err(self.refusal(status, &mut connection, incoming).await);
        }
        loop {
            let frame = timeout(self.patience.stall, connection.drive(incoming.frame())).await;
            let frame = frame.map_err(|_| format!("nothing came for {} s", self.patience.stall.as_secs_f64()))?;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        reader.feed(connection.last_read().saturating_duration_since(begun), &bytes);
                    }
                }
                Some(Err(error)) => return Err(format!("the connection ended in the middle: {}", chain(&error))),
                None => break,
            }
        }
        self.keep(connection);
        Ok(())
    }

    async fn send(
        &self,
        path: &str,
        body: Bytes,
        sent: &mut Option<Sent>,
    ) -> Result<(Connection, Response<Incoming>), String> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            if !connection.is_open().await {
                if is_kept {
                    continue;
                }
                return Err("the connection was closed before the request".to_owned());
            }
            let request = self.request(path, body.clone())?;
            *sent = Some(Sent { at: Instant::now() });
            let asked = timeout(self.patience.first, connection.send(request)).await;
            match asked {
                Ok(Ok(response)) => return Ok((connection, response)),
                Ok(Err(error)) if is_kept && error.is_canceled() => {}
                Ok(Err(error)) => return Err(format!("no answer: {}", chain(&error))),
                Err(_) => return Err(format!("no answer within {} s", self.patience.first.as_secs_f64())),
            }
        }
    }

    fn request(&self, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::post(path)
            .header(header::HOST, self.endpoint.authority())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = self.endpoint.key() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        request.body(Full::new(body)).map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<Connection, String> {
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.endpoint.authority())).await;
        let stream = connecting
            .map_err(|_| format!("cannot connect within {} s", CONNECT_TIMEOUT.as_secs()))?
            .map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let clock = Arc::new(Clock { base: Instant::now(), last: AtomicU64::new(0) });
        let stamped = Stamped { stream, clock: Arc::clone(&clock) };
        let (sender, driver) =
            http1::handshake(TokioIo::new(stamped)).await.map_err(|error| format!("cannot speak HTTP: {error}"))?;
        Ok(Connection { sender, driver: Some(Box::pin(driver)), clock })
    }

    fn keep(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    /// `503: server busy`, in whichever shape the endpoint says it.
    async fn refusal(&self, status: StatusCode, connection: &mut Connection, body: Incoming) -> String {
        let body = http_body_util::Limited::new(body, REFUSAL_BYTES).collect();
        let said = match timeout(self.patience.stall, connection.drive(body)).await {
            Ok(Ok(body)) => body.to_bytes(),
            _ => Bytes::new(),
        };
        let value: Value = serde_json::from_slice(&said).unwrap_or_default();
        let error = &value["error"];
        let words = error.as_str().or_else(|| error["message"].as_str());
        match words {
            Some(words) => format!("{}: {words}", status.as_u16()),
            None => format!("{}: {}", status.as_u16(), status.canonical_reason().unwrap_or("refused")),
        }
    }
}

/// An error with everything below it.
fn chain(error: &hyper::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}

type Driver = http1::Connection<TokioIo<Stamped>, Full<Bytes>>;

/// A connection, and the work that it needs done to move.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// None once the other side has closed.
    driver: Option<Pin<Box<Driver>>>,
    clock: Arc<Clock>,
}

impl Connection {
    async fn is_open(&mut self) -> bool {
        let Connection { sender, driver, .. } = self;
        drive(driver, sender.ready()).await.is_ok()
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let Connection { sender, driver, .. } = self;
        drive(driver, sender.send_request(request)).await
    }

    async fn drive<T>(&mut self, future: impl Future<Output = T>) -> T {
        drive(&mut self.driver, future).await
    }

    fn last_read(&self) -> Instant {
        self.clock.base + Duration::from_nanos(self.clock.last.load(Ordering::Relaxed))
    }
}

/// Moves a connection until `future`, which waits for it, is done.
async fn drive<T>(driver: &mut Option<Pin<Box<Driver>>>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(done) = future.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(context).is_ready()) {
            *driver = None;
        }
        future.as_mut().poll(context)
    })
    .await
}

/// When the last bytes were read.
struct Clock {
    base: Instant,
    /// In nanoseconds from `base`.
    last: AtomicU64,
}

/// A socket that knows when it was last read from.
struct Stamped {
    stream: TcpStream,
    clock: Arc<Clock>,
}

impl AsyncRead for Stamped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() && buffer.filled().len() > before {
            let now = self.clock.base.elapsed().as_nanos();
            self.clock.last.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
