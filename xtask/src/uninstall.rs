//! `uninstall`: as if nothing had ever been deployed.

use std::{io::IsTerminal, path::Path};

use anyhow::Result;
use stack::{
    failure::{Class, Failure},
    protocol::Event,
};

use crate::{
    cli,
    report::{self, Exit},
    session::Session,
};

pub(crate) fn run(settings: Option<&Path>, args: &cli::Uninstall) -> Result<Exit> {
    let mut session = Session::open(settings)?;
    let root = session.client.0.root.path().to_owned();
    if args.data && !args.yes && !confirm(&root)? {
        report::say("nothing was removed");
        return Ok(Exit::Refused);
    }
    session.client.uninstall(args.data, &mut |event| {
        if let Event::Waiting { detail } = event {
            report::say(&format!("waiting: {detail}"));
        }
        // Half an uninstall is of no use to anyone; it can be run again.
        Ok(())
    })?;
    match root.exists() {
        true => report::say(&format!("uninstalled; data stays in {}", root.join("data").display())),
        false => report::say("uninstalled, nothing is left"),
    }
    Ok(Exit::Done)
}

fn confirm(root: &Path) -> Result<bool> {
    let data = root.join("data");
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Class::Refused, format!("there is nobody to ask whether {} may go", data.display()))
            .hint("add --yes if you mean it")
            .into());
    }
    Ok(report::ask(&format!("this deletes every model and all samples in {}\ngo on?", data.display()))?)
}
