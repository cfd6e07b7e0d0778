//! Continue, in VS Code or JetBrains.

use serde_json::{Value, json};

use super::{
    Agent, File, Package, Target,
    merge::{Edit, Fits, Format},
};

/// How our entry is told from the user's own.
const NAME: &str = "Frontier LLM stack";

pub(super) const CONTINUE: Agent = Agent {
    name: "continue",
    title: "Continue",
    good_at: "chat and edits inside VS Code and JetBrains",
    bad_at: "no life outside of an editor, so nothing here can prove that it edits",
    package: Package::User { hint: "install the extension from your editor's marketplace: https://docs.continue.dev" },
    settings: Ok(files),
    run: None,
    least_context: 8192,
};

fn files(target: &Target) -> Vec<File> {
    let mut model = json!({
        "name": NAME,
        "provider": "ollama",
        "model": target.model,
        "apiBase": target.endpoint,
        "roles": ["chat", "edit", "apply"],
        "defaultCompletionOptions": { "contextLength": target.context },
    });
    if let Some(key) = &target.key {
        model["apiKey"] = Value::from(key.reveal());
    }
    let edits = vec![
        Edit::absent("name", "Local Config"),
        Edit::absent("version", "1.0.0"),
        Edit::absent("schema", "v1"),
        Edit::element("models", Fits::Field("name".to_owned(), NAME.to_owned()), model),
    ];
    vec![File { path: ".continue/config.yaml", format: Format::Yaml, edits }]
}
