//! Batch normalisation with PyTorch's state: `running_mean`, `running_var`, `num_batches_tracked`.

use crate::error::Result;
use candle_core::{Tensor, Var};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Value, ops};

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
        let get = |name: &str, v: f64| vb.get_with_hints(channels, name, Init::Const(v));
        let affine = if affine { Some((get("weight", 1.0)?, get("bias", 0.0)?)) } else { None };
        // Files of other libraries may leave the counter out, or hold it as an integer: only a store makes one.
        let seen = match vb.get_with_hints((), "num_batches_tracked", Init::Const(0.0)) {
            Ok(t) => t,
            Err(_) => Tensor::zeros((), candle_core::DType::F32, vb.device())?,
        };
        Ok(BatchNorm { affine, mean: get("running_mean", 0.0)?, var: get("running_var", 1.0)?, seen, eps, momentum })
    }

    /// x (.., C) -> (.., C). In training the batch normalises itself and moves the running statistics; else these are used.
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward(&self, x: &Value, train: bool) -> Result<Value> {
        let how = ops::BatchNorm { eps: self.eps, momentum: self.momentum, train };
        let affine = self.affine.as_ref().map(|(g, b)| (g, b));
        let y = ops::batch_norm(x, affine, (&self.mean, &self.var), how)?;
        if train {
            Var::from_tensor(&self.seen)?.set(&(&self.seen.detach() + 1.0)?)?;
        }
        Ok(y)
    }
}
