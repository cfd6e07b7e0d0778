//! Numbers out of numbers: percentiles, intervals, and how sure they are.
//!
//! Invariant: pure, and the same for the same seed. A percentile that the sample cannot carry is absent, not guessed.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// How many resamples a bootstrap interval rests on: the ends move by about a fiftieth of its width beyond that.
const RESAMPLES: usize = 1000;

/// What a sample says. Absent values are those that the sample is too small for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many values there are.
    pub n: usize,
    /// The median, from two values on.
    pub p50: Option<f64>,
    /// From ten values on.
    pub p90: Option<f64>,
    /// From twenty values on.
    pub p95: Option<f64>,
    /// From a hundred values on.
    pub p99: Option<f64>,
    /// From one value on.
    pub mean: Option<f64>,
    /// Where the median lies with a confidence of 95 %, by bootstrap; from five values on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p50_interval: Option<(f64, f64)>,
}

impl Distribution {
    /// Sums up `values`, in any order.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Distribution {
            n: values.len(),
            p50: percentile(&values, 50.0),
            p90: percentile(&values, 90.0),
            p95: percentile(&values, 95.0),
            p99: percentile(&values, 99.0),
            mean: mean(&values),
            p50_interval: median_interval(&values),
        }
    }
}

/// The arithmetic mean; none of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The median of `values`, in any order; none of no values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    interpolate(&values, 50.0)
}

/// A percentile of sorted values, if the sample can carry it: at least one value has to lie beyond it.
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let beyond = sorted.len() as f64 * (100.0 - percent) / 100.0;
    if beyond < 1.0 - 1e-9 {
        return None;
    }
    interpolate(sorted, percent)
}

/// Linear interpolation between the closest ranks: numpy's default method, `linear`.
fn interpolate(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = sorted.len().checked_sub(1)? as f64 * percent / 100.0;
    let (below, share) = (sorted[rank.floor() as usize], rank.fract());
    let above = sorted[rank.ceil() as usize];
    Some(below + (above - below) * share)
}

/// The median's 95 % interval by the percentile bootstrap. Always the same for the same values.
fn median_interval(sorted: &[f64]) -> Option<(f64, f64)> {
    if sorted.len() < 5 {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(sorted.len() as u64);
    let mut resample = || median((0..sorted.len()).map(|_| sorted[random.usize(..sorted.len())]).collect());
    let mut medians: Vec<f64> = (0..RESAMPLES).filter_map(|_| resample()).collect();
    medians.sort_by(f64::total_cmp);
    Some((interpolate(&medians, 2.5)?, interpolate(&medians, 97.5)?))
}

/// The standard deviation of a sample; none below two values.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let free = values.len().checked_sub(1).filter(|free| *free > 0)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / free as f64).sqrt())
}

/// The value that Student's t with `free` degrees of freedom stays below with `probability`.
pub fn t_quantile(probability: f64, free: f64) -> f64 {
    StudentsT::new(0.0, 1.0, free).map_or(f64::INFINITY, |t| t.inverse_cdf(probability))
}

/// How likely a |t| at least this large is by chance alone.
pub fn two_sided_p(t: f64, free: f64) -> f64 {
    StudentsT::new(0.0, 1.0, free).map_or(1.0, |distribution| 2.0 * (1.0 - distribution.cdf(t.abs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys_linear_ones() {
        // numpy 2.4.6: np.percentile(values, [2.5, 25, 50, 90, 97.5])
        let mut values = vec![15.2, 3.1, 99.0, 42.5, 7.7, 8.0, 23.4, 61.9, 5.5, 12.8, 30.3];
        values.sort_by(f64::total_cmp);
        let expected = [(2.5, 3.7), (25.0, 7.85), (50.0, 15.2), (90.0, 61.9), (97.5, 89.725)];
        for (percent, value) in expected {
            let found = interpolate(&values, percent).unwrap();
            assert!((found - value).abs() < 1e-9, "p{percent} is {found}, numpy says {value}");
        }
        assert_eq!(interpolate(&[4.0, 8.0], 75.0), Some(7.0));
        assert_eq!(interpolate(&[4.0], 99.0), Some(4.0));
        assert_eq!(interpolate(&[], 50.0), None);
    }

    #[test]
    fn a_percentile_without_enough_samples_is_absent() {
        let of = |n: usize| Distribution::of((0..n).map(|it| it as f64).collect());
        assert_eq!(of(0), Distribution::default());
        let one = of(1);
        assert_eq!((one.n, one.p50, one.mean), (1, None, Some(0.0)));
        assert_eq!((of(9).p90, of(10).p90), (None, Some(8.1)));
        assert_eq!((of(19).p95, of(99).p99), (None, None));
        assert!(of(20).p95.is_some() && of(100).p99.is_some());
    }

    #[test]
    fn the_interval_of_a_median_holds_it_and_narrows() {
        let width = |n: usize| {
            let mut random = fastrand::Rng::with_seed(1);
            let found = Distribution::of((0..n).map(|_| random.f64()).collect());
            let (low, high) = found.p50_interval.unwrap();
            assert!(low <= found.p50.unwrap() && found.p50.unwrap() <= high);
            high - low
        };
        assert!(width(400) < width(20) / 2.0);
    }

    #[test]
    fn students_t_is_the_tables() {
        // Any printed table: two-sided 95 % at 6 degrees of freedom, one-sided 95 % at 12.
        assert!((t_quantile(0.975, 6.0) - 2.4469).abs() < 1e-3);
        assert!((t_quantile(0.95, 12.0) - 1.7823).abs() < 1e-3);
        assert!((two_sided_p(2.4469, 6.0) - 0.05).abs() < 1e-4);
        assert_eq!(deviation(&[1.0]), None);
        assert!((deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap() - 2.138).abs() < 1e-3);
    }
}
