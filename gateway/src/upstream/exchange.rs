//! One request and its answer, over one connection.
//!
//! Both ways go on at once: an engine may answer before it has read the whole request, and may wait with reading until
//! somebody reads what it says.

use std::{
    mem,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    Method, Response,
    body::{Body, SizeHint},
};

use super::{
    Fault,
    framing::Framing,
    head::Head,
    link::Link,
    request::{Outgoing, Stuck},
};

pub(super) struct Exchange<B> {
    link: Link,
    /// None once all of the request was sent.
    sending: Option<Outgoing<B>>,
    /// The engine takes no more of the request.
    is_stuck: bool,
    /// Of no meaning before the answer's head has come, as the next.
    framing: Framing,
    is_last: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Exchange<B> {
    pub(super) fn new(link: Link, request: Outgoing<B>) -> Self {
        Exchange { link, sending: Some(request), is_stuck: false, framing: Framing::Length(0), is_last: false }
    }

    /// Sends, until the head of the answer to a request of the method `asked` has come.
    pub(super) fn poll_head(&mut self, asked: &Method, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Fault>> {
        self.send(cx)?;
        loop {
            if let Some(head) = Head::take(&mut self.link.unread, asked)? {
                (self.framing, self.is_last) = (head.framing, head.is_last);
                return Poll::Ready(Ok(head.response));
            }
            if ready!(self.link.poll_fill(cx)).map_err(Fault::Broken)? == 0 {
                return Poll::Ready(Err(Fault::Closed));
            }
        }
    }

    /// The next piece of the answer's body; none at its end.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        self.send(cx)?;
        loop {
            if let Some(piece) = self.framing.take(&mut self.link.unread)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.framing.is_over() {
                return Poll::Ready(Ok(None));
            }
            if ready!(self.link.poll_fill(cx)).map_err(Fault::Broken)? == 0 {
                return Poll::Ready(match mem::replace(&mut self.framing, Framing::Length(0)) {
                    Framing::UntilClosed => Ok(None),
                    Framing::Length(_) | Framing::Chunked(_) => Err(Fault::Closed),
                });
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
                Err(Stuck::Write) => self.is_stuck = true,
                Err(Stuck::Body) => return Err(Fault::Request),
            }
        }
        Ok(())
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
        (self.is_over() && !self.is_last && self.sending.is_none()).then_some(self.link)
    }

    /// The request, if the engine cannot know of it.
    pub(super) fn into_unsent(self) -> Option<Outgoing<B>> {
        self.sending.filter(|sending| !sending.is_begun())
    }
}
