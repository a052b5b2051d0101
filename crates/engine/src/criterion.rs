//! The loss that a batch's logits have.

use crate::classify::ClassifyConfig;
use crate::error::{Error, Result};
use crate::loss::LossConfig;
use candle_core::{Device, Tensor};
use candlelight_autograd::{Value, ops};
use candlelight_data::Batch;
use candlelight_nn::loss;

impl<M> ClassifyConfig<M> {
    /// The loss of logits.
    pub(crate) fn criterion(&self, logits: &Value, batch: &Batch, device: &Device) -> Result<Value> {
        let (config, weights) = (self.loss, self.class_weights.as_deref());
        let hard = batch.targets.is_none();
        let threshold = match config {
            LossConfig::BinaryCrossEntropy { threshold, .. } => threshold,
            _ => None,
        };
        let targets = || self.targets(batch, config.smoothing(), threshold, device);
        Ok(match (config, weights) {
            (LossConfig::CrossEntropy { smoothing }, None) if hard => {
                ops::cross_entropy(logits, &batch.labels, smoothing)?
            }
            (LossConfig::CrossEntropy { smoothing }, Some(w)) if hard => {
                loss::weighted_cross_entropy(logits, &batch.labels, smoothing, w)?
            }
            (LossConfig::CrossEntropy { .. }, None) => ops::soft_cross_entropy(logits, &targets()?)?,
            (LossConfig::CrossEntropy { .. }, Some(w)) => loss::weighted_soft_cross_entropy(logits, &targets()?, w)?,
            (LossConfig::BinaryCrossEntropy { sum, pos_weight: None, .. }, None) => {
                ops::binary_cross_entropy(logits, &targets()?, sum)?
            }
            (LossConfig::BinaryCrossEntropy { sum, pos_weight, .. }, w) => {
                let positive = pos_weight.map(|p| vec![p; self.classes]);
                loss::weighted_binary_cross_entropy(logits, &targets()?, w, positive.as_deref(), sum)?
            }
            (LossConfig::Jsd { splits, alpha, smoothing }, _) => {
                if !hard {
                    return Err(Error::Config("the loss jsd needs one class per sample, not mixed or several".into()));
                }
                loss::jsd_cross_entropy(logits, &batch.labels, splits, alpha, smoothing)?
            }
            (LossConfig::Asymmetric(c), _) => loss::asymmetric(logits, &targets()?, &c)?,
            (LossConfig::Focal { gamma, .. }, w) => loss::focal(logits, &targets()?, gamma, w)?,
            (LossConfig::Dice { smooth }, _) => loss::dice(logits, &targets()?, smooth)?,
            (LossConfig::Mse, _) => loss::mse(logits, &targets()?)?,
            (LossConfig::Huber { delta }, _) => loss::huber(logits, &targets()?, delta)?,
            (LossConfig::SmoothL1 { beta }, _) => loss::smooth_l1(logits, &targets()?, beta)?,
        })
    }

    /// The loss of scores (B, N) that should rank a model's answers (N B, K) by their cross-entropies.
    pub(crate) fn ranked(&self, scores: &Value, answers: &Value, batch: &Batch) -> Result<Value> {
        let (b, n) = scores.dims2()?;
        let k = self.classes;
        let targets = match &batch.targets {
            Some(t) => t.clone(),
            None => loss::one_hot(&batch.labels, k, 0.0)?,
        };
        let logs = answers.detach().log_softmax(-1)?.values()?;
        if targets.len() != b * k || logs.len() != n * b * k {
            return Err(Error::Config(format!(
                "{} target values and {} of answers for {b} images",
                targets.len(),
                logs.len()
            )));
        }
        let entropy = |image: usize, part: usize| -> f32 {
            let log = &logs[(part * b + image) * k..][..k];
            -targets[image * k..][..k].iter().zip(log).filter(|(t, _)| **t != 0.0).map(|(t, l)| t * l).sum::<f32>()
        };
        let losses: Vec<f32> = (0..b).flat_map(|image| (0..n).map(move |part| entropy(image, part))).collect();
        Ok(loss::ranking(scores, &losses)?)
    }

    /// The targets (B, K): those of the batch where it has any, else its labels, smoothed.
    fn targets(&self, batch: &Batch, smoothing: f32, threshold: Option<f32>, device: &Device) -> Result<Tensor> {
        let k = self.classes;
        let mut targets = match &batch.targets {
            Some(t) => t.clone(),
            None => loss::one_hot(&batch.labels, k, smoothing)?,
        };
        if targets.len() % k != 0 {
            return Err(Error::Config(format!("{} target values are not rows of {k} classes", targets.len())));
        }
        if let Some(at) = threshold {
            targets.iter_mut().for_each(|t| *t = f32::from(u8::from(*t > at)));
        }
        Ok(Tensor::from_vec(targets, ((), k), device)?)
    }
}

/// The mean of the logits (V x B, K) over the views of each sample.
pub(crate) fn views_averaged(logits: &Value, views: usize) -> Result<Value> {
    if views <= 1 {
        return Ok(logits.clone());
    }
    let n = logits.dim(0)? / views;
    let first = logits.narrow(0, 0, n)?;
    let sum = (1..views).try_fold(first, |sum, v| sum.add(&logits.narrow(0, v * n, n)?))?;
    Ok(sum.affine(1.0 / views as f64, 0.0)?)
}

/// A batch, whose pixels were taken out, with its labels and targets so many times: for all views of its images, or for parts of them.
pub(crate) fn repeated(batch: &Batch, times: usize) -> Batch {
    let mut all = batch.clone();
    all.labels = batch.labels.repeat(times);
    all.targets = batch.targets.as_ref().map(|t| t.repeat(times));
    all
}
