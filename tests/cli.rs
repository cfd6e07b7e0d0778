//! What the command line says: every help and every usage error, word for word.

use std::fmt::Write;

use crate::stage::Stage;

/// A section of the snapshot: the command, how it ends, and what it says.
fn section(page: &mut String, stage: &Stage, line: &str) {
    let ran = stage.run(line);
    let folder = stage.path("");
    let said = format!("{}{}", ran.stdout, ran.stderr).replace(folder.to_str().unwrap(), "[folder]/");
    // They stand in the first help, and in all others: that is claimed below.
    let said = match line == "--help" {
        true => &said,
        false => said.split("\nExit codes:\n").next().unwrap(),
    };
    let code = ran.code.unwrap();
    let _ = writeln!(page, "$ cargo xtask {line}\n{}\n[exit {code}]\n", said.trim_end());
}

/// The verbs that a help lists.
fn verbs(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.map_while(|line| line.trim_start().split(' ').next().filter(|name| !name.is_empty()));
    names.map(str::to_owned).collect()
}

/// Every help there is: of the verbs that a help lists, and of theirs.
fn helps(page: &mut String, stage: &Stage, verb: &str) {
    let line = format!("{verb} --help").trim().to_owned();
    section(page, stage, &line);
    for below in verbs(&stage.ok(&line).stdout) {
        helps(page, stage, format!("{verb} {below}").trim());
    }
}

/// Lines that cannot be meant.
const WRONG: [&str; 13] = [
    "",
    "deplyo",
    "deploy --force",
    "deploy now",
    "--settings",
    "logs ngin",
    "stop ollamma",
    "logs --since yesterday",
    "init --runtime lxc",
    "init bad_host!",
    "verify --junit",
    "completions tcsh",
    "--settings missing.toml deploy",
];

#[test]
fn every_help_and_usage_error_is_as_it_was_read() {
    let stage = Stage::new();
    let mut page = String::new();
    helps(&mut page, &stage, "");
    WRONG.iter().for_each(|line| section(&mut page, &stage, line));
    stage.write("wrong.toml", WRONG_SETTINGS);
    section(&mut page, &stage, "--settings wrong.toml deploy");
    insta::assert_snapshot!("cli", page);
}

const WRONG_SETTINGS: &str = r#"
[host]
adress = "studio.local"

[engine]
runtime = "podman"
memory_limit = "lots"

[edge]
allow = ["192.168.0.0/33"]

[ports]
api = 11434
engine = 11434

[images]
grafana = "grafana/grafana"

[egde]
"#;

#[test]
fn what_cannot_be_meant_exits_with_2_and_touches_nothing() {
    let stage = Stage::new();
    for line in WRONG {
        let ran = stage.run(line).exits(2);
        assert_eq!(ran.stdout, "", "{line}");
        assert_ne!(ran.stderr, "", "{line}");
    }
    stage.write("stack.toml", WRONG_SETTINGS);
    let said = stage.run("deploy").exits(2).stderr;
    for fault in ["adress", "podman", "lots", "192.168.0.0/33", "11434", "grafana/grafana", "egde"] {
        assert!(said.contains(fault), "nothing about {fault} in\n{said}");
    }
    assert!(!stage.root().exists());
}

#[test]
fn every_help_lists_the_exit_codes() {
    let stage = Stage::new();
    let codes = |line: &str| stage.ok(line).stdout.split_once("\nExit codes:\n").map(|(_, codes)| codes.to_owned());
    assert!(codes("--help").is_some());
    let verbs = verbs(&stage.ok("--help").stdout);
    assert!(verbs.len() > 10);
    for verb in verbs {
        assert_eq!(codes(&format!("{verb} --help")), codes("--help"), "{verb}");
    }
}

#[test]
fn verbs_that_need_a_stack_say_that_there_is_none() {
    let stage = Stage::new();
    for line in ["status", "verify", "logs", "start", "stop", "restart engine", "rollback", "uninstall"] {
        let said = stage.run(line).exits(10).stderr;
        assert!(said.starts_with("error: "), "{line}: {said}");
    }
}

#[test]
fn without_settings_the_embedded_sandbox_is_meant() {
    let stage = Stage::new();
    std::fs::remove_file(stage.path("stack.toml")).unwrap();
    stage.run("deploy").exits(2).says("there is no stack.toml in").says("name a file with --settings");
    stage.write("xtask/Cargo.toml", "");
    let release = stage.ok("deploy --dry-run --json").json()["release"].clone();
    assert_eq!(release["runtime"], "sandbox");
    stage.run("status").exits(10).says(".sandbox");
}

#[test]
fn settings_are_found_from_below_by_flag_and_by_variable() {
    let stage = Stage::new();
    std::fs::create_dir_all(stage.path("a/b")).unwrap();
    std::fs::rename(stage.path("stack.toml"), stage.path("a/stack.toml")).unwrap();
    let root = stage.root().display().to_string();
    for found in [
        "cd a/b && $XTASK status",
        "$XTASK --settings a/stack.toml status",
        "$XTASK status --settings a/stack.toml",
        "STACK_SETTINGS=a/stack.toml $XTASK status",
        "CARGO_MANIFEST_DIR=$PWD/a/xtask $XTASK status",
    ] {
        stage.shell(found).exits(10).says(&root);
    }
}

#[test]
fn completions_are_for_the_binary_as_it_is_called() {
    let stage = Stage::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(stage.ok(&format!("completions {shell}")).stdout.contains("xtask"), "{shell}");
    }
}
