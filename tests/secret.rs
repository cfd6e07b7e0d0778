//! Secrets: kept, shown to whoever asks, and nowhere else.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::stage::Stage;

#[test]
fn a_secret_is_kept_for_its_owners_eyes_only() {
    let stage = Stage::deployed();
    stage.shell("printf 'hunter2\\n' | $XTASK secret set grafana-password").exits(0).says("keeps grafana-password");
    let file = stage.root().join("state/secrets/grafana-password");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(file.as_path()), mode(file.parent().unwrap())), (0o600, 0o700));
    assert_eq!(stage.ok("secret list --json").json(), serde_json::json!(["grafana-password"]));
    assert_eq!(stage.ok("status --secrets --json").json(), serde_json::json!({ "grafana-password": "hunter2" }));
    for verb in ["status", "status --json", "deploy", "deploy --dry-run", "logs", "secret list"] {
        let ran = stage.ok(verb);
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{verb} shows it");
    }
    let shown = stage.shell("grep -rl hunter2 root --exclude-dir=secrets");
    assert_eq!((shown.code, shown.stdout.as_str()), (Some(1), ""), "it is nowhere else");
}

#[test]
fn a_secret_is_replaced_and_forgotten() {
    let stage = Stage::deployed();
    for value in ["one", "two"] {
        stage.shell(&format!("printf {value} | $XTASK secret set x")).exits(0);
        assert_eq!(stage.ok("status --secrets --json").json(), serde_json::json!({ "x": value }));
    }
    stage.ok("secret remove x");
    stage.run("secret remove x").exits(10).says("there is no secret x");
    stage.ok("status --secrets").says("keeps no secrets");
    stage.shell("printf '' | $XTASK secret set x").exits(2).says("no value for x came");
    stage.run("secret set ../x").exits(2);
}
