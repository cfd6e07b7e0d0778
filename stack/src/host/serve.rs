//! The program on a host, spoken to over a connection: a request a line in, events and a reply out.
//!
//! What changes the host runs as a job of its own, detached: a connection that is cut takes nothing with it. Invariant: it
//! ends when the connection does.

use std::io::{self, BufRead, Write};

use super::{
    Follow, Host,
    job::{self, Order},
};
use crate::{
    failure::{Class, Failure},
    layout::Root,
    protocol::{Event, PROTOCOL, Reply, Request},
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
                start_and_follow(&host.root, &Order::Apply { plan, contents }, &mut follow)
            }
            Ok(Request::Run { args, as_job: true }) => start_and_follow(&host.root, &Order::Run { args }, &mut follow),
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

fn start_and_follow(root: &Root, order: &Order, follow: &mut Follow<'_>) -> Result<Reply, Failure> {
    let id = job::start(root, order)?;
    job::attach(root, &id, follow).map(Reply::Ended)
}

fn write_line(output: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}
