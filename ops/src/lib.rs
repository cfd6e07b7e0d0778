//! What one does with a stack: judge the machine beforehand, look at it, prove that it works.
//!
//! Invariant: nothing here changes a host.

pub mod preflight;
pub mod summary;
pub mod verify;
