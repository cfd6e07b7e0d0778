//! `status`: what runs, where, and how it is.

use std::{fmt::Write as _, path::Path, thread, time::Duration};

use anyhow::Result;
use ops::summary::Summary;
use stack::{
    failure::{Class, Failure},
    observed::{Question, State},
    secret::Secret,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
};

/// Between two looks of `--watch`.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) fn run(settings: Option<&Path>, args: &cli::Status) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    if args.secrets {
        return secrets(&mut session, args.json);
    }
    let mut shown = None;
    loop {
        let observed = session.client.observe(Question::default())?;
        if observed.current.is_none() {
            let root = observed.root.display();
            return Err(Failure::new(Class::Nothing, format!("nothing is deployed in {root}"))
                .hint("`cargo xtask deploy` brings up a stack")
                .into());
        }
        let summary = Summary::of(session.host(), &observed);
        if shown.as_ref() != Some(&summary) {
            match args.json {
                true => report::data(&format!("{}\n", serde_json::to_string(&summary)?))?,
                false => report::data(&page(&summary))?,
            }
            if let Some(cut) = &observed.interrupted {
                let step = cut.step.as_deref().unwrap_or("its first step");
                report::say(&format!("a change was cut off at: {step}; `cargo xtask deploy` goes on from there"));
            }
        }
        if !args.watch {
            return Ok(if summary.is_sick() { Exit::Failed } else { Exit::Done });
        }
        shown = Some(summary);
        thread::sleep(LOOK_EVERY);
        session.interrupt.check()?;
    }
}

/// The one place that shows secrets, and only to whoever asks for them.
fn secrets(session: &mut Session, json: bool) -> Result<Exit> {
    let secrets = session.client.secrets(true)?;
    if json {
        report::data(&format!("{}\n", serde_json::to_string(&secrets)?))?;
        return Ok(Exit::Done);
    }
    for (name, secret) in &secrets {
        report::data(&format!("{name:<24}{}\n", secret.as_ref().map(Secret::reveal).unwrap_or_default()))?;
    }
    if secrets.is_empty() {
        report::say(&format!("{} keeps no secrets; `cargo xtask secret set` has it keep one", session.host()));
    }
    Ok(Exit::Done)
}

fn page(summary: &Summary) -> String {
    let release = summary.release.as_ref().map(ToString::to_string).unwrap_or_default();
    let runtime = summary.runtime.map(|runtime| runtime.to_string()).unwrap_or_default();
    let backup = summary.backup_words.as_ref().map(|words| format!("  backup        {words}\n")).unwrap_or_default();
    format!("{} · {runtime} · release {release}\n{}{backup}", summary.host, table(summary))
}

/// A line per component: name, state, URL, detail.
pub(crate) fn table(summary: &Summary) -> String {
    let mut text = String::new();
    for part in &summary.components {
        let url = part
            .lan_url
            .as_deref()
            .or(part.url.as_deref())
            .filter(|_| part.state != State::Stopped)
            .unwrap_or_default();
        let detail = part.detail.as_deref().unwrap_or_default();
        let line = format!("  {:<14}{:<11}{url:<24}{detail}", part.name, word(part.state));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn word(state: State) -> &'static str {
    match state {
        State::Healthy => "healthy",
        State::Starting => "starting",
        State::Unhealthy => "unhealthy",
        State::Stopped => "stopped",
        State::Absent => "absent",
    }
}
