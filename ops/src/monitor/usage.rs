//! What each component takes of the machine now: its processes and all that these have started, or its container.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use serde_json::Value;
use stack::{
    component::Component,
    observed::{Observed, Running},
    process,
};

/// Between two looks at the clock of a process.
const SAMPLE: Duration = Duration::from_millis(500);

/// Ticks a second of `/proc/PID/stat`; it is the same on every Linux that there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a component takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) memory_bytes: u64,
    /// In hundredths of one core.
    pub(super) cpu_percent: f64,
}

/// Of those that run.
pub(super) fn usage(observed: &Observed) -> BTreeMap<Component, Usage> {
    let containers = observed.components.iter().filter_map(|(component, it)| Some((*component, it.container.clone()?)));
    let containers: BTreeMap<Component, String> = containers.collect();
    if containers.is_empty() { of_processes(&observed.components) } else { of_containers(&containers) }
}

#[derive(Debug, Clone, PartialEq)]
struct Process {
    parent: u32,
    memory_bytes: u64,
    cpu_percent: f64,
}

fn of_processes(components: &BTreeMap<Component, Running>) -> BTreeMap<Component, Usage> {
    let list =
        process::look_up("ps", &["-A", "-o", "pid=", "-o", "ppid=", "-o", "rss=", "-o", "pcpu="]).unwrap_or_default();
    let mut processes = read(&list);
    measure(&mut processes);
    let roots = components.iter().filter_map(|(component, it)| Some((*component, it.identity.as_ref()?.pid)));
    roots
        .filter(|(_, pid)| processes.contains_key(pid))
        .map(|(component, pid)| (component, sum(&processes, pid)))
        .collect()
}

fn read(list: &str) -> BTreeMap<u32, Process> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let memory_kib: u64 = words.next()?.parse().ok()?;
        // A comma where the locale has one.
        let cpu_percent = words.next()?.replace(',', ".").parse().ok()?;
        Some((pid, Process { parent, memory_bytes: memory_kib * 1024, cpu_percent }))
    };
    list.lines().filter_map(line).collect()
}

/// On Linux `ps` tells the average over a process's life; the difference of two looks is what it does now.
fn measure(processes: &mut BTreeMap<u32, Process>) {
    let look = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    let before: BTreeMap<u32, f64> = processes.keys().filter_map(|pid| Some((*pid, look(*pid)?))).collect();
    if before.is_empty() {
        return;
    }
    thread::sleep(SAMPLE);
    for (pid, process) in processes {
        if let (Some(before), Some(after)) = (before.get(pid), look(*pid)) {
            process.cpu_percent = (after - before) / TICKS_PER_SECOND / SAMPLE.as_secs_f64() * 100.0;
        }
    }
}

/// A process and all below it.
fn sum(processes: &BTreeMap<u32, Process>, root: u32) -> Usage {
    let mut usage = Usage::default();
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        if let Some(process) = processes.get(&pid) {
            usage.memory_bytes += process.memory_bytes;
            usage.cpu_percent += process.cpu_percent;
        }
        left.extend(processes.iter().filter(|(_, it)| it.parent == pid).map(|(pid, _)| *pid));
    }
    usage
}

fn of_containers(containers: &BTreeMap<Component, String>) -> BTreeMap<Component, Usage> {
    let ids = containers.values().map(String::as_str);
    let args: Vec<&str> =
        ["stats", "--no-stream", "--no-trunc", "--format", "{{json .}}"].into_iter().chain(ids).collect();
    let stats = process::look_up("docker", &args).unwrap_or_default();
    let found: BTreeMap<String, Usage> = stats.lines().filter_map(container).collect();
    let usage = |(component, id): (&Component, &String)| {
        let usage = found.iter().find(|(found, _)| found.starts_with(id.as_str()))?.1;
        Some((*component, *usage))
    };
    containers.iter().filter_map(usage).collect()
}

/// A line of `docker stats`.
fn container(line: &str) -> Option<(String, Usage)> {
    let told: Value = serde_json::from_str(line).ok()?;
    let cpu_percent = told["CPUPerc"].as_str()?.trim_end_matches('%').parse().ok()?;
    let memory_bytes = bytes(told["MemUsage"].as_str()?.split('/').next()?.trim())?;
    Some((told["ID"].as_str()?.to_owned(), Usage { memory_bytes, cpu_percent }))
}

/// `1.5GiB`, as Docker writes sizes.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|it: char| it.is_ascii_alphabetic())?);
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    Some((number.parse::<f64>().ok()? * f64::from(1u32 << (shift / 2)) * f64::from(1u32 << (shift - shift / 2))) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_component_has_started_is_its_own() {
        let processes = read("  10     1  1000  1.5\n  11 10 2000 2,5\n12 11 4000 0.0\n13 1 9000 9.0\nnonsense\n");
        assert_eq!(sum(&processes, 10), Usage { memory_bytes: 7000 * 1024, cpu_percent: 4.0 });
        assert_eq!(sum(&processes, 99), Usage::default());
    }

    #[test]
    fn docker_tells_in_words() {
        let line = r#"{"CPUPerc":"12.50%","ID":"abc","MemUsage":"1.5GiB / 2GiB","Name":"x"}"#;
        assert_eq!(container(line), Some(("abc".into(), Usage { memory_bytes: 3 << 29, cpu_percent: 12.5 })));
        assert_eq!((bytes("512KiB"), bytes("7B"), bytes("1XB")), (Some(512 << 10), Some(7), None));
    }
}
