//! Batch normalisation with PyTorch's state: `running_mean`, `running_var`, `num_batches_tracked`.

use crate::error::Result;
use candle_core::{Tensor, Var};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::Value;
use candlelight_autograd::ops::{self, Then};

/// Batch normalisation over the last dimension.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    affine: Option<(Tensor, Tensor)>,
    mean: Tensor,
    var: Tensor,
    seen: Tensor, // ()
    eps: f64,
    momentum: f64,
}

impl BatchNorm {
    /// `channels` means and variances; with `affine` also a scale and a shift that train.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(channels: usize, affine: bool, eps: f64, momentum: f64, vb: VarBuilder) -> Result<Self> {
        Self::build(channels, affine.then_some(1.0), eps, momentum, vb)
    }

    /// The same with a scale that starts at `scale`.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn with_scale(channels: usize, scale: f64, eps: f64, momentum: f64, vb: VarBuilder) -> Result<Self> {
        Self::build(channels, Some(scale), eps, momentum, vb)
    }

    fn build(channels: usize, scale: Option<f64>, eps: f64, momentum: f64, vb: VarBuilder) -> Result<Self> {
        let get = |name: &str, v: f64| vb.get_with_hints(channels, name, Init::Const(v));
        let affine = scale.map(|s| Ok::<_, candle_core::Error>((get("weight", s)?, get("bias", 0.0)?))).transpose()?;
        let (mean, var) = (get("running_mean", 0.0)?, get("running_var", 1.0)?);
        // Files of other libraries may leave the counter out, or hold it as an integer: only a store makes one.
        let seen = match vb.get_with_hints((), "num_batches_tracked", Init::Const(0.0)) {
            Ok(t) => t,
            Err(_) => Tensor::zeros((), candle_core::DType::F32, vb.device())?,
        };
        Ok(BatchNorm { affine, mean, var, seen, eps, momentum })
    }

    /// x (.., C) -> (.., C). In training the batch normalises itself and moves the running statistics; else these are used,
    /// and so they are where scale and shift are frozen.
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward(&self, x: &Value, train: bool) -> Result<Value> {
        self.forward_then(x, train, Then::Plain)
    }

    /// [`BatchNorm::forward`] and what follows it, in one pass.
    ///
    /// # Errors
    /// When a shape differs.
    pub fn forward_then(&self, x: &Value, train: bool, then: Then) -> Result<Value> {
        let frozen = self.affine.as_ref().is_some_and(|(g, _)| x.tape().param(g).is_none());
        let train = train && !frozen;
        let how = ops::BatchNorm { eps: self.eps, momentum: self.momentum, train };
        let affine = self.affine.as_ref().map(|(g, b)| (g, b));
        let y = ops::batch_norm_then(x, affine, (&self.mean, &self.var), how, then)?;
        if train {
            Var::from_tensor(&self.seen)?.set(&(&self.seen.detach() + 1.0)?)?;
        }
        Ok(y)
    }
}
