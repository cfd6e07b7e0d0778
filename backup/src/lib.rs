//! A snapshot store for a host whose data is a few huge immutable blobs and many small files.
//!
//! It knows *sources*, never what they are sources of, and never opens a socket. The format stands in `FORMAT.md`.
//! Invariant: a snapshot exists only once every byte that it names is durable, and nothing but prune and verify takes
//! away what one names.
