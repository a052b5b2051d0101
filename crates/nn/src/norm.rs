//! Layer and group normalisation.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Result, Value, ops};

/// A scale that starts at 1 and a shift that starts at 0.
fn affine(width: usize, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let weight = vb.get_with_hints(width, "weight", Init::Const(1.0))?;
    Ok((weight, vb.get_with_hints(width, "bias", Init::Const(0.0))?))
}

/// PyTorch's `LayerNorm` over the last dimension, with `weight` and `bias` (D).
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape};
/// # use candlelight_nn::LayerNorm;
/// # let params = ParamStore::new();
/// # let x = candle_core::Tensor::ones((2, 5, 3), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let layer = LayerNorm::new(3, 1e-6, params.builder(Key::new(0)))?;
/// assert_eq!(layer.forward(&Tape::off().constant(&x))?.dims(), [2, 5, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor, // (D)
    bias: Tensor,   // (D)
    eps: f64,
}

impl LayerNorm {
    /// A normalisation of vectors of `width` values. `eps` is added to the variance: 1e-5 in PyTorch, 1e-6 in vision transformers.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(width: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = affine(width, &vb)?;
        Ok(LayerNorm { weight, bias, eps })
    }

    /// x (.., D) -> (.., D).
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward(&self, x: &Value) -> Result<Value> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// PyTorch's `GroupNorm` on channels-last images, with `weight` and `bias` (C).
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape};
/// # use candlelight_nn::GroupNorm;
/// # let params = ParamStore::new();
/// # let x = candle_core::Tensor::ones((2, 4, 4, 6), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let layer = GroupNorm::new(3, 6, 1e-5, params.builder(Key::new(0)))?;
/// assert_eq!(layer.forward(&Tape::off().constant(&x))?.dims(), [2, 4, 4, 6]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor, // (C)
    bias: Tensor,   // (C)
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// A normalisation of `channels` channels in `groups` groups, which must divide them. `eps` is added to the variance, 1e-5 in PyTorch.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(groups: usize, channels: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = affine(channels, &vb)?;
        Ok(GroupNorm { weight, bias, groups, eps })
    }

    /// x (B, .., C) -> (B, .., C).
    ///
    /// # Errors
    /// When the channels differ or the groups do not divide them.
    pub fn forward(&self, x: &Value) -> Result<Value> {
        ops::group_norm(x, self.groups, &self.weight, &self.bias, self.eps)
    }
}
