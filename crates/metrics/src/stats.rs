//! What a few repeated runs say: mean, deviation, confidence interval, and whether one method is better than another.

use crate::{Error, Result};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// The figures of repeated runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunStats {
    /// The number of runs.
    pub n: usize,
    /// The mean.
    pub mean: f64,
    /// The variance of the sample, `sum (x - mean)^2 / (n - 1)`; 0 for a single run.
    pub variance: f64,
    /// Its root.
    pub sd: f64,
    /// The interval that holds the true mean with a probability of 95 %, by Student's t, `mean +- t(0.975, n - 1) sd / sqrt(n)`; `None` for
    /// a single run, which says nothing about others.
    pub interval: Option<(f64, f64)>,
    /// The lowest value.
    pub min: f64,
    /// The highest value.
    pub max: f64,
}

impl RunStats {
    /// The figures of these values.
    ///
    /// # Errors
    /// When there are none, or one is no finite number.
    pub fn of(values: &[f64]) -> Result<RunStats> {
        finite(values)?;
        let n = values.len();
        if n == 0 {
            return Err(Error("no runs: expected at least one value".into()));
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = match n {
            1 => 0.0,
            _ => values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64,
        };
        let sd = variance.sqrt();
        let half = student(n - 1).map(|t| t.inverse_cdf(0.975) * sd / (n as f64).sqrt());
        let (min, max) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        Ok(RunStats { n, mean, variance, sd, interval: half.map(|h| (mean - h, mean + h)), min, max })
    }
}

fn finite(values: &[f64]) -> Result<()> {
    match values.iter().find(|v| !v.is_finite()) {
        Some(v) => Err(Error(format!("{v} is no finite number: a run without a result cannot be counted"))),
        None => Ok(()),
    }
}

fn student(freedom: usize) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, freedom as f64).ok()
}

/// The result of a test of whether two methods are alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    /// The statistic of the test.
    pub statistic: f64,
    /// The probability of a statistic at least as far from that of two equal methods, in either direction, if they are equal.
    pub p: f64,
}

fn differences(a: &[f64], b: &[f64]) -> Result<Vec<f64>> {
    if a.len() != b.len() {
        let (a, b) = (a.len(), b.len());
        return Err(Error(format!(
            "{a} runs of one method and {b} of the other make no pairs: give both the same seeds"
        )));
    }
    finite(a)?;
    finite(b)?;
    Ok(a.iter().zip(b).map(|(a, b)| a - b).collect())
}

/// Student's t-test on pairs, such as runs of two methods with the same seeds. The statistic is `mean(a - b) / (sd(a - b) / sqrt(n))`. `None`
/// where all differences are the same: there is no deviation to judge by.
///
/// # Errors
/// When the lengths differ, there are fewer than two pairs, or a value is no finite number.
pub fn paired_t(a: &[f64], b: &[f64]) -> Result<Option<Test>> {
    let d = differences(a, b)?;
    if d.len() < 2 {
        return Err(Error(format!("{} pairs: a paired test needs at least two", d.len())));
    }
    let s = RunStats::of(&d)?;
    // Differences of equal values can differ by rounding.
    let scale = a.iter().chain(b).fold(0f64, |m, v| m.max(v.abs()));
    if s.sd <= 1e-14 * scale {
        return Ok(None);
    }
    let statistic = s.mean / (s.sd / (s.n as f64).sqrt());
    Ok(student(s.n - 1).map(|t| Test { statistic, p: 2.0 * t.cdf(-statistic.abs()) }))
}

/// The same on the folds of a cross-validation, whose training sets overlap, so that results are no independent draws: the variance is
/// multiplied by `1 / n + test / train`, with the sizes of a fold (C. Nadeau and Y. Bengio, 2003). The plain test finds differences that are not there.
///
/// # Errors
/// As [`paired_t`]; when a fold has nothing to train on.
pub fn corrected_t(a: &[f64], b: &[f64], test: usize, train: usize) -> Result<Option<Test>> {
    if train == 0 {
        return Err(Error("a fold without training samples".into()));
    }
    let n = a.len() as f64;
    let wider = (1.0 + n * test as f64 / train as f64).sqrt();
    let plain = paired_t(a, b)?;
    Ok(plain.and_then(|t| {
        let statistic = t.statistic / wider;
        student(a.len() - 1).map(|s| Test { statistic, p: 2.0 * s.cdf(-statistic.abs()) })
    }))
}

/// The pairs up to which the distribution of Wilcoxon's statistic is computed exactly.
const EXACT: usize = 50;

/// Wilcoxon's signed-rank test on pairs, which assumes no distribution. The statistic is the smaller of the sums of the ranks of positive and
/// negative differences; pairs without a difference are left out, and equal differences have their mean rank. Up to 50 pairs the probability
/// is exact, ties included; beyond it is that of the normal distribution. `None` where no pair differs.
///
/// # Errors
/// When the lengths differ, or a value is no finite number.
pub fn wilcoxon(a: &[f64], b: &[f64]) -> Result<Option<Test>> {
    let mut d: Vec<f64> = differences(a, b)?.into_iter().filter(|d| *d != 0.0).collect();
    if d.is_empty() {
        return Ok(None);
    }
    d.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    // Twice the ranks, which are whole numbers even for ties.
    let (mut ranks, mut ties) = (vec![], 0.0);
    for group in d.chunk_by(|a, b| a.abs() == b.abs()) {
        let (first, n) = (ranks.len() + 1, group.len());
        ranks.extend(std::iter::repeat_n(2 * first + n - 1, n));
        ties += (n * n * n - n) as f64;
    }
    let all: usize = ranks.iter().sum();
    let positive: usize = ranks.iter().zip(&d).filter(|(_, d)| **d > 0.0).map(|(r, _)| r).sum();
    let least = positive.min(all - positive);
    let n = d.len() as f64;
    let p = if d.len() <= EXACT {
        // The share of all choices of signs that give each sum.
        let mut share = vec![0.0; all + 1];
        share[0] = 1.0;
        for rank in &ranks {
            for sum in (0..=all).rev() {
                let with = if sum >= *rank { share[sum - rank] } else { 0.0 };
                share[sum] = (share[sum] + with) / 2.0;
            }
        }
        (2.0 * share[..=least].iter().sum::<f64>()).min(1.0)
    } else {
        let sd = (n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0).sqrt();
        let z = (least as f64 / 2.0 - n * (n + 1.0) / 4.0) / sd;
        2.0 * Normal::standard().cdf(z)
    };
    Ok(Some(Test { statistic: least as f64 / 2.0, p }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [f64; 5] = [0.812, 0.805, 0.821, 0.798, 0.816];
    const B: [f64; 5] = [0.801, 0.799, 0.810, 0.790, 0.803];

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-9 * want.abs().max(1.0), "{got}, want {want}");
    }

    #[test]
    fn repeated_runs_have_scipys_figures() {
        let s = RunStats::of(&A).unwrap();
        near(s.mean, 0.8104);
        near(s.variance, 8.23e-5);
        near(s.sd, 0.009_071_934_7);
        let (low, high) = s.interval.unwrap();
        assert!((low - 0.799_135_71).abs() < 5e-9 && (high - 0.821_664_29).abs() < 5e-9, "{low} {high}");
        assert_eq!((s.min, s.max, s.n), (0.798, 0.821, 5));
        let t = paired_t(&A, &B).unwrap().unwrap();
        assert!((t.statistic - 7.897_065_0).abs() < 5e-8 && (t.p - 0.001_390_7).abs() < 5e-8, "{t:?}");
        // Five differences of one sign: one of 32 choices on either side.
        assert_eq!(wilcoxon(&A, &B).unwrap(), Some(Test { statistic: 0.0, p: 0.0625 }));
    }

    #[test]
    fn folds_are_no_independent_runs() {
        let (plain, fold) = (paired_t(&A, &B).unwrap().unwrap(), corrected_t(&A, &B, 20, 80).unwrap().unwrap());
        // Five folds: the variance of the mean is s^2 (1/5 + 1/4) in place of s^2 / 5.
        near(fold.statistic, plain.statistic / 2.25f64.sqrt());
        assert!(fold.p > plain.p);
        assert!(corrected_t(&A, &B, 20, 0).is_err());
    }

    #[test]
    fn too_few_runs_are_told() {
        assert!(RunStats::of(&[]).is_err() && RunStats::of(&[1.0, f64::NAN]).is_err());
        let one = RunStats::of(&[0.5]).unwrap();
        assert_eq!((one.interval, one.sd), (None, 0.0));
        assert!(paired_t(&[1.0], &[2.0]).unwrap_err().to_string().contains("at least two"));
        assert!(paired_t(&[1.0, 2.0], &[2.0]).unwrap_err().to_string().contains("same seeds"));
        assert_eq!(paired_t(&[0.3, 0.2], &[0.2, 0.1]).unwrap(), None, "no deviation");
        assert_eq!(wilcoxon(&A, &A).unwrap(), None);
    }
}
