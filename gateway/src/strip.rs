//! Takes a usage chunk out of a stream again that the gateway, and not the client, had asked for.
//!
//! Invariant: every other byte passes as it came, and at the moment it came but for what may yet turn out to be such a
//! chunk: the beginning of a line, and no more than [`HELD_BYTES`] of it.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// A usage chunk has some three hundred bytes: what is longer is none.
const HELD_BYTES: usize = 4 * 1024;

/// Lets everything pass but the usage chunk and the empty line behind it.
#[derive(Default)]
pub(crate) struct Strip {
    /// The beginning of a line that is still judged.
    held: BytesMut,
    /// The line that has begun is none of ours.
    passes: bool,
    /// The line before was taken out, and so is an empty one that follows.
    was_taken: bool,
}

impl Strip {
    /// What of `bytes` passes now.
    pub(crate) fn pass(&mut self, bytes: &Bytes) -> Bytes {
        let mut out = BytesMut::with_capacity(self.held.len() + bytes.len());
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.passes {
                out.extend_from_slice(part);
                self.passes = !part.ends_with(b"\n");
                continue;
            }
            self.held.extend_from_slice(part);
            if self.held.ends_with(b"\n") {
                let line = self.held.split();
                let is_empty = line.trim_ascii().is_empty();
                let is_taken = is_usage(&line) || (is_empty && self.was_taken);
                self.was_taken = is_taken && !is_empty;
                if !is_taken {
                    out.extend_from_slice(&line);
                }
            } else if self.held.len() > HELD_BYTES || !may_be_data(&self.held) {
                out.extend_from_slice(&self.held.split());
                (self.passes, self.was_taken) = (true, false);
            }
        }
        out.freeze()
    }

    /// What was held at the end of the stream.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

fn may_be_data(line: &[u8]) -> bool {
    let length = line.len().min(5);
    line[..length] == b"data:"[..length] || line == b"\r"
}

/// The one chunk without a choice.
fn is_usage(line: &[u8]) -> bool {
    let has = |word| memmem::find(line, word).is_some();
    line.starts_with(b"data:") && has(b"\"choices\":[]") && has(b"\"usage\":{")
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";

    fn pass<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut strip = Strip::default();
        let mut out = Vec::new();
        for part in parts {
            out.extend_from_slice(&strip.pass(&Bytes::copy_from_slice(part)));
            assert!(strip.held.len() <= HELD_BYTES);
        }
        out.extend_from_slice(&strip.finish());
        String::from_utf8(out).unwrap()
    }

    fn stream() -> (String, String) {
        let long = "x".repeat(3 * HELD_BYTES);
        let before = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{long} \\\"choices\\\":[]\"}}}}]}}\n\n: comment\n\n"
        );
        (format!("{before}{USAGE}data: [DONE]\n\n"), format!("{before}data: [DONE]\n\n"))
    }

    #[test]
    fn takes_out_the_usage_chunk_and_nothing_else_however_it_is_cut() {
        let (whole, stripped) = stream();
        for size in [1, 2, 7, 100, 4096, whole.len()] {
            assert_eq!(pass(whole.as_bytes().chunks(size)), stripped, "{size}");
        }
    }

    #[test]
    fn whole_events_pass_at_once() {
        let mut strip = Strip::default();
        let event = Bytes::from("data: {\"choices\":[{}]}\n\n");
        assert_eq!(strip.pass(&event), event);
        assert_eq!(strip.pass(&Bytes::from(USAGE)), "");
        assert_eq!(strip.pass(&event), event);
    }

    #[test]
    fn an_unfinished_stream_keeps_its_end() {
        assert_eq!(pass(["data: {\"choices\":[".as_bytes()]), "data: {\"choices\":[");
    }
}
