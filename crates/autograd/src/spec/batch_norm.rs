//! Batch normalisation, over one process or several.

use super::{Attr, Attrs, Op};
use crate::error::{Result, shape};
use candle_core::{Tensor, TensorId};
use std::ops::RangeInclusive;

/// The constants of a batch normalisation, and whether it trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormStep {
    /// Added to the variance, above 0.
    pub eps: f64,
    /// Share of a batch's statistics in the running ones, in [0, 1].
    pub momentum: f64,
    /// True to normalise by the statistics of the batch and update the running ones, false to normalise by the running ones.
    pub train: bool,
}

/// Batch normalisation over all dimensions but the last. Inputs x (.., C), then gamma and beta (C) if `affine` is true, then a residual
/// of the shape of x if `residual` is true.
#[derive(Debug, Clone)]
pub struct BatchNormOp {
    /// The constants.
    pub config: BatchNormStep,
    /// Running mean (C), which training updates in place.
    pub mean: Tensor,
    /// Running variance (C), which training updates in place.
    pub var: Tensor,
    /// Whether there is a scale and a shift.
    pub affine: bool,
    /// Whether ReLU follows.
    pub relu: bool,
    /// Whether a residual is added before ReLU.
    pub residual: bool,
}

impl BatchNormOp {
    /// Number of channels, C.
    pub fn channels(&self) -> usize {
        self.mean.elem_count()
    }

    /// The number of the input that is the residual, if there is one.
    pub fn residual_at(&self) -> Option<usize> {
        self.residual.then_some(if self.affine { 3 } else { 1 })
    }
}

impl Op for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn attributes(&self) -> Attrs {
        let BatchNormStep { eps, momentum, train } = self.config;
        let then = if self.residual { "add_relu" } else { "relu" };
        let mut all = vec![("eps", eps.into()), ("momentum", momentum.into()), ("training", train.into())];
        all.extend(self.relu.then(|| ("then", Attr::Text(then.into()))));
        all
    }

    fn state(&self) -> Vec<(&'static str, TensorId)> {
        vec![("running_mean", self.mean.id()), ("running_var", self.var.id())]
    }

    fn arity(&self) -> RangeInclusive<usize> {
        let n = 1 + 2 * usize::from(self.affine) + usize::from(self.residual);
        n..=n
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, n) = (inputs[0], self.channels());
        let weights = if self.affine { &inputs[1..3] } else { &[] };
        let fits = |d: &&[usize]| **d == [n];
        if x.last() != Some(&n) || !weights.iter().all(fits) || ![self.mean.dims(), self.var.dims()].iter().all(fits) {
            return shape(
                "batch_norm",
                format!("x {x:?} with weights {weights:?}, expected x (.., {n}) and weights of {n} values"),
            );
        }
        if let Some(r) = self.residual_at().map(|i| inputs[i])
            && r != x
        {
            return shape("batch_norm", format!("x {x:?} and a residual {r:?}, expected the same shape"));
        }
        Ok(x.to_vec())
    }
}
