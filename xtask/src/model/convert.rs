//! `model convert`: from a repository of the hub to a model of the engine.

use anyhow::Result;
use ops::model::{
    convert::{self, Plan, Tools, Wanted},
    engine::Engine,
    gigabytes, store,
};
use stack::{
    failure::{Class, Doing, Failure},
    observed::Question,
    protocol::Progress,
    settings::value,
};

use super::bring;
use crate::{
    cli, progress,
    report::{self, Exit},
    session::Session,
};

pub(super) fn run(mut session: Session, args: &cli::ModelConvert) -> Result<Exit> {
    let models = session.settings.engine.models_path.clone();
    let observed = session.client.observe(Question { facts: Some(models), ..Question::default() })?;
    let engine = Engine::of(&observed)?;
    let source = convert::source(&args.source)?;
    let name = args.name.clone().unwrap_or_else(|| convert::name(&source, &args.quant));
    value::model(&name).map_err(|wrong| {
        Failure::new(Class::Settings, format!("{name:?} {wrong}")).hint("--name says what the model is to be called")
    })?;
    let work = observed.root.join("data/convert").join(name.replace([':', '/'], "_"));
    let wanted = Wanted { source, quantization: args.quant.to_ascii_uppercase(), work };
    let bytes = convert::source_bytes(&wanted);
    let plan = || convert::plan(&wanted, &Tools::find(&observed.system), bytes);
    let first = plan()?;
    report::data(&page(&first, &wanted, &name))?;
    if args.dry_run {
        return Ok(Exit::Done);
    }
    let disks = observed.facts.iter().flat_map(|machine| &machine.disks);
    let free = disks.filter(|disk| disk.what == "the stack").map(|disk| disk.available_bytes).next();
    if free.is_some_and(|free| free < first.missing_bytes()) {
        let missing = gigabytes(first.missing_bytes() - free.unwrap_or(0));
        return Err(Failure::new(Class::Refused, format!("there is not enough room: {missing} more are needed"))
            .hint("GGUF shards that somebody has made need a fraction: `model convert hf.co/USER/REPO`")
            .into());
    }
    std::fs::create_dir_all(&wanted.work).doing("cannot make", &wanted.work)?;
    let log = wanted.work.join("log");
    // Planned again after each step: the tools that it brought are there then, and so is the first shard.
    while let Some(step) = plan()?.steps.into_iter().find(|step| !step.is_done()) {
        report::say(&step.what);
        convert::run(&step, &log, &mut || session.interrupt.check())?;
    }
    create(&session, &engine, &first, &name, args.system.as_deref())?;
    bring::prove(&session, &engine, &name)?;
    report::say(&format!("what is in between is not needed any more: rm -r '{}'", wanted.work.display()));
    Ok(Exit::Done)
}

fn page(plan: &Plan, wanted: &Wanted, name: &str) -> String {
    let mut page = format!("{name} in {}\n", wanted.work.display());
    let steps = plan.steps.iter().map(|step| (step.what.as_str(), step.bytes, step.is_done()));
    let last = plan.steps.last().and_then(|step| step.bytes);
    for (number, (what, bytes, done)) in steps.chain([("create it in the engine", last, false)]).enumerate() {
        let bytes = bytes.map(gigabytes).unwrap_or_default();
        page += &format!("{:>3}. {what:<40} {bytes:>10}{}\n", number + 1, if done { "  done" } else { "" });
    }
    page + &format!("     still to be written {:>30}\n", gigabytes(plan.missing_bytes()))
}

fn create(session: &Session, engine: &Engine, plan: &Plan, name: &str, system: Option<&str>) -> Result<()> {
    let total_bytes = plan.result.metadata().ok().map(|meta| meta.len());
    let digest = convert::digest(&plan.result, &mut |done_bytes| {
        progress::show(&Progress { what: "hash the model".to_owned(), done_bytes, total_bytes });
        session.interrupt.check()
    });
    progress::clear();
    let digest = digest?;
    engine.upload(&plan.result, &digest)?;
    engine.create_from_file(name, &digest, system.unwrap_or_default(), convert::parameters(&plan.folder))?;
    let made = engine.list()?.models.into_iter().find(|model| store::is_same(&model.name, name));
    report::say(&format!("created {name}, {}", gigabytes(made.map_or(0, |model| model.size))));
    Ok(())
}
