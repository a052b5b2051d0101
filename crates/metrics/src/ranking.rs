//! How well scores rank the right samples of a class above the others: average precision and the area under the ROC curve.

use crate::{Average, Averaging, Error, Result};

/// The scores and targets of several classes, from which average precisions and areas under the ROC curve are computed exactly. It keeps every
/// score, 5 bytes for each sample and class.
///
/// Scores of one class are compared between samples, so those of samples with one class each should be probabilities, not logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    scores: Vec<Vec<f32>>,
    targets: Vec<Vec<bool>>,
}

impl Ranking {
    /// No samples, for a number of classes.
    pub fn new(classes: usize) -> Self {
        Ranking { scores: vec![vec![]; classes], targets: vec![vec![]; classes] }
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
        crate::numbers(scores)?;
        for (row, wanted) in scores.chunks_exact(classes.max(1)).zip(targets.chunks_exact(classes.max(1))) {
            for (c, (s, t)) in row.iter().zip(wanted).enumerate() {
                self.scores[c].push(*s);
                self.targets[c].push(*t);
            }
        }
        Ok(())
    }

    /// Takes in a batch of scores (B, classes) of samples with one class each.
    ///
    /// # Errors
    /// When the lengths differ, a label is past the last class, or a score is NaN.
    pub fn add_labels(&mut self, scores: &[f32], labels: &[u32]) -> Result<()> {
        let classes = self.scores.len();
        crate::check(scores, labels, classes)?;
        let targets: Vec<bool> = labels.iter().flat_map(|l| (0..classes).map(|c| c == *l as usize)).collect();
        self.add(scores, &targets)
    }

    /// Takes in the samples of another process.
    ///
    /// # Errors
    /// When they are of another number of classes.
    pub fn merge(&mut self, other: &Ranking) -> Result<()> {
        let (a, b) = (self.scores.len(), other.scores.len());
        if a != b {
            return Err(Error(format!("scores of {a} and of {b} classes cannot be put together")));
        }
        self.scores.iter_mut().zip(&other.scores).for_each(|(a, b)| a.extend(b));
        self.targets.iter_mut().zip(&other.targets).for_each(|(a, b)| a.extend(b));
        Ok(())
    }

    fn of_classes(&self, of: impl Fn(&[f32], &[bool]) -> Option<f64>) -> Vec<Option<f64>> {
        self.scores.iter().zip(&self.targets).map(|(s, t)| of(s, t)).collect()
    }

    fn averaged(&self, by: Averaging, of: impl Fn(&[f32], &[bool]) -> Option<f64>) -> Option<f64> {
        if by.average == Average::Micro {
            return of(&self.scores.concat(), &self.targets.concat());
        }
        let positive = |t: &Vec<bool>| t.iter().filter(|t| **t).count() as u64;
        by.of(self.of_classes(of).into_iter().zip(self.targets.iter().map(positive)))
    }

    /// The average precision of each class, `sum (R_n - R_{n-1}) P_n` over all thresholds, without interpolation, as scikit-learn's
    /// `average_precision_score`; equal scores are one threshold. `None` for classes without a positive sample.
    pub fn average_precisions(&self) -> Vec<Option<f64>> {
        self.of_classes(precision)
    }

    /// The average precision of all classes; `None` where no class has one. [`Average::Macro`] is the mAP.
    pub fn average_precision(&self, by: impl Into<Averaging>) -> Option<f64> {
        self.averaged(by.into(), precision)
    }

    /// The area under the ROC curve of each class against all others: the probability that a sample with the class has a higher score than one
    /// without it, where equal scores count half. `None` for classes that no sample has, or every sample.
    pub fn aurocs(&self) -> Vec<Option<f64>> {
        self.of_classes(auroc)
    }

    /// The area under the ROC curve of all classes, one against the rest; `None` where no class has one.
    pub fn auroc(&self, by: impl Into<Averaging>) -> Option<f64> {
        self.averaged(by.into(), auroc)
    }

    /// The mean area under the ROC curve over all pairs of classes, each judged on the samples of both alone (D. J. Hand and R. J. Till, 2001),
    /// for samples with one class each. [`Average::Weighted`] weighs pairs by their samples; there is no micro average, and pairs of which a
    /// class is absent are absent.
    ///
    /// # Errors
    /// When a sample has none or several classes, or for [`Average::Micro`].
    pub fn auroc_pairs(&self, by: impl Into<Averaging>) -> Result<Option<f64>> {
        let by = by.into();
        if by.average == Average::Micro {
            return Err(Error("pairs of classes have no micro average".into()));
        }
        let (k, n) = (self.scores.len(), self.targets.first().map_or(0, Vec::len));
        let mut of: Vec<Vec<usize>> = vec![vec![]; k];
        for i in 0..n {
            let mut own = (0..k).filter(|c| self.targets[*c][i]);
            match (own.next(), own.next()) {
                (Some(c), None) => of[c].push(i),
                _ => return Err(Error("pairs of classes need samples with one class each".into())),
            }
        }
        // The score of class `a` tells its samples from those of `b`.
        let one = |a: usize, b: usize| {
            let scores: Vec<f32> = of[a].iter().chain(&of[b]).map(|i| self.scores[a][*i]).collect();
            let targets: Vec<bool> = (0..scores.len()).map(|i| i < of[a].len()).collect();
            auroc(&scores, &targets)
        };
        let pairs = (0..k).flat_map(|a| (a + 1..k).map(move |b| (a, b)));
        let figures = pairs.map(|(a, b)| {
            let both = one(a, b).zip(one(b, a)).map(|(x, y)| (x + y) / 2.0);
            (both, (of[a].len() + of[b].len()) as u64)
        });
        Ok(by.of(figures))
    }
}

/// Samples from the highest score to the lowest.
fn ordered(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

fn precision(scores: &[f32], targets: &[bool]) -> Option<f64> {
    let positive = targets.iter().filter(|t| **t).count();
    if positive == 0 {
        return None;
    }
    let (mut found, mut seen, mut sum) = (0, 0, 0.0);
    for group in ordered(scores).chunk_by(|a, b| scores[*a] == scores[*b]) {
        let right = group.iter().filter(|i| targets[**i]).count();
        seen += group.len();
        found += right;
        sum += right as f64 / positive as f64 * found as f64 / seen as f64;
    }
    Some(sum)
}

fn auroc(scores: &[f32], targets: &[bool]) -> Option<f64> {
    let positive = targets.iter().filter(|t| **t).count() as u64;
    let negative = targets.len() as u64 - positive;
    if positive == 0 || negative == 0 {
        return None;
    }
    // Twice the pairs in which the positive sample is higher, an equal pair counting once.
    let (mut above, mut twice) = (0, 0);
    for group in ordered(scores).chunk_by(|a, b| scores[*a] == scores[*b]) {
        let right = group.iter().filter(|i| targets[**i]).count() as u64;
        let wrong = group.len() as u64 - right;
        twice += wrong * (2 * above + right);
        above += right;
    }
    Some(twice as f64 / (2 * positive * negative) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Absent;

    fn one(scores: &[f32], targets: &[bool]) -> Ranking {
        let mut m = Ranking::new(1);
        for (s, t) in scores.chunks(2).zip(targets.chunks(2)) {
            let mut part = Ranking::new(1);
            part.add(s, t).unwrap();
            m.merge(&part).unwrap();
        }
        m
    }

    #[test]
    fn average_precision_is_scikit_learns_and_batches_do_not_matter() {
        // average_precision_score([0, 0, 1, 1], [.1, .4, .35, .8]) and ([0, 0, 1, 1, 1], [.1, .4, .4, .8, .4]).
        let near = |scores: &[f32], targets: &[bool], want: f64| {
            let got = one(scores, targets).average_precision(Average::Macro).unwrap();
            assert!((got - want).abs() < 1e-12, "{got}, want {want}");
        };
        near(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true], 0.833_333_333_333_333_3);
        near(&[0.1, 0.4, 0.4, 0.8, 0.4], &[false, false, true, true, true], 1.0 / 3.0 + 2.0 / 3.0 * 0.75);
        near(&[3.0, 2.0], &[true, false], 1.0);
    }

    #[test]
    fn areas_are_scikit_learns() {
        let ties = one(&[0.1, 0.4, 0.4, 0.8, 0.4], &[false, false, true, true, true]);
        assert!((ties.auroc(Average::Macro).unwrap() - 5.0 / 6.0).abs() < 1e-12);
        let scores = [
            [0.7, 0.2, 0.1],
            [0.3, 0.4, 0.3],
            [0.2, 0.2, 0.6],
            [0.5, 0.3, 0.2],
            [0.1, 0.6, 0.3],
            [0.4, 0.35, 0.25],
            [0.25, 0.25, 0.5],
            [0.2, 0.5, 0.3],
        ];
        let mut m = Ranking::new(3);
        m.add_labels(&scores.concat(), &[0, 1, 2, 0, 1, 1, 2, 0]).unwrap();
        let near = |got: Option<f64>, want: f64| assert!((got.unwrap() - want).abs() < 5e-9, "{got:?}, want {want}");
        near(m.auroc(Average::Macro), 0.877_777_78);
        near(m.auroc(Average::Weighted), 0.8625);
        near(m.auroc_pairs(Average::Macro).unwrap(), 0.884_259_26);
        for (got, want) in m.aurocs().into_iter().zip([0.766_666_67, 0.866_666_67, 1.0]) {
            near(got, want);
        }
    }

    #[test]
    fn classes_without_positives_have_none_and_bad_input_is_named() {
        let mut m = Ranking::new(2);
        assert_eq!((m.average_precision(Average::Macro), m.auroc(Average::Micro)), (None, None));
        m.add(&[0.9, 0.1, 0.2, 0.3], &[true, false, false, false]).unwrap();
        assert_eq!((m.average_precisions(), m.average_precision(Average::Macro)), (vec![Some(1.0), None], Some(1.0)));
        assert_eq!((m.aurocs(), m.auroc(Average::Macro)), (vec![Some(1.0), None], Some(1.0)));
        assert_eq!(m.auroc(Average::Macro.with(Absent::Zero)), Some(0.5));
        assert_eq!(m.auroc(Average::Macro.with(Absent::Undefined)), None);
        assert!(m.auroc_pairs(Average::Macro).unwrap_err().to_string().contains("one class each"));
        assert!(m.auroc_pairs(Average::Micro).is_err());
        assert!(m.add(&[0.5; 3], &[true; 3]).is_err());
        assert!(m.add(&[f32::NAN, 0.0], &[true; 2]).unwrap_err().to_string().contains("NaN"));
        assert!(m.merge(&Ranking::new(3)).is_err());
    }
}
