//! The machine under the stack: what it is made of and how its system is set up.
//!
//! Facts only, gathered when a verb asks for them ([`crate::observed::Question::facts`]), since some take a second on a
//! Mac. Invariant: `None` means that the machine did not tell, never that the answer is no.

use std::{net::IpAddr, path::PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a machine told of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The system with its version: `macOS 15.4`, `Debian GNU/Linux 12 (bookworm)`.
    pub os: Option<String>,
    /// The processor by its maker's name: `Apple M2 Ultra`.
    pub chip: Option<String>,
    /// Logical processors.
    pub cores: Option<u32>,
    /// Main memory; on Apple silicon the GPU uses it too.
    pub memory_bytes: Option<u64>,
    /// What can compute beside the processor.
    pub gpus: Vec<Gpu>,
    /// `iogpu.wired_limit_mb` as set by hand, in bytes; 0: the system's own policy. Macs only.
    pub gpu_limit_bytes: Option<u64>,
    /// The disks below the root and below the models.
    pub disks: Vec<Disk>,
    /// The address by which this client reached the host, else the one that traffic to other networks leaves from.
    pub address: Option<IpAddr>,
    /// IPv6 networks that it is on, but for link-local ones: `2001:db8:1::/64`.
    #[serde(default)]
    pub on_link: Vec<String>,
    /// The machine's clock when it was asked.
    pub clock: DateTime<Utc>,
    /// Since its last start, in seconds.
    pub uptime_s: Option<u64>,
    /// What matters on a Mac only.
    pub mac: Option<Mac>,
    /// What matters on Linux only.
    #[serde(default)]
    pub linux: Option<Linux>,
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// By its maker's name.
    pub name: String,
    /// Cores, where the system tells.
    pub cores: Option<u32>,
    /// Memory of its own; `None` where it uses main memory.
    pub memory_bytes: Option<u64>,
    /// The Metal generation, as in `Metal 4`. Macs only.
    pub metal: Option<String>,
}

/// Room for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What was asked about: the root, the models.
    pub what: String,
    /// The path, which may not exist yet.
    pub path: PathBuf,
    /// What an ordinary user can still write, in bytes.
    pub available_bytes: u64,
}

/// Each way in which systemd has a machine sleep.
pub const SLEEP_TARGETS: [&str; 4] = ["sleep.target", "suspend.target", "hibernate.target", "hybrid-sleep.target"];

/// How a Linux machine is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linux {
    /// Whether systemd lets it sleep; `None` where that does not run the machine.
    pub sleeps: Option<bool>,
    /// The firewall that is on, by its name, of those that we know.
    pub firewall: Option<String>,
}

/// How a Mac is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mac {
    /// Where Homebrew is.
    pub homebrew: Option<PathBuf>,
    /// Minutes until it sleeps by itself; 0: never.
    pub sleep_min: Option<u32>,
    /// Whether it starts again by itself after a power failure.
    pub restarts_after_power_failure: Option<bool>,
    /// Whether somebody has to type a password at its start.
    pub filevault: Option<bool>,
    /// Whether the application firewall is on.
    pub firewall: Option<bool>,
    /// Whether the Ollama app is installed, which starts an engine of its own.
    pub ollama_app: bool,
    /// Whether Homebrew's service has an engine running.
    pub ollama_service: Option<bool>,
    /// What brings Docker there, by name.
    #[serde(default)]
    pub docker_apps: Vec<String>,
    /// Whether Docker's client keeps passwords in the keychain.
    #[serde(default)]
    pub docker_keychain: bool,
    /// Free memory as the kernel judges it, in percent.
    pub memory_free_percent: Option<u32>,
    /// Swap in use, in bytes.
    pub swap_used_bytes: Option<u64>,
}
