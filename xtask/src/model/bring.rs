//! `model pull|apply`: models that were not there before.

use std::time::Instant;

use anyhow::Result;
use ops::model::{
    engine::Engine,
    fit, modelfile,
    modelfile::Applied,
    pull::{self, Event},
    store, subject,
};
use serde_json::{Map, json};
use stack::{
    component::Runtime,
    failure::{Class, Failure},
    observed::Question,
};

use super::{convert, engine, fit as verb};
use crate::{
    cli, progress,
    report::{self, Exit},
    session::Session,
};

pub(super) fn pull(mut session: Session, name: &str, force: bool) -> Result<Exit> {
    let engine = engine(&mut session)?;
    check(&mut session, &engine, name, force)?;
    if let Err(failure) = bring(&session, &engine, name) {
        let Some((source, quant)) = pull::in_pieces(name, &failure) else { return Err(failure.into()) };
        report::say("it comes in pieces, which the engine does not merge: they are fetched and merged here");
        let args = cli::ModelConvert { source, quant, name: Some(name.to_owned()), system: None, dry_run: false };
        return convert::run(session, &args);
    }
    prove(&session, &engine, name)?;
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
    let pulled = pull::pull(engine, name, &mut |event| {
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
        session.interrupt.check()
    });
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
