//! The words of the stand-in. They say that they are synthetic, in the first token.
//!
//! Invariant: an answer's tokens depend on model, prompt and seed alone; each is non-empty and becomes one chunk, so
//! that `eval_count` counts what a client can count.

use wire::ollama::Message;

use crate::random::Random;

/// Tokens of an answer that nothing cuts short.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=96;

/// Everything after the opening is drawn from here.
const WORDS: &[&str] = &[
    "a", "the", "each", "this", "no", "every", "token", "word", "line", "answer", "model", "request", "prompt",
    "clock", "queue", "stream", "test", "is", "was", "means", "counts", "takes", "follows", "repeats", "measures",
    "keeps", "nothing", "little", "exactly", "again", "here", "and", "but", "so", "then", "because", "of", "in", "on",
    "with",
];

/// What an answer is made from.
pub(crate) struct Prompt {
    model: String,
    messages: Vec<Message>,
    seed: i64,
}

impl Prompt {
    pub(crate) fn new(model: String, messages: Vec<Message>, seed: Option<i64>) -> Self {
        Self { model, messages, seed: seed.unwrap_or_default() }
    }

    /// An estimate of the prompt's tokens: a token for every four bytes of text, rounded up, and four for each
    /// message's place in the template. English and code come near it.
    pub(crate) fn tokens(&self) -> u32 {
        let tokens: usize = self.messages.iter().map(|message| message.content.len().div_ceil(4) + 4).sum();
        tokens.try_into().unwrap_or(u32::MAX)
    }

    /// The answer's tokens.
    pub(crate) fn reply(&self) -> Vec<String> {
        let seed = self.seed.to_le_bytes();
        let mut parts = vec![self.model.as_bytes(), &seed];
        for message in &self.messages {
            parts.extend([message.role.as_bytes(), message.content.as_bytes()]);
        }
        let mut random = Random::seeded(&parts);
        // The prompt's mark, not its words: they are the user's, and an agent might act on them.
        let mark = format!(" {:08x}:", random.next() as u32);
        let opening = ["[sandbox]", " synthetic", " reply", " to", " prompt", &mark];
        let mut tokens: Vec<String> = opening.into_iter().map(str::to_owned).collect();
        let length = LENGTHS.start() + random.below(LENGTHS.end() - LENGTHS.start() + 1);
        while tokens.len() + 1 < length {
            tokens.push(format!(" {}", WORDS[random.below(WORDS.len())]));
        }
        tokens.push(".".to_owned());
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(content: &str, seed: Option<i64>) -> String {
        let message = Message { role: "user".to_owned(), content: content.to_owned(), ..Message::default() };
        Prompt::new("m:latest".to_owned(), vec![message], seed).reply().concat()
    }

    #[test]
    fn says_first_that_it_is_synthetic() {
        assert!(reply("hi", None).starts_with("[sandbox] synthetic reply to prompt "));
    }

    #[test]
    fn the_same_prompt_and_seed_give_the_same_words() {
        assert_eq!(reply("hi", Some(1)), reply("hi", Some(1)));
        assert_ne!(reply("hi", Some(1)), reply("hi", Some(2)));
        assert_ne!(reply("hi", Some(1)), reply("ho", Some(1)));
    }

    #[test]
    fn keeps_within_its_lengths_and_never_says_nothing() {
        for seed in 0..200 {
            let tokens = Prompt::new("m".to_owned(), Vec::new(), Some(seed)).reply();
            assert!(LENGTHS.contains(&tokens.len()), "{}", tokens.len());
            assert!(tokens.iter().all(|token| !token.is_empty()));
        }
    }
}
