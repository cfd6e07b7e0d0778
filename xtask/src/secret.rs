//! `secret`: values that only the host keeps.

use std::path::Path;

use anyhow::Result;
use stack::{
    failure::{Class, Failure},
    secret::Secret,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
};

pub(crate) fn run(settings: Option<&Path>, verb: cli::Secret) -> Result<Exit> {
    match verb {
        cli::Secret::Set { name } => {
            let value = read(&name, &format!("cargo xtask secret set {name}"))?;
            let mut session = Session::open(settings, Need::Any)?;
            session.client.set_secret(name.clone(), value)?;
            report::say(&format!("{} keeps {name}", session.host()));
        }
        cli::Secret::List { json } => {
            let secrets = Session::open(settings, Need::Any)?.client.secrets(false)?;
            let names: Vec<&String> = secrets.keys().collect();
            if names.is_empty() && !json {
                report::say("there are no secrets: `cargo xtask secret set NAME` keeps one");
            }
            report::data(&match json {
                true => format!("{}\n", serde_json::to_string(&names)?),
                false => names.iter().map(|name| format!("{name}\n")).collect(),
            })?;
        }
        cli::Secret::Remove { name } => {
            Session::open(settings, Need::Any)?.client.remove_secret(name.clone())?;
            report::say(&format!("forgot {name}"));
        }
    }
    Ok(Exit::Done)
}

/// Never from an argument, which everybody can see.
pub(crate) fn read(name: &str, command: &str) -> Result<Secret> {
    let value = report::ask_unseen(&format!("{name}: "))?;
    if value.is_empty() {
        return Err(Failure::new(Class::Settings, format!("no value for {name} came"))
            .hint(format!("type it when asked, or pipe it in: `… | {command}`"))
            .into());
    }
    Ok(Secret::new(value))
}
