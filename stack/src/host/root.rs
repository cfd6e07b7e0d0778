//! What only root may do.
//!
//! Root runs such a command as it is; anybody else through sudo, without a password or with the one that a person gave,
//! which sudo reads on its standard input. Invariant: that there is no way is known before anything is changed; and a
//! password is in memory and in pipes, nowhere else.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Follow, Host, lock};
use crate::{
    failure::{Class, Doing, Failure},
    layout::Root,
    plan::Plan,
    process::{self, Command, Finished},
    protocol::Event,
    release::Contents,
    secret::Secret,
};

/// How long sudo may take to say yes or no.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two words about a command that takes its time.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Lines of a command's output that a failure tells.
const TOLD_LINES: usize = 20;

/// What launchd's numbers mean, which it does not tell.
const MEANINGS: [(&str, &str); 2] = [
    (
        "Bootstrap failed: 5:",
        "launchd says so of a service that it has under that name already, or whose file it does not trust: `sudo launchctl \
         bootout system/NAME` ends the former, and `sudo launchctl print-disabled system` names what somebody switched off",
    ),
    (
        "Bootstrap failed: 125:",
        "launchd says so where there is no such domain, as without anybody logged in at the screen",
    ),
];

/// How a command comes to be run by root.
pub(super) enum Way<'a> {
    /// It needs nobody else.
    Direct,
    /// sudo asks for nothing.
    Sudo(PathBuf),
    /// sudo asks for this.
    Password(PathBuf, &'a Secret),
}

impl Way<'_> {
    /// The way for what the plan wants of root; without such a step nobody is asked. Its commands may name files of a release
    /// that is still to be staged.
    pub(super) fn of<'a>(
        root: &Root,
        plan: &Plan,
        contents: &Contents,
        password: Option<&'a Secret>,
    ) -> Result<Way<'a>, Failure> {
        let commands: Vec<&Command> = plan.as_root().collect();
        let release = root.release(&plan.release.id);
        let draft = |path: &str| root.logs().join(Path::new(path).file_name().unwrap_or_default());
        let staged = contents.iter().map(|(path, text)| (release.join(path), (draft(path), text.as_str()))).collect();
        Way::find_with(&commands, &staged, password)
    }

    /// The way for these commands.
    pub(super) fn find<'a>(commands: &[&Command], password: Option<&'a Secret>) -> Result<Way<'a>, Failure> {
        Way::find_with(commands, &Staged::new(), password)
    }

    fn find_with<'a>(
        commands: &[&Command],
        staged: &Staged<'_>,
        password: Option<&'a Secret>,
    ) -> Result<Way<'a>, Failure> {
        if commands.is_empty() || rustix::process::geteuid().is_root() {
            return Ok(Way::Direct);
        }
        let Some(sudo) = process::find("sudo") else {
            return Err(refused(commands, staged, "there is no sudo", ""));
        };
        let nothing = Path::new("/dev/null");
        let nothing = File::open(nothing).doing("cannot open", nothing)?;
        let probe = Command { program: "true".into(), args: Vec::new(), env: [].into() };
        let ways = [Some(Way::Sudo(sudo.clone())), password.map(|password| Way::Password(sudo, password))];
        let mut said = String::new();
        for way in ways.into_iter().flatten() {
            let done = way.start(&probe, &nothing).and_then(|mut probe| probe.wait(PROBE_TIMEOUT));
            match done.doing("cannot run", Path::new("sudo"))? {
                Some(done) if done.success => return Ok(way),
                Some(done) => said = done.output,
                None => "sudo does not answer".clone_into(&mut said),
            }
        }
        let why = if password.is_some() { "sudo does not take that password" } else { "sudo wants a password" };
        Err(refused(commands, staged, why, &said))
    }

    /// Runs a command to its end. What root has begun is not cut short: an objection counts once it has ended.
    pub(super) fn run(&self, command: &Command, lock: &File, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let mut started = self.start(command, lock).doing("cannot run", &command.program)?;
        let mut objection = Ok(());
        let done = loop {
            if let Some(done) = started.wait(TELL_EVERY).doing("cannot wait for", &command.program)? {
                break done;
            }
            objection = objection.and_then(|()| follow(Event::Waiting { detail: command.to_string() }));
        };
        if done.success { objection } else { Err(failed(command, &done)) }
    }

    fn start(&self, command: &Command, lock: &File) -> io::Result<process::Started> {
        match self {
            Way::Direct => process::start(&with_environment(&[], command), lock),
            Way::Sudo(sudo) => process::start(&with_environment(&[&sudo.to_string_lossy(), "-n", "--"], command), lock),
            Way::Password(sudo, password) => {
                let command = with_environment(&[&sudo.to_string_lossy(), "-S", "-p", "", "--"], command);
                process::start_telling(&command, password, lock)
            }
        }
    }
}

/// The command behind other words, with its variables as words too: sudo hands on none.
fn with_environment(before: &[&str], command: &Command) -> Command {
    let mut words: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
    if !command.env.is_empty() {
        words.push("env".to_owned());
        words.extend(command.env.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.push(command.program.display().to_string());
    words.extend(command.args.iter().cloned());
    let program = words.remove(0).into();
    Command { program, args: words, env: [].into() }
}

/// Has root run commands that belong to no release.
pub(super) fn run(host: &Host, what: &str, commands: &[Command], follow: &mut Follow<'_>) -> Result<(), Failure> {
    let way = Way::find(&commands.iter().collect::<Vec<_>>(), host.password.as_ref())?;
    let lock = lock(&host.root, what)?;
    commands.iter().try_for_each(|command| way.run(command, &lock, follow))
}

/// Files that a plan brings, by where it puts them: where a person puts one instead, and its text. That is among the logs,
/// whose folder a service wants to be there when it starts.
type Staged<'a> = BTreeMap<PathBuf, (PathBuf, &'a str)>;

/// What a person types in the place of a command, who has no file that is still to be staged.
fn by_hand(command: &Command, staged: &Staged<'_>) -> String {
    let mut command = with_environment(&[], command);
    let mut lines = String::new();
    for arg in &mut command.args {
        if let Some((draft, text)) = staged.get(Path::new(arg.as_str())) {
            let folder = draft.parent().unwrap_or(draft).display().to_string();
            let draft = draft.display().to_string();
            let (text, folder, file) = (Command::word(text), Command::word(&folder), Command::word(&draft));
            lines += &format!("\n  mkdir -p {folder}\n  printf %s {text} > {file}");
            *arg = draft;
        }
    }
    lines + &format!("\n  sudo {command}")
}

fn refused(commands: &[&Command], staged: &Staged<'_>, why: &str, said: &str) -> Failure {
    let failure = Failure::new(Class::Refused, format!("this needs root, and {why}"));
    let failure = if said.is_empty() { failure } else { failure.because(&io::Error::other(said.to_owned())) };
    let by_hand = commands.iter().map(|command| by_hand(command, staged));
    failure.hint(format!(
        "nothing was changed. `--ask-sudo` asks for your password on the host; or run this there by hand, and then the \
         same command again:{}",
        by_hand.collect::<String>()
    ))
}

fn failed(command: &Command, done: &Finished) -> Failure {
    let lines: Vec<&str> = done.output.lines().collect();
    let told = lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n");
    let failure = Failure::new(Class::Failed, format!("root's `{command}` failed"));
    let failure = if told.is_empty() { failure } else { failure.because(&io::Error::other(told.clone())) };
    match MEANINGS.iter().find(|(words, _)| told.contains(words)) {
        Some((_, hint)) => failure.hint(*hint),
        None => failure,
    }
}
