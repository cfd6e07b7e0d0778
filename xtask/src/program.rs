//! The program for a host that is another machine.

use std::path::PathBuf;

use anyhow::{Context, Result};
use stack::{
    failure::{Class, Failure},
    ssh::System,
};
use xshell::{Shell, cmd};

use crate::{report, session};

/// Whether this very program needs no libc of the machine that it runs on.
pub(crate) const IS_STATIC: bool = cfg!(target_feature = "crt-static");

/// The triple to build for, by what `uname -s` and `-m` say. Linux programs are linked statically, so that the host's libc
/// does not matter.
fn triple(system: &System) -> Option<&'static str> {
    match (system.name.as_str(), system.machine.as_str()) {
        ("Linux", "x86_64") => Some("x86_64-unknown-linux-gnu"),
        ("Linux", "aarch64") => Some("aarch64-unknown-linux-gnu"),
        ("Darwin", "arm64") => Some("aarch64-apple-darwin"),
        ("Darwin", "x86_64") => Some("x86_64-apple-darwin"),
        _ => None,
    }
}

/// Builds this program for a host, from the sources that this one was built from.
pub(crate) fn build(system: &System) -> Result<PathBuf, Failure> {
    let cannot = |why: String| {
        let message = format!("cannot build the program for {} on {}", system.name, system.machine);
        Failure::new(Class::Failed, message).because(&std::io::Error::other(why))
    };
    let triple = triple(system).ok_or_else(|| {
        cannot("there is no such target".to_owned()).hint("hosts can be Linux and macOS, on x86_64 and arm64")
    })?;
    report::say(&format!("building the program for {} on {}", system.name, system.machine));
    cargo(triple).map_err(|error| {
        cannot(format!("{error:#}")).hint(format!(
            "cargo's words above say what is missing; `rustup target add {triple}` brings the target, and its linker is \
             named in .cargo/config.toml"
        ))
    })
}

fn cargo(triple: &str) -> Result<PathBuf> {
    let shell = Shell::new()?;
    shell.change_dir(session::workspace()?);
    // For another target than this build's own, even if it is the same machine: its flags are not for build scripts.
    let flags = if triple.contains("linux") { "-C target-feature=+crt-static" } else { "" };
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
    let built = cmd!(
        shell,
        "cargo build --locked --profile ship --bin xtask --target {triple} --message-format json-render-diagnostics"
    )
    .env(variable, flags)
    .quiet()
    .read()?;
    let mut executables = built.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables.next_back().context("cargo built no program")
}
