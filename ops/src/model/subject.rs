//! What is known of a model, from the best source that knows it: the store, the catalogue, a file, the registry.
//!
//! Invariant: the source is named, and what none of them knows is `None`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use stack::{
    component::Runtime,
    failure::{Class, Failure},
    machine::Machine,
    observed::Observed,
    process,
    settings::Settings,
};

use super::{
    catalogue::{Attention, Catalogue, Certainty, Model, Quantization, bits},
    engine::Engine,
    fit::{Host, Weights},
    gguf, hub,
    store::is_same,
};
use crate::hardware::memory_gb_per_s;

/// A model, as far as `fit` has to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// The name that it goes by.
    pub name: String,
    /// What the key/value cache is computed from.
    pub attention: Option<Attention>,
    /// Each size there is.
    pub sizes: Vec<Weights>,
    /// Tokens it was trained to attend to.
    pub context: Option<u64>,
    /// Where all this is from.
    pub source: String,
    /// What the typed name is not, and what there is instead.
    pub note: Option<String>,
}

impl Weights {
    /// A quantisation of the catalogue.
    pub fn of(model: &Model, quantization: &Quantization) -> Weights {
        Weights {
            quantization: quantization.name.clone(),
            bytes: Some(quantization.bytes),
            active_share: active_share(model),
            is_here: false,
        }
    }
}

fn active_share(model: &Model) -> f64 {
    model.active_parameters.map_or(1.0, |active| active as f64 / model.parameters as f64)
}

/// Finds what is known of `typed`: a GGUF file's path, a model of the store, of the catalogue, or of the registry.
pub fn find(typed: &str, engine: Option<&Engine>) -> Result<Subject, Failure> {
    if typed.ends_with(".gguf") {
        return of_file(Path::new(typed));
    }
    let held = engine.and_then(|engine| engine.list().ok()).unwrap_or_default();
    let here = held.models.iter().find(|model| is_same(&model.name, typed));
    let catalogue = Catalogue::built_in()
        .map_err(|error| Failure::new(Class::Failed, "the catalogue cannot be read").because(&error))?;
    let found = catalogue.find(typed);
    if let Some(found) = found {
        let mut subject = of_catalogue(found.model, found.quantization.as_deref(), found.note);
        let only = subject.sizes.len() == 1;
        for size in subject.sizes.iter_mut().filter(|size| here.is_some() && (only || typed_says(typed, size))) {
            size.is_here = true;
        }
        return Ok(subject);
    }
    if let (Some(engine), Some(here)) = (engine, here) {
        let show = engine.show(&here.name)?;
        return Ok(of_store(&here.name, here.size, &here.details.quantization_level, &show.model_info));
    }
    let of_hub = || of_hub(typed).map(|bytes| (bytes, "the hub's list of its files"));
    if let Some((bytes, source)) = of_hub().or_else(|| Some((of_registry(typed)?, "the registry's manifest"))) {
        return Ok(Subject {
            name: typed.to_owned(),
            attention: None,
            sizes: vec![Weights {
                quantization: "as tagged".to_owned(),
                bytes: Some(bytes),
                active_share: 1.0,
                is_here: false,
            }],
            context: None,
            source: source.to_owned(),
            note: None,
        });
    }
    let note = match catalogue.suggestion(typed) {
        Some(near) => format!("neither the catalogue nor the host nor the registry knows it; did you mean {near}?"),
        None => "neither the catalogue nor the host nor the registry knows it".to_owned(),
    };
    let unknown = Weights { quantization: "unknown".to_owned(), bytes: None, active_share: 1.0, is_here: false };
    Ok(Subject {
        name: typed.to_owned(),
        attention: None,
        sizes: vec![unknown],
        context: None,
        source: "unknown".to_owned(),
        note: Some(note),
    })
}

fn typed_says(typed: &str, size: &Weights) -> bool {
    typed.to_ascii_lowercase().ends_with(&size.quantization.to_ascii_lowercase())
}

/// All sizes of an entry, or the one that the name says.
fn of_catalogue(model: &Model, quantization: Option<&str>, note: Option<String>) -> Subject {
    let named = |it: &&Quantization| quantization.is_none_or(|named| it.name.eq_ignore_ascii_case(named));
    let mut sizes: Vec<Weights> = model.quantizations.iter().filter(named).map(|it| Weights::of(model, it)).collect();
    if let (true, Some(quantization)) = (sizes.is_empty(), quantization) {
        let computed = Quantization {
            name: quantization.to_owned(),
            bytes: bits(quantization).map_or(0, |bits| (model.parameters as f64 * bits / 8.0) as u64),
            certainty: Certainty::Computed,
            remark: None,
        };
        sizes.push(Weights::of(model, &computed));
    }
    let sure = |name: &str| {
        let listed = model.quantizations.iter().find(|it| it.name == name);
        match listed.map_or(Certainty::Computed, |it| it.certainty) {
            Certainty::Library => None,
            Certainty::ThirdParty => Some(format!("; {name} as third parties list it")),
            Certainty::Computed => Some(format!("; {name} computed, as the library has no such tag")),
        }
    };
    let remarks: String = sizes.iter().filter_map(|it| sure(&it.quantization)).collect();
    Subject {
        name: model.name.clone(),
        attention: model.attention.clone(),
        sizes,
        context: Some(model.context),
        source: model.source.clone() + &remarks,
        note,
    }
}

/// A model of the store, as the engine itself describes it.
pub(crate) fn of_engine(name: &str, engine: &Engine) -> Result<Option<Subject>, Failure> {
    let held = engine.list()?;
    let Some(here) = held.models.iter().find(|model| is_same(&model.name, name)) else { return Ok(None) };
    let show = engine.show(&here.name)?;
    Ok(Some(of_store(&here.name, here.size, &here.details.quantization_level, &show.model_info)))
}

fn of_store(name: &str, bytes: u64, quantization: &str, info: &serde_json::Map<String, Value>) -> Subject {
    let architecture = info.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let context = info.get(&format!("{architecture}.context_length")).and_then(Value::as_u64);
    Subject {
        name: name.to_owned(),
        attention: gguf::attention(info),
        sizes: vec![Weights {
            quantization: quantization.to_owned(),
            bytes: Some(bytes),
            active_share: 1.0,
            is_here: true,
        }],
        context,
        source: "the engine's /api/show".to_owned(),
        note: None,
    }
}

fn of_file(path: &Path) -> Result<Subject, Failure> {
    let (header, bytes) = gguf::read(path)?;
    let mut subject = of_store(&path.display().to_string(), bytes, "of the file", &header.metadata);
    subject.source = "the file's header".to_owned();
    let embedding = header.tensors.iter().find(|tensor| tensor["name"] == "token_embd.weight");
    let vocabulary = embedding.and_then(|tensor| tensor["shape"][1].as_u64());
    if let Some(attention) = &mut subject.attention {
        attention.vocabulary = vocabulary.unwrap_or(attention.vocabulary);
    }
    Ok(subject)
}

/// A registry's manifest, as far as it is read here.
#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    size: u64,
}

/// Bytes of a model of the hub, whole or in pieces.
fn of_hub(typed: &str) -> Option<u64> {
    let (repository, size) = hub::named(typed)?;
    let files = hub::pick(&repository, &hub::list(&repository).ok()?, size.as_deref()).ok()?;
    Some(files.iter().map(|file| file.bytes).sum())
}

/// Bytes of a model's weights by its registry's manifest, where that can be reached. The registry speaks TLS only, which
/// this program does not: the system's own curl does.
fn of_registry(typed: &str) -> Option<u64> {
    let text =
        process::look_up("curl", &["-fsSL", "--max-time", "8", "--proto", "=https", "--", &manifest_url(typed)?])?;
    weights_in(&text)
}

fn manifest_url(typed: &str) -> Option<String> {
    stack::settings::value::model(typed).ok()?;
    let (path, tag) = match typed.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (typed, "latest"),
    };
    let (host, path) = match path.split('/').collect::<Vec<_>>().as_slice() {
        [model] => ("registry.ollama.ai", format!("library/{model}")),
        [namespace, model] => ("registry.ollama.ai", format!("{namespace}/{model}")),
        [host, namespace, model] => (*host, format!("{namespace}/{model}")),
        _ => return None,
    };
    Some(format!("https://{host}/v2/{path}/manifests/{tag}"))
}

fn weights_in(manifest: &str) -> Option<u64> {
    let manifest: Manifest = serde_json::from_str(manifest).ok()?;
    let weights = manifest.layers.iter().filter(|layer| layer.media_type.ends_with(".model"));
    Some(weights.map(|layer| layer.size).sum()).filter(|bytes| *bytes > 0)
}

/// The machine that `fit` judges by. `memory_limit_bytes`: what the runtime caps the engine at, where it does.
pub fn host(name: &str, system: &str, machine: &Machine, memory_limit_bytes: Option<u64>) -> Host {
    let card_bytes: u64 = machine.gpus.iter().filter_map(|gpu| gpu.memory_bytes).sum();
    let first_card = machine.gpus.iter().find(|gpu| gpu.memory_bytes.is_some());
    let chip = machine.chip.as_deref();
    let mut host = match (chip, machine.memory_bytes, first_card) {
        (_, memory, Some(card)) => Host::cards(&card.name, card_bytes, memory),
        (Some(chip), Some(memory), None) if system == "Darwin" && chip.starts_with("Apple") => {
            Host::apple(chip, memory, machine.gpu_limit_bytes)
        }
        (chip, memory, None) => Host::processor(chip, memory),
    };
    if let Some(cap) = memory_limit_bytes.filter(|cap| first_card.is_none() && host.gpu_limit_bytes > Some(*cap)) {
        host.gpu_limit_bytes = Some(cap);
        host.gpu_limit_source = "engine.memory_limit".to_owned();
    }
    let gpu_cores = machine.gpus.first().and_then(|gpu| gpu.cores);
    host.memory_gb_per_s = host.chip.as_deref().and_then(|chip| memory_gb_per_s(chip, gpu_cores));
    host.free_disk_bytes = machine.disks.iter().find(|disk| disk.what == "models").map(|disk| disk.available_bytes);
    host.name = name.to_owned();
    host
}

/// The same, of a host that was asked for its facts. A container's engine is capped.
pub fn observed_host(name: &str, observed: &Observed, settings: &Settings) -> Result<Host, Failure> {
    let missing = || Failure::new(Class::Failed, "the host does not tell what it is");
    let machine = observed.facts.as_ref().ok_or_else(missing)?;
    let runtime = observed.current_release().map(|release| release.content.runtime);
    let cap = (runtime == Some(Runtime::Docker)).then_some(settings.engine.memory_limit_bytes);
    Ok(host(name, &observed.system, machine, cap))
}

/// A machine that one does not have: `--memory 192G --chip "Apple M2 Ultra"`.
pub fn imagined(memory_bytes: Option<u64>, chip: Option<&str>) -> Host {
    let mut host = match (chip, memory_bytes) {
        (Some(chip), Some(memory)) if chip.starts_with("Apple") => Host::apple(chip, memory, None),
        (Some(chip), Some(memory)) if chip.starts_with("NVIDIA") => Host::cards(chip, memory, None),
        (chip, memory) => Host::processor(chip, memory),
    };
    host.memory_gb_per_s = chip.and_then(|chip| memory_gb_per_s(chip, None));
    host.name = "imagined".to_owned();
    host
}

#[cfg(test)]
mod tests {
    use stack::machine::{Disk, Gpu};

    use super::*;

    #[test]
    fn a_manifest_is_asked_where_the_name_says() {
        let url = |name: &str| manifest_url(name).unwrap_or_default();
        assert_eq!(url("qwen3"), "https://registry.ollama.ai/v2/library/qwen3/manifests/latest");
        assert_eq!(url("me/m:8b"), "https://registry.ollama.ai/v2/me/m/manifests/8b");
        assert_eq!(url("hf.co/bartowski/X-GGUF:Q4_K_M"), "https://hf.co/v2/bartowski/X-GGUF/manifests/Q4_K_M");
        assert_eq!(url("-o /etc/passwd"), "");
        let text =
            r#"{"layers":[{"mediaType":"application/vnd.ollama.image.model","size":5},{"mediaType":"x","size":9}]}"#;
        assert_eq!((weights_in(text), weights_in("{}"), weights_in("<html>")), (Some(5), None, None));
    }

    #[test]
    fn the_host_is_judged_by_what_computes_there() {
        let mut machine = Machine {
            chip: Some("Apple M2 Ultra".to_owned()),
            memory_bytes: Some(192 << 30),
            gpu_limit_bytes: Some(0),
            disks: vec![Disk { what: "models".to_owned(), path: "/m".into(), available_bytes: 7 }],
            ..Machine::default()
        };
        let mac = host("studio", "Darwin", &machine, None);
        assert_eq!((mac.gpu_limit_bytes, mac.memory_gb_per_s), (Some(144 << 30), Some(800.0)));
        assert_eq!(mac.free_disk_bytes, Some(7));
        let capped = host("studio", "Darwin", &machine, Some(64 << 30));
        assert_eq!((capped.gpu_limit_bytes, capped.gpu_limit_source.as_str()), (Some(64 << 30), "engine.memory_limit"));
        let card = Gpu { name: "NVIDIA L4".to_owned(), cores: None, memory_bytes: Some(24 << 30), metal: None };
        machine.gpus = vec![card.clone(), card];
        assert_eq!(host("box", "Linux", &machine, None).gpu_limit_bytes, Some(48 << 30));
    }
}
