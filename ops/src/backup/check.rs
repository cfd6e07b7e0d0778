//! Whether what was saved is still there, and whether it comes back.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use backup::{Reading, Restored, Verified, VerifyOptions};
use chrono::Utc;
use stack::{
    backup::{Outcome, Run},
    failure::{Class, Doing, Failure},
};

use super::{Backup, Watch, run::problem};

/// Units that are read at the same time.
const WORKERS: usize = 2;

/// What a drill restores to, until it ends; one that was killed is swept by the next.
const DRILL: &str = ".drill-";

/// `all`, `2/7` for the second of seven parts, `5` or `5%` for so many percent.
pub fn parse_reading(text: &str) -> Result<Reading, String> {
    let wrong = || "write all, a part such as 2/7, or a percentage such as 5%".to_owned();
    if text == "all" {
        return Ok(Reading::All);
    }
    if let Some((part, of)) = text.split_once('/') {
        let (part, of): (u64, u64) = (part.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
        return if (1..=of).contains(&part) { Ok(Reading::Part(part, of)) } else { Err(wrong()) };
    }
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| wrong())?;
    match percent {
        0.0 => Ok(Reading::Nothing),
        _ if percent > 0.0 && percent < 100.0 => Ok(Reading::Percent(percent)),
        100.0 => Ok(Reading::All),
        _ => Err(wrong()),
    }
}

/// Verifies; what is damaged is un-committed.
pub fn verify(
    backup: &Backup,
    reading: Reading,
    longest: Option<Duration>,
    begin: impl FnOnce(u64) -> Watch,
) -> Result<Verified, Failure> {
    let failed = |error| backup.failure("cannot verify", &error);
    let stored = backup.open(None)?.stored_bytes().map_err(failed)? as f64;
    let share = match reading {
        Reading::Nothing => 0.0,
        Reading::All => 1.0,
        Reading::Part(_, of) => 1.0 / of as f64,
        Reading::Percent(percent) => percent / 100.0,
    };
    let watch = begin((stored * share) as u64);
    let deadline = longest.map(|it| Instant::now() + it);
    let options = VerifyOptions { reading, deadline, workers: WORKERS, now: Utc::now() };
    backup.open(Some(&watch))?.verify(&options).map_err(failed)
}

/// Restores a snapshot to a temporary place, reads all of it back, and writes down how that went.
pub fn drill(
    backup: &Backup,
    id: &str,
    source: Option<&str>,
    begin: impl FnOnce(u64) -> Watch,
) -> Result<(String, Restored), Failure> {
    let (began, time) = (Instant::now(), Utc::now());
    let repository = backup.open(None)?;
    let id = repository.find(id).map_err(|error| backup.failure("cannot find the snapshot in", &error))?;
    let snapshot = repository.snapshot(&id).map_err(|error| backup.failure("cannot read", &error))?;
    let bytes = snapshot.sources.iter().filter(|(name, _)| source.is_none_or(|it| it == *name)).map(|(_, it)| it.bytes);
    let bytes = bytes.sum();
    let watch = begin(bytes);
    let repository = backup.open(Some(&watch))?;
    let tried = drill_place(backup).and_then(|place| backup.try_out(&repository, &id, source, place.path()));
    let detail = match &tried {
        Ok(restored) => restored.failed.first().map(problem),
        Err(failure) if matches!(failure.class, Class::Locked | Class::Interrupted) => return Err(failure.clone()),
        Err(failure) => Some(failure.message.clone()),
    };
    let run = Run {
        began: time,
        seconds: began.elapsed().as_secs_f64(),
        result: if detail.is_none() { Outcome::Done } else { Outcome::Failed },
        snapshot: Some(id.clone()),
        bytes,
        bytes_written: tried.as_ref().map_or(0, |it| it.bytes),
        detail,
    };
    backup.write_down(|backups| backups.drill = Some(run))?;
    Ok((id, tried?))
}

fn drill_place(backup: &Backup) -> Result<tempfile::TempDir, Failure> {
    let folder: PathBuf = backup.stack.as_ref().map_or_else(std::env::temp_dir, |stack| stack.root.data());
    fs::create_dir_all(&folder).doing("cannot make", &folder)?;
    if backup.stack.is_some() {
        let found = fs::read_dir(&folder).doing("cannot list", &folder)?.flatten();
        for left in found.filter(|it| it.file_name().to_string_lossy().starts_with(DRILL)) {
            // Another drill's, if it still runs, is as well off with an error as with a full disk.
            let _ = fs::remove_dir_all(left.path());
        }
    }
    tempfile::Builder::new().prefix(DRILL).tempdir_in(&folder).doing("cannot make a folder in", &folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_how_much_is_to_be_read() {
        for (text, reading) in [
            ("all", Reading::All),
            ("100%", Reading::All),
            ("2/7", Reading::Part(2, 7)),
            ("5%", Reading::Percent(5.0)),
            ("0.5", Reading::Percent(0.5)),
            ("0", Reading::Nothing),
        ] {
            assert_eq!(parse_reading(text), Ok(reading), "{text}");
        }
        for text in ["", "some", "0/7", "8/7", "1/", "-5", "101", "NaN", "1/0"] {
            assert!(parse_reading(text).is_err(), "{text}");
        }
    }
}
