//! The repository's own rules, as tests: what a reviewer should not have to look for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use walkdir::WalkDir;
use xshell::{Shell, cmd};

use crate::cli;

#[path = "../build.rs"]
#[allow(dead_code, reason = "it is a program; what names the program is tested")]
mod build;

/// Which crate may use which; arrows point one way. `xtask` itself may use all of them.
const ARROWS: [(&str, &[&str]); 7] = [
    ("xtask", &["backup", "gateway", "ops", "sandbox", "stack"]),
    ("ops", &["backup", "stack", "wire"]),
    ("gateway", &["wire"]),
    ("sandbox", &["wire"]),
    ("stack", &[]),
    ("wire", &[]),
    ("backup", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file that git would take, by path below the root. git itself is not asked: whoever has unpacked an archive may
/// not have it.
fn files(ending: &str) -> BTreeMap<String, String> {
    let root = root();
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap();
    let left_out: BTreeSet<PathBuf> =
        ignored.lines().filter_map(|line| Some(root.join(line.strip_prefix('/')?))).collect();
    let below = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    let found = WalkDir::new(&root)
        .into_iter()
        .filter_entry(|entry| entry.file_name() != ".git" && !left_out.contains(entry.path()));
    let named = found.filter_map(|entry| Some(entry.ok()?.into_path())).filter(|path| below(path).ends_with(ending));
    named.filter_map(|path| Some((below(&path), fs::read_to_string(&path).ok()?))).collect()
}

#[test]
fn the_same_sources_in_another_folder_are_the_same_program() {
    let clone = tempfile::tempdir().unwrap();
    for source in build::SOURCES {
        for entry in WalkDir::new(root().join(source)) {
            let entry = entry.unwrap();
            let to = clone.path().join(entry.path().strip_prefix(root()).unwrap());
            if entry.file_type().is_dir() {
                fs::create_dir_all(to).unwrap();
            } else {
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let identity = |root: &Path, host: &str| build::identity(root, &format!("rustc 1\nhost: {host}\n")).unwrap();
    assert_eq!(identity(clone.path(), "x86_64-unknown-linux-gnu"), identity(&root(), "aarch64-apple-darwin"));
    for (name, _) in ARROWS {
        let file = clone.path().join(name).join("Cargo.toml");
        let before = identity(clone.path(), "");
        fs::write(&file, fs::read_to_string(&file).unwrap() + "\n").unwrap();
        assert_ne!(identity(clone.path(), ""), before, "{name} is no part of it");
    }
    let before = identity(clone.path(), "");
    fs::create_dir_all(clone.path().join("stack/tests")).unwrap();
    fs::write(clone.path().join("stack/tests/another.rs"), "").unwrap();
    assert_eq!(identity(clone.path(), ""), before, "tests are no part of it");
}

#[test]
fn crates_use_each_other_in_one_direction() {
    let members: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<String> = files("Cargo.toml")
        .into_keys()
        .filter_map(|path| path.strip_suffix("/Cargo.toml").map(str::to_owned))
        .collect();
    assert_eq!(found, members.iter().map(ToString::to_string).collect(), "a crate without a place in the design");
    for (name, allowed) in ARROWS {
        let manifest: toml::Table = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap().parse().unwrap();
        let uses = manifest.get("dependencies").and_then(|it| it.as_table()).into_iter().flat_map(|it| it.keys());
        for used in uses.filter(|used| members.contains(used.as_str())) {
            assert!(allowed.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
}

#[test]
fn tests_are_built_on_what_the_program_is_built_on() {
    let shell = Shell::new().unwrap();
    shell.change_dir(root());
    let format = "{p} {f}";
    let built = |edges: &str| -> BTreeSet<String> {
        let tree =
            cmd!(shell, "cargo tree --workspace --locked --prefix none --no-dedupe --format {format} --edges {edges}");
        tree.quiet().read().unwrap().lines().map(str::to_owned).collect()
    };
    let (program, tests) = (built("normal,build"), built("normal,build,dev"));
    let twice: Vec<&String> = program.difference(&tests).collect();
    assert!(twice.is_empty(), "a dev-dependency adds features, so these are built twice: {twice:?}");
}

#[test]
fn every_module_says_why_it_exists() {
    let silent: Vec<String> =
        files(".rs").into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "these do not open with `//!`: {silent:?}");
}

#[test]
fn only_the_command_line_knows_of_dry_runs() {
    for (path, text) in files(".rs") {
        let is_library = !path.starts_with("xtask/") && !path.starts_with("tests/");
        assert!(
            !is_library || !text.contains("dry_run"),
            "{path}: a library plans and applies, and nothing in between"
        );
    }
}

#[test]
fn images_are_pinned() {
    for (path, text) in files(".yaml").into_iter().chain(files(".yml")).chain(files(".toml")) {
        if !path.starts_with("config/") {
            continue;
        }
        for line in text.lines().filter(|line| line.trim_start_matches(['#', ' ']).starts_with("image:")) {
            let (_, version) = line.rsplit_once('/').unwrap_or(("", line)).1.split_once(':').unwrap_or_default();
            assert!(!version.is_empty() && !version.starts_with("latest"), "{path}: {line}");
        }
    }
}

#[test]
fn commands_in_the_docs_exist() {
    let mut seen = 0;
    for (path, text) in files(".md") {
        for command in commands(&text) {
            let words = command.split_whitespace();
            let parsed = cli::command().try_get_matches_from(words.clone().skip(1));
            let wrong = parsed.err().filter(|error| error.use_stderr());
            assert!(wrong.is_none(), "{path}: `{command}`: {}", wrong.unwrap());
            seen += 1;
        }
    }
    assert!(seen >= 8, "the docs show only {seen} commands: is this test looking at them?");
}

/// A rule about a metric that nobody exports never fires, and a panel stays empty. Those of the gateway are tested there,
/// against what it really exports.
#[test]
fn every_metric_that_a_rule_or_a_dashboard_names_is_exported() {
    let exported: BTreeSet<String> = files(".txt")
        .into_iter()
        .filter(|(path, _)| path.starts_with("tests/fixtures/metrics/"))
        .flat_map(|(_, text)| {
            text.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect::<Vec<_>>()
        })
        .collect();
    // What our own code writes for the textfile collector.
    let sources = files(".rs");
    let written = |name: &str| {
        let places = ["stack/src/backup.rs", "stack/src/supervise/mac.rs", "ops/src/monitor/alert.rs"];
        places.iter().any(|place| sources[*place].contains(&format!("\"{name}\"")))
    };
    let (mut seen, rules, dashboards) = (0, files(".yml"), files(".json"));
    for (path, text) in rules.iter().chain(&dashboards) {
        if !path.starts_with("config/prometheus/rules/") && !path.starts_with("config/grafana/dashboards/") {
            continue;
        }
        for name in text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_') {
            let of = |kind: &&str| name.starts_with(*kind) && name.len() > kind.len() + 3;
            if ["node_", "macmon_", "llm_", "prometheus_", "alertmanager_"].iter().any(of) {
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                let is_exported = exported.contains(name) || exported.contains(base) || written(name);
                assert!(is_exported, "{path}: nobody exports {name}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 40, "the rules and dashboards name only {seen} metrics: is this test looking at them?");
}

/// What stands behind `cargo xtask` in code, up to where a shell would end the command. The words of the shell's own
/// (`[COMPONENT]`, `…`) are not for this program to understand: such lines are passed over.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, start) in text.match_indices("cargo xtask ") {
        let rest = &text[at..];
        let end = rest.find(['`', '\n', '#', '|', '>', ';', '&', ')']).unwrap_or(rest.len());
        let command = rest[..end].trim();
        let is_form = command.contains(['[', '…', '<']) || command.chars().any(|it| it.is_ascii_uppercase());
        if command.len() > start.len() && !is_form {
            found.push(command.to_owned());
        }
    }
    found
}
