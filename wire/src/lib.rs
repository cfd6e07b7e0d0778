//! What goes over the wire: Ollama's types and incremental parsers for its streams.
//!
//! Invariant: nothing here does I/O or holds a whole stream; a parser's memory is bounded by its own limits.

pub mod anthropic;
pub mod json;
pub mod ndjson;
pub mod ollama;
pub mod openai;
pub mod prompt;
pub mod watch;
