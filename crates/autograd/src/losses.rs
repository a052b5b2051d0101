//! Losses: each kernel gives the value and the gradient in one pass.

use crate::composed;
use crate::error::{Result, shape};
use crate::ops::{read, source_params};
use crate::tape::Value;
use crate::tensor::tensor_from;
use candle_core::Tensor;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::patch::{self, Grid};
use candlelight_kernels::{elementwise, loss, mae_loss as mae};

/// A scalar whose gradient is already known: the value and `d loss / d x`.
fn with_gradient(x: &Value, loss: f32, d: Vec<f32>) -> Result<Value> {
    let source = x.source();
    Ok(x.tape().push(tensor_from(vec![loss], ())?, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut d = d;
            if g[0] != 1.0 {
                elementwise::scale(g[0], &mut d);
            }
            Ok(d)
        })
    }))
}

/// MAE's loss of predictions (B, L, p p C) against images (B, C, H, W) over the patches where `mask` (B, L) is 1.
///
/// # Errors
/// When the shapes do not fit.
pub fn mae_loss(pred: &Value, images: &Tensor, patch: usize, mask: &[f32], norm_pix: bool) -> Result<Value> {
    let (_, channels, height, width) = images.dims4()?;
    let g = Grid { channels, height, width, patch };
    if composed::wanted(pred) {
        g.check()?;
        if pred.dims() != [images.dim(0)?, g.patches(), g.patch_len()] || mask.len() != images.dim(0)? * g.patches() {
            return shape("mae_loss", format!("images {:?}, predictions {:?}", images.dims(), pred.dims()));
        }
        if !mask.iter().any(|m| *m > 0.0) {
            return shape("mae_loss", "the mask removes no patch");
        }
        return composed::mae_loss(pred, images, &g, mask, norm_pix);
    }
    let mut d = buffer(pred.tensor().elem_count());
    let images = read("mae_loss", images)?;
    let loss = mae::forward(&g, &images, &read("mae_loss", pred.tensor())?, mask, norm_pix, &mut d)?;
    with_gradient(pred, loss, d)
}

/// Mean cross-entropy of logits (B, K) with class indices, optionally smoothed.
///
/// # Errors
/// When a label is past the last class.
pub fn cross_entropy(logits: &Value, labels: &[u32], smoothing: f32) -> Result<Value> {
    if composed::wanted(logits) {
        let (batch, classes) = logits.tensor().dims2()?;
        patch::check_ids("cross_entropy label", labels, classes)?;
        if labels.len() != batch {
            return shape("cross_entropy", format!("logits {:?} with {} labels", logits.dims(), labels.len()));
        }
        return composed::cross_entropy(logits, labels, smoothing);
    }
    let mut d = buffer(logits.tensor().elem_count());
    let loss = loss::cross_entropy(&read("cross_entropy", logits.tensor())?, labels, smoothing, &mut d)?;
    with_gradient(logits, loss, d)
}

/// Mean cross-entropy of logits (B, K) with soft targets (B, K).
///
/// # Errors
/// When the shapes differ.
pub fn soft_cross_entropy(logits: &Value, targets: &Tensor) -> Result<Value> {
    let (batch, _) = logits.tensor().dims2()?;
    if composed::wanted(logits) {
        return composed::soft_cross_entropy(logits, targets);
    }
    let mut d = buffer(logits.tensor().elem_count());
    let targets = read("soft_cross_entropy", targets)?;
    let loss = loss::soft_cross_entropy(&read("soft_cross_entropy", logits.tensor())?, &targets, batch, &mut d)?;
    with_gradient(logits, loss, d)
}

/// Binary cross-entropy of logits (B, K) with targets (B, K): the mean over all entries, or with `sum_classes` the sum over
/// classes and the mean over the batch.
///
/// # Errors
/// When the shapes differ.
pub fn binary_cross_entropy(logits: &Value, targets: &Tensor, sum_classes: bool) -> Result<Value> {
    let (batch, _) = logits.tensor().dims2()?;
    if targets.dims() != logits.dims() {
        return shape("binary_cross_entropy", format!("logits {:?}, targets {:?}", logits.dims(), targets.dims()));
    }
    if composed::wanted(logits) {
        return composed::binary_cross_entropy(logits, targets, sum_classes);
    }
    let mut d = buffer(logits.tensor().elem_count());
    let (x, t) = (read("binary_cross_entropy", logits.tensor())?, read("binary_cross_entropy", targets)?);
    let loss = loss::binary_cross_entropy(&x, &t, batch, sum_classes, &mut d)?;
    std::mem::drop((x, t));
    with_gradient(logits, loss, d)
}
