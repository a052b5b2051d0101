//! Batch normalisation, over one process or several.

use super::{Attr, Attrs, Op};
use crate::error::{Result, shape};
use candle_core::Tensor;

/// Constants of a batch normalisation and what it does with its statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormStep {
    /// Added to the variance.
    pub eps: f64,
    /// Share of the batch's statistics in the running ones.
    pub momentum: f64,
    /// Normalise by the batch and update the running statistics; else normalise by these.
    pub train: bool,
}

/// Inputs x (.., C), then gamma and beta (C) where `affine`, then a residual like x where `residual`.
#[derive(Debug, Clone)]
pub struct BatchNormOp {
    /// Constants.
    pub config: BatchNormStep,
    /// Running mean (C), which training updates in place.
    pub mean: Tensor,
    /// Running variance (C), which training updates in place.
    pub var: Tensor,
    /// Whether there is a scale and a shift.
    pub affine: bool,
    /// Whether the rectifier follows.
    pub relu: bool,
    /// Whether a residual is added before the rectifier.
    pub residual: bool,
}

impl BatchNormOp {
    /// Channels, C.
    pub fn channels(&self) -> usize {
        self.mean.elem_count()
    }

    /// The input that is the residual.
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

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, n) = (inputs[0], self.channels());
        let weights = if self.affine { &inputs[1..3] } else { &[] };
        let fits = |d: &&[usize]| **d == [n];
        if x.last() != Some(&n) || !weights.iter().all(fits) || ![self.mean.dims(), self.var.dims()].iter().all(fits) {
            return shape("batch_norm", format!("x {x:?} with statistics of {n} channels"));
        }
        if let Some(r) = self.residual_at().map(|i| inputs[i])
            && r != x
        {
            return shape("batch_norm", format!("x {x:?} and a residual {r:?}"));
        }
        Ok(x.to_vec())
    }
}
