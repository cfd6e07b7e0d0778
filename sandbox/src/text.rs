//! The words of the stand-in. They say that they are synthetic, in the first token.
//!
//! Invariant: an answer's tokens depend on model, prompt and seed alone; each is non-empty and becomes one chunk, so
//! that `eval_count` counts what a client can count.

use serde_json::Value;
use wire::ollama::Message;

use crate::random::Random;
use crate::schema;
#[cfg(test)]
use crate::script::Saying;
use crate::script::{Script, tokenize};

/// Tokens of an answer that nothing cuts short.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=96;

/// Everything after the opening is drawn from here.
const WORDS: &[&str] = &[
    "a", "the", "each", "this", "no", "every", "token", "word", "line", "answer", "model", "request", "prompt",
    "clock", "queue", "stream", "test", "is", "was", "means", "counts", "takes", "follows", "repeats", "measures",
    "keeps", "nothing", "little", "exactly", "again", "here", "and", "but", "so", "then", "because", "of", "in", "on",
    "with",
];

/// Tokens of a thought that nothing cuts short.
const THOUGHTS: usize = 12;

/// What an answer is made from.
pub(crate) struct Prompt {
    pub(crate) model: String,
    pub(crate) messages: Vec<Message>,
    /// Functions that the model may call: they are part of what it reads.
    pub(crate) tools: Vec<Value>,
    pub(crate) seed: i64,
    /// `"json"` or a schema.
    pub(crate) format: Option<Value>,
    /// Whether it thinks before it speaks.
    pub(crate) is_thinking: bool,
}

impl Prompt {
    /// An estimate of the prompt's tokens: a token for every four bytes of text, rounded up, and four for each
    /// message's place in the template. English and code come near it.
    pub(crate) fn tokens(&self) -> u32 {
        let messages = self.messages.iter().map(|message| {
            let calls: usize = message.tool_calls.iter().map(|call| call.to_string().len()).sum();
            (message.content.len() + calls).div_ceil(4) + 4
        });
        let tools = self.tools.iter().map(|tool| tool.to_string().len().div_ceil(4) + 4);
        messages.chain(tools).sum::<usize>().try_into().unwrap_or(u32::MAX)
    }

    /// All that the model reads, in the order of reading: what two prompts share here, they share in the cache. A role
    /// comes after its content, so that prompts of different content share nothing.
    pub(crate) fn read(&self) -> String {
        let mut text = String::new();
        for tool in &self.tools {
            text.push_str(&tool.to_string());
        }
        for message in &self.messages {
            text.push_str(&message.content);
            text.extend(message.tool_calls.iter().map(Value::to_string));
            text.extend(["\n", &message.role, "\n"]);
        }
        text
    }

    /// What the model says and thinks.
    pub(crate) fn reply(&self) -> Script {
        let seed = self.seed.to_le_bytes();
        let mut parts = vec![self.model.as_bytes(), &seed];
        for message in &self.messages {
            parts.extend([message.role.as_bytes(), message.content.as_bytes()]);
        }
        let mut random = Random::seeded(&parts);
        // The prompt's mark, not its words: they are the user's, and an agent might act on them.
        let mark = format!("{:08x}", random.next() as u32);
        let text = match schema::answer(self.format.as_ref(), &format!("[sandbox] synthetic {mark}")) {
            Some(json) => tokenize(&json),
            None => {
                let opening = ["[sandbox]", " synthetic", " reply", " to", " prompt", &format!(" {mark}:")];
                let mut tokens: Vec<String> = opening.into_iter().map(str::to_owned).collect();
                let length = LENGTHS.start() + random.below(LENGTHS.end() - LENGTHS.start() + 1);
                tokens.resize_with(length - 1, || format!(" {}", WORDS[random.below(WORDS.len())]));
                tokens.push(".".to_owned());
                tokens
            }
        };
        let thinking = if self.is_thinking { think(&mark) } else { Vec::new() };
        Script::new(thinking, text, Vec::new())
    }
}

fn think(mark: &str) -> Vec<String> {
    let mut random = Random::seeded(&[b"thinking", mark.as_bytes()]);
    let mut tokens = vec!["[sandbox]".to_owned(), " synthetic".to_owned(), " thought:".to_owned()];
    tokens.resize_with(THOUGHTS, || format!(" {}", WORDS[random.below(WORDS.len())]));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(content: &str, seed: i64) -> Prompt {
        let message = Message { role: "user".to_owned(), content: content.to_owned(), ..Message::default() };
        Prompt {
            model: "m:latest".to_owned(),
            messages: vec![message],
            tools: Vec::new(),
            seed,
            format: None,
            is_thinking: false,
        }
    }

    fn told(script: Script) -> Vec<String> {
        let texts = script.steps.into_iter().map(|step| match step.saying {
            Saying::Text(text) => text,
            other => panic!("{other:?}"),
        });
        texts.collect()
    }

    fn reply(content: &str, seed: i64) -> String {
        told(prompt(content, seed).reply()).concat()
    }

    #[test]
    fn says_first_that_it_is_synthetic() {
        assert!(reply("hi", 0).starts_with("[sandbox] synthetic reply to prompt "));
    }

    #[test]
    fn the_same_prompt_and_seed_give_the_same_words() {
        assert_eq!(reply("hi", 1), reply("hi", 1));
        assert_ne!(reply("hi", 1), reply("hi", 2));
        assert_ne!(reply("hi", 1), reply("ho", 1));
    }

    #[test]
    fn keeps_within_its_lengths_and_never_says_nothing() {
        for seed in 0..200 {
            let tokens = told(prompt("", seed).reply());
            assert!(LENGTHS.contains(&tokens.len()), "{}", tokens.len());
            assert!(tokens.iter().all(|token| !token.is_empty()));
        }
    }

    #[test]
    fn thinks_before_it_speaks_and_speaks_as_if_it_had_not() {
        let thinking = Prompt { is_thinking: true, ..prompt("hi", 1) }.reply();
        let thoughts = thinking.steps.iter().take_while(|step| matches!(step.saying, Saying::Thinking(_)));
        assert_eq!(thoughts.count(), THOUGHTS);
        assert_eq!(thinking.steps[THOUGHTS..], prompt("hi", 1).reply().steps);
    }
}
