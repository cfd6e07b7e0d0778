//! Saving, and forgetting what is old.

use std::fmt::Write as _;

use ::backup::{Problem, PrunePlan};
use anyhow::Result;
use ops::backup::{Allowed, Backup, Preflight, Ran, SaveRequest};
use serde_json::{Value, json};
use stack::failure::{Class, Failure};

use super::Found;
use crate::{
    cli, progress,
    report::{self, Exit},
};

pub(super) fn run(mut found: Found, args: &cli::Backup) -> Result<Exit> {
    if !found.is_deployed {
        return Err(Failure::new(Class::Nothing, "nothing is deployed here that could be saved")
            .hint("`cargo xtask deploy` brings up a stack; `--source-dir DIR --repository DIR` saves any folder")
            .into());
    }
    found.backup.narrow(args.source.as_deref())?;
    let allowed = Allowed { network: args.network, anew: args.new };
    if args.dry_run {
        return preview(&found.backup, allowed, args.json);
    }
    let request = SaveRequest { tag: args.tag.clone(), allowed };
    let ran =
        found.backup.save(&request, |preflight| progress::watch("saving", preflight.new_bytes(), &found.interrupt))?;
    let incomplete = &ran.saved.snapshot.incomplete;
    match args.json {
        true => report::data(&format!("{}\n", saved_json(&ran)))?,
        false => report::data(&saved_page(&found.backup, &ran))?,
    }
    if !args.json {
        say_problems("not saved", incomplete);
    }
    match &ran.pruned {
        Some(Ok(plan)) if !args.json && !plan.forget.is_empty() => report::data(&prune_line(plan, "forgot"))?,
        Some(Err(failure)) => report::failure(failure),
        _ => {}
    }
    Ok(match &ran.pruned {
        _ if !incomplete.is_empty() => Exit::Incomplete,
        Some(Err(failure)) => failure.class.into(),
        _ => Exit::Done,
    })
}

/// The dry run: what the preflight says, and the exit code that it would give.
fn preview(backup: &Backup, allowed: Allowed, as_json: bool) -> Result<Exit> {
    let found = backup.preflight(allowed)?;
    match as_json {
        true => report::data(&format!("{}\n", preview_json(backup, &found)))?,
        false => report::data(&preview_page(backup, &found))?,
    }
    if !as_json {
        say_problems("would not be saved", &found.estimate.incomplete);
    }
    if let Some(refusal) = found.refusal {
        return Err(refusal.into());
    }
    Ok(if found.estimate.incomplete.is_empty() { Exit::Done } else { Exit::Incomplete })
}

fn preview_page(backup: &Backup, found: &Preflight) -> String {
    let state = if found.exists { "" } else { " (to be made)" };
    let free = report::bytes(found.free_bytes);
    let mut page = format!("to {}{state}, {free} free\n", backup.repository.display());
    for (name, it) in &found.estimate.sources {
        let new = match it.new_bytes {
            0 => "nothing new".to_owned(),
            bytes => format!("{} new in {} files", report::bytes(bytes), it.new_files),
        };
        let _ = writeln!(page, "  {name:<14}{:>7} files {:>10}   {new}", it.files, report::bytes(it.bytes));
    }
    let _ = writeln!(page, "would read {}, and write no more than that", report::bytes(found.new_bytes()));
    if let Some(plan) = found.prune.as_ref().filter(|plan| !plan.forget.is_empty()) {
        page.push_str(&prune_line(plan, "would forget"));
    }
    page
}

fn preview_json(backup: &Backup, found: &Preflight) -> Value {
    let sources = found.estimate.sources.iter().map(|(name, it)| {
        json!({ "name": name, "files": it.files, "bytes": it.bytes, "new_files": it.new_files, "new_bytes": it.new_bytes })
    });
    let mut value = json!({
        "repository": backup.repository,
        "exists": found.exists,
        "free_bytes": found.free_bytes,
        "sources": sources.collect::<Vec<_>>(),
        "incomplete": found.estimate.incomplete,
    });
    if let Some(plan) = &found.prune {
        value["prune"] = prune_json(plan);
    }
    value
}

fn saved_page(backup: &Backup, ran: &Ran) -> String {
    let (saved, (files, bytes)) = (&ran.saved, ran.totals());
    let mut page = format!(
        "saved {} to {} in {}: {files} files, {}; read {}, wrote {}\n",
        saved.id,
        backup.repository.display(),
        report::seconds(ran.took),
        report::bytes(bytes),
        report::bytes(saved.bytes_read),
        report::bytes(saved.bytes_written),
    );
    for (name, it) in &saved.snapshot.sources {
        let _ = writeln!(page, "  {name:<14}{:>7} files {:>10}", it.files, report::bytes(it.bytes));
    }
    page
}

fn saved_json(ran: &Ran) -> Value {
    let (saved, (files, bytes)) = (&ran.saved, ran.totals());
    json!({
        "snapshot": saved.id,
        "files": files,
        "bytes": bytes,
        "bytes_read": saved.bytes_read,
        "bytes_written": saved.bytes_written,
        "seconds": ran.took.as_secs_f64(),
        "incomplete": saved.snapshot.incomplete,
    })
}

/// Problems are talk: the verb's exit code is what a script looks at.
pub(super) fn say_problems(what: &str, problems: &[Problem]) {
    for Problem { source, path, reason } in problems {
        report::say(&match path.is_empty() {
            true => format!("{what}: {source}: {reason}"),
            false => format!("{what}: {source}: `{path}` {reason}"),
        });
    }
}

pub(super) fn prune(backup: &Backup, dry_run: bool, forget: &[String], as_json: bool) -> Result<Exit> {
    let plan = if dry_run { backup.plan_prune()? } else { ops::backup::prune(backup, forget)? };
    match as_json {
        true => report::data(&format!("{}\n", prune_json(&plan)))?,
        false => {
            let mut page = prune_line(&plan, if dry_run { "would forget" } else { "forgot" });
            let gone = plan.forget.iter().map(|id| format!("  {id}\n"));
            page.extend(gone);
            report::data(&page)?;
        }
    }
    Ok(Exit::Done)
}

fn prune_line(plan: &PrunePlan, verb: &str) -> String {
    let all = plan.keep.len() + plan.forget.len();
    format!(
        "{verb} {} of {all} snapshots; {} in {} files leave with the trash in 7 days\n",
        plan.forget.len(),
        report::bytes(plan.bytes),
        plan.files.len()
    )
}

fn prune_json(plan: &PrunePlan) -> Value {
    json!({ "keep": plan.keep, "forget": plan.forget, "files": plan.files.len(), "bytes": plan.bytes })
}
