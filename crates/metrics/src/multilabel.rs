//! Figures of samples that have any number of classes.

use crate::{Average, Averaging, Error, Result};

/// How often each class was right, claimed wrongly and missed, where samples have any number of classes. A class is claimed where its score is
/// above a threshold.
///
/// The figures are scikit-learn's with `zero_division=0` where absent classes count as 0
/// ([`Absent::Zero`](crate::Absent::Zero)), which is torchmetrics', too.
#[derive(Debug, Clone, PartialEq)]
pub struct MultiLabel {
    threshold: f32,
    classes: Vec<Decisions>,
    samples: u64,
    exact: u64,
    /// Sums over samples of precision, recall and F1.
    by_sample: [f64; 3],
}

/// Decisions on one class, or on one sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Decisions {
    right: u64,
    claimed: u64,
    wanted: u64,
}

impl Decisions {
    fn add(&mut self, claimed: bool, wanted: bool) {
        self.right += u64::from(claimed && wanted);
        self.claimed += u64::from(claimed);
        self.wanted += u64::from(wanted);
    }

    fn precision(self) -> f64 {
        share(self.right as f64, self.claimed as f64)
    }

    fn recall(self) -> f64 {
        share(self.right as f64, self.wanted as f64)
    }

    fn f_beta(self, beta: f64) -> f64 {
        let b = beta * beta;
        share((1.0 + b) * self.right as f64, b * self.wanted as f64 + self.claimed as f64)
    }
}

fn share(part: f64, of: f64) -> f64 {
    if of == 0.0 { 0.0 } else { part / of }
}

impl MultiLabel {
    /// No samples, for a number of classes; of probabilities the usual threshold is 0.5, of logits 0.
    pub fn new(classes: usize, threshold: f32) -> Self {
        MultiLabel {
            threshold,
            classes: vec![Decisions::default(); classes],
            samples: 0,
            exact: 0,
            by_sample: [0.0; 3],
        }
    }

    /// Takes in a batch of scores (B, classes), and for each whether the sample has the class.
    ///
    /// # Errors
    /// When the lengths differ or are not whole rows, or a score is NaN; then nothing is counted.
    pub fn add(&mut self, scores: &[f32], targets: &[bool]) -> Result<()> {
        let k = self.classes.len();
        if k == 0 || scores.len() != targets.len() || scores.len() % k != 0 {
            let (s, t) = (scores.len(), targets.len());
            return Err(Error(format!("{s} scores and {t} targets are not rows of {k} classes")));
        }
        crate::numbers(scores)?;
        for (row, wanted) in scores.chunks_exact(k).zip(targets.chunks_exact(k)) {
            let mut sample = Decisions::default();
            for (class, (score, wanted)) in self.classes.iter_mut().zip(row.iter().zip(wanted)) {
                let claimed = *score > self.threshold;
                class.add(claimed, *wanted);
                sample.add(claimed, *wanted);
            }
            self.samples += 1;
            self.exact += u64::from(sample.right == sample.claimed && sample.right == sample.wanted);
            let figures = [sample.precision(), sample.recall(), sample.f_beta(1.0)];
            self.by_sample.iter_mut().zip(figures).for_each(|(sum, f)| *sum += f);
        }
        Ok(())
    }

    /// Adds the counts of another process.
    ///
    /// # Errors
    /// When they are of another number of classes, or of another threshold.
    pub fn merge(&mut self, other: &MultiLabel) -> Result<()> {
        let (a, b) = (self.classes.len(), other.classes.len());
        if a != b || self.threshold != other.threshold {
            let (s, t) = (self.threshold, other.threshold);
            return Err(Error(format!("counts of {a} classes above {s} and of {b} classes above {t} cannot be added")));
        }
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            mine.right += theirs.right;
            mine.claimed += theirs.claimed;
            mine.wanted += theirs.wanted;
        }
        self.samples += other.samples;
        self.exact += other.exact;
        self.by_sample.iter_mut().zip(other.by_sample).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// The number of samples.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The share of samples whose classes are all right and complete: the subset accuracy. `None` without samples.
    pub fn exact(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.exact as f64 / self.samples as f64)
    }

    /// The share of all decisions, one per sample and class, that are wrong: the Hamming loss. `None` without samples.
    pub fn hamming(&self) -> Option<f64> {
        let wrong: u64 = self.classes.iter().map(|c| c.claimed + c.wanted - 2 * c.right).sum();
        let all = self.samples * self.classes.len() as u64;
        (all > 0).then(|| wrong as f64 / all as f64)
    }

    fn averaged(&self, by: Averaging, of: impl Fn(Decisions) -> f64) -> Option<f64> {
        if self.samples == 0 {
            return None;
        }
        if by.average == Average::Micro {
            let sum = |of: fn(&Decisions) -> u64| self.classes.iter().map(of).sum();
            return Some(of(Decisions {
                right: sum(|c| c.right),
                claimed: sum(|c| c.claimed),
                wanted: sum(|c| c.wanted),
            }));
        }
        if by.average == Average::Weighted && self.classes.iter().all(|c| c.wanted == 0) {
            // As scikit-learn has it: there is nothing to weigh by.
            return Some(0.0);
        }
        let figure = |c: &Decisions| ((c.wanted + c.claimed > 0).then(|| of(*c)), c.wanted);
        by.of(self.classes.iter().map(figure))
    }

    /// The precision of all classes; `None` without samples. A class that was never claimed has the precision 0.
    pub fn precision(&self, by: impl Into<Averaging>) -> Option<f64> {
        self.averaged(by.into(), Decisions::precision)
    }

    /// The recall of all classes; `None` without samples. A class that no sample has has the recall 0.
    pub fn recall(&self, by: impl Into<Averaging>) -> Option<f64> {
        self.averaged(by.into(), Decisions::recall)
    }

    /// The F1 of all classes; `None` without samples.
    pub fn f1(&self, by: impl Into<Averaging>) -> Option<f64> {
        self.f_beta(1.0, by)
    }

    /// The F-score of all classes in which recall counts `beta` times as much as precision; `None` without samples.
    pub fn f_beta(&self, beta: f64, by: impl Into<Averaging>) -> Option<f64> {
        self.averaged(by.into(), |c| c.f_beta(beta))
    }

    /// The means over samples of each sample's own precision, recall and F1; `None` without samples.
    pub fn of_samples(&self) -> Option<[f64; 3]> {
        (self.samples > 0).then(|| self.by_sample.map(|sum| sum / self.samples as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Absent;

    #[test]
    fn figures_of_few_samples_are_those_on_paper() {
        let mut m = MultiLabel::new(3, 0.5);
        assert_eq!((m.exact(), m.hamming(), m.f1(Average::Micro), m.of_samples()), (None, None, None, None));
        m.add(&[0.9, 0.6, 0.1, 0.2, 0.5, 0.3], &[true, false, false, false, true, false]).unwrap();
        assert_eq!((m.samples(), m.exact(), m.hamming()), (2, Some(0.0), Some(2.0 / 6.0)));
        assert_eq!((m.precision(Average::Micro), m.recall(Average::Micro)), (Some(0.5), Some(0.5)));
        // The third class is nowhere.
        assert_eq!(m.recall(Average::Macro), Some(0.5));
        assert_eq!(m.recall(Average::Macro.with(Absent::Zero)), Some(1.0 / 3.0));
        assert_eq!(m.recall(Average::Macro.with(Absent::Undefined)), None);
        assert_eq!(m.of_samples(), Some([0.25, 0.5, (2.0 / 3.0) / 2.0]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut m = MultiLabel::new(2, 0.5);
        assert!(m.add(&[0.1, 0.2, 0.3], &[true; 3]).unwrap_err().to_string().contains("rows of 2 classes"));
        assert!(m.add(&[0.1, f32::NAN], &[true; 2]).unwrap_err().to_string().contains("NaN"));
        assert!(m.merge(&MultiLabel::new(3, 0.5)).unwrap_err().to_string().contains("3 classes"));
        assert!(m.merge(&MultiLabel::new(2, 0.4)).is_err() && m.samples() == 0);
    }
}
