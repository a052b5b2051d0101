//! What an evaluation finds, whatever samples are labelled with.

use crate::error::{Error, Result};
use crate::metrics::Scores;
use candlelight_metrics::{Average, Ranking};
use candlelight_store::nearest;
use serde::{Deserialize, Serialize};
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

/// A figure by which weights are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The mean loss per sample; lower is better.
    Loss,
    /// The share of samples whose class comes first.
    Top1,
    /// The share of samples whose class is among the first five.
    Top5,
    /// The mean over classes of the share of predictions that are right.
    Precision,
    /// The mean over classes of the share of samples that are found.
    Recall,
    /// The mean over classes of the harmonic mean of both.
    F1,
    /// The mean average precision, where samples have several labels.
    Map,
    /// The mean absolute error of numbers; lower is better.
    Mae,
}

impl Metric {
    /// Every metric by its name.
    pub const NAMES: [(&'static str, Metric); 8] = [
        ("loss", Metric::Loss),
        ("top1", Metric::Top1),
        ("top5", Metric::Top5),
        ("precision", Metric::Precision),
        ("recall", Metric::Recall),
        ("f1", Metric::F1),
        ("map", Metric::Map),
        ("mae", Metric::Mae),
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, m)| *m == self).map_or("", |(n, _)| n)
    }

    /// Whether a higher value is better.
    pub fn maximised(self) -> bool {
        !matches!(self, Metric::Loss | Metric::Mae)
    }

    /// The value behind a score, for which higher is always better.
    pub fn value(self, score: f64) -> f64 {
        if self.maximised() { score } else { -score }
    }
}

impl std::str::FromStr for Metric {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let names = || Self::NAMES.iter().map(|(n, _)| *n);
        Self::NAMES.iter().find(|(n, _)| *n == s).map(|(_, m)| *m).ok_or_else(|| {
            let near = nearest(names(), s);
            let meant = if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(" or ")) };
            format!("`{s}` is no metric; {meant}there are {}", names().collect::<Vec<_>>().join(", "))
        })
    }
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

    /// A figure of the verdict; `None` where samples have no such figure.
    pub fn figure(&self, metric: Metric) -> Option<f64> {
        Some(match (self, metric) {
            (
                Verdict::Classes(Scores { loss, .. }) | Verdict::Several { loss, .. } | Verdict::Numbers { loss, .. },
                Metric::Loss,
            ) => *loss,
            (Verdict::Classes(s), Metric::Top1) => s.top1,
            (Verdict::Classes(s), Metric::Top5) => s.top5,
            (Verdict::Classes(s), Metric::Precision) => s.precision,
            (Verdict::Classes(s), Metric::Recall) => s.recall,
            (Verdict::Classes(s), Metric::F1) => s.f1,
            (Verdict::Several { map, .. }, Metric::Map) => *map,
            (Verdict::Numbers { mae, .. }, Metric::Mae) => *mae,
            _ => return None,
        })
    }

    /// The metric that the best weights are chosen by where none is named.
    pub fn main_metric(&self) -> Metric {
        match self {
            Verdict::Classes(_) => Metric::Top1,
            Verdict::Several { .. } => Metric::Map,
            Verdict::Numbers { .. } => Metric::Loss,
        }
    }

    /// The score by a metric, by default [`Verdict::main_metric`]; higher is better.
    ///
    /// # Errors
    /// When samples have no such figure.
    pub fn score_by(&self, metric: Option<Metric>) -> Result<f64> {
        let metric = metric.unwrap_or(self.main_metric());
        let figure = self.figure(metric).ok_or_else(|| {
            let has = Metric::NAMES.iter().filter(|(_, m)| self.figure(*m).is_some()).map(|(n, _)| *n);
            let has: Vec<_> = has.collect();
            Error::Config(format!("metric {}: this evaluation has {}", metric.name(), has.join(", ")))
        })?;
        Ok(metric.value(figure))
    }

    /// The figure by which the best weights are chosen; higher is better.
    pub fn score(&self) -> f64 {
        let metric = self.main_metric();
        metric.value(self.figure(metric).unwrap_or(f64::NAN))
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
    precision: Ranking,
    numbers: bool,
    difference: f64,
    loss: f64,
    samples: u64,
}

impl Targets {
    pub(crate) fn new(classes: usize, numbers: bool) -> Self {
        let precision = Ranking::new(classes);
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
        Verdict::Several { map: 100.0 * self.precision.average_precision(Average::Macro).unwrap_or(0.0), loss, samples }
    }
}
