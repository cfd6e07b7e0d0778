//! Scenarios: answers that a test wrote, chosen by pattern, with the faults that a test needs.
//!
//! Without a file there are none, and every answer is synthetic text. The file is TOML and is described in
//! `docs/sandbox-engine.md`.
//!
//! Invariant: the first entry that fits and is not used up is played; an unknown key is an error, so that a test never
//! passes because its fault was misspelled.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use wire::ollama::Message;

use crate::script::{Saying, Script, tokenize};
use crate::timing::Timing;

/// All scenarios of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenarios {
    reply: Vec<Reply>,
    pub(crate) pull: Pull,
}

/// Why a file holds no scenarios.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// It is not TOML, or says something that is not known here.
    #[error("{} is no scenario file", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
}

/// How pulls go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pull {
    /// Time for each piece of a blob.
    pub(crate) piece_ms: u64,
    /// The registry goes away after this many pieces of a pull. Pulling again goes on from there.
    pub(crate) error_after_pieces: Option<u64>,
    /// So many pulls end with a model that is not what its digest says: it is thrown away.
    pub(crate) mismatches: u32,
}

/// One answer and when to give it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reply {
    /// Patterns, in which `*` stands for any text: of the model's short name, the whole of it …
    model: Option<String>,
    /// … and of something in the last message.
    contains: Option<String>,
    /// The last message's role.
    role: Option<String>,
    /// How often it is given; then the next entry that fits has its turn.
    times: Option<u32>,
    given: AtomicCount,

    /// Said, instead of synthetic text. A list is told one item a chunk.
    text: Option<Text>,
    /// Thought before, told even if the request wants no thinking shown.
    thinking: Option<String>,
    /// Asked for at the end: `{name, arguments}`.
    calls: Vec<Call>,

    time_to_first_token_ms: Option<u64>,
    time_per_output_token_ms: Option<u64>,
    /// Nothing comes for `stall_ms` before chunk `stall_after` (the first is 0).
    stall_after: usize,
    stall_ms: u64,
    /// Chunks told at a time.
    burst: Option<usize>,
    /// A line that is no JSON after this many chunks.
    malformed_after: Option<usize>,
    /// The answer ends with `error` after this many chunks.
    error_after: Option<usize>,
    /// The connection ends after this many chunks and half of the next.
    die_after: Option<usize>,
    /// Refused with this status and `error` before anything is said.
    status: Option<u16>,
    error: Option<String>,
}

/// What is said.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Text {
    Whole(String),
    Chunks(Vec<String>),
}

/// A function call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// How often something happened. In a file it is always nought.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "Nothing")]
struct AtomicCount(AtomicU32);

#[derive(Deserialize)]
struct Nothing {}

impl From<Nothing> for AtomicCount {
    fn from(_: Nothing) -> Self {
        Self::default()
    }
}

impl Scenarios {
    /// Those in the file at `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|source| ScenarioError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// Those in `text`.
    ///
    /// # Errors
    ///
    /// If it is not TOML or holds what is not known here.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The entry for this request, now used once more.
    pub(crate) fn choose(&self, model: &str, messages: &[Message]) -> Option<&Reply> {
        let last = messages.last()?;
        self.reply.iter().find(|reply| reply.fits(model, last) && reply.take())
    }
}

impl Reply {
    fn fits(&self, model: &str, last: &Message) -> bool {
        self.model.as_ref().is_none_or(|pattern| is_like(pattern, model))
            && self.contains.as_ref().is_none_or(|pattern| is_like(&format!("*{pattern}*"), &last.content))
            && self.role.as_ref().is_none_or(|role| *role == last.role)
    }

    fn take(&self) -> bool {
        let most = self.times.unwrap_or(u32::MAX);
        let one_more = |given: u32| (given < most).then_some(given + 1);
        self.given.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// The status and error of a request that is not answered at all.
    pub(crate) fn refusal(&self) -> Option<(u16, String)> {
        Some((self.status?, self.error.clone().unwrap_or_else(|| "scenario".to_owned())))
    }

    /// The pace, where it differs from `timing`.
    pub(crate) fn timing(&self, timing: Timing) -> Timing {
        let ms = |given: Option<u64>, default| given.map_or(default, Duration::from_millis);
        Timing {
            time_to_first_token: ms(self.time_to_first_token_ms, timing.time_to_first_token),
            time_per_output_token: ms(self.time_per_output_token_ms, timing.time_per_output_token),
            ..timing
        }
    }

    /// What is said; `synthetic` is what would be.
    pub(crate) fn script(&self, synthetic: Script) -> Script {
        let has_own = self.text.is_some() || self.thinking.is_some() || !self.calls.is_empty();
        if !has_own {
            return synthetic;
        }
        let text = match &self.text {
            Some(Text::Whole(text)) => tokenize(text),
            Some(Text::Chunks(chunks)) => chunks.clone(),
            None => Vec::new(),
        };
        let calls = self.calls.iter().enumerate().map(|(index, call)| {
            let function = json!({"index": index, "name": call.name, "arguments": call.arguments});
            json!({"id": format!("call_{:08x}", fingerprint(&function, self)), "function": function})
        });
        Script::new(self.thinking.as_deref().map(tokenize).unwrap_or_default(), text, calls.collect())
    }

    /// Lays the faults in. Positions count the chunks of the script as it is now.
    pub(crate) fn spoil(&self, script: &mut Script) {
        if let Some(size) = self.burst {
            script.burst(size);
        }
        if let Some(step) = script.steps.get_mut(self.stall_after) {
            step.wait = Duration::from_millis(self.stall_ms);
        }
        // From the back, so that one does not shift the other.
        let error = || Saying::Error(self.error.clone().unwrap_or_else(|| "scenario".to_owned()));
        let faults = [
            (self.die_after, Saying::Death),
            (self.error_after, error()),
            (self.malformed_after, Saying::Malformed("{\"model\":\"cut".to_owned())),
        ];
        let mut faults: Vec<(usize, Saying)> =
            faults.into_iter().filter_map(|(after, saying)| Some((after?, saying))).collect();
        faults.sort_by_key(|(after, _)| std::cmp::Reverse(*after));
        for (after, saying) in faults {
            script.insert(after, saying);
        }
    }
}

/// Eight digits that differ from call to call: an agent tells calls apart by them.
fn fingerprint(function: &Value, reply: &Reply) -> u32 {
    let given = reply.given.0.load(Ordering::Relaxed).to_le_bytes();
    crate::random::Random::seeded(&[function.to_string().as_bytes(), &given]).next() as u32
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn is_like(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut rest: Vec<&str> = rest.split('*').collect();
    let last = rest.pop().unwrap_or_default();
    for part in rest {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Vec<Message> {
        vec![Message { role: "user".to_owned(), content: content.to_owned(), ..Message::default() }]
    }

    #[test]
    fn the_first_that_fits_and_is_not_used_up_is_played() {
        let scenarios = Scenarios::parse(
            "[[reply]]\nmodel = 'qwen*'\ncontains = 'fix*bug'\ntimes = 1\ntext = 'once'\n[[reply]]\ntext = 'ever'\n",
        )
        .unwrap();
        let said = |model, content| {
            let reply = scenarios.choose(model, &user(content)).unwrap();
            match reply.text.as_ref().unwrap() {
                Text::Whole(text) => text.clone(),
                Text::Chunks(chunks) => chunks.concat(),
            }
        };
        assert_eq!(said("llama3.1:8b", "fix the bug"), "ever");
        assert_eq!(said("qwen3:8b", "please fix the bug now"), "once");
        assert_eq!(said("qwen3:8b", "please fix the bug now"), "ever");
    }

    #[test]
    fn a_misspelled_key_is_an_error() {
        assert!(Scenarios::parse("[[reply]]\nstal_ms = 3\n").is_err());
        assert!(Scenarios::parse("[pull]\npieces = 3\n").is_err());
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in [("a", "a"), ("*", ""), ("a*c", "abc"), ("a*b*c", "aXbYc"), ("*b*", "abc")] {
            assert!(is_like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*c", "ab"), ("*x*", "abc"), ("a*b*c", "acb")] {
            assert!(!is_like(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn faults_do_not_shift_each_other() {
        let scenarios = Scenarios::parse(
            "[[reply]]\ntext = ['a', 'b', 'c']\nmalformed_after = 1\ndie_after = 2\nstall_after = 1\nstall_ms = 5\n",
        )
        .unwrap();
        let reply = scenarios.choose("m", &user("")).unwrap();
        let mut script = reply.script(Script::new(Vec::new(), Vec::new(), Vec::new()));
        reply.spoil(&mut script);
        let sayings: Vec<&Saying> = script.steps.iter().map(|step| &step.saying).collect();
        let text = |text: &str| Saying::Text(text.to_owned());
        let malformed = Saying::Malformed("{\"model\":\"cut".to_owned());
        assert_eq!(sayings, [&text("a"), &malformed, &text("b"), &Saying::Death]);
        assert_eq!(script.steps[2].wait, Duration::from_millis(5));
    }
}
