//! One request and its answer, over one connection.
//!
//! Both ways go on at once: an engine may answer before it has read the whole request, and may wait with reading until
//! somebody reads what it says.

use std::{
    mem,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::{
    Method,
    body::{Body, SizeHint},
};

use super::{
    Fault,
    framing::Framing,
    head::Head,
    link::Link,
    request::{Halt, Outgoing},
};

/// A request that is not answered yet.
pub(super) struct Exchange<B> {
    link: Link,
    /// None once no more of the request is to be sent.
    sending: Option<Outgoing<B>>,
    /// The engine takes no more of the request.
    is_stuck: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Exchange<B> {
    pub(super) fn new(link: Link, request: Outgoing<B>) -> Self {
        Exchange { link, sending: Some(request), is_stuck: false }
    }

    /// Sends, until the head of the answer to a request of the method `asked` has come.
    pub(super) fn poll_head(&mut self, asked: &Method, cx: &mut Context<'_>) -> Poll<Result<Head, Fault>> {
        self.send(cx)?;
        loop {
            if let Some(head) = Head::take(&mut self.link.unread, asked)? {
                return Poll::Ready(Ok(head));
            }
            if ready!(self.link.poll_fill(cx)).map_err(Fault::Broken)? == 0 {
                return Poll::Ready(Err(Fault::Closed));
            }
        }
    }

    /// Sends what can be sent of the request now.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if let Some(sending) = &mut self.sending
            && !self.is_stuck
            && let Poll::Ready(sent) = sending.poll(&mut self.link.socket, cx)
        {
            match sent {
                Ok(()) => self.sending = None,
                // It may have answered before it closed: what it said can still be read.
                Err(Halt::Engine) if sending.is_begun() => self.is_stuck = true,
                Err(Halt::Engine) => return Err(Fault::Closed),
                Err(Halt::Body) => {
                    // What is left of it is no request: nobody is to send it again.
                    self.sending = None;
                    return Err(Fault::Request);
                }
            }
        }
        Ok(())
    }

    /// The request, if it is whole and the engine cannot know of it.
    pub(super) fn into_unsent(self) -> Option<Outgoing<B>> {
        self.sending.filter(|sending| !sending.is_begun())
    }
}

/// A request that is being answered.
pub(super) struct Answering<B> {
    exchange: Exchange<B>,
    framing: Framing,
    /// The connection is of no use after it.
    is_last: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Answering<B> {
    pub(super) fn new(exchange: Exchange<B>, head: &Head) -> Self {
        Answering { exchange, framing: head.framing, is_last: head.is_last }
    }

    /// The next piece of the answer's body; none at its end.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        self.exchange.send(cx)?;
        let link = &mut self.exchange.link;
        loop {
            if let Some(piece) = self.framing.take(&mut link.unread)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.framing.is_over() {
                return Poll::Ready(Ok(None));
            }
            if ready!(link.poll_fill(cx)).map_err(Fault::Broken)? == 0 {
                return Poll::Ready(match mem::replace(&mut self.framing, Framing::Length(0)) {
                    Framing::UntilClosed => Ok(None),
                    _ => Err(Fault::Closed),
                });
            }
        }
    }

    /// All of the answer has come.
    pub(super) fn is_over(&self) -> bool {
        self.framing.is_over()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left),
            Framing::Chunked(_) | Framing::UntilClosed => SizeHint::default(),
        }
    }

    /// The connection, if another request may follow on it.
    pub(super) fn into_link(self) -> Option<Link> {
        let Exchange { link, sending, .. } = self.exchange;
        let is_free = self.framing.is_over() && !self.is_last && sending.is_none() && link.unread.is_empty();
        is_free.then(|| Link { unread: BytesMut::new(), ..link })
    }
}
