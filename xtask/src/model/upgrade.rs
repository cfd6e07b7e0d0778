//! `model upgrade`: another default model, as one plan, with a way back.
//!
//! The host pulls and answers; the settings are changed here, where they stand, and a deploy has the host and the agents
//! follow. Nothing is changed before the new model has answered, and what the deploy did not bring is taken back.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use clap::Parser;
use ops::{
    model::{store::is_same, upgrade},
    monitor::{Monitor, query},
};
use serde_json::Value;
use stack::{
    component::Runtime,
    failure::{Class, Failure},
    observed::{Observed, Question},
    process::Command,
    settings::Models,
};

use crate::{
    cli,
    report::{self, Exit},
    session::{Need, Session, find_settings},
    there::{self, As},
    tune,
};

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
        return prune(settings, &file, &models, args.yes);
    }
    let old = models.default;
    let new = match (&args.name, args.revert) {
        (Some(name), _) => name.clone(),
        (None, false) => old.clone(),
        (None, true) => models.previous.ok_or_else(|| {
            Failure::new(Class::Nothing, "no default before this one is known").hint("name the model to upgrade to")
        })?,
    };
    let limit = foresee(&mut session, &new)?;
    report::say(&plan(&session, &old, &new, limit.as_deref()));
    if !args.yes && !report::ask("do it?")? {
        return Ok(Exit::Interrupted);
    }
    // One that was made here no registry has, and one that is here only has to answer.
    let brought = match is_here(&mut session, &new)? && !is_same(&old, &new) {
        true => on_host(
            settings,
            &mut session,
            &["model", "run", "Write hello world in Rust.", "--model", &new, "--limit", "16"],
        )?,
        false => on_host(settings, &mut session, &["model", "pull", &new])?,
    };
    if brought != Exit::Done {
        return Ok(brought);
    }
    if is_same(&old, &new) {
        report::say(&format!("{new} is the newest there is; it stays the default"));
        return Ok(Exit::Done);
    }
    let session = tune_for(settings, session, &new)?;
    let session = compare(settings, session, &old, &new)?;
    session.interrupt.check()?;
    let is_local = session.is_here;
    // One connection at a time: the deploy opens its own.
    drop(session);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    write(&file, &upgrade::switch(&text, &new, &old)?)?;
    report::say(&format!("{new} is the default in {}; {old} is kept\n", file.display()));
    match by_words(settings, &["deploy", "--yes"]) {
        Ok(Exit::Done) => {}
        // Cut off here, a deploy goes on there: the settings are what it deploys.
        Ok(Exit::Interrupted) if !is_local => return Ok(Exit::Interrupted),
        failed => {
            write(&file, &text)?;
            report::say(&format!("\n{old} is the default again in {}", file.display()));
            return failed;
        }
    }
    let verified = by_words(settings, &["verify"])?;
    report::say(&format!(
        "\nnext:  cargo xtask model upgrade --revert    goes back to {old}\n       \
         cargo xtask model upgrade --prune     removes it, best after a week of use"
    ));
    Ok(verified)
}

/// On the host itself the settings are a copy.
fn is_of_a_release(file: &Path) -> bool {
    file.parent().and_then(Path::parent).is_some_and(|release| release.join("release.json").exists())
}

/// What the GPU's limit is raised to for `model`. That this needs root, and there is no way to it, is known before anything is
/// done.
fn foresee(session: &mut Session, model: &str) -> Result<Option<String>> {
    let observed = session.client.observe(Question::default())?;
    if !is_tuned(&observed) {
        return Ok(None);
    }
    let args = cli::Tune { model: Some(model.to_owned()), dry_run: true, revert: false, ask_sudo: false, json: true };
    // One that no limit makes fit is refused by the pull, which knows more of it.
    let Ok(Ok(tuning)) = tune::look(session, &args) else { return Ok(None) };
    let Some(change) = tuning.raise() else { return Ok(None) };
    let nothing = Command { program: "true".into(), args: Vec::new(), env: [].into() };
    if let Err(failure) = session.client.as_root("look for a way to root", vec![nothing], &mut |_| Ok(())) {
        let why = format!("{model} needs the GPU memory limit raised, which needs root: nothing was changed");
        return Err(Failure { causes: vec![failure.message], ..Failure::new(Class::Refused, why) }
            .hint(format!("`cargo xtask tune --model {model} --ask-sudo` raises it; then upgrade again"))
            .into());
    }
    Ok(Some(format!(": {}, {} → {}", change.what, change.before, change.after)))
}

/// Of the sandbox's machine nothing is changed.
fn is_tuned(observed: &Observed) -> bool {
    observed.current_release().is_some_and(|release| release.content.runtime != Runtime::Sandbox)
}

fn plan(session: &Session, old: &str, new: &str, limit: Option<&str>) -> String {
    let host = session.host();
    if is_same(old, new) {
        return format!(
            "upgrade of {new} on {host}\n  1. pull {new}, if the registry has a newer one, and have it answer"
        );
    }
    format!(
        "upgrade of {host} from {old} to {new}\n  1. check that {new} fits, pull what is missing, and have it answer\n  \
         2. tune the machine for it{}\n  3. compare both in turns\n  4. switch models.default in the settings; {old} is kept\n  \
         5. deploy: the host and the configured agents follow\n  6. verify",
        limit.unwrap_or_default()
    )
}

fn prune(settings: Option<&Path>, file: &Path, models: &Models, yes: bool) -> Result<Exit> {
    let Some(previous) = models.previous.as_deref() else {
        return Err(
            Failure::new(Class::Nothing, "no default before this one is known: there is nothing to prune").into()
        );
    };
    let mut session = Session::open(settings, Need::Any)?;
    if let Some(answers) = answers(&mut session, &models.default) {
        report::say(&format!(
            "{} gave {answers} in the last week; the guide's advice is a week of use first",
            models.default
        ));
    }
    if !yes && !report::ask(&format!("remove {previous} from the host?"))? {
        return Ok(Exit::Interrupted);
    }
    let removed = match on_host(settings, &mut session, &["model", "remove", previous]) {
        Err(error) if is_of(&error, Class::Nothing) => Exit::Nothing,
        removed => removed?,
    };
    // One that is gone already is as wanted.
    if !matches!(removed, Exit::Done | Exit::Nothing) {
        return Ok(removed);
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    write(file, &upgrade::forget(&text)?)?;
    Ok(Exit::Done)
}

fn is_of(error: &anyhow::Error, class: Class) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.class == class)
}

/// Whether the host has a model.
fn is_here(session: &mut Session, model: &str) -> Result<bool> {
    if session.is_here {
        return Ok(super::engine(session)?.list()?.models.iter().any(|held| is_same(&held.name, model)));
    }
    let (data, _) = there::answer(session, &["model", "list", "--json"], As::Question)?;
    let held: Vec<Value> = serde_json::from_str(&data).unwrap_or_default();
    Ok(held.iter().any(|held| held["name"].as_str().is_some_and(|name| is_same(name, model))))
}

/// Runs one of our own verbs where the engine is.
fn on_host(settings: Option<&Path>, session: &mut Session, words: &[&str]) -> Result<Exit> {
    if session.is_here {
        return by_words(settings, words);
    }
    let (data, exit) = there::answer(session, words, As::Job)?;
    report::data(&data)?;
    Ok(exit)
}

/// Runs one of our own verbs as though it had been typed.
fn by_words(settings: Option<&Path>, words: &[&str]) -> Result<Exit> {
    let mut cli = cli::Cli::try_parse_from(std::iter::once(&"xtask").chain(words))?;
    cli.settings = settings.map(Path::to_owned);
    crate::run(cli)
}

/// Has the machine set so that it serves `model`. What only root could do keeps nobody from going on.
fn tune_for(settings: Option<&Path>, mut session: Session, model: &str) -> Result<Session> {
    let observed = session.client.observe(Question::default())?;
    if !is_tuned(&observed) {
        return Ok(session);
    }
    // One connection at a time: it opens its own.
    drop(session);
    match by_words(settings, &["tune", "--model", model]) {
        Err(error) if is_of(&error, Class::Refused) => {
            report::error(&error);
            report::say("the upgrade goes on without it");
        }
        done => drop(done?),
    }
    Session::open(settings, Need::Any)
}

/// Measures both in turns, briefly. A slower model is told, not refused: it may be the better one.
fn compare(settings: Option<&Path>, mut session: Session, old: &str, new: &str) -> Result<Session> {
    let words = ["bench", "compare", "model", old, new, "--blocks", "3", "--requests", "2", "--output-tokens", "64"];
    match on_host(settings, &mut session, &words) {
        Ok(Exit::Done) => {}
        Ok(Exit::Failed) => report::say(&format!("note: {new} answers slower than {old}")),
        Ok(exit) => report::say(&format!("note: they were not compared ({exit:?})")),
        Err(error) if is_of(&error, Class::Interrupted) => return Err(error),
        Err(error) => report::say(&format!("note: they cannot be compared: {error}")),
    }
    Ok(session)
}

/// `12 answers and 1 error`, as Prometheus saw it over the last week.
fn answers(session: &mut Session, model: &str) -> Option<String> {
    let expression = format!("sum by (outcome) (increase(ollama_requests_total{{model={model:?}}}[7d]))");
    let rows: Vec<(String, f64)> = if session.is_here {
        let monitor = Monitor::of(&session.client.observe(Question::default()).ok()?).ok()?;
        let rows = query::query(&monitor, &expression, None).ok()?;
        rows.into_iter().filter_map(|row| Some((row.series, row.points.last()?.1))).collect()
    } else {
        let said = there::answer(session, &["monitor", "query", &expression, "--json"], As::Question).ok()?.0;
        let rows: Vec<Value> = serde_json::from_str(&said).ok()?;
        let row = |row: &Value| Some((row["series"].as_str()?.to_owned(), row["points"][0][1].as_f64()?));
        rows.iter().filter_map(row).collect()
    };
    let of = |is_ok: bool| -> f64 {
        rows.iter().filter(|(series, _)| series.contains("\"ok\"") == is_ok).map(|(_, count)| count.round()).sum()
    };
    Some(format!("{} answers and {} errors", of(true), of(false)))
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
