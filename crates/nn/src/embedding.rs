//! Tables of vectors.

use crate::init;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::{Result, Tape, Value, ops};

/// PyTorch's `Embedding`: a table `weight` (V, D) of V trainable vectors.
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape};
/// # use candlelight_nn::Embedding;
/// # let params = ParamStore::new();
/// let classes = Embedding::new(10, 16, params.builder(Key::new(0)))?;
/// assert_eq!(classes.forward(&Tape::new(&params), &[3, 3, 9])?.dims(), [3, 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Embedding {
    weight: Tensor, // (V, D)
}

impl Embedding {
    /// A table of `entries` vectors of `width` values, which are drawn from N(0, 1), PyTorch's default.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(entries: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Embedding { weight: vb.get_with_hints((entries, width), "weight", init::normal(1.0))? })
    }

    /// The vectors with the numbers `ids`: n ids -> (n, D).
    ///
    /// # Errors
    /// When a number is past the last entry.
    pub fn forward(&self, tape: &Tape, ids: &[u32]) -> Result<Value> {
        ops::embedding(tape, &self.weight, ids)
    }
}
