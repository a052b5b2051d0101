//! Accuracy and loss over a whole data set. They are exact for any batch size and number of processes.

use crate::error::{Error, Result};
use crate::task::Batches;
use candle_core::{DType, Device, Tensor};
use candlelight_data::UNLABELLED;
use candlelight_metrics::{Average, Confusion};
use serde::Serialize;

/// Counts over the samples seen so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    classes: usize,
    seen: u64,
    top1: u64,
    top5: u64,
    loss: f64,
    confusion: Confusion,
}

/// The scores that follow from the counts. Shares are in percent, from 0 to 100.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// The share of samples whose class has the highest logit.
    pub top1: f64,
    /// The share of samples whose class has one of the five highest logits.
    pub top5: f64,
    /// The mean loss per sample.
    pub loss: f64,
    /// The number of samples.
    pub samples: u64,
    /// The mean over classes of the share of predictions that are right.
    pub precision: f64,
    /// The mean over classes of the share of samples that are found.
    pub recall: f64,
    /// The mean over classes of the harmonic mean of both.
    pub f1: f64,
}

impl Metrics {
    /// Counts of zero, for a number of classes.
    pub fn new(classes: usize) -> Self {
        Metrics { classes, seen: 0, top1: 0, top5: 0, loss: 0.0, confusion: Confusion::new(classes) }
    }

    /// Counts a batch with logits (B, classes). The loss of a sample is its cross-entropy, in f64. Equal logits rank by their index.
    ///
    /// # Errors
    /// When the lengths differ, a label is past the last class or a logit is NaN.
    pub fn add(&mut self, logits: &[f32], labels: &[u32]) -> Result<()> {
        if logits.len() != labels.len() * self.classes {
            let (k, n) = (self.classes, labels.len());
            return Err(Error::Config(format!("{} logits for {n} labels of {k} classes", logits.len())));
        }
        for (row, &label) in logits.chunks_exact(self.classes.max(1)).zip(labels) {
            if label == UNLABELLED {
                return Err(Error::Config("a sample without a class cannot be evaluated".into()));
            }
            let label = label as usize;
            if label >= self.classes {
                return Err(Error::Config(format!("label {label} is past the last of {} classes", self.classes)));
            }
            if row.iter().any(|v| v.is_nan()) {
                return Err(Error::NanLogits);
            }
            let own = row[label];
            let above = row.iter().enumerate().filter(|(k, v)| **v > own || (**v == own && *k < label)).count();
            let best = (0..row.len()).fold(0, |b, k| if row[k] > row[b] { k } else { b });
            let max = f64::from(row[best]);
            let sum: f64 = row.iter().map(|v| (f64::from(*v) - max).exp()).sum();
            self.seen += 1;
            self.top1 += u64::from(above < 1);
            self.top5 += u64::from(above < 5);
            self.loss += max + sum.ln() - f64::from(own);
            self.confusion.add(label, best)?;
        }
        Ok(())
    }

    /// Adds the counts of another process.
    ///
    /// # Errors
    /// When they are of another number of classes.
    pub fn merge(&mut self, other: &Metrics) -> Result<()> {
        self.confusion.merge(&other.confusion)?;
        self.seen += other.seen;
        self.top1 += other.top1;
        self.top5 += other.top5;
        self.loss += other.loss;
        Ok(())
    }

    /// The scores so far; all are 0 before the first sample.
    pub fn scores(&self) -> Scores {
        let n = self.seen.max(1) as f64;
        Scores {
            top1: 100.0 * self.top1 as f64 / n,
            top5: 100.0 * self.top5 as f64 / n,
            loss: self.loss / n,
            samples: self.seen,
            precision: 100.0 * self.confusion.precision(Average::Macro).unwrap_or(0.0),
            recall: 100.0 * self.confusion.recall(Average::Macro).unwrap_or(0.0),
            f1: 100.0 * self.confusion.f1(Average::Macro).unwrap_or(0.0),
        }
    }

    /// How often samples of each class were predicted as each class.
    pub fn confusion(&self) -> &Confusion {
        &self.confusion
    }
}

/// Runs `forward` (images (B, C, H, W) -> logits (B, classes)) over the first epoch of some data. `progress` sees the numbers after each
/// batch, and can end the evaluation with an error.
///
/// # Errors
/// When the data cannot be read, or the logits or labels do not fit; the error of `progress`.
pub fn evaluate(
    data: &dyn Batches,
    classes: usize,
    device: &Device,
    mut forward: impl FnMut(&Tensor) -> Result<Tensor>,
    mut progress: impl FnMut(&Metrics) -> Result<()>,
) -> Result<Metrics> {
    let mut metrics = Metrics::new(classes);
    for batch in data.epoch(0, 0) {
        let mut batch = batch?;
        let images = crate::batch::images(&mut batch, data.normalize(), device)?;
        let logits = forward(&images).map_err(|e| e.of_batch(batch.indices.len()))?;
        metrics.add(&logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?, &batch.labels)?;
        progress(&metrics)?;
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_for_any_batches_and_processes() {
        let (n, k) = (53u32, 7);
        let labels: Vec<u32> = (0..n).map(|i| i * 5 % k).collect();
        let logits: Vec<f32> = (0..n * k).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as f32 / 64.0).collect();
        let mut whole = Metrics::new(k as usize);
        whole.add(&logits, &labels).unwrap();
        let by_hand = |top: usize| {
            let hit = |i: usize| {
                let row = &logits[i * k as usize..(i + 1) * k as usize];
                let mut order: Vec<usize> = (0..k as usize).collect();
                order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
                order[..top].contains(&(labels[i] as usize))
            };
            100.0 * (0..n as usize).filter(|&i| hit(i)).count() as f64 / f64::from(n)
        };
        let s = whole.scores();
        assert!((s.top1 - by_hand(1)).abs() < 1e-9 && (s.top5 - by_hand(5)).abs() < 1e-9 && s.samples == 53);
        let mut parts = Metrics::new(k as usize);
        for (l, y) in logits.chunks(10 * k as usize).zip(labels.chunks(10)) {
            let mut one = Metrics::new(k as usize);
            one.add(l, y).unwrap();
            parts.merge(&one).unwrap();
        }
        assert_eq!(parts.confusion, whole.confusion);
        assert!((parts.scores().loss - s.loss).abs() < 1e-12);
        let diagonal: u64 = (0..7).map(|c| whole.confusion().count(c, c)).sum();
        assert_eq!(100.0 * diagonal as f64 / 53.0, s.top1);
        assert_eq!(whole.confusion().of_classes().len(), 7);
        assert!((s.recall - 100.0 * whole.confusion().balanced_accuracy().unwrap()).abs() < 1e-9);
    }

    #[test]
    fn the_loss_is_cross_entropy_and_bad_input_is_named() {
        let mut m = Metrics::new(3);
        m.add(&[0.0, 0.0, 0.0], &[1]).unwrap();
        assert!((m.scores().loss - 3f64.ln()).abs() < 1e-12);
        assert_eq!((m.scores().top1, m.confusion().count(1, 0)), (0.0, 1), "equal logits rank by their index");
        assert!(m.add(&[0.0; 3], &[3]).unwrap_err().to_string().contains("label 3"));
        assert!(m.add(&[0.0; 4], &[0]).is_err());
        assert!(m.add(&[f32::NAN, 0.0, 0.0], &[0]).unwrap_err().to_string().contains("NaN"));
        assert!(m.merge(&Metrics::new(4)).is_err());
        assert_eq!(Metrics::new(3).scores().top1, 0.0);
    }
}
