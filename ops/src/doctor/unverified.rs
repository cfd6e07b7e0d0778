//! What could not be tried without a Mac, as a list that a Mac can run through.
//!
//! Invariant: the list that is read is the list that is run, and none of its commands changes anything.

use stack::process;

const LIST: &str = include_str!("../../../docs/unverified-on-macos.md");

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    /// What is not known.
    pub what: String,
    /// What shows it.
    pub command: String,
    /// What we believe that it says.
    pub expected: String,
}

/// The list.
pub fn list() -> Vec<Unverified> {
    LIST.lines().filter_map(row).collect()
}

/// `| what | command | expected |`; the command stands in backquotes, so that no other row is one.
fn row(line: &str) -> Option<Unverified> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split(" | ").map(str::trim).collect();
    let [what, command, expected] = cells.as_slice() else { return None };
    let command = command.strip_prefix('`')?.strip_suffix('`')?;
    Some(Unverified { what: (*what).to_owned(), command: command.to_owned(), expected: (*expected).to_owned() })
}

/// What its command says here, and how it ended.
pub fn run(unverified: &Unverified) -> String {
    let script = format!("{{ {}; }} 2>&1; status=$?; [ $status = 0 ] || echo \"(status $status)\"", unverified.command);
    process::look_up("sh", &["-c", &script]).unwrap_or_else(|| "(no answer within ten seconds)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_page_is_understood() {
        let rows = LIST.lines().filter(|line| line.starts_with('|')).count() - 2;
        assert_eq!(list().len(), rows, "a row is malformed, or its command has ` | ` in it");
        assert!(list().iter().all(|it| !it.command.contains("sudo")), "none of them changes anything");
    }

    #[test]
    fn a_command_tells_what_it_said_and_how_it_ended() {
        let run = |command: &str| {
            run(&Unverified { what: String::new(), command: command.to_owned(), expected: String::new() })
        };
        assert_eq!(run("echo one; echo two >&2"), "one\ntwo\n");
        assert_eq!(run("echo no; false"), "no\n(status 1)\n");
    }
}
