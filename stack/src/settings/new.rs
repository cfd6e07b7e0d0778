//! The first `stack.toml`, as `cargo xtask init` writes it.
//!
//! Only what was given is written, so that the defaults stay ours to improve. Invariant: with an address and a user
//! that [`super::value`] takes, the text parses, and says what was given.

use toml::Value;

use super::EnvFile;
use crate::component::Runtime;

/// What the user gave. Nothing at all is fine: the result is the defaults.
#[derive(Debug, Clone, Default)]
pub struct New {
    /// The host, as [`super::value::address`] takes it.
    pub address: Option<String>,
    /// The user there, as [`super::value::user`] takes it.
    pub user: Option<String>,
    /// Who starts the components; `None`: by what the host is.
    pub runtime: Option<Runtime>,
    /// What an old `.env` said.
    pub env: Option<EnvFile>,
}

const HEADER: &str = "\
# The settings of this stack. What is not written here keeps its default; without [host], it is this machine.
# Every key, its default and why: config/stack.example.toml
";

/// The text of a `stack.toml` that says what was given, and nothing else.
pub fn render(new: &New) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let mut given = |table, key: &str, value: Option<String>| {
        lines.extend(value.map(|value| (table, format!("{key} = {}", Value::String(value)))));
    };
    given("host", "address", new.address.clone());
    given("host", "user", new.user.clone());
    given("engine", "runtime", new.runtime.map(|runtime| runtime.to_string()));
    for taken in new.env.iter().flat_map(EnvFile::taken) {
        let line = format!("{} = {}  # {}", taken.key, taken.value, taken.variable);
        lines.push((taken.table, line));
    }
    let mut text = HEADER.to_owned();
    let mut open = "";
    // Stable, so keys keep the order above within their table.
    lines.sort_by_key(|(table, _)| table_order(table));
    for (table, line) in lines {
        if table != open {
            text.push_str(&format!("\n[{table}]\n"));
            open = table;
        }
        text.push_str(&format!("{line}\n"));
    }
    text
}

/// As the annotated reference has them.
fn table_order(table: &str) -> Option<usize> {
    super::EXAMPLE.find(&format!("\n[{table}]\n"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use insta::assert_snapshot;

    use super::*;
    use crate::settings::{RuntimeChoice, Settings};

    fn env(text: &str) -> Option<EnvFile> {
        Some(EnvFile::parse(text, Path::new(".env")).expect("valid"))
    }

    #[test]
    fn nothing_given_is_nothing_written() {
        let text = render(&New::default());
        assert_eq!(text, HEADER);
        assert_eq!(Settings::parse(&text, Path::new("")), Ok(Settings::default()));
    }

    #[test]
    fn writes_what_was_given_and_where_it_came_from() {
        let new = New {
            address: Some("studio.local".to_owned()),
            user: Some("me".to_owned()),
            runtime: Some(Runtime::Docker),
            env: env(
                "PROMETHEUS_RETENTION=30d\nOLLAMA_NUM_PARALLEL=4\nOLLAMA_API_PORT=11434\nOLLAMA_FLASH_ATTENTION=true\n",
            ),
        };
        assert_snapshot!(render(&new), @r#"
        # The settings of this stack. What is not written here keeps its default; without [host], it is this machine.
        # Every key, its default and why: config/stack.example.toml

        [host]
        address = "studio.local"
        user = "me"

        [engine]
        runtime = "docker"
        num_parallel = 4  # OLLAMA_NUM_PARALLEL
        flash_attention = true  # OLLAMA_FLASH_ATTENTION

        [ports]
        api = 11434  # OLLAMA_API_PORT

        [monitoring]
        retention = "30d"  # PROMETHEUS_RETENTION
        "#);
    }

    #[test]
    fn everything_that_is_taken_parses_and_says_what_was_given() {
        for address in [None, Some("localhost"), Some("fe80::1%en0"), Some("10.0.0.7")] {
            for user in [None, Some("me"), Some("_j.doe-2")] {
                for runtime in [None, Some(Runtime::Native), Some(Runtime::Docker), Some(Runtime::Sandbox)] {
                    for env in [
                        None,
                        env(""),
                        env("OLLAMA_MODELS_PATH='/Volumes/\"Big\" \\Disk/m'\nOLLAMA_MEMORY_LIMIT=32G\n"),
                    ] {
                        let new =
                            New { address: address.map(str::to_owned), user: user.map(str::to_owned), runtime, env };
                        let settings = Settings::parse(&render(&new), Path::new("")).expect("valid");
                        assert_eq!(settings.host.address, address.unwrap_or("localhost"));
                        assert_eq!(settings.host.user.as_deref(), user);
                        assert_eq!(settings.engine.runtime, runtime.map_or(RuntimeChoice::Auto, RuntimeChoice::Fixed));
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_given_cannot_break_out_of_its_value() {
        for address in ["\"\n[edge]\nallow = [\"0.0.0.0/0\"]\n#", "'''", "\\", "\u{1b}", "a\nb\"\"\""] {
            let text = render(&New { address: Some(address.to_owned()), ..New::default() });
            let document: toml::Table = text.parse().expect("is TOML");
            assert_eq!(document.keys().collect::<Vec<_>>(), ["host"]);
            assert_eq!(document["host"]["address"].as_str(), Some(address));
        }
    }
}
