//! The one place that starts, replaces and signals programs.
//!
//! A process is known by a lock that it holds and by its pid *and* start time: a pid alone may belong to somebody else
//! by now. Locks ride on standard input, which `exec` and children inherit by themselves, so that "the lock is free"
//! means "the process and all that it started are gone". Invariant: no signal is sent on the strength of a pid alone.

#![expect(clippy::disallowed_methods, reason = "this is the place the rule points to")]

mod work;

pub(crate) use work::{Lines, ask_within, pipe, read_lines, run_following, said};

use std::{
    borrow::Cow,
    collections::BTreeMap,
    env, fs,
    fs::{File, TryLockError},
    io::{self, Read, Seek, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command as StdCommand, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Doing, Failure},
    secret::Secret,
};

/// Folders that non-interactive shells and cron leave out of PATH, and where tools are all the same.
const TOOL_FOLDERS: [&str; 8] = [
    "/opt/homebrew/bin",
    "/opt/homebrew/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/sbin",
];

/// Variables that a component takes from us; everything else it is given by name.
const KEPT_VARIABLES: [&str; 6] = ["HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "USER"];

/// The slowest of the tools that only tell something, macOS' `system_profiler`, takes a second or two.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What to run, as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// An absolute path; a bare name where root is to find it on its own PATH.
    pub program: PathBuf,
    /// Without the program's name.
    pub args: Vec<String>,
    /// Set on top of the few variables that every component gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Command {
    /// A word as a shell has to be given it.
    pub(crate) fn word(word: &str) -> Cow<'_, str> {
        quoted(word)
    }

    fn std(&self) -> StdCommand {
        let mut command = StdCommand::new(&self.program);
        command.args(&self.args).env_clear();
        command.envs(KEPT_VARIABLES.iter().filter_map(|name| Some((name, env::var_os(name)?))));
        command.envs(&self.env);
        command
    }
}

/// As one would type it.
impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&quoted(&self.program.to_string_lossy()))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// A word as a shell has to be given it.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |it: char| it.is_alphanumeric() || "-_./:=,+@%~".contains(it);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', "'\\''")).into(),
    }
}

/// What a finished command left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    /// Both streams, as they came.
    pub(crate) output: String,
}

/// A step's command under way.
pub(crate) struct Started {
    handle: duct::Handle,
    output: File,
}

/// Starts a step's command. It inherits `lock`, so that the lock outlives us if we are killed meanwhile; and it prints to
/// a file, since to write where nobody reads any more would end it.
pub(crate) fn start(command: &Command, lock: &File) -> io::Result<Started> {
    let output = tempfile::tempfile()?;
    let handle = expression(command)
        .stdin_file(lock.try_clone()?)
        .stderr_to_stdout()
        .stdout_file(output.try_clone()?)
        .unchecked()
        .start()?;
    Ok(Started { handle, output })
}

/// The same for a command that reads `words` on its standard input. There the lock cannot be, so a shell that waits for
/// the command holds it; the words go to that shell in a pipe, in place of standard error.
pub(crate) fn start_telling(command: &Command, words: &Secret, lock: &File) -> io::Result<Started> {
    let output = tempfile::tempfile()?;
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(format!("{}\n", words.reveal()).as_bytes())?;
    let program = command.program.display().to_string();
    // Not its last command: for that one a shell may step aside.
    let script = ["-c", "\"$@\" <&2 2>&1; exit $?", "sh", &program].map(str::to_owned);
    let handle = duct::cmd("/bin/sh", script.iter().chain(&command.args))
        .stdin_file(lock.try_clone()?)
        .stderr_file(reader)
        .stdout_file(output.try_clone()?)
        .unchecked()
        .start()?;
    Ok(Started { handle, output })
}

impl Started {
    /// Waits so long for its end.
    pub(crate) fn wait(&mut self, patience: Duration) -> io::Result<Option<Finished>> {
        let Some(done) = self.handle.wait_timeout(patience)? else { return Ok(None) };
        let success = done.status.success();
        let mut output = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut output)?;
        Ok(Some(Finished { success, output: String::from_utf8_lossy(&output).trim().to_owned() }))
    }
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With status 0.
    Well,
    /// Otherwise, in words.
    Badly(String),
    /// It was ended, with all that it had started, when its time was over.
    OutOfTime,
}

/// Runs a user's own tool, with all of the user's own variables, in `folder`; both its streams go to `output`. It and all
/// that it started are gone afterwards, whether it ended, ran out of time, or `check` objected.
pub fn run_tool(
    command: &Command,
    folder: &Path,
    output: &File,
    timeout: Duration,
    check: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    let start = || {
        let mut tool = StdCommand::new(&command.program);
        // Some believe PWD, and would work in our folder instead.
        tool.args(&command.args).envs(&command.env).current_dir(folder).env("PWD", folder).process_group(0);
        tool.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        tool.spawn()
    };
    let process = Identity::of_child(start().doing("cannot start", &command.program)?.id());
    let deadline = Instant::now() + timeout;
    let ended = loop {
        // Its status alone says that it ended: of some programs the first thread ends long before the others.
        match process.status() {
            Some(how) if how == "exited with status 0" => break Ok(Ended::Well),
            Some(how) => break Ok(Ended::Badly(how)),
            None => {}
        }
        let objection = check();
        if objection.is_err() || Instant::now() > deadline {
            process.signal_group(Signal::KILL);
            process.end_group();
            break objection.map(|()| Ended::OutOfTime);
        }
        thread::sleep(Duration::from_millis(20));
    };
    while process.is_alive() {
        thread::sleep(Duration::from_millis(1));
    }
    process.end_group();
    ended
}

/// Runs a step's command to its end.
pub(crate) fn run(command: &Command, lock: &File, timeout: Duration) -> io::Result<Finished> {
    let mut started = start(command, lock)?;
    started.wait(timeout)?.map_or_else(
        || {
            started.handle.kill()?;
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", timeout.as_secs())))
        },
        Ok,
    )
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// Whether it ended with status 0.
    pub success: bool,
    /// What it printed.
    pub stdout: String,
    /// What it complained about, without the last line's end.
    pub stderr: String,
}

/// Runs a command that answers soon, with `input` on its standard input.
pub fn ask(command: &Command, input: &str) -> io::Result<Answer> {
    let output = expression(command).stdin_bytes(input).stdout_capture().stderr_capture().unchecked().run()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Answer {
        success: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr).trim_end().to_owned(),
    })
}

/// Starts a command whose output is read as it comes. At the output's end, a command that failed is an error, in the words
/// that it failed with; dropped before, it is ended.
pub fn stream(command: &Command) -> io::Result<impl Read + Send + use<>> {
    Ok(Streamed(expression(command).stdin_null().stderr_capture().unchecked().reader()?))
}

struct Streamed(duct::ReaderHandle);

impl Read for Streamed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read(into)?;
        if len > 0 || into.is_empty() {
            return Ok(len);
        }
        match self.0.try_wait()? {
            Some(done) if !done.status.success() => {
                let said = String::from_utf8_lossy(&done.stderr);
                let first = said.lines().find(|line| !line.trim().is_empty());
                Err(io::Error::other(first.map_or_else(|| done.status.to_string(), str::to_owned)))
            }
            _ => Ok(0),
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
    }
}

fn expression(command: &Command) -> duct::Expression {
    // As a word: of a path without a folder duct would make one in the current folder.
    let expression = duct::cmd(command.program.as_os_str(), &command.args);
    command.env.iter().fold(expression, |it, (name, value)| it.env(name, value))
}

/// Runs a tool that reads `input` to its end and tells whether that was a good one; what it prints is added to `log`. It
/// is killed when `watch`, asked now and then, says no.
pub fn run_watched(command: &Command, input: &str, log: &Path, watch: &mut dyn FnMut() -> bool) -> io::Result<bool> {
    let log = File::options().create(true).append(true).open(log)?;
    let handle = expression(command).stdin_bytes(input).stderr_to_stdout().stdout_file(log).unchecked().start()?;
    loop {
        if let Some(done) = handle.wait_timeout(Duration::from_millis(200))? {
            return Ok(done.status.success());
        }
        if !watch() {
            handle.kill()?;
        }
    }
}

/// What a system's own tool answers; `None` if it is not there, fails, or takes too long.
pub fn look_up(name: &str, args: &[&str]) -> Option<String> {
    let handle = duct::cmd(find(name)?, args).stdin_null().stderr_null().stdout_capture().unchecked().start().ok()?;
    match handle.wait_timeout(ASK_TIMEOUT) {
        Ok(Some(done)) => done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned()),
        _ => {
            let _ = handle.kill();
            None
        }
    }
}

/// Starts a program at the head of a process group of its own, which holds `lock` from its first moment; both its streams
/// go to `log`.
pub(crate) fn spawn_group(command: &Command, lock: File, log: File) -> io::Result<u32> {
    let mut child = command.std();
    child.process_group(0).stdin(lock).stdout(log.try_clone()?).stderr(log);
    Ok(child.spawn()?.id())
}

/// Starts a program that outlives us and holds `lock` from its first moment.
pub(crate) fn spawn_holding(command: &Command, lock: File, log: File) -> io::Result<u32> {
    Ok(command.std().stdin(lock).stdout(log.try_clone()?).stderr(log).spawn()?.id())
}

/// The same, and whispers it something that must not be written down. Its standard input being the lock, it hears by its
/// standard output, by which nothing is to go out: see [`whispered`].
pub(crate) fn spawn_whispering(command: &Command, lock: File, log: File, words: &Secret) -> io::Result<u32> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(words.reveal().as_bytes())?;
    Ok(command.std().stdin(lock).stdout(reader).stderr(log).spawn()?.id())
}

/// What whoever started us has whispered.
pub(crate) fn whispered() -> io::Result<Option<Secret>> {
    let mut file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if !file.metadata()?.file_type().is_fifo() {
        return Ok(None);
    }
    let mut words = String::new();
    file.read_to_string(&mut words)?;
    Ok(Some(Secret::new(words)))
}

/// A program that is heard to its end.
pub(crate) struct Heard {
    pub(crate) child: HeardChild,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

/// The process of a [`Heard`].
pub(crate) struct HeardChild(Child);

impl HeardChild {
    /// What Ctrl-C does. Not yet waited for, it cannot be somebody else's pid.
    pub(crate) fn interrupt(&self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::INT);
        }
    }

    /// Its exit code; one that a signal ended is told as a shell would.
    pub(crate) fn wait(&mut self) -> io::Result<u8> {
        let status = self.0.wait()?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
        Ok(u8::try_from(code).unwrap_or(1))
    }
}

/// Starts a program whose streams we read, and which holds `lock`. A group of its own, so that what interrupts us does
/// not interrupt it as well.
pub(crate) fn spawn_heard(command: &Command, lock: File) -> io::Result<Heard> {
    let mut child = command.std();
    child.process_group(0).stdin(lock).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    match (stdout, stderr) {
        (Some(stdout), Some(stderr)) => Ok(Heard { child: HeardChild(child), stdout, stderr }),
        _ => Err(io::Error::other("a stream is missing")),
    }
}

/// Our own lock, on standard input, to be handed on.
pub(crate) fn held_lock() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Becomes another program: same pid, same standard streams, hence same lock. Returns only if that failed.
pub(crate) fn become_program(command: &Command) -> io::Error {
    command.std().exec()
}

/// Leaves the terminal's session, so that closing it does not end us.
pub(crate) fn leave_session() {
    // Fails only for a group's leader, which a started child is not; then there is nothing to leave.
    let _ = rustix::process::setsid();
}

/// Finds a program on PATH or where tools are put.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(TOOL_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.metadata().is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0))
}

/// A process that cannot be mistaken for a later one with its pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// When it started, in whatever words the system has for that.
    pub started: String,
}

impl Identity {
    /// This process; it keeps this identity across `exec`.
    pub(crate) fn own() -> io::Result<Identity> {
        let pid = std::process::id();
        let started =
            started(pid).ok_or_else(|| io::Error::other("the system does not tell when a process started"))?;
        Ok(Identity { pid, started })
    }

    /// A child that was just started. It may have ended already; then only its exit status is left to be had.
    pub(crate) fn of_child(pid: u32) -> Identity {
        Identity { pid, started: started(pid).unwrap_or_default() }
    }

    /// Whether it runs; a zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        self.ended().is_none()
    }

    /// How it ended, or `None` while it runs. Only a parent learns more than that it did. A child stays a zombie until
    /// [`Identity::end_group`]: as long as it is one, its number, and so its group's, is nobody else's.
    pub(crate) fn ended(&self) -> Option<String> {
        if let Some(status) = self.status() {
            return Some(status);
        }
        let runs = started(self.pid).is_some_and(|started| started == self.started);
        (!runs).then(|| "ended".to_owned())
    }

    /// How a child ended; `None` while it runs, and for everybody else's children.
    fn status(&self) -> Option<String> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if let Some(pid) = self.raw()
            && let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(pid), look)
        {
            return Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exited with status {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "ended".to_owned(),
            });
        }
        None
    }

    /// Kills what is left of the group of a process that has ended, and takes the process's own status. `true`: nothing
    /// is left. Children often have another standard input and so not the lock; it is by the group that they are found.
    pub(crate) fn end_group(&self) -> bool {
        let Some(pid) = self.raw() else { return true };
        // Nobody has the number now, or a zombie of ours has: then the group, if there is one, is what ours has left.
        if started(self.pid).is_some() {
            return true;
        }
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        rustix::process::test_kill_process_group(pid).is_err() || !has_living_member(self.pid)
    }

    /// Ends the process alone, at once; what it started goes on.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks the process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), self.raw()) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Asks the process and its group, if the process runs.
    pub(crate) fn signal_group(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), self.raw()) {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    fn raw(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }
}

/// Whether a group that the system still lists has more than zombies in it: where process 1 reaps nobody, those stay.
fn has_living_member(group: u32) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    let pids = processes.flatten().filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let fields = pids.filter_map(stat_fields);
    fields
        .into_iter()
        .any(|fields| fields.get(2) == Some(&group.to_string()) && fields.first().is_some_and(|it| it != "Z"))
}

/// The fields of `/proc/PID/stat` from the state on. The name before it, in parentheses, may hold anything, spaces and
/// parentheses too: so they count from its end.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.get(stat.rfind(')')? + 2..)?.split(' ').map(str::to_owned).collect())
}

/// Whether there is a process of this number, whichever it is: nothing to send a signal on.
pub(crate) fn exists(pid: u32) -> bool {
    started(pid).is_some()
}

/// When a process started: ticks since boot from /proc, else ps's words. `None`: it does not run, or is a zombie.
fn started(pid: u32) -> Option<String> {
    if let Some(fields) = stat_fields(pid) {
        let ended = fields.first().is_none_or(|state| state == "Z" || state == "X");
        return if ended { None } else { fields.get(19).cloned() };
    }
    if Path::new("/proc/self/stat").exists() {
        return None;
    }
    let ps = duct::cmd!("ps", "-o", "stat=,lstart=", "-p", pid.to_string()).stderr_null().unchecked().read().ok()?;
    let (state, started) = ps.trim().split_once(' ')?;
    (!state.starts_with('Z')).then(|| started.trim().to_owned())
}

/// Opens and takes a lock, or says that somebody else has it.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Like [`try_lock`], with patience for those that only look whether the lock is free.
pub(crate) fn lock_within(path: &Path, patience: Duration) -> io::Result<Option<File>> {
    let deadline = Instant::now() + patience;
    loop {
        match try_lock(path)? {
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            outcome => return Ok(outcome),
        }
    }
}

/// Whether somebody holds the lock. A missing file is a free lock. Asked with a shared lock, so that those who only look
/// never take each other for the holder.
pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::options().read(true).open(path) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Makes the lock at `path` our standard input, unless it is already. `false`: somebody else holds it.
pub(crate) fn hold_on_stdin(path: &Path) -> io::Result<bool> {
    let inherited = File::from(io::stdin().as_fd().try_clone_to_owned()?).metadata();
    if let (Ok(stdin), Ok(lock)) = (inherited, fs::metadata(path))
        && (stdin.dev(), stdin.ino()) == (lock.dev(), lock.ino())
    {
        return Ok(true);
    }
    let Some(lock) = lock_within(path, Duration::from_secs(1))? else { return Ok(false) };
    rustix::stdio::dup2_stdin(lock.as_fd())?;
    Ok(true)
}

/// The last line with words in it among the last few kilobytes of a log.
pub fn last_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    io::Seek::seek(&mut file, io::SeekFrom::Start(length.saturating_sub(4096))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    tail.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// What `uname` says: `s` the system, `m` the machine, `n` its name. Asked through PATH, so that a host can be another in tests.
pub fn uname(what: char) -> io::Result<String> {
    let flag = format!("-{what}");
    duct::cmd!("uname", flag).stderr_null().read()
}

/// Who listens on a port where there is no /proc.
pub(crate) fn lsof_listener(port: u16) -> Option<String> {
    let port = format!("-iTCP:{port}");
    let output = duct::cmd!("lsof", "-nP", port, "-sTCP:LISTEN", "-Fpc").stderr_null().unchecked().read().ok()?;
    let field = |tag: char| output.lines().find_map(|line| line.strip_prefix(tag));
    Some(format!("{} (pid {})", field('c')?, field('p')?))
}
