//! `monitor` and `perf`: the stack over time, as Prometheus, Alertmanager and Grafana have it.

use std::path::Path;

use anyhow::{Context, Result};
use ops::{
    monitor::{
        Monitor, alert,
        dashboard::{Dashboard, Grafana},
        perf, query,
        status::{self, Status},
    },
    summary::Summary,
    verify::Verdict,
};
use serde::Serialize;
use serde_json::json;
use stack::{
    component::Component,
    failure::{Class, Failure},
    layout::Root,
    observed::{Observed, Question},
    process,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
    there::{self, As},
    verify,
};

/// The secret that Grafana's `admin` logs in with.
const PASSWORD: &str = "grafana-admin-password";

pub(crate) fn run(settings: Option<&Path>, verb: cli::Monitor) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    match verb {
        // A browser and a file are where the person is.
        cli::Monitor::Open { what } => open(&mut session, what),
        cli::Monitor::Import { file } => import(&mut session, &file),
        _ if !session.is_here => there::run(session, As::Question),
        cli::Monitor::Status { json } => {
            let status = Status::ask(&look(&mut session)?.1)?;
            print(json, &status, || status.words())?;
            Ok(if status.is_sick() { Exit::Failed } else { Exit::Done })
        }
        cli::Monitor::Alerts { test: true, json } => test(&mut session, json),
        cli::Monitor::Alerts { test: false, json } => {
            let firing = status::firing(&look(&mut session)?.1)?;
            print(json, &firing, || status::firing_words(&firing))?;
            Ok(Exit::Done)
        }
        cli::Monitor::Query { expression, range, json } => {
            let rows = query::query(&look(&mut session)?.1, &expression, range)?;
            print(json, &rows, || query::table(&rows, range))?;
            if rows.is_empty() {
                report::say("no rows");
            }
            Ok(if rows.is_empty() { Exit::Nothing } else { Exit::Done })
        }
    }
}

/// The stack, and those of it that watch the others.
fn look(session: &mut Session) -> Result<(Observed, Monitor), Failure> {
    let observed = session.client.observe(Question::default())?;
    let monitor = Monitor::of(&observed)?;
    Ok((observed, monitor))
}

pub(crate) fn perf(settings: Option<&Path>, args: &cli::Perf) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    if !session.is_here {
        return there::run(session, As::Question);
    }
    let (observed, monitor) = look(&mut session)?;
    let perf = perf::perf(&observed, &monitor)?;
    print(args.json, &perf, || perf.words())?;
    Ok(Exit::Done)
}

fn print(json: bool, value: &impl Serialize, words: impl FnOnce() -> String) -> Result<()> {
    let text = if json { format!("{}\n", serde_json::to_string(value)?) } else { words() };
    Ok(report::data(&text)?)
}

/// Each station is told as it is passed.
fn test(session: &mut Session, json: bool) -> Result<Exit> {
    let (observed, monitor) = look(session)?;
    let alerts = &session.settings.alerts;
    if alert::ways(alerts).is_empty() {
        let why = match alerts.watchdog {
            Some(_) => "nobody is told of alerts but the watchdog: nothing else is set under [alerts]",
            None => "nobody is told of alerts: nothing is set under [alerts]",
        };
        return Err(Failure::new(Class::Nothing, why)
            .hint(
                "write `webhook`, `ntfy`, `slack` or `email` there, and deploy; config/stack.example.toml has them all",
            )
            .into());
    }
    let mut closed = None;
    let checks = alert::test(&monitor, &Root::new(observed.root), (alerts, &session.settings.monitoring), |check| {
        if !json {
            closed = verify::print(std::slice::from_ref(check)).err().or(closed.take());
        }
    })?;
    if let Some(error) = closed {
        return Err(error.into());
    }
    if json {
        report::data(&format!("{}\n", json!({ "checks": checks })))?;
    }
    let passed = checks.iter().all(|check| check.result == Verdict::Pass);
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

/// What answers from here: through the edge, unless the host is this machine.
fn address(session: &mut Session, component: Component) -> Result<String> {
    let (observed, monitor) = look(session)?;
    let own = monitor.url(component)?.to_owned();
    if session.is_here {
        return Ok(own);
    }
    let summary = Summary::of(session.host(), &observed);
    Ok(summary.door(component).map(str::to_owned).ok_or_else(|| {
        Failure::new(Class::Refused, format!("the {component} listens on the loopback of {} only", session.host()))
            .hint(format!(
                "`ssh -L 8000:{} {}`, then http://127.0.0.1:8000",
                own.trim_start_matches("http://"),
                session.host()
            ))
    })?)
}

fn open(session: &mut Session, what: Option<Component>) -> Result<Exit> {
    let url = match what {
        Some(component) => address(session, component)?,
        None => address(session, Component::Grafana).or_else(|_| address(session, Component::Prometheus))?,
    };
    report::data(&format!("{url}\n"))?;
    // What a system has for this; where there is none, the address is all that one needs.
    for program in ["open", "xdg-open"] {
        if process::look_up(program, &[&url]).is_some() {
            break;
        }
    }
    Ok(Exit::Done)
}

fn import(session: &mut Session, file: &Path) -> Result<Exit> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let dashboard = Dashboard::parse(&text)?;
    let url = address(session, Component::Grafana)?;
    let password = session.client.secrets(true)?.remove(PASSWORD).flatten();
    let Some(password) = password else {
        return Err(Failure::new(Class::Nothing, format!("{} keeps no {PASSWORD}", session.host()))
            .hint(format!("`cargo xtask secret set {PASSWORD}` tells it the one that Grafana has"))
            .into());
    };
    let seen = Grafana { url: &url, password: &password }.import(&dashboard)?;
    report::data(&format!("{seen}\n"))?;
    report::say(&format!(
        "Grafana has {}; to keep it with the stack, put the file into local/dashboards/",
        dashboard.title()
    ));
    Ok(Exit::Done)
}
