//! Another machine over ssh: a real sshd on loopback, with keys and a configuration of its own.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    ops::Deref,
    path::Path,
    time::Duration,
};

use rustix::process::Signal;

use crate::stage::{Job, Stage, copy, lacks, until};

/// A stage whose settings name another machine: this one, by way of sshd.
struct Far {
    // Dropped first: its uninstall goes over the connection.
    stage: Stage,
    sshd: Option<Job>,
    port: u16,
}

impl Deref for Far {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Far {
    /// sshd runs, and nothing is deployed. `None`: there is no sshd to be had.
    fn new() -> Option<Self> {
        if lacks("sshd") || lacks("ssh") {
            return None;
        }
        let stage = Stage::new();
        let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
        stage.write("stack.toml", &settings.replace("[host]\n", "[host]\naddress = \"far\"\n"));
        for key in ["host_key", "user_key"] {
            stage.shell(&format!("ssh-keygen -q -t ed25519 -N '' -f {key}")).exits(0);
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut far = Far { stage, sshd: None, port };
        far.ssh_wrapper("cat");
        far.cargo_wrapper();
        far.log_in_with("/bin/sh");
        Some(far)
    }

    /// A first release runs there.
    fn deployed() -> Option<Self> {
        let far = Far::new()?;
        far.deploy_first();
        Some(far)
    }

    /// The first of all these deploys builds the program for the host, and the others wait for that.
    fn deploy_first(&self) {
        self.start("deploy").finish_within(Duration::from_secs(20 * 60)).exits(0);
    }

    /// (Re)starts sshd so that every command runs under this login shell, as sshd itself would run it.
    fn log_in_with(&mut self, shell: &str) {
        self.sshd = None;
        let folder = self.path("");
        let (folder, port) = (folder.display(), self.port);
        self.write(
            "sshd_config",
            &format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n\
                 AuthorizedKeysFile {folder}/user_key.pub\nSetEnv PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin\nForceCommand exec {shell} -c \"$SSH_ORIGINAL_COMMAND\"\n"
            ),
        );
        let host_key = fs::read_to_string(self.path("host_key.pub")).unwrap();
        self.write("known_hosts", &format!("[127.0.0.1]:{port} {host_key}"));
        self.write(
            "ssh_config",
            &format!(
                "Host far\n HostName 127.0.0.1\n Port {port}\n IdentityFile {folder}/user_key\n IdentitiesOnly yes\n \
                 UserKnownHostsFile {folder}/known_hosts\n"
            ),
        );
        fs::create_dir_all("/run/sshd").unwrap_or_default();
        self.sshd = Some(self.start_program(Path::new("/usr/sbin/sshd"), "-D -e -f sshd_config"));
        until("sshd listens", || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok());
    }

    /// Puts an `ssh` first on PATH that takes the stage's configuration and writes down each session; its output goes
    /// through `filter`.
    fn ssh_wrapper(&self, filter: &str) {
        let folder = self.path("");
        let folder = folder.display();
        // Only the filter holds our standard output: when it ends, so does what the client reads.
        self.script(
            "ssh",
            &format!(
                "ssh=\"/usr/bin/ssh -F {folder}/ssh_config -o ControlMaster=no -o ControlPath=none\"\n\
                 case \" $* \" in *\" -G \"*) exec $ssh \"$@\";; esac\n\
                 echo session >> {folder}/sessions\n\
                 exec 3>&1 4<&0 >/dev/null\n\
                 $ssh \"$@\" <&4 3>&- | {filter} >&3 &\n\
                 pipe=$!; exec 3>&- 4<&-; wait $pipe"
            ),
        );
    }

    /// What builds the program for the host needs the developer's own environment, which a stage does not have.
    fn cargo_wrapper(&self) {
        let variables = ["HOME", "PATH", "CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR"];
        let set = variables.iter().filter_map(|name| Some(format!("{name}='{}'", env::var(name).ok()?)));
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        self.script("cargo", &format!("cd '{workspace}' && {} exec cargo \"$@\"", set.collect::<Vec<_>>().join(" ")));
    }

    /// How many ssh sessions this takes.
    fn sessions(&self, act: impl FnOnce()) -> usize {
        let _ = fs::remove_file(self.path("sessions"));
        act();
        fs::read_to_string(self.path("sessions")).unwrap_or_default().lines().count()
    }

    /// The newest job there.
    fn job(&self) -> String {
        let jobs = self.ok("job list --json").json();
        jobs.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned()
    }
}

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
fn what_is_cut_short_is_no_answer() {
    let Some(far) = Far::deployed() else { return };
    far.ssh_wrapper("tee whole");
    let whole = far.ok("status --json").stdout;
    let answer = fs::read(far.path("whole")).unwrap();
    // Around the end of each line, and somewhere within: a fixed stride is as good as chance, and the same every time.
    let ends = answer.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let edges = ends.flat_map(|end| [end - 1, end, end + 1]);
    let within = (0..answer.len()).step_by(answer.len() / 8);
    for cut in edges.chain(within) {
        far.ssh_wrapper(&format!("dd bs=1 count={cut} status=none"));
        let ran = far.run("status --json");
        match cut >= answer.len() {
            true => assert_eq!(ran.exits(0).stdout, whole),
            false => assert_eq!(ran.exits(3).stdout, "", "of {cut} bytes of {}", answer.len()),
        }
    }
    far.ssh_wrapper("cat");
}

#[test]
fn a_host_finishes_without_its_client() {
    let Some(far) = Far::deployed() else { return };
    far.set("time_to_first_token", "\"2ms\"");
    let before = far.current();
    let client = far.start("deploy");
    until("the job begins", || client.stderr().contains("  1. ").then_some(()));
    client.kill();
    until("the job ends", || (!far.ok("job list").stdout.contains(" running")).then_some(()));
    assert_ne!(far.current(), before);
    far.ok("deploy").says("nothing to do");
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
    far.log_in_with("/bin/sh");
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
    fs::remove_file(&own).unwrap();
    let script = "for arg; do case $arg in --nonce=*) nonce=${arg#--nonce=};; esac; done\n\
                  echo \"{\\\"hello\\\":\\\"$nonce\\\",\\\"protocol\\\":0,\\\"program\\\":\\\"old\\\"}\"; cat >/dev/null";
    far.script("old", script);
    copy(&far.path("bin/old"), &own);
    fs::write(far.root().join("bin/xtask.id"), "old").unwrap();
    far.run("status").exits(3).says("speaks protocol 0");
    far.ok("deploy");
    far.is_settled();
}
