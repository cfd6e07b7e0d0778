//! `POST /api/create`: a model from another one, or from GGUF blobs.
//!
//! Quantizing changes what the config and the header's file type say, not one weight: the tensors are noise in any
//! form. Safetensors and split files, which Ollama converts and merges, are refused.
//!
//! Invariant: the manifest is written last, so a model is there as a whole or not at all.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use wire::ollama::CreateRequest;

use super::pull::{Lines, Tell, bring, told};
use super::{Refusal, bytes, read};
use crate::Engine;
use crate::gguf;
use crate::name::Name;
use crate::registry::{Config, media};
use crate::shape;
use crate::store::Descriptor;

/// What a new model is made of so far.
#[derive(Default)]
struct Parts {
    layers: Vec<Descriptor>,
    /// What to say of each layer, at the end.
    notes: Vec<String>,
    config: Config,
}

pub(super) async fn create(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: CreateRequest = read(&body)?;
    let files = request.files.iter().chain(&request.adapters).flatten();
    for (path, digest) in files {
        if path.starts_with('/') || path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(Refusal::bad_request("file path must be relative"));
        }
        if digest.is_empty() {
            return Err(Refusal::bad_request("invalid digest format"));
        }
    }
    let spelled = if request.model.is_empty() { &request.name } else { &request.model };
    let name = Name::parse(spelled).ok_or_else(|| Refusal::bad_request("invalid model name"))?;
    let is_streamed = request.is_streamed();
    told(Lines::of(move |tell| make(&engine, &name, &request, tell)), is_streamed).await
}

fn make(engine: &Engine, name: &Name, request: &CreateRequest, tell: &Tell) -> Result<(), Refusal> {
    let mut parts = base(engine, request, tell)?;
    if !request.quantize.is_empty() {
        quantize(engine, &mut parts, &request.quantize, tell)?;
    }
    for (media_type, text) in [(media::TEMPLATE, &request.template), (media::SYSTEM, &request.system)] {
        if !text.is_empty() {
            replace(engine, &mut parts, media_type, text.as_bytes())?;
        }
    }
    let licenses = match &request.license {
        Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    for text in licenses {
        add(engine, &mut parts, media::LICENSE, text.as_bytes())?;
    }
    parameters(engine, &mut parts, request)?;
    if !request.messages.is_empty() {
        replace(engine, &mut parts, media::MESSAGES, &with_newline(&request.messages))?;
    }
    let (config, _) = engine.store.add_blob(media::CONFIG, &with_newline(&parts.config))?;
    for note in parts.notes {
        tell.status(note);
    }
    tell.status("writing manifest");
    engine.store.put_model(name, config, parts.layers, !engine.options.noprune)?;
    tell.status("success");
    Ok(())
}

/// What the new model starts from.
fn base(engine: &Engine, request: &CreateRequest, tell: &Tell) -> Result<Parts, Refusal> {
    let mut parts = match (request.from.is_empty(), &request.files) {
        (false, _) => from_model(engine, &request.from, tell)?,
        (true, Some(files)) => {
            let mut parts = Parts::default();
            for (file, digest) in files {
                from_file(engine, &mut parts, file, digest, media::MODEL, tell)?;
            }
            if parts.layers.is_empty() {
                return Err(Refusal::bad_request("unknown type"));
            }
            parts
        }
        (true, None) => return Err(Refusal::bad_request("neither 'from' or 'files' was specified")),
    };
    for (file, digest) in request.adapters.iter().flatten() {
        from_file(engine, &mut parts, file, digest, media::ADAPTER, tell)?;
    }
    Ok(parts)
}

fn from_model(engine: &Engine, from: &str, tell: &Tell) -> Result<Parts, Refusal> {
    let name = Name::parse(from).ok_or_else(|| Refusal::bad_request("invalid model name"))?;
    let held = engine.store.find(&name)?;
    let entry = match held {
        Some(entry) => entry,
        None => {
            bring(engine, &name, tell)?;
            engine.store.find(&name)?.ok_or_else(|| Refusal::no_such_model(from))?
        }
    };
    Ok(Parts {
        notes: entry.layers.iter().map(|layer| format!("using existing layer {}", layer.digest)).collect(),
        layers: entry.layers,
        config: entry.config,
    })
}

/// Whether a file is a model, a projector or an adapter is told by its header, as far as it is told at all.
fn from_file(
    engine: &Engine,
    parts: &mut Parts,
    file: &str,
    digest: &str,
    media_type: &str,
    tell: &Tell,
) -> Result<(), Refusal> {
    let layer = engine.store.layer(media_type, digest)?;
    let header = match engine.store.gguf(digest) {
        Ok(header) => header,
        // A name that ends so promised one; else nobody knows what it is.
        Err(error) if file.ends_with(".gguf") => return Err(error.into()),
        Err(_) => return Err(Refusal::bad_request("unknown type")),
    };
    tell.status("parsing GGUF");
    if media_type == media::MODEL {
        let text = |key: &str| header.metadata.get(key).and_then(Value::as_str).unwrap_or("unknown").to_owned();
        let architecture = text("general.architecture");
        let parameters = header.metadata.get("general.parameter_count").and_then(Value::as_u64).unwrap_or(0);
        let file_type = header.metadata.get("general.file_type").and_then(Value::as_u64);
        parts.config = Config {
            model_format: "gguf".to_owned(),
            model_family: architecture.clone(),
            model_families: Some(vec![architecture]),
            model_type: human_number(parameters),
            file_type: shape::quantization_of(file_type).to_owned(),
            ..Config::new()
        };
    }
    parts.notes.push(format!("using existing layer {}", layer.digest));
    parts.layers.push(layer);
    Ok(())
}

/// As `ollama create --quantize`: from F32, F16 or BF16 only.
fn quantize(engine: &Engine, parts: &mut Parts, wanted: &str, tell: &Tell) -> Result<(), Refusal> {
    let internal = |error: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let Some((quantization, number)) =
        shape::quantization(wanted).filter(|(name, _)| *name == "BF16" || QUANTIZABLE.contains(name))
    else {
        let expected = QUANTIZABLE.join(", ");
        return Err(internal(format!(
            "unsupported quantization type {} - supported types are {expected}",
            wanted.to_uppercase()
        )));
    };
    if parts.config.file_type == quantization {
        return Ok(());
    }
    if !["F32", "F16", "BF16"].contains(&parts.config.file_type.as_str()) {
        return Err(internal("quantization is only supported for F16, BF16 and F32 models".to_owned()));
    }
    let Some(at) = parts.layers.iter().position(|layer| layer.media_type == media::MODEL) else { return Ok(()) };
    let model = engine.store.blob(&parts.layers[at].digest)?;
    tell.status(format!("quantizing {} model to {quantization}", parts.config.file_type));
    let model = gguf::with_u32(&model, "general.file_type", number).unwrap_or(model);
    let (layer, _) = engine.store.add_blob(media::MODEL, &model)?;
    tell.status("verifying conversion");
    parts.notes[at] = format!("creating new layer {}", layer.digest);
    parts.layers[at] = layer;
    parts.config.file_type = quantization.to_owned();
    Ok(())
}

/// What Ollama quantizes to (`fs/ggml/type.go`), as it says it: BF16 it takes and does not name.
const QUANTIZABLE: [&str; 5] = ["F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0"];

/// The request's parameters over the base's.
fn parameters(engine: &Engine, parts: &mut Parts, request: &CreateRequest) -> Result<(), Refusal> {
    let mut parameters = request.parameters.clone().unwrap_or_default();
    for layer in parts.layers.iter().filter(|layer| layer.media_type == media::PARAMS) {
        let held: Value = serde_json::from_slice(&engine.store.blob(&layer.digest)?)
            .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        for (name, value) in held.as_object().into_iter().flatten() {
            parameters.entry(name).or_insert_with(|| value.clone());
        }
    }
    if parameters.is_empty() {
        return Ok(());
    }
    replace(engine, parts, media::PARAMS, &with_newline(&parameters))
}

fn replace(engine: &Engine, parts: &mut Parts, media_type: &str, content: &[u8]) -> Result<(), Refusal> {
    let kept: Vec<bool> = parts.layers.iter().map(|layer| layer.media_type != media_type).collect();
    let mut keep = kept.iter();
    parts.layers.retain(|_| *keep.next().unwrap_or(&true));
    let mut keep = kept.iter();
    parts.notes.retain(|_| *keep.next().unwrap_or(&true));
    add(engine, parts, media_type, content)
}

fn add(engine: &Engine, parts: &mut Parts, media_type: &str, content: &[u8]) -> Result<(), Refusal> {
    let (layer, is_new) = engine.store.add_blob(media_type, content)?;
    let verb = if is_new { "creating new layer" } else { "using existing layer" };
    parts.notes.push(format!("{verb} {}", layer.digest));
    parts.layers.push(layer);
    Ok(())
}

/// Go's encoder ends with a newline, and digests depend on it.
fn with_newline(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = bytes(value);
    bytes.push(b'\n');
    bytes
}

/// As `format.HumanNumber`: `32.8B`, `494.03M`, `12K`, `7`.
fn human_number(number: u64) -> String {
    let n = number as f64;
    let of = |unit: f64, decimals: usize, letter: &str| {
        let n = n / unit;
        if n.fract() == 0.0 { format!("{n:.0}{letter}") } else { format!("{n:.decimals$}{letter}") }
    };
    match number {
        1_000_000_000.. => of(1e9, 1, "B"),
        1_000_000.. => of(1e6, 2, "M"),
        1_000.. => format!("{:.0}K", n / 1e3),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_ollama_says_them() {
        let said = [7, 12_345, 494_032_768, 8_000_000_000, 32_763_876_352].map(human_number);
        assert_eq!(said, ["7", "12K", "494.03M", "8B", "32.8B"]);
    }
}
