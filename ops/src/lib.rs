//! What one does with a stack: judge the machine, look at what runs, prove that it works, look after its
//! models, save it and bring it back.
//!
//! Invariant: nothing here prints, and nothing changes what runs.

pub mod agent;
pub mod backup;
pub mod bench;
pub mod criteria;
pub mod doctor;
pub mod harden;
pub mod hardware;
pub mod https;
pub mod model;
pub mod monitor;
#[cfg(test)]
mod parts;
pub mod preflight;
pub mod reboot;
pub mod summary;
pub mod tune;
pub mod verify;
