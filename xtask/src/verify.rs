//! `verify`: proof that the stack works.

use std::path::Path;

use anyhow::{Context, Result};
use ops::verify::{Check, Verdict};
use serde_json::json;
use stack::{
    failure::{Class, Failure},
    observed::Question,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
};

pub(crate) fn run(settings: Option<&Path>, args: &cli::Verify) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    let observed = session.client.observe(Question::default())?;
    if observed.current.is_none() {
        return Err(Failure::new(Class::Nothing, "nothing is deployed")
            .hint("`cargo xtask deploy` brings up a stack")
            .into());
    }
    if !session.is_here {
        // Asked from here, 127.0.0.1 would be another stack, or none.
        let (host, program) = (session.host(), observed.root.join("bin/xtask"));
        return Err(Failure::new(Class::Refused, format!("the stack on {host} listens on its own loopback only"))
            .hint(format!("verify it there: ssh {host} \"'{}' verify\"", program.display()))
            .into());
    }
    let mut closed = None;
    let checks = ops::verify::verify(&observed, &session.settings.models.default, |check| {
        if !args.json {
            closed = report::data(&line(check)).err().or(closed.take());
        }
    });
    closed.map_or(Ok(()), Err)?;
    if args.json {
        report::data(&format!("{}\n", json!({ "checks": checks })))?;
    }
    if let Some(file) = &args.junit {
        std::fs::write(file, ops::verify::junit(&checks))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
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
        Verdict::Fail => "FAIL",
        Verdict::Skip => "SKIP",
    };
    format!("{word}  {:<44}  {}\n", check.name, check.detail)
}
