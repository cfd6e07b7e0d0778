//! `model fit`: what fits the host, before the first byte is pulled.

use std::path::Path;

use anyhow::Result;
use ops::model::{
    engine::Engine,
    fit::{self, Host, Row, Serving, Verdict},
    gigabytes, subject,
    subject::Subject,
};
use serde_json::json;
use stack::{observed::Question, settings::Settings};

use crate::{
    cli,
    report::{self, Exit},
    session::{Session, find_settings},
};

/// For the host that this runs on.
pub(super) fn here(mut session: Session, args: &cli::ModelFit) -> Result<Exit> {
    let host = host(&mut session)?;
    let engine = Engine::of(&session.client.observe(Question::default())?).ok();
    let name = args.name.as_deref().unwrap_or(&session.settings.models.default);
    let subject = subject::find(name, engine.as_ref())?;
    tell(&subject, &host, &session.settings, args)
}

/// For a machine that one does not have: nobody is asked.
pub(super) fn imagined(settings: Option<&Path>, args: &cli::ModelFit) -> Result<Exit> {
    let settings = match find_settings(settings)?.1 {
        Some(file) => Settings::load(&file)?,
        None => Settings::sandbox(),
    };
    let host = subject::imagined(args.memory, args.chip.as_deref());
    if host.memory_gb_per_s.is_none() {
        report::say("note: that chip's memory bandwidth is not known here, so no rate is told");
    }
    let subject = subject::find(args.name.as_deref().unwrap_or(&settings.models.default), None)?;
    tell(&subject, &host, &settings, args)
}

/// What the host is, asked of itself.
pub(super) fn host(session: &mut Session) -> Result<Host> {
    let models = session.settings.engine.models_path.clone();
    let observed = session.client.observe(Question { facts: Some(models), ..Question::default() })?;
    Ok(subject::observed_host(session.host(), &observed, &session.settings)?)
}

/// As the settings and the flags want it served.
pub(crate) fn serving(subject: &Subject, settings: &Settings, args: Option<&cli::ModelFit>) -> Serving {
    let set = Serving::of(&settings.engine, subject.context);
    let Some(args) = args else { return set };
    Serving {
        context: args.context.map_or(set.context, |asked| u64::from(asked).min(subject.context.unwrap_or(u64::MAX))),
        parallel: args.parallel.map_or(set.parallel, u64::from),
        kv: args.kv.unwrap_or(set.kv),
        ..set
    }
}

fn tell(subject: &Subject, host: &Host, settings: &Settings, args: &cli::ModelFit) -> Result<Exit> {
    let serving = serving(subject, settings, Some(args));
    let rows = fit::fit(subject.attention.as_ref(), &subject.sizes, host, &serving);
    if let Some(note) = &subject.note {
        report::say(&format!("note: {note}"));
    }
    if let Some(asked) = args.context.filter(|asked| u64::from(*asked) > serving.context) {
        report::say(&format!("note: {} knows {} tokens, not {asked}", subject.name, serving.context));
    }
    if args.json {
        let answer = json!({"model": subject.name, "host": host, "context": serving.context, "rows": rows});
        report::data(&format!("{answer}\n"))?;
    } else {
        report::data(&page(subject, host, &serving, &rows))?;
    }
    Ok(Exit::Done)
}

fn page(subject: &Subject, host: &Host, serving: &Serving, rows: &[Row]) -> String {
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), gigabytes);
    let chip = host.chip.as_deref().unwrap_or("unknown chip");
    let slots = if serving.parallel == 1 { String::new() } else { format!(" in each of {} slots", serving.parallel) };
    let mut page = format!(
        "{} with {} tokens{slots}\non {} ({chip}): {} for models ({}), {} free on disk\nfigures: {}\n\n\
         {:<10} {:>9} {:>9} {:>9}  {:>9}\n",
        subject.name,
        serving.context,
        host.name,
        known(host.gpu_limit_bytes),
        host.gpu_limit_source,
        known(host.free_disk_bytes),
        subject.source,
        "size",
        "weights",
        "cache",
        "total",
        "rate",
    );
    for row in rows {
        let rate = row.tokens_per_second_limit.map_or_else(|| "?".to_owned(), |rate| format!("≤ {rate:.0}/s"));
        page += &format!(
            "{:<10} {:>9} {:>9} {:>9}  {rate:>9}  {}\n",
            row.quantization,
            known(row.bytes),
            known(row.kv_bytes),
            known(row.total_bytes),
            verdict(row),
        );
    }
    page
}

/// In words.
pub(super) fn verdict(row: &Row) -> String {
    let needs = row.needs.as_deref().unwrap_or_default();
    match row.verdict {
        Verdict::Fits => "fits".to_owned(),
        Verdict::FitsWithLimit => format!("fits after: {needs}"),
        Verdict::FitsWithContext => format!("fits with {needs}"),
        Verdict::DoesNotFit => format!("does not fit: it needs {needs}"),
        Verdict::Unknown => format!("unknown: nobody knows {needs}"),
    }
}
