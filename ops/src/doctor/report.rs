//! A page for a colleague who is to help: versions, facts, settings and findings.
//!
//! Invariant: it holds no secret. Settings have none; of what the host keeps as a secret, the values are blacked out
//! wherever they stand.

use std::fmt::Write as _;

use stack::{component::Component, observed::Observed, release::Launch, secret::Secret};

use super::Finding;
use crate::summary::Summary;

/// Values that are shorter are no secrets, and would black out half a page.
const LEAST_SECRET: usize = 6;

/// What is to be told.
#[derive(Debug)]
pub struct About<'a> {
    /// Identity of our program.
    pub program: &'a str,
    /// The engine's version, if it told.
    pub engine: Option<&'a str>,
    /// With the machine's facts.
    pub observed: &'a Observed,
    /// The text of `stack.toml`, if there is one.
    pub settings: Option<&'a str>,
    /// What is wrong.
    pub findings: &'a [Finding],
    /// The last lines of the components that are not well.
    pub lines: &'a [(Component, String)],
    /// What must not stand in it.
    pub secrets: &'a [Secret],
}

/// The page, in Markdown.
pub fn report(about: &About<'_>) -> String {
    let observed = about.observed;
    let mut page = format!("# Report of a stack, {}\n\n## Versions\n\n", observed.clock.format("%Y-%m-%d %H:%M UTC"));
    let mut row = |what: &str, value: &str| {
        let _ = writeln!(page, "- {what}: {value}");
    };
    row("program", about.program);
    row("engine's version", about.engine.unwrap_or("it does not tell"));
    row("system", &format!("{} {}", observed.system, observed.machine));
    if let Some(release) = observed.current_release() {
        row("runtime", &release.content.runtime.to_string());
        row("release", &release.id.to_string());
        for service in &release.content.services {
            let what = match &service.launch {
                Launch::Process { command, .. } => command.program.display().to_string(),
                Launch::Container(container) => format!("{} ({})", container.image, container.image_id),
            };
            row(service.component.name(), &what);
        }
    }
    page.push_str("\n## Components\n\n");
    for part in Summary::of("", observed).components {
        let detail = part.detail.unwrap_or_default();
        let line = format!("- {}: {:?} {detail}", part.name, part.state);
        let _ = writeln!(page, "{}", line.trim_end());
    }
    let _ = writeln!(page, "\n## Findings\n");
    for finding in about.findings {
        let _ = writeln!(page, "- {}: {}\n  - {}\n  - {}", finding.id, finding.symptom, finding.evidence, finding.why);
    }
    if about.findings.is_empty() {
        page.push_str("none\n");
    }
    if let Some(machine) = &observed.facts {
        let facts = serde_json::to_string_pretty(machine).unwrap_or_default();
        let _ = writeln!(page, "\n## Machine\n\n```json\n{facts}\n```");
    }
    if let Some(settings) = about.settings {
        let _ = writeln!(page, "\n## stack.toml\n\n```toml\n{}\n```", settings.trim_end());
    }
    for (component, text) in about.lines {
        let _ = writeln!(page, "\n## Last lines of the {component}\n\n```\n{}\n```", text.trim_end());
    }
    black_out(page, about.secrets)
}

fn black_out(page: String, secrets: &[Secret]) -> String {
    let values = secrets.iter().map(Secret::reveal).filter(|value| value.len() >= LEAST_SECRET);
    values.fold(page, |page, value| page.replace(value, "[redacted]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blacked_out_wherever_they_stand() {
        let secrets = ["hunter22".to_owned(), "ab".to_owned()].map(Secret::new);
        let page = black_out("url = \"http://me:hunter22@x\" ab hunter22".to_owned(), &secrets);
        assert_eq!(page, "url = \"http://me:[redacted]@x\" ab [redacted]");
    }
}
