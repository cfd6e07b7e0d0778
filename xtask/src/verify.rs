//! `verify`: proof that the stack works.

use std::{io, path::Path};

use anyhow::{Context, Result};
use ops::{
    criteria,
    summary::Summary,
    verify::{Check, Verdict},
};
use serde::Deserialize;
use serde_json::json;
use stack::{
    durable,
    failure::{Class, Failure},
    layout::Root,
    observed::Question,
};

use crate::{
    agent, cli,
    report::{self, Exit},
    session::{Need, Session},
    there::{self, As},
};

pub(crate) fn run(settings: Option<&Path>, args: &cli::Verify) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    if args.reboot {
        return match reboot(&mut session)? {
            Ok(checks) => conclude(&checks, args, |check| report::data(&line(check))),
            Err(exit) => Ok(exit),
        };
    }
    let mut checks = match session.is_here {
        true => here(&mut session, args.json)?,
        false => match there(&mut session, args.json)? {
            Ok(checks) => checks,
            Err(exit) => return Ok(exit),
        },
    };
    let criteria = criteria::criteria(&checks, agent::api(&mut session)?, &agent::place()?);
    if !args.json {
        criteria.iter().try_for_each(|check| report::data(&line(check)))?;
    }
    checks.extend(criteria);
    // Each was told as it ended.
    conclude(&checks, args, |_| Ok(()))
}

/// Tells what is left to tell, and how it went as a whole.
fn conclude(checks: &[Check], args: &cli::Verify, tell: impl Fn(&Check) -> io::Result<()>) -> Result<Exit> {
    match args.json {
        true => report::data(&format!("{}\n", json!({ "checks": checks })))?,
        false => checks.iter().try_for_each(tell)?,
    }
    if let Some(file) = &args.junit {
        std::fs::write(file, ops::verify::junit(checks)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let failed = checks.iter().filter(|check| check.result == Verdict::Fail).count();
    if failed == 0 {
        return Ok(Exit::Done);
    }
    // Who reads data counts by himself; a client that asked a host for it says so in its own words.
    if !args.json {
        report::say(&format!("\n{failed} of {} checks failed", checks.len()));
    }
    Ok(Exit::Failed)
}

/// How the host came back, asked on the host itself; that it was asked is written down there.
pub(crate) fn reboot(session: &mut Session) -> Result<Result<Vec<Check>, Exit>> {
    if !session.is_here {
        let (answer, exit) = there::answer(session, &["verify", "--reboot", "--json"], there::As::Question)?;
        return Ok(serde_json::from_str(&answer).map(|Answer { checks }| checks).map_err(|_| exit));
    }
    let facts = Some(session.settings.engine.models_path.clone());
    let observed = session.client.observe(Question { facts, native: true, ..Question::default() })?;
    if observed.current.is_none() {
        return Err(nothing().into());
    }
    let checks = ops::reboot::reboot(&observed);
    // What failed is asked again.
    if checks.iter().all(|check| check.result != Verdict::Fail) {
        let path = Root::new(observed.root.clone()).reboot();
        durable::write(&path, b"").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Ok(checks))
}

fn nothing() -> Failure {
    Failure::new(Class::Nothing, "nothing is deployed").hint("`cargo xtask deploy` brings up a stack")
}

/// Each check is told as it ends.
fn here(session: &mut Session, json: bool) -> Result<Vec<Check>> {
    let observed = session.client.observe(Question::default())?;
    if observed.current.is_none() {
        return Err(nothing().into());
    }
    let mut closed = None;
    let checks = ops::verify::verify(&observed, &session.settings.models.default, |check| {
        if !json {
            closed = report::data(&line(check)).err().or(closed.take());
        }
    });
    closed.map_or(Ok(checks), |error| Err(error.into()))
}

/// What listens on another machine's loopback is asked there; what the edge lets through, from here too. What goes wrong
/// there has been told in its own words.
fn there(session: &mut Session, json: bool) -> Result<Result<Vec<Check>, Exit>> {
    report::say(&format!("asked on {} itself, where the components listen on loopback", session.host()));
    let (answer, exit) = there::answer(session, &["verify", "--json"], As::Question)?;
    let Ok(Answer { mut checks }) = serde_json::from_str(&answer) else { return Ok(Err(exit)) };
    // They are judged anew, by what is seen from here.
    checks.retain(|check| !criteria::is_criterion(check));
    let observed = session.client.observe(Question::default())?;
    checks.extend(ops::verify::from_client(&Summary::of(session.host(), &observed)));
    if !json {
        print(&checks)?;
    }
    Ok(Ok(checks))
}

pub(crate) fn print(checks: &[Check]) -> io::Result<()> {
    checks.iter().try_for_each(|check| report::data(&line(check)))
}

#[derive(Deserialize)]
struct Answer {
    checks: Vec<Check>,
}

fn line(check: &Check) -> String {
    let word = match check.result {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Skip => "SKIP",
    };
    format!("{word}  {:<44}  {}\n", check.name, check.detail)
}
