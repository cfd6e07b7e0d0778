//! What of a machine bounds a model's speed: chip, memory, and how fast that memory is read.
//!
//! Invariant: what the machine does not say is absent, and so is the bandwidth of a chip that is not on the page.

use serde::{Deserialize, Serialize};
use stack::machine::Machine;

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
    /// The system with its version.
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

impl Hardware {
    /// From what a machine told of itself. A GPU with memory of its own is what runs a model there.
    pub fn of(machine: &Machine) -> Hardware {
        let card = machine.gpus.iter().find(|gpu| gpu.memory_bytes.is_some());
        let chip = card.map(|gpu| gpu.name.clone()).or_else(|| machine.chip.clone());
        let gpu_cores = machine.gpus.first().and_then(|gpu| gpu.cores);
        Hardware {
            system: machine.os.clone(),
            memory_gb_per_s: chip.as_deref().and_then(|chip| memory_gb_per_s(chip, gpu_cores)),
            chip,
            cores: machine.cores,
            gpu_cores,
            memory_bytes: machine.memory_bytes,
        }
    }
}

/// What a chip's memory delivers at most, GB/s. Of two memories the faster one, if nothing tells them apart: a share of
/// it is then too small rather than too large.
pub fn memory_gb_per_s(chip: &str, gpu_cores: Option<u32>) -> Option<f64> {
    let of_chip = || BANDWIDTHS.iter().filter(|(name, ..)| *name == chip.trim());
    let exact = of_chip().find(|(_, cores, _)| cores.is_some() && *cores == gpu_cores);
    let fastest = || of_chip().max_by(|a, b| a.2.total_cmp(&b.2));
    exact.or_else(fastest).map(|(.., bandwidth)| *bandwidth)
}

/// Tokens a second that one stream can reach at most: each reads every active weight once.
pub fn tokens_per_second(memory_gb_per_s: f64, active_bytes: u64) -> Option<f64> {
    (active_bytes > 0).then(|| memory_gb_per_s * 1e9 / active_bytes as f64)
}

#[cfg(test)]
mod tests {
    use stack::machine::Gpu;

    use super::*;

    #[test]
    fn chips_are_known_by_their_whole_name() {
        assert_eq!(memory_gb_per_s("Apple M2 Ultra", Some(60)), Some(800.0));
        assert_eq!(memory_gb_per_s("Apple M3 Max", Some(30)), Some(300.0));
        assert_eq!(memory_gb_per_s("Apple M3 Max", None), Some(400.0));
        assert_eq!(memory_gb_per_s("Apple M9 Ultra", None), None);
    }

    #[test]
    fn what_runs_a_model_is_the_card_if_there_is_one() {
        let gpu = |name: &str, cores, memory_bytes| Gpu { name: name.to_owned(), cores, memory_bytes, metal: None };
        let mac = Machine {
            chip: Some("Apple M4 Max".to_owned()),
            gpus: vec![gpu("Apple M4 Max", Some(32), None)],
            ..Machine::default()
        };
        assert_eq!(Hardware::of(&mac).memory_gb_per_s, Some(410.0));
        let linux = Machine {
            chip: Some("AMD EPYC".to_owned()),
            gpus: vec![gpu("NVIDIA GeForce RTX 4090", None, Some(24 << 30))],
            ..Machine::default()
        };
        assert_eq!(Hardware::of(&linux).memory_gb_per_s, Some(1008.0));
    }
}
