//! What one does with a running stack: look at it, prove that it works, look after its models.
//!
//! Invariant: nothing here changes what a deploy brought.

pub mod hardware;
pub mod model;
pub mod summary;
pub mod verify;
