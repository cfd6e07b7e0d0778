//! `backup` and below.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use stack::settings::value;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Backup {
    #[command(subcommand)]
    pub(crate) verb: Option<BackupVerb>,
    /// The folder that holds the snapshots [default: backup.repository in stack.toml]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) repository: Option<PathBuf>,
    /// Save this folder instead of the stack
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "repository")]
    pub(crate) source_dir: Option<PathBuf>,
    /// Show what would be saved and pruned, and whether it could be; reads no contents, writes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only this source: models, prometheus, grafana, agents, settings, secrets, a folder of backup.folders, a volume of
    /// backup.volumes
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// What you call the snapshot
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Write to a network file system, which may lose what it said it has
    #[arg(long)]
    pub(crate) network: bool,
    /// Begin a repository anew where the last one has gone for good
    #[arg(long)]
    pub(crate) new: bool,
    /// {"snapshot","files","bytes","bytes_read","bytes_written","seconds","incomplete":[{"source","path","reason"}]}; with
    /// --dry-run {"repository","exists","free_bytes","sources":[{"name","files","bytes","new_files","new_bytes"}],
    /// "incomplete","prune":{"keep","forget","files","bytes"}?}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupVerb {
    /// Show the snapshots, the oldest first
    List {
        /// [{"id","time","host","tag"?,"files","bytes","incomplete","verified"}]
        #[arg(long)]
        json: bool,
    },
    /// Show a snapshot: its sources, what it lacks, what is in it
    Show {
        /// How its id begins, or latest
        id: String,
        /// Every file, too
        #[arg(long)]
        files: bool,
        /// {"id","time","host","tag"?,"sources":{NAME:{"tree","files","bytes"}},"incomplete"?,"entries"?:{NAME:[…]}}
        #[arg(long)]
        json: bool,
    },
    /// Show what differs between two snapshots
    Diff {
        /// The one before
        first: String,
        /// The one after
        second: String,
        /// [{"source","path","change":"added|removed|content|attributes","size"}]
        #[arg(long)]
        json: bool,
    },
    /// Read the repository; what is damaged is named, and saved anew by the next backup
    Verify {
        /// How much of the data: all, a part such as 2/7, a percentage such as 5%, or 0
        #[arg(long, value_name = "HOW_MUCH", default_value = "all", value_parser = ops::backup::parse_reading)]
        read: ::backup::Reading,
        /// Stop reading after so long, as in 30m
        #[arg(long, value_name = "TIME", value_parser = value::period)]
        max_duration: Option<std::time::Duration>,
        /// {"snapshots","units","bytes_read","finished","damage":[{"path","object"?,"ranges","what","snapshots"}]}
        #[arg(long)]
        json: bool,
    },
    /// Bring a snapshot back, to a folder or in place
    Restore {
        /// How its id begins, or latest
        id: String,
        /// Only this source of it
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// Only what matches: `*` within a part of a path, `**` over parts, without a `/` at any depth
        #[arg(long, value_name = "GLOB")]
        path: Option<String>,
        /// Below this folder, each source in one of its own; without it, in place
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        to: Option<PathBuf>,
        /// Show what would be written, and stop
        #[arg(long)]
        dry_run: bool,
        /// In place: write over what is there
        #[arg(long, short)]
        yes: bool,
        /// {"snapshot","files","bytes","unchanged","seconds","failed":[{"source","path","reason"}]}
        #[arg(long)]
        json: bool,
    },
    /// Restore a snapshot to a temporary place, read it all back, and remember how that went
    Drill {
        /// How its id begins, or latest
        #[arg(default_value = "latest")]
        id: String,
        /// Only this source of it
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// As restore does
        #[arg(long)]
        json: bool,
    },
    /// Forget the snapshots that the policy does not keep, and what only they hold
    Prune {
        /// Show what would go, and stop
        #[arg(long)]
        dry_run: bool,
        /// These go, too, whatever the policy says, and even if they cannot be read
        #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
        forget: Vec<String>,
        /// {"keep":["ID"],"forget":["ID"],"files","bytes"}
        #[arg(long)]
        json: bool,
    },
    /// Write one model to a file, for a machine without internet
    Export {
        /// As Ollama names it
        #[arg(value_parser = value::model)]
        model: String,
        /// A file that is not there yet
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Have the host back up each day, prune, and hold a drill each Sunday
    Schedule {
        /// On the host's clock [default: backup.at in stack.toml]
        #[arg(long, value_name = "HH:MM", value_parser = stack::settings::time_of_day)]
        at: Option<stack::settings::TimeOfDay>,
        /// No longer
        #[arg(long, conflicts_with = "at")]
        remove: bool,
        /// Ask for your password on the host if sudo wants one, as on a Mac; or pipe it in
        #[arg(long)]
        ask_sudo: bool,
        /// What a client of ours says: tell what root has to do first, or go on, for that was done
        #[arg(long, hide = true)]
        root_part: Option<RootPart>,
        /// {"by":"launchd|systemd|cron","next","next_drill"?,"last"?}
        #[arg(long)]
        json: bool,
    },
    /// Take models from such a file, every digest checked
    Import {
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

/// What only root may do is run by whoever has a person's password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RootPart {
    Tell,
    Done,
}
