//! `backup`: the stack saved, and brought back.

mod back;
mod check;
mod look;
mod save;
mod schedule;

use std::path::Path;

use anyhow::Result;
use ops::backup::{Backup, Wanted};
use stack::{
    backup::Backups,
    failure::{Class, Failure},
    observed::Question,
    settings,
    transport::Client,
};

use crate::{
    cli::{self, BackupVerb},
    report::Exit,
    session::{Interrupt, Need, Session},
    there::{self, As},
};

/// What every verb begins with.
struct Found {
    backup: Backup,
    /// Whether there is something that runs, and may be saved.
    is_deployed: bool,
    interrupt: Interrupt,
    /// The line to the host, which is this machine, if there is a stack.
    client: Option<Client>,
    /// What is set about backups.
    settings: settings::Backup,
    /// How they went.
    backups: Backups,
}

pub(crate) fn run(settings: Option<&Path>, args: cli::Backup) -> Result<Exit> {
    let repository = args.repository.as_deref();
    let found = match &args.source_dir {
        Some(folder) => of_folder(repository, Some(folder))?,
        None => match find(settings, repository)? {
            Place::Here(found) => *found,
            Place::There(session) => match args.verb {
                Some(BackupVerb::Schedule { at, remove, ask_sudo, json, .. }) => {
                    return schedule::run_there(
                        *session,
                        at,
                        remove,
                        repository.and_then(Path::to_str),
                        &schedule::How { ask_sudo, root_part: None, json },
                    );
                }
                _ => return there::run(*session, how(&args)),
            },
        },
    };
    match args.verb {
        None => save::run(found, &args),
        Some(BackupVerb::List { json }) => look::list(&found.backup, json),
        Some(BackupVerb::Show { id, files, json }) => look::show(&found.backup, &id, files, json),
        Some(BackupVerb::Diff { first, second, json }) => look::diff(&found.backup, &first, &second, json),
        Some(BackupVerb::Verify { read, max_duration, json }) => check::verify(&found, read, max_duration, json),
        Some(BackupVerb::Drill { id, source, json }) => check::drill(&found, &id, source.as_deref(), json),
        Some(BackupVerb::Prune { dry_run, forget, json }) => save::prune(&found.backup, dry_run, &forget, json),
        Some(BackupVerb::Schedule { at, remove, ask_sudo, root_part, json }) => {
            let repository = repository.map(std::path::absolute).transpose()?;
            let (at, drill) = (at.unwrap_or(found.settings.at), found.settings.drill);
            let wanted = (!remove).then_some(Wanted { at, drill, repository });
            schedule::run(found, wanted.as_ref(), &schedule::How { ask_sudo, root_part, json })
        }
        Some(BackupVerb::Export { model, file }) => back::export(&found, &model, &file),
        Some(BackupVerb::Import { file }) => back::import(&found, &file),
        Some(BackupVerb::Restore { id, source, path, to, dry_run, yes, json }) => {
            let wanted = ops::backup::Back { id, source, glob: path, to };
            back::restore(&found, &wanted, &back::How { dry_run, yes, json })
        }
    }
}

/// What only looks is worth no job.
fn how(args: &cli::Backup) -> As {
    match args.verb {
        Some(BackupVerb::List { .. } | BackupVerb::Show { .. } | BackupVerb::Diff { .. }) => As::Question,
        None if args.dry_run => As::Question,
        _ => As::Job,
    }
}

/// Where the stack is.
enum Place {
    Here(Box<Found>),
    There(Box<Session>),
}

/// A repository and, if there is one here, the stack.
fn find(settings: Option<&Path>, repository: Option<&Path>) -> Result<Place> {
    let mut session = match Session::open(settings, Need::Any) {
        // Whoever names a repository may be anywhere: on a new machine with nothing but the disk.
        Err(error) if repository.is_some() && settings.is_none() && is_of(&error, Class::Settings) => {
            return of_folder(repository, None).map(Box::new).map(Place::Here);
        }
        session => session?,
    };
    if !session.is_here {
        return Ok(Place::There(Box::new(session)));
    }
    let observed = session.client.observe(Question::default())?;
    let backup = Backup::of_stack(&session.settings, &observed, &session.folder, repository)?;
    Ok(Place::Here(Box::new(Found {
        backup,
        is_deployed: observed.current.is_some(),
        interrupt: session.interrupt,
        client: Some(session.client),
        settings: session.settings.backup,
        backups: observed.backups,
    })))
}

fn of_folder(repository: Option<&Path>, folder: Option<&Path>) -> Result<Found> {
    let backup = Backup::of_folder(repository.unwrap_or(Path::new("")), folder)?;
    Ok(Found {
        backup,
        is_deployed: folder.is_some(),
        interrupt: Interrupt::listen()?,
        client: None,
        settings: settings::Backup::default(),
        backups: Backups::default(),
    })
}

fn is_of(error: &anyhow::Error, class: Class) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.class == class)
}
