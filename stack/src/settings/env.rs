//! Takes over the `.env` of the guide's Compose files.
//!
//! Each variable that lives on becomes a line of `stack.toml`, and the reader of `stack.toml` judges it: one set of
//! rules for both files. Invariants: a variable is taken over, noted with the reason why not, or at fault, never
//! dropped in silence; and no value that is not taken over is ever shown, since it may be a secret.

use std::{ops::Range, path::Path};

use toml::Value;

use super::{
    fault::{Fault, Invalid, LoadError},
    read,
    value::Wrong,
};

/// What an old `.env` says, as far as this stack still has it.
#[derive(Debug, Clone, Default)]
pub struct EnvFile {
    taken: Vec<Taken>,
    /// What was left behind, in the order of the file.
    pub notes: Vec<Note>,
}

/// A variable that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Counted from 1.
    pub line: usize,
    /// Its name; the value may be a secret.
    pub variable: String,
    /// Why not, as a lowercase fragment.
    pub why: &'static str,
}

/// A variable that became a setting.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) table: &'static str,
    pub(super) key: &'static str,
    pub(super) value: Value,
    pub(super) variable: &'static str,
    line: usize,
    /// The assignment, up to the end of its value.
    extent: Range<usize>,
    /// The value.
    span: Range<usize>,
}

/// How a variable's text becomes a value, or why it does not.
type Convert = fn(&str) -> Result<Value, &'static str>;

const TAKEN: [(&str, &str, &str, Convert); 12] = [
    ("OLLAMA_MODELS_PATH", "engine", "models_path", folder),
    ("OLLAMA_MEMORY_LIMIT", "engine", "memory_limit", string),
    ("OLLAMA_MEMORY_RESERVATION", "engine", "memory_reservation", string),
    ("OLLAMA_KEEP_ALIVE", "engine", "keep_alive", string),
    ("OLLAMA_NUM_PARALLEL", "engine", "num_parallel", whole),
    ("OLLAMA_MAX_LOADED_MODELS", "engine", "max_loaded_models", whole),
    ("OLLAMA_CONTEXT_LENGTH", "engine", "context_length", whole),
    ("OLLAMA_KV_CACHE_TYPE", "engine", "kv_cache_type", string),
    ("OLLAMA_FLASH_ATTENTION", "engine", "flash_attention", switch),
    ("DEFAULT_MODEL", "models", "default", string),
    ("OLLAMA_API_PORT", "ports", "api", whole),
    ("PROMETHEUS_RETENTION", "monitoring", "retention", string),
];

impl EnvFile {
    /// Reads the text of a `.env`; `file` is only its name, for the faults.
    pub fn parse(text: &str, file: &Path) -> Result<EnvFile, Invalid> {
        let mut env = EnvFile::default();
        let (assignments, mut faults) = scan(text);
        for assignment in assignments {
            env.take(assignment);
        }
        env.notes.sort_by_key(|note| note.line);
        faults.extend(env.judge());
        if faults.is_empty() { Ok(env) } else { Err(Invalid::new(file, env.masked(text), faults)) }
    }

    /// Reads a `.env`.
    pub fn load(file: &Path) -> Result<EnvFile, LoadError> {
        Ok(EnvFile::parse(&LoadError::read(file)?, file)?)
    }

    pub(super) fn taken(&self) -> &[Taken] {
        &self.taken
    }

    fn take(&mut self, Assignment { name, value, line, extent, span }: Assignment<'_>) {
        let Some(&(variable, table, key, convert)) = TAKEN.iter().find(|(variable, ..)| *variable == name) else {
            return self.leave(line, name, why_not(name, value));
        };
        if value.is_empty() {
            return self.leave(line, name, "it is empty, which Compose takes for unset");
        }
        let value = match convert(value) {
            Ok(value) => value,
            Err(why) => return self.leave(line, name, why),
        };
        if let Some(earlier) = self.taken.iter().position(|taken| taken.variable == variable) {
            let earlier = self.taken.remove(earlier);
            self.leave(earlier.line, name, "it is set again below, and the last one counts");
        }
        self.taken.push(Taken { table, key, value, variable, line, extent, span });
    }

    fn leave(&mut self, line: usize, variable: &str, why: &'static str) {
        self.notes.push(Note { line, variable: variable.to_owned(), why });
    }

    /// What the reader of `stack.toml` says to these values, told at their places in the `.env`.
    fn judge(&self) -> Vec<Fault> {
        let mut text = String::new();
        let mut starts = Vec::new();
        for taken in &self.taken {
            starts.push(text.len());
            text.push_str(&format!("{}.{} = {}\n", taken.table, taken.key, taken.value));
        }
        let home = |span: Range<usize>| {
            let nth = starts.partition_point(|start| *start <= span.start).saturating_sub(1);
            self.taken[nth].span.clone()
        };
        let faults = read::read(&text).1.faults.into_iter();
        faults.map(|fault| Fault { span: home(fault.span), other: fault.other.map(home), ..fault }).collect()
    }

    /// The text with everything blackened that was not taken over. As long as before, byte by byte: the spans of the
    /// faults have to stay true.
    fn masked(&self, text: &str) -> String {
        let shown = |at| self.taken.iter().any(|taken| taken.extent.contains(&at));
        let mask = |(at, c): (usize, char)| {
            if c.is_whitespace() || shown(at) { c.to_string() } else { "*".repeat(c.len_utf8()) }
        };
        text.char_indices().map(mask).collect()
    }
}

/// `NAME=value`, as it stands in the file.
struct Assignment<'t> {
    name: &'t str,
    value: &'t str,
    line: usize,
    extent: Range<usize>,
    span: Range<usize>,
}

/// Splits a `.env` as Compose does: comments, `export`, quotes that may run over lines. Nothing is expanded.
fn scan(text: &str) -> (Vec<Assignment<'_>>, Vec<Fault>) {
    let mut assignments = Vec::new();
    let mut faults = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let line_end = text[at..].find('\n').map_or(text.len(), |length| at + length);
        let start = line_end - text[at..line_end].trim_start().len();
        let line = text[start..line_end].trim_end();
        at = line_end + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|(name, _)| is_name(bare(name))) else {
            let wrong = Wrong::new("this is no assignment", "write NAME=value, or a # before it");
            faults.push(Fault::new(start..start + line.len(), wrong));
            continue;
        };
        let name = bare(name);
        let span_start = start + line.len() - value.trim_start().len();
        let Some((value, span)) = value_at(text, span_start, line_end) else {
            let wrong = Wrong::new(format!("the quote of `{name}` is never closed"), "write the same quote at its end");
            faults.push(Fault::new(span_start..span_start + 1, wrong));
            // Whatever follows is inside the quote.
            break;
        };
        at = text[span.end..].find('\n').map_or(text.len(), |length| span.end + length + 1);
        let line = text[..start].matches('\n').count() + 1;
        assignments.push(Assignment { name, value, line, extent: start..span.end, span });
    }
    (assignments, faults)
}

fn bare(name: &str) -> &str {
    name.strip_prefix("export ").unwrap_or(name).trim()
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The value without its quotes, and where it stands with them. `None` if a quote is never closed.
fn value_at(text: &str, start: usize, line_end: usize) -> Option<(&str, Range<usize>)> {
    let quote = text[start..].chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        let line = &text[start..line_end];
        // Only a # after a space starts a comment: passwords and colours hold them too.
        let end = if line.starts_with('#') { Some(0) } else { line.find(" #") };
        let value = line[..end.unwrap_or(line.len())].trim_end();
        return Some((value, start..start + value.len()));
    };
    let inside = &text[start + 1..];
    let escaped = |at: usize| quote == '"' && inside[..at].bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1;
    let (length, _) = inside.match_indices(quote).find(|(at, _)| !escaped(*at))?;
    Some((&inside[..length], start..start + length + 2))
}

fn string(text: &str) -> Result<Value, &'static str> {
    Ok(Value::String(text.to_owned()))
}

/// What is not a number stays a string, for the reader to refuse.
fn whole(text: &str) -> Result<Value, &'static str> {
    text.parse().map(Value::Integer).or_else(|_| string(text))
}

fn switch(text: &str) -> Result<Value, &'static str> {
    match text {
        "1" | "true" => Ok(Value::Boolean(true)),
        "0" | "false" => Ok(Value::Boolean(false)),
        _ => string(text),
    }
}

fn folder(text: &str) -> Result<Value, &'static str> {
    let home = ["$HOME/", "${HOME}/"].iter().find_map(|home| text.strip_prefix(home));
    match home {
        Some(below) => string(&format!("~/{below}")),
        None if text.starts_with(['/', '~']) => string(text),
        None => Err("it is relative to the old checkout; to keep those models, write their full path as `models_path`"),
    }
}

/// Why a variable has no place in `stack.toml`.
fn why_not(name: &str, value: &str) -> &'static str {
    match name {
        "GRAFANA_ADMIN_PASSWORD" if PUBLISHED.contains(&value) => {
            "the guide publishes this password: never use it again"
        }
        name if SECRET.iter().any(|word| name.contains(word)) => "a secret never goes into stack.toml",
        "OLLAMA_HOST" => "the engine listens on loopback only; clients find it through `ports.api`",
        "OLLAMA_NUM_CTX" => "Ollama does not read it; the setting is `engine.context_length`",
        "PROMETHEUS_PORT" => {
            "it was the port on the LAN, which is the edge's; `ports.prometheus` is the one on loopback"
        }
        "NODE_EXPORTER_PORT" => "it was the port on the LAN; `ports.node_exporter` is the one on loopback",
        name if name.starts_with("MISTRAL_") => "mistral.rs is not part of this stack",
        _ => "this stack has no such setting",
    }
}

/// The admin passwords that the guide's files and pages ship.
const PUBLISHED: [&str; 5] = ["frontier-llm", "changeme123!", "changeme", "mysecurepassword", "dev123"];

/// Parts of names that mean a secret.
const SECRET: [&str; 4] = ["PASSWORD", "SECRET", "TOKEN", "API_KEY"];

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn parse(text: &str) -> Result<EnvFile, Invalid> {
        EnvFile::parse(text, Path::new(".env"))
    }

    fn taken(text: &str) -> Vec<String> {
        let env = parse(text).expect("valid");
        env.taken.iter().map(|taken| format!("{}.{} = {}", taken.table, taken.key, taken.value)).collect()
    }

    /// The guide's variables, each once, as its `.env.example` writes them.
    const GUIDE: &str = "\
# Copy this file to .env
OLLAMA_MODELS_PATH=./data/ollama-models
OLLAMA_HOST=0.0.0.0:11434
OLLAMA_KEEP_ALIVE=10m
OLLAMA_NUM_PARALLEL=4
OLLAMA_MAX_LOADED_MODELS=2
DEFAULT_MODEL=qwen2.5-coder:32b-instruct-q8_0
GRAFANA_ADMIN_USER=admin
GRAFANA_ADMIN_PASSWORD=frontier-llm
OLLAMA_MEMORY_LIMIT=64G
OLLAMA_MEMORY_RESERVATION=32G
NGINX_HTTP_PORT=80
OLLAMA_API_PORT=11434
PROMETHEUS_PORT=9090
SSL_KEY_PATH=./config/ssl/key.pem
ENABLE_AIDER=false
OLLAMA_NUM_CTX=4096
MISTRAL_PORT=11434";

    #[test]
    fn takes_over_what_lives_on() {
        assert_snapshot!(taken(GUIDE).join("\n"), @r#"
        engine.keep_alive = "10m"
        engine.num_parallel = 4
        engine.max_loaded_models = 2
        models.default = "qwen2.5-coder:32b-instruct-q8_0"
        engine.memory_limit = "64G"
        engine.memory_reservation = "32G"
        ports.api = 11434
        "#);
    }

    #[test]
    fn says_why_the_rest_is_left_behind() {
        let notes = parse(GUIDE).expect("valid").notes;
        let shown: Vec<_> =
            notes.iter().map(|note| format!("{}: {}: {}", note.line, note.variable, note.why)).collect();
        assert_snapshot!(shown.join("\n"), @"
        2: OLLAMA_MODELS_PATH: it is relative to the old checkout; to keep those models, write their full path as `models_path`
        3: OLLAMA_HOST: the engine listens on loopback only; clients find it through `ports.api`
        8: GRAFANA_ADMIN_USER: this stack has no such setting
        9: GRAFANA_ADMIN_PASSWORD: the guide publishes this password: never use it again
        12: NGINX_HTTP_PORT: this stack has no such setting
        14: PROMETHEUS_PORT: it was the port on the LAN, which is the edge's; `ports.prometheus` is the one on loopback
        15: SSL_KEY_PATH: this stack has no such setting
        16: ENABLE_AIDER: this stack has no such setting
        17: OLLAMA_NUM_CTX: Ollama does not read it; the setting is `engine.context_length`
        18: MISTRAL_PORT: mistral.rs is not part of this stack
        ");
    }

    #[test]
    fn every_variable_is_taken_or_noted() {
        let assignments = GUIDE.lines().filter(|line| !line.starts_with('#')).count();
        let env = parse(GUIDE).expect("valid");
        assert_eq!(env.taken.len() + env.notes.len(), assignments);
    }

    #[test]
    fn reads_comments_quotes_export_and_carriage_returns() {
        let text = "export OLLAMA_KEEP_ALIVE = '24h' # a day\r\n  OLLAMA_API_PORT=\"8080\"\r\n\r\nDEFAULT_MODEL=a:b # c\r\n#X=1\r\n";
        assert_eq!(taken(text), ["engine.keep_alive = \"24h\"", "ports.api = 8080", "models.default = \"a:b\""]);
        assert_eq!(taken("OLLAMA_FLASH_ATTENTION=1"), ["engine.flash_attention = true"]);
        assert_eq!(taken("OLLAMA_MODELS_PATH=${HOME}/models"), ["engine.models_path = \"~/models\""]);
    }

    #[test]
    fn the_last_of_two_counts_and_the_first_is_noted() {
        let env = parse("OLLAMA_API_PORT=1\nOLLAMA_API_PORT=2\nDEFAULT_MODEL=\n").expect("valid");
        assert_eq!(env.taken.iter().map(|taken| taken.value.as_integer()).collect::<Vec<_>>(), [Some(2)]);
        assert_eq!(env.notes.iter().map(|note| note.line).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn reports_every_fault_at_its_place_and_shows_no_secret() {
        let text = "\
OLLAMA_MEMORY_LIMIT=128X  # hunter2
GRAFANA_ADMIN_PASSWORD=hunter2
export OLLAMA_NUM_PARALLEL=\"four\"
hunter2 is no assignment
OLLAMA_API_PORT=11435
API_TOKEN=\"hunter2
hunter2=
";
        let shown = parse(text).expect_err("has faults").render(false);
        assert!(!shown.contains("hunter2"));
        assert_snapshot!(shown, @r#"
        error: "128X" is not a size
         --> .env:1:21
          |
        1 | OLLAMA_MEMORY_LIMIT=128X  * *******
          |                     ^^^^
          |
          = help: write a whole number and a unit, such as "512M", "128G" or "1T"

        error: `num_parallel` takes a whole number, not a string
         --> .env:3:28
          |
        3 | export OLLAMA_NUM_PARALLEL="four"
          |                            ^^^^^^
          |
          = help: write a whole number, such as `num_parallel = 1`

        error: this is no assignment
         --> .env:4:1
          |
        4 | ******* ** ** **********
          | ^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: write NAME=value, or a # before it

        error: port 11435 is already that of `engine`, by default
         --> .env:5:17
          |
        5 | OLLAMA_API_PORT=11435
          |                 ^^^^^
          |
          = help: write another port for one of them, or 0 for any free one

        error: the quote of `API_TOKEN` is never closed
         --> .env:6:11
          |
        6 | ******************
          |           ^
          |
          = help: write the same quote at its end
        "#);
    }

    #[test]
    fn two_values_that_disagree_are_both_shown() {
        let invalid = parse("OLLAMA_MEMORY_RESERVATION=64G\nOLLAMA_MEMORY_LIMIT=32G\n").expect_err("disagree");
        assert_eq!(invalid.faults[0].span, 50..53);
        assert_eq!(invalid.faults[0].other, Some(26..29));
    }

    #[test]
    fn a_secret_that_runs_over_lines_is_one_variable() {
        let env = parse("SSL_SECRET=\"-----BEGIN\nMIIE==\n-----END\"\nDEFAULT_MODEL=m\n").expect("valid");
        assert_eq!((env.notes.len(), env.taken.len(), env.taken[0].line), (1, 1, 4));
    }

    #[test]
    fn a_value_over_several_lines_is_refused_at_its_own_place() {
        let invalid = parse("OLLAMA_KEEP_ALIVE=\"5m\n\nx\"\nOLLAMA_NUM_PARALLEL=x\n").expect_err("has faults");
        assert_eq!(invalid.faults.iter().map(|fault| fault.span.start).collect::<Vec<_>>(), [18, 46]);
    }
}
