//! Whether what is scheduled is loaded after a restart, as the system's own scheduler tells.

use std::fs;

use crate::{backup::with_cron, native, stage::Stage};

/// How the check ended, and why.
fn schedule(stage: &Stage) -> (String, String) {
    let checks = stage.run("verify --reboot --json").json();
    let checks = checks["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "what is scheduled is loaded").unwrap();
    (check["result"].as_str().unwrap().to_owned(), check["detail"].as_str().unwrap().to_owned())
}

#[test]
fn a_backup_that_launchd_does_not_have_is_missed() {
    let Some(mac) = native::mac() else { return };
    mac.ok("deploy");
    assert_eq!(schedule(&mac).0, "skip");
    mac.ok("backup schedule --at 03:30");
    let found = schedule(&mac);
    assert!(found.0 == "pass" && found.1.contains("daily at 03:30 by launchd"), "{found:?}");
    let loaded =
        fs::read_dir(mac.path("state/launchd")).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    let label = loaded.filter_map(|it| it.strip_suffix("-backup.path").map(str::to_owned)).next().unwrap();
    mac.shell(&format!("launchctl bootout system/{label}-backup")).exits(0);
    let found = schedule(&mac);
    assert!(found.0 == "fail" && found.1.contains("is not loaded: `cargo xtask backup schedule`"), "{found:?}");
}

#[test]
fn a_backup_that_cron_or_systemd_does_not_have_is_missed() {
    let stage = Stage::deployed();
    with_cron(&stage);
    stage.write("table", "0 5 * * * theirs\n");
    assert_eq!(schedule(&stage).0, "skip");
    stage.ok("backup schedule --at 03:30");
    assert_eq!(schedule(&stage).0, "pass");
    stage.write("table", "0 5 * * * theirs\n");
    assert_eq!(schedule(&stage).0, "fail");
    // systemctl(1): `is-active` succeeds for a unit that is.
    stage.script("systemctl", "case $* in 'is-active frontier-llm-'*-backup.timer) echo active;; *) exit 1;; esac");
    assert_eq!(schedule(&stage).0, "pass");
    stage.script("systemctl", "case $* in is-active*) echo inactive; exit 3;; *) exit 1;; esac");
    assert_eq!(schedule(&stage).0, "fail");
}
