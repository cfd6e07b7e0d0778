//! What the README shows is what happens.

use std::fs;

use crate::stage::{Stage, lacks};

const README: &str = include_str!("../README.md");

/// The ports that the README's sandbox got: api, engine, prometheus, node_exporter, alertmanager.
const PORTS: [u16; 5] = [11434, 11435, 19090, 19100, 19093];

#[test]
fn the_readme_shows_what_happens() {
    if ["prometheus", "promtool", "alertmanager", "amtool", "node_exporter"].into_iter().any(lacks) {
        return;
    }
    let stage = Stage::new();
    let session = between(README, "```console\n", "```").expect("the README shows a session");
    for exchange in session.split("$ cargo xtask ").skip(1) {
        let (command, shown) = exchange.split_once('\n').expect("a command and what it says");
        // Into one file, as on a terminal.
        let said = stage.shell(&format!("$XTASK {command} 2>&1")).exits(0).stdout;
        assert_eq!(still(shown), still(&as_in_readme(&stage, &said)), "what `cargo xtask {command}` says");
    }
}

#[test]
fn the_readme_fits_on_a_screen_and_a_half() {
    assert!(README.lines().count() <= 105, "it is an entrance, not the house");
    assert!(
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md"))
            .is_ok_and(|it| it.lines().count() <= 150)
    );
}

/// The stage's own folder and ports, by the names that the README has for them.
fn as_in_readme(stage: &Stage, said: &str) -> String {
    let folder = stage.path("");
    let folder = folder.display().to_string();
    let mut said = said.replace(&format!("{folder}root"), "~/stack/.sandbox");
    said = said.replace(&format!("{folder}stack.toml asks for it"), "there is no stack.toml: the embedded sandbox");
    for (ours, theirs) in stage.ports().iter().zip(PORTS) {
        said = said.replace(&format!("127.0.0.1:{ours}"), &format!("127.0.0.1:{theirs}"));
    }
    said
}

/// Without what is another time another: content hashes and durations.
fn still(text: &str) -> String {
    let lines = text.trim_end().lines().map(|line| match line {
        _ if line.starts_with("done in ") => "done in a moment".to_owned(),
        // Without a stack.toml there is one file less.
        _ if line.contains("stage release") => "stage a release".to_owned(),
        _ => line.split_inclusive([' ', '/', ':']).map(still_word).collect(),
    });
    lines.map(|line: String| line.trim_end().to_owned() + "\n").collect()
}

fn still_word(word: &str) -> String {
    let hash = word.trim_end_matches([' ', '/', ':']);
    let is_hash = hash.len() == 16 && hash.chars().all(|it| it.is_ascii_hexdigit());
    if is_hash { word.replace(hash, "HASH") } else { word.to_owned() }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let text = &text[text.find(start)? + start.len()..];
    Some(&text[..text.find(end)?])
}
