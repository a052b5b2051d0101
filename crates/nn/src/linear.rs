//! Linear layers.

use crate::init;
use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Result, Value, ops};
use candlelight_kernels::act::gelu::Gelu;

/// `y = x w^T + b`: PyTorch's `Linear`, with `weight` (O, I) and `bias` (O).
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape};
/// # use candlelight_nn::Linear;
/// # let params = ParamStore::new();
/// # let x = candle_core::Tensor::zeros((2, 5, 3), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let layer = Linear::new(3, 4, params.builder(Key::new(0)))?;
/// assert_eq!(layer.forward(&Tape::off().constant(&x))?.dims(), [2, 5, 4]);
/// assert_eq!(params.names(), ["weight", "bias"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor, // (O, I)
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer with a bias and PyTorch's initial values, U(-1 / sqrt(I), 1 / sqrt(I)).
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::with_init(inputs, outputs, init::fan_in(inputs), init::fan_in(inputs), vb)
    }

    /// A layer with a bias and initial values of your own.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn with_init(inputs: usize, outputs: usize, weight: Init, bias: Init, vb: VarBuilder) -> Result<Self> {
        Ok(Linear {
            weight: vb.get_with_hints((outputs, inputs), "weight", weight)?,
            bias: Some(vb.get_with_hints(outputs, "bias", bias)?),
        })
    }

    /// A layer without a bias.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn without_bias(inputs: usize, outputs: usize, weight: Init, vb: VarBuilder) -> Result<Self> {
        Ok(Linear { weight: vb.get_with_hints((outputs, inputs), "weight", weight)?, bias: None })
    }

    /// The weight (O, I).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias (O), if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// x (.., I) -> (.., O).
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward(&self, x: &Value) -> Result<Value> {
        ops::linear(x, &self.weight, self.bias.as_ref().map(|b| b as &dyn ops::Weight))
    }

    /// The layer's result added to a residual, in one operation where the layer has a bias: x (.., I), residual (.., O) -> (.., O).
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn forward_add(&self, x: &Value, residual: &Value) -> Result<Value> {
        match &self.bias {
            Some(bias) => ops::linear_add(x, &self.weight, bias, residual),
            None => residual.add(&self.forward(x)?),
        }
    }

    /// GELU of the layer's result, in one operation: x (.., I) -> (.., O).
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward_gelu(&self, x: &Value, kind: Gelu) -> Result<Value> {
        match &self.bias {
            Some(bias) => ops::linear_gelu(x, &self.weight, bias, kind),
            None => ops::gelu(&self.forward(x)?, kind),
        }
    }
}
