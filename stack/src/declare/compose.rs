//! What Compose reads: `compose.yaml` with its values filled in, as far as one has to know it without Compose.
//!
//! Invariant: two equal definitions of a service are one and the same to Compose.

use std::collections::BTreeMap;

use crate::release::{Contents, sha256_hex};

const COMPOSE: &str = include_str!("../../../config/compose/compose.yaml");
const NVIDIA: &str = include_str!("../../../config/compose/compose.nvidia.yaml");
const MAC: &str = include_str!("../../../config/compose/compose.mac.yaml");

/// Values by the name of the variable that takes them.
pub(super) type Values = BTreeMap<String, String>;

/// The files that a host is to use.
#[derive(Clone, Copy)]
pub(super) struct Files {
    pub(super) nvidia: bool,
    pub(super) mac: bool,
}

impl Files {
    fn used(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        [
            (true, "compose.yaml", COMPOSE),
            (self.nvidia, "compose.nvidia.yaml", NVIDIA),
            (self.mac, "compose.mac.yaml", MAC),
        ]
        .into_iter()
        .filter_map(|(used, name, text)| used.then_some((name, text)))
    }

    /// The files and their values, as they stand in a release: `docker compose` typed in that folder finds them.
    pub(super) fn place(self, mut values: Values) -> Contents {
        let names: Vec<&str> = self.used().map(|(name, _)| name).collect();
        values.insert("COMPOSE_FILE".to_owned(), names.join(":"));
        let mut env = "# The values of compose.yaml on this host.\n".to_owned();
        values.iter().for_each(|(name, value)| env.push_str(&format!("{name}='{value}'\n")));
        let files = self.used().map(|(name, text)| (name.to_owned(), text.to_owned()));
        files.chain([(".env".to_owned(), env)]).collect()
    }

    /// Hash of everything that Compose reads about a service, with `values` filled in. Comments are nothing to it.
    pub(super) fn definition(self, service: &str, values: &Values) -> String {
        let mut text = String::new();
        for (_, file) in self.used() {
            let mut section = "";
            let mut ours = true;
            for line in file.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
                if !line.starts_with(' ') {
                    section = line;
                    ours = line.starts_with("x-");
                } else if section == "services:" && !line.starts_with("   ") {
                    ours = line.trim() == format!("{service}:");
                }
                if ours && !line.trim_start().starts_with("frontier-llm-stack.fingerprint:") {
                    text.push_str(&fill(line, values));
                    text.push('\n');
                }
            }
        }
        sha256_hex(text.as_bytes())[..16].to_owned()
    }
}

/// What stands in `compose.yaml` for a variable that has no value: the images that this program was tested with.
pub(super) fn default_of(variable: &str) -> &'static str {
    let after = COMPOSE.split_once(&format!("${{{variable}:-")).map_or("", |(_, after)| after);
    after.split_once('}').map_or("", |(value, _)| value)
}

/// Puts values in place of `${NAME:-default}`.
fn fill(line: &str, values: &Values) -> String {
    let (mut filled, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, behind) = after.split_once('}').unwrap_or((after, ""));
        let (name, default) = variable.split_once(":-").unwrap_or((variable, ""));
        filled.push_str(before);
        filled.push_str(values.get(name).filter(|value| !value.is_empty()).map_or(default, String::as_str));
        rest = behind;
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: Files = Files { nvidia: false, mac: false };

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_value_changes_the_services_that_use_it_and_no_other() {
        let before = values(&[]);
        for (variable, value, changed) in [
            ("STACK_ENGINE_PORT", "1", vec!["ollama", "gateway"]),
            ("STACK_RETENTION", "1d", vec!["prometheus"]),
            ("STACK_ENGINE_FINGERPRINT", "1", vec![]),
            ("STACK_ENGINE_PORT", "11435", vec![]),
            (
                "STACK_NETWORK",
                "service:nginx",
                vec!["ollama", "gateway", "prometheus", "alertmanager", "grafana", "node-exporter", "nginx"],
            ),
        ] {
            let after = values(&[(variable, value)]);
            let services = ["ollama", "gateway", "nginx", "prometheus", "alertmanager", "grafana", "node-exporter"];
            for service in services {
                let differs = FILES.definition(service, &before) != FILES.definition(service, &after);
                assert_eq!(differs, changed.contains(&service), "{variable} and {service}");
            }
        }
        let nvidia = Files { nvidia: true, ..FILES };
        assert_ne!(nvidia.definition("ollama", &before), FILES.definition("ollama", &before));
        assert_eq!(nvidia.definition("gateway", &before), FILES.definition("gateway", &before));
    }

    #[test]
    fn images_have_a_version_and_nothing_is_published_but_by_the_edge_on_a_mac() {
        for line in COMPOSE.lines().chain(NVIDIA.lines()) {
            assert!(!line.contains("latest") && !line.contains("ports:"), "{line}");
        }
        let images: Vec<&str> = COMPOSE.lines().filter_map(|line| line.strip_prefix("    image: ")).collect();
        assert_eq!(images.len(), 7);
        assert!(images.iter().all(|image| fill(image, &values(&[])).contains(':')), "{images:?}");
        assert_eq!((MAC.matches("ports:").count(), MAC.matches("  nginx:").count()), (1, 1));
        assert_eq!(default_of("STACK_ENGINE_IMAGE").split(':').next(), Some("ollama/ollama"));
    }
}
