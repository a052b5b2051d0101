//! Linear layers.

use crate::init;
use crate::peft::{Adapter, Base};
use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Key, Result, Value, ops};
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
    adapter: Option<Box<Adapter>>,
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
            adapter: Adapter::linear(inputs, outputs, &vb)?,
        })
    }

    /// A layer without a bias.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn without_bias(inputs: usize, outputs: usize, weight: Init, vb: VarBuilder) -> Result<Self> {
        let adapter = Adapter::linear(inputs, outputs, &vb)?;
        Ok(Linear { weight: vb.get_with_hints((outputs, inputs), "weight", weight)?, bias: None, adapter })
    }

    /// The same layer with the adapters of parts of its outputs, which are layers of their own beside it: each has a name in `vb`, and all are
    /// of one length, in their order.
    pub(crate) fn with_parts(self, names: &[&str], vb: &VarBuilder) -> Result<Self> {
        let (outputs, inputs) = self.weight.dims2()?;
        let len = outputs / names.len().max(1);
        let parts: Vec<(&str, usize)> = names.iter().enumerate().map(|(i, n)| (*n, i * len)).collect();
        Ok(Linear { adapter: Adapter::parts(self.adapter, (inputs, outputs), &parts, len, vb)?, ..self })
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
        self.forward_keyed(x, None)
    }

    /// The same with a key that draws the dropout of an adapter in training.
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward_keyed(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        match &self.adapter {
            Some(adapter) => adapter.forward(x, self.base(), None, key),
            None => ops::linear(x, &self.weight, self.bias.as_ref().map(|b| b as &dyn ops::Weight)),
        }
    }

    fn base(&self) -> Base<'_> {
        Base { weight: &self.weight, bias: self.bias.as_ref(), conv: None }
    }

    /// The layer's result added to a residual, in one operation where the layer has a bias: x (.., I), residual (.., O) -> (.., O). `key` draws
    /// the dropout of an adapter in training.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn forward_add(&self, x: &Value, key: Option<&Key>, residual: &Value) -> Result<Value> {
        match (&self.adapter, &self.bias) {
            (Some(adapter), _) => adapter.forward(x, self.base(), Some(residual), key),
            (None, Some(bias)) => ops::linear_add(x, &self.weight, bias, residual),
            (None, None) => residual.add(&self.forward(x)?),
        }
    }

    /// GELU of the layer's result, in one operation: x (.., I) -> (.., O). `key` draws the dropout of an adapter in training.
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward_gelu(&self, x: &Value, key: Option<&Key>, kind: Gelu) -> Result<Value> {
        match (&self.adapter, &self.bias) {
            (None, Some(bias)) => ops::linear_gelu(x, &self.weight, bias, kind),
            _ => ops::gelu(&self.forward_keyed(x, key)?, kind),
        }
    }
}
