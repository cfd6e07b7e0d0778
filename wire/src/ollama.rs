//! Ollama's types.
