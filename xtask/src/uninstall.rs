//! `uninstall`: as if nothing had ever been deployed.

use std::{io::IsTerminal, path::Path};

use anyhow::Result;
use stack::{
    failure::{Class, Failure},
    observed::Question,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
};

pub(crate) fn run(settings: Option<&Path>, args: &cli::Uninstall) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    let data = session.client.observe(Question::default())?.root.join("data");
    if args.data && !args.yes && !confirm(session.host(), &data)? {
        report::say("nothing was removed");
        return Ok(Exit::Refused);
    }
    if args.ask_sudo {
        session.ask_sudo()?;
    }
    let mut waiting = report::waiting();
    session.client.uninstall(args.data, &mut |event| {
        waiting(&event);
        // Half an uninstall is of no use to anyone; it can be run again.
        Ok(())
    })?;
    report::say(&match args.data {
        true => "uninstalled, nothing is left".to_owned(),
        false => format!("uninstalled; data stays in {} on {}", data.display(), session.host()),
    });
    Ok(Exit::Done)
}

fn confirm(host: &str, data: &Path) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Class::Refused, format!("there is nobody to ask whether {} may go", data.display()))
            .hint("add --yes if you mean it")
            .into());
    }
    Ok(report::ask(&format!("this deletes every model and all samples in {} on {host}\ngo on?", data.display()))?)
}
