//! What node_exporter cannot tell of a Mac: what its kernel calls free of memory, and what macmon knows of the GPU. Written
//! for the textfile collector, so that there is no further port to guard.
//!
//! Invariant: what nobody told is left out.

use std::{fmt::Write as _, thread, time::Duration};

use serde_json::Value;

use crate::{durable, host::memory_free_percent, layout::Root, process};

/// As coarse as one looks at a machine; macmon itself takes a second to measure.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// macmon's own names of them, and where its JSON has them. It is what people use for this; it needs no root.
const OF_MACMON: [(&str, &str, &str); 4] = [
    ("macmon_gpu_temp_celsius", "Average temperature of the GPU.", "/temp/gpu_temp_avg"),
    ("macmon_gpu_power_watts", "Power that the GPU draws.", "/gpu_power"),
    ("macmon_sys_power_watts", "Power that the machine draws.", "/sys_power"),
    ("macmon_gpu_active_ratio", "How much of the time the GPU is busy.", "/gpu_active_ratio"),
];

/// Looks for as long as this process runs, if this is a Mac.
pub(super) fn watch(root: &Root) {
    if !process::uname('s').is_ok_and(|system| system == "Darwin") {
        return;
    }
    let root = root.clone();
    thread::spawn(move || {
        loop {
            let macmon = process::look_up("macmon", &["pipe", "-s", "1"]);
            let text = metrics(memory_free_percent(), macmon.as_deref());
            let path = root.textfile().join("mac.prom");
            if let Err(error) = durable::write_volatile(&path, text.as_bytes()) {
                ::log::warn!("cannot write {}: {error}", path.display());
            }
            thread::sleep(LOOK_EVERY);
        }
    });
}

/// Prometheus' text format.
fn metrics(free_percent: Option<u32>, macmon: Option<&str>) -> String {
    let told: Value = macmon.and_then(|text| serde_json::from_str(text.trim()).ok()).unwrap_or_default();
    let free = free_percent.map(|percent| f64::from(percent) / 100.0);
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
    };
    gauge("llm_host_memory_free_ratio", "What the kernel calls free of memory.", free);
    for (name, help, place) in OF_MACMON {
        gauge(name, help, told.pointer(place).and_then(Value::as_f64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_exported_and_nothing_else() {
        let macmon =
            "{\"temp\":{\"gpu_temp_avg\":36.5},\"gpu_power\":12.25,\"sys_power\":40,\"gpu_active_ratio\":0.75}\n";
        let text = metrics(Some(88), Some(macmon));
        for line in [
            "llm_host_memory_free_ratio 0.88",
            "macmon_gpu_temp_celsius 36.5",
            "macmon_gpu_power_watts 12.25",
            "macmon_sys_power_watts 40",
            "macmon_gpu_active_ratio 0.75",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(metrics(None, None), "");
        assert_eq!(metrics(None, Some("no JSON")), "");
    }
}
