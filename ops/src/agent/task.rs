//! What an agent is asked for in a test, and the code that judges it: `config/agents/` has both, to be read and run by hand.

use std::time::Duration;

/// A task of the acceptance test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// One function in one file.
    Factorial,
    /// The guide's Flask application, with users in a database.
    Workflow,
}

impl Task {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Task::Factorial => "factorial",
            Task::Workflow => "workflow",
        }
    }

    pub(crate) fn prompt(self) -> &'static str {
        match self {
            Task::Factorial => include_str!("../../../config/agents/factorial.txt"),
            Task::Workflow => include_str!("../../../config/agents/workflow.txt"),
        }
    }

    /// What is to be written.
    pub(crate) fn files(self) -> &'static [&'static str] {
        match self {
            Task::Factorial => &["factorial.py"],
            Task::Workflow => &["app.py"],
        }
    }

    /// A program that runs what was written, once for each of [`Task::stages`], and says what is wrong with it.
    pub(crate) fn judge(self) -> &'static str {
        match self {
            Task::Factorial => include_str!("../../../config/agents/factorial_judge.py"),
            Task::Workflow => include_str!("../../../config/agents/workflow_judge.py"),
        }
    }

    /// Each is a process of its own: what outlives one was kept on disk.
    pub(crate) fn stages(self) -> &'static [&'static str] {
        match self {
            Task::Factorial => &["run"],
            Task::Workflow => &["first", "restarted"],
        }
    }

    /// What the judge's Python needs beside its own library.
    pub(crate) fn needs(self) -> Option<&'static str> {
        match self {
            Task::Factorial => None,
            Task::Workflow => Some("flask"),
        }
    }

    /// How long an agent gets: a large model on a small machine writes a few tokens a second.
    pub fn deadline(self) -> Duration {
        match self {
            Task::Factorial => Duration::from_secs(10 * 60),
            Task::Workflow => Duration::from_secs(40 * 60),
        }
    }
}
