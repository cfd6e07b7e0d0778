//! What is wrong with a stack: from the symptom to the cause to the command that mends it.
//!
//! To gather and to judge are apart: [`Evidence`] asks the host's components and system, `model` and `service` judge what
//! was seen and are pure, [`path`] walks from a client to the engine. Invariant: a finding rests on something that was seen,
//! and what could not be seen is no finding.

mod evidence;
mod model;
pub mod path;
mod report;
mod service;
pub mod unverified;

use serde::{Deserialize, Serialize};
use stack::component::Component;

pub use self::{
    evidence::{Evidence, gather},
    report::{About, report},
};

/// Something that is wrong; the shape of `doctor --json` is `{"findings":[…]}` of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name, which stays.
    pub id: String,
    /// What one notices.
    pub symptom: String,
    /// What was seen.
    pub evidence: String,
    /// What that means.
    pub why: String,
    /// The command, or the step, that mends it.
    pub fix: String,
    /// What `--fix` does about it; absent where it would touch data or needs a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
}

/// What mends something without a decision: services and our own files, never data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Restart a component.
    Restart(Component),
    /// Bring the host back to the release that it has.
    Restore,
}

impl Finding {
    pub(crate) fn new(id: &str, symptom: impl Into<String>) -> Self {
        let empty = String::new;
        Finding {
            id: id.to_owned(),
            symptom: symptom.into(),
            evidence: empty(),
            why: empty(),
            fix: empty(),
            repair: None,
        }
    }

    pub(crate) fn seen(self, evidence: impl Into<String>) -> Self {
        Finding { evidence: evidence.into(), ..self }
    }

    pub(crate) fn because(self, why: impl Into<String>) -> Self {
        Finding { why: why.into(), ..self }
    }

    pub(crate) fn fix(self, fix: impl Into<String>) -> Self {
        Finding { fix: fix.into(), ..self }
    }

    fn repair(self, repair: Repair) -> Self {
        Finding { repair: Some(repair), ..self }
    }
}

/// Everything that is wrong, in the order in which one would mend it.
pub fn judge(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = service::judge(evidence);
    findings.extend(model::judge(evidence));
    findings
}
