//! `deploy` and `rollback`: look, plan, apply, tell.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use ops::summary::Summary;
use serde_json::json;
use stack::{
    declare::{Wanted, question},
    failure::{Class, Failure},
    observed::Observed,
    plan::{Plan, Step, plan, plan_rollback},
    protocol::{Event, Outcome},
    release::Contents,
};

use crate::{
    cli, diff,
    report::{self, Exit},
    session::{PROGRAM_ID, Session},
    status,
};

/// Brings the host to what is declared.
pub(crate) fn run(settings: Option<&Path>, args: &cli::Deploy) -> Result<Exit> {
    let begun = Instant::now();
    let mut session = Session::open(settings)?;
    let wanted = Wanted {
        settings: session.settings.clone(),
        from_file: session.file.is_some(),
        additions: stack::addition::read(&session.folder)?,
        program: PROGRAM_ID.to_owned(),
    };
    let mut question = question(&wanted.settings);
    question.contents = args.dry_run;
    let observed = session.client.observe(question)?;
    let (plan, contents) = plan(&wanted, &observed)?;
    if args.dry_run {
        return preview(&plan, &observed, &contents, args.json);
    }
    if !args.json {
        report::say(&format!("{} on {} ({})", plan.release.content.runtime, session.host(), why(&session)));
    }
    if !args.yes && !args.json && session.file.is_some() && !confirm(&plan)? {
        report::say("nothing was changed");
        return Ok(Exit::Refused);
    }
    carry_out(&mut session, plan, contents, args.json, begun)
}

/// Goes back to the release that was healthy before.
pub(crate) fn roll_back(settings: Option<&Path>, args: &cli::Rollback) -> Result<Exit> {
    let begun = Instant::now();
    let mut session = Session::open(settings)?;
    let observed = session.client.observe(question(&session.settings))?;
    let plan = plan_rollback(&observed)?;
    if !args.json {
        report::say(&format!("back to release {} on {}", plan.release.id, session.host()));
    }
    carry_out(&mut session, plan, Contents::new(), args.json, begun)
}

fn why(session: &Session) -> String {
    match &session.file {
        Some(file) => format!("{} asks for it", file.display()),
        None => "there is no stack.toml: the embedded sandbox".to_owned(),
    }
}

fn preview(plan: &Plan, observed: &Observed, contents: &Contents, json: bool) -> Result<Exit> {
    if json {
        report::data(&format!("{}\n", serde_json::to_string(plan)?))?;
        return Ok(Exit::Done);
    }
    report::data(&plan.to_string())?;
    // An empty plan changes no file; what stands there is what would be written.
    if !plan.steps.is_empty() {
        report::data(&diff::files(&observed.contents, contents))?;
    }
    Ok(Exit::Done)
}

/// Asks before anything that serves is interrupted; without a terminal there is nobody to ask, and whoever scripted
/// this meant it.
fn confirm(plan: &Plan) -> Result<bool> {
    let interrupted: Vec<&str> = plan.steps.iter().filter_map(Step::interrupts).map(|it| it.name()).collect();
    if interrupted.is_empty() || !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    let names = interrupted.join(", ");
    write!(std::io::stderr(), "{plan}this interrupts what is being served by: {names}\ngo on? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn carry_out(session: &mut Session, plan: Plan, contents: Contents, json: bool, begun: Instant) -> Result<Exit> {
    if !json {
        plan.notes.iter().for_each(|note| report::say(&format!("note: {note}")));
    }
    let release = plan.release.clone();
    let (mut changed, mut said) = (0, None);
    let outcome = if plan.steps.is_empty() {
        Ok(Outcome::Done)
    } else {
        let interrupt = session.interrupt.clone();
        let mut follow = |event: Event| {
            if let Event::Begin { step, .. } = &event {
                changed += usize::from(step.changes());
            }
            // It is told again and again; once is enough to hear.
            let again = said.as_ref() == Some(&event);
            if !again {
                tell(&event, json)?;
            }
            said = Some(event);
            interrupt.check()
        };
        session.client.apply(plan, contents, &mut follow)
    };
    let seconds = begun.elapsed();
    if json {
        let word = outcome_word(&outcome);
        let seconds = (seconds.as_secs_f64() * 1000.0).round() / 1000.0;
        let last = json!({ "outcome": word, "changed": changed, "release": release.id, "seconds": seconds });
        report::data(&format!("{last}\n"))?;
    }
    match outcome? {
        Outcome::Done if json => Ok(Exit::Done),
        Outcome::Done => {
            let observed = session.client.observe(question(&session.settings))?;
            conclude(session, &observed, changed, seconds)
        }
        Outcome::RolledBack { to, cause } => {
            report::failure(&cause);
            report::say(&match to {
                Some(to) => format!("\nrolled back: release {to} serves as before"),
                None => "\nrolled back: nothing runs, as before".to_owned(),
            });
            Ok(if cause.class == Class::Interrupted { Exit::Interrupted } else { Exit::RolledBack })
        }
        Outcome::RollbackFailed { cause, rollback } => {
            report::failure(&cause);
            report::say("\nand putting the old state back failed too:");
            report::failure(&rollback);
            Ok(Exit::RollbackFailed)
        }
    }
}

fn outcome_word(outcome: &Result<Outcome, Failure>) -> &'static str {
    match outcome {
        Ok(Outcome::Done) => "done",
        Ok(Outcome::RolledBack { .. }) => "rolled_back",
        Ok(Outcome::RollbackFailed { .. }) => "rollback_failed",
        // It did not begin: somebody else is at it, or the host cannot be written to.
        Err(_) => "refused",
    }
}

fn tell(event: &Event, json: bool) -> Result<(), Failure> {
    let closed = |error: std::io::Error| Failure::new(Class::Interrupted, "nobody reads the output").because(&error);
    if json {
        let line = serde_json::to_string(event).unwrap_or_default();
        return report::data(&format!("{line}\n")).map_err(closed);
    }
    match event {
        Event::Begin { number, step } => report::say(&format!("{number:>3}. {step}")),
        Event::End { seconds, .. } if *seconds > 1.0 => {
            report::say(&format!("     {}", report::seconds(Duration::from_secs_f64(*seconds))));
        }
        Event::RollingBack { .. } => report::say("     failed: putting back what was before"),
        Event::Waiting { detail } => report::say(&format!("     waiting: {detail}")),
        Event::End { .. } | Event::Line { .. } => {}
    }
    Ok(())
}

/// Says what runs where, what does not and why, and what to try next.
fn conclude(session: &Session, observed: &Observed, changed: usize, took: Duration) -> Result<Exit> {
    let summary = Summary::of(session.host(), observed);
    match changed {
        0 => report::say(&format!("as declared, nothing to do ({})\n", report::seconds(took))),
        _ => report::say(&format!("done in {}\n", report::seconds(took))),
    }
    report::data(&status::table(&summary))?;
    let api = summary.components.iter().find(|part| part.name == stack::component::Component::Gateway);
    if let Some(url) = api.and_then(|part| part.url.as_deref()) {
        let model = &session.settings.models.default;
        let body = json!({ "model": model, "prompt": "hello" });
        report::say(&format!("\ntry:  cargo xtask verify\n      curl {url}/api/generate -d '{body}'"));
    }
    Ok(Exit::Done)
}
