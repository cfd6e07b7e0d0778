//! `start`, `stop`, `restart`.

use std::path::Path;

use anyhow::Result;
use stack::protocol::Action;

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
};

pub(crate) fn run(settings: Option<&Path>, action: Action, args: &cli::Named) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    let interrupt = session.interrupt.clone();
    let mut waiting = report::waiting();
    session.client.control(action, args.components.iter().copied().collect(), &mut |event| {
        waiting(&event);
        interrupt.check()
    })?;
    let names: Vec<&str> = args.components.iter().map(|component| component.name()).collect();
    let what = if names.is_empty() { "the whole stack".to_owned() } else { names.join(", ") };
    report::say(&match action {
        Action::Start => format!("runs: {what}"),
        Action::Stop => format!("stopped until started again: {what}"),
        Action::Restart => format!("restarted: {what}"),
    });
    Ok(Exit::Done)
}
