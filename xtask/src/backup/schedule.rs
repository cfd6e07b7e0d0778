//! Having the host back up by itself.

use anyhow::Result;
use chrono::{DateTime, Local};
use serde_json::json;
use stack::settings::TimeOfDay;

use super::Found;
use crate::report::{self, Exit};

pub(super) fn run(found: &Found, at: Option<TimeOfDay>, remove: bool, as_json: bool) -> Result<Exit> {
    if remove {
        ops::backup::unschedule(&found.backup)?;
        report::say("no backup runs by itself any more");
        return Ok(Exit::Done);
    }
    let at = at.unwrap_or(found.settings.at);
    let scheduled = ops::backup::schedule(&found.backup, at, found.settings.drill, Local::now())?;
    if as_json {
        let value = json!({
            "by": scheduled.by,
            "next": scheduled.next,
            "next_drill": scheduled.next_drill,
            "last": found.backups.last,
        });
        report::data(&format!("{value}\n"))?;
        return Ok(Exit::Done);
    }
    let time = |time: DateTime<Local>| time.format("%Y-%m-%d %H:%M").to_string();
    let mut page = format!("{} runs a backup each day; the next begins {}\n", scheduled.by, time(scheduled.next));
    page.extend(scheduled.next_drill.map(|next| format!("and a drill each Sunday; the next begins {}\n", time(next))));
    page.extend(found.backups.words().map(|words| format!("last backup {words}\n")));
    report::data(&page)?;
    Ok(Exit::Done)
}
