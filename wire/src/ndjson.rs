//! Newline-delimited JSON, cut into lines as it arrives.
//!
//! Ollama streams one object per line, but a read from a socket knows nothing of lines: it may hold half of one or
//! nine. Whoever looks at a stream in passing needs the lines without holding the stream.
//!
//! Invariant: the lines depend on the bytes alone, never on where the reads cut them, and no more than one line of at
//! most the limit is ever held.

/// The limit of [`Splitter::default`], in bytes. The longest line Ollama writes is the last one of `/api/generate`,
/// whose `context` may be some hundred thousand token numbers.
pub const LIMIT_BYTES: usize = 1024 * 1024;

/// Cuts a stream into lines.
///
/// A line is handed over without its `\n` or `\r\n`; empty lines are not handed over. A line longer than the limit
/// (counted without its `\n`) is skipped, see [`Splitter::skipped`].
#[derive(Debug)]
pub struct Splitter {
    limit_bytes: usize,
    /// The beginning of a line whose end has not come yet.
    held: Vec<u8>,
    /// The line that has begun is already too long: nothing of it is held.
    overlong: bool,
    skipped: u64,
}

impl Default for Splitter {
    fn default() -> Self {
        Splitter::new(LIMIT_BYTES)
    }
}

impl Splitter {
    /// A splitter that skips lines of more than `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Splitter { limit_bytes, held: Vec::new(), overlong: false, skipped: 0 }
    }

    /// Takes the next bytes of the stream and calls `line` for every line that ends in them.
    ///
    /// A line that lies in `bytes` as a whole is handed over where it lies; only one that was cut is put together.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (head, tail) = (&rest[..end], &rest[end + 1..]);
            if self.held.is_empty() && !self.overlong && head.len() <= self.limit_bytes {
                hand_over(head, &mut line);
            } else {
                self.hold(head);
                self.end_line(&mut line);
            }
            rest = tail;
        }
        self.hold(rest);
    }

    /// Ends the stream: a last line may lack its newline.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        self.end_line(&mut line);
    }

    /// How many lines were longer than the limit and so were never handed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn hold(&mut self, part: &[u8]) {
        if self.overlong || self.held.len() + part.len() > self.limit_bytes {
            self.overlong = true;
            self.held = Vec::new();
        } else {
            self.held.extend_from_slice(part);
        }
    }

    fn end_line(&mut self, line: &mut impl FnMut(&[u8])) {
        if self.overlong {
            self.overlong = false;
            self.skipped += 1;
        } else {
            hand_over(&self.held, line);
            self.held.clear();
        }
    }
}

fn hand_over(bytes: &[u8], line: &mut impl FnMut(&[u8])) {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if !bytes.is_empty() {
        line(bytes);
    }
}

/// The same bytes in other pieces: what a parser of streams is tested with.
#[cfg(test)]
pub(crate) mod split {
    /// `bytes` cut at random places, `count` times over, each with the seed that gave it.
    pub(crate) fn random_splits(bytes: &[u8], count: u64) -> impl Iterator<Item = (u64, Vec<&[u8]>)> {
        (1..=count).map(move |seed| (seed, random_split(bytes, seed)))
    }

    fn random_split(bytes: &[u8], seed: u64) -> Vec<&[u8]> {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut parts = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            // xorshift64: the same pieces on every machine. A piece may be empty, as a read may.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (part, after) = rest.split_at((random % 12).min(rest.len() as u64) as usize);
            parts.push(part);
            rest = after;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::{split::random_splits, *};

    /// The lines of `parts` and the number of skipped ones.
    fn split<'a>(limit_bytes: usize, parts: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, u64) {
        let mut splitter = Splitter::new(limit_bytes);
        let mut lines = Vec::new();
        let mut keep = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
        for part in parts {
            splitter.feed(part, &mut keep);
        }
        splitter.finish(&mut keep);
        (lines, splitter.skipped())
    }

    fn whole(limit_bytes: usize, text: &str) -> (Vec<String>, u64) {
        split(limit_bytes, [text.as_bytes()])
    }

    #[test]
    fn yields_every_line_of_one_read() {
        assert_eq!(whole(64, "{\"a\":1}\n{\"b\":2}\n"), (vec!["{\"a\":1}".into(), "{\"b\":2}".into()], 0));
    }

    #[test]
    fn yields_a_last_line_without_a_newline_at_the_end_only() {
        let mut splitter = Splitter::default();
        splitter.feed(b"{\"done\":true}", |line| panic!("{line:?} has not ended"));
        let mut last = Vec::new();
        splitter.finish(|line| last = line.to_vec());
        assert_eq!(last, b"{\"done\":true}");
        splitter.finish(|line| panic!("{line:?} came twice"));
    }

    #[test]
    fn takes_crlf_and_drops_empty_lines() {
        assert_eq!(whole(64, "a\r\n\r\n\nb\rc\r\nd\r"), (vec!["a".into(), "b\rc".into(), "d".into()], 0));
    }

    #[test]
    fn hands_over_a_whole_line_where_it_lies() {
        let bytes = b"{\"a\":1}\n";
        Splitter::default().feed(bytes, |line| assert!(std::ptr::eq(line.as_ptr(), bytes.as_ptr())));
    }

    #[test]
    fn skips_and_counts_a_line_over_the_limit() {
        assert_eq!(whole(4, "1234\n12345\n1\n123456"), (vec!["1234".into(), "1".into()], 2));
    }

    #[test]
    fn holds_nothing_of_a_line_over_the_limit() {
        let mut splitter = Splitter::new(1000);
        for _ in 0..1000 {
            splitter.feed(&[b'x'; 999], |line| panic!("{} bytes are over the limit", line.len()));
            assert!(splitter.held.capacity() <= 2000, "held {}", splitter.held.capacity());
        }
        splitter.finish(|_| panic!("the line is over the limit"));
        assert_eq!(splitter.skipped(), 1);
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let text =
            "{\"a\":\"ä\"}\r\n\n{\"longer than twenty\":1}\nx\r\n\r\r\n{\"b\":[1,2]}\nabcdefghijklmnopqrstuvwxyz\nend";
        for limit_bytes in [1, 5, 20, 1000] {
            let expected = whole(limit_bytes, text);
            assert_eq!(split(limit_bytes, text.as_bytes().chunks(1)), expected, "byte by byte");
            for (seed, parts) in random_splits(text.as_bytes(), 500) {
                assert_eq!(split(limit_bytes, parts), expected, "limit {limit_bytes}, seed {seed}");
            }
        }
    }
}
