//! Programs that work for a while, print as they go, or feed each other.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{Command, Finished};
use crate::failure::{Class, Doing, Failure};

/// Like [`super::run`], for long work: `meanwhile` is called some times a second, and ends it by an error.
pub(crate) fn run_following(
    command: &Command,
    lock: Option<&File>,
    timeout: Duration,
    meanwhile: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<Finished, Failure> {
    let program = &command.program;
    let expression = super::expression(command).stderr_to_stdout().stdout_capture().unchecked();
    let expression = match lock {
        Some(lock) => expression.stdin_file(lock.try_clone().doing("cannot hand on the lock to", program)?),
        None => expression.stdin_null(),
    };
    let handle = expression.start().doing("cannot run", program)?;
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(done) = handle.wait_timeout(Duration::from_millis(100)).doing("cannot wait for", program)? {
            let output = String::from_utf8_lossy(&done.stdout).trim().to_owned();
            return Ok(Finished { success: done.status.success(), output });
        }
        let late = Instant::now() > deadline;
        let objection = meanwhile().err().or_else(|| {
            let words = format!("{command} has not ended after {} s", timeout.as_secs());
            late.then(|| Failure::new(Class::Failed, words))
        });
        if let Some(objection) = objection {
            handle.kill().doing("cannot end", program)?;
            return Err(objection);
        }
    }
}

/// Asks a program: what it prints, or what it says when it fails.
pub(crate) fn ask_within(command: &Command, timeout: Duration) -> io::Result<Result<String, String>> {
    let expression = duct::cmd(&command.program, &command.args).stdin_null().stdout_capture().stderr_capture();
    let handle = expression.unchecked().start()?;
    let Some(done) = handle.wait_timeout(timeout)? else {
        handle.kill()?;
        return Ok(Err(format!("no answer within {} s", timeout.as_secs())));
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) })
}

/// What a program prints, to either stream.
pub(crate) fn said(command: &Command, timeout: Duration) -> io::Result<String> {
    let expression = duct::cmd(&command.program, &command.args).stdin_null().stderr_to_stdout().stdout_capture();
    let handle = expression.unchecked().start()?;
    match handle.wait_timeout(timeout)? {
        Some(done) => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        None => handle.kill().map(|()| String::new()),
    }
}

/// Feeds what one program prints to another: what that prints, or what it says when it fails.
pub(crate) fn pipe(from: &Command, to: &Command) -> io::Result<Result<String, String>> {
    let from = duct::cmd(&from.program, &from.args).stdin_null();
    let done = from.pipe(duct::cmd(&to.program, &to.args)).stdout_capture().stderr_capture().unchecked().run()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) })
}

/// A program whose lines are read as they come.
pub(crate) struct Lines {
    reader: Arc<duct::ReaderHandle>,
    thread: thread::JoinHandle<()>,
}

impl Lines {
    /// Waits until the program has ended and its last line is handed on.
    pub(crate) fn wait(self) {
        let _ = self.thread.join();
    }

    /// Ends the program.
    pub(crate) fn end(self) {
        let _ = self.reader.kill();
        let _ = self.thread.join();
    }
}

/// Runs a program and hands on every line that it prints, until `each` has had enough.
pub(crate) fn read_lines(
    command: &Command,
    mut each: impl FnMut(String) -> bool + Send + 'static,
) -> io::Result<Lines> {
    let expression = duct::cmd(&command.program, &command.args).stdin_null().stderr_to_stdout().unchecked();
    let reader = Arc::new(expression.reader()?);
    let source = Arc::clone(&reader);
    let thread = thread::spawn(move || {
        let mut lines = BufReader::new(&*source);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if !each(String::from_utf8_lossy(&line).trim_end().to_owned()) {
                return;
            }
            line.clear();
        }
    });
    Ok(Lines { reader, thread })
}
