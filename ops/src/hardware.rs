//! What this machine is, as far as it bounds a model's speed: chip, memory, and how fast that memory is read.
//!
//! Invariant: what the machine does not say is absent, and so is the bandwidth of a chip that is not on the page.

use std::fs;

use serde::{Deserialize, Serialize};
use stack::process::fact;

/// Vendors' figures, GB/s. A chip sold with two memories stands once for each, told apart by its GPU cores.
const BANDWIDTHS: [(&str, Option<u32>, f64); 47] = [
    ("Apple M1", None, 68.0),
    ("Apple M1 Pro", None, 200.0),
    ("Apple M1 Max", None, 400.0),
    ("Apple M1 Ultra", None, 800.0),
    ("Apple M2", None, 100.0),
    ("Apple M2 Pro", None, 200.0),
    ("Apple M2 Max", None, 400.0),
    ("Apple M2 Ultra", None, 800.0),
    ("Apple M3", None, 100.0),
    ("Apple M3 Pro", None, 150.0),
    ("Apple M3 Max", Some(30), 300.0),
    ("Apple M3 Max", Some(40), 400.0),
    ("Apple M3 Ultra", None, 819.0),
    ("Apple M4", None, 120.0),
    ("Apple M4 Pro", None, 273.0),
    ("Apple M4 Max", Some(32), 410.0),
    ("Apple M4 Max", Some(40), 546.0),
    ("Apple M5", None, 153.0),
    ("NVIDIA GB10", None, 273.0),
    ("NVIDIA GeForce RTX 3060", None, 360.0),
    ("NVIDIA GeForce RTX 3070", None, 448.0),
    ("NVIDIA GeForce RTX 3080", None, 760.0),
    ("NVIDIA GeForce RTX 3090", None, 936.0),
    ("NVIDIA GeForce RTX 3090 Ti", None, 1008.0),
    ("NVIDIA GeForce RTX 4060 Ti", None, 288.0),
    ("NVIDIA GeForce RTX 4070", None, 504.0),
    ("NVIDIA GeForce RTX 4070 Ti", None, 504.0),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", None, 672.0),
    ("NVIDIA GeForce RTX 4080", None, 717.0),
    ("NVIDIA GeForce RTX 4080 SUPER", None, 736.0),
    ("NVIDIA GeForce RTX 4090", None, 1008.0),
    ("NVIDIA GeForce RTX 5070", None, 672.0),
    ("NVIDIA GeForce RTX 5070 Ti", None, 896.0),
    ("NVIDIA GeForce RTX 5080", None, 960.0),
    ("NVIDIA GeForce RTX 5090", None, 1792.0),
    ("NVIDIA RTX A6000", None, 768.0),
    ("NVIDIA RTX 6000 Ada Generation", None, 960.0),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", None, 1792.0),
    ("NVIDIA A10", None, 600.0),
    ("NVIDIA A100-SXM4-40GB", None, 1555.0),
    ("NVIDIA A100-SXM4-80GB", None, 2039.0),
    ("NVIDIA A100 80GB PCIe", None, 1935.0),
    ("NVIDIA L4", None, 300.0),
    ("NVIDIA L40S", None, 864.0),
    ("NVIDIA H100 PCIe", None, 2000.0),
    ("NVIDIA H100 80GB HBM3", None, 3350.0),
    ("NVIDIA H200", None, 4800.0),
];

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// `linux`, `macos`.
    pub system: Option<String>,
    /// What runs a model: the GPU where one is known, else the processor.
    pub chip: Option<String>,
    /// Of the processor.
    pub cores: Option<u32>,
    /// Of an Apple chip's GPU.
    pub gpu_cores: Option<u32>,
    /// Main memory; on Apple silicon the GPU's as well.
    pub memory_bytes: Option<u64>,
    /// What the chip's memory can deliver at most, by its vendor.
    pub memory_gb_per_s: Option<f64>,
}

/// What this machine says about itself.
pub fn here() -> Hardware {
    let cores = std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok());
    let found = match fs::read_to_string("/proc/meminfo") {
        Ok(meminfo) => linux(&meminfo),
        Err(_) => {
            mac(&|name| fact("sysctl", &["-n", name]), &|| fact("system_profiler", &["-json", "SPDisplaysDataType"]))
        }
    };
    Hardware { system: Some(std::env::consts::OS.to_owned()), cores, ..found }
}

fn linux(meminfo: &str) -> Hardware {
    let kibibytes = |line: &str| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    // NVIDIA's driver lists its devices here; no program has to be started.
    let devices = fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let gpu = devices.filter_map(|device| fs::read_to_string(device.path().join("information")).ok());
    let gpu = gpu.filter_map(|text| field(&text, "Model:")).next();
    let cpu = || fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| field(&text, "model name"));
    let chip = gpu.or_else(cpu);
    Hardware {
        memory_gb_per_s: chip.as_deref().and_then(|chip| memory_gb_per_s(chip, None)),
        chip,
        memory_bytes: meminfo.lines().find_map(kibibytes).map(|it| it * 1024),
        ..Hardware::default()
    }
}

/// `name : value`, as /proc writes it.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

fn mac(sysctl: &dyn Fn(&str) -> Option<String>, displays: &dyn Fn() -> Option<String>) -> Hardware {
    let chip = sysctl("machdep.cpu.brand_string");
    let gpu_cores = displays().and_then(|json| gpu_cores(&json));
    Hardware {
        memory_gb_per_s: chip.as_deref().and_then(|chip| memory_gb_per_s(chip, gpu_cores)),
        chip,
        gpu_cores,
        memory_bytes: sysctl("hw.memsize").and_then(|it| it.parse().ok()),
        ..Hardware::default()
    }
}

/// `sppci_cores` of the first display; a string on hardware, a number in a virtual machine.
fn gpu_cores(json: &str) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let cores = &value["SPDisplaysDataType"][0]["sppci_cores"];
    cores.as_str().and_then(|it| it.parse().ok()).or_else(|| u32::try_from(cores.as_u64()?).ok())
}

/// What a chip's memory delivers at most, GB/s. Of two memories the faster one, if nothing tells them apart: a share of
/// it is then too small rather than too large.
pub fn memory_gb_per_s(chip: &str, gpu_cores: Option<u32>) -> Option<f64> {
    let of_chip = || BANDWIDTHS.iter().filter(|(name, ..)| *name == chip.trim());
    let exact = of_chip().find(|(_, cores, _)| cores.is_some() && *cores == gpu_cores);
    let fastest = || of_chip().max_by(|a, b| a.2.total_cmp(&b.2));
    exact.or_else(fastest).map(|(.., bandwidth)| *bandwidth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_known_by_their_whole_name() {
        assert_eq!(memory_gb_per_s("Apple M2 Ultra", Some(60)), Some(800.0));
        assert_eq!(memory_gb_per_s("Apple M3 Max", Some(30)), Some(300.0));
        assert_eq!(memory_gb_per_s("Apple M3 Max", None), Some(400.0));
        assert_eq!(memory_gb_per_s("Apple M9 Ultra", None), None);
    }

    #[test]
    fn a_mac_is_read_from_its_own_words() {
        let sysctl = |name: &str| match name {
            "machdep.cpu.brand_string" => Some("Apple M4 Max".to_owned()),
            "hw.memsize" => Some("68719476736".to_owned()),
            _ => None,
        };
        let displays = r#"{"SPDisplaysDataType":[{"sppci_cores":"32"}]}"#;
        let found = mac(&sysctl, &|| Some(displays.to_owned()));
        assert_eq!((found.memory_gb_per_s, found.memory_bytes), (Some(410.0), Some(64 << 30)));
        assert_eq!(gpu_cores(r#"{"SPDisplaysDataType":[{"sppci_cores":10}]}"#), Some(10));
    }

    #[test]
    fn this_machine_has_memory_and_cores() {
        let found = here();
        assert!(found.memory_bytes.is_some_and(|it| it > 1 << 28) && found.cores.is_some_and(|it| it > 0));
    }
}
