//! Why an agent did not do what it was asked: in one word for a machine, in a sentence and a next step for a person.
//!
//! Agents end with status 0 when the model fails, so nothing here rests on a status.

use serde::{Deserialize, Serialize};

/// What kept an agent from its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Diagnosis {
    /// Nothing answers, or something else does.
    Endpoint {
        /// What came instead.
        detail: String,
    },
    /// The gateway refuses.
    Key {
        /// How.
        detail: String,
        /// Whether a key was sent at all.
        given: bool,
    },
    /// The engine has no such model.
    Model {
        /// Which.
        model: String,
    },
    /// Too few tokens for what the agent has to say.
    Context {
        /// Tokens there are.
        context: u32,
        /// Tokens it takes.
        least: u32,
    },
    /// Its time was over.
    Deadline {
        /// How long it had.
        seconds: u64,
    },
    /// It ended by itself with an error, and no file changed.
    Ended {
        /// How.
        detail: String,
    },
    /// It was content, and no file changed: the answer was no edit.
    NoEdit,
    /// Files changed, and the code does not do what was asked.
    Wrong {
        /// What it does instead.
        detail: String,
    },
}

impl Diagnosis {
    /// What is wrong.
    pub fn words(&self) -> String {
        match self {
            Diagnosis::Endpoint { detail } => format!("the endpoint does not answer: {detail}"),
            Diagnosis::Key { detail, given: true } => format!("the API key is refused: {detail}"),
            Diagnosis::Key { detail, given: false } => format!("the endpoint wants an API key: {detail}"),
            Diagnosis::Model { model } => format!("the engine has no model {model}"),
            Diagnosis::Context { context, least } => {
                format!("the context is too small: {context} tokens, and the agent needs {least}")
            }
            Diagnosis::Deadline { seconds } => format!("it was not done within {seconds} s"),
            Diagnosis::Ended { detail } => format!("it {detail} and changed no file"),
            Diagnosis::NoEdit => "the answer was no edit: no file changed".to_owned(),
            Diagnosis::Wrong { detail } => format!("the code does not do what was asked: {detail}"),
        }
    }

    /// What to do next.
    pub fn hint(&self, agent: &str) -> String {
        match self {
            Diagnosis::Endpoint { .. } => {
                "`cargo xtask status` shows what runs; another endpoint is named with --endpoint".to_owned()
            }
            Diagnosis::Key { .. } => format!("`cargo xtask agent configure {agent} --key` takes one"),
            Diagnosis::Model { .. } => {
                format!("pull it, or name one that is there: `cargo xtask agent configure {agent} --model M`")
            }
            Diagnosis::Context { least, .. } => {
                format!("set engine.context_length to {least} or more in stack.toml and run `cargo xtask deploy`")
            }
            Diagnosis::Deadline { .. } => {
                "the transcript shows how far it came; --deadline gives it longer, a smaller model is faster".to_owned()
            }
            Diagnosis::Ended { .. } => "the transcript shows what it said".to_owned(),
            Diagnosis::NoEdit => {
                "the transcript shows what the model said; a larger model keeps to an agent's edit format better"
                    .to_owned()
            }
            Diagnosis::Wrong { .. } => "the transcript shows what the model wrote; try a larger model".to_owned(),
        }
    }

    /// What an agent's own words give away; each pair is what servers and agents say, in lower case.
    pub(crate) fn in_transcript(transcript: &str, context: u32, least: u32) -> Option<Diagnosis> {
        let said = transcript.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let too_long = ["context length", "context window", "token limit", "exceed_context", "prompt is too long"];
        (says(&too_long) && says(&["exceed", "too long", "too small", "hit a token limit", "overflow"]))
            .then_some(Diagnosis::Context { context, least: least.max(context.saturating_mul(2)) })
    }
}
