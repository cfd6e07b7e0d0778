//! `[backup]`: what is saved, where to, when, and for how long.

use std::{fmt, path::PathBuf};

use super::{
    table::Table,
    value::{self, Wrong},
};

/// What is saved, where to, when, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// Where the repository is. `None`: as the platform has it.
    pub repository: Option<PathBuf>,
    /// What is saved of the stack.
    pub sources: Vec<BackupSource>,
    /// Folders that are saved as well; each is called by its last part.
    pub folders: Vec<PathBuf>,
    /// Volumes of Docker's that are saved as well.
    pub volumes: Vec<String>,
    /// Globs of what is left out of those folders.
    pub excludes: Vec<String>,
    /// Which snapshots stay.
    pub keep: Keep,
    /// When it runs by itself, once it is scheduled.
    pub at: TimeOfDay,
    /// Whether a run prunes when it has saved.
    pub prune: bool,
    /// Whether a schedule has a weekly drill.
    pub drill: bool,
}

impl Default for Backup {
    fn default() -> Self {
        Backup {
            repository: None,
            sources: BackupSource::ALL.to_vec(),
            folders: Vec::new(),
            volumes: Vec::new(),
            excludes: Vec::new(),
            keep: Keep { last: 3, hourly: 0, daily: 7, weekly: 5, monthly: 12, yearly: 0 },
            at: TimeOfDay { hour: 2, minute: 0 },
            prune: true,
            drill: true,
        }
    }
}

/// How many snapshots stay, by rule; see `backup::KeepPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as they are called")]
pub struct Keep {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
}

/// A part of the stack that is worth saving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackupSource {
    /// The model store: manifests, and exactly the blobs that they name.
    Models,
    /// Prometheus' samples, by its own snapshot.
    Prometheus,
    /// Grafana's database and what it keeps beside it.
    Grafana,
    /// What coding agents are configured with, in the home folder.
    Agents,
    /// `stack.toml` and `local/`.
    Settings,
    /// What `cargo xtask secret` keeps, the API keys' hashes, and the authority that clients were told to trust.
    Secrets,
}

impl BackupSource {
    /// All of them, small ones last: a run that is cut short has the models.
    pub const ALL: [BackupSource; 6] = [
        BackupSource::Models,
        BackupSource::Prometheus,
        BackupSource::Grafana,
        BackupSource::Agents,
        BackupSource::Settings,
        BackupSource::Secrets,
    ];

    /// What it is called in settings and snapshots.
    pub const fn name(self) -> &'static str {
        match self {
            BackupSource::Models => "models",
            BackupSource::Prometheus => "prometheus",
            BackupSource::Grafana => "grafana",
            BackupSource::Agents => "agents",
            BackupSource::Settings => "settings",
            BackupSource::Secrets => "secrets",
        }
    }
}

impl fmt::Display for BackupSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A time of each day, on the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOfDay {
    /// From 0 to 23.
    pub hour: u32,
    /// From 0 to 59.
    pub minute: u32,
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

pub(super) fn read(mut table: Table<'_, '_>, backup: &mut Backup) {
    table.text("repository", &mut backup.repository, value::folder);
    table.list("sources", &mut backup.sources, source);
    table.list("folders", &mut backup.folders, folder);
    table.list("volumes", &mut backup.volumes, volume);
    table.list("excludes", &mut backup.excludes, glob);
    table.whole("keep_last", &mut backup.keep.last, 0..=100_000u32);
    table.whole("keep_hourly", &mut backup.keep.hourly, 0..=100_000u32);
    table.whole("keep_daily", &mut backup.keep.daily, 0..=100_000u32);
    table.whole("keep_weekly", &mut backup.keep.weekly, 0..=100_000u32);
    table.whole("keep_monthly", &mut backup.keep.monthly, 0..=100_000u32);
    table.whole("keep_yearly", &mut backup.keep.yearly, 0..=100_000u32);
    table.text("at", &mut backup.at, time_of_day);
    table.flag("prune", &mut backup.prune);
    table.flag("drill", &mut backup.drill);
    let folders = backup.folders.iter().filter_map(|it| it.file_name()?.to_str());
    let names: Vec<&str> = folders.chain(backup.volumes.iter().map(String::as_str)).collect();
    let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
    if let (Some((_, name)), Some(span)) = (twice, table.written("volumes").or(table.written("folders"))) {
        let message = format!("two things that are saved are called \"{name}\"");
        table.fault(span, Wrong::new(message, "save the folder that holds it"));
    }
}

fn source(text: &str) -> Result<BackupSource, Wrong> {
    BackupSource::ALL.into_iter().find(|it| it.name() == text).ok_or_else(|| {
        let names: Vec<_> = BackupSource::ALL.iter().map(|it| format!("\"{it}\"")).collect();
        Wrong::new(format!("{text:?} is not a source"), format!("write one of {}", names.join(", ")))
    })
}

fn folder(text: &str) -> Result<PathBuf, Wrong> {
    let folder = value::folder(text)?;
    match folder.file_name().and_then(|it| it.to_str()) {
        Some(name) if source(name).is_ok() => Err(Wrong::new(
            format!("a folder called \"{name}\" would be taken for a part of the stack"),
            "save the folder that it is in",
        )),
        _ => Ok(folder),
    }
}

/// A name as Docker takes it.
fn volume(text: &str) -> Result<String, Wrong> {
    let is_name = text.starts_with(|it: char| it.is_ascii_alphanumeric())
        && text.chars().all(|it| it.is_ascii_alphanumeric() || "_.-".contains(it));
    match (is_name, source(text)) {
        (true, Err(_)) => Ok(text.to_owned()),
        (true, Ok(_)) => Err(Wrong::new(
            format!("a volume called \"{text}\" would be taken for a part of the stack"),
            "the stack's own volumes are saved anyway; one of yours has to be called otherwise",
        )),
        _ => Err(Wrong::new(
            format!("{text:?} is not a volume's name"),
            "write what `docker volume ls` shows; a folder belongs to `folders`",
        )),
    }
}

fn glob(text: &str) -> Result<String, Wrong> {
    let means_something = !text.trim_matches('/').is_empty() && !text.contains(char::is_control);
    means_something
        .then(|| text.to_owned())
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a glob"), "write one such as \"*.tmp\" or \"cache/**\""))
}

/// A time of day, as in `02:00`.
pub fn time_of_day(text: &str) -> Result<TimeOfDay, Wrong> {
    let parse = || {
        let (hour, minute) = text.split_once(':')?;
        let number = |text: &str| (text.len() == 2).then(|| text.parse().ok()).flatten();
        Some(TimeOfDay { hour: number(hour).filter(|it| *it < 24)?, minute: number(minute).filter(|it| *it < 60)? })
    };
    parse().ok_or_else(|| {
        Wrong::new(format!("{text:?} is not a time of day"), "write hours and minutes, such as \"02:00\"")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::Settings;

    #[test]
    fn refuses_what_cannot_be_saved_or_told_apart() {
        for (text, words) in [
            ("sources = [\"modles\"]", "\"modles\" is not a source"),
            ("folders = [\"/srv/models\"]", "taken for a part of the stack"),
            ("folders = [\"/a/x\", \"/b/x\"]", "are called \"x\""),
            ("folders = [\"/a/x\"]\nvolumes = [\"x\"]", "are called \"x\""),
            ("volumes = [\"/a/x\"]", "is not a volume's name"),
            ("volumes = [\"grafana\"]", "taken for a part of the stack"),
            ("excludes = [\"/\"]", "is not a glob"),
            ("at = \"2:00\"", "is not a time of day"),
            ("at = \"24:00\"", "is not a time of day"),
            ("prune = \"yes\"", "takes true or false"),
        ] {
            let faults = Settings::parse(&format!("[backup]\n{text}\n"), Path::new("")).expect_err(text).render(false);
            assert!(faults.contains(words), "{faults}");
        }
    }

    #[test]
    fn a_time_of_day_reads_as_it_is_shown() {
        for text in ["00:00", "02:05", "23:59"] {
            assert_eq!(time_of_day(text).map(|it| it.to_string()).as_deref(), Ok(text));
        }
    }
}
