//! Bringing things back, and carrying models about.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use ::backup::Restored;
use anyhow::Result;
use ops::backup::{Back, Moved, Planned};
use serde_json::{Value, json};
use stack::failure::{Class, Failure};

use super::{Found, save::say_problems};
use crate::{
    progress,
    report::{self, Exit},
};

/// How a restore goes about it.
pub(super) struct How {
    pub(super) dry_run: bool,
    pub(super) yes: bool,
    pub(super) json: bool,
}

pub(super) fn restore(found: &Found, wanted: &Back, how: &How) -> Result<Exit> {
    let begun = Instant::now();
    let planned = found.backup.plan_back(wanted)?;
    if !how.json {
        for (name, why) in &planned.left_out {
            report::say(&format!("{name} {why}"));
        }
    }
    if how.dry_run {
        match how.json {
            true => report::data(&format!("{}\n", plan_json(&planned)))?,
            false => report::data(&plan_page(&planned))?,
        }
        return Ok(Exit::Done);
    }
    if wanted.to.is_none() && !how.yes {
        report::say(plan_page(&planned).trim_end());
        return Err(Failure::new(Class::Refused, "nothing is written in place without --yes")
            .hint("add --yes, or --to FOLDER to look at it first")
            .into());
    }
    let total = planned.plan.bytes + planned.plan.present_bytes;
    let watch = progress::watch("restoring", total, &found.interrupt);
    let restored = found.backup.bring_back(&planned, &watch)?;
    drop(watch);
    if how.json {
        report::data(&format!("{}\n", restored_json(&planned.id, &restored, begun.elapsed())))?;
    } else {
        let Restored { files, bytes, unchanged, .. } = restored;
        let (bytes, took) = (report::bytes(bytes), report::seconds(begun.elapsed()));
        report::data(&format!(
            "restored {}: wrote {files} files, {bytes}; {unchanged} were there already; in {took}\n",
            planned.id
        ))?;
        say_problems("not restored", &restored.failed);
    }
    Ok(if restored.failed.is_empty() { Exit::Done } else { Exit::Failed })
}

fn plan_page(planned: &Planned) -> String {
    let plan = &planned.plan;
    let mut page = format!(
        "{}: would write {} files, {}; {} look as if they were there\n",
        planned.id,
        plan.files,
        report::bytes(plan.bytes),
        plan.present
    );
    for (name, folder) in planned.targets() {
        let _ = writeln!(page, "  {name:<14}to {}", folder.display());
    }
    for (name, volume) in &planned.volumes {
        let _ = writeln!(page, "  {name:<14}to volume {}", volume.name);
    }
    page
}

fn plan_json(planned: &Planned) -> Value {
    let plan = &planned.plan;
    let volumes: BTreeMap<&String, &String> = planned.volumes.iter().map(|(name, it)| (name, &it.name)).collect();
    json!({
        "snapshot": planned.id,
        "targets": planned.targets(),
        "volumes": volumes,
        "files": plan.files,
        "bytes": plan.bytes,
        "present": plan.present,
    })
}

pub(super) fn restored_json(id: &str, restored: &Restored, took: Duration) -> Value {
    json!({
        "snapshot": id,
        "files": restored.files,
        "bytes": restored.bytes,
        "unchanged": restored.unchanged,
        "seconds": took.as_secs_f64(),
        "failed": restored.failed,
    })
}

pub(super) fn export(found: &Found, model: &str, file: &Path) -> Result<Exit> {
    let begin = |total| progress::watch("writing", total, &found.interrupt);
    let moved = ops::backup::export(store(found)?, model, file, begin)?;
    report::data(&format!("{} holds {}\n", file.display(), line(&moved)))?;
    Ok(Exit::Done)
}

pub(super) fn import(found: &Found, file: &Path) -> Result<Exit> {
    let begin = |total| progress::watch("reading", total, &found.interrupt);
    for moved in ops::backup::import(store(found)?, file, begin)? {
        report::data(&format!("took {}\n", line(&moved)))?;
    }
    Ok(Exit::Done)
}

/// The model store of the stack here.
fn store(found: &Found) -> Result<&Path, Failure> {
    found.backup.stack.as_ref().map(|stack| stack.models.as_path()).ok_or_else(|| {
        Failure::new(Class::Settings, "there is no stack here whose models could be meant")
            .hint("name its settings with --settings")
    })
}

fn line(moved: &Moved) -> String {
    let name = moved.manifest.strip_prefix("manifests").unwrap_or(&moved.manifest);
    format!("{}: {} blobs, {}", name.display(), moved.blobs, report::bytes(moved.bytes))
}
