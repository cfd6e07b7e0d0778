//! The models of a host as a person asks for them: what is there, and what of it is in memory.

use chrono::{DateTime, Utc};
use serde::Serialize;
use stack::failure::Failure;
use wire::ollama::PsModel;

use super::engine::Engine;

/// A row of `model list`; the shape of `model list --json` is an array of these.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Held {
    /// With its tag.
    pub name: String,
    /// On the disk.
    pub bytes: u64,
    /// `32.8B`.
    pub parameters: String,
    /// `Q8_0`.
    pub quantization: String,
    /// Tokens it was trained to attend to.
    pub context: Option<u32>,
    /// When it came or was made.
    pub modified: Option<DateTime<Utc>>,
    /// Of the manifest.
    pub digest: String,
    /// Whether verbs mean it when no model is named.
    pub default: bool,
    /// Where it sits; absent: on the disk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident: Option<Residency>,
}

/// A model in memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Residency {
    /// Of memory, all together.
    pub bytes: u64,
    /// Of the GPU's. Less than `bytes`: part of the model runs on the processor.
    pub gpu_bytes: u64,
    /// Tokens a slot.
    pub context: u32,
    /// When it leaves, unless asked again.
    pub until: Option<DateTime<Utc>>,
}

impl Residency {
    fn of(model: &PsModel) -> Residency {
        Residency {
            bytes: model.size,
            gpu_bytes: model.size_vram,
            context: model.context_length,
            until: model.expires_at,
        }
    }

    /// `all on the GPU`, `38 % on the processor`.
    pub fn place(&self) -> String {
        match self.bytes.saturating_sub(self.gpu_bytes) {
            0 => "all on the GPU".to_owned(),
            _ if self.gpu_bytes == 0 => "all on the processor".to_owned(),
            rest => format!("{} % on the processor", (rest * 100 / self.bytes.max(1)).max(1)),
        }
    }
}

/// Every model of the store, the newest first.
pub fn list(engine: &Engine, default: &str) -> Result<Vec<Held>, Failure> {
    let resident = engine.resident()?;
    let held = engine.list()?.models.into_iter().map(|model| Held {
        default: is_same(&model.name, default),
        resident: resident.models.iter().find(|it| it.name == model.name).map(Residency::of),
        name: model.name,
        bytes: model.size,
        parameters: model.details.parameter_size,
        quantization: model.details.quantization_level,
        context: model.details.context_length,
        modified: model.modified_at,
        digest: model.digest,
    });
    Ok(held.collect())
}

/// Where a model sits, if it is in memory.
pub fn residency(engine: &Engine, model: &str) -> Result<Option<Residency>, Failure> {
    Ok(engine.resident()?.models.iter().find(|it| is_same(&it.name, model)).map(Residency::of))
}

/// Whether two names mean one model: no tag is `latest`.
pub fn is_same(a: &str, b: &str) -> bool {
    let whole = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        if last.contains(':') { name.to_ascii_lowercase() } else { format!("{}:latest", name.to_ascii_lowercase()) }
    };
    whole(a) == whole(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tag_is_latest() {
        assert!(is_same("a", "a:latest") && is_same("hf.co/a/b:Q4", "hf.co/a/b:q4"));
        assert!(!is_same("a:7b", "a") && !is_same("hf.co:8/a/b", "hf.co:8/a/b:x"));
    }

    #[test]
    fn a_place_is_told_by_its_share() {
        let at = |bytes, gpu_bytes| Residency { bytes, gpu_bytes, context: 1, until: None }.place();
        assert_eq!(at(100, 100), "all on the GPU");
        assert_eq!(at(100, 0), "all on the processor");
        assert_eq!(at(100, 62), "38 % on the processor");
    }
}
