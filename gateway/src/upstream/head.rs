//! The head of an answer.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use httparse::{ParserConfig, Status};
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING},
    http,
};

use super::{
    Fault,
    framing::{Chunk, Framing},
};

/// The longest head.
pub(super) const LIMIT_BYTES: usize = 64 * 1024;

/// The most headers, as many as hyper takes of a client, and the most trailers.
pub(super) const HEADERS: usize = 100;

/// What is known of an answer before its body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The connection is of no use after it.
    pub(super) is_last: bool,
}

impl Head {
    /// Takes the head of the answer to a request of the method `asked`; none if more has to be read for it.
    pub(super) fn take(unread: &mut BytesMut, asked: &Method) -> Result<Option<Self>, Fault> {
        while let Some((length, head)) = parse(unread, asked)? {
            if length > LIMIT_BYTES {
                return Err(Fault::TooLong);
            }
            unread.advance(length);
            // "Go on" and the like: the client was told by the server that it is connected to.
            if !head.response.status().is_informational() {
                return Ok(Some(head));
            }
            if head.response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Err(Fault::Upgrade);
            }
        }
        if unread.len() > LIMIT_BYTES { Err(Fault::TooLong) } else { Ok(None) }
    }
}

/// The head that `bytes` begin with, and its length; none if it is not whole.
fn parse(bytes: &[u8], asked: &Method) -> Result<Option<(usize, Head)>, Fault> {
    let mut room = [MaybeUninit::uninit(); HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let parsing = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut room)?;
    let Status::Complete(length) = parsing else { return Ok(None) };
    let mut response = Response::new(());
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    *response.status_mut() = status.ok_or(httparse::Error::Status)?;
    let headers = response.headers_mut();
    headers.reserve(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(http::Error::from)?;
        let value = HeaderValue::from_bytes(header.value).map_err(http::Error::from)?;
        headers.append(name, value);
    }
    let framing = framing(response.status(), response.headers_mut(), asked)?;
    let is_1_0 = parsed.version == Some(0);
    let is_last = is_1_0 || framing == Framing::UntilClosed || closes(response.headers());
    Ok(Some((length, Head { response, framing, is_last })))
}

/// How the body is framed (RFC 9112, 6.3). What is said of its length and does not hold is removed.
fn framing(status: StatusCode, headers: &mut HeaderMap, asked: &Method) -> Result<Framing, Fault> {
    if asked == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || status.is_informational()
    {
        return Ok(Framing::Length(0));
    }
    if let Some(last) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        // Whoever says both may be smuggling: the chunks are what is believed, by everyone after us as well.
        let coding = last.as_bytes().rsplit(|&byte| byte == b',').next().unwrap_or_default();
        let is_chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
        headers.remove(CONTENT_LENGTH);
        return Ok(if is_chunked { Framing::Chunked(Chunk::Size) } else { Framing::UntilClosed });
    }
    let mut told = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let length = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length: u64 = length.and_then(|text| text.parse().ok()).ok_or(Fault::Length)?;
        if told.is_some_and(|told| told != length) {
            return Err(Fault::Length);
        }
        told = Some(length);
    }
    Ok(told.map_or(Framing::UntilClosed, Framing::Length))
}

fn closes(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).into_iter();
    let mut options = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str, asked: &Method) -> Result<Option<(Head, String)>, Fault> {
        let mut unread = BytesMut::from(text);
        let head = Head::take(&mut unread, asked)?;
        Ok(head.map(|head| (head, String::from_utf8(unread.to_vec()).unwrap())))
    }

    #[test]
    fn the_head_says_how_far_the_body_goes() {
        let chunked = Framing::Chunked(Chunk::Size);
        for (asked, head, framing, is_last) in [
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3", Framing::Length(3), false),
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nContent-Length: 3", Framing::Length(3), false),
            (Method::GET, "HTTP/1.1 200\r\ntransfer-encoding: chunked", chunked, false),
            (Method::GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked", chunked, false),
            (Method::GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip", Framing::UntilClosed, true),
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked", chunked, false),
            (Method::GET, "HTTP/1.1 200 OK\r\nx: 1", Framing::UntilClosed, true),
            (Method::GET, "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0", Framing::Length(0), true),
            (Method::GET, "HTTP/1.0 200 OK\r\ncontent-length: 3", Framing::Length(3), true),
            (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 3", Framing::Length(0), false),
            (Method::GET, "HTTP/1.1 204 No Content\r\nx: 1", Framing::Length(0), false),
            (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 3", Framing::Length(0), false),
            (
                Method::POST,
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nx: 1\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3",
                Framing::Length(3),
                false,
            ),
        ] {
            let whole = format!("{head}\r\n\r\nrest");
            let (taken_head, rest) = taken(&whole, &asked).unwrap().unwrap();
            assert_eq!((taken_head.framing, taken_head.is_last, rest.as_str()), (framing, is_last, "rest"), "{head}");
            for end in 0..whole.len() - "rest".len() {
                assert!(taken(&whole[..end], &asked).unwrap().is_none(), "{head} up to {end}");
            }
        }
    }

    #[test]
    fn headers_pass_as_they_are() {
        let text = "HTTP/1.1 418 I'm a teapot\r\nX-Twice: a\r\nx-twice:  b \r\nx-empty:\r\n\r\n";
        let (head, _) = taken(text, &Method::GET).unwrap().unwrap();
        assert_eq!(head.response.status(), 418);
        let headers = head.response.headers();
        assert_eq!(headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(headers["x-empty"], "");
        // A line may end so, too (RFC 9112, 2.2), and what follows is body, whatever it looks like.
        let text = "HTTP/1.1 200 OK\ncontent-length: 9\n\nhi\r\n\r\nyou";
        let (head, rest) = taken(text, &Method::GET).unwrap().unwrap();
        assert_eq!((head.framing, rest.as_str()), (Framing::Length(9), "hi\r\n\r\nyou"));
        // Whoever reads it next is not to be misled.
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
        let (head, _) = taken(text, &Method::GET).unwrap().unwrap();
        assert!(!head.response.headers().contains_key("content-length"));
    }

    #[test]
    fn what_is_no_answer_is_said_to_be_none() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(HEADERS + 1));
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "1".repeat(LIMIT_BYTES));
        let long_and_whole = format!("{long}\r\n\r\n");
        for (text, expected) in [
            ("hello\r\n\r\n", "its answer is no HTTP"),
            ("-ERR unknown command\r\n", "its answer is no HTTP"),
            ("HTTP/2 200 OK\r\n\r\n", "its answer is no HTTP"),
            ("HTTP/1.1 20 OK\r\n\r\n", "its answer is no HTTP"),
            ("HTTP/1.1 200 OK\r\nx y: 1\r\n\r\n", "its answer is no HTTP"),
            (&many, "its answer is no HTTP"),
            (&long_and_whole, "the head of its answer is longer than 64 KiB"),
            (&long, "the head of its answer is longer than 64 KiB"),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "it answers with 101, which nobody asked for"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
                "its answer does not say how long it is",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n", "its answer does not say how long it is"),
            ("HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n", "its answer does not say how long it is"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
                "its answer does not say how long it is",
            ),
        ] {
            let fault = taken(text, &Method::GET).unwrap_err();
            assert_eq!(fault.to_string(), expected, "{text:.60}");
        }
    }
}
