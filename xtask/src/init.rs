//! `init`: a first stack.toml.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, Result};
use stack::{
    failure::{Class, Failure},
    settings::{self, EnvFile, New, Settings},
};

use crate::{
    cli,
    report::{self, Exit},
    session,
};

pub(crate) fn run(named: Option<&Path>, args: &cli::Init) -> Result<Exit> {
    let path = match named {
        Some(file) => std::path::absolute(file)?,
        None => session::find_settings(None)?.0.join("stack.toml"),
    };
    let env = args.from_env.as_deref().map(EnvFile::load).transpose()?;
    for note in env.iter().flat_map(|env| &env.notes) {
        report::say(&format!("note: line {}: {} is not taken over: {}", note.line, note.variable, note.why));
    }
    let new = New { address: args.address.clone(), user: args.user.clone(), runtime: args.runtime, env };
    let text = settings::render(&new);
    Settings::parse(&text, &path)?;
    write_new(&path, &text)?;
    report::say(&format!("wrote {}; config/stack.example.toml explains every key\n", path.display()));
    report::say("next: cargo xtask deploy --dry-run");
    Ok(Exit::Done)
}

/// Never over a file that is there: not even one that appeared a moment ago.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let mut file = match File::create_new(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::new(Class::Refused, format!("{} exists already", path.display()))
                .hint("edit it, or move it away and run the same command again")
                .into());
        }
        file => file.with_context(|| format!("cannot write {}", path.display()))?,
    };
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
