//! Another machine over ssh: what a person does there, and what one is told.

use std::{fs, os::unix::fs::PermissionsExt};

use rustix::process::Signal;

use crate::{
    far::Far,
    stage::{Job, Ran, WITH_A_BUILD, among_own_mounts, is_lacking, lacks, lacks_root, system, until},
};

#[test]
fn a_bare_host_becomes_a_serving_stack_and_stays_one_for_one_session() {
    let Some(far) = Far::new() else { return };
    far.run("status").exits(10).says("nothing is deployed on far");
    assert_eq!(far.sessions(|| far.deploy_first()), 1);
    far.is_settled();
    // What listens on a host's loopback is asked there: here the same address is another machine's.
    assert_eq!(
        far.sessions(|| assert!(far.ok("verify").says("asked on far itself").stdout.contains("PASS  engine"))),
        1
    );
    far.ok("verify --junit checks.xml --json");
    assert!(far.path("checks.xml").exists());
    let before = far.components();
    assert_eq!(far.sessions(|| drop(far.ok("deploy").says("nothing to do"))), 1);
    assert_eq!(far.replaced_since(&before), [""; 0]);
}

#[test]
fn every_login_shell_will_do() {
    let Some(mut far) = Far::deployed() else { return };
    for shell in ["dash", "bash", "zsh", "fish", "tcsh"] {
        if !lacks(shell) {
            far.log_in_with(&format!("/usr/bin/{shell}"));
            far.ok("deploy").says("nothing to do");
        }
    }
}

#[test]
fn the_host_does_by_itself_what_was_last_asked_of_it() {
    let Some(far) = Far::deployed() else { return };
    let there = far.root().join("bin/xtask");
    for (verb, code, says) in
        [("deploy", 0, "nothing to do"), ("rollback", 10, "no earlier release"), ("stop gateway", 0, "gateway")]
    {
        far.shell(&format!("cd / && '{}' {verb}", there.display())).exits(code).says(says);
    }
    assert_eq!(far.part("gateway")["state"], "stopped");
    far.shell(&format!("cd / && env -i '{}' deploy", there.display())).exits(0);
    far.is_settled();
}

#[test]
fn an_interrupt_detaches_and_says_how_to_come_back() {
    let Some(far) = Far::deployed() else { return };
    // A component that takes its time, so that there is a time in which to leave.
    far.fake("node_exporter", "while [ ! -e go ]; do sleep 0.05; done");
    let client = far.start("deploy");
    until("it waits", || client.stderr().contains("wait until healthy").then_some(()));
    client.process().signal(Signal::INT);
    let job = far.job();
    client.finish().exits(130).says(&format!("job attach {job}"));
    assert!(far.ok("job list").stdout.contains("running"));
    far.write("go", "");
    far.ok(&format!("job attach {job}")).says("wait until healthy");
    far.is_settled();
    far.run(&format!("job cancel {job}")).exits(10);
}

#[test]
fn a_cancelled_job_puts_back_what_it_changed() {
    let Some(far) = Far::deployed() else { return };
    let before = far.current();
    far.fake("node_exporter", "while [ ! -e go ]; do sleep 0.05; done");
    let client = far.start("deploy");
    until("it waits", || client.stderr().contains("wait until healthy").then_some(()));
    far.ok(&format!("job cancel {}", far.job()));
    client.finish().exits(130).says("rolled back");
    assert_eq!(far.current(), before);
    far.is_settled();
}

#[test]
fn what_a_person_meets_first_is_said_in_words() {
    let Some(mut far) = Far::new() else { return };
    far.write("known_hosts", "");
    far.run("status").exits(3).says("host key is not known").says("log in once by hand");
    far.write("known_hosts", &format!("far {}", fs::read_to_string(far.path("user_key.pub")).unwrap()));
    far.run("status").exits(3).says("not the one that is known").says("ssh-keygen -R");
    far.know_host_key();
    fs::rename(far.path("user_key.pub"), far.path("elsewhere")).unwrap();
    far.run("deploy").exits(3).says("does not let you in").says("ssh-copy-id");
    far.sshd = None;
    far.run("deploy").exits(3).says("nothing listens for ssh");
    let settings = fs::read_to_string(far.path("stack.toml")).unwrap();
    far.write("stack.toml", &settings.replace("\"far\"", "\"no-such-host.invalid\""));
    far.run("deploy").exits(3).says("nobody knows the name");
    // Nothing was ever deployed: let the stage have nothing to uninstall.
    assert!(!far.root().exists());
}

#[test]
fn a_program_of_another_protocol_is_replaced_by_a_deploy_only() {
    let Some(far) = Far::deployed() else { return };
    let own = far.root().join("bin/xtask");
    for protocol in [0, 99] {
        fs::remove_file(&own).unwrap();
        let hello =
            format!("{{\\\"hello\\\":\\\"$nonce\\\",\\\"protocol\\\":{protocol},\\\"program\\\":\\\"other\\\"}}");
        let find = "for arg; do case $arg in --nonce=*) nonce=${arg#--nonce=};; esac; done";
        far.script("other", &format!("{find}\necho \"{hello}\"; cat >/dev/null"));
        fs::copy(far.path("bin/other"), &own).unwrap();
        fs::write(far.root().join("bin/xtask.id"), "other").unwrap();
        far.run("status").exits(3).says(&format!("speaks protocol {protocol}"));
        far.ok("deploy");
        far.is_settled();
    }
}

#[test]
fn what_is_wrong_with_a_host_is_said_in_words() {
    let Some(far) = Far::new() else { return };
    far.script("uname", "case $1 in -s) echo Plan9;; -m) echo mips;; *) exec /usr/bin/uname \"$@\";; esac");
    far.run("deploy").exits(1).says("for Plan9 on mips").says("hosts can be Linux and macOS");
    fs::remove_file(far.path("bin/uname")).unwrap();
    far.write("root", "");
    far.start("deploy").finish_within(WITH_A_BUILD).exits(3).says("its root cannot be created");
    fs::remove_file(far.root()).unwrap();
    let behind = "FAR_FILTER=\"sed -u 's/\\\"clock\\\":\\\"2/\\\"clock\\\":\\\"1/'\"";
    far.start_with(behind, "deploy").finish().exits(0).says("the clock of far is").says("hours behind this machine's");
    far.is_settled();
}

#[test]
fn that_there_is_no_way_to_a_host_is_said_in_words() {
    let Some(far) = Far::new() else { return };
    if lacks("unshare") || lacks("ip") {
        return;
    }
    let settings = fs::read_to_string(far.path("stack.toml")).unwrap();
    far.write("stack.toml", &settings.replace("\"far\"", "\"192.0.2.1\""));
    let as_root = if rustix::process::geteuid().is_root() { "" } else { "--map-root-user" };
    // A network of its own, with nothing in it but what `lay` lays there.
    let apart = |lay: &str| far.shell(&format!("exec unshare {as_root} --net sh -c '{lay} exec \"$XTASK\" deploy'"));
    let unreachable = apart("");
    if unreachable.stderr.contains("unshare") && is_lacking("netns") {
        return;
    }
    unreachable.exits(3).says("has no network to it").says("connect this machine, or its VPN");
    let no_route = apart("ip link set lo up && ip route add unreachable 192.0.2.1 &&");
    no_route.exits(3).says("there is no way to it from here").says("Privacy & Security > Local Network");
}

#[test]
fn that_a_host_has_no_room_is_said_in_words() {
    // sshd does not take one who is root among mounts of his own for root.
    if lacks_root() {
        return;
    }
    among_own_mounts(|| {
        let Some(far) = Far::new() else { return };
        let disk = |size: &str| far.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
        disk("4m");
        far.start("deploy").finish_within(WITH_A_BUILD).exits(3).says("its disk is full").says("free some space there");
        far.unmount();
        // Room for the program as it comes, and not for a second one.
        disk("24m");
        far.run("deploy").exits(4).says("No space left on device").says("rolled back: nothing runs");
        far.unmount();
        far.ok("deploy");
        far.is_settled();
    });
}

#[test]
fn that_a_root_is_somebody_elses_is_said_in_words() {
    let Some(mut far) = Far::new() else { return };
    if lacks_root() {
        return;
    }
    far.log_in_as(65534);
    let folder = far.path("");
    let own = |mode| {
        system("chown", &["0:0", folder.to_str().unwrap()]);
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    };
    own(0o755);
    far.start("deploy")
        .finish_within(WITH_A_BUILD)
        .exits(3)
        .says("its root cannot be created")
        .says("your rights there");
    fs::create_dir_all(far.root().join("bin")).unwrap();
    far.run("deploy").exits(3).says("could not be written there").says("may you write to the root?");
}

#[test]
fn another_checkout_of_the_same_sources_finds_nothing_to_do() {
    let Some(far) = Far::deployed() else { return };
    far.write("elsewhere/stack.toml", &fs::read_to_string(far.path("stack.toml")).unwrap());
    let before = far.components();
    far.ok("--settings elsewhere/stack.toml deploy").says("nothing to do");
    assert_eq!(far.replaced_since(&before), [""; 0]);
}

#[test]
fn of_two_clients_at_once_one_deploys_and_the_other_is_told() {
    let Some(far) = Far::deployed() else { return };
    far.set("time_to_first_token", "\"3ms\"");
    let clients: Vec<Job> = (0..3).map(|_| far.start("deploy --json")).collect();
    let ended: Vec<Ran> = clients.into_iter().map(Job::finish).collect();
    // Who comes while the other is at its gate may wait with it, and has nothing to switch.
    let switched = |ran: &&Ran| ran.stdout.contains("\"step\":\"switch\"");
    assert_eq!(ended.iter().filter(switched).count(), 1, "{ended:?}");
    assert!(ended.iter().all(|ran| matches!(ran.code, Some(0 | 7 | 11))), "{ended:?}");
    far.is_settled();
}

/// A cargo that builds for no other target; on the host it takes its time, and has the program ready.
const CARGO: &str = r#"
[ -z "$STACK_PROGRAM_ID" ] && { echo "error: no linker for it" >&2; exit 101; }
for word; do case $last in --target) triple=$word;; esac; last=$word; done
[ -f Cargo.lock ] && [ -f tests/main.rs ] && [ -f stack/src/lib.rs ] || exit 102
echo "$STACK_PROGRAM_ID" >> "$folder/builds"
echo "   Compiling stack v0.1.0" >&2
while [ ! -e "$folder/go" ]; do sleep 0.05; done
[ -e "$folder/fault" ] && { echo "error: it does not compile" >&2; exit 101; }
mkdir -p "target/$triple/ship" && cp "$folder/program" "target/$triple/ship/xtask"
"#;

#[test]
fn a_host_with_cargo_builds_what_cannot_be_built_here_and_goes_on_without_us() {
    let Some(far) = Far::new() else { return };
    far.script("cargo", &format!("folder='{}'\n{CARGO}", far.path("").display()));
    // What it is built from is found where the binary is called.
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let deploy = || far.start_with(&format!("CARGO_MANIFEST_DIR='{workspace}/xtask'"), "--settings stack.toml deploy");
    far.write("fault", "");
    far.write("go", "");
    deploy().finish().exits(3).says("no linker for it").says("could not be built there").says("it does not compile");
    ["fault", "go", "builds"].iter().for_each(|name| fs::remove_file(far.path(name)).unwrap());
    let first = deploy();
    until("the host builds", || first.stderr().contains("there: Compiling stack v0.1.0").then_some(()));
    first.kill();
    far.run("job list").exits(10).says("which is building the program").says("`cargo xtask deploy` follows the build");
    let second = deploy();
    until("it is followed again", || second.stderr().contains("there: Compiling").then_some(()));
    far.write("go", "");
    second.finish().exits(0);
    assert_eq!(fs::read_to_string(far.path("builds")).unwrap().lines().count(), 1, "it was built once");
    far.is_settled();
    let build = far.root().join("build");
    assert!(!build.exists());
    // Where a stack runs already, the build of another program stands among the jobs.
    fs::create_dir_all(build.join("0123abcd")).unwrap();
    fs::write(build.join("0123abcd/pid"), format!("{}\n", std::process::id())).unwrap();
    fs::write(build.join("0123abcd/log"), "   Compiling stack v0.1.0\n").unwrap();
    let jobs = far.ok("job list").stdout;
    assert!(jobs.ends_with("running   build the program         Compiling stack v0.1.0\n"), "{jobs}");
    far.run("job attach 0123abcd").exits(10).says("`cargo xtask deploy` follows it");
    fs::write(build.join("0123abcd/ended"), "101\n").unwrap();
    assert_eq!(far.ok("job list --json").json().as_array().unwrap().last().unwrap()["state"], "failed");
}
