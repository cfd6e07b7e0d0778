//! What `[engine]` could say, by the memory that there is. Nobody's settings are changed.
//!
//! Invariant: all proposals together fit.

use serde::{Deserialize, Serialize};
use stack::settings::{self, KvCacheType};

use super::Need;
use crate::model::{fit::Serving, gigabytes};

/// More slots than a handful of people need.
const MOST_SLOTS: u64 = 4;

/// The steps in which a context grows.
const STEP: u64 = 8192;

/// A line for `[engine]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The key.
    pub key: String,
    /// What it is.
    pub now: String,
    /// What it could be.
    pub proposed: String,
    /// What for.
    pub why: String,
}

/// With `limit` bytes for models.
pub(super) fn propose(need: &Need, limit: Option<u64>, engine: &settings::Engine) -> Vec<Proposal> {
    let (Some(limit), Some(_)) = (limit, need.bytes) else { return Vec::new() };
    let set = need.serving;
    let best = best(need, limit);
    let of_all = gigabytes(limit);
    let line = |key: &str, now: String, proposed: String, why: &str| Proposal {
        key: key.to_owned(),
        now,
        proposed,
        why: format!("{why} {of_all}"),
    };
    let mut lines = Vec::new();
    if best.kv != set.kv {
        lines.push(line("kv_cache_type", quoted(set.kv), quoted(best.kv), "half the cache, so that it fits into"));
    }
    if best.context != set.context {
        let why = if best.context > set.context { "there is room in" } else { "more does not fit into" };
        lines.push(line("context_length", engine.context_length.to_string(), best.context.to_string(), why));
    }
    if best.parallel != set.parallel {
        let why = if best.parallel > set.parallel { "as many are served at once in" } else { "more do not fit into" };
        lines.push(line("num_parallel", set.parallel.to_string(), best.parallel.to_string(), why));
    }
    lines
}

/// What is asked for and then more, as far as it goes; or less, the cheapest first.
fn best(need: &Need, limit: u64) -> Serving {
    let fits = |serving: &Serving| need.at(serving).is_some_and(|bytes| bytes / 20 * 21 <= limit);
    let set = need.serving;
    if fits(&set) {
        let most = need.subject.context.unwrap_or(set.context);
        let larger = (set.context / STEP + 1..=most / STEP).map(|step| Serving { context: step * STEP, ..set });
        let wide = larger.take_while(fits).last().unwrap_or(set);
        let more = (set.parallel + 1..=MOST_SLOTS).map(|parallel| Serving { parallel, ..wide });
        return more.take_while(fits).last().unwrap_or(wide);
    }
    let alone = Serving { parallel: 1, ..set };
    let packed = Serving { kv: KvCacheType::Q8_0, ..alone };
    let smaller = (1..set.context.div_ceil(STEP)).rev().map(|step| Serving { context: step * STEP, ..packed });
    [alone, packed].into_iter().chain(smaller).find(fits).unwrap_or(set)
}

fn quoted(kv: KvCacheType) -> String {
    let name = match kv {
        KvCacheType::F16 => "f16",
        KvCacheType::Q8_0 => "q8_0",
        KvCacheType::Q4_0 => "q4_0",
    };
    format!("{name:?}")
}

#[cfg(test)]
mod tests {
    use stack::settings::Settings;

    use super::*;
    use crate::model::{fit::Host, subject};

    const GIB: u64 = 1 << 30;

    fn proposed(model: &str, limit: u64, toml: &str) -> Vec<String> {
        let settings = Settings::parse(toml, std::path::Path::new("stack.toml")).unwrap();
        let subject = subject::find(model, None).unwrap();
        let serving = Serving::of(&settings.engine, subject.context);
        let mut need = Need { subject, host: Host::default(), serving, bytes: None };
        need.bytes = need.at(&serving);
        let lines = propose(&need, Some(limit), &settings.engine);
        lines.iter().map(|line| format!("{} = {}", line.key, line.proposed)).collect()
    }

    #[test]
    fn memory_that_is_left_is_offered_for_context_and_then_for_slots() {
        let model = "qwen2.5-coder:32b-instruct-q8_0";
        assert_eq!(proposed(model, 64 * GIB, ""), ["num_parallel = 3"]);
        assert_eq!(proposed(model, 64 * GIB, "[engine]\nnum_parallel = 3\n"), [""; 0]);
        assert_eq!(
            proposed("qwen3-coder:30b-a3b-q4_K_M", 48 * GIB, "[engine]\ncontext_length = 32768\n")[0],
            "context_length = 262144"
        );
    }

    #[test]
    fn what_does_not_fit_gives_up_slots_then_half_the_cache_then_context() {
        let model = "qwen2.5-coder:32b-instruct-q8_0";
        assert_eq!(proposed(model, 46 * GIB, "[engine]\nnum_parallel = 4\n"), ["num_parallel = 1"]);
        assert_eq!(proposed(model, 40 * GIB, ""), ["kv_cache_type = \"q8_0\""]);
        assert_eq!(proposed(model, 36 * GIB, "").len(), 2);
        assert_eq!(proposed(model, 20 * GIB, ""), [""; 0], "nothing makes it fit");
    }
}
