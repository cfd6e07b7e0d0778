//! Plots as SVG, drawn here: a few kinds, no script, no style of their own beyond classes.
//!
//! Invariant: every plot has a title and a description in words, nothing is told by colour alone, and no value is left
//! out or moved to make room.

use std::fmt::Write;

use super::{compare::Comparison, record::Record, report::escape, statistic::Distribution, table::number};

/// Of every plot, in its own units; the page scales it.
const WIDTH: f64 = 860.0;
/// For the names of rows.
const LEFT: f64 = 170.0;
/// For the numbers at the end of rows.
const RIGHT: f64 = 100.0;
/// For the axis.
const BOTTOM: f64 = 34.0;
const ROW: f64 = 30.0;

/// A row of a distribution: its name, every value, and what they say.
pub struct Row {
    /// Of the run.
    pub name: String,
    /// In any order.
    pub values: Vec<f64>,
    /// Of the values.
    pub distribution: Distribution,
}

/// Values to places on a line that begins at nought.
struct Scale {
    most: f64,
    step: f64,
}

impl Scale {
    /// Up to the first round number that holds everything.
    fn to(most: f64) -> Scale {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|it| it * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        Scale { most: (most / step).ceil() * step, step }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.most * (WIDTH - LEFT - RIGHT)
    }

    /// Lines with their numbers, and the unit at the end.
    fn axis(&self, bottom: f64, unit: &str) -> String {
        let mut svg = String::new();
        let digits = if self.step >= 1.0 { 0 } else { (-self.step.log10().floor()) as usize };
        for tick in 0..=(self.most / self.step).round() as usize {
            let value = tick as f64 * self.step;
            let x = self.x(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"6\" y2=\"{bottom:.1}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{value:.digits$}</text>",
                bottom + 16.0
            );
        }
        let (x, y) = (WIDTH - RIGHT + 24.0, bottom + 16.0);
        let _ = write!(svg, "<text class=\"unit\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(unit));
        svg
    }
}

fn frame(title: &str, description: &str, height: f64, inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}. {}\"><title>{}</title>{inside}</svg>\n",
        escape(title),
        escape(description),
        escape(title)
    )
}

/// Every value as a dot, a row a run, with the median and where it may lie.
pub fn distributions(title: &str, unit: &str, rows: &[Row]) -> String {
    let most = rows.iter().flat_map(|row| &row.values).copied().fold(0.0, f64::max);
    let scale = Scale::to(most);
    let bottom = 6.0 + ROW * rows.len() as f64;
    let mut svg = scale.axis(bottom, unit);
    for (index, row) in rows.iter().enumerate() {
        let y = 6.0 + ROW * (index as f64 + 0.5);
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 10.0,
            y + 4.0,
            escape(&row.name)
        );
        for (at, value) in row.values.iter().enumerate() {
            // Spread over the row's height by their order, so that equal values are seen apart. A golden step has no pattern.
            let offset = ((at as f64 * 0.618_034).fract() - 0.5) * ROW * 0.5;
            let _ =
                write!(svg, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"/>", scale.x(*value), y + offset);
        }
        if let Some((low, high)) = row.distribution.p50_interval {
            let (low, high) = (scale.x(low), scale.x(high));
            let _ = write!(
                svg,
                "<rect class=\"interval\" x=\"{low:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                y - ROW * 0.38,
                (high - low).max(1.0),
                ROW * 0.76
            );
        }
        if let Some(p50) = row.distribution.p50 {
            let x = scale.x(p50);
            let _ = write!(
                svg,
                "<line class=\"median\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                y - ROW * 0.38,
                y + ROW * 0.38
            );
        }
        let said = match row.distribution.p50 {
            Some(p50) => format!("{} n={}", number(Some(p50)), row.distribution.n),
            None => format!("n={}", row.distribution.n),
        };
        let _ =
            write!(svg, "<text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{said}</text>", WIDTH - RIGHT + 14.0, y + 4.0);
    }
    let medians = rows.iter().map(|row| format!("{} {}", row.name, number(row.distribution.p50)));
    let description = format!("Medians in {unit}: {}", medians.collect::<Vec<_>>().join(", "));
    frame(title, &description, bottom + BOTTOM, &svg)
}

/// Each request as a bar: waiting for its turn, to the first token, tokens. What failed ends in a cross, what was cut in
/// a bar.
pub fn timeline(title: &str, records: &[&Record]) -> String {
    const BAR: f64 = 7.0;
    let mut sorted = records.to_vec();
    let begin = |it: &Record| it.scheduled_ms.unwrap_or(it.sent_ms);
    sorted.sort_by(|a, b| begin(a).total_cmp(&begin(b)));
    let end = |it: &Record| it.sent_ms + it.closed_ms;
    let scale = Scale::to(sorted.iter().map(|it| end(it)).fold(0.0, f64::max) / 1e3);
    let bottom = 10.0 + BAR * sorted.len() as f64;
    let mut svg = scale.axis(bottom, "s");
    let mut bar = |class: &str, from: f64, to: f64, y: f64| {
        let (from, to) = (scale.x(from / 1e3), scale.x(to / 1e3));
        let (width, height) = ((to - from).max(0.4), BAR - 2.0);
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\"/>"
        );
    };
    for (index, record) in sorted.iter().enumerate() {
        let y = 8.0 + BAR * index as f64;
        if let Some(scheduled) = record.scheduled_ms.filter(|it| record.sent_ms - it > 0.5) {
            bar("late", scheduled, record.sent_ms, y);
        }
        let first = record.sent_ms + record.ttft_ms.unwrap_or(record.closed_ms);
        bar("wait", record.sent_ms, first, y);
        if let Some(last) = record.e2e_ms {
            bar("tokens", first, record.sent_ms + last, y);
        }
    }
    for (index, record) in sorted.iter().enumerate().filter(|(_, it)| !it.is_whole()) {
        let (x, y) = (scale.x(end(record) / 1e3) + 4.0, 8.0 + BAR * index as f64 + BAR - 2.0);
        let sign = if record.is_cut { "|" } else { "×" };
        let _ = write!(svg, "<text class=\"failed\" x=\"{x:.1}\" y=\"{y:.1}\">{sign}</text>");
    }
    let whole = sorted.iter().filter(|it| it.is_whole()).count();
    let description = format!("{} requests over {:.1} s, {whole} of them answered whole", sorted.len(), scale.most);
    frame(title, &description, bottom + BOTTOM, &svg)
}

/// The change of each metric with its interval, around nought.
pub fn changes(title: &str, comparison: &Comparison) -> String {
    let findings = &comparison.findings;
    let ends = findings.iter().flat_map(|it| [it.interval_percent.0, it.interval_percent.1]);
    let most = Scale::to(ends.chain([comparison.tolerance_percent]).fold(0.0, |most, it| most.max(it.abs()))).most;
    // Both ways from the middle.
    let x = |percent: f64| LEFT + (percent / most + 1.0) / 2.0 * (WIDTH - LEFT - RIGHT);
    let bottom = 6.0 + ROW * findings.len() as f64;
    let tolerance = comparison.tolerance_percent;
    let (from, to) = (x(-tolerance), x(tolerance));
    let mut svg = format!(
        "<rect class=\"tolerance\" x=\"{from:.1}\" y=\"6\" width=\"{:.1}\" height=\"{:.1}\"/>",
        to - from,
        bottom - 6.0
    );
    for tick in [-most, -most / 2.0, 0.0, most / 2.0, most] {
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"6\" y2=\"{bottom:.1}\"/>\
             <text class=\"tick\" x=\"{0:.1}\" y=\"{1:.1}\">{tick:+.1}</text>",
            x(tick),
            bottom + 16.0
        );
    }
    let _ = write!(svg, "<text class=\"unit\" x=\"{:.1}\" y=\"{:.1}\">%</text>", WIDTH - RIGHT + 24.0, bottom + 16.0);
    for (index, it) in findings.iter().enumerate() {
        let (top, middle) = (6.0 + ROW * (index as f64 + 0.12), 6.0 + ROW * (index as f64 + 0.5));
        let (low, high, change) = (x(it.interval_percent.0), x(it.interval_percent.1), x(it.change_percent));
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <rect class=\"interval\" x=\"{low:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
             <line class=\"median\" x1=\"{change:.1}\" x2=\"{change:.1}\" y1=\"{top:.1}\" y2=\"{:.1}\"/>",
            LEFT - 10.0,
            middle + 4.0,
            escape(&it.metric),
            (high - low).max(1.0),
            ROW * 0.76,
            top + ROW * 0.76,
        );
    }
    let said = findings.iter().map(|it| format!("{} {:+.1} %", it.metric, it.change_percent));
    frame(title, &said.collect::<Vec<_>>().join(", "), bottom + BOTTOM, &svg)
}

/// A bar a row, with its number.
pub fn bars(title: &str, unit: &str, rows: &[(String, f64)]) -> String {
    let scale = Scale::to(rows.iter().map(|row| row.1).fold(0.0, f64::max));
    let bottom = 6.0 + ROW * rows.len() as f64;
    let mut svg = scale.axis(bottom, unit);
    for (index, (name, value)) in rows.iter().enumerate() {
        let y = 6.0 + ROW * index as f64;
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <rect class=\"bar\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
             <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 10.0,
            y + ROW / 2.0 + 4.0,
            escape(name),
            y + 6.0,
            scale.x(*value) - LEFT,
            ROW - 12.0,
            WIDTH - RIGHT + 14.0,
            y + ROW / 2.0 + 4.0,
            number(Some(*value))
        );
    }
    let said = rows.iter().map(|(name, value)| format!("{name} {}", number(Some(*value))));
    frame(title, &said.collect::<Vec<_>>().join(", "), bottom + BOTTOM, &svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number_that_holds_everything() {
        for (most, end, step) in [(97.0, 100.0, 20.0), (0.31, 0.35, 0.1), (6.0, 6.0, 1.0), (0.0, 1.0, 0.2)] {
            let scale = Scale::to(most);
            assert!((scale.most - end).abs() <= step && scale.most >= most, "{most}: {}", scale.most);
            assert!((scale.x(scale.most) - (WIDTH - RIGHT)).abs() < 1e-9 && scale.x(0.0) == LEFT);
        }
    }

    #[test]
    fn every_value_is_drawn() {
        let values = vec![1.0, 1.0, 1000.0];
        let row = Row { name: "a < b".to_owned(), distribution: Distribution::of(values.clone()), values };
        let svg = distributions("t", "ms", &[row]);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("a &lt; b") && svg.contains("aria-label=\"t. Medians in ms: a &lt; b 1.00\""), "{svg}");
        let cut = Record { is_cut: true, closed_ms: 5.0, ..Record::default() };
        let failed = Record { error: Some(String::new()), closed_ms: 5.0, ..Record::default() };
        let svg = timeline("t", &[&cut, &failed]);
        assert!(svg.contains(">|</text>") && svg.contains(">×</text>"));
    }
}
