//! What node_exporter cannot tell of a Mac: what its kernel calls free of memory. Written for the textfile collector, so that
//! there is no further port to guard.
//!
//! Invariant: what nobody told is left out.

use std::{thread, time::Duration};

use crate::{durable, host::memory_free_percent, layout::Root, process};

/// As coarse as one looks at a machine.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Looks for as long as this process runs, if this is a Mac.
pub(super) fn watch(root: &Root) {
    if !process::uname('s').is_ok_and(|system| system == "Darwin") {
        return;
    }
    let root = root.clone();
    thread::spawn(move || {
        loop {
            let path = root.textfile().join("mac.prom");
            if let Err(error) = durable::write_volatile(&path, metrics(memory_free_percent()).as_bytes()) {
                ::log::warn!("cannot write {}: {error}", path.display());
            }
            thread::sleep(LOOK_EVERY);
        }
    });
}

/// Prometheus' text format.
fn metrics(free_percent: Option<u32>) -> String {
    let name = "llm_host_memory_free_ratio";
    let Some(percent) = free_percent else { return String::new() };
    let free = f64::from(percent) / 100.0;
    format!("# HELP {name} What the kernel calls free of memory.\n# TYPE {name} gauge\n{name} {free}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_exported_and_nothing_else() {
        assert!(metrics(Some(88)).ends_with("\nllm_host_memory_free_ratio 0.88\n"));
        assert_eq!(metrics(None), "");
    }
}
