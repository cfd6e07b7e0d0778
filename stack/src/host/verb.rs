//! A verb that runs on the host: our own program there, with the words that were typed at a client.
//!
//! What it prints comes back as it came. Invariant: its process inherits the lock of whoever runs it, so that a verb that
//! outlives its job still counts as one that runs.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use super::Follow;
use crate::{
    failure::{Class, Doing, Failure},
    layout::Root,
    process::{self, Command},
    protocol::{Bytes, Event, PROGRESS_VARIABLE, Progress, Stream},
};

/// Between two moments at which whoever follows can object.
const LISTEN_EVERY: Duration = Duration::from_millis(100);

/// Longer lines on stderr come in pieces.
const LINE_LIMIT: u64 = 64 * 1024;

/// Runs the deployed program with `args` to its end; answers its exit code. An objection interrupts it, as Ctrl-C would,
/// and lets it end well.
pub(super) fn run(root: &Root, args: &[String], lock: File, follow: &mut Follow<'_>) -> Result<u8, Failure> {
    let program = root.program();
    if !program.exists() {
        return Err(Failure::new(Class::Nothing, format!("nothing is deployed in {}", root.path().display()))
            .hint("`cargo xtask deploy` brings up a stack there"));
    }
    let env = [(PROGRESS_VARIABLE.to_owned(), "1".to_owned())].into();
    let command = Command { program, args: args.to_vec(), env };
    let mut verb = process::spawn_heard(&command, lock).doing("cannot run", &command.program)?;
    let (sender, heard) = channel();
    hear_bytes(verb.stdout, sender.clone());
    hear_lines(verb.stderr, sender);
    let mut objection = None;
    loop {
        let event = match heard.recv_timeout(LISTEN_EVERY) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => Event::Idle,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Err(failure) = objection.as_ref().map_or_else(|| follow(event), |_| Ok(())) {
            verb.child.interrupt();
            objection = Some(failure);
        }
    }
    let code = verb.child.wait().doing("cannot wait for", &command.program)?;
    objection.map_or(Ok(code), Err)
}

/// Standard output, as it comes.
fn hear_bytes(mut stream: impl Read + Send + 'static, sender: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(size @ 1..) = stream.read(&mut buffer) {
            let bytes = Bytes::new(&buffer[..size]);
            if sender.send(Event::Output { stream: Stream::Out, bytes }).is_err() {
                return;
            }
        }
    });
}

/// Standard error, line by line: some lines are progress.
fn hear_lines(stream: impl Read + Send + 'static, sender: Sender<Event>) {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            match (&mut stream).take(LINE_LIMIT).read_until(b'\n', &mut line) {
                Ok(1..) => {}
                _ => return,
            }
            let event = match Progress::read(&line) {
                Some(progress) => Event::Progress(progress),
                None => Event::Output { stream: Stream::Err, bytes: Bytes::new(&line) },
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    });
}
