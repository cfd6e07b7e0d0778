//! macOS: what its own tools say. Each parser is tried on recorded output (`tests/fixtures/macos`).

use std::{
    fs,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::Value;

use super::{ask, network_of, number};
use crate::{
    layout::expand,
    machine::{Gpu, Mac, Machine},
    process,
};

/// The app from Ollama's own download.
const OLLAMA_APP: &str = "/Applications/Ollama.app";

pub(super) fn system() -> Machine {
    let power = ask("pmset", &["-g"]).unwrap_or_default();
    let brew = process::find("brew");
    Machine {
        os: ask("sw_vers", &["-productVersion"]).map(|version| format!("macOS {}", version.trim())),
        chip: ask("sysctl", &["-n", "machdep.cpu.brand_string"]).map(|chip| chip.trim().to_owned()),
        cores: number("sysctl", &["-n", "hw.ncpu"]),
        memory_bytes: number("sysctl", &["-n", "hw.memsize"]),
        gpus: ask("system_profiler", &["-json", "SPDisplaysDataType"]).map(|json| gpus(&json)).unwrap_or_default(),
        gpu_limit_bytes: number::<u64>("sysctl", &["-n", "iogpu.wired_limit_mb"]).map(|mebibytes| mebibytes << 20),
        on_link: ask("ifconfig", &["-a"]).map(|text| on_link(&text)).unwrap_or_default(),
        uptime_s: uptime(),
        mac: Some(Mac {
            sleep_min: pmset(&power, "sleep").and_then(|minutes| minutes.parse().ok()),
            restarts_after_power_failure: pmset(&power, "autorestart").map(|value| value == "1"),
            filevault: ask("fdesetup", &["status"]).and_then(|text| is_on(&text, "FileVault is ")),
            firewall: firewall_tool()
                .and_then(|tool| ask(tool.to_str()?, &["--getglobalstate"]))
                .and_then(|text| is_on(&text, "Firewall is ")),
            ollama_app: PathBuf::from(OLLAMA_APP).exists(),
            ollama_service: brew.as_ref().and_then(|_| ask("brew", &["services", "list"])).map(|list| serves(&list)),
            memory_free_percent: memory_free_percent(),
            swap_used_bytes: ask("sysctl", &["-n", "vm.swapusage"]).and_then(|text| swap_used_bytes(&text)),
            homebrew: brew,
            docker_apps: docker_apps(),
            docker_keychain: docker_keychain(),
        }),
        ..Machine::default()
    }
}

/// In seconds.
pub(super) fn uptime() -> Option<u64> {
    ask("sysctl", &["-n", "kern.boottime"]).and_then(|text| uptime_s(&text))
}

/// The application firewall's tool, which is on no PATH.
pub(crate) fn firewall_tool() -> Option<PathBuf> {
    ["socketfilterfw", "/usr/libexec/ApplicationFirewall/socketfilterfw"].into_iter().find_map(process::find)
}

/// What brings Docker to a Mac: all of it starts when somebody logs in at the screen.
fn docker_apps() -> Vec<String> {
    let apps = [("Docker Desktop", "/Applications/Docker.app"), ("OrbStack", "/Applications/OrbStack.app")];
    let apps = apps.into_iter().filter(|(_, path)| Path::new(path).exists()).map(|(name, _)| name);
    apps.chain(process::find("colima").map(|_| "Colima")).map(str::to_owned).collect()
}

/// Whether Docker's client keeps passwords in the keychain, which is locked over ssh.
fn docker_keychain() -> bool {
    let text = expand(Path::new("~/.docker/config.json")).and_then(|path| fs::read_to_string(path).ok());
    let config: Value = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    config["credsStore"].as_str().is_some_and(|store| !store.is_empty())
}

/// Hardware writes numbers as strings, a virtual machine as numbers.
fn count(value: &Value) -> Option<u32> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().ok()
}

fn gpus(json: &str) -> Vec<Gpu> {
    let report: Value = serde_json::from_str(json).unwrap_or_default();
    let listed = report["SPDisplaysDataType"].as_array().cloned().unwrap_or_default();
    let gpu = |entry: &Value| {
        let name = entry["sppci_model"].as_str().or_else(|| entry["_name"].as_str())?.to_owned();
        let generation = entry["spdisplays_mtlgpufamilysupport"].as_str();
        let metal = generation.and_then(|it| it.strip_prefix("spdisplays_metal")).map(|it| format!("Metal {it}"));
        Some(Gpu { name, cores: count(&entry["sppci_cores"]), memory_bytes: None, metal })
    };
    listed.iter().filter_map(gpu).collect()
}

/// A value of pmset's, whose keys may have several words and be followed by remarks in parentheses.
fn pmset<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let rest = line.trim_start().strip_prefix(key)?;
        rest.starts_with([' ', '\t']).then(|| rest.split_whitespace().next())?
    };
    // Of a key that leads a longer one, such as `sleep`, the longer one's next word is no number.
    text.lines().filter_map(value).find(|value| value.parse::<u32>().is_ok())
}

/// `FileVault is On.`, `Firewall is enabled. (State = 1)`.
fn is_on(text: &str, lead: &str) -> Option<bool> {
    let word = text.lines().find_map(|line| line.trim().strip_prefix(lead))?.split(['.', ' ']).next()?;
    match word {
        "On" | "enabled" => Some(true),
        "Off" | "disabled" => Some(false),
        _ => None,
    }
}

/// Whether Homebrew's list of services has Ollama running.
fn serves(list: &str) -> bool {
    let mut rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.any(|row| row.first() == Some(&"ollama") && row.get(1) == Some(&"started"))
}

/// `inet6 2001:db8::7 prefixlen 64 autoconf secured`; link-local addresses have a `%` and an interface.
fn on_link(ifconfig: &str) -> Vec<String> {
    let network = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["inet6", address, "prefixlen", length, ..] = words[..] else { return None };
        let address: Ipv6Addr = address.parse().ok().filter(|it: &Ipv6Addr| !it.is_loopback())?;
        Some(network_of(address, length.parse().ok()?))
    };
    ifconfig.lines().filter_map(network).collect()
}

/// What the kernel calls free of memory; see `llm_host_memory_free_ratio` in the rules for why not what is unused.
pub(crate) fn memory_free_percent() -> Option<u32> {
    ask("memory_pressure", &["-Q"]).and_then(|text| free_percent(&text))
}

fn free_percent(text: &str) -> Option<u32> {
    let (_, percent) = text.lines().find(|line| line.contains("free percentage"))?.rsplit_once(':')?;
    percent.trim().trim_end_matches('%').parse().ok()
}

/// `total = 15360.00M  used = 5120.00M  free = 10240.00M  (encrypted)`.
fn swap_used_bytes(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("used = ")?;
    let amount = rest.split_whitespace().next()?;
    let unit = match amount.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => return None,
    };
    let value: f64 = amount[..amount.len() - 1].parse().ok()?;
    Some((value * f64::from(1u32 << unit)).round() as u64)
}

/// `{ sec = 1764000000, usec = 0 } Mon Nov 24 …`.
fn uptime_s(boottime: &str) -> Option<u64> {
    let (_, rest) = boottime.split_once("sec = ")?;
    let booted: u64 = rest.split([',', ' ']).next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    now.checked_sub(booted)
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../../../tests/fixtures/macos/", $name))
        };
    }

    #[test]
    fn reads_the_gpu_of_hardware_and_of_a_virtual_machine() {
        let metal = Some("Metal 4".to_owned());
        let max = Gpu { name: "Apple M2 Max".into(), cores: Some(30), memory_bytes: None, metal };
        assert_eq!(gpus(recorded!("system_profiler-displays.m2-max.json")), [max]);
        let virtual_machine = r#"{"SPDisplaysDataType":[{"_name":"Apple Paravirtual device","sppci_cores":8}]}"#;
        let [gpu] = &gpus(virtual_machine)[..] else { panic!("one GPU") };
        assert_eq!((gpu.cores, gpu.metal.as_deref()), (Some(8), None));
        assert!(gpus("").is_empty() && gpus("{}").is_empty());
    }

    #[test]
    fn reads_power_settings_whose_keys_have_several_words() {
        let text = recorded!("pmset-g.macbook.txt");
        assert_eq!(pmset(text, "sleep"), Some("1"));
        assert_eq!(pmset(text, "displaysleep"), Some("10"));
        assert_eq!(pmset(text, "Sleep On Power Button"), Some("1"));
        assert_eq!(pmset(text, "autorestart"), None);
        assert_eq!(pmset("\tsleep\t\t0\n sleep services 1\n", "sleep"), Some("0"));
        assert_eq!(pmset(" sleep services 1\n sleep 5\n", "sleep"), Some("5"));
    }

    #[test]
    fn reads_memory_and_swap() {
        assert_eq!(free_percent(recorded!("memory_pressure-Q.mini-32gb.txt")), Some(88));
        assert_eq!(swap_used_bytes(recorded!("sysctl-vm.swapusage.txt")), Some(5120 << 20));
        assert_eq!(swap_used_bytes("total = 2.00G  used = 1.50G  free"), Some(3 << 29));
        assert_eq!(swap_used_bytes("total = 0  used = 0"), None);
    }

    #[test]
    fn tells_on_from_off_from_something_else() {
        assert_eq!(is_on("FileVault is On.\n", "FileVault is "), Some(true));
        assert_eq!(is_on("FileVault is Off.\nDeferred enablement", "FileVault is "), Some(false));
        assert_eq!(is_on("Firewall is disabled. (State = 0)", "Firewall is "), Some(false));
        assert_eq!(is_on("Firewall is enabled. (State = 1)", "Firewall is "), Some(true));
        assert_eq!(is_on("Firewall is blocking", "Firewall is "), None);
    }

    #[test]
    fn reads_the_networks_that_it_is_on() {
        let text = "en0: flags=8863<UP> mtu 1500\n\tinet6 fe80::1%en0 prefixlen 64 scopeid 0x4\n\tinet6 2001:db8:1:2:3:4:5:6 prefixlen 64 \
                    autoconf secured\n\tinet 192.168.1.7 netmask 0xffffff00\nlo0:\n\tinet6 ::1 prefixlen 128\n";
        assert_eq!(on_link(text), ["2001:db8:1:2::/64"]);
    }

    #[test]
    fn sees_homebrews_own_service() {
        let list = "Name    Status  User File\nnginx   none\nollama  started me   ~/Library/LaunchAgents/x.plist\n";
        assert!(serves(list));
        assert!(!serves(&list.replace("started", "none   ")));
    }

    #[test]
    fn counts_from_the_last_start() {
        let hour_ago = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() - 3600;
        let uptime = uptime_s(&format!("{{ sec = {hour_ago}, usec = 0 }} Mon Nov 24 10:00:00 2026")).unwrap();
        assert!((3600..3660).contains(&uptime), "{uptime}");
        assert_eq!(uptime_s("nothing"), None);
    }
}
