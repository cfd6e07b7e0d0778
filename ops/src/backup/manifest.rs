//! What Ollama's model store looks like to a backup: manifests, and the blobs that they name (`server/images.go`,
//! `manifest/*.go`).

use std::path::{Path, PathBuf};

use backup::{
    Digest,
    source::{BlobSource, Named},
};
use serde::Deserialize;

/// The folder of manifests, below the store.
pub(super) const MANIFESTS: &str = "manifests";

#[derive(Deserialize)]
struct Manifest {
    config: Layer,
    /// Go writes none as `null`.
    layers: Option<Vec<Layer>>,
}

#[derive(Deserialize)]
struct Layer {
    digest: String,
    size: u64,
}

/// The model store at `root`.
pub(super) fn source(root: &Path) -> BlobSource {
    BlobSource { name: "models".to_owned(), root: root.to_owned(), manifests: MANIFESTS.into(), parse: Box::new(parse) }
}

/// The blobs that a manifest names, below the store.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Named>, String> {
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let layers = manifest.layers.unwrap_or_default();
    layers.into_iter().chain([manifest.config]).map(named).collect()
}

fn named(layer: Layer) -> Result<Named, String> {
    let hex = layer.digest.strip_prefix("sha256:").ok_or("a digest in it is not SHA-256")?;
    let digest: Digest = hex.parse().map_err(|_| "a digest in it is malformed")?;
    Ok(Named { path: blob(digest), digest, size: layer.size })
}

/// Where a blob stands, below the store.
pub(super) fn blob(digest: Digest) -> PathBuf {
    Path::new("blobs").join(format!("sha256-{digest}"))
}

/// Where a model's manifest stands, below the store: `[[host/]namespace/]model[:tag]`, as Ollama completes it.
pub(crate) fn path(model: &str) -> PathBuf {
    let (name, tag) = match model.rsplit_once(':') {
        // A colon before a slash is a port's.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (model, "latest"),
    };
    let mut parts: Vec<&str> = name.split('/').collect();
    let defaults = ["registry.ollama.ai", "library"];
    while parts.len() < 3 {
        parts.insert(0, defaults[2 - parts.len()]);
    }
    [MANIFESTS].into_iter().chain(parts).chain([tag]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_ollama_does() {
        for (model, expected) in [
            ("llama3", "manifests/registry.ollama.ai/library/llama3/latest"),
            ("qwen2.5-coder:32b", "manifests/registry.ollama.ai/library/qwen2.5-coder/32b"),
            ("me/tuned:v1", "manifests/registry.ollama.ai/me/tuned/v1"),
            ("hf.co/me/tuned:q4", "manifests/hf.co/me/tuned/q4"),
            ("lan:5000/me/tuned", "manifests/lan:5000/me/tuned/latest"),
        ] {
            assert_eq!(path(model), Path::new(expected), "{model}");
        }
    }

    #[test]
    fn a_manifest_names_its_layers_and_its_config() {
        let hex = "ab".repeat(32);
        let layer = format!("{{\"digest\":\"sha256:{hex}\",\"size\":7}}");
        let named = parse(format!("{{\"config\":{layer},\"layers\":[{layer}]}}").as_bytes()).unwrap();
        assert_eq!(named.len(), 2);
        assert_eq!((named[0].path.to_str(), named[0].size), (Some(format!("blobs/sha256-{hex}").as_str()), 7));
        assert_eq!(parse(format!("{{\"config\":{layer},\"layers\":null}}").as_bytes()).unwrap().len(), 1);
        let wrong = layer.replace("sha256:", "md5:");
        assert!(parse(format!("{{\"config\":{wrong}}}").as_bytes()).is_err());
    }
}
