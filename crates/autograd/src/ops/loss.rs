//! Losses. Each gives the value and the gradient in one pass.

use super::apply;
use crate::error::Result;
use crate::spec::Loss;
use crate::tape::Value;
use candle_core::Tensor;

/// MAE's loss of predictions (B, L, p p C) against images (B, C, H, W) over the patches where `mask` (B, L) is 1.
///
/// # Errors
/// When the shapes do not fit.
pub fn mae_loss(pred: &Value, images: &Tensor, patch: usize, mask: &[f32], norm_pix: bool) -> Result<Value> {
    let images = pred.tape().constant(images);
    apply(&Loss::Mae { patch, mask: mask.into(), norm_pix }, pred, &[Some(&images)])
}

/// Mean cross-entropy of logits (B, K) with class indices, smoothed where `smoothing` is above 0.
///
/// # Errors
/// When a label is past the last class.
pub fn cross_entropy(logits: &Value, labels: &[u32], smoothing: f32) -> Result<Value> {
    apply(&Loss::CrossEntropy { labels: labels.into(), smoothing }, logits, &[])
}

/// Mean cross-entropy of logits (B, K) with soft targets (B, K), which are constants.
///
/// # Errors
/// When the shapes differ.
pub fn soft_cross_entropy(logits: &Value, targets: &Tensor) -> Result<Value> {
    let targets = logits.tape().constant(targets);
    apply(&Loss::SoftCrossEntropy, logits, &[Some(&targets)])
}

/// Binary cross-entropy of logits (B, K) with targets (B, K), which are constants: the mean over all entries, or with `sum_classes`
/// the sum over classes and the mean over the batch.
///
/// # Errors
/// When the shapes differ.
pub fn binary_cross_entropy(logits: &Value, targets: &Tensor, sum_classes: bool) -> Result<Value> {
    let targets = logits.tape().constant(targets);
    apply(&Loss::BinaryCrossEntropy { sum_classes }, logits, &[Some(&targets)])
}

/// # Losses
impl Value {
    /// Mean cross-entropy of logits (B, K) with class indices, smoothed where `smoothing` is above 0.
    ///
    /// # Errors
    /// When a label is past the last class.
    pub fn cross_entropy(&self, labels: &[u32], smoothing: f32) -> Result<Value> {
        cross_entropy(self, labels, smoothing)
    }

    /// The mean of the squared differences.
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn mse(&self, other: &Value) -> Result<Value> {
        self.sub(other)?.pow(2.0)?.mean_all()
    }
}
