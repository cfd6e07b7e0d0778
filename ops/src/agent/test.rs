//! The acceptance test of an agent: a throwaway repository, the real endpoint, and code that is run.
//!
//! Invariant: a test passes only if the code that the agent wrote did what was asked; what the agent says, and its exit
//! status, count for nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use stack::{
    failure::{Class, Doing, Failure},
    process::{self, Command, Ended},
};

use super::{
    Agent, Ask, Target,
    configure::configured,
    diagnose::Diagnosis,
    failed,
    install::{Check, installed},
    judge,
    place::Place,
    probe::probe,
    task::Task,
};

const RECORD: &str = "tested.json";

/// How to test.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What to ask for.
    pub task: Task,
    /// When to give up.
    pub deadline: Duration,
}

/// How a test went; the shape of `agent test --json` and of what is remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tested {
    /// Of the agent.
    pub version: String,
    /// Where it was sent.
    pub endpoint: String,
    /// Which model answered.
    pub model: String,
    /// Seconds since 1970.
    pub at: u64,
    /// How long the agent took.
    pub seconds: f64,
    /// The engine was the stand-in, which plays replies that were written for it: this proves the wiring, and no model.
    pub wiring_only: bool,
    /// How it went.
    pub outcome: Outcome,
}

impl Tested {
    /// How it went, in a line.
    pub fn words(&self) -> String {
        let label = if self.wiring_only { " (wiring only: the sandbox's engine plays written replies)" } else { "" };
        match &self.outcome {
            Outcome::Pass => format!("passed with {}{label}", self.model),
            Outcome::Fail { diagnosis, .. } => format!("failed with {}: {}{label}", self.model, diagnosis.words()),
        }
    }
}

/// Whether the code did what was asked.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// It did.
    Pass,
    /// It did not.
    Fail {
        /// Why.
        diagnosis: Diagnosis,
        /// What the agent said, if it got as far as that.
        transcript: Option<PathBuf>,
    },
}

/// How an agent's tests went last, by the task's name.
pub fn tested(agent: &Agent, place: &Place) -> Result<BTreeMap<String, Tested>, Failure> {
    Ok(place.read(agent.name, RECORD)?.unwrap_or_default())
}

/// Has an agent do a task, judges it, and remembers how it went.
pub fn test(
    agent: &Agent,
    place: &Place,
    options: Options,
    tell: &mut dyn FnMut(&str),
    check: &mut Check<'_>,
) -> Result<Tested, Failure> {
    let Some(run) = agent.run else {
        return Err(Failure::new(
            Class::Refused,
            format!("{} lives in an editor, where nobody but you can test it", agent.title),
        ));
    };
    let Some(record) = configured(agent, place)? else {
        return Err(Failure::new(Class::Nothing, format!("{} is not configured", agent.name))
            .hint(format!("`cargo xtask agent configure {}` has it use this stack", agent.name)));
    };
    let Some(program) = installed(agent, place) else {
        return Err(Failure::new(Class::Nothing, format!("{} is not installed", agent.name))
            .hint(format!("`cargo xtask agent install {}` puts it into ~/.local/bin", agent.name)));
    };
    let target = record.target();
    let begun = Instant::now();
    let mut tested = Tested {
        version: program.version,
        endpoint: target.endpoint.clone(),
        model: target.model.clone(),
        at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        seconds: 0.0,
        wiring_only: false,
        outcome: Outcome::Pass,
    };
    tell(&format!("asking {} for {}", target.endpoint, target.model));
    match probe(&target) {
        Ok(_) if target.context < agent.least_context => {
            let diagnosis = Diagnosis::Context { context: target.context, least: agent.least_context };
            tested.outcome = Outcome::Fail { diagnosis, transcript: None };
        }
        Ok(probe) => {
            tested.wiring_only = probe.is_sandbox();
            let python = judge::python(options.task, place, check)?;
            tell(&format!("{} {} writes {}", agent.title, tested.version, options.task.files().join(", ")));
            let ask = Ask { prompt: options.task.prompt().trim_end(), files: options.task.files() };
            let run = run(&target, &ask);
            let command = Command { program: program.program, args: run.args, env: run.env };
            let attempt = Attempt { agent, place, target: &target, options, python: &python };
            tested.outcome = attempt.make(&command, check)?;
        }
        Err(diagnosis) => tested.outcome = Outcome::Fail { diagnosis, transcript: None },
    }
    tested.seconds = begun.elapsed().as_secs_f64();
    let mut all = self::tested(agent, place)?;
    all.insert(options.task.name().to_owned(), tested.clone());
    place.write(agent.name, RECORD, &all)?;
    Ok(tested)
}

struct Attempt<'a> {
    agent: &'a Agent,
    place: &'a Place,
    target: &'a Target,
    options: Options,
    python: &'a Path,
}

impl Attempt<'_> {
    fn make(&self, command: &Command, check: &mut Check<'_>) -> Result<Outcome, Failure> {
        let folder = tempfile::Builder::new().prefix("agent-test-").tempdir();
        let folder = folder.map_err(|error| failed("cannot make a temporary folder").because(&error))?;
        repository(folder.path(), check)?;
        let transcript = self.place.record(self.agent.name, &format!("{}.transcript", self.options.task.name()));
        let output = File::create(&transcript).doing("cannot write", &transcript)?;
        let ended = process::run_tool(command, folder.path(), &output, self.options.deadline, check)?;
        let diagnosis = self.diagnose(&ended, folder.path(), &transcript, check)?;
        Ok(match diagnosis {
            None => Outcome::Pass,
            Some(diagnosis) => Outcome::Fail { diagnosis, transcript: Some(transcript) },
        })
    }

    /// What is wrong, from what the code does back to what kept it from being written.
    fn diagnose(
        &self,
        ended: &Ended,
        folder: &Path,
        transcript: &Path,
        check: &mut Check<'_>,
    ) -> Result<Option<Diagnosis>, Failure> {
        // Some agents make an empty file before they ask the model.
        let files = self.options.task.files().iter();
        let is_written = files.into_iter().any(|file| fs::metadata(folder.join(file)).is_ok_and(|meta| meta.len() > 0));
        let wrong = match is_written {
            true => judge::judge(self.options.task, self.python, folder, check)?,
            false => None,
        };
        match (is_written, wrong) {
            (true, None) => return Ok(None),
            (true, Some(detail)) if *ended != Ended::OutOfTime => return Ok(Some(Diagnosis::Wrong { detail })),
            _ => {}
        }
        if let Err(diagnosis) = probe(self.target) {
            return Ok(Some(diagnosis));
        }
        let said = fs::read(transcript).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        if let Some(diagnosis) = Diagnosis::in_transcript(&said, self.target.context, self.agent.least_context) {
            return Ok(Some(diagnosis));
        }
        Ok(Some(match ended {
            Ended::OutOfTime => Diagnosis::Deadline { seconds: self.options.deadline.as_secs() },
            Ended::Badly(how) => Diagnosis::Ended { detail: how.clone() },
            Ended::Well => Diagnosis::NoEdit,
        }))
    }
}

/// A repository with one commit, as agents expect one.
fn repository(folder: &Path, check: &mut Check<'_>) -> Result<(), Failure> {
    let git =
        process::find("git").ok_or_else(|| failed("there is no git, which agents work with").hint("install git"))?;
    fs::write(folder.join("README.md"), "A repository for one test.\n").doing("cannot write", folder)?;
    let identity =
        ["-c", "user.name=agent test", "-c", "user.email=agent-test@localhost", "-c", "commit.gpgsign=false"];
    let commit = [&identity[..], &["commit", "--quiet", "--message", "begin"]].concat();
    let output = tempfile::tempfile().map_err(|error| failed("cannot write a temporary file").because(&error))?;
    for args in [&["init", "--quiet"][..], &["add", "."], &commit] {
        let command = Command {
            program: git.clone(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: BTreeMap::new(),
        };
        if process::run_tool(&command, folder, &output, Duration::from_secs(60), check)? != Ended::Well {
            return Err(failed(format!("{command}: failed")));
        }
    }
    Ok(())
}
