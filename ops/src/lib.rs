//! What one does with a running stack: look at it, prove that it works.
//!
//! Invariant: nothing here changes a host.

pub mod agent;
pub mod summary;
pub mod verify;
