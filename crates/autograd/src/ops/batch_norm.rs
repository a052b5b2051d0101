//! Batch normalisation, over one process or several.

use super::{Weight, apply};
use crate::error::Result;
use crate::spec::{BatchNormOp, BatchNormStep};
use crate::tape::Value;
use candle_core::Tensor;

/// What follows a batch normalisation in the same operation.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// Nothing.
    Plain,
    /// The rectifier.
    Relu,
    /// A residual connection, then the rectifier.
    AddRelu(&'a Value),
}

/// Batch normalisation, S. Ioffe and C. Szegedy, arXiv 1502.03167, over all but the last dimension; on a tape with a
/// [`Comm`](candlelight_dist::Comm) over the batches of all processes. x (.., C); gamma and beta (C) or none; running mean and
/// variance (C), which training updates in place: `(1 - momentum) old + momentum new`, with the unbiased variance, as PyTorch. A
/// batch whose statistics are not finite leaves them alone.
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
/// As [`batch_norm`].
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
