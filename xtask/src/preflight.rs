//! `preflight`: is the machine fit to be a host?

use std::path::Path;

use anyhow::Result;
use chrono::Utc;
use ops::{
    model::subject,
    preflight::{Check, Verdict, model, preflight},
};
use serde_json::json;
use stack::{
    declare::question,
    failure::{Class, Failure},
    machine::Machine,
    observed::{Observed, Question},
};

use crate::{
    cli,
    model::fit,
    report::{self, Exit},
    session::{Need, PROGRAM_ID, Session},
};

/// What the guide upgrades its default model to.
const UPGRADE: &str = "qwen3:235b-a22b-q4_K_M";

pub(crate) fn run(settings: Option<&Path>, args: &cli::Preflight) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Look)?;
    let facts = Some(session.settings.engine.models_path.clone());
    let asked = question(&session.settings, PROGRAM_ID);
    // Whether there is Docker is a fact of every host.
    let images = Some(asked.images.unwrap_or_default());
    let doors = asked.fixed_ports.clone();
    let observed = session.client.observe(Question { facts, images, ..asked })?;
    let now = Utc::now();
    let Some(machine) = &observed.facts else {
        return Err(Failure::new(Class::Failed, format!("{} does not tell what it is", session.host())).into());
    };
    let mut checks = preflight(&observed, machine, &doors, now);
    checks.extend(models(&session, &observed, machine)?);
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

/// Whether the default model fits, and the one that the guide upgrades it to.
fn models(session: &Session, observed: &Observed, machine: &Machine) -> Result<Vec<Check>> {
    let settings = &session.settings;
    let host = subject::host(session.host(), &observed.system, machine, None);
    let check = |(name, is_upgrade): (&str, bool)| {
        let subject = subject::find(name, None)?;
        let serving = fit::serving(&subject, settings, None);
        let rows = ops::model::fit::fit(subject.attention.as_ref(), &subject.sizes, &host, &serving);
        Ok(model(name, rows.first(), is_upgrade))
    };
    let upgrade = (settings.models.default != UPGRADE).then_some((UPGRADE, true));
    [(settings.models.default.as_str(), false)].into_iter().chain(upgrade).map(check).collect()
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
