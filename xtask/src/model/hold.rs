//! `model list|show|remove|run|preload|unload|warm`: what a host has, and what of it is in memory.

use anyhow::Result;
use ops::model::{
    engine::{Answer, Engine, Stay},
    gigabytes,
    store::{self, Held, is_same},
};
use serde_json::{Value, json};
use stack::failure::{Class, Failure};

use super::engine;
use crate::{
    cli,
    report::{self, Exit},
    session::Session,
};

pub(super) fn list(mut session: Session, json: bool) -> Result<Exit> {
    let held = store::list(&engine(&mut session)?, &session.settings.models.default)?;
    if json {
        report::data(&format!("{}\n", serde_json::to_string(&held)?))?;
        return Ok(Exit::Done);
    }
    let width = held.iter().map(|model| model.name.len()).max().unwrap_or(0).max(5);
    report::data(&held.iter().map(|model| line(model, width)).collect::<String>())?;
    if held.is_empty() {
        let default = &session.settings.models.default;
        report::say(&format!("there is no model yet; `cargo xtask model pull {default}` brings the default"));
    }
    Ok(Exit::Done)
}

fn line(model: &Held, width: usize) -> String {
    let place = model.resident.as_ref().map_or_else(
        || "on disk".to_owned(),
        |it| format!("in memory, {}: {}, {} tokens", it.place(), gigabytes(it.bytes), it.context),
    );
    let context = model.context.map_or_else(String::new, |tokens| format!("{tokens} tokens"));
    let default = if model.default { " (default)" } else { "" };
    format!(
        "{:<width$}  {:>8}  {:>8}  {:<8}  {context:>13}  {place}{default}\n",
        model.name,
        gigabytes(model.bytes),
        model.parameters,
        model.quantization
    )
}

pub(super) fn show(mut session: Session, name: &str, json: bool) -> Result<Exit> {
    let engine = engine(&mut session)?;
    let show = engine.show(name)?;
    if json {
        report::data(&format!("{}\n", serde_json::to_string(&show)?))?;
        return Ok(Exit::Done);
    }
    let mut page = String::new();
    let mut add = |what: &str, text: &str| {
        if !text.trim().is_empty() {
            page += &format!("{what:<14}{}\n", text.trim().replace('\n', &format!("\n{:14}", "")));
        }
    };
    add("family", &show.details.family);
    add("parameters", &show.details.parameter_size);
    add("quantization", &show.details.quantization_level);
    add("capabilities", &show.capabilities.join(", "));
    let context = format!("{}.context_length", show.details.family);
    add("context", &show.model_info.get(&context).map(ToString::to_string).unwrap_or_default());
    add("options", &show.parameters);
    add("system", &show.system);
    if let Some(resident) = store::residency(&engine, name)? {
        add("in memory", &format!("{}, {}", resident.place(), gigabytes(resident.bytes)));
    }
    report::data(&page)?;
    Ok(Exit::Done)
}

pub(super) fn remove(mut session: Session, name: &str, yes: bool) -> Result<Exit> {
    let engine = engine(&mut session)?;
    if is_same(name, &session.settings.models.default) && !yes {
        return Err(Failure::new(Class::Refused, format!("{name} is the default, and clients mean it"))
            .hint("`cargo xtask model upgrade` makes another one the default; --yes removes it all the same")
            .into());
    }
    let bytes = engine.list()?.models.iter().find(|model| is_same(&model.name, name)).map_or(0, |model| model.size);
    engine.remove(name)?;
    report::say(&format!("removed {name}, {}", gigabytes(bytes)));
    Ok(Exit::Done)
}

pub(super) fn answer(mut session: Session, args: &cli::ModelRun) -> Result<Exit> {
    let engine = engine(&mut session)?;
    let model = args.model.as_deref().unwrap_or(&session.settings.models.default);
    let answer = engine.ask(model, &args.prompt, args.limit, &mut |piece| {
        if !args.json {
            report::data(piece)
                .map_err(|error| Failure::new(Class::Interrupted, "nobody reads the answer").because(&error))?;
        }
        session.interrupt.check()
    })?;
    report::data(&if args.json { format!("{}\n", to_json(model, &answer)) } else { "\n".to_owned() })?;
    Ok(Exit::Done)
}

/// The shape of `model run --json`.
pub(super) fn to_json(model: &str, answer: &Answer) -> Value {
    json!({
        "model": model,
        "text": answer.text,
        "load_seconds": answer.load.as_secs_f64(),
        "tokens_per_second": answer.tokens_per_second,
    })
}

pub(super) fn preload(mut session: Session, name: Option<&str>) -> Result<Exit> {
    let engine = engine(&mut session)?;
    let name = name.unwrap_or(&session.settings.models.default);
    load(&engine, name, Stay::AsSet)
}

pub(super) fn warm(mut session: Session, names: &[String]) -> Result<Exit> {
    let engine = engine(&mut session)?;
    let models = session.settings.models.clone();
    let default = [models.default];
    let names = match (names, models.warm.as_slice()) {
        ([], []) => &default,
        ([], warm) => warm,
        (names, _) => names,
    };
    for name in names {
        load(&engine, name, Stay::Forever)?;
        session.interrupt.check()?;
    }
    // One that came later may have pushed out one that came before.
    let lost: Vec<&String> =
        names.iter().filter(|name| !matches!(store::residency(&engine, name), Ok(Some(_)))).collect();
    if lost.is_empty() {
        if names.iter().any(|name| !models.warm.iter().any(|it| is_same(it, name))) {
            report::say(&format!(
                "until the engine starts anew; `warm = {names:?}` under [models] in stack.toml has it so always"
            ));
        }
        return Ok(Exit::Done);
    }
    Err(Failure::new(Class::Failed, format!("not all of them stay in memory together: {lost:?} had to leave"))
        .hint("warm fewer models, or raise engine.max_loaded_models if there is memory for more")
        .into())
}

fn load(engine: &Engine, name: &str, stay: Stay) -> Result<Exit> {
    let took = engine.load(name, stay)?;
    let place = store::residency(engine, name)?
        .map_or_else(|| "and left memory again".to_owned(), |it| format!("{}, {}", it.place(), gigabytes(it.bytes)));
    report::say(&format!("loaded {name} in {}: {place}", report::seconds(took)));
    Ok(Exit::Done)
}

pub(super) fn unload(mut session: Session, name: Option<&str>) -> Result<Exit> {
    let engine = engine(&mut session)?;
    let name = name.unwrap_or(&session.settings.models.default);
    engine.unload(name)?;
    report::say(&format!("unloaded {name}"));
    Ok(Exit::Done)
}
