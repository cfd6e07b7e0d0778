//! What the model is asked.
//!
//! Invariant: no two requests of a run share a beginning, since engines keep prompts and would answer a known one
//! sooner. The same seed gives the same prompts.

use std::{fmt, fs, path::Path};

use serde::{Deserialize, Serialize};
use stack::failure::{Class, Doing, Failure};

/// Common words, each a single token in the vocabularies of today's models.
const WORDS: [&str; 24] = [
    "time", "people", "water", "house", "light", "number", "world", "school", "paper", "group", "music", "river",
    "table", "garden", "letter", "answer", "window", "market", "summer", "father", "story", "point", "night", "color",
];

/// One thing to ask, before it is made unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// What is asked.
    pub text: String,
    /// Tokens of the answer that are asked for; it may end sooner.
    pub output_tokens: u32,
}

/// Where prompts come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompts {
    /// These, in turn.
    Listed(Vec<Prompt>),
    /// Words without a meaning, about this many tokens of them.
    Synthetic {
        /// Of the prompt.
        input_tokens: u32,
        /// Of the answer.
        output_tokens: u32,
    },
}

/// `6 prompts`, `20 tokens in, 8 out`.
impl fmt::Display for Prompts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prompts::Listed(prompts) => match &prompts[..] {
                [one] => write!(f, "{} tokens", one.output_tokens),
                several => write!(f, "{} prompts", several.len()),
            },
            Prompts::Synthetic { input_tokens, output_tokens } => {
                write!(f, "{input_tokens} tokens in, {output_tokens} out")
            }
        }
    }
}

impl Prompts {
    /// The prompt of request `index`: a text that no other request begins with, and the tokens asked for.
    pub fn make(&self, index: usize, seed: u64) -> Prompt {
        let mut random = fastrand::Rng::with_seed(seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let nonce = format!("[{:016x}] ", random.u64(..));
        match self {
            Prompts::Listed(prompts) => {
                let prompt = &prompts[index % prompts.len()];
                Prompt { text: nonce + &prompt.text, output_tokens: prompt.output_tokens }
            }
            Prompts::Synthetic { input_tokens, output_tokens } => {
                // The nonce itself takes about ten tokens.
                let words = (0..input_tokens.saturating_sub(10)).filter_map(|_| random.choice(WORDS));
                let text = words.fold(nonce, |text, word| text + word + " ");
                Prompt { text: text + "Go on.", output_tokens: *output_tokens }
            }
        }
    }
}

/// The guide's six tasks, by name.
pub fn guide() -> Vec<(&'static str, Prompt)> {
    let ask = |text: &str| Prompt { text: text.to_owned(), output_tokens: 256 };
    vec![
        ("simple", Prompt { output_tokens: 64, ..ask("What is 2 + 2? Explain how you know, step by step.") }),
        (
            "code generation",
            ask(
                "Write a Python module that computes factorials: iterative, recursive and memoised, with doc strings and tests.",
            ),
        ),
        (
            "explanation",
            ask(
                "Explain in detail what this does, and how its running time grows:\ndef fib(n): return n if n <= 1 else fib(n - 1) + fib(n - 2)",
            ),
        ),
        (
            "refactoring",
            ask(
                "Refactor this to be efficient and idiomatic, and explain each change:\nfor i in range(len(a)):\n    for j in range(len(a)):\n        if a[i] < a[j]:\n            t = a[i]; a[i] = a[j]; a[j] = t",
            ),
        ),
        (
            "debugging",
            ask(
                "Find every bug in this, show the failing inputs, and write a corrected version with tests:\ndef mean(xs): return sum(xs) / len(xs)\ndef median(xs): return sorted(xs)[len(xs) / 2]",
            ),
        ),
        ("long context", ask(&log())),
    ]
}

/// Some 4,000 tokens of a log with one fault in it.
fn log() -> String {
    let mut text = String::from("Read this log, name what went wrong and when, and suggest where to look:\n");
    for second in 0..160 {
        let (minute, rest) = (second / 60, second % 60);
        text += &match second {
            101 => format!("12:{minute:02}:{rest:02} ERROR connection to replica 3 timed out after 30 s\n"),
            _ => format!(
                "12:{minute:02}:{rest:02} INFO request {} served in {} ms\n",
                4000 + second * 7,
                20 + second % 13
            ),
        };
    }
    text
}

/// A line of a prompts file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: String,
    output_tokens: Option<u32>,
}

/// Prompts from a file: a JSON object a line, `{"prompt":"…","output_tokens":256}`, the second optional.
///
/// # Errors
///
/// If it cannot be read, is empty, or has a line of another shape.
pub fn read(path: &Path, output_tokens: u32) -> Result<Prompts, Failure> {
    let text = fs::read_to_string(path).doing("cannot read", path)?;
    let mut prompts = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line).map_err(|error| {
            let place = format!("line {} of {} is no prompt", index + 1, path.display());
            Failure::new(Class::Settings, place)
                .because(&error)
                .hint("a line looks like {\"prompt\":\"…\",\"output_tokens\":256}")
        })?;
        prompts.push(Prompt { text: line.prompt, output_tokens: line.output_tokens.unwrap_or(output_tokens) });
    }
    match prompts.is_empty() {
        true => Err(Failure::new(Class::Settings, format!("{} has no prompts", path.display()))),
        false => Ok(Prompts::Listed(prompts)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_prompts_share_a_beginning_and_a_seed_repeats_them() {
        let synthetic = Prompts::Synthetic { input_tokens: 50, output_tokens: 9 };
        let listed = Prompts::Listed(guide().into_iter().map(|(_, prompt)| prompt).collect());
        for prompts in [synthetic, listed] {
            let beginnings: BTreeSet<String> = (0..500).map(|it| prompts.make(it, 7).text[..18].to_owned()).collect();
            assert_eq!(beginnings.len(), 500);
            assert_eq!(prompts.make(3, 7), prompts.make(3, 7));
            assert_ne!(prompts.make(3, 7).text, prompts.make(3, 8).text);
        }
    }

    #[test]
    fn synthetic_prompts_are_about_as_long_as_asked() {
        let words = Prompts::Synthetic { input_tokens: 500, output_tokens: 9 }.make(0, 1).text.split(' ').count();
        assert!((485..500).contains(&words), "{words}");
    }

    #[test]
    fn a_file_of_another_shape_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        fs::write(&path, "{\"prompt\":\"a\"}\n\n{\"prompt\":\"b\",\"output_tokens\":3}\n").unwrap();
        let Prompts::Listed(read_back) = read(&path, 99).unwrap() else { panic!("a file is a list") };
        assert_eq!(read_back.iter().map(|it| it.output_tokens).collect::<Vec<_>>(), [99, 3]);
        fs::write(&path, "{\"prompt\":\"a\"}\n{\"text\":\"b\"}\n").unwrap();
        let failure = read(&path, 99).unwrap_err();
        assert!(failure.message.starts_with("line 2 of ") && failure.class == Class::Settings);
        fs::write(&path, "\n").unwrap();
        assert!(read(&path, 99).unwrap_err().message.ends_with("has no prompts"));
    }
}
