//! `preflight`: is the machine fit to be a host?

use std::path::Path;

use anyhow::Result;
use chrono::Utc;
use ops::preflight::{Check, Verdict, preflight};
use serde_json::json;
use stack::{
    declare::question,
    failure::{Class, Failure},
    observed::Question,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, PROGRAM_ID, Session},
};

pub(crate) fn run(settings: Option<&Path>, args: &cli::Preflight) -> Result<Exit> {
    let mut session = Session::open(settings, Need::This)?;
    let facts = Some(session.settings.engine.models_path.clone());
    let observed = session.client.observe(Question { facts, ..question(&session.settings, PROGRAM_ID) })?;
    let now = Utc::now();
    let Some(machine) = &observed.facts else {
        return Err(Failure::new(Class::Failed, format!("{} does not tell what it is", session.host())).into());
    };
    let checks = preflight(&observed, machine, now);
    report::data(&match args.json {
        true => format!("{}\n", json!({ "checks": checks })),
        false => checks.iter().map(line).collect(),
    })?;
    let failed = checks.iter().filter(|check| check.result == Verdict::Fail).count();
    if failed == 0 {
        return Ok(Exit::Done);
    }
    report::say(&format!("\n{failed} of {} checks failed", checks.len()));
    Ok(Exit::Failed)
}

fn line(check: &Check) -> String {
    let word = match check.result {
        Verdict::Pass => "PASS",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    };
    let fix = check.fix.as_ref().map(|fix| format!("      {:<20}fix: {fix}\n", "")).unwrap_or_default();
    format!("{word}  {:<20}{}\n{fix}", check.name, check.detail)
}
