//! Whether a machine is fit to be a host, before anything is put on it.
//!
//! Judgement only, over facts that were observed. Invariant: a pass rests on a fact; what the machine did not tell is a
//! warning that says so.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use stack::{
    component::Component,
    machine::{Disk, Linux, Mac, Machine},
    observed::{Engine, Observed},
};

use crate::model::{
    fit::{self, Row},
    gigabytes,
};

const GIB: u64 = 1 << 30;

/// Releases, logs and samples.
const STACK_BYTES: u64 = 2_000_000_000;

/// The guide's model, and room to pull its successor beside it.
const MODELS_BYTES: u64 = 80_000_000_000;

/// Certificates and log lines from two clocks can be compared up to about here.
const SKEW: Duration = Duration::from_secs(60);

/// Ollama runs on this and later.
const MACOS: u32 = 14;

/// Below this a model that is loaded pushes something else out.
const FREE_PERCENT: u32 = 10;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Fit.
    Pass,
    /// It will work, not well or not for long.
    Warn,
    /// It will not work.
    Fail,
}

/// One check; the shape of `preflight --json` is `{"checks":[…]}` of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub result: Verdict,
    /// The fact, and what is wrong with it.
    pub detail: String,
    /// The command or the step that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Judges a host by what was observed of it. `doors` are the ports that the edge is to have, `now` is this machine's clock when
/// the host told its own.
pub fn preflight(observed: &Observed, machine: &Machine, doors: &BTreeSet<u16>, now: DateTime<Utc>) -> Vec<Check> {
    let mut checks = vec![system(machine), processor(machine), memory(machine), gpu(observed, machine)];
    checks.extend(machine.gpu_limit_bytes.map(gpu_limit));
    checks.extend(machine.disks.iter().map(room));
    checks.push(clock(machine.clock, now));
    checks.push(address(machine));
    checks.extend(ports(observed, doors));
    checks.extend(docker(observed, machine));
    checks.extend(machine.mac.iter().flat_map(mac));
    checks.extend(machine.linux.iter().flat_map(|it| linux(it, doors)));
    checks
}

/// Judges whether a model fits, in memory and on the disk. `upgrade`: it is the one that the default may be changed for, and
/// so no fault if it does not.
pub fn model(name: &str, row: Option<&Row>, upgrade: bool) -> Check {
    let title = if upgrade { "upgrade model" } else { "default model" };
    let Some(row) = row else {
        return warn(title, format!("{name}: nobody knows its size"), format!("cargo xtask model fit {name}"));
    };
    let needs = row.needs.as_deref().unwrap_or_default();
    let total = row.total_bytes.or(row.bytes).map_or_else(String::new, |bytes| format!(", {}", gigabytes(bytes)));
    let fits = |rest: &str| format!("{name}{total}: {rest}");
    match row.verdict {
        fit::Verdict::Fits => pass(title, fits("fits")),
        fit::Verdict::FitsWithLimit => warn(title, fits("fits once the GPU limit is raised"), "cargo xtask tune"),
        fit::Verdict::FitsWithContext => warn(
            title,
            fits("fits with less context"),
            format!("set `context_length` under [engine] to {}", row.context_that_fits().unwrap_or("less")),
        ),
        fit::Verdict::DoesNotFit if upgrade => {
            warn(title, fits(&format!("does not fit: it needs {needs}")), "stay with the default")
        }
        fit::Verdict::DoesNotFit => fail(
            title,
            fits(&format!("does not fit: it needs {needs}")),
            format!("choose another at `default` under [models]; `cargo xtask model fit {name}` shows other sizes"),
        ),
        fit::Verdict::Unknown => warn(title, fits(&format!("nobody knows {needs}")), "a pull tells"),
    }
}

/// Docker, and on a Mac whether it would be there with nobody at the screen.
fn docker(observed: &Observed, machine: &Machine) -> Option<Check> {
    let name = "Docker";
    let native = "nothing, if the runtime is native: it needs no Docker";
    let mac = machine.mac.as_ref();
    Some(match (&observed.docker.as_ref()?.engine, mac) {
        (Engine::Absent, Some(_)) => pass(name, "not installed: the native runtime needs none"),
        (Engine::Absent, None) => pass(name, "not installed: a deploy installs it where the runtime needs it"),
        (Engine::Silent(said), None) => {
            warn(name, format!("its engine does not answer: {said}"), "sudo systemctl enable --now docker")
        }
        (Engine::Answers { version, .. }, None) => pass(name, version.clone()),
        (engine, Some(mac)) => {
            let apps = if mac.docker_apps.is_empty() { "Docker".to_owned() } else { mac.docker_apps.join(", ") };
            let runs = if matches!(engine, Engine::Silent(_)) { ", and does not run" } else { "" };
            let keychain = match mac.docker_keychain {
                true => "; its passwords are in the keychain, which is locked over ssh, and so a pull fails",
                false => "",
            };
            let detail = format!(
                "{apps} is installed{runs}: not fit for a Mac without a screen, since it starts when somebody logs in there \
                 and ends with them{keychain}"
            );
            let fix = match mac.docker_keychain {
                true => format!("{native}; else take `credsStore` out of ~/.docker/config.json"),
                false => native.to_owned(),
            };
            warn(name, detail, fix)
        }
    })
}

fn pass(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, result: Verdict::Pass, detail: detail.into(), fix: None }
}

fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { name, result: Verdict::Warn, detail: detail.into(), fix: Some(fix.into()) }
}

fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { result: Verdict::Fail, ..warn(name, detail, fix) }
}

/// A fact that the machine kept to itself.
fn untold(name: &'static str, command: &str) -> Check {
    warn(name, "the machine does not tell", format!("look for yourself: {command}"))
}

fn system(machine: &Machine) -> Check {
    let name = "system";
    let Some(os) = &machine.os else { return untold(name, "uname -a") };
    let major = os.strip_prefix("macOS ").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    match major {
        Some(major) if major < MACOS => {
            fail(name, format!("{os}: Ollama runs on macOS {MACOS} and later"), "softwareupdate --list")
        }
        _ => pass(name, os),
    }
}

fn processor(machine: &Machine) -> Check {
    match (&machine.chip, machine.cores) {
        (Some(chip), Some(cores)) => pass("processor", format!("{chip}, {cores} cores")),
        _ => untold("processor", "sysctl machdep.cpu.brand_string hw.ncpu, or lscpu"),
    }
}

fn memory(machine: &Machine) -> Check {
    let name = "memory";
    let Some(bytes) = machine.memory_bytes else { return untold(name, "sysctl hw.memsize, or free -b") };
    let detail = gib(bytes);
    if bytes < 16 * GIB {
        return warn(
            name,
            format!("{detail}: enough for small models only"),
            "choose a model of at most 8B parameters",
        );
    }
    pass(name, detail)
}

fn gpu(observed: &Observed, machine: &Machine) -> Check {
    let name = "GPU";
    let is_mac = observed.system == "Darwin";
    let described: Vec<String> = machine
        .gpus
        .iter()
        .map(|gpu| {
            let cores = gpu.cores.map(|cores| format!("{cores} cores"));
            let parts = [Some(gpu.name.clone()), cores, gpu.memory_bytes.map(gib), gpu.metal.clone()];
            parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
        })
        .collect();
    match described.is_empty() {
        true if is_mac => untold(name, "system_profiler SPDisplaysDataType"),
        true => warn(
            name,
            "none that the engine can use: models run on the processor",
            "install NVIDIA's driver if there is a card: `nvidia-smi` lists what it sees",
        ),
        false if is_mac && machine.gpus.iter().all(|gpu| gpu.metal.is_none()) => fail(
            name,
            format!("{}: without Metal models run on the processor", described.join("; ")),
            "use the Mac itself, not a virtual machine on it",
        ),
        false => pass(name, described.join("; ")),
    }
}

fn gpu_limit(bytes: u64) -> Check {
    pass(
        "GPU memory limit",
        match bytes {
            0 => "the system's own policy: about two thirds to three quarters of memory".to_owned(),
            _ => format!("{} by hand, until the next restart", gib(bytes)),
        },
    )
}

fn room(disk: &Disk) -> Check {
    let (name, needed) = match disk.what.as_str() {
        "models" => ("room for models", MODELS_BYTES),
        _ => ("room for the stack", STACK_BYTES),
    };
    let detail = format!("{} free at {}", gigabytes(disk.available_bytes), disk.path.display());
    if disk.available_bytes >= needed {
        return pass(name, detail);
    }
    let detail = format!("{detail}, {} are wanted", gigabytes(needed));
    match name {
        "room for models" => warn(name, detail, "set `engine.models_path` to a folder on a larger disk"),
        _ => fail(name, detail, "set `host.root` to a folder on another disk"),
    }
}

fn clock(theirs: DateTime<Utc>, ours: DateTime<Utc>) -> Check {
    let skew = (theirs - ours).abs().to_std().unwrap_or_default();
    if skew <= SKEW {
        return pass("clock", "agrees with this machine's");
    }
    let side = if theirs > ours { "ahead of" } else { "behind" };
    warn(
        "clock",
        format!("{} s {side} this machine's", skew.as_secs()),
        "sudo sntp -sS time.apple.com, or timedatectl set-ntp true",
    )
}

fn address(machine: &Machine) -> Check {
    match machine.address {
        Some(address) if !address.is_loopback() => pass("LAN address", address.to_string()),
        Some(address) => pass("LAN address", format!("{address}: reached from this machine itself")),
        None => warn("LAN address", "no route leads to other machines", "plug the network in, or join one"),
    }
}

/// `doors`: those of the edge, where clients look. The others are chosen anew where somebody has them.
fn ports(observed: &Observed, doors: &BTreeSet<u16>) -> Vec<Check> {
    let name = "ports";
    let shut = observed.taken.iter().map(|(port, holder)| {
        let detail = format!("{port}, where clients look, is taken by {holder}");
        fail(name, detail, format!("stop {holder}, or set another one under [ports]"))
    });
    let inner = observed.ports.iter().filter(|it| observed.system == "Darwin" || *it.0 != Component::Macmon);
    let moved = inner.clone().filter_map(|(component, fact)| {
        let holder = fact.holder.as_ref()?;
        let detail = format!("{} is taken by {holder}: the {component} gets {}", fact.wanted, fact.free);
        Some(warn(name, detail, format!("nothing; or stop {holder}")))
    });
    let checks: Vec<Check> = shut.chain(moved).collect();
    if !checks.is_empty() {
        return checks;
    }
    let wanted: Vec<String> =
        doors.iter().copied().chain(inner.map(|it| it.1.wanted)).map(|it| it.to_string()).collect();
    vec![pass(name, format!("free or ours: {}", wanted.join(", ")))]
}

/// What is particular to a Linux machine.
fn linux(linux: &Linux, doors: &BTreeSet<u16>) -> Vec<Check> {
    let sleep = linux.sleeps.map(|sleeps| match sleeps {
        true => warn("sleep", "whoever asks systemd for it gets it", "cargo xtask tune, once it is deployed"),
        false => pass("sleep", "never"),
    });
    // A sandbox has no doors.
    let firewall = doors.first().map(|door| match linux.firewall.as_deref() {
        None => pass("firewall", "none that we know is on: the edge's own allowlist guards"),
        Some(name) => {
            let ports: Vec<String> = doors.iter().map(u16::to_string).collect();
            let open = match name {
                "ufw" => format!("sudo ufw allow {}/tcp", ports.join(",")),
                _ => {
                    format!("sudo firewall-cmd --permanent --add-port={door}/tcp, and so for the others; then --reload")
                }
            };
            let detail = format!("{name} is on: it has to let clients in at {}", ports.join(", "));
            warn("firewall", detail, open)
        }
    });
    sleep.into_iter().chain(firewall).collect()
}

/// What is particular to a Mac that serves without a screen.
fn mac(mac: &Mac) -> Vec<Check> {
    let power = "cargo xtask tune, once it is deployed; or sudo pmset -a sleep 0 disksleep 0 womp 1 autorestart 1";
    let mut checks = vec![
        match mac.sleep_min {
            Some(0) => pass("sleep", "never"),
            Some(minutes) => warn("sleep", format!("after {minutes} min, in the middle of an answer too"), power),
            None => untold("sleep", "pmset -g"),
        },
        match mac.restarts_after_power_failure {
            Some(true) => pass("power failure", "it starts again by itself"),
            Some(false) => warn("power failure", "it stays off afterwards", power),
            None => untold("power failure", "pmset -g"),
        },
        match mac.filevault {
            Some(false) => pass("FileVault", "off: it starts without anybody"),
            Some(true) => warn(
                "FileVault",
                "on: after a power failure somebody has to type a password",
                "`sudo fdesetup authrestart` covers one planned restart",
            ),
            None => untold("FileVault", "fdesetup status"),
        },
        match mac.firewall {
            Some(false) => pass("firewall", "off: the edge's own allowlist guards"),
            Some(true) => warn(
                "firewall",
                "on: it has to let nginx in",
                "deploy tells it; `socketfilterfw --listapps` shows whether it heard",
            ),
            None => untold("firewall", "/usr/libexec/ApplicationFirewall/socketfilterfw --getglobalstate"),
        },
        match &mac.homebrew {
            Some(brew) => pass("Homebrew", brew.display().to_string()),
            None => warn(
                "Homebrew",
                "not installed: nginx, Prometheus and Grafana come from it",
                "https://brew.sh has the command",
            ),
        },
    ];
    if mac.ollama_app {
        checks.push(warn(
            "Ollama app",
            "installed: it starts an engine of its own and fights for the port",
            "quit it and take it out of the login items",
        ));
    }
    if mac.ollama_service == Some(true) {
        checks.push(warn("Ollama service", "Homebrew runs an engine of its own", "brew services stop ollama"));
    }
    if let Some(percent) = mac.memory_free_percent {
        checks.push(match percent < FREE_PERCENT {
            true => warn("memory pressure", format!("{percent} % free"), "quit what is not needed"),
            false => pass("memory pressure", format!("{percent} % free")),
        });
    }
    checks
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linux_that_may_sleep_or_shuts_clients_out_is_warned_of() {
        let doors = [11_434, 3000].into();
        let said = |sleeps, firewall: Option<&str>, doors: &BTreeSet<u16>| {
            let checks = linux(&Linux { sleeps, firewall: firewall.map(str::to_owned) }, doors);
            checks.into_iter().map(|it| (it.name, it.result, it.fix.unwrap_or_default())).collect::<Vec<_>>()
        };
        let shut = said(Some(true), Some("ufw"), &doors);
        assert_eq!(shut[0].1, Verdict::Warn);
        assert_eq!(shut[1], ("firewall", Verdict::Warn, "sudo ufw allow 3000,11434/tcp".to_owned()));
        let open = said(Some(false), None, &doors);
        assert!(open.iter().all(|it| it.1 == Verdict::Pass) && open.len() == 2, "{open:?}");
        assert_eq!(said(None, Some("ufw"), &[].into()), [], "a sandbox has no doors, and no systemd tells nothing");
    }
}
