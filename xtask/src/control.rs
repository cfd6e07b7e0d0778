//! `start`, `stop`, `restart`.

use std::path::Path;

use anyhow::Result;
use stack::protocol::{Action, Event};

use crate::{
    cli,
    report::{self, Exit},
    session::Session,
};

pub(crate) fn run(settings: Option<&Path>, action: Action, args: &cli::Named) -> Result<Exit> {
    let mut session = Session::open(settings)?;
    let interrupt = session.interrupt.clone();
    session.client.control(action, args.component.into_iter().collect(), &mut |event| {
        if let Event::Waiting { detail } = event {
            report::say(&format!("waiting: {detail}"));
        }
        interrupt.check()
    })?;
    let what = args.component.map_or_else(|| "the stack".to_owned(), |component| format!("the {component}"));
    report::say(&match action {
        Action::Start => format!("{what} runs"),
        Action::Stop => format!("{what} is stopped; `cargo xtask start` starts it again"),
        Action::Restart => format!("{what} was restarted"),
    });
    Ok(Exit::Done)
}
