//! Claude Code.

use super::{
    Agent, Ask, File, Package, Run, Target,
    merge::{Edit, Format},
};

pub(super) const CLAUDE: Agent = Agent {
    name: "claude",
    title: "Claude Code",
    good_at: "long tasks with plans, subagents and hooks; the engine answers its API by itself",
    bad_at: "built for larger models than most machines hold: at least 32k of context, and 64k to work in peace",
    package: Package::Node { package: "@anthropic-ai/claude-code", version: "2.1.332", program: "claude", node: 22 },
    settings: Ok(files),
    run: Some(run),
    least_context: 32_768,
};

fn files(target: &Target) -> Vec<File> {
    let variable = |name: &str, value: &str| Edit::new(&format!("env.{name}"), value);
    let edits = vec![
        variable("ANTHROPIC_BASE_URL", &target.endpoint),
        variable("ANTHROPIC_AUTH_TOKEN", target.key()),
        // An empty one, so that a key for Anthropic itself is not sent to this endpoint.
        variable("ANTHROPIC_API_KEY", ""),
        variable("ANTHROPIC_MODEL", &target.model),
        variable("ANTHROPIC_DEFAULT_HAIKU_MODEL", &target.model),
        variable("ANTHROPIC_DEFAULT_SONNET_MODEL", &target.model),
        variable("ANTHROPIC_DEFAULT_OPUS_MODEL", &target.model),
        // Of a model that it does not know it believes that a million tokens fit.
        variable("CLAUDE_CODE_MAX_CONTEXT_TOKENS", &target.context.to_string()),
        variable("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ];
    vec![File { path: ".claude/settings.json", format: Format::Json, edits }]
}

fn run(_: &Target, ask: &Ask<'_>) -> Run {
    Run::new(&["--print", ask.prompt, "--permission-mode", "acceptEdits"])
}
