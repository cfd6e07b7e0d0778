//! Qwen Code.

use serde_json::json;

use super::{
    Agent, Ask, File, Package, Run, Target,
    merge::{Edit, Fits, Format},
};

/// The variable that the settings keep the key in.
const KEY: &str = "FRONTIER_API_KEY";

pub(super) const QWEN: Agent = Agent {
    name: "qwen",
    title: "Qwen Code",
    good_at: "the stack's own models: its instructions and tools are made for Qwen",
    bad_at: "small contexts; other families call its tools less well",
    package: Package::Node { package: "@qwen-code/qwen-code", version: "0.24.4", program: "qwen", node: 22 },
    settings: Ok(files),
    run: Some(run),
    least_context: 16_384,
};

fn files(target: &Target) -> Vec<File> {
    let base = format!("{}/v1", target.endpoint);
    let provider = json!({
        "id": target.model,
        "name": "Frontier LLM stack",
        "baseUrl": base,
        "envKey": KEY,
        "generationConfig": { "contextWindowSize": target.context },
    });
    let is_ours = Fits::Field("name".to_owned(), "Frontier LLM stack".to_owned());
    let edits = vec![
        Edit::element("modelProviders.openai", is_ours, provider),
        Edit::new(&format!("env.{KEY}"), target.key()),
        Edit::new("security.auth.selectedType", "openai"),
        Edit::new("model.name", target.model.clone()),
        Edit::new("privacy.usageStatisticsEnabled", false),
        Edit::new("general.enableAutoUpdate", false),
    ];
    vec![File { path: ".qwen/settings.json", format: Format::Json, edits }]
}

fn run(_: &Target, ask: &Ask<'_>) -> Run {
    Run::new(&["--yolo", "--prompt", ask.prompt])
}
