//! End to end: the real binary against real processes on loopback.
//!
//! Each test has a stage of its own and claims one thing. Invariant: no test rests on the machine being quick, and none
//! leaves a process or a file behind, however it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agent;
mod backup;
mod bench;
mod cli;
mod contract;
mod convert;
mod crash;
mod cut;
mod deploy;
mod disk;
mod docker;
mod docker_edge;
mod doctor;
mod edge;
mod far;
mod gateway;
mod harden;
mod hub;
mod job;
mod legacy;
mod logs;
mod mac;
mod model;
mod monitor;
mod native;
mod native_edge;
mod pieces;
mod port;
mod readme;
mod reboot;
mod receiver;
mod release;
mod root;
mod scenario;
mod secret;
mod ssh;
mod stage;
mod sudo;
mod supervisor;
mod tune;
