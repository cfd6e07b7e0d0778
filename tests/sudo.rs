//! What a Mac's deploy wants of root, and how it gets there: asked before anything is done, and for nothing but that.

use std::fs;

use crate::{
    far::Far,
    native::{self, Native},
    root::TYPIST,
    stage::lacks,
};

const PASSWORD: &str = "open-sesame";

/// A bare Mac whose user is not root, and whose sudo wants a password.
fn mac() -> Option<Native<Far>> {
    let mut mac = native::mac()?;
    mac.write("state/sudo.password", PASSWORD);
    mac.script("typist", TYPIST);
    if rustix::process::geteuid().is_root() {
        mac.log_in_as_nobody();
    }
    Some(mac)
}

fn sudo_log(mac: &Native<Far>) -> String {
    let log = fs::read_to_string(mac.path("state/sudo.log")).unwrap_or_default();
    let _ = fs::remove_file(mac.path("state/sudo.log"));
    log
}

/// Without it the stage itself could not uninstall.
fn let_go(mac: &Native<Far>) {
    fs::remove_file(mac.path("state/sudo.password")).unwrap();
}

/// Everything that a deploy could have touched.
fn touched(mac: &Native<Far>) -> Vec<bool> {
    let places = ["bin/grafana", "root/state", "root/releases", "root/programs", "state/Library"];
    places.iter().map(|place| mac.path(place).exists()).collect()
}

#[test]
fn without_a_way_to_root_nothing_is_changed_and_what_is_told_can_be_done_by_hand() {
    let Some(mac) = mac() else { return };
    let before = touched(&mac);
    assert!(!before[0], "Grafana is still to be installed, which root is not needed for");
    let told =
        mac.run("deploy").exits(7).says("this needs root, and sudo wants a password").says("nothing was changed");
    assert_eq!((touched(&mac), mac.asked_of_root()), (before, String::new()));
    // As a person does who reads what is to be typed, who is asked for the password.
    let (_, typed) = told.stderr.split_once("again:\n").unwrap();
    assert!(typed.contains("sudo launchctl bootstrap system /Library/LaunchDaemons/frontier-llm-"), "{typed}");
    let_go(&mac);
    mac.write("typed", &format!("set -e\n{typed}"));
    let as_user = match rustix::process::geteuid().is_root() {
        true => "setpriv --reuid=65534 --regid=65534 --clear-groups",
        false => "",
    };
    mac.shell(&format!("exec {as_user} /bin/sh typed")).exits(0);
    mac.write("state/sudo.password", PASSWORD);
    mac.ok("deploy");
    mac.is_settled();
    mac.ok("deploy").says("nothing to do");
    let_go(&mac);
}

#[test]
fn a_password_is_asked_for_once_and_what_comes_after_needs_none() {
    if lacks("python3") {
        return;
    }
    let Some(mac) = mac() else { return };
    let typed = |password: &str, line: &str| mac.shell(&format!("typist {password} \"$XTASK\" {line}"));
    let shown = typed("guess", "deploy --ask-sudo").exits(7).stdout;
    assert!(shown.contains("sudo does not take that password"), "{shown}");
    let shown = typed(PASSWORD, "deploy --ask-sudo").exits(0).stdout;
    assert_eq!(shown.matches("password for sudo on far").count(), 1, "{shown}");
    mac.is_settled();
    assert!(sudo_log(&mac).contains("-S -p  -- launchctl bootstrap system"));
    mac.ok("deploy").says("nothing to do");
    mac.set("keep_alive", "\"7m\"");
    mac.ok("deploy").says("restart engine");
    mac.ok("restart gateway");
    mac.ok("stop");
    mac.ok("start");
    mac.ok("rollback");
    assert_eq!(sudo_log(&mac), "", "root was asked once");
    let refused = mac.run("backup schedule --at 03:30").exits(7);
    refused.says("sudo wants a password").says("sudo launchctl bootstrap system /Library/LaunchDaemons/frontier-llm-");
    let is_scheduled = || {
        let mut loaded = fs::read_dir(mac.path("state/launchd")).unwrap().map(|it| it.unwrap().file_name());
        loaded.any(|it| it.to_string_lossy().ends_with("-backup.path"))
    };
    assert!(!is_scheduled(), "nothing was changed");
    let shown = typed(PASSWORD, "backup schedule --at 03:30 --ask-sudo").exits(0).stdout;
    assert!(shown.contains("launchd runs a backup each day") && is_scheduled(), "{shown}");
    mac.run("backup schedule --remove").exits(7).says("launchctl bootout system/frontier-llm-");
    typed(PASSWORD, "backup schedule --remove --ask-sudo").exits(0);
    assert!(!is_scheduled());
    let before = mac.components();
    mac.run("uninstall --yes").exits(7).says("sudo wants a password").says("launchctl bootout system/frontier-llm-");
    assert_eq!(mac.replaced_since(&before), [""; 0], "nothing was ended either");
    typed(PASSWORD, "uninstall --data --yes --ask-sudo").exits(0);
    assert!(mac.processes().is_empty() && !mac.root().exists());
}

#[test]
fn an_upgrade_raises_the_gpu_limit_and_a_way_back_lowers_it() {
    const OLD: &str = "qwen2.5-coder:0.5b";
    const NEW: &str = "qwen2.5-coder:7b";
    let Some(mac) = mac() else { return };
    let_go(&mac);
    // Small on the disk, and large in memory by the number of its slots.
    mac.write("state/hw.memsize", &(84u64 << 30).to_string());
    mac.set("runtime", "\"native\"\nnum_parallel = 34\ncontext_length = 32768\nkv_cache_type = \"f16\"");
    let settings = || fs::read_to_string(mac.path("stack.toml")).unwrap();
    mac.write("stack.toml", &format!("{}\n[models]\ndefault = \"{OLD}\"\n", settings()));
    mac.ok("deploy");
    mac.ok(&format!("model pull {OLD}"));
    let before = settings();
    mac.write("state/sudo.password", PASSWORD);
    let refused = mac.run(&format!("model upgrade {NEW} --yes")).exits(7).says("nothing was changed");
    refused.says("sudo wants a password").says(&format!("tune --model {NEW} --ask-sudo"));
    assert_eq!(settings(), before);
    assert!(!mac.ok("model list").stdout.contains(NEW), "not a byte has come");
    let_go(&mac);
    let upgraded = mac.run(&format!("model upgrade {NEW} --yes"));
    assert!(settings().contains(&format!("default = \"{NEW}\"")), "{upgraded:?}");
    upgraded.says("GPU memory limit, the system's own → ");
    let limit = || fs::read_to_string(mac.path("state/iogpu.wired_limit_mb")).unwrap().trim().parse::<u64>().unwrap();
    assert!((66 << 10..68 << 10).contains(&limit()), "{}", limit());
    let daemon = mac.path("state/launchd/dev.frontier-llm.gpu-limit.path");
    assert!(daemon.exists());
    mac.run("model upgrade --revert --yes");
    assert!(settings().contains(&format!("default = \"{OLD}\"")));
    assert_eq!((limit(), daemon.exists()), (0, false), "the system has its own again");
}

#[test]
fn a_way_back_that_needs_root_asks_too_and_a_repair_says_who_does() {
    if lacks("python3") {
        return;
    }
    let Some(mac) = mac() else { return };
    let_go(&mac);
    mac.ok("deploy");
    mac.set("keep_alive", "\"7m\"");
    mac.ok("deploy");
    let label = native::plist(&mac).file_stem().unwrap().to_str().unwrap().to_owned();
    let forget = || mac.shell(&format!("launchctl bootout system/{label}")).exits(0);
    forget();
    mac.write("state/sudo.password", PASSWORD);
    let current = mac.current();
    mac.run("rollback").exits(7).says("sudo wants a password").says("launchctl bootstrap system");
    mac.run("doctor --fix").exits(1).says("sudo wants a password").says("cargo xtask deploy --ask-sudo");
    assert_eq!(mac.current(), current, "nothing was changed");
    mac.shell(&format!("typist {PASSWORD} \"$XTASK\" rollback --ask-sudo")).exits(0);
    mac.is_settled();
    assert_ne!(mac.current(), current);
    let_go(&mac);
}

#[test]
fn tuning_asks_for_the_password_too() {
    if lacks("python3") {
        return;
    }
    let Some(mac) = mac() else { return };
    let_go(&mac);
    mac.ok("deploy");
    mac.write("state/sudo.password", PASSWORD);
    mac.write("state/hw.memsize", &(192u64 << 30).to_string());
    mac.run("tune").exits(7).says("sudo wants a password").says("pmset -a sleep 0");
    assert!(!mac.path("state/pmset.sleep").exists());
    let shown = mac.shell(&format!("typist {PASSWORD} \"$XTASK\" tune --ask-sudo")).exits(0).stdout;
    assert!(shown.contains("done, and read back"), "{shown}");
    assert_eq!(fs::read_to_string(mac.path("state/pmset.sleep")).unwrap().trim(), "0");
    let_go(&mac);
}
