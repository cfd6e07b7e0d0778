//! Names the program by what it is made from: sources, lock file, compiler.
//!
//! Not by its target: on every host the program of these sources has this name, so that a client knows what to ask for.
//! Never by its bytes: the same sources built in two folders give two binaries, and a second laptop would never see a
//! host that is as declared. SipHash is plenty: this tells a handful of builds apart and proves nothing to anyone.

use std::{
    collections::BTreeSet,
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// What the program is made from, below the workspace's root.
pub(crate) const SOURCES: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "backup",
    "config",
    "docs/unverified-on-macos.md",
    "gateway",
    "ops",
    "sandbox",
    "stack",
    "wire",
    "xtask",
];

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rustc-env=STACK_PROGRAM_SOURCES={}", SOURCES.join(" "));
    println!("cargo::rerun-if-env-changed=STACK_PROGRAM_ID");
    // A host that builds for a client has perhaps another compiler; the client has to know it again all the same.
    let id = env::var("STACK_PROGRAM_ID").map_or_else(|_| identity(&root, &compiler()?), Ok)?;
    println!("cargo::rustc-env=STACK_PROGRAM_ID={id}");
    Ok(())
}

/// The compiler in its own words.
fn compiler() -> io::Result<String> {
    #[expect(clippy::disallowed_methods, reason = "a build script has nobody else to run the compiler")]
    let said = Command::new(env::var_os("RUSTC").unwrap_or_default()).arg("-vV").output()?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The name of the program that these sources and this compiler make.
pub(crate) fn identity(root: &Path, compiler: &str) -> io::Result<String> {
    let mut hasher = DefaultHasher::new();
    for source in SOURCES {
        let mut files = BTreeSet::new();
        collect(&root.join(source), &mut files)?;
        for file in files {
            file.strip_prefix(root).unwrap_or(&file).hash(&mut hasher);
            fs::read(&file)?.hash(&mut hasher);
        }
    }
    compiler.lines().filter(|line| !line.starts_with("host: ")).for_each(|line| line.hash(&mut hasher));
    Ok(format!("{:016x}", hasher.finish()))
}

/// All files below `path`; tests are no part of the program.
fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    if path.is_file() {
        files.insert(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if !entry.ends_with("tests") {
            collect(&entry, files)?;
        }
    }
    Ok(())
}
