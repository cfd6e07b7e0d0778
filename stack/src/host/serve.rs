//! The program on a host, spoken to over a connection: a request a line in, events and a reply out.
//!
//! What changes the host runs as a job of its own, detached: a connection that is cut takes nothing with it. Invariant: it
//! ends when the connection does.

use std::{
    fs,
    io::{self, BufRead, Write},
};

use super::{
    Host,
    job::{self, Order},
    root::Way,
};
use crate::{
    failure::{Class, Failure},
    protocol::{Event, PROTOCOL, Reply, Request},
    ssh::{Frame, Hello},
};

/// Answers requests from `input` until it ends. A program that was sent here only to look leaves nothing behind.
///
/// # Errors
/// The other side is gone.
pub fn serve(mut host: Host, nonce: &str, input: impl BufRead, output: impl Write) -> io::Result<()> {
    let mut started = false;
    let served = exchange(&mut host, nonce, input, output, &mut started);
    if !started {
        leave_no_trace(&host);
    }
    served
}

fn exchange(
    host: &mut Host,
    nonce: &str,
    input: impl BufRead,
    mut output: impl Write,
    started: &mut bool,
) -> io::Result<()> {
    let hello = Hello { hello: nonce.to_owned(), protocol: PROTOCOL, program: host.program_id.clone() };
    write_line(&mut output, &hello)?;
    for line in input.lines() {
        let mut lost = None;
        let mut follow = |event: Event| {
            write_line(&mut output, &Frame::Event(event)).map_err(|error| {
                let failure = Failure::new(Class::Unreachable, "the client is gone").because(&error);
                lost = Some(error);
                failure
            })
        };
        let mut start = |order: &Order| {
            *started = true;
            let id = job::start(host, order)?;
            job::attach(&host.root, &id, &mut follow).map(Reply::Ended)
        };
        let answer = match serde_json::from_str(&line?) {
            // A change goes on without us; everything else is for the one who asks.
            Ok(Request::Apply { plan, contents }) => {
                // Known before anything is written: where there is no way to root, nothing is left here either.
                let way = Way::of(&host.root, &plan, &contents, host.password.as_ref()).map(drop);
                way.and_then(|()| start(&Order::Apply { plan, contents }))
            }
            Ok(Request::Run { args, as_job: true }) => start(&Order::Run { args }),
            Ok(request) => host.answer(request, &mut follow),
            Err(error) => {
                Err(Failure::new(Class::Unreachable, "the host does not understand the request").because(&error))
            }
        };
        lost.map_or(Ok(()), Err)?;
        write_line(&mut output, &Frame::End { nonce: nonce.to_owned(), answer })?;
    }
    Ok(())
}

/// Removes the program that was sent here to answer, unless it was installed or a job runs as it.
fn leave_no_trace(host: &Host) {
    let (bin, program) = (host.root.bin(), &host.program);
    let is_sent = program.parent() == Some(&bin)
        && program.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".new-"));
    if is_sent {
        let _ = fs::remove_file(program);
        // What is not empty was there before, or is in use.
        let _ = fs::remove_dir(bin).and_then(|()| fs::remove_dir(host.root.path()));
    }
}

fn write_line(output: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}
