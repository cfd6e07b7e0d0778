//! How much text a request carries, and whether it asks for its counters.
//!
//! Ollama cuts a prompt that does not fit, and says so nowhere; it only counts what is left. Who wants to notice needs
//! to know what was sent, without holding it.
//!
//! Invariant: the answer depends on the bytes alone, never on where the reads cut them; memory is constant. It is a
//! measure, not a check: what is no JSON is measured too, though it means nothing.

/// A string without a space or an escape for as long as this is no text: an image, a file, a digest.
const UNBROKEN_BYTES: u64 = 512;

/// What [`Prompt::asks_for_usage`] looks for.
const INCLUDE_USAGE: &[u8] = b"include_usage\"";

/// Measures a request's JSON body in passing.
#[derive(Debug, Default)]
pub struct Prompt {
    text_bytes: u64,
    /// Of the string that has begun.
    string_bytes: u64,
    in_string: bool,
    is_broken: bool,
    is_escaped: bool,
    /// How much of [`INCLUDE_USAGE`] has gone by.
    matched: usize,
    /// The value behind it is next; it begins with `t` if it is true.
    at_value: bool,
    asks_for_usage: bool,
}

impl Prompt {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            if !self.in_string {
                let (passed, begins) = match memchr::memchr(b'"', rest) {
                    Some(at) => (at + 1, true),
                    None => (rest.len(), false),
                };
                self.value(&rest[..passed]);
                self.in_string = begins;
                rest = &rest[passed..];
            } else if self.is_escaped {
                self.is_escaped = false;
                self.matches(&[byte]);
                rest = &rest[1..];
            } else {
                let stop = memchr::memchr2(b'"', b'\\', rest);
                let part = &rest[..stop.map_or(rest.len(), |at| at + 1)];
                self.matches(part);
                self.string_bytes += part.len() as u64;
                self.is_broken |= memchr::memchr(b' ', part).is_some();
                match stop.map(|at| rest[at]) {
                    Some(b'"') => self.end_string(),
                    Some(_) => (self.is_escaped, self.is_broken) = (true, true),
                    None => {}
                }
                rest = &rest[part.len()..];
            }
        }
    }

    /// Bytes of text so far: of all strings but those that are no text. A token of code or prose takes some three to
    /// five of them.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// True if `include_usage` was set to true.
    pub fn asks_for_usage(&self) -> bool {
        self.asks_for_usage
    }

    fn end_string(&mut self) {
        if self.is_broken || self.string_bytes < UNBROKEN_BYTES {
            // Its last byte is the quote.
            self.text_bytes += self.string_bytes - 1;
        }
        (self.in_string, self.is_broken, self.string_bytes) = (false, false, 0);
        self.at_value = self.matched == INCLUDE_USAGE.len();
        self.matched = 0;
    }

    /// A string's next bytes: is it the name looked for, and nothing else?
    fn matches(&mut self, part: &[u8]) {
        let is_next = INCLUDE_USAGE.get(self.matched..).is_some_and(|wanted| wanted.starts_with(part));
        // Once wrong, a length that no further byte can make right.
        self.matched = if is_next { self.matched + part.len() } else { usize::MAX / 2 };
    }

    fn value(&mut self, between: &[u8]) {
        if !self.at_value {
            return;
        }
        if let Some(first) = between.iter().find(|byte| !byte.is_ascii_whitespace() && **byte != b':') {
            self.asks_for_usage = *first == b't';
            self.at_value = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ndjson::split::random_splits;

    fn measure<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> (u64, bool) {
        let mut prompt = Prompt::default();
        for part in parts {
            prompt.feed(part);
        }
        (prompt.text_bytes(), prompt.asks_for_usage())
    }

    fn whole(text: &str) -> (u64, bool) {
        measure([text.as_bytes()])
    }

    #[test]
    fn counts_what_stands_in_strings() {
        for (text, bytes) in
            [("{}", 0), ("{\"a\":\"bcd\",\"n\":12345}", 5), (r#"["a\"b\\"]"#, 4), ("\"unended", 0), ("", 0)]
        {
            assert_eq!(whole(text).0, bytes, "{text}");
        }
    }

    #[test]
    fn an_image_is_no_text() {
        let image = "iVBORw0KGgo".repeat(100);
        assert_eq!(whole(&format!("{{\"images\":[\"{image}\"]}}")).0, 6);
        assert_eq!(whole(&format!("[\"{image} {image}\"]")).0, 2201);
        assert_eq!(whole(&format!("[\"{image}\\n\"]")).0, 1101);
    }

    #[test]
    fn knows_whether_usage_was_asked_for() {
        for (text, asked) in [
            (r#"{"stream_options":{"include_usage":true}}"#, true),
            (r#"{"stream_options": { "include_usage" : true }}"#, true),
            (r#"{"stream_options":{"include_usage":false}}"#, false),
            (r#"{"content":"\"include_usage\":true"}"#, false),
            (r#"{"content":"include_usage","a":true}"#, false),
            (r#"{"xinclude_usage":true}"#, false),
            (r#"{"stream":true}"#, false),
        ] {
            assert_eq!(whole(text).1, asked, "{text}");
        }
    }

    #[test]
    fn any_split_gives_the_same_answer() {
        let text =
            r#"{"messages":[{"content":"a \"quoted\\\" text\n"}],"stream_options":{"include_usage" : true},"z":"end"}"#;
        let expected = whole(text);
        assert!(expected.1);
        assert_eq!(measure(text.as_bytes().chunks(1)), expected, "byte by byte");
        for (seed, parts) in random_splits(text.as_bytes(), 500) {
            assert_eq!(measure(parts), expected, "seed {seed}");
        }
    }
}
