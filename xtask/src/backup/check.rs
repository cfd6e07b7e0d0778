//! Whether what was saved is whole, and comes back.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use ::backup::{Damage, Reading, Verified};
use anyhow::Result;
use serde_json::{Value, json};

use super::{Found, back::restored_json, save::say_problems};
use crate::{
    progress,
    report::{self, Exit},
};

pub(super) fn verify(found: &Found, read: Reading, longest: Option<Duration>, as_json: bool) -> Result<Exit> {
    let begun = Instant::now();
    let begin = |total| progress::watch("verifying", total, &found.interrupt);
    let verified = ops::backup::verify(&found.backup, read, longest, begin)?;
    match as_json {
        true => report::data(&format!("{}\n", verified_json(&verified)))?,
        false => report::data(&page(&verified, begun.elapsed()))?,
    }
    if verified.damage.is_empty() {
        return Ok(Exit::Done);
    }
    report::say("\nhint: run a backup: it saves anew what its sources still have; then verify again");
    Ok(Exit::Failed)
}

fn page(verified: &Verified, took: Duration) -> String {
    let mut page = format!(
        "{} snapshots, read {} in {}{}: {}\n",
        verified.snapshots,
        report::bytes(verified.bytes_read),
        report::seconds(took),
        if verified.is_finished { "" } else { " (the time was over)" },
        match verified.damage.len() {
            0 => "whole".to_owned(),
            count => format!("{count} things are damaged"),
        }
    );
    for Damage { path, object, ranges, what, snapshots } in &verified.damage {
        let name = if path.is_empty() { object.map(|it| it.to_string()).unwrap_or_default() } else { path.clone() };
        let _ = writeln!(page, "{name}: {what}");
        for range in ranges {
            let _ = writeln!(page, "  bytes {} to {}", range.start, range.end);
        }
        if !snapshots.is_empty() {
            let _ = writeln!(page, "  hurts {}", snapshots.join(", "));
        }
    }
    page
}

fn verified_json(verified: &Verified) -> Value {
    let damage = verified.damage.iter().map(|Damage { path, object, ranges, what, snapshots }| {
        let ranges: Vec<_> = ranges.iter().map(|it| [it.start, it.end]).collect();
        json!({ "path": path, "object": object, "ranges": ranges, "what": what, "snapshots": snapshots })
    });
    json!({
        "snapshots": verified.snapshots,
        "units": verified.units,
        "bytes_read": verified.bytes_read,
        "finished": verified.is_finished,
        "damage": damage.collect::<Vec<_>>(),
    })
}

pub(super) fn drill(found: &Found, id: &str, source: Option<&str>, as_json: bool) -> Result<Exit> {
    let begun = Instant::now();
    let begin = |total| progress::watch("restoring", total, &found.interrupt);
    let (id, restored) = ops::backup::drill(&found.backup, id, source, begin)?;
    if as_json {
        report::data(&format!("{}\n", restored_json(&id, &restored, begun.elapsed())))?;
    } else {
        let (files, bytes) = (restored.files, report::bytes(restored.bytes));
        let took = report::seconds(begun.elapsed());
        report::data(&format!("{id}: {files} files, {bytes} came back and read as they were saved, in {took}\n"))?;
        say_problems("did not come back", &restored.failed);
    }
    Ok(if restored.failed.is_empty() { Exit::Done } else { Exit::Failed })
}
