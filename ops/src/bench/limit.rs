//! How near a run came to what the hardware allows.
//!
//! To make a token, every active weight is read from memory once: one stream cannot be faster than the memory's
//! bandwidth divided by the bytes of active weights. What comes far below that does not run where it should.
//!
//! Invariant: nothing is said where chip or model is unknown, or where more than one stream shares a reading.

use super::{endpoint::Model, record::Run};
use crate::hardware::{Hardware, tokens_per_second};

/// A GPU reaches some 50 to 85 % of its memory's bandwidth, a processor beside it 5 to 20 %.
const SUSPICIOUS_PERCENT: f64 = 20.0;

/// Sets the run beside the limit, and says in words what a low share means.
pub fn judge(run: &mut Run, model: &Model, hardware: &Hardware) {
    let is_single = run.label.concurrency == 1;
    let limit = hardware.memory_gb_per_s.zip(model.active_bytes);
    let limit = limit.and_then(|(gb_per_s, active)| tokens_per_second(gb_per_s, active));
    let (Some(limit), Some(rate), true) = (limit, run.decode_tokens_per_second, is_single) else {
        return;
    };
    let percent = rate / limit * 100.0;
    run.limit_percent = Some(percent);
    if percent < SUSPICIOUS_PERCENT {
        run.warnings.push(words(percent, limit, model, hardware));
    }
}

fn words(percent: f64, limit: f64, model: &Model, hardware: &Hardware) -> String {
    let chip = hardware.chip.as_deref().unwrap_or("this chip");
    let on_gpu = match (model.vram_bytes, model.resident_bytes) {
        (Some(vram), Some(all)) if all > 0 => Some(vram as f64 / all as f64),
        _ => None,
    };
    let is_mac = hardware.system.as_ref().is_some_and(|system| system.starts_with("macOS"));
    let fix = match (on_gpu, is_mac) {
        (Some(share), _) if share > 0.99 => {
            "the engine says that all of it is on the GPU: see what else uses the GPU, and whether the engine or its driver \
             was just updated"
        }
        (Some(share), _) if share > 0.0 => {
            "a part of it runs on the CPU: take a smaller quantisation, a shorter context, or raise the GPU's memory limit"
        }
        (_, true) => {
            "it runs on the CPU: a container on a Mac has no GPU, so set engine.runtime to \"native\" and deploy"
        }
        _ => "it runs on the CPU: see whether the engine finds the GPU (nvidia-smi, `cargo xtask logs engine`)",
    };
    format!("one stream is at {percent:.0} % of the {limit:.0} tokens/s that {chip}'s memory allows; {fix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Label;

    fn judged(rate: f64, vram: u64, system: &str) -> Run {
        let model = Model {
            active_bytes: Some(35_000_000_000),
            resident_bytes: Some(40),
            vram_bytes: Some(vram),
            ..Model::default()
        };
        let hardware = Hardware {
            chip: Some("Apple M2 Ultra".into()),
            system: Some(system.into()),
            memory_gb_per_s: Some(800.0),
            ..Hardware::default()
        };
        let label = Label { concurrency: 1, ..Label::default() };
        let mut run = Run { decode_tokens_per_second: Some(rate), label, ..Run::default() };
        judge(&mut run, &model, &hardware);
        run
    }

    #[test]
    fn a_slow_run_says_where_it_runs_and_what_to_do() {
        let good = judged(17.0, 40, "macOS 15.4");
        assert!((good.limit_percent.unwrap() - 74.4).abs() < 0.1 && good.warnings.is_empty());
        for (vram, system, expected) in [
            (0, "macOS 15.4", "it runs on the CPU: a container on a Mac has no GPU"),
            (0, "Debian GNU/Linux 12", "it runs on the CPU: see whether the engine finds the GPU"),
            (20, "macOS 15.4", "a part of it runs on the CPU"),
            (40, "macOS 15.4", "all of it is on the GPU"),
        ] {
            let slow = judged(1.8, vram, system);
            assert!(slow.warnings[0].starts_with("one stream is at 8 % of the 23 tokens/s"), "{:?}", slow.warnings);
            assert!(slow.warnings[0].contains(expected), "{:?}", slow.warnings);
        }
    }

    #[test]
    fn the_unknown_is_not_judged() {
        let mut run = Run { decode_tokens_per_second: Some(1.0), ..Run::default() };
        run.label.concurrency = 1;
        judge(&mut run, &Model::default(), &Hardware::default());
        assert_eq!((run.limit_percent, run.warnings.len()), (None, 0));
    }
}
