//! Judges of what runs, what is measured, what is saved, and what the machine suffers from.

use stack::{
    component::{Component, Runtime},
    machine::{Mac, Machine},
    observed::State,
};

use super::{Evidence, Finding, Repair, evidence::Strain};
use crate::model::gigabytes;

/// What a machine that must log, sample and deploy needs free.
const LEAST_BYTES: u64 = 2 << 30;

/// Of the last minute in which everything waited for memory.
const STALLED_PERCENT: f64 = 5.0;

/// Free memory as a Mac's kernel judges it; and swap that is more than habit.
const FREE_PERCENT: u32 = 10;
const SWAP_BYTES: u64 = 1 << 30;

pub(super) fn judge(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = deployment(evidence);
    findings.extend(components(evidence));
    findings.extend(evidence.observed.facts.iter().flat_map(disks));
    let runtime = evidence.observed.current_release().map(|release| release.content.runtime);
    let mac = evidence.observed.facts.as_ref().and_then(|machine| machine.mac.as_ref());
    findings.extend(mac.and_then(|mac| rival(mac, runtime?)));
    findings.extend(strain(&evidence.strain));
    findings.extend(metrics(evidence));
    findings.extend(backups(evidence));
    findings
}

/// Our own files, and deploys that did not end.
fn deployment(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(cut) = &evidence.observed.interrupted {
        let step = cut.step.as_deref().unwrap_or("its first step");
        findings.push(
            Finding::new("deploy-cut-off", "a deploy was cut off")
                .seen(format!("it began at {} and came to: {step}", cut.began.to_rfc3339()))
                .because("the host was killed, or lost power, in the middle of a change")
                .fix("cargo xtask deploy")
                .repair(Repair::Restore),
        );
    }
    let damaged = &evidence.observed.damaged;
    if !damaged.is_empty() {
        findings.push(
            Finding::new("files-changed", "files of the release are not as they were deployed")
                .seen(damaged.join(", "))
                .because("somebody changed or removed them by hand: what runs is not what stack.toml says")
                .fix("cargo xtask deploy, which writes them anew; what you want to add belongs into local/")
                .repair(Repair::Restore),
        );
    }
    findings
}

fn components(evidence: &Evidence) -> Vec<Finding> {
    let observed = &evidence.observed;
    let contained = observed.current_release().is_some_and(|it| it.content.runtime == Runtime::Docker);
    if !contained && observed.supervisor.is_none() && !observed.desired.halted {
        return vec![
            Finding::new("no-supervisor", "nothing keeps the components running")
                .seen("the supervisor's lock is free")
                .because("it was killed, or the machine was started and nothing started it")
                .fix("cargo xtask deploy")
                .repair(Repair::Restore),
        ];
    }
    let sick = evidence.summary.components.iter().filter_map(|part| {
        let seen = part.detail.clone().unwrap_or_else(|| "no component has told why".to_owned());
        let name = part.name;
        Some(match part.state {
            State::Healthy | State::Absent => return None,
            State::Stopped if seen == "stopped by hand" => {
                Finding::new(&format!("{name}-stopped"), format!("the {name} does not run"))
                    .seen(seen)
                    .because("somebody stopped it, and it stays so until it is started")
                    .fix(format!("cargo xtask start {name}"))
            }
            State::Stopped | State::Unhealthy | State::Starting => {
                Finding::new(&format!("{name}-sick"), format!("the {name} does not answer"))
                    .seen(format!("{}: {seen}", word(part.state)))
                    .because(format!("`cargo xtask logs {name}` has its last words"))
                    .fix(format!("cargo xtask restart {name}"))
                    .repair(Repair::Restart(name))
            }
        })
    });
    sick.collect()
}

fn word(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Stopped => "not running",
        _ => "unhealthy",
    }
}

fn disks(machine: &Machine) -> Vec<Finding> {
    let full = machine.disks.iter().filter(|disk| disk.available_bytes < LEAST_BYTES);
    full.map(|disk| {
        Finding::new("disk-full", format!("the disk of {} is full", disk.what))
            .seen(format!("{} free at {}", gigabytes(disk.available_bytes), disk.path.display()))
            .because("pulls, samples, logs and deploys fail when they cannot write")
            .fix("cargo xtask model list shows what `cargo xtask model remove` could take away; or `cargo xtask backup prune`")
    })
    .collect()
}

/// An engine that is not ours, and fights for the port and the memory. A sandbox has no engine that would mind.
fn rival(mac: &Mac, runtime: Runtime) -> Option<Finding> {
    (mac.ollama_service == Some(true) && runtime != Runtime::Sandbox).then(|| {
        Finding::new("second-engine", "there are two engines on this machine")
            .seen("Homebrew's service runs one of its own")
            .because("both want the same port and the same memory; which one answers is chance")
            .fix("brew services stop ollama")
    })
}

fn strain(strain: &Strain) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(seen) = &strain.throttled {
        findings.push(
            Finding::new("thermal", "answers are slow: the machine is hot")
                .seen(seen)
                .because("it slows itself down to save itself")
                .fix("clear its air vents, or give it a cooler place; it recovers by itself"),
        );
    }
    let mac = strain.free_percent.zip(strain.swap_bytes);
    let swaps = match (strain.stalled_percent, mac) {
        (Some(percent), _) if percent > STALLED_PERCENT => {
            Some(format!("in the last minute everything waited for memory {percent:.0} % of the time"))
        }
        (_, Some((free, swap))) if free < FREE_PERCENT && swap > SWAP_BYTES => {
            Some(format!("{free} % of memory is free, and {} are swapped out", gigabytes(swap)))
        }
        _ => None,
    };
    if let Some(seen) = swaps {
        findings.push(
            Finding::new("swap", "answers are slow: the machine swaps")
                .seen(seen)
                .because("a model whose pages are on disk answers tens of times slower")
                .fix("quit what is not needed; `cargo xtask model unload`, or a smaller context_length under [engine]"),
        );
    }
    findings
}

fn metrics(evidence: &Evidence) -> Vec<Finding> {
    let healthy = |component: Component| {
        evidence.summary.components.iter().any(|it| it.name == component && it.state == State::Healthy)
    };
    // Of a component that is sick it has been said already.
    let down = evidence.targets.iter().filter(|target| !target.is_up).filter(|target| match target.job.as_str() {
        "ollama" => healthy(Component::Gateway),
        "node" => healthy(Component::NodeExporter),
        "macmon" => healthy(Component::Macmon),
        "alertmanager" => healthy(Component::Alertmanager),
        _ => true,
    });
    let mut findings: Vec<Finding> = down
        .map(|target| {
            Finding::new("metrics-missing", format!("metrics of {} are missing", target.job))
                .seen(format!("Prometheus says: {}", target.error))
                .because("what is not measured is on no dashboard and raises no alert")
                .fix("cargo xtask restart prometheus")
                .repair(Repair::Restart(Component::Prometheus))
        })
        .collect();
    if evidence.node.lines().any(|line| line == "node_textfile_scrape_error 1") {
        let folder = evidence.observed.root.join("data/textfile");
        findings.push(
            Finding::new("textfile-broken", "a file of metrics cannot be read")
                .seen("node_textfile_scrape_error is 1")
                .because("node_exporter reads what others wrote for it, and one of those files is no metrics")
                .fix(format!(
                    "promtool check metrics < FILE tells which of those in {} it is; remove it",
                    folder.display()
                )),
        );
    }
    findings
}

fn backups(evidence: &Evidence) -> Vec<Finding> {
    let fault = evidence.observed.backups.fault(evidence.now);
    fault
        .map(|seen| {
            Finding::new("backup-stale", "the backup is not as it should be")
                .seen(seen)
                .because("what is not saved, or does not come back, is lost with the disk")
                .fix("cargo xtask backup")
        })
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use stack::machine::Disk;

    use super::*;

    #[test]
    fn a_disk_that_is_full_is_named() {
        let disk = |what: &str, available_bytes| Disk { what: what.to_owned(), path: "/x".into(), available_bytes };
        let machine =
            Machine { disks: vec![disk("the stack", 40 << 30), disk("models", 1 << 30)], ..Machine::default() };
        let found = disks(&machine);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id.as_str(), found[0].symptom.as_str()), ("disk-full", "the disk of models is full"));
    }

    #[test]
    fn a_machine_that_waits_for_memory_or_is_hot_is_found() {
        let ids = |strain| self::strain(&strain).into_iter().map(|it| it.id).collect::<Vec<_>>();
        let linux = |stalled| Strain { stalled_percent: Some(stalled), ..Strain::default() };
        assert_eq!(ids(linux(12.0)), ["swap"]);
        assert_eq!(ids(linux(4.0)), [""; 0]);
        let mac = |free, swap| Strain { free_percent: Some(free), swap_bytes: Some(swap), ..Strain::default() };
        assert_eq!(ids(mac(4, 5 << 30)), ["swap"]);
        assert_eq!(ids(mac(50, 5 << 30)), [""; 0], "what was swapped out once is not missed");
        assert_eq!(ids(mac(4, 0)), [""; 0]);
        assert_eq!(ids(Strain { throttled: Some("NVIDIA L4: hot".to_owned()), ..linux(0.0) }), ["thermal"]);
    }

    #[test]
    fn homebrews_own_engine_beside_ours_is_found() {
        let mac = |ollama_service| Mac { ollama_service, ..Mac::default() };
        assert_eq!(rival(&mac(Some(true)), Runtime::Native).unwrap().id, "second-engine");
        assert_eq!(rival(&mac(Some(true)), Runtime::Sandbox), None);
        assert_eq!(rival(&mac(Some(false)), Runtime::Native), None);
        assert_eq!(rival(&mac(None), Runtime::Native), None);
    }
}
