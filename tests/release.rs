//! Releases: the way back, the gate, and how many a host keeps.

use std::collections::BTreeSet;

use crate::stage::Stage;

/// Deploys releases that differ in one setting; their ids.
fn releases<const N: usize>(stage: &Stage) -> [String; N] {
    std::array::from_fn(|index| {
        stage.set("time_to_first_token", &format!("\"{}ms\"", index + 10));
        stage.ok("deploy");
        stage.current().unwrap()
    })
}

#[test]
fn a_rollback_brings_back_the_release_before() {
    let stage = Stage::new();
    let [first, second] = releases(&stage);
    let before = stage.components();
    stage.ok("rollback").says(&format!("back to release {first}"));
    assert_eq!((stage.current(), stage.replaced_since(&before)), (Some(first), vec!["engine".to_owned()]));
    stage.is_settled();
    // One does not go back to what one came back from; deploying is the way forth.
    stage.run("rollback").exits(10).says("no earlier release");
    stage.ok("deploy");
    assert_eq!(stage.current(), Some(second));
    stage.is_settled();
}

#[test]
fn a_rollback_says_when_there_is_nothing_to_go_back_to() {
    let stage = Stage::new();
    stage.run("rollback").exits(10).says("no earlier release");
    stage.ok("deploy");
    let before = stage.components();
    stage.run("rollback").exits(10).says("no earlier release").says("hint: ");
    assert_eq!(before, stage.components());
}

#[test]
fn a_host_keeps_three_releases() {
    let stage = Stage::new();
    let [_, _, third, fourth, fifth] = releases(&stage);
    assert_eq!(BTreeSet::from_iter(stage.releases()), BTreeSet::from([third, fourth, fifth]));
    assert_eq!(stage.ok("deploy --dry-run --json").json()["steps"].as_array().unwrap().len(), 0);
}

#[test]
fn a_damaged_release_is_mended() {
    let stage = Stage::deployed();
    let before = (stage.deployment(), stage.current());
    let config = stage.root().join("current/prometheus/prometheus.yml");
    std::fs::write(config, "not what was deployed").unwrap();
    stage.ok("deploy").says("stage release");
    assert_eq!(before, (stage.deployment(), stage.current()));
    stage.is_settled();
}

/// A Prometheus that cannot stay up when it is told so, and a promtool that is always content.
fn fake_prometheus(stage: &Stage, sick: &str) {
    stage.fake("prometheus", &format!("if {sick}; then echo it hurts; exit 1; fi"));
    stage.fake("promtool", "exit 0");
}

#[test]
fn a_release_that_cannot_stay_up_gives_way_to_the_old_one() {
    let stage = Stage::new();
    fake_prometheus(&stage, "echo \"$*\" | grep -q retention.time=86400s");
    stage.ok("deploy");
    let (files, processes, current) = (stage.deployment(), stage.components(), stage.current().unwrap());
    stage.set("retention", "\"1d\"");
    let ran = stage.run("deploy --json").exits(4).says("the prometheus is not healthy").says("it hurts");
    let last = ran.says(&format!("rolled back: release {current} ")).json_lines().pop().unwrap();
    assert_eq!(last["outcome"], "rolled_back");
    assert_eq!((files, stage.replaced_since(&processes)), (stage.deployment(), vec!["prometheus".to_owned()]));
    stage.is_settled();
}

#[test]
fn a_way_back_that_fails_too_is_said_to_have() {
    let stage = Stage::new();
    fake_prometheus(&stage, "[ -e sick ]");
    stage.ok("deploy");
    let processes = stage.components();
    stage.write("sick", "");
    stage.set("retention", "\"1d\"");
    let ran = stage.run("deploy --json").exits(6).says("and putting the old state back failed too");
    assert_eq!(ran.json_lines().pop().unwrap()["outcome"], "rollback_failed");
    assert!(["engine", "gateway"].iter().all(|name| processes[*name].runs()));
    std::fs::remove_file(stage.path("sick")).unwrap();
    stage.ok("deploy");
    stage.is_settled();
}

#[test]
fn a_sick_addition_to_a_healthy_stack_is_rolled_back_and_the_old_one_serves() {
    let stage = Stage::new();
    stage.fake("node_exporter", "");
    stage.ok("deploy");
    let (files, processes, current) = (stage.deployment(), stage.components(), stage.current().unwrap());
    fake_prometheus(&stage, "true");
    let ran = stage.run("deploy").exits(4).says("it hurts");
    ran.says(&format!("rolled back: release {current} "));
    assert_eq!((files, Some(current)), (stage.deployment(), stage.current()));
    let others: Vec<String> = stage.replaced_since(&processes).into_iter().filter(|it| it != "prometheus").collect();
    assert_eq!(others, Vec::<String>::new());
    stage.is_settled();
}

#[test]
fn a_first_release_that_cannot_stay_up_leaves_nothing_running() {
    let stage = Stage::new();
    fake_prometheus(&stage, "true");
    stage.run("deploy").exits(4).says("it hurts").says("rolled back: nothing runs, as before");
    assert_eq!((stage.processes(), stage.current(), stage.deployment().len()), (Vec::new(), None, 0));
    stage.run("status").exits(10);
}
