//! A request on its way out.
//!
//! Invariant: no more of the body is asked for before the socket has taken what there is, so that a slow engine holds
//! back its client.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::{
    Method, Request,
    body::Body,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    http::request::Parts,
};
use tokio::io::AsyncWrite;

/// The head of a request seldom takes more.
const HEAD_BYTES: usize = 512;

const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Both at once, after a chunk that is known to be the last one with something in it.
const CHUNK_END_AND_LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// Why no more of a request goes out.
#[derive(Debug)]
pub(super) enum Halt {
    /// The engine takes no more.
    Engine,
    /// No more comes of the body, or more than it said.
    Body,
}

/// What is left to send of a request.
pub(super) struct Outgoing<B> {
    /// None once all of it was asked for.
    body: Option<B>,
    /// How much more it is to have; none: it is sent in chunks, as many as come.
    left: Option<u64>,
    is_begun: bool,
    // What the socket is to take next, in this order.
    front: BytesMut,
    data: Bytes,
    end: &'static [u8],
}

impl<B: Body<Data = Bytes> + Unpin> Outgoing<B> {
    pub(super) fn new(request: Request<B>) -> Self {
        let (head, body) = request.into_parts();
        let length = body.size_hint().exact();
        Outgoing {
            front: encode(&head, length),
            body: (!body.is_end_stream()).then_some(body),
            left: length,
            is_begun: false,
            data: Bytes::new(),
            end: &[],
        }
    }

    /// True once the engine may know of the request.
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Sends as much as there is and `socket` takes. Ready when that was all, or the last of it.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Halt>> {
        loop {
            // First, so that the head and what has come of the body go out together.
            let asked = self.poll_body(cx);
            if let Poll::Ready(Err(halt)) = asked {
                return Poll::Ready(Err(halt));
            }
            if !self.has_more() {
                return asked;
            }
            let slices = [IoSlice::new(&self.front), IoSlice::new(&self.data), IoSlice::new(self.end)];
            match ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Halt::Engine)),
                Ok(written) => (&mut self.front).chain(&mut self.data).chain(&mut self.end).advance(written),
            }
            self.is_begun = true;
        }
    }

    fn has_more(&self) -> bool {
        self.front.has_remaining() || self.data.has_remaining() || self.end.has_remaining()
    }

    /// Asks for the next frame if there is none. Ready when there is nothing left to ask for.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Halt>> {
        while let Some(body) = &mut self.body
            && !self.data.has_remaining()
            && !self.end.has_remaining()
        {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let is_last = body.is_end_stream();
                    // Trailers nobody asked for.
                    self.put(frame.into_data().unwrap_or_default(), is_last)?;
                }
                Some(Err(_)) => return Poll::Ready(Err(Halt::Body)),
                None => self.put(Bytes::new(), true)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn put(&mut self, data: Bytes, is_last: bool) -> Result<(), Halt> {
        if is_last {
            self.body = None;
        }
        match &mut self.left {
            // The head has said how much comes: the next request on this connection begins after that, and nowhere else.
            Some(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Halt::Body)?;
                if is_last && *left > 0 {
                    return Err(Halt::Body);
                }
            }
            None => {
                // An empty chunk would be the last one.
                self.end = match (data.is_empty(), is_last) {
                    (true, true) => LAST_CHUNK,
                    (true, false) => &[],
                    (false, true) => CHUNK_END_AND_LAST_CHUNK,
                    (false, false) => CHUNK_END,
                };
                if !data.is_empty() {
                    put_format(&mut self.front, format_args!("{:x}\r\n", data.len()));
                }
            }
        }
        self.data = data;
        Ok(())
    }
}

/// The head of a request with a body of so many bytes, or in chunks.
fn encode(head: &Parts, length: Option<u64>) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEAD_BYTES);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    for part in [head.method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.put_slice(part.as_bytes());
    }
    // Whatever the client said of the length, what follows is as long as the body that is sent.
    for (name, value) in head.headers.iter().filter(|&(name, _)| name != CONTENT_LENGTH && name != TRANSFER_ENCODING) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.put_slice(part);
        }
    }
    match length {
        None => out.put_slice(b"transfer-encoding: chunked\r\n"),
        // Not said where nobody expects a body (RFC 9110, 8.6).
        Some(0) if matches!(head.method, Method::GET | Method::HEAD) => {}
        Some(length) => put_format(&mut out, format_args!("content-length: {length}\r\n")),
    }
    out.put_slice(b"\r\n");
    out
}

fn put_format(out: &mut BytesMut, text: std::fmt::Arguments) {
    // Memory does not fail.
    let _: io::Result<()> = out.writer().write_fmt(text);
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, task::Waker};

    use http_body_util::{Empty, Full};
    use hyper::body::{Frame, SizeHint};

    use super::*;

    /// A socket that takes so many bytes at a time, and then has to be asked again.
    struct Narrow {
        taken: Vec<u8>,
        width: usize,
        is_full: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.is_full = !self.is_full;
            if self.is_full {
                return Poll::Pending;
            }
            let count = self.width.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A body; none: nothing has come yet. Only some know their end before it is asked for, or how long they say they are.
    struct Frames {
        frames: VecDeque<Option<&'static str>>,
        knows_its_end: bool,
        length: Option<u64>,
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.frames.pop_front() {
                Some(Some(text)) => Poll::Ready(Some(Ok(Frame::data(text.into())))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.knows_its_end && self.frames.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn sent<B: Body<Data = Bytes> + Unpin>(method: Method, body: B, width: usize) -> Result<String, Halt> {
        let request = Request::builder().method(method).uri("/a?b").header("x-a", "1");
        // What a client said of the length does not hold.
        let request = request.header("content-length", "99").header("transfer-encoding", "gzip");
        let mut outgoing = Outgoing::new(request.body(body).unwrap());
        let mut socket = Narrow { taken: Vec::new(), width, is_full: false };
        let nobody_waits = &mut Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            if let Poll::Ready(ended) = outgoing.poll(&mut socket, nobody_waits) {
                return ended.map(|()| String::from_utf8(socket.taken).unwrap());
            }
            assert_eq!(outgoing.is_begun(), !socket.taken.is_empty());
        }
        panic!("it never ends");
    }

    #[test]
    fn the_body_says_how_long_it_is() {
        let frames = [Some("he"), None, Some(""), Some("llo, it goes on")];
        for width in [1, 3, 1000] {
            for (method, start) in [(Method::POST, "POST"), (Method::GET, "GET")] {
                let head = format!("{start} /a?b HTTP/1.1\r\nx-a: 1\r\n");
                let empty = if method == Method::GET { "\r\n" } else { "content-length: 0\r\n\r\n" };
                assert_eq!(sent(method.clone(), Empty::new(), width).unwrap(), format!("{head}{empty}"));
                let whole = format!("{head}content-length: 5\r\n\r\nhello");
                assert_eq!(sent(method.clone(), Full::from("hello"), width).unwrap(), whole);
                let chunked =
                    format!("{head}transfer-encoding: chunked\r\n\r\n2\r\nhe\r\nf\r\nllo, it goes on\r\n0\r\n\r\n");
                for knows_its_end in [false, true] {
                    let body = Frames { frames: frames.into(), knows_its_end, length: None };
                    assert_eq!(sent(method.clone(), body, width).unwrap(), chunked);
                }
                let nothing = Frames { frames: VecDeque::new(), knows_its_end: false, length: None };
                assert!(sent(method, nothing, width).unwrap().ends_with("chunked\r\n\r\n0\r\n\r\n"));
            }
        }
    }

    #[test]
    fn a_body_that_is_not_as_long_as_it_said_is_no_request() {
        for (length, is_right) in [(16, false), (17, true), (18, false)] {
            for knows_its_end in [false, true] {
                let frames = [Some("he"), None, Some("llo, it goes on")].into();
                let body = Frames { frames, knows_its_end, length: Some(length) };
                assert_eq!(sent(Method::POST, body, 1000).is_ok(), is_right, "{length}");
            }
        }
    }
}
