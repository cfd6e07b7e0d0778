//! Results as text for a terminal.
//!
//! Invariant: a number stands with how many values it rests on; what the sample cannot carry is a dash.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    COLD_START, Outcome,
    compare::{Comparison, Finding, Verdict},
    record::{Label, Run},
    statistic::Distribution,
    store::{Entry, Summary},
};

const DASH: &str = "–";

/// A result: what was measured, a line a run, then what a reader has to know.
pub fn outcome(outcome: &Outcome) -> String {
    let mut text = format!("{}\n\n", subject(outcome));
    let _ = writeln!(
        text,
        "{:<26} {:>5} {:>4}  {:>22} {:>8}  {:>20} {:>9} {:>8} {:>7} {:>6}",
        "", "n", "err", "TTFT ms p50 [95 %]", "p99", "ITL ms p50 [95 %]", "E2E ms", "tok/s", "decode", "limit"
    );
    outcome.runs.iter().for_each(|run| text += &line(run));
    let notes = notes(outcome);
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// What was measured, in one line.
pub fn subject(outcome: &Outcome) -> String {
    let model = &outcome.model;
    let version = outcome.engine.version.as_deref().map(|version| format!("Ollama {version}"));
    let context = model.context_length.map(|tokens| format!("{tokens} tokens of context"));
    let parts =
        [model.quantization.clone(), model.parameters.clone(), context, version, Some(outcome.engine.endpoint.clone())];
    parts.into_iter().flatten().fold(model.name.clone(), |line, part| format!("{line} · {part}"))
}

/// How a run is called: `mixed × 4`, `synthetic at 2/s`.
pub fn name(label: &Label) -> String {
    let queueing = if label.is_queueing { ", queueing" } else { "" };
    match label.rate_per_second {
        Some(rate) => format!("{} at {rate}/s{queueing}", label.scenario),
        None if label.concurrency > 1 => format!("{} × {}{queueing}", label.scenario, label.concurrency),
        None => label.scenario.clone(),
    }
}

fn line(run: &Run) -> String {
    let line = format!(
        "{:<26} {:>5} {:>4}  {:>22} {:>8}  {:>20} {:>9} {:>8} {:>7} {:>6}",
        name(&run.label),
        run.requests,
        run.errors,
        with_interval(&run.ttft_ms),
        number(run.ttft_ms.p99),
        with_interval(&run.itl_ms),
        number(middle(&run.e2e_ms)),
        number(Some(run.output_tokens_per_second)),
        number(run.decode_tokens_per_second),
        run.limit_percent.map_or(DASH.to_owned(), |percent| format!("{percent:.0} %")),
    );
    line.trim_end().to_owned() + "\n"
}

/// The median, or the value of the only request.
pub fn middle(distribution: &Distribution) -> Option<f64> {
    distribution.p50.or(distribution.mean)
}

/// The median with its interval, if the sample carries one.
fn with_interval(distribution: &Distribution) -> String {
    match (distribution.p50, distribution.p50_interval) {
        (Some(p50), Some((low, high))) => {
            format!("{} [{}, {}]", number(Some(p50)), number(Some(low)), number(Some(high)))
        }
        _ => number(middle(distribution)),
    }
}

/// Three digits that count.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => DASH.to_owned(),
        Some(value) if value.abs() < 10.0 => format!("{value:.2}"),
        Some(value) if value.abs() < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// What a reader has to know, most general first.
pub fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes: Vec<String> = outcome.broken_off.iter().map(|why| format!("not complete: {why}")).collect();
    notes.extend(outcome.warnings.iter().cloned());
    notes.extend(lengths(&outcome.runs));
    for run in &outcome.runs {
        let of_run = run.warnings.iter().cloned().chain(failures(run));
        notes.extend(of_run.map(|note| format!("{}: {note}", name(&run.label))));
    }
    notes
}

/// How answers ended, if some were of another length than was asked for.
fn lengths(runs: &[Run]) -> Option<String> {
    let (off, all) = runs.iter().fold((0, 0), |(off, all), run| (off + run.off_length, all + run.e2e_ms.n));
    let mut reasons = BTreeMap::<&str, usize>::new();
    for (reason, count) in runs.iter().flat_map(|run| &run.done_reasons) {
        *reasons.entry(reason).or_default() += count;
    }
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
    let words =
        || format!("{off} of {all} answers were more than 10 % off the length asked for ({})", reasons.join(", "));
    (off > 0).then(words)
}

/// Errors and cut requests, each with how often.
fn failures(run: &Run) -> Vec<String> {
    let errors = run.error_counts.iter().map(|(error, count)| format!("{count} × {error}"));
    let cut = (run.cut > 0).then(|| format!("{} cut off by the end of the run", run.cut));
    errors.chain(cut).collect()
}

/// Several models side by side.
pub fn side_by_side(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<44} {:>10} {:>10} {:>10}\n",
        "speed only, not how good the answers are", "TTFT ms", "ITL ms", "tok/s"
    );
    for outcome in outcomes {
        // Over the single streams: each model has those.
        let single =
            || outcome.runs.iter().filter(|run| run.label.concurrency == 1 && run.label.scenario != COLD_START);
        let over = |value: &dyn Fn(&Run) -> Option<f64>| {
            number(super::statistic::median(single().filter_map(value).collect()))
        };
        let _ = writeln!(
            text,
            "{:<44} {:>10} {:>10} {:>10}",
            outcome.model.name,
            over(&|run| run.ttft_ms.p50),
            over(&|run| run.itl_ms.p50),
            over(&|run| Some(run.output_tokens_per_second)),
        );
    }
    text
}

/// A comparison, a line a metric.
pub fn comparison(comparison: &Comparison) -> String {
    let taken = if comparison.is_paired { "taken in turns" } else { "not taken in turns" };
    let mut text = format!(
        "{} → {} · {} and {} blocks, {taken} · tolerance {} %\n\n",
        comparison.a, comparison.b, comparison.blocks.0, comparison.blocks.1, comparison.tolerance_percent
    );
    for finding in &comparison.findings {
        let (low, high) = finding.interval_percent;
        let _ = writeln!(
            text,
            "{:<10} {:>9} → {:<9} {:>+7.1} %  [{low:+.1}, {high:+.1}]  {}",
            finding.metric,
            number(Some(finding.a)),
            number(Some(finding.b)),
            finding.change_percent,
            verdict(finding)
        );
    }
    for note in &comparison.warnings {
        let _ = writeln!(text, "\nnote: {note}");
    }
    text
}

/// `worse`, `undecidable (needs 9 more blocks)`.
pub fn verdict(finding: &Finding) -> String {
    match finding.verdict {
        Verdict::Undecidable => {
            format!("undecidable (needs {} more blocks)", finding.blocks_more.unwrap_or_default())
        }
        decided => word(decided).to_owned(),
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Same => "same",
        Verdict::Worse => "worse",
        Verdict::Undecidable => "undecidable",
    }
}

/// The results and comparisons that there are.
pub fn list(entries: &[Entry]) -> String {
    let line = |entry: &Entry| match &entry.summary {
        Some(Summary::Result { runs, answered, broken_off, .. }) => {
            let broken = broken_off.as_ref().map_or(String::new(), |why| format!("  not complete: {why}"));
            format!("{:<64} {runs:>2} runs {answered:>5} answers{broken}\n", entry.id)
        }
        Some(Summary::Comparison { verdicts, .. }) => {
            let said: Vec<String> = verdicts.iter().map(|(metric, it)| format!("{metric} {}", word(*it))).collect();
            format!("{:<64} {}\n", entry.id, said.join(", "))
        }
        None => format!("{:<64} of another schema\n", entry.id),
    };
    entries.iter().map(line).collect()
}
