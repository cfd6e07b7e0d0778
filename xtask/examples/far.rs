//! The figures of docs/performance.md for another machine: this one, by way of an sshd of its own on loopback.
//!
//! `cargo run --example far`. A deploy with nothing to do runs beside `ssh host true` in turns, so that a busy moment hits
//! both, each as a connection of its own and over one that is shared; and a first deploy is weighed.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

const TIMES: usize = 25;

/// Where the sandbox's ports are chosen by the system, nothing is in anybody's way.
const SETTINGS: &str =
    "[engine]\nruntime = \"sandbox\"\n[ports]\napi = 0\nengine = 0\nprometheus = 0\nnode_exporter = 0\n";

/// What goes there and comes back is kept where `WEIGH` is set.
const SSH: &str = r#"#!/bin/sh
case " $* " in *" -G "*) exec $ssh "$@";; esac
echo >> "$folder/sessions"
[ -z "$WEIGH" ] && exec $ssh "$@"
tee "$folder/sent" | $ssh "$@" | tee "$folder/received"
"#;

fn main() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a member has a workspace")?;
    let shell = Shell::new()?;
    shell.change_dir(workspace);
    cmd!(shell, "cargo build --quiet --bin xtask").quiet().run()?;
    let xtask = workspace.join("target/debug/xtask");
    let folder = tempfile::tempdir()?;
    let path = std::env::var("PATH")?;
    shell.set_var("PATH", format!("{}:{path}", folder.path().join("bin").display()));
    let sshd = sshd(&shell, folder.path())?;
    let settings = folder.path().join("stack.toml");
    let root = folder.path().join("root");
    fs::write(&settings, format!("[host]\naddress = \"far\"\nroot = {root:?}\n{SETTINGS}"))?;

    let figures = figures(&shell, folder.path(), &xtask, &settings);
    let gone = cmd!(shell, "{xtask} --settings {settings} uninstall --data --yes").quiet().ignore_stderr().run();
    cmd!(shell, "/usr/bin/ssh -F {sshd} -O exit far").quiet().ignore_stderr().ignore_status().run()?;
    let pid = fs::read_to_string(folder.path().join("sshd.pid"))?;
    cmd!(shell, "kill").arg(pid.trim()).quiet().run()?;
    figures.and(Ok(gone?))
}

fn figures(shell: &Shell, folder: &Path, xtask: &Path, settings: &Path) -> Result<()> {
    let deploy =
        || Ok(cmd!(shell, "{xtask} --settings {settings} deploy").quiet().ignore_stdout().ignore_stderr().run()?);
    // The first one builds the program for the host; then it is weighed.
    deploy()?;
    cmd!(shell, "{xtask} --settings {settings} uninstall --data --yes").quiet().ignore_stderr().run()?;
    wrap(folder, "no")?;
    fs::remove_file(folder.join("sessions"))?;
    shell.set_var("WEIGH", "yes");
    let first = time(deploy)?;
    shell.set_var("WEIGH", "");
    let size = |name: &str| Ok::<_, anyhow::Error>(fs::metadata(folder.join(name))?.len());
    let sessions = fs::read_to_string(folder.join("sessions"))?.lines().count();
    println!("{:<56}{:.2} s", "first deploy of a sandbox, the program being built", first.as_secs_f64());
    println!("{:<56}{sessions} session, {} kB there, {} kB back", "", size("sent")? / 1000, size("received")? / 1000);

    for (sharing, what) in [("no", "a connection of its own"), ("auto", "a shared connection")] {
        wrap(folder, sharing)?;
        deploy()?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            theirs.push(time(|| Ok(cmd!(shell, "ssh -T far true").quiet().run()?))?);
            ours.push(time(deploy)?);
        }
        report(&format!("deploy with nothing to do, {what}"), &mut ours);
        report(&format!("`ssh host true`, {what}"), &mut theirs);
        println!("{:<56}{:.2}", "by medians", median(&ours).as_secs_f64() / median(&theirs).as_secs_f64());
    }
    Ok(())
}

/// An sshd with keys of its own; answers the client's configuration.
fn sshd(shell: &Shell, folder: &Path) -> Result<std::path::PathBuf> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    for key in ["host_key", "user_key"] {
        let file = folder.join(key);
        cmd!(shell, "ssh-keygen -q -t ed25519 -N").arg("").arg("-f").arg(file).quiet().run()?;
    }
    let at = folder.display();
    fs::write(
        folder.join("sshd_config"),
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host_key\nPidFile {at}/sshd.pid\nUsePAM no\nStrictModes no\n\
             AuthorizedKeysFile {at}/user_key.pub\n"
        ),
    )?;
    fs::write(folder.join("known_hosts"), format!("far {}", fs::read_to_string(folder.join("host_key.pub"))?))?;
    let config = folder.join("ssh_config");
    fs::write(
        &config,
        format!(
            "Host far\n HostName 127.0.0.1\n Port {port}\n HostKeyAlias far\n IdentityFile {at}/user_key\n IdentitiesOnly yes\n \
             UserKnownHostsFile {at}/known_hosts\n ControlPath {at}/%C\n ControlPersist 60\n"
        ),
    )?;
    wrap(folder, "no")?;
    // Not there on every system, and only root may make it; then sshd says so.
    let _ = fs::create_dir_all("/run/sshd");
    let sshd_config = folder.join("sshd_config");
    cmd!(shell, "/usr/sbin/sshd -f {sshd_config}").quiet().run()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        ensure!(Instant::now() < deadline, "sshd does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(config)
}

/// Puts an `ssh` first on PATH that shares its connection, or does not.
fn wrap(folder: &Path, sharing: &str) -> Result<()> {
    let script = folder.join("bin/ssh");
    fs::create_dir_all(folder.join("bin"))?;
    let at = folder.display();
    let own = if sharing == "no" { " -o ControlPath=none" } else { "" };
    let ssh = format!("folder='{at}'\nssh=\"/usr/bin/ssh -F {at}/ssh_config -o ControlMaster={sharing}{own}\"\n");
    fs::write(&script, SSH.replacen('\n', &format!("\n{ssh}"), 1))?;
    Ok(fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?)
}

fn time(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    run()?;
    Ok(begun.elapsed())
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let [min, median, max] = [times[0], median(times), times[times.len() - 1]].map(|time| time.as_secs_f64());
    println!("{what:<56}{min:.3} / {median:.3} / {max:.3} s  (n = {})", times.len());
}

/// Of sorted times.
fn median(times: &[Duration]) -> Duration {
    times[times.len() / 2]
}
