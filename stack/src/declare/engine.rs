//! The engine's variables, which are Ollama's own: the same for the real one and the stand-in, whoever starts it.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use crate::settings::{Engine, KvCacheType};

/// What an engine is told when it is started as a process.
pub(super) fn environment(engine: &Engine, listen: SocketAddr, models: &Path) -> BTreeMap<String, String> {
    [
        ("OLLAMA_HOST", listen.to_string()),
        ("OLLAMA_MODELS", models.display().to_string()),
        ("OLLAMA_KEEP_ALIVE", go_duration(engine.keep_alive)),
        ("OLLAMA_NUM_PARALLEL", engine.num_parallel.to_string()),
        ("OLLAMA_MAX_LOADED_MODELS", engine.max_loaded_models.to_string()),
        ("OLLAMA_CONTEXT_LENGTH", engine.context_length.to_string()),
        ("OLLAMA_KV_CACHE_TYPE", kv_cache_type(engine.kv_cache_type).to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Go's `ParseDuration`, which Ollama uses, knows no days; seconds it knows. Negative means for ever.
fn go_duration(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-1s".to_owned(), |duration| format!("{}s", duration.as_secs()))
}

fn kv_cache_type(kind: KvCacheType) -> &'static str {
    match kind {
        KvCacheType::F16 => "f16",
        KvCacheType::Q8_0 => "q8_0",
        KvCacheType::Q4_0 => "q4_0",
    }
}
