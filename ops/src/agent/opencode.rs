//! OpenCode.

use serde_json::{Map, json};

use super::{
    Agent, Ask, File, Package, Run, Target,
    merge::{Edit, Format},
};

pub(super) const OPENCODE: Agent = Agent {
    name: "opencode",
    title: "OpenCode",
    good_at: "whole tasks on its own in a terminal: reads, edits, runs commands; many models side by side",
    bad_at: "small contexts: its instructions alone take some 10k tokens; needs a model that calls tools well",
    package: Package::Node { package: "opencode-ai", version: "1.18.33", program: "opencode", node: 18 },
    settings: Ok(files),
    run: Some(run),
    least_context: 16_384,
};

fn files(target: &Target) -> Vec<File> {
    // An answer takes its room from the context too.
    let limit = json!({ "context": target.context, "output": target.context / 4 });
    let models = Map::from_iter([(target.model.clone(), json!({ "name": target.model, "limit": limit }))]);
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible",
        "name": "Frontier LLM stack",
        "options": { "baseURL": format!("{}/v1", target.endpoint), "apiKey": target.key() },
        "models": models,
    });
    let model = format!("frontier/{}", target.model);
    let edits = vec![
        Edit::new("provider.frontier", provider),
        Edit::new("model", model.clone()),
        Edit::new("small_model", model),
        Edit::new("autoupdate", false),
        Edit::new("share", "disabled"),
    ];
    vec![File { path: ".config/opencode/opencode.json", format: Format::Json, edits }]
}

fn run(_: &Target, ask: &Ask<'_>) -> Run {
    Run::new(&["run", ask.prompt]).env("OPENCODE_DISABLE_MODELS_FETCH", "1").env("OPENCODE_DISABLE_AUTOUPDATE", "1")
}
