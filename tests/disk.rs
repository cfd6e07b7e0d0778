//! Disks that cannot be written to: what is said, and what goes on serving.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use crate::stage::{Stage, among_own_mounts, system, until};

/// Gives the root a disk of its own, gone with the mounts.
fn small_disk(stage: &Stage, size: &str) {
    stage.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
}

/// From now on nobody can write below the root who has not opened the file already.
fn protect(stage: &Stage) {
    let root = stage.root();
    stage.mount(&["--bind", root.to_str().unwrap()]);
    system("mount", &["-o", "remount,bind,ro", root.to_str().unwrap()]);
}

/// Takes all the room that is left.
fn fill(stage: &Stage) -> PathBuf {
    let ballast = stage.root().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        if file.write_all(&vec![1; size]).is_err() {
            size /= 2;
        }
    }
    ballast
}

#[test]
fn a_disk_that_is_too_small_is_named_and_left_clean() {
    among_own_mounts(|| {
        let stage = Stage::new();
        small_disk(&stage, "10m");
        let root = stage.root().display().to_string();
        let ran = stage.run("deploy").exits(4).says(&format!("error: cannot write {root}/bin/xtask"));
        ran.says("No space left on device").says("free some space on that disk").says("rolled back: nothing runs");
        assert_eq!((stage.deployment().len(), stage.processes()), (0, Vec::new()));
        stage.unmount();
        stage.ok("deploy");
        stage.is_settled();
    });
}

#[test]
fn a_full_disk_does_not_stop_what_serves() {
    among_own_mounts(|| {
        let stage = Stage::new();
        small_disk(&stage, "200m");
        stage.ok("deploy");
        let found = stage.run("doctor --json").exits(1).json();
        assert_eq!(found["findings"][0]["id"], "disk-full", "{found:#}");
        let before = (stage.deployment(), stage.components(), stage.supervisor());
        let ballast = fill(&stage);
        stage.set("time_to_first_token", "\"7ms\"");
        let ran = stage.run("deploy");
        assert!(matches!(ran.code, Some(1 | 4)), "{ran:?}");
        ran.says("error: cannot ").says(stage.root().to_str().unwrap()).says("hint: free some space on that disk");
        assert_eq!(before, (stage.deployment(), stage.components(), stage.supervisor()));
        assert_eq!(stage.get("gateway", "/api/version").unwrap().0, 200);
        stage.is_healthy();
        fs::remove_file(ballast).unwrap();
        stage.ok("deploy");
        assert_eq!(stage.replaced_since(&before.1), ["engine"]);
        stage.is_settled();
    });
}

#[test]
fn a_pull_onto_a_full_disk_registers_nothing_and_goes_on_once_there_is_room() {
    among_own_mounts(|| {
        let stage = Stage::new();
        small_disk(&stage, "200m");
        stage.ok("deploy");
        let ballast = fill(&stage);
        let ran =
            stage.run("model pull qwen3:8b").exits(1).says("the disk of the models is full before qwen3:8b is whole");
        ran.says("goes on from there");
        stage.run("model show qwen3:8b").exits(10);
        fs::remove_file(ballast).unwrap();
        stage.ok("model pull qwen3:8b").says("qwen3:8b answers");
    });
}

#[test]
fn a_component_that_dies_on_a_full_disk_is_back_once_there_is_room() {
    among_own_mounts(|| {
        let stage = Stage::new();
        small_disk(&stage, "200m");
        stage.ok("deploy");
        let (supervisor, engine, gateway) = (stage.supervisor(), stage.component("engine"), stage.component("gateway"));
        let ballast = fill(&stage);
        engine.kill();
        until("the gateway has noticed", || {
            stage.get("gateway", "/api/version").is_ok_and(|(status, _)| status != 200).then_some(())
        });
        fs::remove_file(ballast).unwrap();
        stage.await_successor("engine", &engine);
        assert_eq!((stage.supervisor(), stage.component("gateway")), (supervisor, gateway));
        stage.is_settled();
    });
}

#[test]
fn a_read_only_root_is_named_and_what_serves_is_left_alone() {
    among_own_mounts(|| {
        let stage = Stage::new();
        fs::create_dir_all(stage.root()).unwrap();
        protect(&stage);
        let root = stage.root().display().to_string();
        let ran = stage.run("deploy").exits(1).says(&format!("error: cannot create {root}/bin"));
        ran.says("Read-only file system").says("hint: set `host.root`");
        assert_eq!(stage.deployment().len(), 0);
        stage.unmount();

        stage.ok("deploy");
        let before = (stage.deployment(), stage.components(), stage.supervisor());
        protect(&stage);
        stage.set("time_to_first_token", "\"7ms\"");
        stage.run("deploy").exits(1).says(&format!("error: cannot lock {root}/state")).says("hint: set `host.root`");
        stage.run("stop").exits(1).says("error: cannot lock");
        stage.is_healthy();
        assert_eq!(before, (stage.deployment(), stage.components(), stage.supervisor()));
        stage.unmount();
        stage.ok("deploy");
        stage.is_settled();
    });
}
