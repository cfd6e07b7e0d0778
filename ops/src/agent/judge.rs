//! Whether what an agent wrote does what was asked: by running it, never by what the agent says.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use stack::{
    failure::Failure,
    process::{self, Command, Ended},
};

use super::{
    failed,
    install::{Check, answer},
    place::Place,
    task::Task,
};

const JUDGE_TIMEOUT: Duration = Duration::from_secs(60);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// The Flask that the workflow is judged with, whatever the agent's machine has.
const FLASK: &str = "flask==3.1.2";

/// The last word of a judge that found nothing wrong: code that only ends the process does not say it.
const WORKS: &str = "it works";

/// The Python that judges, with what it needs: this machine's own if it has that, else one of ours.
pub(super) fn python(task: Task, place: &Place, check: &mut Check<'_>) -> Result<PathBuf, Failure> {
    let own = process::find("python3").ok_or_else(|| {
        failed("there is no python3, which judges what an agent writes")
            .hint("install Python 3, and run the same command again")
    })?;
    let Some(needed) = task.needs() else { return Ok(own) };
    let has = |python: &Path| answer(python, &["-c", &format!("import {needed}")]).is_some();
    let folder = place.state.join("judge");
    let ours = folder.join("bin/python");
    if let Some(python) = [own.clone(), ours.clone()].into_iter().find(|python| python.exists() && has(python)) {
        return Ok(python);
    }
    let output = tempfile::tempfile().map_err(|error| failed("cannot write a temporary file").because(&error))?;
    let command = |program: &Path, args: &[&str]| Command {
        program: program.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: Default::default(),
    };
    let make = command(&own, &["-m", "venv", "--clear", &folder.display().to_string()]);
    let fill = command(&ours, &["-m", "pip", "install", "--quiet", FLASK]);
    for step in [make, fill] {
        fs::create_dir_all(&place.state).map_err(|error| failed("cannot write").because(&error))?;
        if process::run_tool(&step, &place.state, &output, INSTALL_TIMEOUT, check)? != Ended::Well {
            return Err(failed("cannot prepare the Python that judges the application")
                .because(&std::io::Error::other(format!("{step}: failed")))
                .hint(format!("give this machine's python3 {FLASK}, or a way to its package index")));
        }
    }
    Ok(ours)
}

/// What is wrong with what stands in `folder`; `None`: nothing.
pub(super) fn judge(
    task: Task,
    python: &Path,
    folder: &Path,
    check: &mut Check<'_>,
) -> Result<Option<String>, Failure> {
    for stage in task.stages() {
        let path =
            tempfile::NamedTempFile::new().map_err(|error| failed("cannot write a temporary file").because(&error))?;
        let command = Command {
            program: python.to_owned(),
            args: ["-c", task.judge(), stage].map(str::to_owned).into(),
            env: Default::default(),
        };
        let ended = process::run_tool(&command, folder, path.as_file(), JUDGE_TIMEOUT, check)?;
        let said =
            fs::read(path.path()).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
        let last = said.lines().last().unwrap_or_default().to_owned();
        match ended {
            Ended::Well if last == WORKS => {}
            Ended::Well => return Ok(Some("it ends the program that runs it".to_owned())),
            Ended::OutOfTime => return Ok(Some(format!("it did not end within {} s", JUDGE_TIMEOUT.as_secs()))),
            Ended::Badly(how) if last.is_empty() => return Ok(Some(format!("python3 {how}"))),
            Ended::Badly(_) => return Ok(Some(last)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::lacks;

    fn verdict(code: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("factorial.py"), code).unwrap();
        let place = Place::new(folder.path().to_owned(), None);
        let python = python(Task::Factorial, &place, &mut || Ok(())).unwrap();
        judge(Task::Factorial, &python, folder.path(), &mut || Ok(())).unwrap()
    }

    #[test]
    fn code_is_judged_by_what_it_does() {
        if lacks("python3") {
            return;
        }
        let right = "def factorial(n):\n    return 1 if n == 0 else n * factorial(n - 1)\n";
        assert_eq!(verdict(right), None);
        assert_eq!(verdict("def factorial(n):\n    return 120\n").as_deref(), Some("factorial(0) is 120, not 1"));
        assert!(verdict("def factorial(n)\n").is_some_and(|it| it.starts_with("SyntaxError")));
        assert!(verdict("").is_some_and(|it| it.starts_with("ImportError")));
        assert!(verdict("import sys; sys.exit(0)\n").is_some(), "code that ends the judge has not passed");
    }
}
