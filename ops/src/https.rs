//! HTTPS, which this program does not speak: the system's own curl does, and knows whom the system trusts.

use stack::process::{self, Command};

/// Whom to believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Whoever the system trusts.
    System,
    /// Anybody: the question is whether there is an answer.
    Anybody,
}

/// Status and body of what a URL answers.
///
/// # Errors
/// Why there is no answer, in curl's words.
pub fn get(url: &str, trust: Trust) -> Result<(u16, String), String> {
    let program = process::find("curl").ok_or("there is no curl here, which speaks TLS")?;
    let fixed = ["-sS", "--noproxy", "*", "--max-time", "10", "-w", "\n%{http_code}"];
    let insecure = (trust == Trust::Anybody).then_some("-k");
    let args = fixed.into_iter().chain(insecure).chain(["--", url]).map(str::to_owned).collect();
    let answer = process::ask(&Command { program, args, env: [].into() }, "").map_err(|error| error.to_string())?;
    if !answer.success {
        return Err(match answer.stderr.contains("(60)") {
            true => "this machine does not trust its certificate: docs/care.md says how it comes to".to_owned(),
            false => answer.stderr,
        });
    }
    let (body, status) = answer.stdout.rsplit_once('\n').ok_or("curl told no status")?;
    Ok((status.parse().map_err(|_| "curl told no status")?, body.to_owned()))
}
