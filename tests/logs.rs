//! What components printed, and how it is read.

use crate::stage::{Stage, until};

#[test]
fn logs_show_what_a_component_printed() {
    let stage = Stage::new();
    stage.fake("node_exporter", "echo hello from here");
    stage.ok("deploy");
    assert!(stage.ok("logs node-exporter").stdout.starts_with("hello from here\n"));
    let all = stage.ok("logs").stdout;
    assert!(all.lines().any(|line| line == "node-exporter hello from here"), "{all}");
}

#[test]
fn logs_take_the_guides_names() {
    let stage = Stage::deployed();
    assert_eq!(stage.ok("logs ollama").stdout, stage.ok("logs engine").stdout);
    assert_ne!(stage.ok("logs ollama").stdout, "");
}

#[test]
fn logs_leave_out_what_is_older_than_asked() {
    let stage = Stage::new();
    stage.fake("node_exporter", "echo 2020-01-31T12:00:00Z old; echo goes with it; echo $(date -u +%FT%TZ) new");
    stage.ok("deploy");
    let recent = stage.ok("logs node-exporter --since 1h").stdout;
    assert!(recent.contains(" new\n") && !recent.contains("old") && !recent.contains("goes with it"), "{recent}");
    let all = stage.ok("logs node-exporter --since 2020-01-31T12:00:00Z").stdout;
    assert!(all.contains("old\ngoes with it\n"), "{all}");
    assert_eq!(stage.ok("logs engine --since 2100-01-01T00:00:00Z").stdout, "");
    stage.run("logs --since yesterday").exits(2).says("as in 10m or 2h");
}

#[test]
fn following_a_log_shows_what_is_printed_from_now_on_and_ends_at_an_interrupt() {
    let stage = Stage::new();
    stage.fake("node_exporter", "echo before\n(until [ -e go ]; do sleep 0.05; done; echo after) &");
    stage.ok("deploy");
    let following = stage.start("logs node-exporter --follow");
    until("the log so far is shown", || following.stdout().contains("before\n").then_some(()));
    assert!(!following.stdout().contains("after"));
    stage.write("go", "");
    until("the new line is shown", || following.stdout().contains("after\n").then_some(()));
    following.process().signal(rustix::process::Signal::INT);
    following.finish().exits(130);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let stage = Stage::new();
    stage.fake("node_exporter", "yes 'a long line, so that a pipe is soon full' | head -n 20000");
    stage.ok("deploy");
    for verb in ["logs node-exporter", "status --json", "deploy --dry-run"] {
        let ran = stage.shell(&format!("{{ \"$XTASK\" {verb}; echo \"exit $?\" >&2; }} | head -c 1")).exits(0);
        assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("error:"), "{verb}: {}", ran.stderr);
    }
}

#[test]
fn logs_say_when_there_are_none() {
    let stage = Stage::new();
    stage.run("logs engine").exits(10).says("nothing is deployed in");
}
