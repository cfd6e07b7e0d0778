//! `job`: long work on a host, from wherever one is.

use std::path::Path;

use anyhow::Result;
use stack::protocol::{Job, JobState};

use crate::{
    cli, deploy,
    report::{self, Exit},
    session::{Need, Session},
};

pub(crate) fn run(settings: Option<&Path>, verb: cli::Job) -> Result<Exit> {
    match verb {
        cli::Job::List { json } => list(settings, json),
        cli::Job::Attach { id, json } => deploy::attach(settings, id, json),
        cli::Job::Cancel { id } => {
            Session::open(settings, Need::Any)?.client.cancel(id.clone())?;
            report::say(&format!("asked; `cargo xtask job attach {id}` shows how it ends"));
            Ok(Exit::Done)
        }
    }
}

fn list(settings: Option<&Path>, json: bool) -> Result<Exit> {
    let jobs = Session::open(settings, Need::Any)?.client.jobs()?;
    if json {
        report::data(&format!("{}\n", serde_json::to_string(&jobs)?))?;
    } else {
        report::data(&jobs.iter().map(line).collect::<String>())?;
    }
    Ok(Exit::Done)
}

fn line(job: &Job) -> String {
    let state = match job.state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Killed => "killed",
    };
    let detail = job.detail.as_deref().unwrap_or_default();
    let line = format!("{:<28}{state:<10}{:<24}  {detail}", job.id, job.verb);
    format!("{}\n", line.trim_end())
}
