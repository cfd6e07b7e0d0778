//! `logs`: what components printed.

use std::path::Path;

use anyhow::Result;
use chrono::{DateTime, Utc};
use stack::{
    component::Component,
    failure::{Class, Failure},
    protocol::{Event, LogQuery},
    settings::value,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
};

pub(crate) fn run(settings: Option<&Path>, args: &cli::Logs) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    let since = args.since.as_deref().map(time).transpose()?;
    let components = args.components.iter().copied().collect();
    let query = LogQuery { components, since, follow: args.follow };
    let interrupt = session.interrupt.clone();
    let single = args.components.len() == 1;
    let done = session.client.logs(query, &mut |event| {
        if let Event::Line { component, text } = event {
            let line = if single { format!("{text}\n") } else { lead(component, &text) };
            let enough = Failure::new(Class::Interrupted, "nobody reads the output");
            report::data(&line).map_err(|_| enough)?;
        }
        interrupt.check()
    });
    match done {
        // Ctrl-C, or `… | head` that has seen enough.
        Err(failure) if failure.class == Class::Interrupted => match session.interrupt.check() {
            Err(_) => Ok(Exit::Interrupted),
            Ok(()) => Ok(Exit::Done),
        },
        done => Ok(done.map(|()| Exit::Done)?),
    }
}

fn lead(component: Component, text: &str) -> String {
    format!("{component:<14}{text}\n")
}

/// A time, or how long ago.
fn time(text: &str) -> Result<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let ago = value::duration(text).map_err(|wrong| {
        Failure::new(Class::Settings, format!("cannot understand --since {text}"))
            .because(&wrong)
            .hint("write how long ago, as in 10m or 2h, or a time, as in 2026-01-31T12:00:00Z")
    })?;
    Ok(Utc::now() - ago)
}
