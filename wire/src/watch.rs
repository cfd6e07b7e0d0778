//! What a response tells while it passes: that the first token came, what it cost, that it failed.
//!
//! A stream of Ollama's is a JSON object a line; OpenAI's and Anthropic's dialects put the same behind `data:`. So both
//! are lines, and so is a response that is one object. Almost every line is a token and is only searched for the few
//! words that could matter; a line that has one of them is read.
//!
//! A line of any length may come in pieces of any size (the last one of `/api/generate` holds numbers by the hundred
//! thousand). What counts stands at a line's end, since Go writes a struct's fields in order and all three dialects
//! declare their counters last. Inside strings JSON escapes every quote, so a key that is found is a key.
//!
//! Invariant: the answer depends on the bytes alone, never on where reads cut them, and no more than [`HELD_BYTES`] of
//! a response are ever held.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::Value;

use crate::ollama::Metrics;

/// Longest line that is held to be read whole, and longest tail that is kept of a longer one.
pub const HELD_BYTES: usize = 64 * 1024;

/// How much of a longer line's end is kept: the counters are some hundred bytes.
const TAIL_BYTES: usize = 4 * 1024;

/// How a response is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// An object a line, or behind `data:`: NDJSON and server-sent events.
    Lines,
    /// One object as a whole.
    Whole,
}

/// Looks at a response in passing.
#[derive(Debug)]
pub struct Watch {
    framing: Framing,
    /// The beginning of a line whose end has not come, or the end of one that is overlong.
    held: Vec<u8>,
    overlong: bool,
    seen: Seen,
}

/// What has been seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The first content, thinking or tool call.
    pub token: bool,
    /// An error, inside a response whose status had already said that all is well.
    pub error: bool,
    /// Counters and durations, whoever told them.
    pub metrics: Metrics,
}

impl Watch {
    /// Before the first byte.
    pub fn new(framing: Framing) -> Self {
        Watch { framing, held: Vec::new(), overlong: false, seen: Seen::default() }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let (Framing::Lines, Some(end)) = (self.framing, memchr::memchr(b'\n', rest)) {
            let (head, tail) = (&rest[..end], &rest[end + 1..]);
            // A line that lies here as a whole is read where it lies.
            if self.held.is_empty() {
                self.seen.line(head);
            } else {
                self.hold(head);
                self.end_line();
            }
            rest = tail;
        }
        self.hold(rest);
    }

    /// The response is complete: a last line may lack its newline.
    pub fn finish(&mut self) {
        if !self.held.is_empty() {
            self.end_line();
        }
    }

    /// What has been seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    fn hold(&mut self, part: &[u8]) {
        if self.held.len() + part.len() <= HELD_BYTES {
            self.held.extend_from_slice(part);
            return;
        }
        self.overlong = true;
        let part = &part[part.len().saturating_sub(TAIL_BYTES)..];
        let kept = self.held.len().min(TAIL_BYTES - part.len());
        self.held.drain(..self.held.len() - kept);
        self.held.extend_from_slice(part);
    }

    fn end_line(&mut self) {
        match (self.overlong, self.framing) {
            (false, Framing::Lines) => self.seen.line(&self.held),
            (false, Framing::Whole) => self.seen.whole(&self.held),
            // A line of that length says something, whatever it is.
            (true, _) => {
                self.seen.token |= self.framing == Framing::Lines;
                self.seen.count(&self.held);
            }
        }
        self.overlong = false;
        self.held.clear();
    }
}

impl Seen {
    fn line(&mut self, line: &[u8]) {
        let json = match line.strip_prefix(b"data:") {
            Some(data) => data.trim_ascii_start(),
            None if line.starts_with(b"{") => line,
            None => return,
        };
        if !self.token {
            self.token = object(json).is_some_and(|object| says_something(&object));
        }
        let has = |word: &Finder| word.find(json).is_some();
        if has(&WORDS.error) || has(&WORDS.failed) {
            self.error |= object(json).is_some_and(|object| is_error(&object));
        }
        if has(&WORDS.usage) || has(&WORDS.done) {
            self.count(json);
        }
    }

    fn whole(&mut self, json: &[u8]) {
        self.count(json);
    }

    /// Takes the counters out of what may be the end of an object only: of each the last, since what is further in stands
    /// before what is further out.
    fn count(&mut self, json: &[u8]) {
        let told = &mut self.metrics;
        for colon in memchr::memchr_iter(b':', json) {
            let Some(before) = json[..colon].strip_suffix(b"\"") else { continue };
            let Some(quote) = memchr::memrchr(b'"', before) else { continue };
            let counter = match &before[quote + 1..] {
                b"total_duration" => &mut told.total_duration,
                b"load_duration" => &mut told.load_duration,
                b"prompt_eval_duration" => &mut told.prompt_eval_duration,
                b"eval_duration" => &mut told.eval_duration,
                b"prompt_eval_count" | b"prompt_tokens" | b"input_tokens" => &mut told.prompt_eval_count,
                b"eval_count" | b"completion_tokens" | b"output_tokens" => &mut told.eval_count,
                _ => continue,
            };
            *counter = number(&json[colon + 1..]).or(*counter);
        }
    }
}

/// The words for whose sake a line is read. What finds them is made once: every token's line is searched.
struct Words {
    error: Finder<'static>,
    failed: Finder<'static>,
    usage: Finder<'static>,
    done: Finder<'static>,
}

static WORDS: LazyLock<Words> = LazyLock::new(|| Words {
    error: Finder::new("\"error\""),
    failed: Finder::new("response.failed"),
    usage: Finder::new("\"usage\":{"),
    done: Finder::new("\"done\":true"),
});

/// The number that `json` begins with.
fn number(json: &[u8]) -> Option<u64> {
    let digits = json.trim_ascii_start();
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn object(json: &[u8]) -> Option<Value> {
    serde_json::from_slice(json).ok()
}

/// True for the first token of any dialect.
fn says_something(chunk: &Value) -> bool {
    let is_filled = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    let any = |part: &Value, keys: &[&str]| keys.iter().any(|key| part.get(key).is_some_and(is_filled));
    // Ollama.
    any(chunk, &["response", "thinking"])
        || chunk.get("message").is_some_and(|message| any(message, &["content", "thinking", "tool_calls"]))
        // OpenAI: chat, completions.
        || chunk.pointer("/choices/0").is_some_and(|choice| {
            any(choice, &["text"])
                || choice.get("delta").is_some_and(|delta| any(delta, &["content", "reasoning", "tool_calls"]))
        })
        // OpenAI's responses, Anthropic's messages.
        || match chunk.get("type").and_then(Value::as_str) {
            Some("content_block_delta") => true,
            Some("content_block_start") => {
                chunk.pointer("/content_block/type").is_some_and(|kind| kind == "tool_use")
            }
            Some(kind) => kind.ends_with(".delta") && any(chunk, &["delta"]),
            None => false,
        }
}

fn is_error(chunk: &Value) -> bool {
    chunk.get("error").is_some_and(|error| !error.is_null())
        || matches!(chunk.get("type").and_then(Value::as_str), Some("error" | "response.failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ndjson::split::random_splits;

    fn watch<'a>(framing: Framing, parts: impl IntoIterator<Item = &'a [u8]>) -> Seen {
        let mut watch = Watch::new(framing);
        for part in parts {
            watch.feed(part);
            assert!(watch.held.len() <= HELD_BYTES);
        }
        watch.finish();
        *watch.seen()
    }

    fn lines(text: &str) -> Seen {
        watch(Framing::Lines, [text.as_bytes()])
    }

    fn counts(seen: Seen) -> (Option<u64>, Option<u64>) {
        (seen.metrics.prompt_eval_count, seen.metrics.eval_count)
    }

    const OLLAMA: &str = concat!(
        "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n",
        "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"say \\\"done\\\":true\"},\"done\":false}\n",
        "{\"model\":\"m\",\"message\":{\"content\":\"\"},\"done\":true,\"total_duration\":9,\"load_duration\":2,",
        "\"prompt_eval_count\":11,\"prompt_eval_duration\":3,\"eval_count\":2,\"eval_duration\":4}\n",
    );
    const OPENAI: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":2,\"total_tokens\":13}}\n\n",
        "data: [DONE]\n\n",
    );
    const ANTHROPIC: &str = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,",
        "\"output_tokens\":0}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\"}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"input_tokens\":11,\"output_tokens\":2}}\n\n",
    );
    const RESPONSES: &str = concat!(
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{",
        "\"input_tokens\":11,\"output_tokens\":2}}}\n\n",
    );

    #[test]
    fn every_dialect_tells_its_first_token_and_its_counts() {
        for text in [OLLAMA, OPENAI, ANTHROPIC, RESPONSES] {
            let seen = lines(text);
            assert!(seen.token && !seen.error, "{text}");
            assert_eq!(counts(seen), (Some(11), Some(2)), "{text}");
        }
        let metrics = lines(OLLAMA).metrics;
        assert_eq!((metrics.total_duration, metrics.load_duration), (Some(9), Some(2)));
        assert_eq!((metrics.prompt_eval_duration, metrics.eval_duration), (Some(3), Some(4)));
    }

    #[test]
    fn any_split_gives_the_same_answer() {
        for text in [OLLAMA, OPENAI, ANTHROPIC, RESPONSES] {
            let expected = lines(text);
            assert_eq!(watch(Framing::Lines, text.as_bytes().chunks(1)), expected, "byte by byte");
            for (seed, parts) in random_splits(text.as_bytes(), 300) {
                assert_eq!(watch(Framing::Lines, parts), expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_token_is_content_thinking_or_a_call_and_nothing_else() {
        for (line, token) in [
            ("{\"response\":\"a\",\"done\":false}", true),
            ("{\"response\":\"\",\"thinking\":\"a\"}", true),
            ("{\"message\":{\"content\":\"\",\"tool_calls\":[{}]}}", true),
            ("data: {\"choices\":[{\"text\":\"a\"}]}", true),
            ("data: {\"choices\":[{\"delta\":{\"reasoning\":\"a\"}}]}", true),
            ("data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"tool_use\"}}", true),
            ("data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\"}}", false),
            ("data: {\"choices\":[{\"delta\":{\"content\":\"\"}}]}", false),
            ("{\"status\":\"pulling manifest\"}", false),
            ("data: [DONE]", false),
            ("not json", false),
        ] {
            assert_eq!(lines(&format!("{line}\n")).token, token, "{line}");
        }
    }

    #[test]
    fn sees_an_error_and_takes_no_talk_of_errors_for_one() {
        for (line, error) in [
            ("{\"error\":\"unexpected EOF\"}", true),
            ("{\"status\":500,\"error\":\"x\"}", true),
            ("data: {\"error\":{\"message\":\"x\"}}", true),
            ("data: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"}}", true),
            ("data: {\"type\":\"response.failed\",\"response\":{}}", true),
            ("{\"message\":{\"content\":\"{\\\"error\\\":\\\"x\\\"}\"},\"done\":false}", false),
            ("{\"message\":{\"error\":\"x\"}}", false),
            ("{\"error\":null,\"done\":true}", false),
        ] {
            assert_eq!(lines(line).error, error, "{line}");
        }
    }

    #[test]
    fn a_line_of_any_length_gives_its_counts() {
        let context = "1234567,".repeat(100_000);
        let text = format!(
            "{{\"response\":\"\",\"done\":true,\"context\":[{context}1],\"prompt_eval_count\":7,\"eval_count\":3}}\n"
        );
        assert_eq!(counts(lines(&text)), (Some(7), Some(3)));
        let parts = text.as_bytes().chunks(10_007);
        assert_eq!(counts(watch(Framing::Lines, parts)), (Some(7), Some(3)));
        for size in [1_000, 65_536, 1_000_000] {
            assert_eq!(counts(watch(Framing::Whole, text.as_bytes().chunks(size))), (Some(7), Some(3)), "{size}");
        }
    }

    #[test]
    fn a_whole_object_may_have_lines() {
        let text = "{\n  \"usage\": {\n    \"prompt_tokens\": 8,\n    \"total_tokens\": 8\n  }\n}\n";
        assert_eq!(counts(watch(Framing::Whole, [text.as_bytes()])), (Some(8), None));
    }

    #[test]
    fn takes_anything_without_a_panic() {
        let mut bytes = Vec::new();
        let mut random = 1_u64;
        for _ in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let alphabet = b"{}[]\":,\n\\ data:done true usage error 0123456789\xff";
            bytes.push(alphabet[(random >> 33) as usize % alphabet.len()]);
        }
        for (_, parts) in random_splits(&bytes, 3) {
            watch(Framing::Lines, parts.iter().copied());
            watch(Framing::Whole, parts);
        }
    }
}
