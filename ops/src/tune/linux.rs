//! Linux: what systemd lets a machine do by itself. All else that is said to help is advice at the most.

use std::fs;

use stack::{machine::SLEEP_TARGETS, observed::Observed};

use super::{Change, Seen, Tuning, command};

/// Above this the kernel swaps a model out to keep files in memory that nobody reads again.
const SWAPPINESS: u32 = 10;

pub(super) fn look(observed: &Observed) -> Seen {
    let swappiness = fs::read_to_string("/proc/sys/vm/swappiness").ok().and_then(|text| text.trim().parse().ok());
    let linux = observed.facts.as_ref().and_then(|machine| machine.linux.as_ref());
    Seen { sleeps: linux.and_then(|linux| linux.sleeps), swappiness, ..Seen::default() }
}

pub(super) fn tune(seen: &Seen) -> Tuning {
    let mut tuning = Tuning::default();
    match seen.sleeps {
        Some(true) => {
            let why = "asleep it answers nobody";
            tuning.changes.push(Change::new("sleep", "when systemd is asked to", "never", why));
            tuning.commands.push(systemctl("mask"));
        }
        Some(false) => {}
        None => tuning.notes.push("systemd does not run this machine: whether it sleeps is for you to see".to_owned()),
    }
    if let Some(swappiness) = seen.swappiness.filter(|it| *it > SWAPPINESS) {
        tuning.notes.push(format!(
            "vm.swappiness is {swappiness}; where models share memory with much reading of files, {SWAPPINESS} keeps them in: \
             `echo vm.swappiness={SWAPPINESS} | sudo tee /etc/sysctl.d/90-models.conf && sudo sysctl --system`"
        ));
    }
    tuning
}

pub(super) fn revert(seen: &Seen, before: &Seen) -> Tuning {
    let mut tuning = Tuning::default();
    if seen.sleeps == Some(false) && before.sleeps == Some(true) {
        tuning.changes.push(Change::new("sleep", "never", "when systemd is asked to", "as it was"));
        tuning.commands.push(systemctl("unmask"));
    }
    tuning
}

fn systemctl(verb: &str) -> stack::process::Command {
    let words: Vec<&str> = [verb].into_iter().chain(SLEEP_TARGETS).collect();
    command("systemctl", &words)
}
