//! Looking at snapshots.

use std::fmt::Write as _;

use ::backup::{Change, Changed, Entry, Kind, Problem, Snapshot};
use anyhow::Result;
use ops::backup::Backup;
use serde_json::{Value, json};
use stack::failure::Failure;

use super::save::say_problems;
use crate::report::{self, Exit};

pub(super) fn list(backup: &Backup, as_json: bool) -> Result<Exit> {
    let repository = backup.open(None)?;
    let failed = |error| backup.failure("cannot read", &error);
    let mut page = String::new();
    let mut all = Vec::new();
    for id in repository.ids().map_err(failed)? {
        // One that cannot be read is shown as such: the others are as good as ever.
        let snapshot = match repository.snapshot(&id) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                report::say(&format!("{id} cannot be read: {error}"));
                continue;
            }
        };
        let verified = repository.is_verified(&id).map_err(failed)?;
        let (files, bytes) = totals(&snapshot);
        let lacking = snapshot.incomplete.len();
        let mut words: Vec<String> = Vec::new();
        words.extend((lacking > 0).then(|| format!("lacks {lacking}")));
        words.extend(verified.then(|| "verified".to_owned()));
        words.extend(snapshot.tag.clone());
        let line = format!("{id}  {files:>7} files {:>10}  {}", report::bytes(bytes), words.join(", "));
        let _ = writeln!(page, "{}", line.trim_end());
        let mut value = head(&id, &snapshot);
        value["files"] = files.into();
        value["bytes"] = bytes.into();
        value["incomplete"] = lacking.into();
        value["verified"] = verified.into();
        all.push(value);
    }
    report::data(&if as_json { format!("{}\n", Value::Array(all)) } else { page })?;
    Ok(Exit::Done)
}

pub(super) fn show(backup: &Backup, id: &str, files: bool, as_json: bool) -> Result<Exit> {
    let repository = backup.open(None)?;
    let failed = |error| backup.failure("cannot read", &error);
    let id = find(backup, id)?;
    let snapshot = repository.snapshot(&id).map_err(failed)?;
    let mut entries = Vec::new();
    if files {
        let index = repository.index().map_err(failed)?;
        for (name, source) in &snapshot.sources {
            entries.push((name, repository.tree(&index, source.tree).map_err(failed)?));
        }
    }
    if as_json {
        let mut value = head(&id, &snapshot);
        value["sources"] = json!(snapshot.sources);
        value["incomplete"] = json!(snapshot.incomplete);
        if files {
            value["entries"] = entries.iter().map(|(name, entries)| ((*name).clone(), json!(entries))).collect();
        }
        report::data(&format!("{value}\n"))?;
    } else {
        report::data(&show_page(&id, &snapshot, &entries))?;
        let lacking: &[Problem] = &snapshot.incomplete;
        say_problems("lacks", lacking);
    }
    Ok(Exit::Done)
}

fn show_page(id: &str, snapshot: &Snapshot, entries: &[(&String, Vec<Entry>)]) -> String {
    let tag = snapshot.tag.as_ref().map(|tag| format!(" ({tag})")).unwrap_or_default();
    let mut page = format!("{id}{tag}: {} of {}\n", snapshot.host, local(snapshot));
    for (name, it) in &snapshot.sources {
        let _ = writeln!(page, "  {name:<14}{:>7} files {:>10}", it.files, report::bytes(it.bytes));
    }
    for (name, entries) in entries {
        for entry in entries {
            let kind = match entry.kind {
                Kind::Folder => 'd',
                Kind::File => '-',
                Kind::Symlink => 'l',
                Kind::Hardlink => 'h',
            };
            let target = entry.target.as_ref().map(|it| format!(" -> {it}")).unwrap_or_default();
            let size = report::bytes(entry.size);
            let _ = writeln!(page, "{kind} {:04o} {size:>10}  {name}/{}{target}", entry.mode, entry.path);
        }
    }
    page
}

pub(super) fn diff(backup: &Backup, first: &str, second: &str, as_json: bool) -> Result<Exit> {
    let (first, second) = (find(backup, first)?, find(backup, second)?);
    let changed = backup.open(None)?.diff(&first, &second).map_err(|error| backup.failure("cannot read", &error))?;
    if as_json {
        let all = changed.iter().map(|Changed { source, path, change, size }| {
            json!({ "source": source, "path": path, "change": word(*change), "size": size })
        });
        report::data(&format!("{}\n", Value::Array(all.collect())))?;
        return Ok(Exit::Done);
    }
    let line = |it: &Changed| {
        let sign = match it.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Content => 'M',
            Change::Attributes => 'a',
        };
        format!("{sign} {:>10}  {}/{}\n", report::bytes(it.size), it.source, it.path)
    };
    report::data(&changed.iter().map(line).collect::<String>())?;
    Ok(Exit::Done)
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Content => "content",
        Change::Attributes => "attributes",
    }
}

/// The full id of a snapshot.
fn find(backup: &Backup, id: &str) -> Result<String, Failure> {
    backup.open(None)?.find(id).map_err(|error| backup.failure("cannot find the snapshot in", &error))
}

fn head(id: &str, snapshot: &Snapshot) -> Value {
    let mut value = json!({ "id": id, "time": snapshot.time, "host": snapshot.host });
    if let Some(tag) = &snapshot.tag {
        value["tag"] = json!(tag);
    }
    value
}

fn totals(snapshot: &Snapshot) -> (u64, u64) {
    snapshot.sources.values().fold((0, 0), |(files, bytes), it| (files + it.files, bytes + it.bytes))
}

fn local(snapshot: &Snapshot) -> String {
    snapshot.time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M").to_string()
}
