//! How the engine is addressed, and the connections to it.
//!
//! A connection to the engine is driven by whoever reads from it: the task that serves a client polls both of its
//! sides. So a request costs no switch between tasks or threads, and dropping an answer closes the connection, which
//! is how the engine learns that nobody waits for it any more. A connection whose answer is complete waits for the
//! next request in the pool.
//!
//! Invariant: the engine is told that it is `localhost`, whatever its address and whatever the client calls it (bound
//! to loopback, Ollama answers 403 to any other `Host`); and a request is sent again only if none of it was sent.

use std::{
    error::Error,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{Builder, Connection, SendRequest},
    header::HeaderValue,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

/// The engine is on this machine or one switch away: longer means that it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a busy hour opened is closed in a quiet one.
const IDLE: Duration = Duration::from_secs(90);

/// What is read from the engine at a time. Tokens are small; a thousand streams hold a thousand of these.
const READ_BYTES: usize = 4 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("cannot speak with it")]
    Http(#[source] hyper::Error),
}

/// The engine, and the connections to it that are not in use. Requests have bodies of type `B`.
pub(crate) struct Upstream<B: Body + 'static> {
    address: SocketAddr,
    host: HeaderValue,
    /// The one used last is used next, so that those too many grow old.
    idle: Mutex<Vec<(Instant, Box<Link<B>>)>>,
    opened: AtomicU64,
}

/// One connection. It does nothing unless it is polled. It is large, and handed on many times: boxed.
struct Link<B: Body + 'static> {
    sender: SendRequest<B>,
    connection: Connection<TokioIo<TcpStream>, B>,
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    pub(crate) fn at(address: SocketAddr) -> Arc<Self> {
        let host = HeaderValue::try_from(format!("localhost:{}", address.port()));
        Arc::new(Upstream {
            address,
            host: host.unwrap_or(HeaderValue::from_static("localhost")),
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
        })
    }

    /// The value of `Host`.
    pub(crate) fn host(&self) -> HeaderValue {
        self.host.clone()
    }

    /// Connections that were opened so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Closes connections that were not used for a while.
    pub(crate) fn forget_idle(&self) {
        self.pool().retain(|(since, _)| since.elapsed() < IDLE);
    }

    /// Sends `request`, whose URI is a path. The answer's body is still under way when this returns.
    pub(crate) async fn send(self: &Arc<Self>, mut request: Request<B>) -> Result<Response<Answer<B>>, NoAnswer> {
        loop {
            let mut link = match self.take_idle() {
                Some(link) => link,
                None => self.connect().await?,
            };
            let mut sending = pin!(link.sender.try_send_request(request));
            let mut is_over = false;
            let sent = poll_fn(|cx| {
                is_over = is_over || Pin::new(&mut link.connection).poll(cx).is_ready();
                sending.as_mut().poll(cx)
            })
            .await;
            match sent {
                Ok(response) => {
                    let link = (!is_over).then_some(link);
                    let upstream = Arc::clone(self);
                    return Ok(response.map(|body| Answer { body, link, is_complete: false, upstream }));
                }
                // An idle connection that the engine had closed: nothing was sent.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(NoAnswer::Http(failed.into_error())),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Box<Link<B>>, NoAnswer> {
        let stream = match time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await {
            Ok(stream) => stream.map_err(NoAnswer::Connect)?,
            Err(_) => return Err(NoAnswer::Connect(io::ErrorKind::TimedOut.into())),
        };
        stream.set_nodelay(true).map_err(NoAnswer::Connect)?;
        let handshake = Builder::new().read_buf_exact_size(Some(READ_BYTES)).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(NoAnswer::Http)?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Link { sender, connection }))
    }

    fn take_idle(&self) -> Option<Box<Link<B>>> {
        loop {
            // Not as the loop's condition: the pool would stay locked while a closed connection is dropped.
            let (_, mut link) = self.pool().pop()?;
            if link.is_idle() {
                return Some(link);
            }
        }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Box<Link<B>>)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Link<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    /// Lets the connection see what has happened meanwhile; true if it is open and has nothing to do.
    fn is_idle(&mut self) -> bool {
        let nobody_waits = &mut Context::from_waker(Waker::noop());
        Pin::new(&mut self.connection).poll(nobody_waits).is_pending() && self.sender.is_ready()
    }
}

/// The body of the engine's answer.
pub(crate) struct Answer<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    body: Incoming,
    /// None once the engine has closed it.
    link: Option<Box<Link<B>>>,
    is_complete: bool,
    upstream: Arc<Upstream<B>>,
}

impl<B> Body for Answer<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // What goes wrong with the connection, the body says.
        if let Some(link) = &mut self.link
            && Pin::new(&mut link.connection).poll(cx).is_ready()
        {
            self.link = None;
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.is_complete |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answer<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        // A body of known length, or none, is not asked for the `None` after its last frame.
        if (self.is_complete || self.body.is_end_stream())
            && let Some(mut link) = self.link.take()
            && link.is_idle()
        {
            self.upstream.pool().push((Instant::now(), link));
        }
    }
}
