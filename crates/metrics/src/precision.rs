//! Average precision: how well scores rank the right samples of a class above the others.

use crate::{Error, Result};

/// The scores and targets of several classes, from which average precisions are computed. It keeps every score, 5 bytes for each sample and
/// class.
#[derive(Debug, Clone, PartialEq)]
pub struct AveragePrecision {
    scores: Vec<Vec<f32>>,
    targets: Vec<Vec<bool>>,
}

impl AveragePrecision {
    /// No samples, for a number of classes.
    pub fn new(classes: usize) -> Self {
        AveragePrecision { scores: vec![vec![]; classes], targets: vec![vec![]; classes] }
    }

    /// Takes in a batch of scores (B, classes), and for each whether the sample has the class.
    ///
    /// # Errors
    /// When the lengths differ or are not whole rows, or a score is NaN.
    pub fn add(&mut self, scores: &[f32], targets: &[bool]) -> Result<()> {
        let classes = self.scores.len();
        if scores.len() != targets.len() || scores.len() % classes.max(1) != 0 {
            let (s, t) = (scores.len(), targets.len());
            return Err(Error(format!("{s} scores and {t} targets are not rows of {classes} classes")));
        }
        if scores.iter().any(|s| s.is_nan()) {
            return Err(Error("a score is NaN: the weights or the input are not numbers".into()));
        }
        for (row, wanted) in scores.chunks_exact(classes.max(1)).zip(targets.chunks_exact(classes.max(1))) {
            for (c, (s, t)) in row.iter().zip(wanted).enumerate() {
                self.scores[c].push(*s);
                self.targets[c].push(*t);
            }
        }
        Ok(())
    }

    /// Takes in the samples of another process.
    ///
    /// # Errors
    /// When they are of another number of classes.
    pub fn merge(&mut self, other: &AveragePrecision) -> Result<()> {
        let (a, b) = (self.scores.len(), other.scores.len());
        if a != b {
            return Err(Error(format!("scores of {a} and of {b} classes cannot be put together")));
        }
        self.scores.iter_mut().zip(&other.scores).for_each(|(a, b)| a.extend(b));
        self.targets.iter_mut().zip(&other.targets).for_each(|(a, b)| a.extend(b));
        Ok(())
    }

    /// The average precision of each class, `sum (R_n - R_{n-1}) P_n` over all thresholds, without interpolation, as scikit-learn's
    /// `average_precision_score`; equal scores are one threshold. `None` for classes without a positive sample.
    pub fn of_classes(&self) -> Vec<Option<f64>> {
        self.scores.iter().zip(&self.targets).map(|(s, t)| one(s, t)).collect()
    }

    /// The mean over the classes that have a positive sample (mAP); `None` where there are none.
    pub fn mean(&self) -> Option<f64> {
        let all: Vec<f64> = self.of_classes().into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }
}

fn one(scores: &[f32], targets: &[bool]) -> Option<f64> {
    let positive = targets.iter().filter(|t| **t).count();
    if positive == 0 {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (mut found, mut seen, mut sum) = (0, 0, 0.0);
    for group in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let right = group.iter().filter(|i| targets[**i]).count();
        seen += group.len();
        found += right;
        sum += right as f64 / positive as f64 * found as f64 / seen as f64;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_scikit_learns_and_batches_do_not_matter() {
        // average_precision_score([0, 0, 1, 1], [.1, .4, .35, .8]) and ([0, 0, 1, 1, 1], [.1, .4, .4, .8, .4]).
        let near = |scores: &[f32], targets: &[bool], want: f64| {
            let mut whole = AveragePrecision::new(1);
            whole.add(scores, targets).unwrap();
            let mut parts = AveragePrecision::new(1);
            for (s, t) in scores.chunks(2).zip(targets.chunks(2)) {
                let mut part = AveragePrecision::new(1);
                part.add(s, t).unwrap();
                parts.merge(&part).unwrap();
            }
            assert!((whole.mean().unwrap() - want).abs() < 1e-12);
            assert_eq!(parts.mean(), whole.mean());
        };
        near(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true], 0.833_333_333_333_333_3);
        near(&[0.1, 0.4, 0.4, 0.8, 0.4], &[false, false, true, true, true], 1.0 / 3.0 + 2.0 / 3.0 * 0.75);
        near(&[3.0, 2.0], &[true, false], 1.0);
    }

    #[test]
    fn classes_without_positives_have_none_and_bad_input_is_named() {
        let mut m = AveragePrecision::new(2);
        assert_eq!(m.mean(), None);
        m.add(&[0.9, 0.1, 0.2, 0.3], &[true, false, false, false]).unwrap();
        assert_eq!((m.of_classes(), m.mean()), (vec![Some(1.0), None], Some(1.0)));
        assert!(m.add(&[0.5; 3], &[true; 3]).is_err());
        assert!(m.add(&[f32::NAN, 0.0], &[true; 2]).unwrap_err().to_string().contains("NaN"));
        assert!(m.merge(&AveragePrecision::new(3)).is_err());
    }
}
