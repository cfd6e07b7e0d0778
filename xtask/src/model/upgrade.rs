//! `model upgrade`: another default model, as one plan, with a way back.
//!
//! The host pulls and answers; the settings are changed here, where they stand, and a deploy has the host and the agents
//! follow. Nothing is changed before the new model has answered, and what the deploy did not bring is taken back.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use ops::model::{store::is_same, upgrade};
use serde_json::Value;
use stack::failure::{Class, Failure};

use super::{bring, hold};
use crate::{
    cli, deploy,
    report::{self, Exit},
    session::{Need, Session, find_settings},
    there::{self, As},
    verify,
};

/// What both models are asked, so that one can compare.
const PROMPT: &str = "Write a function that reverses a linked list in Rust.";

pub(crate) fn run(settings: Option<&Path>, args: &cli::ModelUpgrade) -> Result<Exit> {
    let Some(file) = find_settings(settings)?.1 else {
        return Err(Failure::new(Class::Settings, "there is no stack.toml to change")
            .hint("`cargo xtask init` writes one; the embedded sandbox keeps its default")
            .into());
    };
    if is_of_a_release(&file) {
        return Err(Failure::new(
            Class::Refused,
            "these are the settings of a release, which the next deploy replaces",
        )
        .hint("upgrade where you deploy from")
        .into());
    }
    let mut session = Session::open(settings, Need::Any)?;
    let models = session.settings.models.clone();
    if args.prune {
        return prune(settings, &file, models.previous.as_deref(), args.yes);
    }
    let old = models.default;
    let new = match (&args.name, args.revert) {
        (Some(name), _) => name.clone(),
        (None, false) => old.clone(),
        (None, true) => models.previous.ok_or_else(|| {
            Failure::new(Class::Nothing, "no default before this one is known").hint("name the model to upgrade to")
        })?,
    };
    report::say(&plan(&session, &old, &new));
    if !args.yes && !report::ask("do it?")? {
        return Ok(Exit::Interrupted);
    }
    let pulled =
        on_host(settings, &mut session, &["model", "pull", &new], |session| bring::pull(session, &new, false))?;
    if pulled != Exit::Done {
        return Ok(pulled);
    }
    if is_same(&old, &new) {
        report::say(&format!("{new} is the newest there is; it stays the default"));
        return Ok(Exit::Done);
    }
    for model in [&old, &new] {
        match rate(&mut session, model) {
            Ok(rate) => report::say(&format!("{model:<40} {rate}")),
            Err(failure) if model == &new => return Err(failure),
            Err(failure) => report::say(&format!("{model:<40} cannot be compared: {failure}")),
        }
    }
    let is_here = session.is_here;
    // One connection at a time: the deploy opens its own.
    drop(session);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    write(&file, &upgrade::switch(&text, &new, &old)?)?;
    report::say(&format!("{new} is the default in {}; {old} is kept\n", file.display()));
    let deploy = cli::Deploy { dry_run: false, yes: true, ask_sudo: false, json: false };
    match deploy::run(settings, &deploy) {
        Ok(Exit::Done) => {}
        // Cut off here, a deploy goes on there: the settings are what it deploys.
        Ok(Exit::Interrupted) if !is_here => return Ok(Exit::Interrupted),
        failed => {
            write(&file, &text)?;
            report::say(&format!("\n{old} is the default again in {}", file.display()));
            return failed;
        }
    }
    let verified = verify::run(settings, &cli::Verify { json: false, junit: None, reboot: false })?;
    report::say(&format!(
        "\nnext:  cargo xtask model upgrade --revert    goes back to {old}\n       \
         cargo xtask model upgrade --prune     removes it; best after a week of use"
    ));
    Ok(verified)
}

/// On the host itself the settings are a copy.
fn is_of_a_release(file: &Path) -> bool {
    file.parent().and_then(Path::parent).is_some_and(|release| release.join("release.json").exists())
}

fn plan(session: &Session, old: &str, new: &str) -> String {
    let host = session.host();
    if is_same(old, new) {
        return format!(
            "upgrade of {new} on {host}\n  1. pull {new}, if the registry has a newer one, and have it answer"
        );
    }
    format!(
        "upgrade of {host} from {old} to {new}\n  1. check that {new} fits, pull what is missing, and have it answer\n  \
         2. compare {old} and {new}\n  3. switch models.default in the settings; {old} is kept\n  \
         4. deploy: the host and the configured agents follow\n  5. verify"
    )
}

fn prune(settings: Option<&Path>, file: &Path, previous: Option<&str>, yes: bool) -> Result<Exit> {
    let Some(previous) = previous else {
        return Err(
            Failure::new(Class::Nothing, "no default before this one is known: there is nothing to prune").into()
        );
    };
    if !yes && !report::ask(&format!("remove {previous} from the host?"))? {
        return Ok(Exit::Interrupted);
    }
    let mut session = Session::open(settings, Need::Any)?;
    let removed = on_host(settings, &mut session, &["model", "remove", previous], |session| {
        match hold::remove(session, previous, false) {
            Err(error) if is_gone(&error) => Ok(Exit::Nothing),
            done => done,
        }
    })?;
    // One that is gone already is as wanted.
    if !matches!(removed, Exit::Done | Exit::Nothing) {
        return Ok(removed);
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    write(file, &upgrade::forget(&text)?)?;
    Ok(Exit::Done)
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.class == Class::Nothing)
}

/// Runs one of our own verbs where the engine is: `here` if that is here, else by its words.
fn on_host(
    settings: Option<&Path>,
    session: &mut Session,
    words: &[&str],
    here: impl FnOnce(Session) -> Result<Exit>,
) -> Result<Exit> {
    if session.is_here {
        return here(Session::open(settings, Need::Any)?);
    }
    let (data, exit) = there::answer(session, words, As::Job)?;
    report::data(&data)?;
    Ok(exit)
}

/// How fast a model answers, warm.
fn rate(session: &mut Session, model: &str) -> Result<String> {
    let words = ["model", "run", PROMPT, "--model", model, "--limit", "64", "--json"];
    let answer: Value = match session.is_here {
        true => {
            let engine = super::engine(session)?;
            let interrupt = session.interrupt.clone();
            let answer = engine.ask(model, PROMPT, Some(64), &mut |_| interrupt.check())?;
            hold::to_json(model, &answer)
        }
        false => serde_json::from_str(&there::answer(session, &words, As::Question)?.0)?,
    };
    let load = answer["load_seconds"].as_f64().unwrap_or(0.0);
    Ok(match answer["tokens_per_second"].as_f64() {
        Some(rate) => format!("{rate:.1} tokens/s, loaded in {load:.1} s"),
        None => format!("answers, loaded in {load:.1} s"),
    })
}

/// All of it or nothing: beside the file, then in its place, with its permissions.
fn write(file: &Path, text: &str) -> Result<()> {
    let place = fs::canonicalize(file)?;
    let beside = place.with_extension("toml.tmp");
    let written = || -> std::io::Result<()> {
        fs::write(&beside, text)?;
        fs::set_permissions(&beside, fs::metadata(&place)?.permissions())?;
        fs::rename(&beside, &place)
    };
    written().with_context(|| format!("cannot write {}", file.display()))
}
