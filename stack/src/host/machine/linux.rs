//! Linux: what /proc and /etc say, and NVIDIA's own tool.

use std::{collections::BTreeMap, fs};

use super::{ask, network_of};
use crate::{
    machine::{Gpu, Linux, Machine, SLEEP_TARGETS},
    process::{self, Command},
};

pub(super) fn system() -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    Machine {
        os: pretty_name(&read("/etc/os-release")),
        chip: field(&cpuinfo, "model name").map(str::to_owned),
        cores: std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()),
        memory_bytes: field(&read("/proc/meminfo"), "MemTotal").and_then(kibibytes),
        gpus: ask("nvidia-smi", &["--query-gpu=name,memory.total", "--format=csv,noheader,nounits"])
            .map(|csv| nvidia(&csv))
            .unwrap_or_default(),
        on_link: on_link(&read("/proc/net/if_inet6")),
        uptime_s: uptime(),
        linux: Some(Linux { sleeps: sleeps(), firewall: firewall(&read("/etc/ufw/ufw.conf")) }),
        ..Machine::default()
    }
}

/// `None` where systemd does not run the machine.
fn sleeps() -> Option<bool> {
    let running = systemctl(&["is-system-running"])?;
    if !["running", "degraded", "starting", "initializing"].contains(&running.trim()) {
        return None;
    }
    let words: Vec<&str> = ["is-enabled"].into_iter().chain(SLEEP_TARGETS).collect();
    let states = systemctl(&words)?;
    Some(states.lines().any(|state| state.trim() != "masked"))
}

/// What it says, whatever it ends with: it fails to say no.
fn systemctl(args: &[&str]) -> Option<String> {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let command = Command { program: process::find("systemctl")?, args, env: BTreeMap::new() };
    Some(process::ask(&command, "").ok()?.stdout)
}

/// Whether ufw is on is for root to ask; whether it is meant to be stands in its file.
fn firewall(ufw_conf: &str) -> Option<String> {
    let ufw = ufw_conf.lines().any(|line| line.trim() == "ENABLED=yes").then_some("ufw");
    let firewalld = || ask("firewall-cmd", &["--state"]).filter(|state| state.trim() == "running").map(|_| "firewalld");
    ufw.or_else(firewalld).map(str::to_owned)
}

/// In seconds.
pub(super) fn uptime() -> Option<u64> {
    fs::read_to_string("/proc/uptime").ok()?.split('.').next()?.parse().ok()
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The value of the first `key : value`, however it is indented.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

fn kibibytes(value: &str) -> Option<u64> {
    Some(value.strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Address, index, length of the prefix and scope in hexadecimal, a line an address; scope 0 is global.
fn on_link(if_inet6: &str) -> Vec<String> {
    let network = |line: &str| {
        let [address, _, length, "00", ..] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        let bits = u128::from_str_radix(address, 16).ok()?;
        Some(network_of(bits.into(), u8::from_str_radix(length, 16).ok()?))
    };
    if_inet6.lines().filter_map(network).collect()
}

/// `NAME, MiB` a line.
fn nvidia(csv: &str) -> Vec<Gpu> {
    let gpu = |line: &str| {
        let (name, mebibytes) = line.rsplit_once(',')?;
        let memory_bytes = mebibytes.trim().parse::<u64>().ok().map(|mebibytes| mebibytes << 20);
        Some(Gpu { name: name.trim().to_owned(), cores: None, memory_bytes, metal: None })
    };
    csv.lines().filter_map(gpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_says() {
        assert_eq!(
            pretty_name("NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").unwrap(),
            "Debian GNU/Linux 12 (bookworm)"
        );
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7763: 64-Core\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(field(cpuinfo, "model name"), Some("AMD EPYC 7763: 64-Core"));
        assert_eq!(field("MemTotal:       24626684 kB\n", "MemTotal").and_then(kibibytes), Some(25_217_724_416));
        assert_eq!(field("MemTotal 1\n", "MemTotal"), None);
    }

    #[test]
    fn a_firewall_is_known_by_its_own_file() {
        assert_eq!(firewall("# yes or no\nENABLED=yes\nLOGLEVEL=low\n").as_deref(), Some("ufw"));
        assert_eq!(firewall("#ENABLED=yes\nENABLED=no\n"), None);
    }

    #[test]
    fn reads_the_networks_that_it_is_on() {
        let text = "20010db8000100020000000000000007 02 40 00 80     eth0\n00000000000000000000000000000001 01 80 10 80       lo\n\
                    fe80000000000000000000000000abcd 02 40 20 80     eth0\nodd\n";
        assert_eq!(on_link(text), ["2001:db8:1:2::/64"]);
    }

    #[test]
    fn reads_every_gpu_that_nvidia_lists() {
        let gpus = nvidia("NVIDIA RTX 6000 Ada Generation, 49140\nTesla, T4, [N/A]\n\n");
        assert_eq!(gpus.len(), 2);
        assert_eq!(gpus[0].memory_bytes, Some(49_140 << 20));
        assert_eq!((gpus[1].name.as_str(), gpus[1].memory_bytes), ("Tesla, T4", None));
    }
}
