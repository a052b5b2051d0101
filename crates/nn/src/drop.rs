//! Dropout. Every layer takes a key that draws its random numbers in training, or `None` in evaluation.

use candlelight_autograd::{Error, Key, Result, Value, ops};

/// PyTorch's `Dropout`: some values are set to 0, and the others are scaled so that the mean stays.
///
/// ```
/// # use candlelight_autograd::{Key, Tape};
/// # use candlelight_nn::Dropout;
/// # let x = candle_core::Tensor::ones(1000, candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let y = Dropout(0.5).forward(&Tape::off().constant(&x), Some(Key::new(0)))?;
/// assert!(y.tensor().to_vec1::<f32>()?.iter().all(|v| *v == 0.0 || *v == 2.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Dropout(
    /// The share of values that is dropped, in [0, 1).
    pub f32,
);

impl Dropout {
    /// x (..) -> (..). Without a key nothing is dropped.
    ///
    /// # Errors
    /// When the rate is outside [0, 1).
    pub fn forward(&self, x: &Value, key: Option<Key>) -> Result<Value> {
        key.map_or_else(|| Ok(x.clone()), |key| ops::dropout(x, key, self.0))
    }

    /// Whether anything may be dropped with this key.
    pub fn drops(&self, key: Option<&Key>) -> bool {
        key.is_some() && self.0 != 0.0
    }
}

/// Stochastic depth, G. Huang et al., arXiv 1603.09382: the residual branch of whole samples is dropped.
///
/// ```
/// # use candlelight_autograd::{Error, Key, Tape};
/// # use candlelight_nn::DropPath;
/// # let x = candle_core::Tensor::ones((8, 3), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let y = DropPath(0.5).residual::<Error>(&Tape::off().constant(&x), Some(Key::new(0)), |x| x.scale(1.0))?;
/// assert!(y.tensor().flatten_all()?.to_vec1::<f32>()?.iter().all(|v| *v == 1.0 || *v == 3.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DropPath(
    /// The share of samples whose branch is dropped, in [0, 1).
    pub f32,
);

impl DropPath {
    /// x (B, ..) -> (B, ..). Without a key nothing is dropped.
    ///
    /// # Errors
    /// When the rate is outside [0, 1).
    pub fn forward(&self, x: &Value, key: Option<Key>) -> Result<Value> {
        key.map_or_else(|| Ok(x.clone()), |key| ops::drop_path(x, key, self.0))
    }

    /// Whether anything may be dropped with this key.
    pub fn drops(&self, key: Option<&Key>) -> bool {
        key.is_some() && self.0 != 0.0
    }

    /// `x + branch(x)`, where the branch is computed only for the samples that keep it. Without a key all samples keep it.
    ///
    /// # Errors
    /// When the rate is outside [0, 1), and those of `branch`.
    pub fn residual<E: From<Error>>(
        &self,
        x: &Value,
        key: Option<Key>,
        branch: impl FnOnce(&Value) -> Result<Value, E>,
    ) -> Result<Value, E> {
        match key {
            Some(key) if self.0 != 0.0 => ops::residual(x, key, self.0, branch),
            _ => Ok(x.add(&branch(x)?)?),
        }
    }
}
