//! `model`: everything about models. Each verb works where the engine is; only `upgrade` has a part here, the settings.

mod bring;
mod convert;
pub(crate) mod fit;
mod hold;
mod upgrade;

use std::path::Path;

use anyhow::Result;
use ops::model::engine::Engine;
use stack::observed::Question;

use crate::{
    cli::Model,
    report::Exit,
    session::{Need, Session},
    there::{self, As},
};

pub(crate) fn run(settings: Option<&Path>, verb: Model) -> Result<Exit> {
    let there = |how, verb: &dyn Fn(Session) -> Result<Exit>| {
        let session = Session::open(settings, Need::Any)?;
        if session.is_here { verb(session) } else { there::run(session, how) }
    };
    match verb {
        Model::Fit(args) if args.memory.is_some() => fit::imagined(settings, &args),
        Model::Fit(args) => there(As::Question, &|session| fit::here(session, &args)),
        Model::Pull { name, force } => there(As::Job, &|session| bring::pull(session, &name, force)),
        Model::List { json } => there(As::Question, &|session| hold::list(session, json)),
        Model::Show { name, json } => there(As::Question, &|session| hold::show(session, &name, json)),
        Model::Remove { name, yes } => there(As::Question, &|session| hold::remove(session, &name, yes)),
        Model::Run(args) => there(As::Question, &|session| hold::answer(session, &args)),
        Model::Preload { name } => there(As::Question, &|session| hold::preload(session, name.as_deref())),
        Model::Unload { name } => there(As::Question, &|session| hold::unload(session, name.as_deref())),
        Model::Warm { names } => there(As::Question, &|session| hold::warm(session, &names)),
        Model::Apply { json } => there(As::Job, &|session| bring::apply(session, json)),
        Model::Convert(args) => there(As::Job, &|session| convert::run(session, &args)),
        Model::Upgrade(args) => upgrade::run(settings, &args),
    }
}

/// The engine of what is deployed.
fn engine(session: &mut Session) -> Result<Engine> {
    Ok(Engine::of(&session.client.observe(Question::default())?)?)
}
