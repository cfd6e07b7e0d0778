//! A PromQL expression's answer: rows of labels and a value, or over a time a line of little bars.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::Value;
use stack::failure::Failure;

use super::Monitor;

/// Bars of a line: about what fits beside the labels.
const POINTS: usize = 40;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One row; the shape of `monitor query --json` is a list of these.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// As Prometheus writes a series: `up{job="node"}`.
    pub series: String,
    /// Seconds since 1970, and the value. One for an instant, several for a range.
    pub points: Vec<(f64, f64)>,
    /// Of a native histogram: how many observations there are, whose sum the points are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<f64>,
}

/// Asks for the value now, or over the last `range`.
///
/// # Errors
/// There is no Prometheus, it does not answer, or it does not understand the expression.
pub fn query(monitor: &Monitor, expression: &str, range: Option<Duration>) -> Result<Vec<Row>, Failure> {
    let data = match range {
        None => monitor.prometheus("/api/v1/query", &[("query", expression)])?,
        Some(range) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let step = step_s(range);
            let [start, end, step] = [now - range.as_secs_f64(), now, step].map(|it| it.to_string());
            let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
            monitor.prometheus("/api/v1/query_range", &parameters)?
        }
    };
    Ok(rows(&data))
}

/// Seconds from one point of a range to the next.
fn step_s(range: Duration) -> f64 {
    (range.as_secs_f64() / POINTS as f64).max(1.0)
}

fn rows(data: &Value) -> Vec<Row> {
    let result = &data["result"];
    match data["resultType"].as_str() {
        Some("scalar") => vec![Row { series: String::new(), points: point(result).into_iter().collect(), count: None }],
        // A text is no number: it stands where a name would, with no points.
        Some("string") => {
            vec![Row { series: result[1].as_str().unwrap_or_default().to_owned(), points: vec![], count: None }]
        }
        _ => result.as_array().map(|rows| rows.iter().map(row).collect()).unwrap_or_default(),
    }
}

fn row(row: &Value) -> Row {
    let series = series(&row["metric"]);
    let many = |name: &str| row[name].as_array().cloned().unwrap_or_default();
    let number = |value: &Value| value.as_str()?.parse::<f64>().ok();
    // A native histogram stands where a value would.
    let histograms: Vec<Value> = row.get("histogram").cloned().into_iter().chain(many("histograms")).collect();
    let count = histograms.last().and_then(|last| number(&last[1]["count"]));
    let sums = histograms.iter().filter_map(|it| Some((it[0].as_f64()?, number(&it[1]["sum"])?)));
    let values: Vec<Value> = row.get("value").cloned().into_iter().chain(many("values")).collect();
    let points = values.iter().filter_map(point).chain(sums).collect();
    Row { series, points, count }
}

fn point(pair: &Value) -> Option<(f64, f64)> {
    Some((pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?))
}

fn series(metric: &Value) -> String {
    let Some(labels) = metric.as_object() else { return String::new() };
    let name = metric["__name__"].as_str().unwrap_or_default();
    let labels = labels.iter().filter(|(name, _)| *name != "__name__");
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value}")).collect();
    if labels.is_empty() && !name.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// A line a row: its series, bars where there are several points, and the last value. `range` is the one that was asked for.
pub fn table(rows: &[Row], range: Option<Duration>) -> String {
    let times = || rows.iter().flat_map(|row| &row.points).map(|(time, _)| *time);
    // All rows begin and end together, so that what is below another is of the same time.
    let (first, last) = bounds(&times().collect::<Vec<_>>());
    let places = range.map(|range| Places { first, last, step: step_s(range) });
    let width = rows.iter().map(|row| row.series.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for row in rows {
        let last = row.points.last().map(|(_, value)| number(*value)).unwrap_or_default();
        let values: Vec<f64> = row.points.iter().map(|(_, value)| *value).collect();
        let _ = match (values.as_slice(), row.count) {
            ([], _) => writeln!(text, "{}", row.series),
            ([_], None) => writeln!(text, "{:<width$}  {last}", row.series),
            ([_], Some(count)) => writeln!(text, "{:<width$}  count {} sum {last}", row.series, number(count)),
            (values, _) => {
                let (least, most) = bounds(values);
                let (least, most) = (number(least), number(most));
                let bars = match &places {
                    Some(places) => sparkline(&places.put(&row.points)),
                    None => sparkline(values),
                };
                writeln!(text, "{:<width$}  {bars}  {last} ({least} to {most})", row.series)
            }
        };
    }
    text
}

/// Where a range's points belong in a line: Prometheus leaves out those for which there is nothing.
struct Places {
    first: f64,
    last: f64,
    step: f64,
}

impl Places {
    /// A value for each step, NaN where there is none.
    fn put(&self, points: &[(f64, f64)]) -> Vec<f64> {
        let place = |time: f64| ((time - self.first) / self.step).round() as usize;
        // No more than were asked for, whatever the answer.
        let mut values = vec![f64::NAN; place(self.last).min(POINTS) + 1];
        for (time, value) in points {
            if let Some(it) = values.get_mut(place(*time)) {
                *it = *value;
            }
        }
        values
    }
}

fn bounds(values: &[f64]) -> (f64, f64) {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max))
}

/// A bar a value, between the least and the most of them; a gap where there is no number.
pub fn sparkline(values: &[f64]) -> String {
    let (least, most) = bounds(values);
    let height = |value: f64| {
        let share = if most > least { (value - least) / (most - least) } else { 0.0 };
        BARS[((share * 7.0).round() as usize).min(7)]
    };
    values.iter().map(|value| if value.is_finite() { height(*value) } else { ' ' }).collect()
}

/// As many digits as a person reads.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => value.to_string(),
        size if size >= 1e6 || (size < 1e-3 && size > 0.0) => format!("{value:.3e}"),
        _ if value.fract() == 0.0 => format!("{value}"),
        size if size >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instant_is_a_table() {
        let data = json!({"resultType": "vector", "result": [
            {"metric": {"__name__": "up", "job": "node"}, "value": [1.5, "1"]},
            {"metric": {"__name__": "ollama_up"}, "value": [1.5, "0.12345"]},
            {"metric": {"model": "m:1"}, "histogram": [1.5, {"count": "4", "sum": "1.25", "buckets": []}]},
        ]});
        insta::assert_snapshot!(table(&rows(&data), None), @r#"
        up{job="node"}  1
        ollama_up       0.123
        {model="m:1"}   count 4 sum 1.250
        "#);
        assert_eq!(table(&rows(&json!({"resultType": "scalar", "result": [1.5, "2"]})), None), "  2\n");
        assert_eq!(table(&rows(&json!({"resultType": "string", "result": [1.5, "abc"]})), None), "abc\n");
    }

    #[test]
    fn a_range_is_a_line_of_bars() {
        let data = json!({"resultType": "matrix", "result": [
            {"metric": {"job": "a"}, "values": [[1, "0"], [2, "NaN"], [3, "3.5"], [4, "7"]]},
            {"metric": {"job": "b"}, "values": [[1, "5"], [2, "5"]]},
            {"metric": {"job": "c"}, "values": [[2, "5"], [6, "5"]]},
        ]});
        let table = table(&rows(&data), Some(Duration::from_secs(5)));
        let bars: Vec<&str> = table.lines().map(|line| line.get(11..).unwrap()).collect();
        // Nothing was there from 3 to 5; and whoever ended early leaves the rest empty.
        assert_eq!(bars, ["▁ ▅█    7 (0 to 7)", "▁▁      5 (5 to 5)", " ▁   ▁  5 (5 to 5)"]);
    }
}
