//! The command line: parse, call one library, report. Nothing else prints.

mod agent;
mod backup;
mod bench;
mod cli;
mod clock;
mod control;
mod deploy;
mod diff;
mod doctor;
mod harden;
mod host;
mod init;
mod job;
mod key;
mod logs;
mod model;
mod monitor;
mod preflight;
mod program;
mod progress;
mod report;
mod secret;
mod session;
mod status;
mod there;
#[cfg(test)]
mod tidy;
mod tune;
mod uninstall;
mod verify;

use std::process::ExitCode;

use clap::CommandFactory;
use cli::{Cli, Verb};
use report::Exit;
use stack::protocol::Action;

fn main() -> ExitCode {
    run(cli::parse()).unwrap_or_else(|error| report::error(&error)).into()
}

/// What was typed, or what one verb asks of another.
pub(crate) fn run(cli: Cli) -> anyhow::Result<Exit> {
    let settings = cli.settings.as_deref();
    match cli.verb {
        Verb::Init(args) => init::run(settings, &args),
        Verb::Preflight(args) => preflight::run(settings, &args),
        Verb::Deploy(args) => deploy::run(settings, &args),
        Verb::Status(args) => status::run(settings, &args),
        Verb::Logs(args) => logs::run(settings, &args),
        Verb::Start(args) => control::run(settings, Action::Start, &args),
        Verb::Stop(args) => control::run(settings, Action::Stop, &args),
        Verb::Restart(args) => control::run(settings, Action::Restart, &args),
        Verb::Rollback(args) => deploy::roll_back(settings, &args),
        Verb::Verify(args) => verify::run(settings, &args),
        Verb::Doctor(args) => doctor::run(settings, &args),
        Verb::Harden(args) => harden::run(settings, &args),
        Verb::Tune(args) => tune::run(settings, &args),
        Verb::Monitor(verb) => monitor::run(settings, verb),
        Verb::Perf(args) => monitor::perf(settings, &args),
        Verb::Bench(args) => bench::run(settings, *args),
        Verb::Backup(args) => backup::run(settings, args),
        Verb::Uninstall(args) => uninstall::run(settings, &args),
        Verb::Model(verb) => model::run(settings, verb),
        Verb::Secret(verb) => secret::run(settings, verb),
        Verb::Key(verb) => key::run(settings, verb),
        Verb::Agent(verb) => agent::run(settings, verb),
        Verb::Job(verb) => job::run(settings, verb),
        Verb::Completions(args) => completions(args.shell),
        Verb::Host(verb) => host::run(verb),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "xtask", &mut script);
    report::data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
