//! `tune`: the machine set so that it serves.

use std::path::Path;

use anyhow::Result;
use ops::tune::{self, Tuning};
use stack::{
    component::Component,
    failure::{Class, Failure},
    protocol::Action,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
    there::{self, As},
};

pub(crate) fn run(settings: Option<&Path>, args: &cli::Tune) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    let tuning = match look(&mut session, args)? {
        Ok(tuning) => tuning,
        Err(exit) => return Ok(exit),
    };
    report::data(&match args.json {
        true => format!("{}\n", serde_json::to_string(&tuning)?),
        false => page(&tuning),
    })?;
    if args.dry_run || tuning.commands.is_empty() {
        return Ok(Exit::Done);
    }
    if args.ask_sudo {
        session.ask_sudo()?;
    }
    let interrupt = session.interrupt.clone();
    let mut waiting = report::waiting();
    let mut follow = |event| {
        waiting(&event);
        interrupt.check()
    };
    session.client.as_root("tune", tuning.commands, &mut follow)?;
    if tuning.restarts_engine {
        session.client.control(Action::Restart, [Component::Engine].into(), &mut follow)?;
        report::say("restarted the engine, which sees its limit when it starts");
    }
    if args.revert {
        report::say("the machine is as it was before it was tuned");
        return Ok(Exit::Done);
    }
    read_back(&mut session, args)
}

/// What is to be done, by what the host says of itself. `Err`: the host has said why not.
pub(crate) fn look(session: &mut Session, args: &cli::Tune) -> Result<Result<Tuning, Exit>> {
    if !session.is_here {
        let mut words = vec!["tune", "--dry-run", "--json"];
        words.extend(args.revert.then_some("--revert"));
        words.extend(args.model.iter().flat_map(|model| ["--model", model]));
        let (answer, exit) = there::answer(session, &words, As::Question)?;
        return Ok(serde_json::from_str(&answer).map_err(|_| exit));
    }
    let observed = session.deployed()?;
    let mut settings = session.settings.clone();
    settings.models.default = args.model.clone().unwrap_or(settings.models.default);
    Ok(Ok(match args.revert {
        true => tune::revert(&observed)?,
        false => tune::tune(&observed, &settings)?,
    }))
}

/// A command that ends well has perhaps done nothing.
fn read_back(session: &mut Session, args: &cli::Tune) -> Result<Exit> {
    let left = match look(session, args)? {
        Ok(tuning) => tuning.changes,
        Err(exit) => return Ok(exit),
    };
    let Some(change) = left.first() else {
        report::say("done, and read back; `cargo xtask tune --revert` undoes it");
        return Ok(Exit::Done);
    };
    let tune::Change { what, before, after, .. } = change;
    Err(Failure::new(Class::Failed, format!("the system took it and did not keep it: {what} is {before}, not {after}"))
        .hint("a profile of the machine's owner may forbid it: `profiles list` on a Mac")
        .into())
}

fn page(tuning: &Tuning) -> String {
    let mut page = String::new();
    for tune::Change { what, before, after, why } in &tuning.changes {
        page += &format!("{what:<18}{:<44}{why}\n", format!("{before} → {after}"));
    }
    if tuning.changes.is_empty() {
        page += "nothing to change\n";
    }
    if !tuning.proposals.is_empty() {
        page += "\n[engine] in stack.toml could say, by the memory that there is:\n";
    }
    for tune::Proposal { key, now, proposed, why } in &tuning.proposals {
        page += &format!("  {:<40}{why} (now {now})\n", format!("{key} = {proposed}"));
    }
    for note in &tuning.notes {
        report::say(&format!("note: {note}"));
    }
    page
}
