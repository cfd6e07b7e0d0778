//! Having the host back up by itself.

use anyhow::Result;
use chrono::{DateTime, Local};
use ops::backup::Wanted;
use serde_json::json;
use stack::{process::Command, settings::TimeOfDay, transport::Client};

use super::Found;
use crate::{
    cli::RootPart,
    report::{self, Exit},
    session::{self, Interrupt, Session},
    there::{self, As},
};

/// How that is gone about.
pub(super) struct How {
    pub(super) ask_sudo: bool,
    pub(super) root_part: Option<RootPart>,
    pub(super) json: bool,
}

/// `None`: no longer.
pub(super) fn run(found: Found, wanted: Option<&Wanted>, how: &How) -> Result<Exit> {
    if how.root_part != Some(RootPart::Done) {
        let commands = ops::backup::as_root(&found.backup, wanted)?;
        if how.root_part == Some(RootPart::Tell) {
            report::data(&format!("{}\n", serde_json::to_string(&commands)?))?;
            return Ok(Exit::Done);
        }
        if let Some(mut client) = found.client {
            as_root(&mut client, "this machine", commands, how, &found.interrupt)?;
        }
    }
    let Some(wanted) = wanted else {
        ops::backup::unschedule(&found.backup)?;
        report::say("no backup runs by itself any more");
        return Ok(Exit::Done);
    };
    let scheduled = ops::backup::schedule(&found.backup, wanted, Local::now())?;
    if how.json {
        let value = json!({
            "by": scheduled.by,
            "next": scheduled.next,
            "next_drill": scheduled.next_drill,
            "last": found.backups.last,
        });
        report::data(&format!("{value}\n"))?;
        return Ok(Exit::Done);
    }
    let time = |time: DateTime<Local>| time.format("%Y-%m-%d %H:%M").to_string();
    let mut page = format!("{} runs a backup each day; the next begins {}\n", scheduled.by, time(scheduled.next));
    page.extend(scheduled.next_drill.map(|next| format!("and a drill each Sunday; the next begins {}\n", time(next))));
    page.extend(found.backups.words().map(|words| format!("last backup {words}\n")));
    report::data(&page)?;
    Ok(Exit::Done)
}

/// The same on another machine: what root does there is run from here, where a person is who has the password.
pub(super) fn run_there(
    mut session: Session,
    at: Option<TimeOfDay>,
    remove: bool,
    repository: Option<&str>,
    how: &How,
) -> Result<Exit> {
    let at = at.map(|at| at.to_string());
    let words = |part| {
        let mut words = vec!["backup", "schedule", "--root-part", part];
        words.extend(at.iter().flat_map(|at| ["--at", at]));
        words.extend(repository.iter().flat_map(|it| ["--repository", it]));
        words.extend(remove.then_some("--remove"));
        words.extend(how.json.then_some("--json"));
        words
    };
    let (answer, exit) = there::answer(&mut session, &words("tell"), As::Question)?;
    let Ok(commands) = serde_json::from_str(&answer) else { return Ok(exit) };
    let (name, interrupt) = (session.host().to_string(), session.interrupt.clone());
    as_root(&mut session.client, &name, commands, how, &interrupt)?;
    let (answer, exit) = there::answer(&mut session, &words("done"), As::Job)?;
    report::data(&answer)?;
    Ok(exit)
}

fn as_root(client: &mut Client, host: &str, commands: Vec<Command>, how: &How, interrupt: &Interrupt) -> Result<()> {
    if commands.is_empty() {
        return Ok(());
    }
    if how.ask_sudo {
        session::ask_sudo(client, host)?;
    }
    Ok(client.as_root("schedule", commands, &mut |_| interrupt.check())?)
}
