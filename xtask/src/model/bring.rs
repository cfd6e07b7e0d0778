//! `model pull|apply`: models that were not there before.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Instant};

use anyhow::Result;
use ops::model::{
    engine::{CreateRequest, Engine},
    file::Whole,
    fit, gigabytes,
    hub::Pieces,
    modelfile,
    modelfile::Applied,
    pull::{self, Event},
    store, subject,
};
use serde_json::{Map, json};
use stack::{
    component::Runtime,
    failure::{Class, Doing, Failure},
    observed::Question,
};

use super::{engine, fit as verb};
use crate::{
    progress,
    report::{self, Exit},
    session::Session,
};

pub(super) fn pull(mut session: Session, name: &str, force: bool) -> Result<Exit> {
    let engine = engine(&mut session)?;
    check(&mut session, &engine, name, force)?;
    match Pieces::of(name, &mut telling(&session))? {
        Some(pieces) => assemble(&mut session, &engine, name, &pieces)?,
        None => {
            bring(&session, &engine, name)?;
            prove(&session, &engine, name)?;
        }
    }
    Ok(Exit::Done)
}

/// A clear no before the first byte.
fn check(session: &mut Session, engine: &Engine, name: &str, force: bool) -> Result<()> {
    let host = verb::host(session)?;
    let subject = subject::find(name, Some(engine))?;
    let serving = verb::serving(&subject, &session.settings, None);
    let rows = fit::fit(subject.attention.as_ref(), &subject.sizes, &host, &serving);
    // A name without a quantisation is the smallest in the library.
    let Some(row) = rows.first() else { return Ok(()) };
    let says = verb::verdict(row);
    report::say(&format!("{name} ({}) on {}: {says}", row.quantization, host.name));
    let observed = session.client.observe(Question::default())?;
    let is_sandbox = observed.current_release().is_some_and(|release| release.content.runtime == Runtime::Sandbox);
    match fit::permit(row) {
        Err(_) if is_sandbox => {
            report::say("note: the sandbox pulls it all the same: its models are small stand-ins");
            Ok(())
        }
        Err(_) if force => Ok(()),
        permit => Ok(permit?),
    }
}

fn bring(session: &Session, engine: &Engine, name: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    let pulled = pull::pull(engine, name, &mut telling(session));
    progress::clear();
    pulled.map_err(|failure| match failure.class {
        Class::Interrupted => {
            failure.hint(format!("what came is kept; `cargo xtask model pull {name}` goes on from there"))
        }
        _ => failure,
    })?;
    report::say(&format!("pulled {name} in {}", report::seconds(begun.elapsed())));
    Ok(())
}

/// Tells of a pull, which Ctrl-C ends.
fn telling(session: &Session) -> impl FnMut(Event) -> Result<(), Failure> + use<> {
    let interrupt = session.interrupt.clone();
    move |event| {
        match event {
            Event::Layer(layer) => progress::show(&layer),
            Event::Status(status) => {
                progress::clear();
                report::say(&status);
            }
            Event::Again { cause, pause_s } => {
                progress::clear();
                report::say(&format!("{cause}: again in {pause_s} s"));
            }
        }
        interrupt.check()
    }
}

/// A model in pieces: they are fetched, and given to the engine as the one file that they are together.
fn assemble(session: &mut Session, engine: &Engine, name: &str, pieces: &Pieces) -> Result<()> {
    let models = session.settings.engine.models_path.clone();
    let observed = session.client.observe(Question { facts: Some(models), ..Question::default() })?;
    let work = observed.root.join("data/pull").join(name.replace([':', '/'], "_"));
    let (count, size) = (pieces.files.len(), gigabytes(pieces.bytes()));
    report::say(&format!("{} has it in {count} pieces, {size}: they come to {}", pieces.repository, work.display()));
    let disk = |what: &str| observed.facts.iter().flat_map(|machine| &machine.disks).find(|disk| disk.what == what);
    let free = disk("the stack").map(|disk| disk.available_bytes);
    // The engine keeps a copy, and mostly on the same disk.
    let copy = match (disk("the stack"), disk("models")) {
        (Some(stack), Some(models)) if device(&stack.path) != device(&models.path) => 0,
        _ => pieces.bytes(),
    };
    let missing = pieces.missing_bytes(&work) + copy;
    if free.is_some_and(|free| free < missing) {
        let more = gigabytes(missing - free.unwrap_or(0));
        return Err(Failure::new(Class::Refused, format!("{more} more free are needed to fetch {name}")).into());
    }
    let fetched = pieces.fetch(&work, &mut telling(session));
    progress::clear();
    let kept = |failure: Failure| {
        let hint = failure.hint.clone().map_or_else(String::new, |hint| format!("{hint}\n      "));
        failure.hint(format!(
            "{hint}what came is kept: `cargo xtask model pull {name}` goes on from there, `rm -r '{}'` gives it up",
            work.display()
        ))
    };
    let whole = fetched.and_then(|files| Whole::of(&files)).map_err(kept)?;
    create(session, engine, &whole, CreateRequest { model: name.to_owned(), ..CreateRequest::default() })?;
    prove(session, engine, name)?;
    fs::remove_dir_all(&work).doing("cannot remove", &work)?;
    Ok(())
}

/// The disk of what is there of a path.
fn device(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|path| path.metadata().ok()).map(|meta| meta.dev())
}

/// Has the engine make a model of a file, of which it keeps a copy.
pub(super) fn create(session: &Session, engine: &Engine, whole: &Whole, request: CreateRequest) -> Result<()> {
    let watch = |what: &str| progress::watch(what, whole.bytes(), &session.interrupt);
    let given = whole.digest(watch("hash the model")).and_then(|digest| {
        engine.upload(whole, &digest, watch("give it to the engine"))?;
        let files = Some([("model.gguf".to_owned(), digest)].into());
        engine.create(&CreateRequest { files, ..request.clone() }, &mut |_| session.interrupt.check())
    });
    // Whoever was interrupted while reading tells so in other words.
    session.interrupt.check()?;
    given?;
    report::say(&format!("created {}, {}", request.model, gigabytes(whole.bytes())));
    Ok(())
}

/// It answers, and one sees where it sits.
pub(super) fn prove(session: &Session, engine: &Engine, name: &str) -> Result<()> {
    let prompt = "Write hello world in Rust.";
    let answer = engine.ask(name, prompt, Some(16), &mut |_| session.interrupt.check())?;
    if answer.text.trim().is_empty() {
        return Err(Failure::new(Class::Failed, format!("{name} is here, but says nothing")).into());
    }
    let rate = answer.tokens_per_second.map_or_else(String::new, |rate| format!(", {rate:.0} tokens/s"));
    let place = store::residency(engine, name)?.map_or_else(|| "not in memory".to_owned(), |it| it.place());
    report::say(&format!("{name} answers: {place}, loaded in {}{rate}", report::seconds(answer.load)));
    Ok(())
}

pub(super) fn apply(mut session: Session, json: bool) -> Result<Exit> {
    let observed = session.client.observe(Question::default())?;
    let engine = Engine::of(&observed)?;
    let record = observed.root.join("data/modelfiles.json");
    let mut results = Map::new();
    for file in modelfile::find(&session.folder)? {
        let applied = modelfile::apply(&engine, &file, &record)?;
        if !json {
            let line = match &applied {
                Applied::Unchanged => format!("{} is as its Modelfile says\n", file.name),
                Applied::Made => format!("{} made\n", file.name),
                Applied::Skipped { base } => {
                    format!("{} skipped: its base is not here; `cargo xtask model pull {base}` brings it\n", file.name)
                }
            };
            report::data(&line)?;
        }
        results.insert(file.name, json!(applied));
    }
    if json {
        report::data(&format!("{}\n", json!(results)))?;
    }
    Ok(Exit::Done)
}
