//! `doctor`: what is wrong, why, and what mends it.

use std::{collections::BTreeSet, env, fs, path::Path};

use anyhow::{Context, Result};
use chrono::{TimeDelta, Utc};
use ops::doctor::{self, About, Evidence, Finding, Repair, path, unverified};
use serde::{Deserialize, Serialize};
use stack::{
    component::{Component, Runtime},
    failure::{Class, Failure},
    observed::Question,
    protocol::{Action, Event, LogQuery, Progress},
    secret::Secret,
    settings::{RuntimeChoice, Settings, Tls},
    ssh::System,
};

use crate::{
    cli, deploy, progress,
    report::{self, Exit},
    session::{Need, PROGRAM_ID, Session, Stack},
    there::{self, As},
};

/// Lines of a component's log that a report has.
const REPORTED_LINES: usize = 40;

/// The shape of `--json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Diagnosis {
    findings: Vec<Finding>,
    /// What was done about those that were there before.
    fixed: Vec<String>,
}

pub(crate) fn run(settings: Option<&Path>, args: &cli::Doctor) -> Result<Exit> {
    let stack = Stack::read(settings)?;
    if args.self_check {
        return self_check(settings);
    }
    if stack.is_here {
        return here(settings, args);
    }
    // What a client alone can see; and seen before ssh, which may be what fails.
    let unreachable = way(&stack.settings)?.and_then(|way| path::walk(&way));
    let mut session = match Session::open(settings, Need::Any) {
        Ok(session) => session,
        Err(error) => {
            tell(&Diagnosis { findings: unreachable.into_iter().collect(), fixed: Vec::new() }, &stack.settings, args)?;
            return Err(error);
        }
    };
    if let Some(file) = &args.report {
        return fetch_report(&mut session, file, unreachable.as_ref());
    }
    let (words, how): (&[&str], _) = match args.fix {
        true => (&["doctor", "--json", "--fix"], As::Job),
        false => (&["doctor", "--json"], As::Question),
    };
    let (answer, exit) = there::answer(&mut session, words, how)?;
    progress::clear();
    let found = serde_json::from_str::<Diagnosis>(&answer);
    let mut diagnosis = found.as_ref().map_or_else(
        |_| Diagnosis::default(),
        |found| Diagnosis { findings: found.findings.clone(), fixed: found.fixed.clone() },
    );
    // Once the host is well again, the way may be open too.
    let unreachable =
        if diagnosis.fixed.is_empty() { unreachable } else { way(&stack.settings)?.and_then(|way| path::walk(&way)) };
    diagnosis.findings.extend(unreachable);
    match found {
        // The host has said in its own words why it cannot be asked.
        Err(_) if diagnosis.findings.is_empty() => Ok(exit),
        _ => tell(&diagnosis, &stack.settings, args),
    }
}

/// How this machine gets to the engine. A sandbox listens on its own machine's loopback only.
fn way(settings: &Settings) -> Result<Option<path::Way>> {
    if settings.engine.runtime == RuntimeChoice::Fixed(Runtime::Sandbox) || settings.ports.api == 0 {
        return Ok(None);
    }
    Ok(Some(path::Way {
        host: settings.host.address.clone(),
        port: settings.ports.api,
        tls: settings.edge.tls != Tls::Off,
        ssh_port: settings.host.port.unwrap_or(22),
        system: System::here()?.name,
        terminal: env::var("TERM_PROGRAM").unwrap_or_default(),
    }))
}

fn here(settings: Option<&Path>, args: &cli::Doctor) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    let mut evidence = gather(&mut session)?;
    let mut findings = doctor::judge(&evidence);
    let mut fixed = Vec::new();
    if args.fix {
        for repair in findings.iter().filter_map(|finding| finding.repair).collect::<BTreeSet<_>>() {
            match mend(settings, &mut session, repair) {
                Ok(done) => fixed.push(done),
                // It is still there to be found; what else there is may be mended all the same.
                Err(error) => drop(report::error(&error)),
            }
        }
    }
    if !fixed.is_empty() {
        evidence = gather(&mut session)?;
        findings = doctor::judge(&evidence);
    }
    if let Some(file) = &args.report {
        write_report(file, &page(&mut session, &evidence, &findings)?)?;
    }
    match args.report.as_ref().is_some_and(|file| file == Path::new("-")) {
        true => Ok(if findings.is_empty() { Exit::Done } else { Exit::Failed }),
        false => tell(&Diagnosis { findings, fixed }, &session.settings, args),
    }
}

fn gather(session: &mut Session) -> Result<Evidence> {
    let facts = Some(session.settings.engine.models_path.clone());
    let observed = session.client.observe(Question { facts, ..Question::default() })?;
    if observed.current.is_none() {
        return Err(Failure::new(Class::Nothing, format!("nothing is deployed in {}", observed.root.display()))
            .hint("`cargo xtask preflight` judges the machine, `cargo xtask deploy` brings up a stack")
            .into());
    }
    let evidence = doctor::gather(observed, &session.settings, &mut |what| {
        progress::show(&Progress { what: what.to_owned(), done_bytes: 0, total_bytes: None });
    });
    progress::clear();
    Ok(evidence)
}

/// Answers what was done.
fn mend(settings: Option<&Path>, session: &mut Session, repair: Repair) -> Result<String> {
    match repair {
        Repair::Restart(component) => {
            let interrupt = session.interrupt.clone();
            session.client.control(Action::Restart, [component].into(), &mut |_| interrupt.check())?;
            Ok(format!("restarted the {component}"))
        }
        Repair::Restore => {
            if deploy::restore(settings)? != Exit::Done {
                return Err(Failure::new(Class::Failed, "the host is not back at its release").into());
            }
            Ok("brought the host back to its release".to_owned())
        }
    }
}

/// Prints what was found; that alone is data.
fn tell(diagnosis: &Diagnosis, settings: &Settings, args: &cli::Doctor) -> Result<Exit> {
    let findings = &diagnosis.findings;
    if args.json {
        report::data(&format!("{}\n", serde_json::to_string(diagnosis)?))?;
    } else {
        diagnosis.fixed.iter().for_each(|done| report::say(&format!("fixed: {done}")));
        match findings.is_empty() {
            true => report::data(&format!("{} is healthy\n", settings.host.address))?,
            false => report::data(&findings.iter().map(paragraph).collect::<Vec<_>>().join("\n"))?,
        }
        if !args.fix && findings.iter().any(|finding| finding.repair.is_some()) {
            report::say("\n`cargo xtask doctor --fix` restarts services and writes our own files anew");
        }
    }
    Ok(if findings.is_empty() { Exit::Done } else { Exit::Failed })
}

pub(crate) fn paragraph(finding: &Finding) -> String {
    let Finding { symptom, evidence, why, fix, .. } = finding;
    format!("{symptom}\n  seen:  {evidence}\n  why:   {why}\n  fix:   {fix}\n")
}

fn page(session: &mut Session, evidence: &Evidence, findings: &[Finding]) -> Result<String> {
    let sick = evidence.sick();
    let settings = session.file.as_ref().map(fs::read_to_string).transpose()?;
    let lines = if sick.is_empty() { Vec::new() } else { last_lines(session, &sick)? };
    let secrets: Vec<Secret> = session.client.secrets(true)?.into_values().flatten().collect();
    let settings = settings.as_deref();
    let observed = evidence.observed();
    Ok(doctor::report(&About { program: PROGRAM_ID, observed, settings, findings, lines: &lines, secrets: &secrets }))
}

fn last_lines(session: &mut Session, sick: &[Component]) -> Result<Vec<(Component, String)>> {
    let mut lines: Vec<(Component, Vec<String>)> = sick.iter().map(|component| (*component, Vec::new())).collect();
    let query = LogQuery {
        components: sick.iter().copied().collect(),
        since: Some(Utc::now() - TimeDelta::hours(1)),
        follow: false,
    };
    // What has no log has nothing to tell.
    let _ = session.client.logs(query, &mut |event| {
        if let Event::Line { component, text } = event {
            lines.iter_mut().filter(|it| it.0 == component).for_each(|it| it.1.push(text.clone()));
        }
        Ok(())
    });
    let last = |lines: Vec<String>| lines[lines.len().saturating_sub(REPORTED_LINES)..].join("\n");
    Ok(lines.into_iter().map(|(component, lines)| (component, last(lines))).collect())
}

/// The host's page, with what is seen from here on top.
fn fetch_report(session: &mut Session, file: &Path, unreachable: Option<&Finding>) -> Result<Exit> {
    let (page, exit) = there::answer(session, &["doctor", "--report", "-"], As::Question)?;
    progress::clear();
    let from_here = unreachable.map(|it| format!("Seen from the client:\n\n{}\n", paragraph(it))).unwrap_or_default();
    write_report(file, &format!("{from_here}{page}"))?;
    Ok(if unreachable.is_some() { Exit::Failed } else { exit })
}

fn write_report(file: &Path, page: &str) -> Result<()> {
    if file == Path::new("-") {
        return Ok(report::data(page)?);
    }
    fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
    report::say(&format!("wrote {}: read it before you send it", file.display()));
    Ok(())
}

/// Where the host is a Mac: what could not be tried without one.
fn self_check(settings: Option<&Path>) -> Result<Exit> {
    let session = Session::open(settings, Need::Any)?;
    if !session.is_here {
        return there::run(session, As::Question);
    }
    let system = System::here()?.name;
    if system != "Darwin" {
        return Err(Failure::new(
            Class::Nothing,
            format!("there is nothing to check: this is for Macs, and here is {system}"),
        )
        .into());
    }
    for unverified in unverified::list() {
        let got = unverified::run(&unverified);
        let got = got.trim_end().replace('\n', "\n            ");
        let unverified::Unverified { what, command, expected } = unverified;
        report::data(&format!("{what}\n  command:  {command}\n  expected: {expected}\n  got:      {got}\n\n"))?;
    }
    report::say("where `got` is not what is expected, please report both; nothing was changed");
    Ok(Exit::Done)
}
