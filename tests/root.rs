//! What only root may do, asked for as a client asks: through a sudo that stands in for the real one, and at last through
//! that one.

use std::fs;

use serde_json::{Value, json};

use crate::{
    far::Far,
    stage::{Job, Ran, Stage, WITH_A_BUILD, among_own_mounts, lacks, lacks_root, system, until},
};

/// It knows one password, wants it unless there is a file `free`, and writes down how it was called.
const SUDO: &str = r#"
echo "$*" >> sudo.log
env >> sudo.log
case $1 in
    -n) [ -e free ] || { echo "sudo: a password is required" >&2; exit 1; }; shift ;;
    -S) read -r given; [ "$given" = open-sesame ] || { echo "sudo: no, that is wrong" >&2; exit 1; }; shift 3 ;;
esac
[ "$1" = -- ] && shift
exec "$@"
"#;

/// A stack whose owner is not root.
fn owned_by_nobody() -> Stage {
    let stage = Stage::deployed();
    stage.script("sudo", SUDO);
    if rustix::process::geteuid().is_root() {
        let folder = stage.path("");
        let root = stage.root();
        let state = root.join("state");
        system("chown", &["65534:65534", folder.to_str().unwrap(), root.to_str().unwrap()]);
        system("chown", &["-R", "65534:65534", state.to_str().unwrap()]);
    }
    stage
}

/// Has the host carry out a plan that lets root run this, after what `first` asks for.
fn apply(stage: &Stage, first: &[Value], script: &str) -> Job {
    let mut plan = stage.ok("deploy --dry-run --json").json();
    let command = json!({ "program": "/bin/sh", "args": ["-c", script], "env": { "MOOD": "very good" } });
    plan["steps"] = json!([{ "step": "as_root", "what": "make a file", "commands": [command] }]);
    let apply = json!({ "request": "apply", "plan": plan, "contents": {} });
    let requests: String = first.iter().chain([&apply]).map(|request| format!("{request}\n")).collect();
    stage.write("requests", &requests);
    let user = match rustix::process::geteuid().is_root() {
        true => "setpriv --reuid=65534 --regid=65534 --clear-groups",
        false => "",
    };
    let root = stage.root().display().to_string();
    stage.start_shell(&format!("exec {user} '{root}/bin/xtask' host serve --root='{root}' --nonce=n < requests"))
}

fn password(text: &str) -> Value {
    json!({ "request": "authorize", "password": text })
}

/// The host's last answer.
fn answer(ran: &Ran) -> Value {
    ran.json_lines().last().unwrap()["end"]["answer"].clone()
}

fn done() -> Value {
    json!({ "Ok": { "ended": { "applied": { "outcome": "done" } } } })
}

#[test]
fn root_is_had_through_sudo_where_that_asks_for_nothing() {
    let stage = owned_by_nobody();
    stage.write("free", "");
    let ran = apply(&stage, &[], "echo \"$MOOD\" > made").finish().exits(0);
    assert_eq!(answer(&ran), done(), "{ran:?}");
    assert_eq!(fs::read_to_string(stage.path("made")).unwrap(), "very good\n");
    stage.is_settled();
}

#[test]
fn a_password_goes_to_sudo_and_nowhere_else() {
    let stage = owned_by_nobody();
    let ran = apply(&stage, &[password("open-sesame")], "echo done > made; cat").finish().exits(0);
    assert_eq!(answer(&ran), done(), "{ran:?}");
    assert_eq!(fs::read_to_string(stage.path("made")).unwrap(), "done\n");
    assert!(!ran.stdout.contains("sesame") && !ran.stderr.contains("sesame"), "{ran:?}");
    let found = stage.shell("grep -rl sesame root sudo.log");
    assert_eq!((found.code, found.stdout.as_str()), (Some(1), ""), "it is written down nowhere");
    stage.is_settled();
}

#[test]
fn where_there_is_no_way_to_root_nothing_is_changed_and_the_commands_are_told() {
    let stage = owned_by_nobody();
    let journal = || fs::read(stage.root().join("state/journal.jsonl")).unwrap();
    let before = (journal(), stage.deployment());
    for (first, why) in
        [(vec![], "sudo wants a password"), (vec![password("guess")], "sudo does not take that password")]
    {
        let failure = answer(&apply(&stage, &first, "echo done > made").finish().exits(0))["Err"].clone();
        assert_eq!(failure["class"], "refused", "{failure}");
        assert!(failure["message"].as_str().unwrap().ends_with(why), "{failure}");
        let by_hand = "\n  sudo env 'MOOD=very good' /bin/sh -c 'echo done > made'";
        assert!(failure["hint"].as_str().unwrap().contains(by_hand), "{failure}");
        assert_eq!((journal(), stage.deployment()), before);
        assert!(!stage.path("made").exists());
    }
}

#[test]
fn what_root_has_begun_holds_the_lock_when_its_deployer_is_killed() {
    let stage = owned_by_nobody();
    let ran = apply(&stage, &[password("open-sesame")], "echo > begun; while [ ! -e go ]; do sleep 0.05; done");
    until("root is at it", || stage.path("begun").exists().then_some(()));
    let lock = fs::read_to_string(stage.root().join("state/apply.lock")).unwrap();
    let pid = lock.split("pid ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    crate::stage::Process::with_pid(pid).kill();
    assert_eq!(answer(&ran.finish().exits(0))["Err"]["class"], "failed");
    stage.run("deploy").exits(11).says("is being changed by");
    stage.write("go", "");
    until("the lock is free", || Some(stage.run("deploy")).filter(|ran| ran.code != Some(11))).exits(0);
    stage.is_settled();
}

/// A person at a terminal: types a password once a prompt asks for one and echoes nothing, and tells what was shown.
pub(crate) const TYPIST: &str = r#"exec python3 -c '
import os, pty, sys, termios, time
password, command = sys.argv[1].encode(), sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execvp(command[0], command)
shown = b""
while True:
    try:
        shown += os.read(terminal, 4096) or sys.exit("the terminal ended")
    except OSError:
        break
    if password and b"password for sudo on far: " in shown:
        while termios.tcgetattr(terminal)[3] & termios.ECHO:
            time.sleep(0.01)
        os.write(terminal, password + b"\n")
        password = b""
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
' "$@""#;

/// Who may become root there by a password, which is his name.
const USER: (u32, &str) = (4242, "stack-tester");

/// Among mounts of one's own: such a user, no Docker, and an `apt-get` that tells who called it.
fn with_a_user_and_without_docker(far: &mut Far) {
    let (id, name) = USER;
    let hash = far.shell(&format!("openssl passwd -6 {name}")).exits(0).stdout;
    for (file, more) in [
        ("passwd", format!("{name}:x:{id}:{id}::/tmp:/bin/sh\n")),
        ("shadow", format!("{name}:{}:20000:0:99999:7:::\n", hash.trim())),
        ("sudoers", format!("{name} ALL=(ALL) ALL\n")),
    ] {
        let real = format!("/etc/{file}");
        far.write(file, &(fs::read_to_string(&real).unwrap() + &more));
    }
    far.log_in_as(id);
    for (file, mode) in [("passwd", "644"), ("shadow", "640"), ("sudoers", "440")] {
        let (made, real) = (far.path(file), format!("/etc/{file}"));
        let made = made.to_str().unwrap();
        system("chown", &["0:0", made]);
        system("chmod", &[mode, made]);
        system("mount", &["--bind", made, &real]);
    }
    for docker in ["/usr/bin/docker", "/usr/local/bin/docker"] {
        if fs::exists(docker).unwrap() {
            system("mount", &["--bind", "/dev/null", docker]);
        }
    }
    let folder = far.path("").display().to_string();
    let docker = "#!/bin/sh\necho Cannot connect to the Docker daemon >&2\nexit 1\n";
    let make = format!("printf '{docker}' > '{folder}bin/docker'; chmod 755 '{folder}bin/docker'");
    far.script("apt-get", &format!("echo \"$(id -u) $*\" >> '{folder}apt.log'\n{make}"));
    far.script("typist", TYPIST);
    far.set("runtime", "\"docker\"");
}

#[test]
fn one_prompt_here_has_sudo_there_do_what_root_must() {
    if lacks("sudo") || lacks("python3") || lacks("openssl") || lacks_root() {
        return;
    }
    among_own_mounts(|| {
        let Some(mut far) = Far::new() else { return };
        with_a_user_and_without_docker(&mut far);
        let by_hand = "apt-get install -q -y --no-install-recommends docker.io jq git";
        let told =
            far.start("deploy").finish_within(WITH_A_BUILD).exits(7).says("this needs root, and sudo wants a password");
        told.says("nothing was changed").says(by_hand);
        let typed = |password: &str| far.shell(&format!("typist {password} \"$XTASK\" deploy --ask-sudo"));
        let shown = typed("guess").exits(7).stdout;
        assert!(shown.contains("sudo does not take that password"), "{shown}");
        assert!(!far.path("apt.log").exists() && far.deployment().is_empty());
        // What it installs is an engine that does not run: that much is known at the second look.
        let shown = typed(USER.1).exits(7).stdout;
        assert_eq!(shown.matches("password for sudo on far").count(), 1, "{shown}");
        assert!(shown.contains("Docker is installed, and its engine does not run"), "{shown}");
        let called = fs::read_to_string(far.path("apt.log")).unwrap();
        assert!(called.starts_with("0 update -q\n0 install") && called.lines().count() == 2, "{called}");
        assert!(!shown.contains(USER.1), "the terminal echoes it");
        let found = far.shell(&format!("grep -rl {} root", USER.1));
        assert_eq!((found.code, found.stdout.as_str()), (Some(1), ""), "it is written down nowhere");
    });
}
