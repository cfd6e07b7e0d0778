//! The supervisor as a thing to be trusted: whatever dies, flaps or hangs, and whoever is in the way.

use std::{fs, thread, time::Duration};

use rustix::process::{Signal, set_child_subreaper};
use serde_json::{Value, json};

use crate::stage::{Process, Stage, alone, innocent, system, until};

#[test]
fn a_component_that_dies_is_back() {
    let stage = Stage::deployed();
    let before = stage.components();
    for name in ["engine", "gateway"] {
        before[name].kill();
        stage.await_successor(name, &before[name]);
    }
    assert_eq!(stage.replaced_since(&before), ["engine", "gateway"]);
    stage.is_settled();
}

#[test]
fn a_component_that_cannot_stay_up_is_shown_with_why_and_tried_ever_less_often() {
    let stage = Stage::new();
    stage.fake("node_exporter", "date +%s%N >> starts; [ ! -e sick ] || { echo it hurts; exit 1; }");
    stage.ok("deploy");
    let before = stage.components();
    stage.write("sick", "");
    fs::remove_file(stage.path("starts")).unwrap();
    before["node-exporter"].kill();

    let part = stage.await_state("node-exporter", "unhealthy");
    assert!(part["detail"].as_str().unwrap().contains("exited with status 1: it hurts"), "{part}");
    stage.run("status").exits(1);
    let starts = until("six starts", || {
        let starts = fs::read_to_string(stage.path("starts")).ok()?;
        let starts: Vec<u64> = starts.lines().map(|line| line.parse().unwrap()).collect();
        (starts.len() >= 6).then_some(starts)
    });
    for (index, pair) in starts.windows(2).enumerate() {
        let pause_ms = (pair[1] - pair[0]) / 1_000_000;
        assert!(pause_ms >= 200 << index, "only {pause_ms} ms before start {}", index + 2);
    }
    assert_eq!(stage.replaced_since(&before), ["node-exporter"]);

    fs::remove_file(stage.path("sick")).unwrap();
    stage.await_state("node-exporter", "healthy");
    stage.is_settled();
}

#[test]
fn a_deploy_mends_what_cannot_stay_up() {
    let stage = Stage::new();
    stage.fake("node_exporter", "[ ! -e sick ] || { echo it hurts; exit 1; }");
    stage.ok("deploy");
    stage.write("sick", "");
    stage.component("node-exporter").kill();
    stage.await_state("node-exporter", "unhealthy");
    stage.run("deploy").exits(1).says("the node-exporter is not healthy").says("it hurts");
    fs::remove_file(stage.path("sick")).unwrap();
    stage.ok("deploy");
    stage.is_settled();
}

#[test]
fn a_component_that_hangs_is_unhealthy_and_then_replaced() {
    let stage = Stage::deployed();
    let before = stage.components();
    before["engine"].signal(Signal::STOP);
    let part = stage.await_state("engine", "unhealthy");
    assert!(part["detail"].as_str().unwrap().contains("does not answer"), "{part}");
    stage.run("status").exits(1);
    stage.await_successor("engine", &before["engine"]);
    assert_eq!(stage.replaced_since(&before), ["engine"]);
    stage.is_settled();
}

#[test]
fn components_outlive_their_supervisor_and_the_next_deploy_adopts_them() {
    let stage = Stage::deployed();
    let (before, supervisor) = (stage.components(), stage.supervisor());
    supervisor.kill();
    assert!(before.values().all(Process::runs));
    assert_eq!(stage.get("gateway", "/api/version").unwrap().0, 200);
    let detail = stage.part("engine")["detail"].clone();
    assert_eq!(detail, "it runs, but no supervisor keeps it");
    stage.ok("deploy").says("no supervisor runs");
    assert_eq!(stage.replaced_since(&before), Vec::<String>::new());
    assert_ne!(stage.supervisor(), supervisor);
    stage.is_settled();
    // Adopted, and kept all the same.
    before["engine"].kill();
    stage.await_successor("engine", &before["engine"]);
}

#[test]
fn a_supervisor_that_is_killed_under_a_deploy_gets_a_successor() {
    let stage = Stage::new();
    stage.fake("node_exporter", "touch begun; while [ ! -e go ]; do sleep 0.05; done");
    let deploy = stage.start("deploy");
    until("the deploy to wait for node_exporter", || stage.path("begun").exists().then_some(()));
    let supervisor = stage.supervisor();
    supervisor.kill();
    stage.write("go", "");
    deploy.finish().exits(0);
    assert_ne!(stage.supervisor(), supervisor);
    stage.is_settled();
}

#[test]
fn a_second_supervisor_on_the_same_root_is_refused() {
    let stage = Stage::deployed();
    let before = (stage.components(), stage.supervisor());
    let root = stage.root().display().to_string();
    stage.run(&format!("host supervise --root {root}")).exits(11).says("another supervisor runs on this root");
    assert_eq!(before, (stage.components(), stage.supervisor()));
    stage.is_settled();
}

#[test]
fn the_stack_does_not_belong_to_the_session_that_deployed_it() {
    let stage = Stage::deployed();
    let ours = Process::with_pid(std::process::id()).session();
    assert_eq!(stage.supervisor().session(), stage.supervisor().pid);
    for process in stage.processes() {
        assert_ne!(process.session(), ours);
    }
}

/// Deploys a component with a child that has the lock from it, as children do, or one that another standard input has
/// parted from the lock: those that a shell starts with `&`, those that a Go program starts.
fn with_child(stage: &Stage, has_lock: bool) -> Process {
    let stdin = if has_lock { "<&3" } else { "3<&-" };
    stage.fake("node_exporter", &format!("exec 3<&0; sleep 1000 {stdin} & echo $! > child; exec 3<&-"));
    stage.ok("deploy");
    let pid = fs::read_to_string(stage.path("child")).unwrap();
    let child = Process::with_pid(pid.trim().parse().unwrap());
    assert!(child.runs());
    assert_eq!(stage.processes().contains(&child), has_lock);
    child
}

#[test]
fn stopping_a_component_ends_all_that_it_started() {
    for has_lock in [true, false] {
        let stage = Stage::new();
        let child = with_child(&stage, has_lock);
        stage.ok("stop node-exporter");
        until("the child is gone", || (!child.runs()).then_some(()));
        assert_eq!(stage.processes().len(), stage.components().len() + 1);
    }
}

#[test]
fn what_a_dead_component_has_started_does_not_outlive_it() {
    for has_lock in [true, false] {
        let stage = Stage::new();
        let child = with_child(&stage, has_lock);
        let before = stage.component("node-exporter");
        before.kill();
        stage.await_successor("node-exporter", &before);
        until("the child is gone", || (!child.runs()).then_some(()));
    }
}

#[test]
fn one_component_is_stopped_and_started_and_restarted() {
    let stage = Stage::deployed();
    let before = stage.components();
    stage.ok("stop engine").says("stopped until started again: engine");
    assert!(!before["engine"].runs());
    assert_eq!(stage.part("engine")["state"], "stopped");
    assert!(before["gateway"].runs());
    stage.ok("start ollama");
    let started = stage.component("engine");
    assert_eq!(stage.replaced_since(&before), ["engine"]);
    stage.ok("start engine");
    assert_eq!(stage.component("engine"), started);
    stage.ok("restart engine");
    assert_ne!(stage.component("engine"), started);
    assert_eq!(stage.replaced_since(&before), ["engine"]);
    stage.is_settled();
}

#[test]
fn the_whole_stack_is_stopped_and_started_and_restarted() {
    let stage = Stage::deployed();
    let first = stage.components();
    stage.ok("stop");
    assert_eq!(stage.processes(), []);
    let parts = stage.ok("status --json").json()["components"].clone();
    assert!(
        parts.as_array().unwrap().iter().all(|part| part["state"] == "stopped" || part["state"] == "absent"),
        "{parts}"
    );
    stage.ok("start");
    stage.is_settled();
    let second = stage.components();
    assert_eq!(stage.replaced_since(&first).len(), first.len());
    stage.ok("restart");
    assert_eq!(stage.replaced_since(&second).len(), first.len());
    stage.is_settled();
}

#[test]
fn a_stop_that_meets_a_start_ends_what_is_being_started() {
    let stage = Stage::deployed();
    stage.ok("stop");
    // A pipe that nobody reads: the supervisor is held up between its decision to start the engine and the engine.
    let log = stage.root().join("logs/engine.log");
    fs::remove_file(&log).unwrap();
    system("mkfifo", &[&log.display().to_string()]);
    let state = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(stage.root().join("state").join(name)).unwrap()).unwrap()
    };
    let is_heard = |halted: bool| {
        let desired = state("desired.json");
        let heard = desired["halted"] == halted && state("status.json")["revision"] == desired["revision"];
        heard.then_some(())
    };
    let start = stage.start("start");
    until("the supervisor to hear of the start", || is_heard(false));
    start.kill();
    let stop = stage.start("stop");
    until("the supervisor to hear of the stop", || is_heard(true));
    // One that does not wait for its keepers is gone by then.
    let supervisor = stage.supervisor();
    thread::sleep(Duration::from_millis(200));
    assert!(supervisor.runs());
    let _reader = fs::File::options().read(true).write(true).open(&log).unwrap();
    stop.finish().exits(0);
    assert_eq!(stage.processes(), []);
    let said = fs::read_to_string(stage.root().join("logs/supervisor.log")).unwrap();
    assert_eq!(said.matches("engine: started").count(), 2, "{said}");
}

#[test]
fn watching_shows_every_change_until_an_interrupt() {
    let stage = Stage::deployed();
    let watching = stage.start("status --watch --json");
    let shows = |state: &str| {
        let engine = format!("\"name\":\"engine\",\"state\":\"{state}\"");
        until(&engine, || watching.stdout().lines().last().is_some_and(|line| line.contains(&engine)).then_some(()));
    };
    shows("healthy");
    stage.ok("stop engine");
    shows("stopped");
    stage.ok("start engine");
    shows("healthy");
    watching.process().signal(Signal::INT);
    watching.finish().exits(130);
}

#[test]
fn a_component_that_is_no_part_of_the_stack_is_refused() {
    let stage = Stage::deployed();
    let before = stage.components();
    for verb in ["start", "stop", "restart"] {
        stage.run(&format!("{verb} grafana")).exits(10).says("the grafana is not part of this stack");
    }
    assert_eq!(before, stage.components());
}

#[test]
fn a_deploy_starts_what_was_stopped_by_hand() {
    let stage = Stage::deployed();
    stage.ok("stop engine");
    stage.ok("deploy").says("start engine (it was stopped by hand)");
    stage.is_settled();
    stage.ok("stop");
    stage.ok("deploy");
    stage.is_settled();
}

#[test]
fn uninstall_leaves_the_data_and_nothing_else() {
    let stage = Stage::deployed();
    stage.ok("uninstall").says("data stays in");
    assert_eq!(stage.processes(), []);
    let left: Vec<_> = fs::read_dir(stage.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["data"]);
    assert!(stage.root().join("data/models").exists());
    stage.run("status").exits(10).says("nothing is deployed");
    stage.run("uninstall").exits(10);

    stage.ok("deploy");
    stage.run("uninstall --data").exits(7).says("--yes");
    stage.is_settled();
    stage.ok("uninstall --data --yes").says("nothing is left");
    assert!(!stage.root().exists());
}

/// Writes a stranger's pid into the records of a component and of the supervisor, which are dead, as if it had been given
/// to the stranger since.
fn claim(stage: &Stage, name: &str, stranger: &Process) {
    let identity = json!({ "pid": stranger.pid, "started": "1" });
    let state = stage.root().join("state");
    let change = |file: String, change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&fs::read(state.join(&file)).unwrap()).unwrap();
        change(&mut value);
        fs::write(state.join(file), value.to_string()).unwrap();
    };
    change(format!("run/{name}.json"), &|record| record["identity"] = identity.clone());
    change("status.json".to_owned(), &|status| {
        status["supervisor"]["identity"] = identity.clone();
        status["components"][name]["identity"] = identity.clone();
    });
}

#[test]
fn a_process_that_got_a_dead_ones_pid_is_left_alone() {
    for verb in ["start", "deploy", "restart engine", "stop", "uninstall"] {
        let stage = Stage::deployed();
        let engine = stage.component("engine");
        stage.supervisor().kill();
        engine.kill();
        let stranger = innocent();
        claim(&stage, "engine", &stranger.process());
        stage.ok(verb);
        assert!(stranger.process().runs(), "{verb}");
        if !matches!(verb, "stop" | "uninstall") {
            assert_ne!(stage.component("engine").pid, stranger.process().pid);
            stage.is_settled();
        }
    }
}

#[test]
fn a_pid_that_was_reused_while_the_lock_is_still_held_is_left_alone() {
    let stage = Stage::new();
    let child = with_child(&stage, true);
    let node_exporter = stage.component("node-exporter");
    stage.supervisor().kill();
    node_exporter.kill();
    let stranger = innocent();
    claim(&stage, "node-exporter", &stranger.process());
    stage.run("stop node-exporter");
    assert!(stranger.process().runs());
    if child.runs() {
        child.kill();
    }
    stage.ok("deploy");
    assert!(stranger.process().runs());
}

#[test]
fn what_a_component_left_that_died_unsupervised_is_ended_too() {
    let stage = Stage::new();
    let child = with_child(&stage, true);
    let node_exporter = stage.component("node-exporter");
    stage.supervisor().kill();
    node_exporter.kill();
    stage.ok("deploy");
    until("the child is gone", || (!child.runs()).then_some(()));
}

#[test]
fn a_zombie_is_not_taken_for_alive() {
    alone(&[], || {
        // What loses its parent becomes a child of this process, which buries nobody.
        set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let stage = Stage::deployed();
        let before = stage.components();
        stage.supervisor().kill();
        stage.ok("deploy");
        assert_eq!(stage.replaced_since(&before), Vec::<String>::new());
        before["engine"].kill();
        stage.await_successor("engine", &before["engine"]);
        let log = fs::read_to_string(stage.root().join("logs/supervisor.log")).unwrap();
        assert!(log.contains("engine: ended") && !log.contains("did not answer"), "{log}");
        assert!(fs::read_to_string(format!("/proc/{}/stat", before["engine"].pid)).unwrap().contains(") Z "));
        stage.is_settled();
    });
}
