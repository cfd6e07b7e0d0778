//! What a model's name says about the model: architecture, size, quantisation.
//!
//! Figures are those of the published models, so that what reads `/api/show` (context budgets, KV estimates) meets the
//! numbers it would meet in earnest. A name that is not in the table gets a modest shape of its own.
//!
//! Invariant: a shape is a function of the name alone.

use crate::name::Name;

/// The figures of a model. Lengths are in tokens or elements, as in GGUF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// GGUF's `general.architecture`.
    pub(crate) architecture: &'static str,
    /// For people: `32.8B`.
    pub(crate) parameters: String,
    pub(crate) quantization: &'static str,
    pub(crate) block_count: u32,
    pub(crate) embedding_length: u32,
    pub(crate) head_count: u32,
    pub(crate) head_count_kv: u32,
    /// Width of one head's key, and of its value.
    pub(crate) key_length: u32,
    pub(crate) context_length: u32,
}

/// A published model: its name in the library, the start of its tag, its figures.
struct Known {
    model: &'static str,
    size: &'static str,
    architecture: &'static str,
    parameters: &'static str,
    /// Blocks, embedding, heads, key/value heads, key width, context.
    figures: [u32; 6],
}

const fn known(
    model: &'static str,
    size: &'static str,
    architecture: &'static str,
    parameters: &'static str,
    figures: [u32; 6],
) -> Known {
    Known { model, size, architecture, parameters, figures }
}

/// The first entry of a model is what its tag `latest` means.
#[rustfmt::skip]
const KNOWN: &[Known] = &[
    known("qwen2.5-coder", "7b",   "qwen2",    "7.6B",    [28, 3584, 28, 4, 128, 32_768]),
    known("qwen2.5-coder", "0.5b", "qwen2",    "494.03M", [24,  896, 14, 2,  64, 32_768]),
    known("qwen2.5-coder", "1.5b", "qwen2",    "1.5B",    [28, 1536, 12, 2, 128, 32_768]),
    known("qwen2.5-coder", "3b",   "qwen2",    "3.1B",    [36, 2048, 16, 2, 128, 32_768]),
    known("qwen2.5-coder", "14b",  "qwen2",    "14.8B",   [48, 5120, 40, 8, 128, 32_768]),
    known("qwen2.5-coder", "32b",  "qwen2",    "32.8B",   [64, 5120, 40, 8, 128, 32_768]),
    known("qwen3",         "8b",   "qwen3",    "8.2B",    [36, 4096, 32, 8, 128, 40_960]),
    known("qwen3",         "32b",  "qwen3",    "32.8B",   [64, 5120, 64, 8, 128, 40_960]),
    known("qwen3",         "235b", "qwen3moe", "235.1B",  [94, 4096, 64, 4, 128, 262_144]),
    known("qwen3-coder",   "30b",  "qwen3moe", "30.5B",   [48, 2048, 32, 4, 128, 262_144]),
    known("qwen3-coder",   "480b", "qwen3moe", "480.2B",  [62, 6144, 96, 8, 128, 262_144]),
    known("gpt-oss",       "20b",  "gptoss",   "20.9B",   [24, 2880, 64, 8,  64, 131_072]),
    known("gpt-oss",       "120b", "gptoss",   "116.8B",  [36, 2880, 64, 8,  64, 131_072]),
    known("llama3.1",      "8b",   "llama",    "8.0B",    [32, 4096, 32, 8, 128, 131_072]),
    known("llama3.1",      "70b",  "llama",    "70.6B",   [80, 8192, 64, 8, 128, 131_072]),
];

/// For every other name.
const OTHER: Known = known("", "", "llama", "7B", [32, 4096, 32, 8, 128, 32_768]);

/// As tags spell them, as Ollama shows them, and their number in GGUF's `general.file_type`
/// (`llama_ftype` in llama.cpp's `llama.h`).
const QUANTIZATIONS: &[(&str, &str, u32)] = &[
    ("f32", "F32", 0),
    ("fp16", "F16", 1),
    ("f16", "F16", 1),
    ("q4_0", "Q4_0", 2),
    ("q4_1", "Q4_1", 3),
    ("q8_0", "Q8_0", 7),
    ("q5_0", "Q5_0", 8),
    ("q5_1", "Q5_1", 9),
    ("q2_k", "Q2_K", 10),
    ("q3_k_s", "Q3_K_S", 11),
    ("q3_k_m", "Q3_K_M", 12),
    ("q3_k_l", "Q3_K_L", 13),
    ("q4_k_s", "Q4_K_S", 14),
    ("q4_k_m", "Q4_K_M", 15),
    ("q5_k_s", "Q5_K_S", 16),
    ("q5_k_m", "Q5_K_M", 17),
    ("q6_k", "Q6_K", 18),
    ("bf16", "BF16", 32),
    ("mxfp4", "MXFP4", 38),
];

impl Shape {
    /// What `name` says.
    pub(crate) fn of(name: &Name) -> Self {
        let tag = name.tag.to_ascii_lowercase();
        let (size, _) = tag.split_once('-').unwrap_or((&tag, ""));
        let mut of_model = KNOWN.iter().filter(|known| known.model.eq_ignore_ascii_case(&name.model));
        let known = of_model.clone().find(|known| known.size == size).or_else(|| of_model.next()).unwrap_or(&OTHER);
        let [block_count, embedding_length, head_count, head_count_kv, key_length, context_length] = known.figures;
        let says_size = known.size.is_empty() && is_size(size);
        Self {
            architecture: known.architecture,
            parameters: if says_size { size.to_ascii_uppercase() } else { known.parameters.to_owned() },
            quantization: quantization_in(&tag).unwrap_or(match known.architecture {
                "gptoss" => "MXFP4",
                _ => "Q4_K_M",
            }),
            block_count,
            embedding_length,
            head_count,
            head_count_kv,
            key_length,
            context_length,
        }
    }

    /// GGUF's `general.file_type`.
    pub(crate) fn file_type(&self) -> u32 {
        QUANTIZATIONS.iter().find(|(_, shown, _)| *shown == self.quantization).map_or(0, |(_, _, number)| *number)
    }
}

/// How Ollama shows GGUF's `general.file_type`. A 0, which is F32, it takes for none.
pub(crate) fn quantization_of(file_type: Option<u64>) -> &'static str {
    let file_type = file_type.filter(|number| *number > 0);
    let known = QUANTIZATIONS.iter().find(|(_, _, number)| Some(u64::from(*number)) == file_type);
    known.map_or("unknown", |(_, shown, _)| shown)
}

/// A quantisation as someone spells it: as Ollama shows it, and its file type.
pub(crate) fn quantization(spelled: &str) -> Option<(&'static str, u32)> {
    let spelled = spelled.to_ascii_lowercase();
    let spelled = if spelled == "q4_k" { "q4_k_m" } else { &spelled };
    QUANTIZATIONS.iter().find(|(known, ..)| *known == spelled).map(|(_, shown, number)| (*shown, *number))
}

/// The last part of a tag, if it is a quantisation.
fn quantization_in(tag: &str) -> Option<&'static str> {
    let last = tag.rsplit('-').next()?;
    QUANTIZATIONS.iter().find(|(spelled, ..)| *spelled == last).map(|(_, shown, _)| *shown)
}

/// `13b`, `1.5b`, `494m`.
fn is_size(text: &str) -> bool {
    text.strip_suffix(['b', 'm']).is_some_and(|number| number.parse::<f32>().is_ok_and(f32::is_finite))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(name: &str) -> [String; 3] {
        let shape = Shape::of(&Name::parse(name).unwrap());
        [shape.architecture.to_owned(), shape.parameters, shape.quantization.to_owned()]
    }

    #[test]
    fn reads_family_size_and_quantization_off_the_name() {
        assert_eq!(labels("qwen2.5-coder:32b-instruct-q8_0"), ["qwen2", "32.8B", "Q8_0"]);
        assert_eq!(labels("qwen2.5-coder"), ["qwen2", "7.6B", "Q4_K_M"]);
        assert_eq!(labels("qwen3:235b-a22b-instruct-2507-q4_K_M"), ["qwen3moe", "235.1B", "Q4_K_M"]);
        assert_eq!(labels("gpt-oss:120b"), ["gptoss", "116.8B", "MXFP4"]);
    }

    #[test]
    fn an_unknown_model_keeps_the_size_that_its_tag_says() {
        assert_eq!(labels("codellama:13b-fp16"), ["llama", "13B", "F16"]);
        assert_eq!(labels("mine:infb"), ["llama", "7B", "Q4_K_M"]);
    }

    #[test]
    fn the_kv_cache_of_known_models_is_that_of_the_real_ones() {
        // KiB per token at f16: the table in the facts page.
        for (name, kib) in [("qwen2.5-coder:32b", 256), ("qwen3:235b-a22b", 188), ("qwen3-coder:30b", 96)] {
            let shape = Shape::of(&Name::parse(name).unwrap());
            assert_eq!(shape.block_count * shape.head_count_kv * 2 * shape.key_length * 2 / 1024, kib, "{name}");
        }
    }
}
