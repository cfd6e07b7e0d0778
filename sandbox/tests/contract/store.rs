//! The store on disk, read without the code that wrote it.

use std::fs;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

const MANIFEST: &str = "manifests/registry.ollama.ai/library/qwen2.5-coder/32b-instruct-q8_0";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn is_laid_out_as_ollama_lays_it_out() {
    let sandbox = Sandbox::start().await;
    let manifest = read_json(&sandbox.models.join(MANIFEST));
    assert_eq!(manifest["schemaVersion"], 2);
    let referred = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    let mut expected: Vec<String> = referred
        .map(|layer| {
            let digest = layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let bytes = fs::read(sandbox.models.join("blobs").join(format!("sha256-{digest}"))).unwrap();
            assert_eq!(sha256(&bytes), digest);
            assert_eq!(layer["size"], bytes.len());
            format!("sha256-{digest}")
        })
        .collect();
    let blobs = fs::read_dir(sandbox.models.join("blobs")).unwrap();
    let mut blobs: Vec<String> = blobs.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    expected.sort();
    blobs.sort();
    assert_eq!(blobs, expected, "a blob is missing, or something was left behind");
}

#[tokio::test]
async fn the_same_name_has_the_same_digest_on_every_machine() {
    let sandbox = Sandbox::start().await;
    let digest = sha256(&fs::read(sandbox.models.join(MANIFEST)).unwrap());
    // A new value here makes every snapshot that was taken of a sandbox a different one.
    assert_eq!(digest, "7a26bf3d936fdc8d6d6a15a6223af2c708cbf59b0a9dc002f8310682abd36a3a");
    assert_eq!(sandbox.get("/api/tags").await["models"][0]["digest"], digest);
}

#[tokio::test]
async fn tags_tell_what_the_name_says() {
    let sandbox = Sandbox::start().await;
    let tags = sandbox.get("/api/tags").await;
    let model = &tags["models"][0];
    assert_eq!((&model["name"], &model["model"]), (&json!(DEFAULT_MODEL), &json!(DEFAULT_MODEL)));
    assert_eq!(model["capabilities"], json!(["completion", "tools", "insert"]));
    assert_eq!(
        model["details"],
        json!({
            "parent_model": "",
            "format": "gguf",
            "family": "qwen2",
            "families": ["qwen2"],
            "parameter_size": "32.8B",
            "quantization_level": "Q8_0",
            "context_length": 32768,
            "embedding_length": 5120,
        })
    );
    let manifest = read_json(&sandbox.models.join(MANIFEST));
    let layers = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    assert_eq!(model["size"], layers.map(|layer| layer["size"].as_u64().unwrap()).sum::<u64>());
}

#[tokio::test]
async fn show_tells_what_stands_in_the_model_file() {
    let sandbox = Sandbox::start().await;
    let (status, show) = sandbox.post("/api/show", json!({"model": DEFAULT_MODEL.to_uppercase()})).await;
    assert_eq!(status, StatusCode::OK, "case does not matter: {show}");
    let info = &show["model_info"];
    assert_eq!(info["general.architecture"], "qwen2");
    assert_eq!(info["general.file_type"], 7);
    for (key, value) in [("block_count", 64), ("context_length", 32768), ("attention.head_count_kv", 8)] {
        assert_eq!(info[format!("qwen2.{key}")], value, "{key}");
    }
    assert!(show["modelfile"].as_str().unwrap().contains("\nPARAMETER stop <|im_end|>\n"));
    assert!(show["template"].as_str().unwrap().contains(".Suffix"));
    assert_eq!(show["details"]["quantization_level"], "Q8_0");
}

#[tokio::test]
async fn a_restart_finds_and_leaves_everything_as_it_was() {
    let dir = TempDir::new().unwrap();
    let first = Sandbox::with(|options| options.models = dir.path().to_owned()).await;
    let before = first.get("/api/tags").await;
    drop(first);
    let second = Sandbox::with(|options| options.models = dir.path().to_owned()).await;
    assert_eq!(second.get("/api/tags").await, before);
}

#[tokio::test]
async fn a_damaged_manifest_is_left_out_of_the_list_and_refused_by_name() {
    let sandbox = Sandbox::start().await;
    fs::write(sandbox.models.join(MANIFEST).with_file_name("damaged"), "{\"config\":").unwrap();
    let tags = sandbox.get("/api/tags").await;
    assert_eq!(tags["models"].as_array().unwrap().len(), 1);
    let (status, _) = sandbox.post("/api/show", json!({"model": "qwen2.5-coder:damaged"})).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_manifest_cannot_point_out_of_the_store() {
    let sandbox = Sandbox::start().await;
    fs::write(sandbox.models.join("secret"), "{}").unwrap();
    let mut manifest = read_json(&sandbox.models.join(MANIFEST));
    manifest["config"]["digest"] = json!("../secret");
    fs::write(sandbox.models.join(MANIFEST), manifest.to_string()).unwrap();
    let (status, body) = sandbox.post("/api/show", json!({"model": DEFAULT_MODEL})).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{body}");
}

#[tokio::test]
async fn a_truncated_blob_is_mended_by_pulling_again() {
    let sandbox = Sandbox::start().await;
    let manifest = read_json(&sandbox.models.join(MANIFEST));
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().replace(':', "-");
    let blob = sandbox.models.join("blobs").join(&digest);
    fs::write(&blob, "cut").unwrap();
    sandbox.stream("/api/pull", json!({"model": DEFAULT_MODEL})).await;
    assert_eq!(format!("sha256-{}", sha256(&fs::read(&blob).unwrap())), digest);
}

#[tokio::test]
async fn a_start_prunes_what_no_model_uses_once_it_is_an_hour_old() {
    let dir = TempDir::new().unwrap();
    let start = async |noprune| {
        Sandbox::with(|options| {
            options.models = dir.path().to_owned();
            options.noprune = noprune;
        })
        .await
    };
    drop(start(false).await);
    let hours_ago = std::time::SystemTime::now() - 2 * Duration::from_secs(3600);
    let put = |name: String, is_old: bool| {
        let path = dir.path().join("blobs").join(name);
        let file = fs::File::create(&path).unwrap();
        if is_old {
            file.set_modified(hours_ago).unwrap();
        }
        path
    };
    let (old, partial) = (put(format!("sha256-{}", "0".repeat(64)), true), put("sha256-1-partial".to_owned(), true));
    let young = put(format!("sha256-{}", "1".repeat(64)), false);
    let manifest = read_json(&dir.path().join(MANIFEST));
    let used = manifest["config"]["digest"].as_str().unwrap().replace(':', "-");
    let used = dir.path().join("blobs").join(used);
    fs::File::options().append(true).open(&used).unwrap().set_modified(hours_ago).unwrap();
    drop(start(true).await);
    assert!(old.exists() && partial.exists(), "OLLAMA_NOPRUNE");
    // A manifest that cannot be read may refer to anything.
    let damaged = dir.path().join(MANIFEST).with_file_name("damaged");
    fs::write(&damaged, "{").unwrap();
    drop(start(false).await);
    assert!(old.exists() && partial.exists());
    fs::remove_file(damaged).unwrap();
    drop(start(false).await);
    assert!(!old.exists() && !partial.exists());
    assert!(young.exists() && used.exists());
}
