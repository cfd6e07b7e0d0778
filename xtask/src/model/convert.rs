//! `model convert`: from a repository of the hub to a model of the engine.

use std::{
    fs,
    io::{self, IsTerminal},
    path::Path,
    slice,
};

use anyhow::Result;
use ops::model::{
    convert::{self, Plan, Tools, Wanted},
    engine::Engine,
    file::Whole,
    gigabytes,
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
            .hint("ready GGUF files need a fraction: `cargo xtask model pull hf.co/USER/REPO:QUANT`")
            .into());
    }
    fs::create_dir_all(&wanted.work).doing("cannot make", &wanted.work)?;
    let log = wanted.work.join("log");
    // Planned again after each step: the tools that it brought are there then, and so is the first shard.
    while let Some(step) = plan()?.steps.into_iter().find(|step| !step.is_done()) {
        report::say(&step.what);
        let ran = convert::run(&step, &log, &mut || {
            if step.bytes.is_some() {
                let (what, done_bytes) = (step.what.clone(), step.done_bytes());
                progress::show(&Progress { what, done_bytes, total_bytes: step.bytes });
            }
            session.interrupt.check()
        });
        progress::clear();
        ran?;
    }
    let mut request = convert::request(&name, &first.folder)?;
    request.system = args.system.clone().unwrap_or(request.system);
    bring::create(&session, &engine, &Whole::of(slice::from_ref(&first.result))?, request)?;
    bring::prove(&session, &engine, &name)?;
    offer(&wanted.work, &first, args.prune)
}

/// What is in between is large, and would be made again only for another quantisation.
fn offer(work: &Path, plan: &Plan, is_wanted: bool) -> Result<Exit> {
    let bytes = gigabytes(plan.steps.iter().filter_map(|step| step.bytes).sum());
    let place = work.display();
    let is_asked =
        || io::stdin().is_terminal() && report::ask(&format!("remove what is in between, {bytes}?")).is_ok_and(|it| it);
    if is_wanted || is_asked() {
        fs::remove_dir_all(work).doing("cannot remove", work)?;
        report::say(&format!("removed {place}, {bytes}"));
    } else {
        report::say(&format!("what is in between, {bytes}, is not needed any more: rm -r '{place}'"));
    }
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
    let missing = if plan.is_sized() { gigabytes(plan.missing_bytes()) } else { "unknown".to_owned() };
    page + &format!("     still to be written {missing:>30}\n")
}
