//! One string out of a JSON object that streams by.
//!
//! A proxy wants to know which `"model"` a request names without holding the request, which may be megabytes of
//! conversation. So this looks for one field of the outermost object, keeps nothing else, and stops once it knows.
//!
//! Invariant: the answer depends on the bytes alone, never on where the reads cut them; no more than one string of at
//! most [`LIMIT_BYTES`] is held. It is a look, not a check: an answer for something that is not JSON may be any,
//! though it comes without a panic.

/// A longer string, counted as written between its quotes, is neither the field's name nor its value.
pub const LIMIT_BYTES: usize = 1024;

/// Looks for the string value of one field of a JSON object fed piece by piece.
///
/// The first field of that name decides; if its value is no string, or too long, there is no answer. The name must
/// match exactly, as JSON has it (Go's decoder, and so Ollama, would also take `"MODEL"`).
#[derive(Debug)]
pub struct Scanner {
    field: &'static str,
    state: State,
    /// How many objects and arrays are open; the outermost object is at 1.
    depth: usize,
    place: Place,
    /// What is kept of the current string, as written: escapes are resolved when it has ended.
    text: Vec<u8>,
    value: Option<String>,
}

/// Where the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between strings.
    Between,
    /// In a string; `escaped` if the byte before was a backslash that counts.
    Inside { keep: bool, escaped: bool },
    /// Nothing more to learn.
    Done,
}

/// Which part of the outermost object's current field comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Name,
    /// The name was the one looked for, or it was not.
    Value {
        wanted: bool,
    },
}

impl Scanner {
    /// A scanner for `field` of the outermost object.
    pub fn new(field: &'static str) -> Self {
        Scanner { field, state: State::Between, depth: 0, place: Place::Name, text: Vec::new(), value: None }
    }

    /// Forgets what it saw, to begin with another object.
    pub fn reset(&mut self) {
        let text = std::mem::take(&mut self.text);
        *self = Scanner { text, ..Scanner::new(self.field) };
    }

    /// Takes the next bytes. True as long as more bytes could matter.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            match self.state {
                State::Done => break,
                State::Between => {
                    self.between(byte);
                    rest = after;
                }
                State::Inside { keep, escaped } => rest = self.inside(rest, keep, escaped),
            }
        }
        self.state != State::Done
    }

    /// The field's value, once it has gone by.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// The field's value, given away.
    pub fn take_value(&mut self) -> Option<String> {
        self.value.take()
    }

    fn between(&mut self, byte: u8) {
        let wanted = self.depth == 1 && self.place == Place::Value { wanted: true };
        match byte {
            b'"' if self.depth > 0 => {
                let keep = wanted || (self.depth == 1 && self.place == Place::Name);
                self.text.clear();
                self.state = State::Inside { keep, escaped: false };
            }
            // A value of another kind: the field is there, but holds no string.
            b'{' | b'[' | b'}' | b']' | b',' if wanted => self.state = State::Done,
            b'{' => self.depth += 1,
            b'[' if self.depth > 0 => self.depth += 1,
            b'}' | b']' if self.depth > 1 => self.depth -= 1,
            b'}' | b']' => self.state = State::Done,
            b',' if self.depth == 1 => self.place = Place::Name,
            // Colons, numbers, words, spaces; commas further in.
            _ if self.depth > 0 || byte.is_ascii_whitespace() => {}
            _ => self.state = State::Done,
        }
    }

    /// Goes on in a string, up to the next byte that decides something, and returns what comes after it.
    fn inside<'a>(&mut self, bytes: &'a [u8], keep: bool, escaped: bool) -> &'a [u8] {
        if escaped {
            self.state = State::Inside { keep: keep && self.keep(&bytes[..1]), escaped: false };
            return &bytes[1..];
        }
        let Some(stop) = bytes.iter().position(|&byte| byte == b'"' || byte == b'\\') else {
            self.state = State::Inside { keep: keep && self.keep(bytes), escaped: false };
            return &[];
        };
        if bytes[stop] == b'\\' {
            self.state = State::Inside { keep: keep && self.keep(&bytes[..=stop]), escaped: true };
        } else {
            self.state = State::Between;
            let kept = keep && self.keep(&bytes[..stop]);
            self.end_string(kept);
        }
        &bytes[stop + 1..]
    }

    /// False if the string is too long to be kept.
    fn keep(&mut self, part: &[u8]) -> bool {
        let fits = self.text.len() + part.len() <= LIMIT_BYTES;
        if fits {
            self.text.extend_from_slice(part);
        }
        fits
    }

    fn end_string(&mut self, kept: bool) {
        if self.depth > 1 {
            return;
        }
        match self.place {
            Place::Name => self.place = Place::Value { wanted: kept && self.text_is_field() },
            Place::Value { wanted: true } => {
                self.value = if kept { resolve(&self.text) } else { None };
                self.state = State::Done;
            }
            Place::Value { wanted: false } => {}
        }
    }

    fn text_is_field(&self) -> bool {
        match self.text.contains(&b'\\') {
            false => self.text == self.field.as_bytes(),
            true => resolve(&self.text).is_some_and(|text| text == self.field),
        }
    }
}

/// The text that a string means, from what is written between its quotes.
fn resolve(written: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", written, b"\""].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ndjson::split::random_splits;

    fn scan<'a>(field: &'static str, parts: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
        let mut scanner = Scanner::new(field);
        for part in parts {
            scanner.feed(part);
        }
        scanner.take_value()
    }

    fn model(text: &str) -> Option<String> {
        scan("model", [text.as_bytes()])
    }

    #[test]
    fn finds_the_field_wherever_it_stands() {
        for text in [
            r#"{"model":"m"}"#,
            " \r\n\t{ \"model\" : \"m\" , \"x\":1}",
            r#"{"stream":false,"n":-1.5e3,"none":null,"model":"m"}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"model":"m"}"#,
            r#"{"options":{"stop":["}","]"],"deep":{"er":[[]]}},"model":"m"}"#,
        ] {
            assert_eq!(model(text).as_deref(), Some("m"), "{text}");
        }
    }

    #[test]
    fn takes_no_field_of_an_inner_object() {
        assert_eq!(model(r#"{"options":{"model":"inner"},"a":[{"model":"inner"}]}"#), None);
        assert_eq!(model(r#"{"options":{"model":"inner"},"model":"outer"}"#).as_deref(), Some("outer"));
    }

    #[test]
    fn is_not_misled_by_what_strings_hold() {
        for text in [
            r#"{"a":"\",\"model\":\"wrong","model":"m"}"#,
            r#"{"a":"}{][","model":"m"}"#,
            r#"{"a":"\\","model":"m"}"#,
            r#"{"a":"model","b":["model","wrong"],"model":"m"}"#,
            r#"{"models":"wrong","mode":"wrong","":"wrong","model":"m"}"#,
        ] {
            assert_eq!(model(text).as_deref(), Some("m"), "{text}");
        }
    }

    #[test]
    fn resolves_escapes_in_name_and_value() {
        assert_eq!(model(r#"{"mod\u0065l":"a\/b\"\u00e4\ud83d\ude00\n"}"#).as_deref(), Some("a/b\"ä😀\n"));
    }

    #[test]
    fn gives_nothing_for_a_value_that_is_no_string() {
        for value in ["1", "null", "true", "{\"model\":\"x\"}", "[\"x\"]", "\"\\x\""] {
            assert_eq!(model(&format!("{{\"model\":{value}}}")), None, "{value}");
            assert_eq!(model(&format!("{{\"model\":{value},\"b\":\"c\"}}")), None, "{value}");
        }
        assert_eq!(model(r#"{"model":"unended"#), None);
    }

    #[test]
    fn gives_nothing_for_what_is_no_object() {
        for text in ["", "null", "\"model\"", "[{\"model\":\"x\"}]", "{}{\"model\":\"x\"}", "}{\"model\":\"x\"}", "]]]"]
        {
            assert_eq!(model(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_field_of_that_name_decides() {
        assert_eq!(model(r#"{"model":"first","model":"second"}"#).as_deref(), Some("first"));
        assert_eq!(model(r#"{"model":7,"model":"second"}"#), None);
    }

    #[test]
    fn stops_once_it_knows() {
        let mut scanner = Scanner::new("model");
        assert!(scanner.feed(br#"{"model":"#));
        assert!(!scanner.feed(br#""m","rest"#));
        assert!(!scanner.feed(br#""model":"other"}"#));
        assert_eq!(scanner.value(), Some("m"));
        assert!(!Scanner::new("model").feed(b"no object"));
        assert!(!Scanner::new("model").feed(b"{}"));
    }

    #[test]
    fn holds_no_more_than_the_limit() {
        let fits = "x".repeat(LIMIT_BYTES);
        assert_eq!(model(&format!(r#"{{"model":"{fits}"}}"#)), Some(fits.clone()));
        assert_eq!(model(&format!(r#"{{"model":"{fits}x"}}"#)), None);
        assert_eq!(model(&format!(r#"{{"{fits}{fits}":1,"model":"m"}}"#)).as_deref(), Some("m"));

        let mut scanner = Scanner::new("model");
        scanner.feed(br#"{"model":""#);
        for _ in 0..1000 {
            scanner.feed(fits.as_bytes());
            assert!(scanner.text.capacity() <= 2 * LIMIT_BYTES);
        }
    }

    #[test]
    fn forgets_on_reset() {
        let mut scanner = Scanner::new("error");
        scanner.feed(br#"{"error":"first"}"#);
        scanner.reset();
        assert_eq!(scanner.value(), None);
        scanner.feed(br#"{"a":1,"error":"second"}"#);
        assert_eq!(scanner.value(), Some("second"));
    }

    #[test]
    fn any_split_gives_the_same_answer() {
        let text =
            r#" {"a\\":"\"model\":\"no\"","n":[1,{"model":"no","x":"]}"}],"mod\u0065l":"ä\ud83d\ude00\\\"m:7b","z":1}"#;
        let bytes = text.as_bytes();
        let expected = Some("ä😀\\\"m:7b".to_owned());
        assert_eq!(model(text), expected);
        assert_eq!(scan("model", bytes.chunks(1)), expected, "byte by byte");
        for cut in 0..bytes.len() {
            for second in cut..bytes.len() {
                let parts = [&bytes[..cut], &bytes[cut..second], &bytes[second..]];
                assert_eq!(scan("model", parts), expected, "cut at {cut} and {second}");
            }
        }
        for (seed, parts) in random_splits(bytes, 500) {
            assert_eq!(scan("model", parts), expected, "seed {seed}");
        }
    }
}
