//! The old names: each shim in `scripts-legacy/` does what the table beside it says, with cargo and without.

#![expect(clippy::disallowed_methods, reason = "a test stands outside")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::stage::copy;

/// Arguments that only a careful script passes on unharmed.
const HOSTILE: [&str; 6] = ["two words", "", "it's \"quoted\"", "$HOME `id`", "*", "back\\slash\nnewline"];

/// What is called, and the argv that the verb then sees.
const HANDED_OVER: [(&str, &[&str], &[&str]); 29] = [
    ("start.sh", &[], &["deploy"]),
    ("stop.sh", &[], &["stop"]),
    ("logs.sh", &[], &["logs", "--follow", "ollama"]),
    ("logs.sh", &["grafana"], &["logs", "--follow", "grafana"]),
    ("docker-compose-wrapper.sh", &["up"], &["deploy"]),
    ("docker-compose-wrapper.sh", &["up", "-d"], &["deploy"]),
    ("docker-compose-wrapper.sh", &["down"], &["stop"]),
    ("docker-compose-wrapper.sh", &["start"], &["start"]),
    ("docker-compose-wrapper.sh", &["stop", "nginx"], &["stop", "nginx"]),
    ("docker-compose-wrapper.sh", &["restart", "ollama"], &["restart", "ollama"]),
    ("docker-compose-wrapper.sh", &["ps"], &["status"]),
    ("docker-compose-wrapper.sh", &["logs", "-f"], &["logs", "-f"]),
    ("docker-compose-wrapper.sh", &["logs", "-f", "ollama"], &["logs", "-f", "ollama"]),
    ("docker-compose-wrapper.sh", &["logs", "--since", "10m"], &["logs", "--since", "10m"]),
    ("scripts/setup/docker-setup.sh", &[], &["deploy"]),
    ("scripts/validate-config.sh", &[], &["deploy", "--dry-run"]),
    ("scripts/validate-env.sh", &[], &["deploy", "--dry-run"]),
    ("scripts/calculate-resources.sh", &[], &["tune", "--dry-run"]),
    ("scripts/testing/benchmark-llm.sh", &[], &["bench"]),
    ("scripts/testing/benchmark-llm.sh", &["m:1", "--json"], &["bench", "m:1", "--json"]),
    ("scripts/testing/test-integration.sh", &[], &["verify"]),
    ("scripts/testing/test-integration.sh", &["docker"], &["verify"]),
    ("scripts/testing/test-integration.sh", &["llm"], &["verify"]),
    ("scripts/testing/test-integration.sh", &["ollama"], &["verify"]),
    ("scripts/testing/test-integration.sh", &["monitoring"], &["verify"]),
    ("scripts/testing/test-integration.sh", &["quick"], &["verify"]),
    ("scripts/testing/test-integration.sh", &["quick", "--json"], &["verify", "--json"]),
    ("scripts/backup/backup-llm-stack.sh", &["--dry-run"], &["backup", "--dry-run"]),
    ("xtask.sh", &["status", "--json"], &["status", "--json"]),
];

/// What has no counterpart.
const REFUSED: [(&str, &[&str]); 11] = [
    ("docker-compose-wrapper.sh", &[]),
    ("docker-compose-wrapper.sh", &["exec", "ollama", "bash"]),
    ("docker-compose-wrapper.sh", &["upgrade"]),
    ("stack-select.sh", &[]),
    ("stack-select.sh", &["select", "mistral"]),
    ("stack-select.sh", &["select"]),
    ("scripts/testing/benchmark-llm.sh", &["compare"]),
    ("scripts/testing/test-integration.sh", &["mistral"]),
    ("scripts/testing/test-integration.sh", &["aider"]),
    ("scripts/monitoring-start.sh", &["grafana"]),
    ("scripts/monitoring-stop.sh", &["grafana"]),
];

/// Shims that run more than one verb, or none.
const OTHERS: [&str; 3] = ["scripts/monitoring-start.sh", "scripts/monitoring-stop.sh", "stack-select.sh"];

/// Writes down how it was called, each argument ended by a NUL, and obeys EXIT_CODE_OF_<last argument>, else EXIT_CODE.
const STAND_IN: &str = r#"#!/bin/sh
printf '%s\0' "$PWD" "${CARGO_MANIFEST_DIR-}" "$0" "$@" call-ends >>"$RECORD"
for last; do :; done
case "$last" in
grafana | prometheus | alertmanager | node-exporter) eval "exit \${EXIT_CODE_OF_$(echo "$last" | tr - _)-${EXIT_CODE-0}}" ;;
esac
exit "${EXIT_CODE-0}"
"#;

fn legacy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts-legacy").canonicalize().unwrap()
}

fn shims_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(shims_under(&path)),
            false if path.extension().is_some_and(|it| it == "sh") => found.push(path),
            false => {}
        }
    }
    found
}

/// Every script, by its path in `scripts-legacy/`; `xtask.sh` is not one of the old names.
fn shims() -> BTreeSet<String> {
    let legacy = legacy();
    let name = |path: PathBuf| path.strip_prefix(&legacy).unwrap().to_str().unwrap().to_owned();
    shims_under(&legacy).into_iter().map(name).filter(|name| name != "xtask.sh").collect()
}

/// The table's rows: the first two cells.
fn table() -> Vec<(String, String)> {
    let text = fs::read_to_string(legacy().join("README.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    rows.map(cells).map(|cells| (cells[1].clone(), cells[2].clone())).collect()
}

/// Where a cell's Markdown links lead.
fn link(cell: &str) -> Option<&str> {
    cell.split_once("](")?.1.strip_suffix(')')
}

fn verbs() -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// A verb was called.
#[derive(Debug)]
struct Call {
    folder: PathBuf,
    manifest_dir: String,
    program: PathBuf,
    args: Vec<String>,
}

/// A checkout of its own, where no path is free of blanks and quotes, with stand-ins for whatever a shim may run.
struct Place {
    folder: TempDir,
}

impl Place {
    /// No cargo on PATH, and no program deployed.
    fn bare() -> Place {
        let place = Place { folder: tempfile::Builder::new().prefix("it's a \"place\" ").tempdir().unwrap() };
        for folder in [place.tools(), place.home(), place.elsewhere(), place.checkout().join("xtask")] {
            fs::create_dir_all(folder).unwrap();
        }
        copy(&legacy(), &place.checkout().join("scripts-legacy"));
        fs::write(place.checkout().join("xtask/Cargo.toml"), "").unwrap();
        // Nothing else is on PATH: a cargo from the system's packages must not be found either.
        for tool in ["cat", "dirname", "readlink", "tr"] {
            symlink(find_on_path(tool), place.tools().join(tool)).unwrap();
        }
        place
    }

    fn with_cargo() -> Place {
        let place = Place::bare();
        stand_in(&place.tools().join("cargo"));
        place
    }

    fn with_program(at: fn(&Place) -> PathBuf) -> Place {
        let place = Place::bare();
        stand_in(&at(&place));
        place
    }

    fn path(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    fn checkout(&self) -> PathBuf {
        self.path().join("check out")
    }

    fn legacy(&self, name: &str) -> PathBuf {
        self.checkout().join("scripts-legacy").join(name)
    }

    fn tools(&self) -> PathBuf {
        self.path().join("tools")
    }

    fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Where the scripts are called from.
    fn elsewhere(&self) -> PathBuf {
        self.path().join("else where")
    }

    fn in_sandbox(&self) -> PathBuf {
        self.checkout().join(".sandbox/bin/xtask")
    }

    fn in_home(&self) -> PathBuf {
        self.home().join("frontier-llm-stack/bin/xtask")
    }

    fn command(&self, script: &Path) -> Command {
        let mut command = Command::new(script);
        command.current_dir(self.elsewhere()).env_clear();
        command.env("PATH", self.tools()).env("HOME", self.home()).env("RECORD", self.path().join("record"));
        command
    }

    fn run(&self, name: &str, args: &[&str]) -> (i32, String) {
        self.run_with(name, args, &[])
    }

    /// The exit code, and what was said on stderr.
    fn run_with(&self, name: &str, args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
        let mut command = self.command(&self.legacy(name));
        let output = command.args(args).envs(variables.iter().copied()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// What was called since this was asked last.
    fn calls(&self) -> Vec<Call> {
        let record = self.path().join("record");
        let text = fs::read_to_string(&record).unwrap_or_default();
        fs::write(&record, "").unwrap();
        let call = |words: &str| {
            let mut words = words.split_terminator('\0').map(str::to_owned);
            let (folder, manifest_dir) = (PathBuf::from(words.next().unwrap()), words.next().unwrap());
            Call { folder, manifest_dir, program: PathBuf::from(words.next().unwrap()), args: words.collect() }
        };
        text.split_terminator("call-ends\0").map(call).collect()
    }

    fn call(&self) -> Call {
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls.remove(0)
    }

    /// What cargo is told before the verb.
    fn cargo_args(&self) -> Vec<String> {
        let manifest = self.checkout().join("Cargo.toml");
        ["run", "--manifest-path", manifest.to_str().unwrap(), "--bin", "xtask", "--"].map(str::to_owned).to_vec()
    }
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|it| (*it).to_owned()).collect()
}

fn stand_in(path: &Path) {
    let folder = path.parent().unwrap();
    let draft = folder.join("draft");
    fs::create_dir_all(folder).unwrap();
    fs::write(&draft, STAND_IN).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    copy(&draft, path);
}

fn find_on_path(tool: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap();
    env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.is_file()).unwrap()
}

#[test]
fn is_a_few_lines_of_posix_shell() {
    for name in shims().iter().map(String::as_str).chain(["xtask.sh"]) {
        let path = legacy().join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("#!/bin/sh\n") && text.contains("\nset -eu\n"), "{name}");
        assert!(name == "xtask.sh" || text.lines().count() <= 11, "{name} is more than a shim");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111, "{name} cannot be executed");
        let parsed = Command::new("/bin/sh").arg("-n").arg(&path).output().unwrap();
        assert!(parsed.status.success(), "{name}: {}", String::from_utf8_lossy(&parsed.stderr));
    }
}

#[test]
fn has_a_row_for_every_shim_and_a_shim_for_every_linked_row() {
    let rows = table();
    let linked: BTreeSet<String> = rows.iter().filter_map(|(old, _)| link(old)).map(str::to_owned).collect();
    assert_eq!(linked, shims());
    for (old, _) in &rows {
        if let Some(path) = link(old) {
            assert_eq!(*old, format!("[`{path}`]({path})"));
        }
    }
}

#[test]
fn tries_every_shim() {
    let tried = HANDED_OVER.iter().map(|(name, ..)| *name).chain(OTHERS).filter(|name| *name != "xtask.sh");
    assert_eq!(tried.map(str::to_owned).collect::<BTreeSet<_>>(), shims());
}

#[test]
fn hands_over_to_verbs_that_exist() {
    let verbs = verbs();
    assert!(verbs.contains("deploy"), "{verbs:?}");
    for (name, _, args) in HANDED_OVER {
        assert!(verbs.contains(args[0]), "{name}: there is no {}", args[0]);
    }
    // A shim that is tried with some verb is tabled with it, and the other way round.
    for (old, new) in table() {
        let Some(name) = link(&old).filter(|name| !OTHERS.contains(name)) else { continue };
        let tabled: BTreeSet<&str> = new.split('`').skip(1).step_by(2).filter_map(|it| it.split(' ').next()).collect();
        let tried: BTreeSet<&str> = HANDED_OVER.iter().filter(|it| it.0 == name).map(|it| it.2[0]).collect();
        assert_eq!(tabled, tried, "{name}");
    }
}

#[test]
fn runs_cargo_as_the_alias_does_but_from_any_folder() {
    let place = Place::with_cargo();
    for (name, given, expected) in HANDED_OVER {
        assert_eq!(place.run(name, given), (0, String::new()), "{name} {given:?}");
        let call = place.call();
        let expected = [place.cargo_args(), owned(expected)].concat();
        assert_eq!((call.program, call.args), (place.tools().join("cargo"), expected), "{name} {given:?}");
        assert_eq!(call.folder, place.elsewhere(), "file names would mean something else");
    }

    let config = fs::read_to_string(legacy().join("../.cargo/config.toml")).unwrap();
    let alias = config.lines().find_map(|line| line.strip_prefix("xtask = ")).unwrap().trim_matches('"').to_owned();
    let mut cargo_args = place.cargo_args();
    cargo_args.drain(1..3);
    assert_eq!(cargo_args.join(" "), alias);
}

#[test]
fn runs_the_deployed_program_where_there_is_no_cargo() {
    for at in [Place::in_sandbox, Place::in_home] {
        let place = Place::with_program(at);
        for (name, given, expected) in HANDED_OVER {
            assert_eq!(place.run(name, given), (0, String::new()), "{name} {given:?}");
            let call = place.call();
            assert_eq!((call.program, call.args), (at(&place), owned(expected)), "{name} {given:?}");
            assert_eq!(call.folder, place.elsewhere(), "file names would mean something else");
            assert_eq!(Path::new(&call.manifest_dir), place.checkout().join("xtask"));
        }
    }
}

#[test]
fn means_the_sandbox_until_there_is_a_stack_toml() {
    let place = Place::with_program(Place::in_sandbox);
    stand_in(&place.in_home());
    place.run("stop.sh", &[]);
    assert_eq!(place.call().program, place.in_sandbox());

    fs::write(place.checkout().join("stack.toml"), "").unwrap();
    place.run("stop.sh", &[]);
    assert_eq!(place.call().program, place.in_home());
}

#[test]
fn says_what_it_looked_for_when_there_is_nothing_to_run() {
    let place = Place::bare();
    let (code, said) = place.run("stop.sh", &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.starts_with("error: ") && said.contains("\nhint: ") && said.contains("xtask stop"), "{said}");
    for looked_at in [place.in_sandbox(), place.in_home()] {
        assert!(said.contains(looked_at.to_str().unwrap()), "{said}");
    }
}

#[test]
fn lets_cargo_alone_outside_a_checkout() {
    let place = Place::with_cargo();
    fs::remove_file(place.checkout().join("xtask/Cargo.toml")).unwrap();
    stand_in(&place.in_home());
    place.run("stop.sh", &[]);
    assert_eq!(place.call().program, place.in_home());
}

#[test]
fn passes_arguments_through_unharmed() {
    for place in [Place::with_cargo(), Place::with_program(Place::in_sandbox)] {
        // What each shim takes before what is passed on, and what the verb sees of that.
        let cases: [(&str, &[&str], &[&str]); 10] = [
            ("start.sh", &[], &["deploy"]),
            ("stop.sh", &[], &["stop"]),
            ("logs.sh", &[], &["logs", "--follow"]),
            ("docker-compose-wrapper.sh", &["down"], &["stop"]),
            ("docker-compose-wrapper.sh", &["logs"], &["logs"]),
            ("scripts/setup/docker-setup.sh", &[], &["deploy"]),
            ("scripts/validate-config.sh", &[], &["deploy", "--dry-run"]),
            ("scripts/validate-env.sh", &[], &["deploy", "--dry-run"]),
            ("scripts/testing/test-integration.sh", &["quick"], &["verify"]),
            ("scripts/testing/test-integration.sh", &[], &["verify"]),
        ];
        for (name, taken, seen) in cases {
            assert_eq!(place.run(name, &[taken, &HOSTILE[..]].concat()), (0, String::new()), "{name}");
            let expected = [seen, &HOSTILE[..]].concat();
            let args = place.call().args;
            assert!(args.ends_with(&owned(&expected)), "{name}: {args:?}");
        }
    }
}

#[test]
fn keeps_the_exit_code() {
    for place in [Place::with_cargo(), Place::with_program(Place::in_sandbox)] {
        for (name, given, _) in HANDED_OVER {
            for code in ["1", "4", "10", "130"] {
                let (kept, _) = place.run_with(name, given, &[("EXIT_CODE", code)]);
                assert_eq!(kept.to_string(), code, "{name} {given:?}");
            }
        }
    }
}

#[test]
fn works_through_symlinks() {
    let place = Place::with_cargo();
    for (name, given, expected) in HANDED_OVER {
        let link = place.elsewhere().join("link");
        let chain = place.elsewhere().join("link to a link");
        symlink(place.legacy(name), &link).unwrap();
        symlink("link", &chain).unwrap();
        assert!(place.command(&chain).args(given).status().unwrap().success(), "{name}");
        assert!(place.call().args.ends_with(&owned(expected)), "{name}");
        fs::remove_file(link).unwrap();
        fs::remove_file(chain).unwrap();
    }
}

#[test]
fn refuses_what_has_no_counterpart() {
    let place = Place::with_cargo();
    for (name, given) in REFUSED {
        let (code, said) = place.run(name, given);
        assert_eq!(code, 2, "{name} {given:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains("cargo xtask"), "{name} {given:?}: {said}");
        assert_eq!(place.calls().len(), 0, "{name} {given:?}");
    }
}

#[test]
fn answers_that_there_is_nothing_to_select() {
    let place = Place::bare();
    for given in [&["list"][..], &["current"], &["select", "ollama"]] {
        let answer = place.command(&place.legacy("stack-select.sh")).args(given).output().unwrap();
        assert!(answer.status.success(), "{given:?}");
        let expected = if given.len() == 1 { "ollama\n" } else { "" };
        assert_eq!(String::from_utf8(answer.stdout).unwrap(), expected, "{given:?}");
    }
}

#[test]
fn starts_and_stops_whatever_watches() {
    let place = Place::with_program(Place::in_sandbox);
    for verb in ["start", "stop"] {
        let name = format!("scripts/monitoring-{verb}.sh");
        let run = |variables: &[(&str, &str)]| {
            let (code, _) = place.run_with(&name, &[], variables);
            let named = |call: Call| {
                assert_eq!(call.args[0], verb);
                call.args[1..].join(" ")
            };
            (code, place.calls().into_iter().map(named).collect::<Vec<_>>().join(" "))
        };
        let all = "prometheus alertmanager grafana node-exporter".to_owned();
        assert_eq!(run(&[]), (0, all.clone()));
        // Some are not part of this stack, and then all of them.
        assert_eq!(run(&[("EXIT_CODE_OF_prometheus", "10"), ("EXIT_CODE_OF_grafana", "10")]), (0, all.clone()));
        assert_eq!(run(&[("EXIT_CODE", "10")]), (10, all.clone()));
        assert_eq!(run(&[("EXIT_CODE_OF_grafana", "11")]), (11, "prometheus alertmanager grafana".to_owned()));
    }
}

#[test]
fn finds_the_settings_of_its_checkout_without_cargo() {
    let place = Place::bare();
    fs::create_dir_all(place.in_sandbox().parent().unwrap()).unwrap();
    symlink(env!("CARGO_BIN_EXE_xtask"), place.in_sandbox()).unwrap();
    let settings = place.checkout().join("stack.toml");
    fs::write(&settings, "[motor]\n").unwrap();
    let (code, said) = place.run("scripts/validate-env.sh", &[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("motor") && said.contains("stack.toml:1"), "{said}");
}
