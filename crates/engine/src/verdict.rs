//! What an evaluation finds, whatever samples are labelled with.

use crate::error::{Error, Result};
use crate::metrics::Scores;
use candlelight_metrics::AveragePrecision;
use serde::Serialize;
use std::fmt;

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Each sample has one class.
    Classes(Scores),
    /// Samples have any number of classes.
    Several {
        /// The mean over classes of the average precision, in percent; classes without a positive sample are left out.
        map: f64,
        /// The mean loss per sample.
        loss: f64,
        /// The number of samples.
        samples: u64,
    },
    /// Samples have numbers.
    Numbers {
        /// The mean absolute difference.
        mae: f64,
        /// The mean loss per sample.
        loss: f64,
        /// The number of samples.
        samples: u64,
    },
}

/// A figure of a verdict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    /// Its name in log.txt.
    pub(crate) log: &'static str,
    /// The same for averaged weights.
    pub(crate) ema_log: &'static str,
    /// Its name in TensorBoard.
    pub(crate) tag: &'static str,
    pub(crate) value: f64,
}

impl Verdict {
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let loss = |value| Figure { log: "test_loss", ema_log: "test_ema_loss", tag: "perf/test_loss", value };
        match *self {
            Verdict::Classes(Scores { top1, top5, loss: l, .. }) => vec![
                loss(l),
                Figure { log: "test_acc1", ema_log: "test_ema_acc1", tag: "perf/test_acc1", value: top1 },
                Figure { log: "test_acc5", ema_log: "test_ema_acc5", tag: "perf/test_acc5", value: top5 },
            ],
            Verdict::Several { map, loss: l, .. } => {
                vec![loss(l), Figure { log: "test_map", ema_log: "test_ema_map", tag: "perf/test_map", value: map }]
            }
            Verdict::Numbers { mae, loss: l, .. } => {
                vec![loss(l), Figure { log: "test_mae", ema_log: "test_ema_mae", tag: "perf/test_mae", value: mae }]
            }
        }
    }

    /// The tag and the value of the figure by which averaged weights are shown.
    pub(crate) fn headline(&self) -> (&'static str, f64) {
        match *self {
            Verdict::Classes(Scores { top1, .. }) => ("perf/test_ema_acc1", top1),
            Verdict::Several { map, .. } => ("perf/test_ema_map", map),
            Verdict::Numbers { mae, .. } => ("perf/test_ema_mae", mae),
        }
    }

    /// The figure by which the best weights are chosen; higher is better.
    pub fn score(&self) -> f64 {
        match *self {
            Verdict::Classes(Scores { top1, .. }) => top1,
            Verdict::Several { map, .. } => map,
            Verdict::Numbers { loss, .. } => -loss,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Verdict::Classes(Scores { top1, top5, loss, samples, .. }) => {
                write!(f, "top1 {top1:.2}  top5 {top5:.2}  loss {loss:.4} on {samples} images")
            }
            Verdict::Several { map, loss, samples } => write!(f, "mAP {map:.2}  loss {loss:.4} on {samples} images"),
            Verdict::Numbers { mae, loss, samples } => {
                write!(f, "mean absolute error {mae:.4}  loss {loss:.4} on {samples} images")
            }
        }
    }
}

/// Counts of samples with targets.
pub(crate) struct Targets {
    classes: usize,
    precision: AveragePrecision,
    numbers: bool,
    difference: f64,
    loss: f64,
    samples: u64,
}

impl Targets {
    pub(crate) fn new(classes: usize, numbers: bool) -> Self {
        let precision = AveragePrecision::new(classes);
        Targets { classes, precision, numbers, difference: 0.0, loss: 0.0, samples: 0 }
    }

    /// Takes in a batch: the outputs (B, K), the targets (B, K), and the mean loss.
    pub(crate) fn add(&mut self, values: &[f32], targets: &[f32], loss: f32) -> Result<()> {
        if values.len() != targets.len() {
            let (v, t) = (values.len(), targets.len());
            return Err(Error::Config(format!(
                "{t} target values for {v} outputs: each sample needs one for each of the model's {} outputs",
                self.classes
            )));
        }
        let samples = values.len() / self.classes.max(1);
        if self.numbers {
            self.difference += values.iter().zip(targets).map(|(v, t)| f64::from((v - t).abs())).sum::<f64>();
        } else {
            let positive: Vec<bool> = targets.iter().map(|t| *t > 0.5).collect();
            self.precision.add(values, &positive)?;
        }
        self.loss += f64::from(loss) * samples as f64;
        self.samples += samples as u64;
        Ok(())
    }

    pub(crate) fn verdict(self) -> Verdict {
        let samples = self.samples;
        let loss = self.loss / samples.max(1) as f64;
        if self.numbers {
            let mae = self.difference / (samples.max(1) * self.classes as u64) as f64;
            return Verdict::Numbers { mae, loss, samples };
        }
        Verdict::Several { map: 100.0 * self.precision.mean().unwrap_or(0.0), loss, samples }
    }
}
