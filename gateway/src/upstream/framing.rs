//! Where the body of an answer ends, and what of the bytes is body (RFC 9112, 6 and 7).
//!
//! Invariant: what is taken does not depend on where reads have cut the bytes, but for lines near the limit of their
//! length; and nothing after the body's end is touched.

use bytes::{Buf, Bytes, BytesMut};
use httparse::Status;

use super::{Fault, head::HEADERS};

/// The longest line with a chunk's size, whose extensions nobody reads, and the longest trailers.
const LIMIT_BYTES: usize = 16 * 1024;

/// How much of a body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes.
    Length(u64),
    /// In chunks, as many as come.
    Chunked(Chunk),
    /// Until the connection is closed.
    UntilClosed,
}

/// What comes next of a body in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

impl Framing {
    /// True once all of the body was taken.
    pub(super) fn is_over(self) -> bool {
        self == Framing::Length(0)
    }

    /// Takes the next piece of the body; none if more has to be read for it, or nothing more comes.
    pub(super) fn take(&mut self, unread: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
        self.skip(unread)?;
        let left = match self {
            Framing::Length(left) | Framing::Chunked(Chunk::Data(left)) => *left,
            Framing::Chunked(_) => return Ok(None),
            Framing::UntilClosed => u64::MAX,
        };
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(unread.len());
        if length == 0 {
            return Ok(None);
        }
        let piece = unread.split_to(length).freeze();
        match self {
            Framing::Length(left) => *left -= length as u64,
            Framing::Chunked(Chunk::Data(left)) if *left > length as u64 => *left -= length as u64,
            Framing::Chunked(chunk) => *chunk = Chunk::DataEnd,
            Framing::UntilClosed => {}
        }
        // So that the last piece is known as the last one. What is broken is said when it is asked for.
        let _ = self.skip(unread);
        Ok(Some(piece))
    }

    /// Goes to where the next data begin, or would.
    fn skip(&mut self, unread: &mut BytesMut) -> Result<(), Fault> {
        while let Framing::Chunked(chunk) = self {
            let (length, next) = match chunk {
                Chunk::Data(_) => return Ok(()),
                Chunk::Size => match httparse::parse_chunk_size(unread) {
                    // It takes a line without a single digit for a 0.
                    Ok(Status::Complete(_)) if !unread[0].is_ascii_hexdigit() => return Err(Fault::Chunk),
                    Ok(Status::Complete((length, 0))) => (length, Framing::Chunked(Chunk::Trailers)),
                    Ok(Status::Complete((length, size))) => (length, Framing::Chunked(Chunk::Data(size))),
                    Ok(Status::Partial) if unread.len() <= LIMIT_BYTES => return Ok(()),
                    Ok(Status::Partial) | Err(_) => return Err(Fault::Chunk),
                },
                Chunk::DataEnd if unread.starts_with(b"\r\n") => (2, Framing::Chunked(Chunk::Size)),
                Chunk::DataEnd if b"\r\n".starts_with(unread) => return Ok(()),
                Chunk::DataEnd => return Err(Fault::Chunk),
                Chunk::Trailers => match httparse::parse_headers(unread, &mut [httparse::EMPTY_HEADER; HEADERS]) {
                    Ok(Status::Complete((length, _))) => (length, Framing::Length(0)),
                    Ok(Status::Partial) if unread.len() <= LIMIT_BYTES => return Ok(()),
                    Ok(Status::Partial) | Err(_) => return Err(Fault::Chunk),
                },
            };
            unread.advance(length);
            *self = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body that is taken of `parts`, and what stands after its end; none if it has no end.
    fn taken(mut framing: Framing, parts: &[&[u8]]) -> Result<Option<(String, String)>, Fault> {
        let (mut unread, mut body) = (BytesMut::new(), Vec::new());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        for part in parts {
            unread.extend_from_slice(part);
            while let Some(piece) = framing.take(&mut unread)? {
                assert!(!piece.is_empty());
                body.extend_from_slice(&piece);
            }
        }
        Ok(framing.is_over().then(|| (text(&body), text(&unread))))
    }

    #[test]
    fn takes_the_same_however_it_is_cut() {
        let chunked = Framing::Chunked(Chunk::Size);
        for (framing, bytes, body, rest) in [
            (Framing::Length(5), "hellorest", "hello", "rest"),
            (Framing::Length(0), "rest", "", "rest"),
            (chunked, "0\r\n\r\nrest", "", "rest"),
            (chunked, "5\r\nhello\r\n00\r\n\r\n", "hello", ""),
            (
                chunked,
                "2;a=\"b\"\r\nhe\r\n0A \t;x\r\nllo\r\n\r\nyou\r\n0\r\nx-sum: 1\r\nb: 2\r\n\r\nHTTP",
                "hello\r\n\r\nyou",
                "HTTP",
            ),
        ] {
            let bytes = bytes.as_bytes();
            let expected = Some((body.to_owned(), rest.to_owned()));
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(taken(framing, &parts).unwrap(), expected, "cut at {first} and {second}");
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(taken(framing, &single).unwrap(), expected);
        }
    }

    #[test]
    fn what_stops_short_is_not_over() {
        let whole = b"5\r\nhello\r\n0\r\nx: 1\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(taken(Framing::Chunked(Chunk::Size), &[&whole[..end]]).unwrap(), None, "{end}");
        }
        assert_eq!(taken(Framing::Length(2), &[b"h"]).unwrap(), None);
        assert_eq!(taken(Framing::UntilClosed, &[b"h"]).unwrap(), None);
    }

    #[test]
    fn the_last_piece_is_known_as_the_last() {
        let mut framing = Framing::Chunked(Chunk::Size);
        assert_eq!(framing.take(&mut BytesMut::from("2\r\nhi\r\n0\r\n\r\n")).unwrap().unwrap(), "hi");
        assert!(framing.is_over());
    }

    #[test]
    fn a_broken_chunk_is_an_error_after_what_came_before_it() {
        let long_line = format!("1;{}", "x".repeat(LIMIT_BYTES));
        let long_trailer = format!("0\r\nx: {}", "x".repeat(LIMIT_BYTES));
        let many_trailers = format!("0\r\n{}\r\n", "x: 1\r\n".repeat(HEADERS + 1));
        for broken in [
            "\r\n",
            "x\r\n",
            ";a\r\n",
            "-1\r\n",
            "1\nh",
            "10000000000000000\r\n",
            &long_line,
            &long_trailer,
            &many_trailers,
        ] {
            let mut framing = Framing::Chunked(Chunk::Size);
            let mut unread = BytesMut::from(format!("2\r\nhi\r\n{broken}").as_str());
            assert_eq!(framing.take(&mut unread).unwrap().unwrap(), "hi");
            assert!(matches!(framing.take(&mut unread), Err(Fault::Chunk)), "{broken:.20}");
        }
        let mut unread = BytesMut::from("2\r\nhiXX");
        let mut framing = Framing::Chunked(Chunk::Size);
        assert_eq!(framing.take(&mut unread).unwrap().unwrap(), "hi");
        assert!(matches!(framing.take(&mut unread), Err(Fault::Chunk)));
    }
}
