//! The report: a page that stands alone, for whoever was not there.
//!
//! Invariant: it loads nothing and runs nothing; every number in it stands in `result.json` or follows from
//! `records.jsonl`, and what the table prints as a note is a note here.

use std::fmt::Write;

use super::{
    COLD_START, Outcome,
    compare::{Comparison, Kept},
    plot::{self, Row},
    record::{Record, Run},
    statistic::{Distribution, median},
    table::{self, name, number},
};

const STYLE: &str = include_str!("report.css");

/// More bars than this are no plot any more; the records have them all.
const MOST_BARS: usize = 300;

/// The whole page.
pub fn page(outcome: &Outcome) -> String {
    let mut body = head(outcome);
    body += &list(&table::notes(outcome));
    body += &runs(outcome);
    let of = |value: &dyn Fn(&Record) -> Option<f64>| rows(outcome, value);
    body += &figure(
        "Time to the first token",
        "Each dot is a request; the line is the median, the band where it lies with a confidence of 95 %.",
        &plot::distributions("Time to the first token", "ms", &of(&|it| it.ttft_ms)),
    );
    body += &figure(
        "Time a token",
        "(last token − first token) ÷ (tokens − 1) of each request. The pace of one stream is a thousand divided by it.",
        &plot::distributions("Time a token", "ms", &of(&Record::itl_ms)),
    );
    let rates: Vec<(String, f64)> =
        outcome.runs.iter().map(|run| (name(&run.label), run.output_tokens_per_second)).collect();
    body += &figure(
        "Throughput",
        "Tokens of whole answers ÷ time from the first request to the last end, over all streams of a run.",
        &plot::bars("Throughput", "tokens/s", &rates),
    );
    body += &timelines(outcome);
    let title = format!("{}: how fast it answers", outcome.model.name);
    let footer = format!("{} · schema {} · seed {}", outcome.program, outcome.schema, outcome.pinned.seed);
    whole(&title, &body, &footer)
}

/// The page of a comparison.
pub fn comparison(kept: &Kept) -> String {
    let it = &kept.comparison;
    let taken = if it.is_paired { "taken in turns" } else { "from different times" };
    let mut body = format!(
        "<h1>{} → {}</h1>\n<p class=\"what\">{} and {} blocks, {taken} · tolerance {} %<br>{}</p>\n",
        escape(&it.a),
        escape(&it.b),
        it.blocks.0,
        it.blocks.1,
        it.tolerance_percent,
        escape(&kept.ended)
    );
    body += &list(&it.warnings);
    body += &findings(it);
    body += &figure(
        "Change",
        "From the first to the second: the line is the estimate, the band where it lies with a confidence of 95 %, the grey one \
         the tolerance.",
        &plot::changes("Change", it),
    );
    for (at, (metric, ..)) in Run::default().metrics().into_iter().enumerate() {
        let row = |name: &str, runs: &[Run]| {
            let values: Vec<f64> = runs.iter().filter_map(|run| run.metrics()[at].1).collect();
            Row { name: name.to_owned(), distribution: Distribution::of(values.clone()), values }
        };
        let unit = if metric == "tokens/s" { metric } else { "ms" };
        let rows = [row("first", &kept.of_a), row("second", &kept.of_b)];
        body += &figure(metric, "Each dot is a block.", &plot::distributions(metric, unit, &rows));
    }
    whole(&format!("{} → {}", it.a, it.b), &body, &format!("schema {}", kept.schema))
}

fn findings(comparison: &Comparison) -> String {
    let mut html = String::from(
        "<h2>Findings</h2>\n<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">metric</th><th scope=\"col\">first</th>\
         <th scope=\"col\">second</th><th scope=\"col\">change</th><th scope=\"col\">95 %</th><th scope=\"col\">p</th>\
         <th scope=\"col\">verdict</th></tr></thead>\n<tbody>\n",
    );
    for it in &comparison.findings {
        let (low, high) = it.interval_percent;
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:+.1} %</td><td>{low:+.1} … {high:+.1}</td><td>{:.3}</td><td>{}</td></tr>",
            escape(&it.metric),
            number(Some(it.a)),
            number(Some(it.b)),
            it.change_percent,
            it.adjusted_p,
            table::verdict(it)
        );
    }
    html + "</tbody>\n</table></div>\n"
}

/// A page around its body.
fn whole(title: &str, body: &str, footer: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\
         <footer>{} · definitions: docs/bench.md</footer>\n</main>\n</body>\n</html>\n",
        escape(title),
        escape(footer)
    )
}

/// What was measured, and the four numbers that most people come for.
fn head(outcome: &Outcome) -> String {
    let subject = table::subject(outcome);
    let what = subject.split_once(" · ").map_or("", |(_, rest)| rest);
    let host = &outcome.host;
    let memory = host.memory_bytes.map(|bytes| format!("{} GiB", bytes >> 30));
    let host: Vec<String> = host.chip.iter().cloned().chain(memory).collect();
    let mut html = format!(
        "<h1>{}</h1>\n<p class=\"what\">{}<br>{} · {}</p>\n<dl class=\"figures\">\n",
        escape(&outcome.model.name),
        escape(what),
        escape(&outcome.began),
        escape(&if host.is_empty() { "host unknown".to_owned() } else { host.join(", ") })
    );
    let warm = || outcome.runs.iter().filter(|run| run.label.scenario != COLD_START);
    let single = || warm().filter(|run| run.label.concurrency == 1);
    let middle = |value: &dyn Fn(&Run) -> Option<f64>| median(single().filter_map(value).collect());
    let pace = middle(&|run| run.itl_ms.p50.filter(|itl| *itl > 0.0).map(|itl| 1e3 / itl));
    let most = warm().map(|run| run.output_tokens_per_second).max_by(f64::total_cmp);
    let limit = middle(&|run| run.limit_percent);
    for (what, value, unit) in [
        ("First token, one stream", middle(&|run| run.ttft_ms.p50), "ms"),
        ("Pace, one stream", pace, "tokens/s"),
        ("Most over all streams", most, "tokens/s"),
        ("Of what memory allows", limit, "%"),
    ] {
        let unit = if value.is_some() { unit } else { "" };
        let _ = writeln!(html, "<div><dt>{what}</dt><dd>{} <small>{unit}</small></dd></div>", number(value));
    }
    html + "</dl>\n"
}

/// What a reader has to know.
fn list(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let items: String = notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    format!("<ul class=\"notes\" aria-label=\"Notes\">\n{items}</ul>\n")
}

fn runs(outcome: &Outcome) -> String {
    let mut html = String::from(
        "<h2>Runs</h2>\n<p class=\"how\">Milliseconds. A dash is a percentile that the sample is too small for; of one request, p50 is its value.</p>\n\
         <div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">run</th><th scope=\"col\">n</th><th scope=\"col\">errors</th>\
         <th scope=\"col\">TTFT p50</th><th scope=\"col\">p90</th><th scope=\"col\">p99</th><th scope=\"col\">ITL p50</th>\
         <th scope=\"col\">p90</th><th scope=\"col\">E2E p50</th><th scope=\"col\">queue p50</th>\
         <th scope=\"col\">tokens/s</th></tr></thead>\n<tbody>\n",
    );
    for run in &outcome.runs {
        let _ =
            write!(html, "<tr><td>{}</td><td>{}</td><td>{}</td>", escape(&name(&run.label)), run.requests, run.errors);
        let columns = [
            table::middle(&run.ttft_ms),
            run.ttft_ms.p90,
            run.ttft_ms.p99,
            table::middle(&run.itl_ms),
            run.itl_ms.p90,
            table::middle(&run.e2e_ms),
            table::middle(&run.queue_ms),
            Some(run.output_tokens_per_second),
        ];
        columns.iter().for_each(|value| html += &format!("<td>{}</td>", number(*value)));
        html += "</tr>\n";
    }
    html + "</tbody>\n</table></div>\n"
}

fn rows(outcome: &Outcome, value: &dyn Fn(&Record) -> Option<f64>) -> Vec<Row> {
    // A cold start would put all others on one spot; it stands in the table.
    let is_warm = |(_, run): &(usize, &Run)| run.label.scenario != COLD_START;
    let row = |(index, run): (usize, &Run)| {
        let of_run = outcome.records.iter().filter(|it| it.run == index && it.is_whole());
        let values: Vec<f64> = of_run.filter_map(value).collect();
        Row { name: name(&run.label), distribution: Distribution::of(values.clone()), values }
    };
    outcome.runs.iter().enumerate().filter(is_warm).map(row).collect()
}

fn figure(title: &str, how: &str, svg: &str) -> String {
    format!("<h2>{title}</h2>\n<figure><figcaption>{how}</figcaption>\n{svg}</figure>\n")
}

fn timelines(outcome: &Outcome) -> String {
    let mut html = String::from(
        "<h2>Requests over time</h2>\n<p class=\"key how\"><span class=\"late\"></span>due, not yet sent\
         <span class=\"wait\"></span>sent, no token yet<span class=\"tokens\"></span>tokens · × failed · | cut off</p>\n",
    );
    let last = outcome.runs.len().saturating_sub(1);
    for (index, run) in outcome.runs.iter().enumerate() {
        let all: Vec<&Record> = outcome.records.iter().filter(|it| it.run == index).collect();
        let shown = &all[..all.len().min(MOST_BARS)];
        let of = if shown.len() < all.len() {
            format!("the first {MOST_BARS} of {}", all.len())
        } else {
            all.len().to_string()
        };
        let title = name(&run.label);
        let open = if index == last { " open" } else { "" };
        let svg = plot::timeline(&format!("Requests of {title} over time"), shown);
        let _ = write!(
            html,
            "<details{open}><summary>{} <span>{of} requests</span></summary>\n<figure>{svg}</figure>\n</details>\n",
            escape(&title)
        );
    }
    html
}

/// Text for HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            compare,
            record::{Label, Objectives},
        },
        *,
    };

    #[test]
    fn the_report_is_as_it_was_read() {
        let record = |at: f64, error: Option<&str>| Record {
            sent_ms: at,
            ttft_ms: Some(50.0 + at / 100.0),
            e2e_ms: Some(150.0),
            closed_ms: 155.0,
            output_tokens: Some(11),
            target_tokens: 11,
            error: error.map(str::to_owned),
            ..Record::default()
        };
        let records = vec![record(0.0, None), record(200.0, None), record(400.0, Some("503: <busy>"))];
        let label = Label { scenario: "simple".to_owned(), concurrency: 1, ..Label::default() };
        let mut outcome = Outcome {
            schema: 1,
            program: "xtask".to_owned(),
            began: "2026-01-31T12:00:00Z".to_owned(),
            runs: vec![Run::of(label, &records, &Objectives::default())],
            records,
            ..Outcome::default()
        };
        outcome.model.name = "m:1".to_owned();
        let page = page(&outcome).replace(STYLE, "/* report.css */\n");
        assert!(!page.contains("http") && !page.contains("<script"), "it loads nothing and runs nothing");
        insta::assert_snapshot!(page);
    }

    #[test]
    fn the_report_of_a_comparison_is_as_it_was_read() {
        let run = |ttft: f64| {
            let mut run = Run { output_tokens_per_second: 1e3 / ttft, ..Run::default() };
            (run.ttft_ms.p50, run.itl_ms.p50) = (Some(ttft), Some(ttft / 5.0));
            run
        };
        let (of_a, of_b) = ([50.0, 50.4, 49.8].map(run), [60.0, 60.3, 60.2].map(run));
        let comparison = compare::compare(("a & b", &of_a), ("c", &of_b), true, 3.0).unwrap();
        let ended = "2026-01-31T12:00:00Z".to_owned();
        let kept = Kept { schema: 1, ended, comparison, of_a: of_a.into(), of_b: of_b.into() };
        let page = super::comparison(&kept).replace(STYLE, "/* report.css */\n");
        assert!(!page.contains("http") && !page.contains("<script"), "it loads nothing and runs nothing");
        insta::assert_snapshot!(page);
    }
}
