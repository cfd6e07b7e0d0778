//! The program for a host that is another machine.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use stack::{
    failure::{Class, Doing, Failure},
    ssh::{Shipment, Supplier, System},
};
use xshell::{Shell, cmd};

use crate::{report, session};

/// Whether this very program needs no libc of the machine that it runs on.
pub(crate) const IS_STATIC: bool = cfg!(target_feature = "crt-static");

/// What the program is made from, below the workspace: see build.rs.
const SOURCES: &str = env!("STACK_PROGRAM_SOURCES");

/// Builds this program for a host from the sources that this one was built from; where that cannot be done here, has the
/// host do it.
#[derive(Default)]
pub(crate) struct Builder {
    /// What the build there said last.
    said: String,
}

impl Supplier for Builder {
    fn supply(&mut self, system: &System) -> Result<Shipment, Failure> {
        match build(system) {
            Ok(file) => Ok(Shipment::Program(std::fs::read(&file).doing("cannot read", &file)?)),
            Err(failure) => match triple(system).filter(|_| system.cargo) {
                Some(triple) => {
                    report::failure(&failure);
                    report::say("\nthe host has cargo: it is built there");
                    let archive = sources().map_err(|error| cannot(system, &error))?;
                    Ok(Shipment::Sources { archive, triple })
                }
                None => Err(failure),
            },
        }
    }

    fn building(&mut self, words: &str) {
        if !words.is_empty() && words != self.said {
            report::say(&format!("     there: {words}"));
            words.clone_into(&mut self.said);
        }
    }
}

/// Builds this program for a system, here.
pub(crate) fn build(system: &System) -> Result<PathBuf, Failure> {
    let triple = triple(system).ok_or_else(|| {
        cannot(system, &anyhow!("there is no such target")).hint("hosts can be Linux and macOS, on x86_64 and arm64")
    })?;
    report::say(&format!("building the program for {} on {}", system.name, system.machine));
    cargo(triple).map_err(|error| {
        cannot(system, &error).hint(format!(
            "cargo's words above say what is missing; `rustup target add {triple}` brings the target, and its linker is \
             named in .cargo/config.toml. Or install Rust on the host: then it is built there"
        ))
    })
}

fn cannot(system: &System, why: &anyhow::Error) -> Failure {
    Failure::new(Class::Failed, format!("cannot build the program for {} on {}", system.name, system.machine))
        .because(&std::io::Error::other(format!("{why:#}")))
}

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

/// The workspace as a compressed tar: what names the program, and what cargo wants to see beside it.
fn sources() -> Result<Vec<u8>> {
    let shell = Shell::new()?;
    shell.change_dir(session::workspace()?);
    let sources = SOURCES.split(' ');
    let tar = cmd!(shell, "tar -czf - {sources...} tests").env("COPYFILE_DISABLE", "1").quiet();
    Ok(tar.output()?.stdout)
}
