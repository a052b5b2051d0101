//! Learning from a trained model besides the labels (G. Hinton et al., arXiv 1503.02531).

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use candlelight_autograd::{Precision, Tape, Value};
use candlelight_data::Normalize;
use candlelight_models::Classifier;
use candlelight_nn::loss;
use serde::{Deserialize, Serialize};

/// The weights of the two losses: that of the labels, and the divergence from the teacher's logits at a temperature T, times T^2. The
/// defaults are those of timm's `LogitDistillationTask`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// The temperature, above 0.
    pub temperature: f64,
    /// The weight of the divergence, at least 0.
    pub weight: f64,
    /// The weight of the loss of the labels, at least 0.
    pub task_weight: f64,
}

impl Default for DistillConfig {
    fn default() -> Self {
        DistillConfig { temperature: 1.0, weight: 1.0, task_weight: 1.0 }
    }
}

impl DistillConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let DistillConfig { temperature, weight, task_weight } = *self;
        let weights = [weight, task_weight];
        if temperature > 0.0 && temperature.is_finite() && weights.iter().all(|w| *w >= 0.0 && w.is_finite()) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "distillation: temperature {temperature}, weights {weight} and {task_weight}; expected a temperature above 0 and weights of at \
             least 0"
        )))
    }
}

/// A trained model that another one learns from.
pub struct Teacher {
    model: Box<dyn Classifier>,
    /// The statistics that its images are normalised by, where they are not those of the images that it is given.
    statistics: Option<(Normalize, Normalize)>,
}

impl std::fmt::Debug for Teacher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teacher").field("statistics", &self.statistics).finish_non_exhaustive()
    }
}

impl Teacher {
    /// A teacher whose images are normalised by `own`, while those of the batches are normalised by `given`.
    pub fn new(model: Box<dyn Classifier>, given: &Normalize, own: &Normalize) -> Self {
        let statistics = (given != own).then(|| (given.clone(), own.clone()));
        Teacher { model, statistics }
    }

    /// The logits for normalised images.
    fn logits(&self, images: &Tensor, precision: Precision) -> Result<Tensor> {
        let tape = Tape::off().with_precision(precision);
        let images = match &self.statistics {
            None => images.clone(),
            Some((given, own)) => {
                let of = |v: &[f32]| Tensor::from_slice(v, (1, v.len(), 1, 1), images.device());
                let plain = images.broadcast_mul(&of(&given.std)?)?.broadcast_add(&of(&given.mean)?)?;
                plain.broadcast_sub(&of(&own.mean)?)?.broadcast_div(&of(&own.std)?)?
            }
        };
        Ok(self.model.forward(&tape.constant(&images), None)?.tensor().to_dtype(DType::F32)?)
    }

    /// The loss of the labels and the divergence of `logits` from the teacher's.
    pub(crate) fn teach(
        &self,
        config: &DistillConfig,
        images: &Tensor,
        logits: &Value,
        loss: &Value,
        precision: Precision,
    ) -> Result<Value> {
        let theirs = self.logits(images, precision)?;
        if theirs.dims() != logits.tensor().dims() {
            return Err(Error::Config(format!(
                "the teacher gives logits of shape {:?}, the model {:?}: both need the same classes",
                theirs.dims(),
                logits.tensor().dims()
            )));
        }
        let divergence = loss::distillation(logits, &theirs, config.temperature)?.affine(config.weight, 0.0)?;
        Ok(loss.affine(config.task_weight, 0.0)?.add(&divergence)?)
    }
}
