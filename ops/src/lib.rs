//! What one does with a stack: judge the machine, look at what runs, prove that it works, save it and bring it back.
//!
//! Invariant: nothing here prints, and nothing changes what runs.

pub mod backup;
pub mod preflight;
pub mod summary;
pub mod verify;
