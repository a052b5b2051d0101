//! Several classifiers that vote.

use crate::{Error, Result, numbers, softmax};

/// How the members of an ensemble become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    /// The mean of the probabilities, scikit-learn's `voting="soft"`.
    Soft,
    /// The class that most members name; of equal numbers the first class, scikit-learn's `voting="hard"`.
    Hard,
    /// The mean of the logits.
    Logits,
}

impl std::str::FromStr for Vote {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "soft" => Ok(Vote::Soft),
            "hard" => Ok(Vote::Hard),
            "logits" => Ok(Vote::Logits),
            _ => Err(Error(format!("`{s}`: expected soft, hard or logits"))),
        }
    }
}

fn check(members: &[&[f32]], classes: usize) -> Result<usize> {
    let Some(first) = members.first().filter(|_| classes > 0) else {
        return Err(Error("an ensemble of no members, or of no classes".into()));
    };
    if let Some(other) = members.iter().find(|m| m.len() != first.len() || m.len() % classes != 0) {
        let (a, b) = (first.len(), other.len());
        return Err(Error(format!("members with {a} and {b} logits: expected as many rows of {classes} from each")));
    }
    members.iter().try_for_each(|m| numbers(m))?;
    Ok(first.len() / classes)
}

/// The scores (N, classes) of an ensemble whose members have the logits (N, classes): mean probabilities, shares of the votes, or mean logits.
/// With `weights` members count that much.
///
/// ```
/// use candlelight_metrics::{Vote, vote};
/// let (a, b, c) = ([2.0, 0.0], [0.0, 0.5], [0.0, 0.5]);
/// let all = [&a[..], &b[..], &c[..]];
/// assert!(vote(&all, 2, None, Vote::Soft)?[0] > 0.5);
/// assert_eq!(vote(&all, 2, None, Vote::Hard)?, [1.0 / 3.0, 2.0 / 3.0]);
/// assert_eq!(vote(&all, 2, Some(&[2.0, 1.0, 1.0]), Vote::Hard)?, [0.5, 0.5]);
/// # Ok::<(), candlelight_metrics::Error>(())
/// ```
///
/// # Errors
/// When members have other numbers of logits, one is NaN, or the weights are none.
pub fn vote(members: &[&[f32]], classes: usize, weights: Option<&[f64]>, how: Vote) -> Result<Vec<f32>> {
    let n = check(members, classes)?;
    let even = vec![1.0; members.len()];
    let weights = weights.unwrap_or(&even);
    let sum: f64 = weights.iter().sum();
    if weights.len() != members.len() || weights.iter().any(|w| !w.is_finite() || *w < 0.0) || sum <= 0.0 {
        return Err(Error(format!(
            "weights {weights:?} for {} members: expected a number of at least 0 for each, and one above 0",
            members.len()
        )));
    }
    let mut out = vec![0f64; n * classes];
    for (logits, weight) in members.iter().zip(weights) {
        let share = weight / sum;
        match how {
            Vote::Soft => {
                out.iter_mut().zip(softmax(logits, classes, 1.0)).for_each(|(o, p)| *o += share * p);
            }
            Vote::Logits => out.iter_mut().zip(*logits).for_each(|(o, l)| *o += share * f64::from(*l)),
            Vote::Hard => {
                for (row, logits) in out.chunks_mut(classes).zip(logits.chunks(classes)) {
                    row[best(logits)] += share;
                }
            }
        }
    }
    Ok(out.into_iter().map(|v| v as f32).collect())
}

/// The class of the greatest value; of equal ones the first.
fn best(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b })
}

/// The share of the samples that two members call different classes, for each pair.
///
/// # Errors
/// When members have other numbers of logits, or one is NaN.
pub fn disagreement(members: &[&[f32]], classes: usize) -> Result<Vec<Vec<f64>>> {
    let n = check(members, classes)?;
    let named: Vec<Vec<usize>> = members.iter().map(|m| m.chunks(classes).map(best).collect()).collect();
    let apart = |a: &[usize], b: &[usize]| a.iter().zip(b).filter(|(a, b)| a != b).count() as f64 / n.max(1) as f64;
    Ok(named.iter().map(|a| named.iter().map(|b| apart(a, b)).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let (a, b) = ([1.0, 2.0, 0.0, 1.0], [0.0, 1.0]);
        let e = |r: Result<Vec<f32>>| r.unwrap_err().to_string();
        assert!(e(vote(&[], 2, None, Vote::Soft)).contains("no members"));
        assert!(e(vote(&[&a, &b], 2, None, Vote::Soft)).contains("4 and 2 logits"));
        assert!(e(vote(&[&a], 3, None, Vote::Soft)).contains("rows of 3"));
        assert!(e(vote(&[&[f32::NAN, 0.0]], 2, None, Vote::Hard)).contains("NaN"));
        for weights in [&[1.0][..], &[0.0, 0.0], &[-1.0, 2.0]] {
            assert!(e(vote(&[&a, &a], 2, Some(weights), Vote::Logits)).contains("weights"));
        }
        assert!("loud".parse::<Vote>().is_err() && "hard".parse::<Vote>() == Ok(Vote::Hard));
        assert_eq!(disagreement(&[&a, &[2.0, 1.0, 0.0, 1.0]], 2).unwrap(), [[0.0, 0.5], [0.5, 0.0]]);
    }
}
