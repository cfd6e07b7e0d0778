//! The models that are known before they are pulled: `config/models.toml`, and how a name finds its entry.
//!
//! Invariant: a name that resolves by nearness, not letter by letter, comes with a note that says so.

use serde::Deserialize;

use super::did_you_mean;

const TEXT: &str = include_str!("../../../config/models.toml");

/// Bits a weight takes on average, by quantisation. The K mixes are llama.cpp's own averages
/// (`tools/quantize/README.md`), the others follow from the format.
pub const BITS: [(&str, f64); 12] = [
    ("q2_K", 2.96),
    ("q3_K_M", 3.91),
    ("mxfp4", 4.25),
    ("q4_0", 4.5),
    ("q4_K_S", 4.58),
    ("q4_K_M", 4.84),
    ("q5_K_S", 5.52),
    ("q5_K_M", 5.69),
    ("q6_K", 6.57),
    ("q8_0", 8.5),
    ("fp16", 16.0),
    ("bf16", 16.0),
];

/// Bits a weight takes in this quantisation, spelled in any case.
pub fn bits(quantization: &str) -> Option<f64> {
    let quantization = if quantization.eq_ignore_ascii_case("f16") { "fp16" } else { quantization };
    BITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(quantization)).map(|(_, bits)| *bits)
}

/// The whole page.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// In the order of the file.
    pub models: Vec<Model>,
}

/// A published model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// As the library names it, without the quantisation.
    pub name: String,
    /// Other names of the library that mean it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Tags of its quantisations; `{}` is the quantisation.
    pub tags: Vec<String>,
    /// Weights.
    pub parameters: u64,
    /// Weights that one token reads; `None`: all of them.
    pub active_parameters: Option<u64>,
    /// Tokens it was trained to attend to.
    pub context: u64,
    /// What the key/value cache is computed from; `None`: not known for sure.
    pub attention: Option<Attention>,
    /// Where the figures are from.
    pub source: String,
    /// From small to large.
    pub quantizations: Vec<Quantization>,
}

/// What the key/value cache and the compute buffers are computed from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Layers that keep the whole context.
    pub layers: u64,
    /// Layers that keep `window` tokens only.
    #[serde(default)]
    pub window_layers: u64,
    /// In tokens.
    #[serde(default)]
    pub window: u64,
    /// Query heads.
    pub heads: u64,
    /// Key/value heads of a layer.
    pub kv_heads: u64,
    /// Width of a key.
    pub key_length: u64,
    /// Width of a value.
    pub value_length: u64,
    /// Width of the model.
    pub embedding: u64,
    /// Tokens there are; 0: not known.
    pub vocabulary: u64,
}

/// The weights at one size.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// As the library spells it: `q4_K_M`.
    pub name: String,
    /// Of the weights.
    pub bytes: u64,
    /// How sure that is.
    pub certainty: Certainty,
    /// Why it is far from parameters × bits.
    pub remark: Option<String>,
}

/// How sure a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// The library lists it.
    Library,
    /// Somebody else does.
    ThirdParty,
    /// Parameters × bits: the library has no such tag.
    Computed,
}

/// The entry that a name means.
#[derive(Debug, Clone, PartialEq)]
pub struct Found<'a> {
    /// The entry.
    pub model: &'a Model,
    /// The quantisation that the name says, as the entry spells it or, if the entry lacks it, as typed.
    pub quantization: Option<String>,
    /// What the name is not, and what the library has instead.
    pub note: Option<String>,
}

impl Catalogue {
    /// The page that this program was built with.
    ///
    /// # Errors
    ///
    /// Where the file is wrong; a test reads it, so a program that was built has a right one.
    pub fn built_in() -> Result<Catalogue, toml::de::Error> {
        toml::from_str(TEXT)
    }

    /// All names that mean something, for "did you mean".
    pub fn names(&self) -> Vec<String> {
        self.models.iter().flat_map(Model::names).collect()
    }

    /// The entry that `typed` means: by its very name, or as the only near one.
    pub fn find(&self, typed: &str) -> Option<Found<'_>> {
        let typed = typed.strip_prefix("library/").unwrap_or(typed);
        let is = |name: &str| name.eq_ignore_ascii_case(typed);
        if let Some(model) = self.models.iter().find(|model| is(&model.name) || model.aliases.iter().any(|it| is(it))) {
            return Some(Found { model, quantization: None, note: None });
        }
        for model in &self.models {
            let listed = model.quantizations.iter().filter(|it| it.certainty != Certainty::Computed);
            for quantization in listed {
                if model.tags_of(&quantization.name).iter().any(|tag| is(tag)) {
                    return Some(Found { model, quantization: Some(quantization.name.clone()), note: None });
                }
            }
        }
        self.near(typed)
    }

    /// The library's model and a tag whose first part, the size, is an entry's: `qwen3:235b-instruct-q5_k_m`.
    fn near(&self, typed: &str) -> Option<Found<'_>> {
        let (family, tag) = typed.split_once(':')?;
        let mut words = tag.split('-');
        let size = words.next()?;
        let model = self.models.iter().find(|model| {
            let (its_family, its_tag) = model.name.split_once(':').unwrap_or_default();
            its_family.eq_ignore_ascii_case(family)
                && its_tag.split('-').next().is_some_and(|it| it.eq_ignore_ascii_case(size))
        })?;
        let last = words.next_back().filter(|word| bits(word).is_some());
        let quantization = last.map(|word| {
            let own = model.quantizations.iter().find(|it| it.name.eq_ignore_ascii_case(word));
            own.map_or_else(|| word.to_owned(), |it| it.name.clone())
        });
        let note = format!("{typed} is no tag that the catalogue knows; it knows {}", model.names().join(", "));
        Some(Found { model, quantization, note: Some(note) })
    }

    /// What was likely meant by a name that means nothing here.
    pub fn suggestion(&self, typed: &str) -> Option<String> {
        let names = self.names();
        did_you_mean(typed, names.iter().map(String::as_str)).map(str::to_owned)
    }
}

impl Model {
    fn family(&self) -> &str {
        self.name.split(':').next().unwrap_or(&self.name)
    }

    /// The library's tags of a quantisation, in full.
    pub fn tags_of(&self, quantization: &str) -> Vec<String> {
        self.tags.iter().map(|tag| format!("{}:{}", self.family(), tag.replace("{}", quantization))).collect()
    }

    /// Every name that the library has for it.
    pub fn names(&self) -> Vec<String> {
        let tagged = self
            .quantizations
            .iter()
            .filter(|it| it.certainty != Certainty::Computed)
            .flat_map(|it| self.tags_of(&it.name));
        std::iter::once(self.name.clone()).chain(self.aliases.iter().cloned()).chain(tagged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        Catalogue::built_in().unwrap()
    }

    #[test]
    fn bytes_are_parameters_times_bits_or_say_why_not() {
        for model in &catalogue().models {
            for quantization in &model.quantizations {
                let computed = model.parameters as f64 * bits(&quantization.name).unwrap() / 8.0;
                let off = (quantization.bytes as f64 / computed - 1.0).abs();
                let what = format!("{} {}: {:.1} % off", model.name, quantization.name, off * 100.0);
                assert_eq!(off > 0.03, quantization.remark.is_some(), "{what}");
            }
        }
    }

    #[test]
    fn entries_are_whole() {
        let catalogue = catalogue();
        let mut names = catalogue.names();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a name that means two models");
        for model in &catalogue.models {
            assert!(!model.source.is_empty() && !model.quantizations.is_empty(), "{}", model.name);
            assert!(model.active_parameters.is_none_or(|active| active < model.parameters), "{}", model.name);
            assert!(model.quantizations.is_sorted_by_key(|it| it.bytes), "{}", model.name);
            for name in model.names() {
                assert_eq!(catalogue.find(&name).map(|it| (&it.model.name, it.note)), Some((&model.name, None)));
            }
        }
    }

    #[test]
    fn a_near_name_resolves_with_a_note_that_lists_the_real_tags() {
        let catalogue = catalogue();
        let found = catalogue.find("qwen3:235b-instruct-q5_k_m").unwrap();
        assert_eq!((found.model.name.as_str(), found.quantization.as_deref()), ("qwen3:235b-a22b", Some("q5_K_M")));
        assert!(found.note.unwrap().contains("qwen3:235b-a22b-instruct-2507-q4_K_M"));
        assert_eq!(catalogue.find("qwen3:9b"), None);
        assert_eq!(catalogue.find("hf.co/a/b"), None);
        assert_eq!(catalogue.suggestion("qwen2.5-codr:32b").as_deref(), Some("qwen2.5-coder:32b"));
        assert_eq!(catalogue.suggestion("something else"), None);
    }
}
