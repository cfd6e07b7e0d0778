//! The gateway between a client and an engine, both written here, over real sockets.
//!
//! Invariant: a test waits for conditions, with one generous deadline, and never for time to pass.

// What fails here fails a test.
#![allow(clippy::unwrap_used)]

mod door;
mod http;
mod metering;
mod stream;
mod support;
mod upstream;
