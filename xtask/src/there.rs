//! A verb that belongs on the host: it works on files and services that are there.
//!
//! Where this machine is the host it runs right here; else the words that were typed are run by the program on the host,
//! with the settings of the release that is deployed there. Paths among them are the host's.

use std::{env, ffi::OsString};

use anyhow::Result;
use stack::{
    failure::{Class, Failure},
    protocol::{Event, Stream},
};

use crate::{
    progress,
    report::{self, Exit},
    session::Session,
};

/// Whether a verb goes on when its client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// It takes long or changes something: `cargo xtask job attach` comes back to it.
    Job,
    /// It only looks: nobody would come back to it.
    Question,
}

/// What a verb prints there as data, and its exit code.
pub(crate) fn answer(session: &mut Session, words: &[&str], how: As) -> Result<(String, Exit), Failure> {
    let interrupt = session.interrupt.clone();
    let mut data = Vec::new();
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let code = session.client.run(words, how == As::Job, &mut |event| {
        match &event {
            Event::Output { stream: Stream::Out, bytes } => data.extend_from_slice(bytes.as_slice()),
            event => tell(event)?,
        }
        interrupt.check()
    })?;
    Ok((String::from_utf8_lossy(&data).into_owned(), code.into()))
}

/// Runs the very words that were typed on the host, which is another machine.
pub(crate) fn run(mut session: Session, how: As) -> Result<Exit> {
    let words = words(env::args_os().skip(1))?;
    let interrupt = session.interrupt.clone();
    let mut job = None;
    let ran = session.client.run(words, how == As::Job, &mut |event| {
        if let Event::Job { id } = &event {
            job = Some(id.clone());
        }
        tell(&event)?;
        interrupt.check()
    });
    progress::clear();
    match (ran, job) {
        (Ok(code), _) => Ok(code.into()),
        (Err(failure), Some(job)) if failure.class == Class::Interrupted => {
            report::say(&format!(
                "it goes on on {} without us; `cargo xtask job attach {job}` follows it",
                session.host()
            ));
            Ok(Exit::Interrupted)
        }
        (Err(failure), _) => Err(failure.into()),
    }
}

/// Prints what a verb on a host prints. An error is an objection: nobody reads it any more.
pub(crate) fn tell(event: &Event) -> Result<(), Failure> {
    match event {
        Event::Output { stream, bytes } => report::pass(*stream, bytes)
            .map_err(|error| Failure::new(Class::Interrupted, "nobody reads the output").because(&error)),
        Event::Progress(progress) => {
            progress::show(progress);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What was typed, without the settings file: that is one of this machine's.
fn words(typed: impl Iterator<Item = OsString>) -> Result<Vec<String>, Failure> {
    let mut typed = typed.map(|word| {
        word.into_string().map_err(|word| {
            Failure::new(Class::Settings, format!("cannot send {} to the host: it is no UTF-8", word.display()))
        })
    });
    let mut words = Vec::new();
    while let Some(word) = typed.next().transpose()? {
        match word.as_str() {
            "--settings" => drop(typed.next()),
            "--" => {
                words.push(word);
                words.extend(typed.by_ref().collect::<Result<Vec<_>, _>>()?);
            }
            _ if word.starts_with("--settings=") => {}
            _ => words.push(word),
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_file_stays_here() {
        let sent = |line: &str| words(line.split(' ').map(OsString::from)).unwrap().join(" ");
        assert_eq!(sent("--settings a.toml backup --tag x"), "backup --tag x");
        assert_eq!(sent("backup --settings=a.toml list"), "backup list");
        assert_eq!(sent("model run m -- --settings x"), "model run m -- --settings x");
    }
}
