//! Whether one thing is faster than another, or than it was.
//!
//! Two runs of the same thing differ by one or two percent, and the requests within a run are no independent samples of
//! that. So what is compared are blocks: whole short runs, taken in turns, each pair one observation. The differences of
//! their logarithms get a t-interval; Holm's procedure keeps the chance of any false alarm among the metrics at 5 %.
//!
//! Invariant: a verdict other than `undecidable` has a significant test behind it, of difference or of equivalence; the
//! number of blocks is fixed before the first, since looking again after each would find something in the end.

use serde::{Deserialize, Serialize};
use stack::failure::{Class, Failure};

use super::{
    Event, Options, Outcome, Own, SCHEMA,
    endpoint::Model,
    measure,
    record::Run,
    statistic::{deviation, mean, median, t_quantile, two_sided_p},
    stream::Api,
};

/// Pairs, unless asked otherwise: at a deviation of 2 % between runs they see a change of some 4 %.
pub const BLOCKS: usize = 7;

/// Changes smaller than this are nobody's business.
pub const TOLERANCE_PERCENT: f64 = 3.0;

/// The chance of any false alarm, over all metrics of a comparison.
const ALPHA: f64 = 0.05;

/// Fewer blocks have no variance worth the name.
const FEWEST_BLOCKS: usize = 3;

/// What a comparison says of a metric, from the view of the second thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Beyond the tolerance, and not by chance.
    Better,
    /// Within the tolerance, and not by chance.
    Same,
    /// Beyond the tolerance, and not by chance.
    Worse,
    /// The blocks do not tell.
    Undecidable,
}

/// One metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub metric: String,
    /// The first thing's, median of its blocks.
    pub a: f64,
    /// The second's.
    pub b: f64,
    /// From the first to the second.
    pub change_percent: f64,
    /// Where the change lies with a confidence of 95 %.
    pub interval_percent: (f64, f64),
    /// By Holm's procedure over all metrics.
    pub adjusted_p: f64,
    /// What follows.
    pub verdict: Verdict,
    /// How many more blocks would tell, if it is undecidable.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub blocks_more: Option<usize>,
}

/// A comparison; the shape of `bench compare --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What was compared …
    pub a: String,
    /// … with what.
    pub b: String,
    /// Blocks of each.
    pub blocks: (usize, usize),
    /// Taken in turns; if not, drift between the two is in the result and in no interval.
    pub is_paired: bool,
    /// Changes below this are the same.
    pub tolerance_percent: f64,
    /// A finding a metric.
    pub findings: Vec<Finding>,
    /// Requests that failed, of each.
    pub errors: (usize, usize),
    /// What a reader has to know.
    pub warnings: Vec<String>,
}

/// A comparison with the blocks that it rests on: what `comparison.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When its last block had ended, by the wall clock.
    pub ended: String,
    /// What it says.
    pub comparison: Comparison,
    /// Blocks of the first thing …
    pub of_a: Vec<Run>,
    /// … and of the second.
    pub of_b: Vec<Run>,
}

impl Comparison {
    /// Whether anything got worse beyond the tolerance.
    pub fn is_regression(&self) -> bool {
        self.findings.iter().any(|it| it.verdict == Verdict::Worse)
    }
}

/// A difference of logarithms and how sure it is.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    difference: f64,
    error: f64,
    free: f64,
    blocks: usize,
}

/// Of pairs taken in turns.
fn paired(a: &[f64], b: &[f64]) -> Option<Estimate> {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| (b / a).ln()).collect();
    let blocks = differences.len();
    let error = deviation(&differences)? / (blocks as f64).sqrt();
    Some(Estimate { difference: mean(&differences)?, error, free: blocks as f64 - 1.0, blocks })
}

/// Of two sets of blocks from different times, by Welch.
fn unpaired(a: &[f64], b: &[f64]) -> Option<Estimate> {
    let logarithms = |values: &[f64]| values.iter().map(|it| it.ln()).collect::<Vec<_>>();
    let (a, b) = (logarithms(a), logarithms(b));
    let share = |values: &[f64]| Some(deviation(values)?.powi(2) / values.len() as f64);
    let (of_a, of_b) = (share(&a)?, share(&b)?);
    let spread = of_a.powi(2) / (a.len() as f64 - 1.0) + of_b.powi(2) / (b.len() as f64 - 1.0);
    let free = if spread > 0.0 { (of_a + of_b).powi(2) / spread } else { (a.len() + b.len()) as f64 - 2.0 };
    let error = (of_a + of_b).sqrt();
    Some(Estimate { difference: mean(&b)? - mean(&a)?, error, free, blocks: a.len().min(b.len()) })
}

impl Estimate {
    fn p(&self) -> f64 {
        match self.error > 0.0 {
            true => two_sided_p(self.difference / self.error, self.free),
            false => f64::from(self.difference == 0.0),
        }
    }

    fn interval(&self, confidence: f64) -> (f64, f64) {
        let half = t_quantile(0.5 + confidence / 2.0, self.free) * self.error;
        (self.difference - half, self.difference + half)
    }

    fn verdict(&self, adjusted_p: f64, tolerance: f64, less_is_better: bool) -> Verdict {
        let (low, high) = self.interval(1.0 - 2.0 * ALPHA);
        if adjusted_p < ALPHA && self.difference.abs() > tolerance {
            return if (self.difference < 0.0) == less_is_better { Verdict::Better } else { Verdict::Worse };
        }
        // Two one-sided tests: equivalence is shown, not the lack of a difference.
        if -tolerance < low && high < tolerance { Verdict::Same } else { Verdict::Undecidable }
    }

    /// How many more blocks would tell: until the interval is narrower than the way to the next decision.
    fn blocks_more(&self, tolerance: f64, metrics: usize) -> usize {
        let way = match self.difference.abs() > tolerance {
            true => self.difference.abs(),
            // A change right at the tolerance would need blocks without end.
            false => (tolerance - self.difference.abs()).max(tolerance / 5.0),
        };
        let deviation = self.error * (self.blocks as f64).sqrt();
        let enough = |blocks: &usize| {
            let t = t_quantile(1.0 - ALPHA / 2.0 / metrics as f64, *blocks as f64 - 1.0);
            t * deviation / (*blocks as f64).sqrt() <= way
        };
        (self.blocks + 1..10_000).find(enough).unwrap_or(10_000) - self.blocks
    }
}

/// Holm's step-down: each p by how many hypotheses are left, and none below the one before.
fn holm(ps: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|a, b| ps[*a].total_cmp(&ps[*b]));
    let mut adjusted = vec![0.0; ps.len()];
    let mut least = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        least = least.max(ps[index] * (ps.len() - rank) as f64).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}

/// One metric over blocks: its name, the values of both things, whether less is better.
struct Series {
    metric: &'static str,
    a: Vec<f64>,
    b: Vec<f64>,
    less_is_better: bool,
}

fn findings(series: &[Series], is_paired: bool, tolerance_percent: f64) -> Vec<Finding> {
    let tolerance = (tolerance_percent / 100.0).ln_1p();
    let estimate = |it: &Series| if is_paired { paired(&it.a, &it.b) } else { unpaired(&it.a, &it.b) };
    let known: Vec<(&Series, Estimate)> = series.iter().filter_map(|it| Some((it, estimate(it)?))).collect();
    let adjusted = holm(&known.iter().map(|(_, it)| it.p()).collect::<Vec<_>>());
    let percent = |logarithm: f64| logarithm.exp_m1() * 100.0;
    let finding = |((series, estimate), adjusted_p): (&(&Series, Estimate), f64)| {
        let (low, high) = estimate.interval(0.95);
        let verdict = estimate.verdict(adjusted_p, tolerance, series.less_is_better);
        Finding {
            metric: series.metric.to_owned(),
            a: median(series.a.clone()).unwrap_or_default(),
            b: median(series.b.clone()).unwrap_or_default(),
            change_percent: percent(estimate.difference),
            interval_percent: (percent(low), percent(high)),
            adjusted_p,
            verdict,
            blocks_more: (verdict == Verdict::Undecidable).then(|| estimate.blocks_more(tolerance, known.len())),
        }
    };
    known.iter().zip(adjusted).map(finding).collect()
}

/// Compares blocks. Paired ones were taken in turns, and are as many on both sides.
///
/// # Errors
///
/// If there are too few of them.
pub fn compare(
    a: (&str, &[Run]),
    b: (&str, &[Run]),
    is_paired: bool,
    tolerance_percent: f64,
) -> Result<Comparison, Failure> {
    let blocks = (a.1.len(), b.1.len());
    if blocks.0.min(blocks.1) < FEWEST_BLOCKS {
        return Err(Failure::new(Class::Failed, format!("{} and {} blocks do not compare", blocks.0, blocks.1))
            .hint(format!("let it go on to at least {FEWEST_BLOCKS} of each")));
    }
    let (of_a, of_b): (Vec<_>, Vec<_>) =
        (a.1.iter().map(Run::metrics).collect(), b.1.iter().map(Run::metrics).collect());
    let whole = |runs: &[[(&'static str, Option<f64>, bool); 3]], at: usize| runs.iter().map(|it| it[at].1).collect();
    let mut warnings = Vec::new();
    let mut series = Vec::new();
    for (at, (metric, _, less_is_better)) in Run::default().metrics().into_iter().enumerate() {
        let values: (Option<Vec<f64>>, Option<Vec<f64>>) = (whole(&of_a, at), whole(&of_b, at));
        match values {
            (Some(a), Some(b)) => series.push(Series { metric, a, b, less_is_better }),
            _ => warnings.push(format!("{metric} is left out: a block has none")),
        }
    }
    let errors = |runs: &[Run]| runs.iter().map(|run| run.errors).sum();
    let errors = (errors(a.1), errors(b.1));
    if errors != (0, 0) {
        warnings.push(format!("requests failed: {} of {}, {} of {}", errors.0, a.0, errors.1, b.0));
    }
    let findings = findings(&series, is_paired, tolerance_percent);
    if !is_paired {
        let widths = findings.iter().map(|it| (it.interval_percent.1 - it.interval_percent.0) / 2.0);
        let seen = widths.fold(0.0, f64::max);
        warnings.push(format!(
            "stored blocks are weaker than blocks in turns: heat, updates and other load between then and now are in the \
             change and in no interval, and no change below {seen:.1} % can be seen; `bench compare` takes turns"
        ));
    }
    let comparison = Comparison {
        schema: SCHEMA,
        a: a.0.to_owned(),
        b: b.0.to_owned(),
        blocks,
        is_paired,
        tolerance_percent,
        findings,
        errors,
        warnings,
    };
    match comparison.findings.is_empty() {
        true => {
            Err(Failure::new(Class::Failed, "no block of one side had enough answers")
                .hint(comparison.warnings.join("; ")))
        }
        false => Ok(comparison),
    }
}

/// One of two things that are compared.
pub struct Side<'a> {
    /// How it is called.
    pub name: String,
    /// Its model.
    pub model: &'a str,
    /// Where it is and what it is asked.
    pub options: Options,
}

/// Blocks of both, in turns: A B, B A, A B, … so that neither is always first. Those that were whole when it was
/// interrupted are given back.
///
/// # Errors
///
/// If one of them cannot be measured.
pub fn take_turns(
    sides: [&Side<'_>; 2],
    blocks: usize,
    tell: &mut dyn FnMut(&str, usize, Event<'_>) -> bool,
) -> Result<[Vec<Run>; 2], Failure> {
    let mut runs = [Vec::new(), Vec::new()];
    for block in 0..blocks {
        for turn in [block % 2, (block + 1) % 2] {
            let Some(outcome) =
                take(sides[turn], block * 2 + turn, &mut |event| tell(&sides[turn].name, block, event))?
            else {
                let whole = runs[0].len().min(runs[1].len());
                runs.iter_mut().for_each(|runs| runs.truncate(whole));
                return Ok(runs);
            };
            runs[turn].extend(outcome.runs);
        }
    }
    Ok(runs)
}

/// What a baseline holds: blocks of one thing, and what it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When.
    pub began: String,
    /// What.
    pub model: Model,
    /// The engine's version.
    pub engine: Option<String>,
    /// The load, which has to be the same.
    pub load: Own,
    /// In which API it was asked.
    pub api: Api,
    /// The blocks.
    pub blocks: Vec<Run>,
}

/// Blocks of one thing alone.
///
/// # Errors
///
/// If it cannot be measured, or was interrupted.
pub fn alone(
    side: &Side<'_>,
    blocks: usize,
    tell: &mut dyn FnMut(&str, usize, Event<'_>) -> bool,
) -> Result<Baseline, Failure> {
    let mut baseline: Option<Baseline> = None;
    for block in 0..blocks {
        let Some(outcome) = take(side, block, &mut |event| tell(&side.name, block, event))? else {
            return Err(Failure::new(Class::Interrupted, "interrupted: a baseline of fewer blocks was not asked for"));
        };
        match &mut baseline {
            Some(baseline) => baseline.blocks.extend(outcome.runs),
            None => {
                let none = || Failure::new(Class::Settings, "a block has a load of its own");
                let load = side.options.own.clone().ok_or_else(none)?;
                let Outcome { began, model, engine, runs: blocks, .. } = outcome;
                let (api, engine) = (engine.api, engine.version);
                baseline = Some(Baseline { schema: SCHEMA, began, model, engine, load, api, blocks });
            }
        }
    }
    baseline.ok_or_else(|| Failure::new(Class::Settings, "a baseline has at least one block"))
}

/// One block; none if it was interrupted.
fn take(side: &Side<'_>, index: usize, tell: &mut dyn FnMut(Event<'_>) -> bool) -> Result<Option<Outcome>, Failure> {
    // Prompts of its own: an engine remembers those of the block before.
    let seed = side.options.seed.wrapping_add(index as u64 + 1);
    let outcome = measure(side.model, side.model, &Options { seed, ..side.options.clone() }, tell)?;
    match outcome.broken_off.as_deref() {
        None => Ok(Some(outcome)),
        Some("interrupted") => Ok(None),
        Some(why) => Err(Failure::new(Class::Failed, format!("{}: {why}", side.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A normal deviate, by Box and Muller.
    fn normal(random: &mut fastrand::Rng) -> f64 {
        (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos()
    }

    /// The p50 of a block of requests: skewed (lognormal, 10 %), each like the one before (ρ = 0.5), around a level that
    /// differs between runs by 2 %.
    fn block(random: &mut fastrand::Rng, level: f64) -> f64 {
        let run = level * (0.02 * normal(random)).exp();
        let mut last = normal(random);
        let requests = (0..50).map(|_| {
            last = 0.5 * last + 0.75f64.sqrt() * normal(random);
            run * (0.1 * last).exp()
        });
        median(requests.collect()).unwrap()
    }

    /// What comparisons of two things say, over all metrics; the second thing's first metric is `shift` times as large.
    fn simulate(shift: f64, times: u64) -> Vec<Vec<Verdict>> {
        let simulation = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut series = |metric, shift: f64| {
                let mut blocks = |level: f64| (0..BLOCKS).map(|_| block(&mut random, level)).collect();
                Series { metric, a: blocks(100.0), b: blocks(100.0 * shift), less_is_better: true }
            };
            let series = [series("one", shift), series("two", 1.0), series("three", 1.0)];
            findings(&series, true, TOLERANCE_PERCENT).into_iter().map(|it| it.verdict).collect()
        };
        (0..times).map(simulation).collect()
    }

    fn is_alarm(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Better | Verdict::Worse)
    }

    #[test]
    fn identical_runs_are_called_different_in_at_most_one_of_twenty_comparisons() {
        let times = 1000;
        let alarms = simulate(1.0, times).iter().filter(|verdicts| verdicts.iter().any(is_alarm)).count();
        // Two standard errors of a share of 5 % over so many simulations.
        let most = (0.05 + 2.0 * (0.05 * 0.95 / times as f64).sqrt()) * times as f64;
        assert!(alarms as f64 <= most, "{alarms} of {times}");
    }

    #[test]
    fn a_change_of_a_tenth_is_seen_in_nine_of_ten_comparisons() {
        for (shift, expected) in [(1.1, Verdict::Worse), (1.0 / 1.1, Verdict::Better)] {
            let seen = simulate(shift, 300).iter().filter(|verdicts| verdicts[0] == expected).count();
            assert!(seen >= 270, "{seen} of 300");
        }
    }

    #[test]
    fn equality_is_shown_or_undecidable_with_a_number_of_blocks() {
        let series = |deviation: f64| {
            let spread = [-1.0, 0.4, 0.8, -0.3, 0.1, -0.6, 0.6].map(|it: f64| 100.0 * (1.0 + deviation * it));
            [Series { metric: "m", a: vec![100.0; 7], b: spread.to_vec(), less_is_better: true }]
        };
        let close = &findings(&series(0.01), true, 3.0)[0];
        assert_eq!((close.verdict, close.blocks_more), (Verdict::Same, None));
        let wide = &findings(&series(0.1), true, 3.0)[0];
        assert_eq!(wide.verdict, Verdict::Undecidable);
        let more = wide.blocks_more.unwrap();
        assert!((15..60).contains(&more), "{more}");
    }

    #[test]
    fn holm_steps_down() {
        let adjusted = holm(&[0.01, 0.04, 0.03]);
        assert!((adjusted[0] - 0.03).abs() < 1e-12 && (adjusted[2] - 0.06).abs() < 1e-12);
        assert_eq!(adjusted[1], adjusted[2], "a later one is never surer than an earlier one");
    }

    #[test]
    fn stored_blocks_say_how_much_weaker_they_are() {
        let run = |itl: f64| {
            let mut run = Run { output_tokens_per_second: 1e3 / itl, ..Run::default() };
            (run.ttft_ms.p50, run.itl_ms.p50) = (Some(50.0 + itl), Some(itl));
            run
        };
        let then: Vec<Run> = [20.0, 20.3, 19.8, 20.1].map(run).into();
        let now: Vec<Run> = [25.0, 25.3, 24.8, 25.1].map(run).into();
        let comparison = compare(("then", &then), ("now", &now), false, 3.0).unwrap();
        assert!(comparison.is_regression());
        assert!(comparison.warnings[0].contains("weaker than blocks in turns"), "{:?}", comparison.warnings);
        assert!(compare(("a", &then[..2]), ("b", &now), false, 3.0).is_err());
    }
}
