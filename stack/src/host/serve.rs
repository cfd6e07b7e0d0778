//! The program on a host, spoken to over a connection: a request a line in, events and a reply out.
//!
//! What changes the host runs as a job of its own, detached: a connection that is cut takes nothing with it. Invariant: it
//! ends when the connection does.

use std::io::{self, BufRead, Write};

use super::{Host, job};
use crate::{
    failure::{Class, Failure},
    protocol::{Event, PROTOCOL, Request},
    ssh::{Frame, Hello},
};

/// Answers requests from `input` until it ends.
///
/// # Errors
/// The other side is gone.
pub fn serve(host: &Host, nonce: &str, input: impl BufRead, mut output: impl Write) -> io::Result<()> {
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
        let answer = match serde_json::from_str(&line?) {
            // A change goes on without us; everything else is for the one who asks.
            Ok(Request::Apply { plan, contents }) => {
                job::start(&host.root, &plan, &contents).and_then(|id| job::attach(&host.root, &id, &mut follow))
            }
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

fn write_line(output: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}
