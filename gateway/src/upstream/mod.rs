//! How the engine is addressed, and the connections to it.
//!
//! This speaks HTTP/1.1 by itself, over hyper's types and httparse: hyper's own client keeps a queue, two buffers and a
//! task's worth of state for each connection, 20 kB that a thousand streams hold for nothing (docs/performance.md). Here a
//! stream that waits holds its socket and what came of the next chunk.
//!
//! A connection to the engine is driven by whoever reads from it: the task that serves a client polls both of its
//! sides. So a request costs no switch between tasks or threads, and dropping an answer closes the connection, which
//! is how the engine learns that nobody waits for it any more. A connection whose answer is complete waits for the
//! next request in the pool.
//!
//! `request` writes, `head` and `framing` read what comes back, `link` is the socket, and `exchange` puts them together.
//!
//! Invariant: the engine is told that it is `localhost`, whatever its address and whatever the client calls it (bound
//! to loopback, Ollama answers 403 to any other `Host`); and a request is sent again only if it is whole and none of it
//! was sent.

mod exchange;
mod framing;
mod head;
mod link;
mod request;

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Frame, SizeHint},
    header::HeaderValue,
};

use exchange::{Answering, Exchange};
use link::Link;
use request::Outgoing;

/// What a busy hour opened is closed in a quiet one.
const IDLE: Duration = Duration::from_secs(90);

/// Why there is no answer, or only a part of one. What went wrong with the request's body, its own error tells.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("it closed the connection before its answer was complete")]
    Closed,
    #[error("its answer is no HTTP")]
    NoHttp(#[from] httparse::Error),
    #[error("its answer has a header that cannot be passed on")]
    Header(#[from] hyper::http::Error),
    #[error("its answer does not say how long it is")]
    Length,
    #[error("its answer has a broken chunk")]
    Chunk,
    #[error("the head of its answer is longer than {} KiB", head::LIMIT_BYTES >> 10)]
    TooLong,
    #[error("it answers with 101, which nobody asked for")]
    Upgrade,
    #[error("the request did not come whole")]
    Request,
}

/// The engine, and the connections to it that are not in use.
pub(crate) struct Upstream {
    address: SocketAddr,
    host: HeaderValue,
    /// The one used last is used next, so that those too many grow old.
    idle: Mutex<Vec<(Instant, Link)>>,
    opened: AtomicU64,
}

impl Upstream {
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
        // Closed when the pool is not locked any more. The oldest stand first.
        let _old: Vec<_> = {
            let mut pool = self.pool();
            let count = pool.partition_point(|(since, _)| since.elapsed() >= IDLE);
            pool.drain(..count).collect()
        };
    }

    /// Sends `request`, whose URI is a path and whose headers are about the message alone; how long its body is, the
    /// body tells. The answer's body is still under way when this returns.
    pub(crate) async fn send<B>(self: &Arc<Self>, request: Request<B>) -> Result<Response<Answer<B>>, Fault>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let asked = request.method().clone();
        let mut outgoing = Outgoing::new(request);
        loop {
            let (link, is_used) = match self.take_idle() {
                Some(link) => (link, true),
                None => (self.connect().await?, false),
            };
            let mut exchange = Exchange::new(link, outgoing);
            match poll_fn(|cx| exchange.poll_head(&asked, cx)).await {
                Ok(head) => {
                    let answering = Some(Answering::new(exchange, &head));
                    let mut answer = Answer { answering, fault: None, upstream: Arc::clone(self) };
                    answer.end_if_over();
                    return Ok(head.response.map(|()| answer));
                }
                Err(fault) => match exchange.into_unsent() {
                    // An idle connection that the engine had closed.
                    Some(unsent) if is_used => outgoing = unsent,
                    _ => return Err(fault),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Link, Fault> {
        let link = Link::connect(self.address).await.map_err(Fault::Connect)?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(link)
    }

    fn take_idle(&self) -> Option<Link> {
        loop {
            // Not as the loop's condition: the pool would stay locked while a closed connection is dropped.
            let (_, link) = self.pool().pop()?;
            if link.is_idle() {
                return Some(link);
            }
        }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Link)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of the engine's answer.
pub(crate) struct Answer<B: Body<Data = Bytes> + Unpin> {
    /// None once all of it has come, or no more will.
    answering: Option<Answering<B>>,
    /// What is still to be said after the last byte that came.
    fault: Option<Fault>,
    upstream: Arc<Upstream>,
}

impl<B: Body<Data = Bytes> + Unpin> Answer<B> {
    /// Lets the next request have the connection, as soon as this one does not need it any more.
    fn end_if_over(&mut self) {
        if let Some(answering) = self.answering.take_if(|answering| answering.is_over())
            && let Some(link) = answering.into_link()
        {
            self.upstream.pool().push((Instant::now(), link));
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(answering) = &mut self.answering else { return Poll::Ready(self.fault.take().map(Err)) };
        match ready!(answering.poll_data(cx)) {
            Ok(data) => {
                self.end_if_over();
                Poll::Ready(data.map(|data| Ok(Frame::data(data))))
            }
            Err(fault) => {
                (self.answering, self.fault) = (None, Some(fault));
                // The server drops what it has not written when a body fails. If it has to wait, it writes what it can.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.answering.is_none() && self.fault.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.answering.as_ref().map_or_else(SizeHint::default, Answering::size_hint)
    }
}
