//! Whether a model fits a machine, computed before the first byte is pulled.
//!
//! total = weights + key/value cache + compute buffers. The cache is Σ layers kv_heads × (key + value) × tokens × slots ×
//! bytes, with key and value widths as the model has them (Ollama's own scheduler takes embedding ÷ heads and so halves
//! the cache of Qwen3-235B). The buffers are llama.cpp's with flash attention: a micro-batch of 512 rows of logits and
//! embeddings in 32 bits; without it, the attention scores besides.
//!
//! Invariant: pure, and what cannot be computed is `None` and its verdict `unknown`.

use serde::Serialize;
use stack::{
    failure::{Class, Failure},
    settings::{self, KvCacheType},
};

use super::catalogue::Attention;
use crate::hardware::tokens_per_second;

const GIB: u64 = 1 << 30;

/// llama.cpp's `n_ubatch`.
const MICRO_BATCH: u64 = 512;

/// A context below which no coding agent works: less is not offered.
const LEAST_CONTEXT: u64 = 4096;

/// The engine's own choice where `context_length` is 0; the least of what it may choose on a large GPU.
const CONTEXT: u32 = 32_768;

/// What the system and the engine itself need beside a model where there is no GPU limit.
const SYSTEM_BYTES: u64 = 2 * GIB;

/// A machine, as far as a model has to fit it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Host {
    /// How it is called.
    pub name: String,
    /// What computes.
    pub chip: Option<String>,
    /// Main memory.
    pub memory_bytes: Option<u64>,
    /// What a model may take without slowing down.
    pub gpu_limit_bytes: Option<u64>,
    /// Where that figure is from.
    pub gpu_limit_source: String,
    /// What `iogpu.wired_limit_mb` may be raised to. Apple silicon only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wired_limit_bytes: Option<u64>,
    /// Free on the disk of the models.
    pub free_disk_bytes: Option<u64>,
    /// What the chip's memory delivers at most.
    pub memory_gb_per_s: Option<f64>,
}

impl Host {
    /// An Apple chip with so much memory. `set_limit_bytes`: `iogpu.wired_limit_mb`, if it was set by hand.
    pub fn apple(chip: &str, memory_bytes: u64, set_limit_bytes: Option<u64>) -> Host {
        // The default policy is not published. These are the lowest of the shares that were reported.
        let share = if memory_bytes <= 36 * GIB { memory_bytes / 3 * 2 } else { memory_bytes / 4 * 3 };
        let (limit, source) = match set_limit_bytes.filter(|bytes| *bytes > 0) {
            Some(set) => (set, "iogpu.wired_limit_mb"),
            None => (share, "estimate of the system's default"),
        };
        // macOS itself wants 8 to 16 GB.
        let kept = if memory_bytes <= 64 * GIB { 8 * GIB } else { 16 * GIB };
        Host {
            chip: Some(chip.to_owned()),
            memory_bytes: Some(memory_bytes),
            gpu_limit_bytes: Some(limit),
            gpu_limit_source: source.to_owned(),
            wired_limit_bytes: memory_bytes.checked_sub(kept).filter(|most| *most > limit),
            ..Host::default()
        }
    }

    /// Graphics cards with memory of their own.
    pub fn cards(chip: &str, card_bytes: u64, memory_bytes: Option<u64>) -> Host {
        Host {
            chip: Some(chip.to_owned()),
            memory_bytes,
            gpu_limit_bytes: Some(card_bytes),
            gpu_limit_source: "the GPU's own memory".to_owned(),
            ..Host::default()
        }
    }

    /// A processor alone.
    pub fn processor(chip: Option<&str>, memory_bytes: Option<u64>) -> Host {
        Host {
            chip: chip.map(str::to_owned),
            memory_bytes,
            gpu_limit_bytes: memory_bytes.map(|bytes| bytes.saturating_sub(SYSTEM_BYTES)),
            gpu_limit_source: "memory, there being no GPU".to_owned(),
            ..Host::default()
        }
    }
}

/// How the model is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Tokens a slot.
    pub context: u64,
    /// Slots.
    pub parallel: u64,
    /// Of the key/value cache.
    pub kv: KvCacheType,
    /// Without it, attention scores are kept for a whole micro-batch.
    pub flash_attention: bool,
}

impl Serving {
    /// As the settings have it, for a model that was trained to attend to `most` tokens.
    pub fn of(engine: &settings::Engine, most: Option<u64>) -> Serving {
        let context = u64::from(if engine.context_length == 0 { CONTEXT } else { engine.context_length });
        Serving {
            context: context.min(most.unwrap_or(context)),
            parallel: engine.num_parallel.into(),
            kv: engine.kv_cache_type,
            flash_attention: engine.flash_attention != Some(false),
        }
    }
}

/// The weights at one size.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// As the library spells it, or what else is known of it.
    pub quantization: String,
    /// `None`: not known.
    pub bytes: Option<u64>,
    /// Of the weights that one token reads, all of them being 1.
    pub active_share: f64,
    /// They are on the disk already.
    pub is_here: bool,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it is.
    Fits,
    /// Once the GPU limit is raised.
    FitsWithLimit,
    /// With less context.
    FitsWithContext,
    /// Not at all.
    DoesNotFit,
    /// Something is not known.
    Unknown,
}

/// The answer for one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// As [`Weights::quantization`].
    pub quantization: String,
    /// Of the weights.
    pub bytes: Option<u64>,
    /// Of the key/value cache.
    pub kv_bytes: Option<u64>,
    /// Weights, cache and compute buffers.
    pub total_bytes: Option<u64>,
    /// How it ends.
    pub verdict: Verdict,
    /// What has to be done for it, or what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// No machine with this memory bandwidth decodes faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second_limit: Option<f64>,
}

impl Row {
    /// With how many tokens it would fit, where that is what it takes.
    pub fn context_that_fits(&self) -> Option<&str> {
        self.needs.as_deref()?.strip_prefix("--context ")
    }
}

/// Bytes of the key/value cache.
pub fn kv_bytes(attention: &Attention, serving: &Serving) -> u64 {
    // Blocks of 32 values: 32 or 16 bytes and a scale of two.
    let per_32_values = match serving.kv {
        KvCacheType::F16 => 64,
        KvCacheType::Q8_0 => 34,
        KvCacheType::Q4_0 => 18,
    };
    let width = attention.kv_heads * (attention.key_length + attention.value_length);
    // What slides past is overwritten, a micro-batch late.
    let window = (attention.window + MICRO_BATCH).min(serving.context);
    let rows = attention.layers * serving.context + attention.window_layers * window;
    u64::try_from(u128::from(width) * u128::from(rows) * u128::from(serving.parallel) * per_32_values / 32)
        .unwrap_or(u64::MAX)
}

/// Bytes of llama.cpp's compute buffers.
pub fn compute_bytes(attention: &Attention, serving: &Serving) -> u64 {
    let scores = if serving.flash_attention { 0 } else { attention.heads.saturating_mul(serving.context) };
    let logits_and_embeddings = attention.vocabulary + attention.embedding;
    // The buffers are one arena: the scores and the logits are never there at the same time.
    let largest = logits_and_embeddings.max(scores + 3 * attention.embedding);
    largest.saturating_mul(MICRO_BATCH * 4)
}

/// A row for each size, in the order given.
pub fn fit(attention: Option<&Attention>, sizes: &[Weights], host: &Host, serving: &Serving) -> Vec<Row> {
    sizes.iter().map(|weights| row(attention, weights, host, serving)).collect()
}

fn row(attention: Option<&Attention>, weights: &Weights, host: &Host, serving: &Serving) -> Row {
    let kv = attention.map(|it| kv_bytes(it, serving));
    let total_at = |serving: &Serving| {
        let attention = attention?;
        Some(weights.bytes? + kv_bytes(attention, serving) + compute_bytes(attention, serving))
    };
    let total = total_at(serving);
    let (verdict, needs) = beside_disk(weights, host, judge(weights, total, host, serving, &total_at));
    let limit = host.memory_gb_per_s.zip(weights.bytes).and_then(|(gb_per_s, bytes)| {
        let limit = tokens_per_second(gb_per_s, (bytes as f64 * weights.active_share) as u64)?;
        Some((limit * 10.0).round() / 10.0)
    });
    Row {
        quantization: weights.quantization.clone(),
        bytes: weights.bytes,
        kv_bytes: kv,
        total_bytes: total,
        verdict,
        needs,
        tokens_per_second_limit: limit,
    }
}

/// What is said of memory, and of the disk where that is too small. Whoever makes room is to know whether that is all.
fn beside_disk(
    weights: &Weights,
    host: &Host,
    (verdict, needs): (Verdict, Option<String>),
) -> (Verdict, Option<String>) {
    let lacking = weights.bytes.zip(host.free_disk_bytes).filter(|(bytes, free)| !weights.is_here && bytes > free);
    let Some((bytes, free)) = lacking else { return (verdict, needs) };
    let memory = needs.filter(|_| verdict == Verdict::DoesNotFit).map(|needs| format!("{needs}, and "));
    let disk = super::gigabytes(bytes - free);
    (Verdict::DoesNotFit, Some(format!("{}{disk} more free on the disk of the models", memory.unwrap_or_default())))
}

fn judge(
    weights: &Weights,
    total: Option<u64>,
    host: &Host,
    serving: &Serving,
    total_at: &dyn Fn(&Serving) -> Option<u64>,
) -> (Verdict, Option<String>) {
    let Some(limit) = host.gpu_limit_bytes else {
        return (Verdict::Unknown, Some("how much memory the host has".to_owned()));
    };
    let most = host.wired_limit_bytes.unwrap_or(limit);
    let Some(total) = total else {
        return match weights.bytes {
            Some(bytes) if bytes > most => does_not_fit(bytes, most),
            Some(_) => (Verdict::Unknown, Some("the model's layers and heads, which a pull tells".to_owned())),
            None => (Verdict::Unknown, Some("the model's size".to_owned())),
        };
    };
    if total <= limit {
        return (Verdict::Fits, None);
    }
    if total <= most {
        // A little more than asked for, so that what was not counted has room.
        let mebibytes = (total + GIB).min(most).div_ceil(1 << 20);
        return (Verdict::FitsWithLimit, Some(format!("sudo sysctl iogpu.wired_limit_mb={mebibytes}")));
    }
    let fits = |context: u64| total_at(&Serving { context, ..*serving }).is_some_and(|total| total <= limit);
    let steps = (LEAST_CONTEXT / 1024)..(serving.context.div_ceil(1024));
    // Contexts are few enough to be tried, the largest first.
    match steps.rev().map(|step| step * 1024).find(|context| fits(*context)) {
        Some(context) => (Verdict::FitsWithContext, Some(format!("--context {context}"))),
        None => does_not_fit(total, most),
    }
}

/// Whether it is worth pulling.
///
/// # Errors
/// Of class `Refused`, where the answer is a clear no.
pub fn permit(row: &Row) -> Result<(), Failure> {
    if row.verdict != Verdict::DoesNotFit {
        return Ok(());
    }
    let needs = row.needs.as_deref().unwrap_or("a larger host");
    Err(Failure::new(Class::Refused, format!("it does not fit: it needs {needs}"))
        .hint("`cargo xtask model fit` shows other sizes; --force pulls it all the same"))
}

fn does_not_fit(needed: u64, most: u64) -> (Verdict, Option<String>) {
    (Verdict::DoesNotFit, Some(format!("{} more memory", super::gigabytes(needed.saturating_sub(most)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalogue::{Catalogue, Model};

    const MIB: f64 = 1024.0 * 1024.0;

    fn model(name: &str) -> Model {
        Catalogue::built_in().unwrap().find(name).unwrap().model.clone()
    }

    fn attention(name: &str) -> Attention {
        model(name).attention.unwrap()
    }

    fn serving(context: u64) -> Serving {
        Serving { context, parallel: 1, kv: KvCacheType::F16, flash_attention: true }
    }

    #[track_caller]
    fn near(bytes: u64, expected_mib: f64) {
        let mib = bytes as f64 / MIB;
        assert!((mib / expected_mib - 1.0).abs() < 0.05, "{mib} MiB, recorded {expected_mib} MiB");
    }

    #[test]
    fn the_cache_is_what_the_published_figures_give() {
        // KiB a token, and GiB at a context.
        for (name, kib, context, gib) in [
            ("qwen2.5-coder:32b", 256.0, 32_768, 8.0),
            ("qwen2.5-coder:32b", 256.0, 40_960, 10.0),
            ("qwen3:235b", 188.0, 32_768, 5.9),
            ("qwen3:235b", 188.0, 40_960, 7.3),
            ("qwen3:235b", 188.0, 262_144, 47.0),
            ("qwen3-coder:30b", 96.0, 32_768, 3.0),
            ("qwen3-coder:30b", 96.0, 262_144, 24.0),
            ("qwen3-coder:480b", 248.0, 40_960, 9.7),
            ("qwen3-coder:480b", 248.0, 262_144, 62.0),
        ] {
            near(kv_bytes(&attention(name), &serving(1)), kib / 1024.0);
            near(kv_bytes(&attention(name), &serving(context)), gib * 1024.0);
        }
    }

    #[test]
    fn cache_and_buffers_are_what_loaders_logged() {
        // abetlen/llama-cpp-python#1901: 28 layers, n_embd_k_gqa 512, 2048 tokens, flash attention off by default.
        let qwen = attention("qwen2.5-coder:7b");
        near(kv_bytes(&qwen, &serving(2048)), 112.0);
        near(compute_bytes(&qwen, &Serving { flash_attention: false, ..serving(2048) }), 304.0);
        // ollama/ollama#1016: Llama 3 8B at 8192 tokens, no flash attention: kv 1.0 GiB, graph 560 MiB.
        let llama = Attention { layers: 32, heads: 32, embedding: 4096, ..attention("llama3.3:70b") };
        near(kv_bytes(&llama, &serving(8192)), 1024.0);
        near(compute_bytes(&llama, &Serving { flash_attention: false, ..serving(8192) }), 560.0);
    }

    fn verdicts(name: &str, host: &Host, context: u64) -> Vec<(String, Verdict, Option<String>)> {
        let model = model(name);
        let sizes: Vec<Weights> = model.quantizations.iter().map(|it| Weights::of(&model, it)).collect();
        let rows = fit(model.attention.as_ref(), &sizes, host, &serving(context));
        rows.into_iter().map(|row| (row.quantization, row.verdict, row.needs)).collect()
    }

    #[test]
    fn the_large_model_on_the_guides_machine() {
        let studio = Host::apple("Apple M2 Ultra", 192 * GIB, None);
        let found = verdicts("qwen3:235b", &studio, 40_960);
        let verdicts: Vec<Verdict> = found.iter().map(|(_, verdict, _)| *verdict).collect();
        use Verdict::{DoesNotFit, Fits, FitsWithLimit};
        assert_eq!(verdicts, [Fits, FitsWithLimit, DoesNotFit, DoesNotFit]);
        let command = found[1].2.as_deref().unwrap();
        let mebibytes: u64 = command.strip_prefix("sudo sysctl iogpu.wired_limit_mb=").unwrap().parse().unwrap();
        assert!((163 << 10..176 << 10).contains(&mebibytes), "{command}");
        assert!(found[2].2.as_deref().unwrap().ends_with("more memory"));
    }

    #[test]
    fn less_context_is_offered_where_that_is_enough() {
        let card = Host::cards("NVIDIA GeForce RTX 3090", 24 * GIB, None);
        let found = verdicts("qwen2.5-coder:32b", &card, 32_768);
        assert_eq!(found[0].1, Verdict::FitsWithContext);
        let context: u64 = found[0].2.as_deref().unwrap().strip_prefix("--context ").unwrap().parse().unwrap();
        let bytes = |context| {
            let attention = attention("qwen2.5-coder:32b");
            19_850_000_000 + kv_bytes(&attention, &serving(context)) + compute_bytes(&attention, &serving(context))
        };
        assert!(bytes(context) <= 24 * GIB && bytes(context + 1024) > 24 * GIB, "{context}");
        assert_eq!(found[2].1, Verdict::DoesNotFit);
    }

    #[test]
    fn a_disk_that_is_too_small_is_said_beside_memory_and_so_is_what_is_unknown() {
        let host = Host { free_disk_bytes: Some(10 << 30), ..Host::apple("Apple M2 Ultra", 192 * GIB, None) };
        let found = verdicts("qwen3:235b", &host, 4096);
        assert!(found.iter().all(|(_, verdict, _)| *verdict == Verdict::DoesNotFit), "{found:?}");
        assert!(found[0].2.as_deref().unwrap().contains("disk") && !found[0].2.as_deref().unwrap().contains("memory"));
        let both = Host { free_disk_bytes: Some(10 << 30), ..Host::apple("Apple M2", 16 * GIB, None) };
        let needs = verdicts("qwen2.5-coder:32b", &both, 32_768).pop().unwrap().2.unwrap();
        assert!(
            needs.contains(" more memory, and ") && needs.ends_with(" more free on the disk of the models"),
            "{needs}"
        );
        let big = Host::apple("Apple M2 Ultra", 192 * GIB, None);
        assert_eq!(verdicts("qwen3.5:122b-a10b", &big, 4096)[0].1, Verdict::Unknown);
        let small = Host::apple("Apple M2", 16 * GIB, None);
        assert_eq!(verdicts("qwen3.5:122b-a10b", &small, 4096)[0].1, Verdict::DoesNotFit);
        assert_eq!(verdicts("qwen3:32b", &Host::default(), 4096)[0].1, Verdict::Unknown);
    }

    #[test]
    fn a_mixture_of_experts_outruns_a_dense_model_a_third_of_its_size() {
        let mut studio = Host::apple("Apple M2 Ultra", 192 * GIB, None);
        studio.memory_gb_per_s = Some(800.0);
        let rate = |name: &str| {
            let model = model(name);
            let weights = Weights::of(&model, &model.quantizations[0]);
            fit(model.attention.as_ref(), &[weights], &studio, &serving(4096))[0].tokens_per_second_limit.unwrap()
        };
        assert!((rate("qwen3:235b") - 60.2).abs() < 1.0, "{}", rate("qwen3:235b"));
        assert!(rate("qwen3:235b") > 3.0 * rate("llama3.3:70b"));
    }

    #[test]
    fn slots_multiply_the_cache_and_its_type_divides_it() {
        let qwen = attention("qwen3:32b");
        let one = kv_bytes(&qwen, &serving(8192));
        assert_eq!(kv_bytes(&qwen, &Serving { parallel: 4, ..serving(8192) }), 4 * one);
        let q8 = kv_bytes(&qwen, &Serving { kv: KvCacheType::Q8_0, ..serving(8192) });
        assert!((0.5..0.56).contains(&(q8 as f64 / one as f64)));
        let gpt = attention("gpt-oss:120b");
        assert!(
            kv_bytes(&gpt, &serving(131_072)) < 2 * kv_bytes(&Attention { window_layers: 0, ..gpt }, &serving(131_072))
        );
    }

    #[test]
    fn a_limit_set_by_hand_is_the_limit() {
        let host = Host::apple("Apple M4 Max", 64 * GIB, Some(50 * GIB));
        assert_eq!((host.gpu_limit_bytes, host.wired_limit_bytes), (Some(50 * GIB), Some(56 * GIB)));
        assert_eq!(Host::apple("Apple M1", 16 * GIB, Some(0)).gpu_limit_bytes, Some(16 * GIB / 3 * 2));
    }
}
