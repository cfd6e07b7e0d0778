//! A snapshot store for a host whose data is a few huge immutable blobs and many small files.
//!
//! It knows *sources*, never what they are sources of, and never opens a socket. The format stands in `FORMAT.md`.
//! Invariant: a snapshot exists only once every byte that it names is durable, and nothing but prune and verify takes
//! away what one names.

#[cfg(test)]
mod chance;
mod check;
mod diff;
mod digest;
pub mod disk;
mod draft;
mod estimate;
mod failure;
pub mod glob;
mod index;
mod keep;
mod known;
mod listing;
mod pack;
mod partial;
mod place;
mod prune;
mod pump;
mod repository;
mod restore;
mod save;
mod snapshot;
pub mod source;
mod states;
mod tree;
mod verify;
mod watch;
mod write;

pub use diff::{Change, Changed};
pub use digest::{Digest, HashingReader, NotADigest, SEGMENT};
pub use estimate::{Estimate, EstimatedSource};
pub use failure::StoreError;
pub use index::Index;
pub use keep::KeepPolicy;
pub use prune::{PruneError, PrunePlan};
pub use repository::Repository;
pub use restore::{RestoreError, RestoreOptions, RestorePlan, Restored};
pub use save::{SaveOptions, Saved};
pub use snapshot::{Problem, SavedSource, Snapshot};
pub use tree::{Entry, Kind, escape, unescape};
pub use verify::{Damage, Reading, Verified, VerifyOptions};
