//! What our own program is on a host: the supervisor, a component about to be, the stand-in engine, the gateway.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use chrono::{SecondsFormat, Utc};
use stack::{host::Host, layout::Root, release::ReleaseId, supervise};

use crate::{
    cli::HostVerb,
    report::{self, Exit},
    session::PROGRAM_ID,
};

pub(crate) fn run(verb: HostVerb) -> Result<Exit> {
    log::set_logger(&STDERR).map(|()| log::set_max_level(log::LevelFilter::Info))?;
    match verb {
        HostVerb::Supervise { root, expected, stay } => {
            let start = supervise::Start { expected, stays: stay };
            supervise::supervise(Root::new(root), PROGRAM_ID.to_owned(), start)?;
        }
        HostVerb::Run { component, root, release, asked_restarts } => {
            let release = ReleaseId::from_folder_name(release);
            match supervise::run_component(&Root::new(root), component, &release, asked_restarts)? {}
        }
        HostVerb::Serve { root, nonce } => {
            stack::host::serve(host(root)?, &nonce, std::io::stdin().lock(), std::io::stdout().lock())?;
        }
        HostVerb::Job { id, root } => stack::host::run_job(host(root)?, &id)?,
        HostVerb::Engine {
            listen,
            models,
            keep_alive,
            num_parallel,
            max_loaded_models,
            context_length,
            max_queue,
            memory_bytes,
            seed,
            time_to_first_token_ms,
            time_per_output_token_ms,
            load_ms,
            scenarios,
        } => {
            let timing = sandbox::Timing {
                time_to_first_token: Duration::from_millis(time_to_first_token_ms),
                time_per_output_token: Duration::from_millis(time_per_output_token_ms),
                load: Duration::from_millis(load_ms),
            };
            sandbox::serve(sandbox::Options {
                listen,
                seed,
                timing,
                keep_alive,
                num_parallel,
                max_loaded_models,
                context_length,
                max_queue,
                memory_bytes,
                scenarios,
                ..sandbox::Options::new(models)
            })?;
        }
        HostVerb::Source { name, folder, url, entries } => {
            ops::backup::tell_source(&name, &folder, url, !entries, &mut std::io::stdout().lock())?;
        }
        HostVerb::Restore { id, repository, source, path, to } => {
            let tell = |line: &str| drop(report::data(&format!("{line}\n")));
            ops::backup::restore_source(&repository, &id, &source, path, &to, tell)?;
        }
        HostVerb::Probe { url } => stack::host::probe(&url).map_err(anyhow::Error::msg)?,
        HostVerb::Gateway {
            listen,
            upstream,
            keys,
            keys_on_loopback,
            slots,
            queue,
            ask_for_usage,
            refuse_truncation,
            warm,
        } => gateway::serve(gateway::Options {
            listen,
            upstream,
            keys,
            keys_on_loopback,
            slots,
            queue,
            ask_for_usage,
            refuse_truncation,
            warm,
        })?,
    }
    Ok(Exit::Done)
}

fn host(root: PathBuf) -> Result<Host> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(Host { root: Root::new(root), program, program_id: PROGRAM_ID.to_owned(), password: None })
}

/// A line on stderr, led by the time, so that `logs --since` can tell its age.
struct Stderr;

static STDERR: Stderr = Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut line = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
            let _ = write!(line, " {:<5} {}", record.level(), record.args());
            report::say(&line);
        }
    }

    fn flush(&self) {}
}
