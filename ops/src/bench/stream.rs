//! A streamed answer as it came: which moments it had, and what it said about itself.
//!
//! Fed with bytes and the moment at which they were read from the socket; looks at nothing else, so a stream can be
//! played again. The definitions are those of `docs/bench.md`.
//!
//! Invariant: what is found depends on the bytes and the moment of the read that completed each line, never on where
//! the reads cut them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::{
    ndjson::Splitter,
    ollama::{ChatChunk, Line, Metrics},
    openai::ChatCompletionChunk,
};

/// Which API is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// Ollama's own, which tells what the engine itself has measured.
    #[default]
    Native,
    /// `/v1/chat/completions`, which many engines speak.
    OpenAi,
}

/// What was seen of an answer. Moments count from the sending of the request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Chunks that said, thought or called something.
    pub chunks: Vec<Duration>,
    /// The first chunk that said something.
    pub output: Option<Duration>,
    /// Tokens generated, as the engine counts them.
    pub output_tokens: Option<u64>,
    /// Tokens of the prompt, as the engine counts them.
    pub prompt_tokens: Option<u64>,
    /// The engine's own clock; the native API only.
    pub metrics: Option<Metrics>,
    /// Why the answer ended.
    pub done_reason: Option<String>,
    /// What went wrong inside the stream.
    pub error: Option<String>,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    api: Api,
    splitter: Splitter,
    seen: Seen,
    is_complete: bool,
}

impl Reader {
    /// For an answer in this API.
    pub fn new(api: Api) -> Self {
        Reader { api, splitter: Splitter::default(), seen: Seen::default(), is_complete: false }
    }

    /// Takes what was read `at` this time after the request was sent.
    pub fn feed(&mut self, at: Duration, bytes: &[u8]) {
        let Reader { api, splitter, seen, is_complete } = self;
        splitter.feed(bytes, |line| read_line(*api, seen, is_complete, at, line));
    }

    /// Ends the stream. One that ended without saying so is an error, unless it has named another.
    pub fn finish(mut self, at: Duration) -> Seen {
        let Reader { api, splitter, seen, is_complete } = &mut self;
        splitter.finish(|line| read_line(*api, seen, is_complete, at, line));
        if !self.is_complete && self.seen.error.is_none() {
            self.seen.error = Some("the stream ended in the middle".to_owned());
        }
        self.seen
    }

    /// What came until now, of a stream that will not be read to its end.
    pub fn abandon(self) -> Seen {
        self.seen
    }
}

fn read_line(api: Api, seen: &mut Seen, is_complete: &mut bool, at: Duration, line: &[u8]) {
    match api {
        Api::Native => read_native(seen, is_complete, at, line),
        Api::OpenAi => read_event(seen, is_complete, at, line),
    }
}

fn read_native(seen: &mut Seen, is_complete: &mut bool, at: Duration, line: &[u8]) {
    let chunk: ChatChunk = match serde_json::from_slice(line) {
        Ok(Line::Chunk(chunk)) => chunk,
        Ok(Line::Error(body)) => return fail(seen, body.error),
        Err(_) => return fail(seen, format!("a line that is no chunk: {}", excerpt(line))),
    };
    let message = &chunk.message;
    let says = !message.content.is_empty();
    mark(seen, at, says, says || !message.thinking.is_empty() || !message.tool_calls.is_empty());
    if chunk.done {
        *is_complete = true;
        seen.done_reason = chunk.done_reason.and_then(|reason| word(&serde_json::to_value(reason).ok()?));
        seen.output_tokens = chunk.metrics.eval_count;
        seen.prompt_tokens = chunk.metrics.prompt_eval_count;
        seen.metrics = Some(chunk.metrics);
    }
}

fn read_event(seen: &mut Seen, is_complete: &mut bool, at: Duration, line: &[u8]) {
    // Of server-sent events only data is of use here: no engine sends other fields that matter.
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { return };
    if data == b"[DONE]" {
        *is_complete = true;
        return;
    }
    let Ok(chunk) = serde_json::from_slice::<ChatCompletionChunk>(data) else {
        return fail(seen, format!("an event that is no chunk: {}", excerpt(data)));
    };
    if let Some(error) = chunk.error {
        let message = error.get("message").and_then(word).or_else(|| word(&error));
        return fail(seen, message.unwrap_or_else(|| error.to_string()));
    }
    for choice in &chunk.choices {
        let is_there = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let says = is_there(&choice.delta.content);
        let calls = choice.delta.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
        mark(seen, at, says, says || calls || is_there(&choice.delta.reasoning));
        if let Some(reason) = &choice.finish_reason {
            seen.done_reason = Some(reason.clone());
        }
    }
    if let Some(usage) = chunk.usage {
        seen.output_tokens = Some(usage.completion_tokens);
        seen.prompt_tokens = Some(usage.prompt_tokens);
    }
}

/// A chunk that adds nothing (a role, a keep-alive) is no token and has no moment.
fn mark(seen: &mut Seen, at: Duration, says: bool, adds: bool) {
    if adds {
        seen.chunks.push(at);
    }
    if says && seen.output.is_none() {
        seen.output = Some(at);
    }
}

fn fail(seen: &mut Seen, error: String) {
    seen.error.get_or_insert(error);
}

fn word(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn read(api: Api, reads: &[(u32, &str)]) -> Seen {
        let mut reader = Reader::new(api);
        let mut last = Duration::ZERO;
        for (at, bytes) in reads {
            last = MS * *at;
            reader.feed(last, bytes.as_bytes());
        }
        reader.finish(last)
    }

    const DONE: &str = "{\"message\":{\"content\":\"\"},\"done\":true,\"done_reason\":\"length\",\"eval_count\":3,\"prompt_eval_count\":9}\n";

    #[test]
    fn empty_chunks_have_no_moment_and_thinking_is_no_output() {
        let seen = read(
            Api::Native,
            &[
                (10, "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n"),
                (20, "{\"message\":{\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}\n"),
                (30, "{\"message\":{\"content\":\"a\"},\"done\":false}\n"),
                (40, "{\"message\":{\"content\":\"b\"},\"done\":false}\n"),
                (55, DONE),
            ],
        );
        assert_eq!((seen.chunks, seen.output), (vec![MS * 20, MS * 30, MS * 40], Some(MS * 30)));
        assert_eq!((seen.output_tokens, seen.prompt_tokens), (Some(3), Some(9)));
        assert_eq!((seen.done_reason.as_deref(), seen.error), (Some("length"), None));
    }

    #[test]
    fn a_line_has_the_moment_of_the_read_that_completed_it() {
        let seen = read(
            Api::Native,
            &[
                (10, "{\"message\":{\"content\":\"a\"}}\n{\"message\":{\"content\":\"b\"}}\n{\"mess"),
                (20, "age\":{\"cont"),
                (30, &format!("ent\":\"c\"}}}}\n{DONE}")),
            ],
        );
        assert_eq!(seen.chunks, [MS * 10, MS * 10, MS * 30]);
        assert_eq!(seen.error, None);
    }

    #[test]
    fn a_call_is_a_token_but_no_output() {
        let seen = read(Api::Native, &[(7, "{\"message\":{\"content\":\"\",\"tool_calls\":[{}]}}\n"), (9, DONE)]);
        assert_eq!((seen.chunks, seen.output), (vec![MS * 7], None));
    }

    #[test]
    fn errors_inside_a_stream_that_began_well_are_seen() {
        let begun = "{\"message\":{\"content\":\"a\"}}\n";
        for (end, expected) in [
            ("{\"error\":\"out of memory\"}\n", "out of memory"),
            ("{\"message\":{\"cut\n", "a line that is no chunk: {\"message\":{\"cut"),
            ("", "the stream ended in the middle"),
        ] {
            let seen = read(Api::Native, &[(1, begun), (2, end)]);
            assert_eq!((seen.error.as_deref(), seen.chunks), (Some(expected), vec![MS]));
        }
    }

    #[test]
    fn openai_roles_keep_alives_and_usage_are_no_tokens() {
        let event = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n");
        let seen = read(
            Api::OpenAi,
            &[
                (5, ": keep-alive\n\n"),
                (10, &event("{\"role\":\"assistant\",\"content\":\"\"}")),
                (12, &event("{\"content\":null,\"reasoning_content\":\"hm\"}")),
                (20, &event("{\"content\":\"a\"}")),
                (30, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"),
                (31, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\n"),
                (32, "data: [DONE]\n\n"),
            ],
        );
        assert_eq!((seen.chunks, seen.output), (vec![MS * 12, MS * 20], Some(MS * 20)));
        assert_eq!((seen.output_tokens, seen.done_reason.as_deref(), seen.error), (Some(2), Some("stop"), None));
        let failed = read(Api::OpenAi, &[(1, "data: {\"error\":{\"message\":\"no\",\"type\":\"api_error\"}}\n\n")]);
        assert_eq!(failed.error.as_deref(), Some("no"));
    }

    #[test]
    fn any_split_gives_the_same_moments_when_all_is_read_at_once() {
        let text = format!("{{\"message\":{{\"content\":\"ä\"}}}}\n{{\"message\":{{\"thinking\":\"b\"}}}}\n{DONE}");
        let whole = read(Api::Native, &[(3, &text)]);
        let mut reader = Reader::new(Api::Native);
        text.as_bytes().chunks(1).for_each(|byte| reader.feed(MS * 3, byte));
        assert_eq!(reader.finish(MS * 3), whole);
    }
}
