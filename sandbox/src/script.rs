//! What an answer will say, step by step, before anyone waits for it.
//!
//! Text becomes tokens here, limits cut it here, and faults that a scenario asks for are laid in here; what plays a
//! script ([`crate::generation`]) only waits and tells.
//!
//! Invariant: the steps of a script, joined, are exactly the text it was made from, cut where a limit cuts it; a step
//! never splits a character.

use std::time::Duration;

use serde_json::Value;
use wire::ollama::DoneReason;

/// Longest token of text that is not one word, in bytes. English and code average four.
const LONGEST_TOKEN_BYTES: usize = 12;

/// An answer, planned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
    pub(crate) reason: DoneReason,
}

/// One thing told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) saying: Saying,
    /// Tokens that this took to make.
    pub(crate) tokens: u32,
    /// Tokens that are made after this before it is told: it is part of a burst.
    pub(crate) held_for: u32,
    /// A stall before it.
    pub(crate) wait: Duration,
}

/// What a step tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Saying {
    Text(String),
    Thinking(String),
    /// `{id, function: {index, name, arguments}}`
    Calls(Vec<Value>),
    /// Bytes that are no chunk, told as they are.
    Malformed(String),
    /// The answer ends here with an error, inside the stream.
    Error(String),
    /// The connection ends here, in the middle of a chunk.
    Death,
}

impl Step {
    pub(crate) fn of(saying: Saying, tokens: u32) -> Self {
        Self { saying, tokens, held_for: 0, wait: Duration::ZERO }
    }
}

impl Script {
    /// Thinks `thinking`, says `text`, then asks for `calls`.
    pub(crate) fn new(thinking: Vec<String>, text: Vec<String>, calls: Vec<Value>) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        steps.extend(thinking.into_iter().map(|token| Step::of(Saying::Thinking(token), 1)));
        steps.extend(text.into_iter().map(|token| Step::of(Saying::Text(token), 1)));
        if !calls.is_empty() {
            // A call is told in one piece, once the model has written all of it.
            let bytes: usize = calls.iter().map(|call| call.to_string().len()).sum();
            steps.push(Step::of(Saying::Calls(calls), u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)));
        }
        Self { steps, reason: DoneReason::Stop }
    }

    /// Ends before the first of `stops` that the text holds.
    pub(crate) fn stop_at(&mut self, stops: &[String]) {
        let text: String = self.steps.iter().filter_map(Step::text).collect();
        let Some(end) = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop)).min() else {
            return;
        };
        let mut left = end;
        let mut kept = Vec::new();
        for mut step in std::mem::take(&mut self.steps) {
            if let Saying::Text(text) = &mut step.saying {
                if left == 0 {
                    break;
                }
                let whole = text.len();
                text.truncate(left);
                left -= left.min(whole);
            } else if !matches!(step.saying, Saying::Thinking(_)) {
                break;
            }
            kept.push(step);
        }
        self.steps = kept;
    }

    /// Says at most `most` tokens.
    pub(crate) fn limit(&mut self, most: u32) {
        let mut tokens = 0u32;
        let fits = self.steps.iter().take_while(|step| {
            tokens = tokens.saturating_add(step.tokens);
            tokens <= most
        });
        let fits = fits.count();
        if fits < self.steps.len() {
            self.steps.truncate(fits);
            self.reason = DoneReason::Length;
        }
    }

    /// Tells tokens in groups of `size`, each group when its last token is made.
    pub(crate) fn burst(&mut self, size: usize) {
        for group in self.steps.chunks_mut(size.max(1)) {
            let mut after = 0;
            for step in group.iter_mut().rev() {
                step.held_for = after;
                after += step.tokens;
            }
        }
    }

    /// Lays a fault in after `after` steps, or at the end.
    pub(crate) fn insert(&mut self, after: usize, saying: Saying) {
        let ends_it = matches!(saying, Saying::Error(_) | Saying::Death);
        let at = after.min(self.steps.len());
        self.steps.insert(at, Step::of(saying, 0));
        if ends_it {
            self.steps.truncate(at + 1);
        }
    }
}

impl Step {
    /// The text that it tells.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.saying {
            Saying::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Text as tokens: words, each with the white space before it, long ones in pieces.
pub(crate) fn tokenize(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    let mut in_word = false;
    for c in text.chars() {
        let starts_next = (in_word && c.is_whitespace()) || token.len() >= LONGEST_TOKEN_BYTES;
        if starts_next && !token.is_empty() {
            tokens.push(std::mem::take(&mut token));
        }
        in_word = !c.is_whitespace();
        token.push(c);
    }
    if !token.is_empty() {
        tokens.push(token);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Script {
        Script::new(Vec::new(), tokenize(text), Vec::new())
    }

    fn said(script: &Script) -> String {
        script.steps.iter().filter_map(Step::text).collect()
    }

    #[test]
    fn tokens_joined_are_the_text() {
        for text in ["", " ", "a", "one two  three\n\nfour ", "überlangeswortohneleerzeichen", "{\"a\":[1, 2]}\n"] {
            let tokens = tokenize(text);
            assert_eq!(tokens.concat(), text);
            assert!(tokens.iter().all(|token| !token.is_empty()));
        }
        assert_eq!(tokenize("one two"), ["one", " two"]);
    }

    #[test]
    fn ends_before_the_first_stop_even_if_it_lies_across_tokens() {
        let mut script = script("one two three four");
        script.stop_at(&["four".to_owned(), "wo th".to_owned()]);
        assert_eq!((said(&script).as_str(), script.reason), ("one t", DoneReason::Stop));
    }

    #[test]
    fn a_limit_counts_the_tokens_of_a_call() {
        let call = serde_json::json!({"function": {"name": "f", "arguments": {}}});
        let mut script = Script::new(vec!["hm".to_owned()], vec!["a".to_owned()], vec![call]);
        let all: u32 = script.steps.iter().map(|step| step.tokens).sum();
        script.limit(all);
        assert_eq!((script.steps.len(), script.reason), (3, DoneReason::Stop));
        script.limit(all - 1);
        assert_eq!((script.steps.len(), script.reason), (2, DoneReason::Length));
    }

    #[test]
    fn a_burst_waits_for_its_last_token() {
        let mut script = script("a b c d e");
        script.burst(2);
        let held: Vec<u32> = script.steps.iter().map(|step| step.held_for).collect();
        assert_eq!(held, [1, 0, 1, 0, 0]);
    }

    #[test]
    fn nothing_follows_an_error_or_a_death() {
        let mut script = script("a b c");
        script.insert(1, Saying::Malformed("{".to_owned()));
        script.insert(3, Saying::Death);
        assert_eq!(script.steps.len(), 4);
        assert_eq!(said(&script), "a b");
    }
}
