//! A stack of one's own: a folder, settings, ports that no other stage has, and the real binary.

#![expect(clippy::disallowed_methods, reason = "what is tested has to be started from outside")]

use std::{
    any::type_name_of_val,
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

/// Long enough that a machine under load gets there, short enough to end a test that hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// Long enough for what may have to build the program for a host first.
pub(crate) const WITH_A_BUILD: Duration = Duration::from_secs(20 * 60);

/// What is on PATH behind a stage's own programs, whoever runs the tests.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Ports of stages: below those that the system hands out by itself, in blocks of one guard and one a component.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const BLOCK: u16 = 6;

/// Looks until there is an answer; fails the test when its time is over.
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, look).unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
}

/// Looks until there is an answer, or no more patience.
fn within<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let found = look();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the host lacks a real part that the test needs, which then says so and returns. Where
/// `STACK_TESTS_REQUIRE` names the part, its lack is a failure.
pub(crate) fn lacks(part: &str) -> bool {
    let names: &[&str] = match part {
        "node_exporter" => &["node_exporter", "prometheus-node-exporter"],
        "alertmanager" => &["alertmanager", "prometheus-alertmanager"],
        _ => &[part],
    };
    let is_there = |folder: &str| names.iter().any(|name| Path::new(folder).join(name).exists());
    if PATH.split(':').any(is_there) {
        return false;
    }
    is_lacking(part)
}

/// A real coding agent, where `STACK_TESTS_AGENTS` names a folder with its program; `None` as [`lacks`] has it.
pub(crate) fn real_agent(name: &str) -> Option<PathBuf> {
    let folder = env::var_os("STACK_TESTS_AGENTS").map(PathBuf::from).unwrap_or_default();
    let program = folder.join(name);
    if !program.exists() {
        is_lacking(name);
        return None;
    }
    Some(program)
}

/// Says that a test is left out, or fails it.
pub(crate) fn is_lacking(part: &str) -> bool {
    let required = env::var("STACK_TESTS_REQUIRE").unwrap_or_default();
    let required = required.split([',', ' ']).any(|name| name == part);
    assert!(!required, "STACK_TESTS_REQUIRE names {part}, which cannot be had here");
    // Past what captures the output of tests that pass.
    let test = thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {part} cannot be had here");
    true
}

/// By a process of its own: a file that this one has written may still be open in what another test is just starting,
/// and then cannot be executed.
pub(crate) fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-Rp").args([from, to]).status().unwrap().success());
}

/// A process that cannot be mistaken for a later one with its pid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    started: String,
}

impl Process {
    fn from_json(identity: &Value) -> Option<Self> {
        let pid = i32::try_from(identity["pid"].as_i64()?).ok()?;
        Some(Process { pid, started: identity["started"].as_str()?.to_owned() })
    }

    pub(crate) fn with_pid(pid: u32) -> Self {
        let pid = i32::try_from(pid).unwrap();
        Process { pid, started: stat(pid).map(|fields| fields[19].clone()).unwrap_or_default() }
    }

    /// Zombies do not.
    pub(crate) fn runs(&self) -> bool {
        stat(self.pid).is_some_and(|fields| fields[0] != "Z" && fields[19] == self.started)
    }

    fn is_child_of(&self, other: &Process) -> bool {
        stat(self.pid).is_some_and(|fields| fields[1] == other.pid.to_string())
    }

    /// Which session it belongs to.
    pub(crate) fn session(&self) -> i32 {
        stat(self.pid).unwrap()[3].parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        assert!(self.runs(), "{self:?} does not run");
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    fn kill_if_any(&self) {
        if self.runs() {
            let _ = kill_process(Pid::from_raw(self.pid).unwrap(), Signal::KILL);
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        until("a killed process is gone", || (!self.runs()).then_some(()));
    }
}

/// The fields of `/proc/PID/stat` from the third, the state, on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat[stat.rfind(')')? + 2..].split(' ').map(str::to_owned).collect())
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    what: String,
    /// None: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails the test unless it ended like this.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        let Ran { what, stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "exit code of {what}\nstdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    /// Fails the test unless stderr has these words.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{} does not say {words:?} but\n{}", self.what, self.stderr);
        self
    }

    /// A JSON value a line of stdout.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).expect(&self.stdout)
    }
}

/// A program that runs beside the test, and not longer.
pub(crate) struct Job {
    what: String,
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
}

impl Job {
    fn start(what: String, command: &mut Command) -> Self {
        let (stdout, stderr) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        command.stdin(Stdio::null()).stdout(stdout.reopen().unwrap()).stderr(stderr.reopen().unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        Job { what, child, stdout, stderr }
    }

    pub(crate) fn process(&self) -> Process {
        Process::with_pid(self.child.id())
    }

    /// What stdout has so far.
    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    /// What stderr has so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Ran {
        self.finish_within(PATIENCE)
    }

    /// Waits so long for its end.
    pub(crate) fn finish_within(mut self, patience: Duration) -> Ran {
        let status = within(patience, || self.child.try_wait().unwrap());
        let status = status.unwrap_or_else(|| panic!("not within {patience:?}: the end of {}", self.what));
        Ran { what: self.what.clone(), code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Ends it where it stands.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Another process of this test binary that runs only `test`, which finds `variables` set. A build that goes on meanwhile
/// may have taken the binary's name away.
fn again(test: &impl Fn(), variables: &BTreeMap<&str, String>) -> Command {
    let mut command = Command::new(format!("/proc/{}/exe", std::process::id()));
    command.args(["--exact", &name_of(test), "--include-ignored", "--nocapture", "--test-threads=1"]).envs(variables);
    command
}

/// A test's name as the test binary knows it: the path of the function without the crate.
fn name_of<T>(test: &T) -> String {
    let path = type_name_of_val(test);
    path.split_once("::").unwrap().1.trim_end_matches("::{{closure}}").to_owned()
}

/// Runs a test in a process of its own, below `wrapper` if there is one.
pub(crate) fn alone(wrapper: &[&str], test: impl Fn()) {
    const INSIDE: &str = "STAGE_ALONE";
    if env::var_os(INSIDE).is_some() {
        return test();
    }
    let program = env::current_exe().unwrap();
    let words: Vec<&OsStr> = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(again(&test, &BTreeMap::new()).get_args()).env(INSIDE, "yes");
    let ran = Job::start(name_of(&test), &mut command).finish_within(WITH_A_BUILD).exits(0);
    assert!(ran.stdout.contains("1 passed"), "{}", ran.stdout);
}

/// Runs a test among mounts of its own, as root or as one who is root there alone.
pub(crate) fn among_own_mounts(test: impl Fn()) {
    const WAYS: [&[&str]; 2] = [&["unshare", "--mount"], &["unshare", "--map-root-user", "--mount"]];
    let is_open = |way: &&&[&str]| {
        let mut probe = Command::new(way[0]);
        Job::start(way.join(" "), probe.args(&way[1..]).arg("true")).finish().code == Some(0)
    };
    if lacks("unshare") {
        return;
    }
    match WAYS.iter().find(is_open) {
        Some(way) => alone(way, test),
        None => drop(is_lacking("unshare")),
    }
}

/// Whether this is not root, who alone can be somebody else on a host.
pub(crate) fn lacks_root() -> bool {
    !rustix::process::geteuid().is_root() && is_lacking("root")
}

/// Runs a system's program to its good end.
pub(crate) fn system(program: &str, args: &[&str]) {
    Job::start(format!("{program} {args:?}"), Command::new(program).args(args).env("PATH", PATH)).finish().exits(0);
}

/// A process that has nothing to do with any stage.
pub(crate) fn innocent() -> Job {
    Job::start("sleep".to_owned(), Command::new("sleep").arg("1000"))
}

/// A stack of one's own. Dropping it uninstalls it, proves that nothing of it runs, and removes its folder.
pub(crate) struct Stage {
    folder: TempDir,
    program: PathBuf,
    /// The guard's port and those of the components.
    ports: [u16; BLOCK as usize],
    /// Held as long as the ports are ours.
    _guard: TcpListener,
    /// Mounts on top of the root.
    mounts: Cell<u32>,
}

impl Stage {
    /// Nothing is deployed yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("stage-").tempdir().unwrap();
        // A name of its own: a build that goes on meanwhile must not change what is tested.
        let program = folder.path().join("program");
        let built = env!("CARGO_BIN_EXE_xtask");
        if fs::hard_link(built, &program).is_err() {
            copy(Path::new(built), &program);
        }
        let (ports, guard) = take_ports();
        let stage = Stage { folder, program, ports, _guard: guard, mounts: Cell::new(0) };
        let [_, api, engine, prometheus, node_exporter, alertmanager] = ports;
        stage.write(
            "stack.toml",
            &format!(
                "[host]\nroot = \"{}\"\n\n[engine]\nruntime = \"sandbox\"\n\n[ports]\napi = {api}\nengine = {engine}\n\
                 prometheus = {prometheus}\nnode_exporter = {node_exporter}\nalertmanager = {alertmanager}\n\n[monitoring]\nretention = \"15d\"\nscrape_interval = \"1s\"\n\n\
                 [sandbox]\ntime_to_first_token = \"1ms\"\ntime_per_output_token = \"0ms\"\nload = \"0ms\"\n",
                stage.root().display()
            ),
        );
        stage
    }

    /// A first release runs.
    pub(crate) fn deployed() -> Self {
        let stage = Stage::new();
        stage.ok("deploy");
        stage
    }

    /// A file in the folder of the settings.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The program that this stage deploys.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// What the settings ask for: api, engine, prometheus, node_exporter, alertmanager.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports[1..]
    }

    /// Writes a file in the folder of the settings.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Changes a line of the settings.
    pub(crate) fn set(&self, key: &str, value: &str) {
        let text = fs::read_to_string(self.path("stack.toml")).unwrap();
        let start = format!("{key} = ");
        assert!(text.lines().any(|line| line.starts_with(&start)), "the settings have no {key}");
        let lines = text.lines().map(|line| match line.starts_with(&start) {
            true => format!("{start}{value}\n"),
            false => format!("{line}\n"),
        });
        self.write("stack.toml", &lines.collect::<String>());
    }

    /// Puts a program of this name first on PATH: a shell script that does as told, and then serves, answering
    /// everything with 200, and with what it has set as `STAGE_SAYS`.
    pub(crate) fn fake(&self, name: &str, script: &str) {
        let serve = again(&serves, &BTreeMap::new());
        let command: Vec<String> = std::iter::once(serve.get_program())
            .chain(serve.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let folder = self.folder.path().display();
        let find_address = "for arg; do case $arg in --web.listen-address=*) listen=${arg#*=};; esac; done";
        let serve = format!("STAGE_SERVES=$listen exec {}", command.join(" "));
        self.script(name, &format!("cd '{folder}'\n{find_address}\n{script}\n{serve}"));
    }

    /// Puts a shell script of this name first on PATH.
    pub(crate) fn script(&self, name: &str, text: &str) {
        let draft = format!("draft-{name}");
        self.write(&draft, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.path(&draft), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(self.path("bin")).unwrap();
        copy(&self.path(&draft), &self.path(&format!("bin/{name}")));
    }

    /// A command in this stage's folder that knows of nothing outside of it.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.path();
        command.current_dir(folder).env_clear().env("HOME", folder).env("LANG", "C.UTF-8");
        command.env("PATH", format!("{}:{PATH}", folder.join("bin").display()));
        command
    }

    /// Starts the binary with these words.
    pub(crate) fn start(&self, line: &str) -> Job {
        Job::start(line.to_owned(), self.command(&self.program).args(line.split_whitespace()))
    }

    /// Starts another program in this stage.
    pub(crate) fn start_program(&self, program: &Path, line: &str) -> Job {
        Job::start(program.display().to_string(), self.command(program).args(line.split_whitespace()))
    }

    /// The same, with words that may have spaces in them.
    pub(crate) fn start_words(&self, program: &Path, words: &[String]) -> Job {
        Job::start(program.display().to_string(), self.command(program).args(words))
    }

    /// Runs the binary with these words.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.start(line).finish()
    }

    /// Runs the binary with these words, to its good end.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> Ran {
        self.run(line).exits(0)
    }

    /// Runs a shell's line; `$XTASK` is the binary.
    pub(crate) fn shell(&self, script: &str) -> Ran {
        self.start_shell(script).finish()
    }

    /// Starts a shell's line; `$XTASK` is the binary.
    pub(crate) fn start_shell(&self, script: &str) -> Job {
        let mut shell = self.command(Path::new("/bin/sh"));
        Job::start(script.to_owned(), shell.env("XTASK", &self.program).args(["-c", script]))
    }

    /// Runs `test` of this binary in a process of its own, with the environment that the stage gives.
    pub(crate) fn act(&self, test: impl Fn(), variables: &BTreeMap<&str, String>) -> Ran {
        let again = again(&test, variables);
        let mut command = self.command(Path::new(again.get_program()));
        Job::start(name_of(&test), command.args(again.get_args()).envs(variables)).finish()
    }

    /// `status --json`, whatever it exits with.
    pub(crate) fn status(&self) -> Value {
        self.run("status --json").json()
    }

    /// A component in `status --json`.
    pub(crate) fn part(&self, name: &str) -> Value {
        let status = self.status();
        let parts = status["components"].as_array().unwrap();
        parts.iter().find(|part| part["name"] == name).unwrap_or(&Value::Null).clone()
    }

    pub(crate) fn await_state(&self, name: &str, state: &str) -> Value {
        until(&format!("the {name} is {state}"), || Some(self.part(name)).filter(|part| part["state"] == state))
    }

    /// Waits until a component has another process than `before`, and is healthy.
    pub(crate) fn await_successor(&self, name: &str, before: &Process) {
        until(&format!("the {name} is back"), || {
            let is_new = self.components().get(name).is_some_and(|now| now != before);
            (is_new && self.part(name)["state"] == "healthy").then_some(())
        });
    }

    /// Fails the test unless everything that is deployed is healthy.
    #[track_caller]
    pub(crate) fn is_healthy(&self) {
        let status = self.ok("status --json").json();
        let parts = status["components"].as_array().unwrap();
        assert!(parts.iter().all(|part| part["state"] == "healthy" || part["state"] == "absent"), "{status:#}");
        assert!(parts.iter().filter(|part| part["state"] == "healthy").count() >= 2, "{status:#}");
    }

    /// Fails the test unless the stack is healthy, and nothing else is left of whatever brought it there: no process, no
    /// file, no open journal.
    #[track_caller]
    pub(crate) fn is_settled(&self) {
        self.is_healthy();
        let known: BTreeSet<Process> = self.components().into_values().chain([self.supervisor()]).collect();
        let mut found = BTreeSet::from_iter(self.processes());
        // nginx's workers are children of a component, and have its standard input.
        found.retain(|process| known.contains(process) || !known.iter().any(|it| process.is_child_of(it)));
        assert_eq!(found, known);
        let releases = self.releases();
        assert!(releases.contains(&self.current().unwrap()) && releases.len() <= 3, "{releases:?}");
        let leftover = self.deployment().into_keys().find(|path| path.components().any(|it| is_hidden(it.as_os_str())));
        assert_eq!(leftover, None);
        assert!(self.journal_is_closed());
    }

    /// Whether the last apply came to its end.
    pub(crate) fn journal_is_closed(&self) -> bool {
        let journal = fs::read_to_string(self.root().join("state/journal.jsonl")).unwrap();
        journal.trim_end().lines().last().unwrap().starts_with("{\"entry\":\"end\"")
    }

    /// Which process each component is.
    pub(crate) fn components(&self) -> BTreeMap<String, Process> {
        let status = self.state("status.json");
        let running = status["components"].as_object().unwrap().iter();
        running.filter_map(|(name, it)| Some((name.clone(), Process::from_json(&it["identity"])?))).collect()
    }

    pub(crate) fn component(&self, name: &str) -> Process {
        self.components().remove(name).unwrap_or_else(|| panic!("the {name} has no process"))
    }

    /// The components whose process is not the one they had.
    pub(crate) fn replaced_since(&self, before: &BTreeMap<String, Process>) -> Vec<String> {
        let now = self.components();
        let names = now.keys().chain(before.keys()).filter(|name| now.get(*name) != before.get(*name));
        names.collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    pub(crate) fn supervisor(&self) -> Process {
        Process::from_json(&self.state("status.json")["supervisor"]["identity"]).unwrap()
    }

    fn state(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.root().join("state").join(name)).unwrap()).unwrap()
    }

    /// The release that is to run.
    pub(crate) fn current(&self) -> Option<String> {
        let target = fs::read_link(self.root().join("current")).ok()?;
        Some(target.file_name().unwrap().to_str().unwrap().to_owned())
    }

    /// The releases on the host, and whatever else is in their folder.
    pub(crate) fn releases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("releases")).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Everything that a deploy writes and nothing else does: programs, releases, `current`, the history.
    pub(crate) fn deployment(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        for place in ["bin", "releases", "current", "state/history.json"] {
            collect(&self.root().join(place), &mut files);
        }
        files
    }

    /// All processes that hold a lock of this stage: the supervisor, the components, and what they started, unless they
    /// gave it another standard input.
    pub(crate) fn processes(&self) -> Vec<Process> {
        processes_at("fd/0", &self.root().join("state"))
    }

    /// Whatever else the stage has started, too: it works in the stage's folder.
    fn strays(&self) -> Vec<Process> {
        let mut strays = self.processes();
        strays.extend(processes_at("cwd", self.folder.path()));
        strays
    }

    /// Mounts something on the root; only among mounts of one's own.
    pub(crate) fn mount(&self, args: &[&str]) {
        fs::create_dir_all(self.root()).unwrap();
        system("mount", &[args, &[self.root().to_str().unwrap()]].concat());
        self.mounts.set(self.mounts.get() + 1);
    }

    /// Takes away what was mounted last.
    pub(crate) fn unmount(&self) {
        system("umount", &["--lazy", self.root().to_str().unwrap()]);
        self.mounts.set(self.mounts.get() - 1);
    }

    /// Asks a component over HTTP; an answer is a status and a text.
    pub(crate) fn get(&self, component: &str, path: &str) -> Result<(u16, String), reqwest::Error> {
        let url = self.part(component)["url"].as_str().unwrap().to_owned() + path;
        let client = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let answer = client.get(url).send()?;
        Ok((answer.status().as_u16(), answer.text()?))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.root().exists() {
            let mut uninstall = self.start("uninstall --data --yes");
            let _ = within(PATIENCE, || uninstall.child.try_wait().transpose());
        }
        let failed = thread::panicking();
        let clean = || self.strays().is_empty().then_some(());
        let left = if failed || within(PATIENCE, clean).is_none() { self.strays() } else { Vec::new() };
        let _ = within(PATIENCE, || {
            self.strays().iter().for_each(Process::kill_if_any);
            clean()
        });
        (0..self.mounts.get()).for_each(|_| self.unmount());
        // A second panic would end the other tests too.
        assert!(failed || left.is_empty(), "{left:?} outlived its stage");
    }
}

/// Takes a block of ports that no other test has, in this process or another: its guard can be bound only once.
pub(crate) fn take_ports() -> ([u16; BLOCK as usize], TcpListener) {
    let first = PORTS.start + (std::process::id() % 997) as u16 * BLOCK;
    let blocks = (first..PORTS.end).chain(PORTS.start..first).step_by(usize::from(BLOCK));
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).ok();
    for start in blocks {
        let ports: [u16; BLOCK as usize] = std::array::from_fn(|index| start + index as u16);
        if let (Some(guard), true) = (free(&start), ports[1..].iter().all(|port| free(port).is_some())) {
            return (ports, guard);
        }
    }
    panic!("no free ports in {PORTS:?}")
}

/// All processes one of whose links in /proc points to a place or below it.
fn processes_at(link: &str, place: &Path) -> Vec<Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let there = pids.filter(|entry| fs::read_link(entry.path().join(link)).is_ok_and(|to| to.starts_with(place)));
    there.filter_map(|entry| Some(Process::with_pid(entry.file_name().to_str()?.parse().ok()?))).collect()
}

/// What is at a path and below it: where links point, what small files hold, and how long large ones are.
fn collect(path: &Path, files: &mut BTreeMap<PathBuf, String>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), files);
        }
        return;
    }
    let content = match meta.is_symlink() {
        true => fs::read_link(path).unwrap().display().to_string(),
        false if meta.len() > 1 << 20 => format!("{} bytes", meta.len()),
        false => fs::read_to_string(path).unwrap(),
    };
    files.insert(path.to_owned(), content);
}

/// Names that start with a dot are of things that are not finished.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// What a fake component becomes; see [`Stage::fake`].
#[test]
#[ignore = "no test: child processes of others begin here, and lack nothing"]
fn serves() {
    let Ok(address) = env::var("STAGE_SERVES") else { return };
    let said = env::var("STAGE_SAYS").unwrap_or_default();
    let listener = TcpListener::bind(address).unwrap();
    for mut stream in listener.incoming().flatten() {
        let _ = stream.read(&mut [0; 4096]);
        let length = said.len();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{said}");
    }
}
