//! Batch normalisation, over one process or several.

use super::{Weight, apply};
use crate::error::Result;
use crate::spec::{BatchNormOp, BatchNormStep};
use crate::tape::Value;
use candle_core::Tensor;

/// What follows a batch normalisation in the same operation, so that memory is passed over only once.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// Nothing follows.
    Plain,
    /// ReLU, the rectifier `max(x, 0)`.
    Relu,
    /// A residual connection to a value of the same shape, then ReLU.
    AddRelu(&'a Value),
}

/// Batch normalisation, S. Ioffe and C. Szegedy, arXiv 1502.03167, over all dimensions but the last. On a tape with a
/// [`Comm`](candlelight_dist::Comm) the statistics are those of the batches of all processes together.
///
/// Shapes: x (.., C); `affine` holds gamma (C) and beta (C), or is `None`; `running` holds mean and variance (C). Training updates
/// both in place, as PyTorch does: `(1 - momentum) old + momentum new`, with the unbiased variance. A batch whose statistics are not
/// finite does not change them.
///
/// # Errors
/// When the shapes do not fit, or a training batch has a single row.
pub fn batch_norm(
    x: &Value,
    affine: Option<(&dyn Weight, &dyn Weight)>,
    running: (&Tensor, &Tensor),
    config: BatchNormStep,
) -> Result<Value> {
    batch_norm_then(x, affine, running, config, Then::Plain)
}

/// [`batch_norm`] and what follows it, in one pass.
///
/// # Errors
/// The same as [`batch_norm`].
pub fn batch_norm_then(
    x: &Value,
    affine: Option<(&dyn Weight, &dyn Weight)>,
    running: (&Tensor, &Tensor),
    config: BatchNormStep,
    then: Then<'_>,
) -> Result<Value> {
    let residual = if let Then::AddRelu(r) = then { Some(r) } else { None };
    let op = BatchNormOp {
        config,
        mean: running.0.clone(),
        var: running.1.clone(),
        affine: affine.is_some(),
        relu: !matches!(then, Then::Plain),
        residual: residual.is_some(),
    };
    let (gamma, beta) = affine.unzip();
    apply(&op, x, &[gamma, beta, residual.map(|r| r as &dyn Weight)])
}
