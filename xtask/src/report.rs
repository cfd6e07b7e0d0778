//! Everything that is said: data on stdout, talk on stderr, and the one place that turns an error into an exit code.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use stack::{
    failure::{Class, Failure},
    protocol::{Bytes, Event, Stream},
    settings::{Invalid, LoadError},
};

use crate::progress;

/// Why a verb ended as it did; the numbers stand in every `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Settings = 2,
    Unreachable = 3,
    RolledBack = 4,
    Incomplete = 5,
    RollbackFailed = 6,
    Refused = 7,
    Nothing = 10,
    Locked = 11,
    Interrupted = 130,
}

impl Exit {
    const ALL: [Exit; 11] = [
        Exit::Done,
        Exit::Failed,
        Exit::Settings,
        Exit::Unreachable,
        Exit::RolledBack,
        Exit::Incomplete,
        Exit::RollbackFailed,
        Exit::Refused,
        Exit::Nothing,
        Exit::Locked,
        Exit::Interrupted,
    ];
}

/// What our own program on a host ended with; a number that is none of ours is a failure.
impl From<u8> for Exit {
    fn from(code: u8) -> Self {
        Exit::ALL.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl From<Class> for Exit {
    fn from(class: Class) -> Self {
        match class {
            Class::Failed => Exit::Failed,
            Class::Settings => Exit::Settings,
            Class::Unreachable => Exit::Unreachable,
            Class::Refused => Exit::Refused,
            Class::Nothing => Exit::Nothing,
            Class::Locked => Exit::Locked,
            Class::Interrupted => Exit::Interrupted,
        }
    }
}

/// Writes data to stdout, at once.
pub(crate) fn data(text: &str) -> io::Result<()> {
    data_bytes(text.as_bytes())
}

fn data_bytes(bytes: &[u8]) -> io::Result<()> {
    progress::aside(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    })
}

/// Says a line on stderr. Whoever has closed it does not want to hear.
pub(crate) fn say(text: &str) {
    progress::aside(|| {
        let _ = writeln!(io::stderr().lock(), "{text}");
    });
}

/// Says what is waited for: it is told again and again, and once is enough to hear.
pub(crate) fn waiting() -> impl FnMut(&Event) {
    let mut said = None;
    move |event| {
        if let (Event::Waiting { detail }, true) = (event, said.as_ref() != Some(event)) {
            say(&format!("waiting: {detail}"));
            said = Some(event.clone());
        }
    }
}

/// Hands on what a verb printed on a host, as it came.
pub(crate) fn pass(stream: Stream, bytes: &Bytes) -> io::Result<()> {
    match stream {
        Stream::Out => data_bytes(bytes.as_slice()),
        Stream::Err => {
            progress::aside(|| drop(io::stderr().lock().write_all(bytes.as_slice())));
            Ok(())
        }
    }
}

/// Shows on a terminal how far something is, in the place of what was shown last; nothing clears the line.
pub(crate) fn progress(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
}

/// Asks a question on the terminal; anything but a yes is a no.
pub(crate) fn ask(question: &str) -> io::Result<bool> {
    write!(io::stderr().lock(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Asks for what nobody is to see: at a prompt without echo, or from what is piped in.
pub(crate) fn ask_unseen(prompt: &str) -> io::Result<String> {
    if io::stdin().is_terminal() {
        return rpassword::prompt_password(prompt);
    }
    let value = io::read_to_string(io::stdin())?;
    Ok(value.strip_suffix('\n').unwrap_or(&value).to_owned())
}

/// Whether stderr is a terminal that wants colour; see <https://no-color.org>.
pub(crate) fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `0.05 s`, `12.3 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.2} s") } else { format!("{seconds:.1} s") }
}

/// `512 B`, `4.2 MB`: decimal, as disks and models are sold.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut value = bytes as f64 / 1000.0;
    let mut at = 0;
    while value >= 999.95 && at + 1 < units.len() {
        value /= 1000.0;
        at += 1;
    }
    if bytes < 1000 { format!("{bytes} B") } else { format!("{value:.1} {}", units[at]) }
}

/// Prints an error with everything below it, and picks the exit code.
pub(crate) fn error(error: &anyhow::Error) -> Exit {
    if error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_closed_pipe) {
        // `… | head` has seen enough.
        return Exit::Done;
    }
    for cause in error.chain() {
        if let Some(LoadError::Invalid(invalid)) = cause.downcast_ref::<LoadError>() {
            return settings(invalid);
        }
        if let Some(invalid) = cause.downcast_ref::<Invalid>() {
            return settings(invalid);
        }
    }
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let mut chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    chain.extend(failure.iter().flat_map(|failure| failure.causes.clone()));
    print_chain(&chain, failure.and_then(|failure| failure.hint.as_deref()));
    match failure {
        Some(failure) => failure.class.into(),
        None if error.chain().any(|cause| cause.is::<LoadError>()) => Exit::Settings,
        None => Exit::Failed,
    }
}

/// Prints what failed and why, for an outcome that is no error of ours.
pub(crate) fn failure(failure: &Failure) {
    let chain: Vec<String> = std::iter::once(failure.message.clone()).chain(failure.causes.iter().cloned()).collect();
    print_chain(&chain, failure.hint.as_deref());
}

fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn settings(invalid: &Invalid) -> Exit {
    say(&invalid.render(colour()));
    Exit::Settings
}

fn print_chain(chain: &[String], hint: Option<&str>) {
    let mut lines = chain.iter();
    if let Some(what) = lines.next() {
        say(&format!("error: {what}"));
    }
    for cause in lines {
        let mut parts = cause.lines();
        say(&format!("cause: {}", parts.next().unwrap_or_default()));
        parts.for_each(|part| say(&format!("       {part}")));
    }
    if let Some(hint) = hint {
        say(&format!("\nhint: {hint}"));
    }
}
