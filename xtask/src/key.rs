//! `key`: API keys, one for everybody who asks the engine from elsewhere.

use std::path::Path;

use anyhow::Result;
use chrono::{SecondsFormat, Utc};
use gateway::key::KeyFile;
use stack::{
    failure::{Class, Failure},
    layout::Root,
    observed::Question,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session},
    there::{self, As},
};

pub(crate) fn run(settings: Option<&Path>, verb: cli::Key) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    if !session.is_here {
        return there::run(session, As::Question);
    }
    let observed = session.client.observe(Question::default())?;
    let path = Root::new(observed.root).keys();
    let mut file = KeyFile::load(&path)?;
    match verb {
        cli::Key::Add { name } => {
            let created = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
            let Some(key) = file.add(&name, created)? else {
                return Err(Failure::new(Class::Refused, format!("there is a key {name} already"))
                    .hint(format!("take another name, or revoke it first: cargo xtask key revoke {name}"))
                    .into());
            };
            file.save(&path)?;
            report::data(&format!("{key}\n"))?;
            report::say("this is shown once and kept nowhere; send it as `Authorization: Bearer` or `x-api-key`");
            if !session.settings.gateway.keys {
                report::say("nobody is asked for it yet: set `keys = true` under [gateway], and deploy");
            }
        }
        cli::Key::List { json: false } if file.keys.is_empty() => {
            report::say("there are no keys: `cargo xtask key add NAME` makes one");
        }
        cli::Key::List { json } => report::data(&match json {
            true => format!("{}\n", serde_json::to_string(&file.keys)?),
            false => file.keys.iter().map(|key| format!("{:<20} {}\n", key.name, key.created)).collect(),
        })?,
        cli::Key::Revoke { name } => {
            if !file.revoke(&name) {
                return Err(Failure::new(Class::Nothing, format!("there is no key {name}"))
                    .hint("`cargo xtask key list` shows the names")
                    .into());
            }
            file.save(&path)?;
            report::say(&format!(
                "{name} is refused from now on, also where it waits for a turn; what streams already may end"
            ));
        }
    }
    Ok(Exit::Done)
}
