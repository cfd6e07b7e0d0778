//! What components printed.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    thread,
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{Follow, read_from};
use crate::{
    component::Component,
    failure::{Class, Doing, Failure},
    layout::Root,
    protocol::{Event, LogQuery},
};

/// Between two looks for new lines.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Sends the lines that were asked for, component by component, and then new ones as they come until told to stop.
pub(super) fn logs(root: &Root, query: &LogQuery, follow: &mut Follow<'_>) -> Result<(), Failure> {
    let asked = |component: &Component| query.components.is_empty() || query.components.contains(component);
    let mut tails = Vec::new();
    for component in Component::ALL.into_iter().filter(asked) {
        let path = root.log(component);
        match File::open(&path) {
            Ok(file) => tails.push(Tail { component, file, offset: 0, partial: Vec::new() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing("cannot read", &path),
        }
    }
    if tails.is_empty() {
        return Err(Failure::new(Class::Nothing, format!("there are no such logs in {}", root.path().display()))
            .hint("`cargo xtask status` shows what runs"));
    }
    for tail in &mut tails {
        tail.send_since(query.since, follow).or_else(|error| error.or_failure(tail.component))?;
    }
    if !query.follow {
        return Ok(());
    }
    loop {
        for tail in &mut tails {
            tail.send_new(follow).or_else(|error| error.or_failure(tail.component))?;
        }
        follow(Event::Idle)?;
        thread::sleep(LOOK_EVERY);
    }
}

struct Tail {
    component: Component,
    file: File,
    offset: u64,
    partial: Vec<u8>,
}

/// Reading failed, or the one who follows has had enough.
enum Stop {
    Read(io::Error),
    Enough(Failure),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Read(error)
    }
}

impl Stop {
    fn or_failure(self, component: Component) -> Result<(), Failure> {
        match self {
            Stop::Read(error) => Err(error).doing("cannot read the log of", Path::new(component.name())),
            Stop::Enough(failure) => Err(failure),
        }
    }
}

impl Tail {
    /// Lines without a time of their own belong to the last one that had one.
    fn send_since(&mut self, since: Option<DateTime<Utc>>, follow: &mut Follow<'_>) -> Result<(), Stop> {
        let mut wanted = since.is_none();
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            self.offset += line.len() as u64;
            if line.last() != Some(&b'\n') {
                self.partial = std::mem::take(&mut line);
                break;
            }
            let text = String::from_utf8_lossy(&line);
            if let (Some(since), Some(time)) = (since, time_of(&text)) {
                wanted = time >= since;
            }
            if wanted {
                self.send(&text, follow)?;
            }
            line.clear();
        }
        Ok(())
    }

    fn send_new(&mut self, follow: &mut Follow<'_>) -> Result<(), Stop> {
        if self.file.metadata()?.len() < self.offset {
            // It was rotated: copied aside and emptied.
            (self.offset, self.partial) = (0, Vec::new());
        }
        let bytes = read_from(&mut self.file, self.offset)?;
        self.offset += bytes.len() as u64;
        self.partial.extend(bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        String::from_utf8_lossy(&whole).lines().try_for_each(|line| self.send(line, follow))
    }

    fn send(&self, line: &str, follow: &mut Follow<'_>) -> Result<(), Stop> {
        let text = line.trim_end().to_owned();
        follow(Event::Line { component: self.component, text }).map_err(Stop::Enough)
    }
}

/// The time that a line begins with, bare as ours do or as a `ts=`/`time=` field as Go's loggers do.
fn time_of(line: &str) -> Option<DateTime<Utc>> {
    let word = line.split_whitespace().next()?;
    let word = word.strip_prefix("ts=").or_else(|| word.strip_prefix("time=")).unwrap_or(word);
    Some(DateTime::parse_from_rfc3339(word.trim_matches('"')).ok()?.to_utc())
}
