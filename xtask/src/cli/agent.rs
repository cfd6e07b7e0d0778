//! `agent` and below.

use clap::{Args, Subcommand, ValueHint};
use stack::settings::value;

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Show the agents: what they are good and bad at, installed, configured, tested
    List {
        /// [{"name","title","good_at","bad_at","refused"?,"installed"?,"configured"?,"tested"}]
        #[arg(long)]
        json: bool,
        /// Whose: of the client, the machine that you type at; or of the host, for work over ssh
        #[arg(long, value_name = "WHERE", value_enum, default_value_t = Side::Client, hide_possible_values = true)]
        on: Side,
    },
    /// Install an agent into ~/.local/bin, without root
    Install {
        /// aider, opencode, qwen, claude, continue, cursor
        #[arg(value_parser = agent)]
        name: &'static ops::agent::Agent,
        /// The newest version instead of the one that was tested
        #[arg(long)]
        latest: bool,
        /// Where: client, the machine that you type at; or host, for work over ssh
        #[arg(long, value_name = "WHERE", value_enum, default_value_t = Side::Client, hide_possible_values = true)]
        on: Side,
    },
    /// Have an agent use this stack: its own settings files, merged with what stands there
    Configure(Configure),
    /// Take out of an agent's settings what configure put in
    Unconfigure {
        /// aider, opencode, qwen, claude, continue
        #[arg(value_parser = agent)]
        name: &'static ops::agent::Agent,
        /// Show what would change, and stop
        #[arg(long)]
        dry_run: bool,
    },
    /// Have an agent write code in a throwaway repository, and judge it by running the code
    Test(AgentTest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    Client,
    Host,
}

#[derive(Debug, Args)]
pub(crate) struct Configure {
    /// aider, opencode, qwen, claude, continue
    #[arg(value_parser = agent)]
    pub(crate) name: &'static ops::agent::Agent,
    /// Another model than the default of stack.toml
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Another endpoint than the stack's
    #[arg(long, value_name = "URL", value_parser = endpoint, value_hint = ValueHint::Url)]
    pub(crate) endpoint: Option<String>,
    /// Take an API key, typed when asked or piped in
    #[arg(long)]
    pub(crate) key: bool,
    /// Show what would change, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentTest {
    /// aider, opencode, qwen, claude
    #[arg(value_parser = agent)]
    pub(crate) name: &'static ops::agent::Agent,
    /// factorial: one function; workflow: a Flask application with users in a database
    #[arg(long, value_parser = task, default_value = "factorial")]
    pub(crate) task: ops::agent::Task,
    /// Give up after this: 90s, 20m [default: 10m, workflow 40m]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    pub(crate) deadline: Option<std::time::Duration>,
    /// {"version","endpoint","model","at","seconds","wiring_only","outcome":{"result":"pass|fail","diagnosis"?,"transcript"?}}
    #[arg(long)]
    pub(crate) json: bool,
}

fn agent(name: &str) -> Result<&'static ops::agent::Agent, String> {
    ops::agent::find(name).ok_or_else(|| {
        let names: Vec<&str> = ops::agent::ALL.iter().map(|agent| agent.name).collect();
        match ops::agent::like(name) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", names.join(", ")),
        }
    })
}

fn task(name: &str) -> Result<ops::agent::Task, String> {
    let found = [ops::agent::Task::Factorial, ops::agent::Task::Workflow].into_iter().find(|task| task.name() == name);
    found.ok_or_else(|| "there are factorial, workflow".to_owned())
}

fn endpoint(url: &str) -> Result<String, String> {
    let is_url = ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|it| !it.is_empty()));
    match is_url {
        true => Ok(url.trim_end_matches('/').trim_end_matches("/v1").to_owned()),
        false => Err("write it as in http://studio.local:11434".to_owned()),
    }
}
