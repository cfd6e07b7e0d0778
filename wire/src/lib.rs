//! What goes over the wire: Ollama's types and incremental parsers for its streams.
//!
//! Invariant: nothing here opens a file or a socket, or holds a whole stream; a parser's memory is bounded by its own limits.

pub mod anthropic;
pub mod gguf;
pub mod json;
pub mod ndjson;
pub mod ollama;
pub mod openai;
pub mod prompt;
pub mod watch;
