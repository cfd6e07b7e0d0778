//! The figures of docs/performance.md: how long a person waits for the main verbs.
//!
//! `cargo run --example verbs [-- --clean-build]`. It deploys sandboxes of its own below a temporary folder, on
//! ports of their own, beside whatever runs. Each figure is printed as min / median / max; comparisons interleave the
//! two sides, so that a busy moment hits both.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

const SETTINGS: &str = "[engine]\nruntime = \"sandbox\"\n[ports]\napi = 0\nengine = 0\nprometheus = 0\nnode_exporter = 0\nalertmanager = 0\n";

fn main() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a member has a workspace")?;
    let shell = Shell::new()?;
    shell.change_dir(workspace);
    cmd!(shell, "cargo build --quiet --bin xtask").quiet().run()?;
    let xtask = workspace.join("target/debug/xtask");
    let folder = tempfile::tempdir()?;
    let settings = folder.path().join("stack.toml");
    fs::write(&settings, format!("[host]\nroot = {:?}\n{SETTINGS}", folder.path().join("root")))?;

    deploys(&shell, &xtask, &settings)?;
    let crates = cmd!(shell, "cargo tree --workspace --edges normal,build --prefix none --no-dedupe").quiet().read()?;
    let mut crates: Vec<&str> = crates.lines().filter_map(|line| line.split(" (").next()).collect();
    crates.sort_unstable();
    crates.dedup();
    println!("{:<44}{}", "crates in the program, ours included", crates.len());
    if std::env::args().any(|arg| arg == "--clean-build") {
        let target = folder.path().join("target");
        let begun = Instant::now();
        cmd!(shell, "cargo build --quiet --bin xtask --target-dir {target}").quiet().run()?;
        println!("{:<44}{:.0} s", "clean build of `cargo xtask`", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

/// First deploys, then deploys with nothing to do: the binary itself, and through cargo as typed.
fn deploys(shell: &Shell, xtask: &PathBuf, settings: &Path) -> Result<()> {
    let deploy =
        || Ok(cmd!(shell, "{xtask} --settings {settings} deploy").quiet().ignore_stdout().ignore_stderr().run()?);
    let uninstall = || -> Result<()> {
        Ok(cmd!(shell, "{xtask} --settings {settings} uninstall --data --yes").quiet().ignore_stderr().run()?)
    };
    let mut first = Vec::new();
    for _ in 0..5 {
        first.push(time(deploy)?);
        uninstall()?;
    }
    report("first deploy of a sandbox", &mut first);

    deploy()?;
    let through_cargo =
        || Ok(cmd!(shell, "cargo xtask --settings {settings} deploy").quiet().ignore_stdout().ignore_stderr().run()?);
    let (mut bare, mut cargo) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        bare.push(time(deploy)?);
        cargo.push(time(through_cargo)?);
    }
    uninstall()?;
    report("deploy with nothing to do, the binary", &mut bare);
    report("the same as `cargo xtask deploy`", &mut cargo);
    let added = median(&cargo).saturating_sub(median(&bare));
    println!("{:<44}{:.3} s", "what cargo adds, by medians", added.as_secs_f64());
    Ok(())
}

fn time(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    run()?;
    Ok(begun.elapsed())
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let [min, median, max] = [times[0], median(times), times[times.len() - 1]].map(|time| time.as_secs_f64());
    println!("{what:<44}{min:.3} / {median:.3} / {max:.3} s  (n = {})", times.len());
}

/// Of sorted times.
fn median(times: &[Duration]) -> Duration {
    times[times.len() / 2]
}
