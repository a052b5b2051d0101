//! The confusion matrix, and what follows from it.

use crate::{Average, Averaging, Error, Result};

/// How often samples of each class were predicted as each class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Rows are the true classes.
    counts: Vec<u64>,
}

/// The figures of one class, as shares between 0 and 1. Where nothing was predicted, or there are no samples, a share is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OfClass {
    /// The share of the predictions of the class that are right.
    pub precision: f64,
    /// The share of the samples of the class that are found.
    pub recall: f64,
    /// `2 precision recall / (precision + recall)`.
    pub f1: f64,
    /// The number of its samples.
    pub samples: u64,
    /// The number of its predictions.
    pub predictions: u64,
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

impl Confusion {
    /// Counts of zero, for a number of classes.
    pub fn new(classes: usize) -> Self {
        Confusion { classes, counts: vec![0; classes * classes] }
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Counts a sample.
    ///
    /// # Errors
    /// When a class is past the last.
    pub fn add(&mut self, label: usize, predicted: usize) -> Result<()> {
        let classes = self.classes;
        if label >= classes || predicted >= classes {
            return Err(Error(format!("class {} is past the last of {classes} classes", label.max(predicted))));
        }
        self.counts[label * classes + predicted] += 1;
        Ok(())
    }

    /// Counts a batch by its scores (B, classes): what is predicted is the class with the highest, of equal ones the first.
    ///
    /// # Errors
    /// When the lengths differ, a label is past the last class, or a score is NaN; then nothing is counted.
    pub fn add_scores(&mut self, scores: &[f32], labels: &[u32]) -> Result<()> {
        crate::check(scores, labels, self.classes)?;
        for (row, label) in scores.chunks_exact(self.classes).zip(labels) {
            let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            self.add(*label as usize, best)?;
        }
        Ok(())
    }

    /// Adds the counts of another process.
    ///
    /// # Errors
    /// When they are of another number of classes.
    pub fn merge(&mut self, other: &Confusion) -> Result<()> {
        if self.classes != other.classes {
            let (a, b) = (self.classes, other.classes);
            return Err(Error(format!("counts of {a} and of {b} classes cannot be added")));
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// How many samples of class `label` were predicted as class `predicted`.
    pub fn count(&self, label: usize, predicted: usize) -> u64 {
        if label >= self.classes || predicted >= self.classes {
            return 0;
        }
        self.counts[label * self.classes + predicted]
    }

    /// The samples and the predictions of each class.
    fn sums(&self) -> (Vec<u64>, Vec<u64>) {
        let (mut samples, mut predictions) = (vec![0; self.classes], vec![0; self.classes]);
        for (row, of_row) in self.counts.chunks_exact(self.classes.max(1)).zip(&mut samples) {
            *of_row = row.iter().sum();
            predictions.iter_mut().zip(row).for_each(|(p, n)| *p += n);
        }
        (samples, predictions)
    }

    /// The counts as CSV: a line per true class, a column per predicted one, under the names of the classes or their numbers.
    pub fn csv(&self, names: &[String]) -> String {
        let name = |c: usize| names.get(c).map_or_else(|| c.to_string(), |n| format!("\"{}\"", n.replace('"', "\"\"")));
        let line =
            |first: String, cells: Vec<String>| std::iter::once(first).chain(cells).collect::<Vec<_>>().join(",");
        let mut lines = vec![line("true \\ predicted".into(), (0..self.classes).map(name).collect())];
        let row = |l: usize| (0..self.classes).map(|p| self.count(l, p).to_string()).collect();
        lines.extend((0..self.classes).map(|l| line(name(l), row(l))));
        lines.join("\n") + "\n"
    }

    /// The number of samples.
    pub fn samples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The share of samples that are right; `None` without samples.
    pub fn accuracy(&self) -> Option<f64> {
        let right: u64 = (0..self.classes).map(|c| self.count(c, c)).sum();
        let n = self.samples();
        (n > 0).then(|| share(right, n))
    }

    /// The mean of the recalls of the classes that have samples; `None` without samples.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        let recalls: Vec<f64> = self.of_classes().iter().filter(|c| c.samples > 0).map(|c| c.recall).collect();
        (!recalls.is_empty()).then(|| recalls.iter().sum::<f64>() / recalls.len() as f64)
    }

    /// The figures of each class.
    pub fn of_classes(&self) -> Vec<OfClass> {
        let (samples, predictions) = self.sums();
        let of = |c: usize| {
            let (right, samples, predictions) = (self.count(c, c), samples[c], predictions[c]);
            // Twice the right ones over samples and predictions is the harmonic mean of precision and recall.
            let f1 = share(2 * right, samples + predictions);
            OfClass { precision: share(right, predictions), recall: share(right, samples), f1, samples, predictions }
        };
        (0..self.classes).map(of).collect()
    }

    fn averaged(&self, by: Averaging, of: impl Fn(&OfClass) -> f64) -> Option<f64> {
        if self.samples() == 0 || by.average == Average::Micro {
            // A wrong prediction is one too many of a class and one too few of another: all figures are the accuracy.
            return self.accuracy();
        }
        let all = self.of_classes();
        by.of(all.iter().map(|c| ((c.samples + c.predictions > 0).then(|| of(c)), c.samples)))
    }

    /// The precision of all classes; `None` without samples. A class that was never predicted has the precision 0.
    pub fn precision(&self, by: impl Into<Averaging>) -> Option<f64> {
        self.averaged(by.into(), |c| c.precision)
    }

    /// The recall of all classes; `None` without samples. A class without samples has the recall 0.
    pub fn recall(&self, by: impl Into<Averaging>) -> Option<f64> {
        self.averaged(by.into(), |c| c.recall)
    }

    /// The F1 of all classes; `None` without samples.
    pub fn f1(&self, by: impl Into<Averaging>) -> Option<f64> {
        self.averaged(by.into(), |c| c.f1)
    }

    /// The F-score of all classes in which recall counts `beta` times as much as precision,
    /// `(1 + beta^2) precision recall / (beta^2 precision + recall)`; `None` without samples.
    pub fn f_beta(&self, beta: f64, by: impl Into<Averaging>) -> Option<f64> {
        let b = beta * beta;
        self.averaged(by.into(), |c| {
            let under = b * c.precision + c.recall;
            if under > 0.0 { (1.0 + b) * c.precision * c.recall / under } else { 0.0 }
        })
    }

    /// Cohen's kappa: how much better the accuracy is than that of chance with the same shares of labels and predictions. `None` without
    /// samples, or where chance alone is right.
    pub fn kappa(&self) -> Option<f64> {
        let (n, (samples, predictions)) = (self.samples() as f64, self.sums());
        let both: f64 = samples.iter().zip(&predictions).map(|(s, p)| *s as f64 * *p as f64).sum();
        let chance = both / (n * n);
        self.accuracy().filter(|_| chance < 1.0).map(|a| (a - chance) / (1.0 - chance))
    }

    /// The correlation of J. Gorodkin (2004) between labels and predictions, Matthews' for two classes. `None` without samples, or where labels
    /// or predictions are all of one class.
    pub fn matthews(&self) -> Option<f64> {
        let n = self.samples() as f64;
        let right: f64 = (0..self.classes).map(|c| self.count(c, c) as f64).sum();
        let (mut both, mut labels, mut predictions) = (0.0, 0.0, 0.0);
        let (samples, predicted) = self.sums();
        for (l, p) in samples.into_iter().zip(predicted) {
            let (l, p) = (l as f64, p as f64);
            both += l * p;
            labels += l * l;
            predictions += p * p;
        }
        let scale = ((n * n - labels) * (n * n - predictions)).sqrt();
        (scale > 0.0).then(|| (right * n - both) / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Absent;

    fn of(labels: &[usize], predicted: &[usize], classes: usize) -> Confusion {
        let mut c = Confusion::new(classes);
        labels.iter().zip(predicted).for_each(|(l, p)| c.add(*l, *p).unwrap());
        c
    }

    fn near(got: Option<f64>, want: f64) {
        assert!((got.unwrap() - want).abs() < 5e-9, "{got:?}, want {want}");
    }

    /// The numbers of scikit-learn 1.9.
    #[test]
    fn figures_are_those_of_scikit_learn() {
        let c = of(&[0, 1, 2, 2, 1, 0, 3, 3, 2, 0], &[0, 2, 2, 2, 1, 0, 3, 1, 0, 0], 4);
        near(c.accuracy(), 0.7);
        near(c.balanced_accuracy(), 0.666_666_666_7);
        near(c.precision(Average::Macro), 0.729_166_666_7);
        near(c.recall(Average::Macro), 0.666_666_666_7);
        near(c.f1(Average::Macro), 0.672_619_047_6);
        near(c.f1(Average::Weighted), 0.690_476_190_5);
        near(c.f1(Average::Micro), 0.7);
        near(c.kappa(), 0.589_041_095_9);
        near(c.matthews(), 0.597_452_768_6);
        let rows: Vec<u64> = (0..4).flat_map(|l| (0..4).map(move |p| (l, p))).map(|(l, p)| c.count(l, p)).collect();
        assert_eq!(rows, [3, 0, 0, 0, 0, 1, 1, 0, 1, 0, 2, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn classes_that_are_nowhere_do_not_count() {
        // scikit-learn without `labels=`: those that are in neither list are not averaged over.
        let c = of(&[0, 0, 1, 1, 1, 0], &[0, 1, 1, 1, 3, 0], 5);
        let present = of(&[0, 0, 1, 1, 1, 0], &[0, 1, 1, 1, 2, 0], 3);
        assert_eq!(c.f1(Average::Macro), present.f1(Average::Macro));
        near(c.f1(Average::Macro.with(Absent::Zero)), c.f1(Average::Macro).unwrap() * 3.0 / 5.0);
        assert_eq!(c.f1(Average::Macro.with(Absent::Undefined)), None);
        assert_eq!(c.f1(Average::Weighted.with(Absent::Undefined)), None);
        let none = Confusion::new(3);
        assert_eq!((none.accuracy(), none.f1(Average::Macro), none.kappa(), none.matthews()), (None, None, None, None));
        let one = of(&[1, 1], &[1, 1], 2);
        assert_eq!((one.accuracy(), one.kappa(), one.matthews()), (Some(1.0), None, None));
        assert!(Confusion::new(2).add(0, 2).unwrap_err().to_string().contains("class 2 is past"));
    }

    #[test]
    fn counts_are_written_under_the_names_of_the_classes() {
        let c = of(&[0, 0, 1], &[0, 1, 1], 2);
        assert_eq!(c.csv(&["a \"b\"".into()]), "true \\ predicted,\"a \"\"b\"\"\",1\n\"a \"\"b\"\"\",1,1\n1,0,1\n");
    }

    #[test]
    fn parts_add_up() {
        let (l, p) = ([0, 1, 2, 2, 1, 0, 3, 3], [0, 2, 2, 2, 1, 0, 3, 1]);
        let mut sum = Confusion::new(4);
        for i in [0..3, 3..4, 4..8] {
            sum.merge(&of(&l[i.clone()], &p[i], 4)).unwrap();
        }
        assert_eq!(sum, of(&l, &p, 4));
        assert!(sum.merge(&Confusion::new(3)).is_err());
    }
}
