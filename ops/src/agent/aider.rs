//! Aider: the guide's choice.

use serde_json::{Map, Value, json};

use super::{
    Agent, Ask, File, Package, Run, Target,
    merge::{Edit, Fits, Format},
};

pub(super) const AIDER: Agent = Agent {
    name: "aider",
    title: "Aider",
    good_at: "small, exact edits in a git repository, a commit each; content with small contexts and modest models",
    bad_at: "finding its way by itself: name the files; no tools, no tests unless asked",
    package: Package::Python { package: "aider-chat", version: "0.86.2", program: "aider", python: [(3, 10), (3, 13)] },
    settings: Ok(files),
    run: Some(run),
    least_context: 8192,
};

fn files(target: &Target) -> Vec<File> {
    let model = format!("ollama_chat/{}", target.model);
    // `api-base` is what one would look for; in this file it is fatal. `set-env` works.
    let variable =
        |name: &str, value: &str| Edit::element("set-env", Fits::Prefix(format!("{name}=")), format!("{name}={value}"));
    let mut edits = vec![
        Edit::new("model", model.clone()),
        Edit::new("weak-model", model.clone()),
        Edit::new("editor-model", model.clone()),
        Edit::new("analytics", false),
        Edit::new("check-update", false),
        Edit::new("show-model-warnings", false),
        variable("OLLAMA_API_BASE", &target.endpoint),
    ];
    edits.extend(target.key.as_ref().map(|key| variable("OLLAMA_API_KEY", key.reveal())));
    vec![
        File { path: ".aider.conf.yml", format: Format::Yaml, edits },
        File { path: ".aider.model.settings.yml", format: Format::Yaml, edits: vec![model_settings(&model, target)] },
    ]
}

/// Without a pinned context Aider asks for another one each time, and the engine reloads the model each time. An entry of
/// a model's own also replaces all that Aider knows of it, so what it knows of large ones is said again.
fn model_settings(model: &str, target: &Target) -> Edit {
    let mut entry = Map::from_iter([
        ("name".to_owned(), json!(model)),
        ("extra_params".to_owned(), json!({ "num_ctx": target.context })),
    ]);
    if billions(&target.model).is_some_and(|billions| billions >= 30) {
        entry.insert("edit_format".to_owned(), json!("diff"));
        entry.insert("editor_edit_format".to_owned(), json!("editor-diff"));
        entry.insert("use_repo_map".to_owned(), json!(true));
    }
    Edit::element("", Fits::Field("name".to_owned(), model.to_owned()), Value::Object(entry))
}

/// The size in a model's name: 32 of `qwen2.5-coder:32b-instruct-q8_0`.
fn billions(model: &str) -> Option<u32> {
    let words = model.split(|it: char| !it.is_ascii_alphanumeric());
    words.filter_map(|word| word.strip_suffix('b')?.parse().ok()).max()
}

fn run(_: &Target, ask: &Ask<'_>) -> Run {
    let mut run = Run::new(&[
        "--yes-always",
        "--no-check-update",
        "--no-show-model-warnings",
        "--no-show-release-notes",
        "--no-analytics",
        "--no-gitignore",
        "--no-pretty",
        "--no-detect-urls",
        "--message",
        ask.prompt,
    ]);
    run.args.extend(ask.files.iter().map(|&file| file.to_owned()));
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_size_stands_in_its_name() {
        assert_eq!(billions("qwen2.5-coder:32b-instruct-q8_0"), Some(32));
        assert_eq!(billions("qwen3:235b-a22b-q4_K_M"), Some(235));
        assert_eq!(billions("hub/blob:latest"), None);
    }
}
