//! The two-layer perceptron of a transformer.

use crate::{Dropout, Linear};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Key, Result, Value};
use candlelight_kernels::act::gelu::Gelu;

/// The MLP of a transformer block, `fc2(gelu(fc1(x)))`, with timm's names.
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape};
/// # use candlelight_nn::{Mlp, init};
/// # let params = ParamStore::new();
/// # let x = candle_core::Tensor::ones((2, 5, 8), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let layer = Mlp::new(8, 32, init::xavier_uniform, params.builder(Key::new(0)))?;
/// assert_eq!(layer.forward(&Tape::off().constant(&x), None)?.dims(), [2, 5, 8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    drop: Dropout,
}

impl Mlp {
    /// An MLP from `width` values to `hidden` and back. `init` gives the initial distribution of a weight from its numbers of inputs and
    /// outputs; biases start at 0.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(width: usize, hidden: usize, init: fn(usize, usize) -> Init, vb: VarBuilder) -> Result<Self> {
        Ok(Mlp {
            fc1: Linear::with_init(width, hidden, init(width, hidden), Init::Const(0.0), vb.pp("fc1"))?,
            fc2: Linear::with_init(hidden, width, init(hidden, width), Init::Const(0.0), vb.pp("fc2"))?,
            drop: Dropout(0.0),
        })
    }

    /// The same MLP with dropout after both layers, with a rate in [0, 1).
    #[must_use]
    pub fn with_dropout(self, rate: f32) -> Self {
        Mlp { drop: Dropout(rate), ..self }
    }

    /// x (.., D) -> (.., D). `key` draws the dropout of training; `None` turns it off, for evaluation.
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        let h = self.fc1.forward_gelu(x, key.map(|k| k.child("fc1")).as_ref(), Gelu::Erf)?; // (.., hidden)
        let h = self.drop.forward(&h, key.map(|k| k.child("mlp_drop")))?;
        let h = self.fc2.forward_keyed(&h, key.map(|k| k.child("fc2")).as_ref())?;
        self.drop.forward(&h, key.map(|k| k.child("fc2_drop")))
    }

    /// The same, added to a residual of the result's shape.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn forward_add(&self, x: &Value, key: Option<&Key>, residual: &Value) -> Result<Value> {
        if self.drop.drops(key) {
            return residual.add(&self.forward(x, key)?);
        }
        let h = self.fc1.forward_gelu(x, key.map(|k| k.child("fc1")).as_ref(), Gelu::Erf)?;
        self.fc2.forward_add(&h, key.map(|k| k.child("fc2")).as_ref(), residual)
    }
}
