//! End to end: the real binary against real processes on loopback.
//!
//! Each test has a stage of its own and claims one thing. Invariant: no test rests on the machine being quick, and none
//! leaves a process or a file behind, however it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backup;
mod cli;
mod crash;
mod deploy;
mod disk;
mod job;
mod legacy;
mod logs;
mod mac;
mod port;
mod readme;
mod release;
mod scenario;
mod secret;
mod ssh;
mod stage;
mod supervisor;
