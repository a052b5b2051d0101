//! What a trained model says of the test images, and what that is worth.

use crate::Result;
use crate::evaluate::{Said, said};
use candle_core::Tensor;
use candlelight_autograd::Precision;
use candlelight_data::Loader;
use candlelight_engine::trained::Trained;
use candlelight_metrics::{Average, Calibration, Confusion, Ranking, TopK, softmax};
use candlelight_store::atomic::write_atomic;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// The bins of the calibration error, as many as torchmetrics has.
const BINS: usize = 15;

/// The figures of a run on the test images. Shares are from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The share of images that are right.
    pub top1: f64,
    /// The share of images whose class is among the best five.
    pub top5: f64,
    /// The mean of the recalls of the classes.
    pub balanced: f64,
    /// The mean of the F1 of the classes.
    pub f1: f64,
    /// Cohen's kappa.
    pub kappa: Option<f64>,
    /// The area under the ROC curve, one class against the rest, a mean over the classes that have images.
    pub auroc: Option<f64>,
    /// The mean of the average precisions of the classes that have images.
    pub map: Option<f64>,
    /// The expected calibration error in 15 bins.
    pub ece: f64,
    /// The Brier score, summed over classes.
    pub brier: f64,
    /// The mean log-loss.
    pub log_loss: f64,
    /// The number of test images.
    pub samples: u64,
    /// The number of images that were trained on.
    pub trained_on: usize,
    /// Classes without a test image: no figure speaks of them.
    pub absent: Vec<String>,
    /// The figure of the images that chose the best epoch, such as their top-1 in percent; higher is better.
    #[serde(default)]
    pub held_out: Option<f64>,
    /// The number of epochs after which the weights were the best.
    pub epochs: usize,
    /// The parameters of the model.
    pub parameters: usize,
    /// Those of them that were trained.
    pub trainable: usize,
    /// The seconds that training took; of a run that was stopped, those since it went on.
    pub seconds: f64,
}

/// Probabilities of the classes for each test image.
#[derive(Debug, Default)]
pub(crate) struct Predictions {
    labels: Vec<u32>,
    /// The places of the images in the part of the data that they are from.
    indices: Vec<u64>,
    probabilities: Vec<f64>,
}

/// A sample that a model took for another class.
pub(crate) struct Wrong {
    /// Its place among the images.
    pub(crate) place: usize,
    pub(crate) label: usize,
    pub(crate) guess: usize,
    pub(crate) p_label: f64,
    pub(crate) p_guess: f64,
}

impl From<Said> for Predictions {
    fn from(said: Said) -> Self {
        let classes = said.logits.len() / said.labels.len().max(1);
        Predictions {
            probabilities: softmax(&said.logits, classes, 1.0),
            indices: said.places.iter().map(|i| *i as u64).collect(),
            labels: said.labels,
        }
    }
}

impl Predictions {
    /// The number of classes.
    pub(crate) fn classes(&self) -> usize {
        self.probabilities.len() / self.labels.len().max(1)
    }

    /// The labels (N).
    pub(crate) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The probabilities (N, classes).
    pub(crate) fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// The probabilities in f32.
    pub(crate) fn scores(&self) -> Vec<f32> {
        self.probabilities.iter().map(|p| *p as f32).collect()
    }

    /// The wrong answers, those first whose own class got the smallest probability.
    pub(crate) fn worst(&self, classes: usize, most: usize) -> Vec<Wrong> {
        let rows = self.probabilities.chunks(classes.max(1)).zip(&self.labels).zip(&self.indices);
        let wrong = rows.filter_map(|((p, label), place)| {
            let guess = (0..p.len()).fold(0, |b, i| if p[i] > p[b] { i } else { b });
            let label = *label as usize;
            let one = Wrong { place: *place as usize, label, guess, p_label: *p.get(label)?, p_guess: p[guess] };
            (guess != label).then_some(one)
        });
        let mut all: Vec<Wrong> = wrong.collect();
        all.sort_by(|a, b| a.p_label.total_cmp(&b.p_label).then(a.place.cmp(&b.place)));
        all.truncate(most);
        all
    }

    /// Reads what [`Predictions::write`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Predictions> {
        let all = candle_core::safetensors::load(path, &candle_core::Device::Cpu)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        let of = |name: &str| all.get(name).ok_or_else(|| format!("{}: {name} is missing", path.display()));
        let p: Vec<f32> = of("probabilities")?.flatten_all()?.to_vec1()?;
        let indices: Vec<i64> = of("indices")?.to_vec1()?;
        let labels: Vec<u32> = of("labels")?.to_vec1()?;
        if labels.is_empty() || p.len() % labels.len() != 0 || indices.len() != labels.len() {
            return Err(format!("{}: tensors that do not fit each other", path.display()).into());
        }
        Ok(Predictions {
            labels,
            indices: indices.into_iter().map(|i| i as u64).collect(),
            probabilities: p.into_iter().map(f64::from).collect(),
        })
    }

    /// Runs a model over images.
    pub(super) fn of(model: &Trained, images: &Loader, precision: Precision) -> Result<Predictions> {
        let said = said(model, images, (precision, false))?;
        if said.logits.iter().any(|v| v.is_nan()) {
            return Err("the logits are not numbers: training went wrong, see the losses in log.txt".into());
        }
        match said.labels.is_empty() {
            true => Err("there is no image to test on".into()),
            false => Ok(said.into()),
        }
    }

    /// The same with places of a whole part, for images that are some of it.
    pub(super) fn placed(mut self, places: Option<&[usize]>) -> Self {
        if let Some(places) = places {
            self.indices.iter_mut().for_each(|i| *i = places[*i as usize] as u64);
        }
        self
    }

    /// Writes labels (N), places in the data (N) and probabilities (N, classes).
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let device = &candle_core::Device::Cpu;
        let (n, k) = (self.labels.len(), self.probabilities.len() / self.labels.len().max(1));
        let p: Vec<f32> = self.probabilities.iter().map(|p| *p as f32).collect();
        let indices: Vec<i64> = self.indices.iter().map(|i| *i as i64).collect();
        let tensors = HashMap::from([
            ("labels", Tensor::new(&self.labels[..], device)?),
            ("indices", Tensor::new(&indices[..], device)?),
            ("probabilities", Tensor::from_vec(p, (n, k), device)?),
        ]);
        Ok(candle_core::safetensors::save(&tensors, path)?)
    }

    /// The figures, without those of the training.
    pub(crate) fn judge(&self, classes: &[String]) -> Result<Judged> {
        let k = self.probabilities.len() / self.labels.len().max(1);
        let p: Vec<f32> = self.probabilities.iter().map(|p| *p as f32).collect();
        let (mut counts, mut top) = (Confusion::new(k), TopK::new(k));
        let (mut ranks, mut sure) = (Ranking::new(k), Calibration::new(k, BINS));
        counts.add_scores(&p, &self.labels)?;
        top.add(&p, &self.labels)?;
        ranks.add_labels(&p, &self.labels)?;
        sure.add(&self.probabilities, &self.labels)?;
        let of_classes = counts.of_classes();
        let absent = (0..k).filter(|c| of_classes[*c].samples == 0);
        let none = || "there is no image to test on".to_string();
        Ok(Judged {
            top1: top.share(1).ok_or_else(none)?,
            top5: top.share(5).ok_or_else(none)?,
            balanced: counts.balanced_accuracy().ok_or_else(none)?,
            f1: counts.f1(Average::Macro).ok_or_else(none)?,
            kappa: counts.kappa(),
            auroc: ranks.auroc(Average::Macro),
            map: ranks.average_precision(Average::Macro),
            ece: sure.ece().ok_or_else(none)?,
            brier: sure.brier().ok_or_else(none)?,
            log_loss: sure.log_loss().ok_or_else(none)?,
            samples: sure.samples(),
            trained_on: 0,
            absent: absent.map(|c| classes.get(c).cloned().unwrap_or_else(|| c.to_string())).collect(),
            held_out: None,
            epochs: 0,
            parameters: 0,
            trainable: 0,
            seconds: 0.0,
        })
    }
}

impl Judged {
    /// Reads the figures of a run that came to its end; `None` where there are none.
    pub(crate) fn read(path: &Path) -> Option<Judged> {
        serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(write_atomic(path, |out| out.write_all(text.as_bytes()))?)
    }
}
