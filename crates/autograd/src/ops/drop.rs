//! What is dropped while training: values, samples, blocks of an image.

use super::{apply, count, gather_tokens, image};
use crate::backend::Backend;
use crate::error::{Result, shape};
use crate::op::{Attrs, Done, Inputs, Op};
use crate::tape::Value;
use candlelight_kernels::Key;
use candlelight_kernels::drop::{block, dropout as drop};
use std::sync::Arc;

/// Values that are dropped at random; the others are scaled so that the mean stays. Input x (..) -> (..).
#[derive(Debug, Clone)]
pub enum Drop {
    /// Single values, N. Srivastava et al., JMLR 15 (2014).
    Values {
        /// Draws the mask, again in the backward pass.
        words: [u32; 2],
        /// The share that is dropped.
        rate: f32,
    },
    /// Whole samples: stochastic depth, G. Huang et al., arXiv 1603.09382.
    Samples {
        /// Draws the mask, again in the backward pass.
        words: [u32; 2],
        /// The share that is dropped.
        rate: f32,
    },
    /// Squares of images, in all channels: DropBlock, G. Ghiasi et al., arXiv 1810.12890. x (B, H, W, C).
    Blocks {
        /// (B, H, W): what values are multiplied with.
        mask: Arc<[f32]>,
        /// The share that is dropped.
        rate: f32,
    },
}

impl Op for Drop {
    fn name(&self) -> &'static str {
        match self {
            Drop::Values { .. } => "dropout",
            Drop::Samples { .. } => "drop_path",
            Drop::Blocks { .. } => "drop_block2d",
        }
    }

    fn attributes(&self) -> Attrs {
        let (Drop::Values { rate, .. } | Drop::Samples { rate, .. } | Drop::Blocks { rate, .. }) = self;
        vec![("p", f64::from(*rate).into())]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (Drop::Values { rate, .. } | Drop::Samples { rate, .. } | Drop::Blocks { rate, .. }) = self;
        drop::check_rate(*rate)?;
        if let Drop::Blocks { mask, .. } = self {
            let [b, h, w, _] = image("drop_block2d", inputs[0])?;
            if mask.len() != b * h * w {
                return shape("drop_block2d", format!("a mask of {} values for x {:?}", mask.len(), inputs[0]));
            }
        }
        Ok(inputs[0].to_vec())
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.drop(self, x)
    }
}

/// Inputs x (B, ..) and y (K, ..) -> (B, ..): x, plus `scale y` at the samples `kept`.
#[derive(Debug, Clone)]
pub struct AddKept {
    /// (K): samples, in ascending order.
    pub kept: Arc<[u32]>,
    /// Factor of y.
    pub scale: f32,
}

impl Op for AddKept {
    fn name(&self) -> &'static str {
        "add_kept"
    }

    fn attributes(&self) -> Attrs {
        vec![("scale", f64::from(self.scale).into())]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, y) = (inputs[0], inputs[1]);
        let samples = x.first().copied().unwrap_or(1);
        if count(y) * samples != count(x) * self.kept.len() {
            return shape("residual", format!("x {x:?} and a branch {y:?} of {} samples", self.kept.len()));
        }
        Ok(x.to_vec())
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.add_kept(self, x)
    }
}

/// Dropout; the mask is drawn again in the backward pass.
///
/// # Errors
/// When the rate is outside [0, 1).
pub fn dropout(x: &Value, key: Key, rate: f32) -> Result<Value> {
    drop::check_rate(rate)?;
    if rate == 0.0 {
        return Ok(x.clone());
    }
    apply(&Drop::Values { words: key.into_words(), rate }, x, &[])
}

/// Stochastic depth: drops whole samples.
///
/// # Errors
/// When the rate is outside [0, 1).
pub fn drop_path(x: &Value, key: Key, rate: f32) -> Result<Value> {
    drop::check_rate(rate)?;
    if rate == 0.0 {
        return Ok(x.clone());
    }
    apply(&Drop::Samples { words: key.into_words(), rate }, x, &[])
}

/// DropBlock as timm has it: x (B, H, W, C); squares of `size` pixels are cleared in all channels, about `rate * share` of the
/// pixels, and what is left is scaled by the kept share of the whole batch.
///
/// # Errors
/// When the rate is outside [0, 1) or x has other dimensions.
pub fn drop_block2d(x: &Value, key: Key, rate: f32, size: usize, share: f32) -> Result<Value> {
    drop::check_rate(rate)?;
    let [batch, height, width, _] = image("drop_block2d", x.dims())?;
    if rate == 0.0 {
        return Ok(x.clone());
    }
    let b = block::DropBlock { batch, height, width, size, rate: rate * share };
    let mask = block::mask(&b, key)?;
    apply(&Drop::Blocks { mask: mask.into(), rate }, x, &[])
}

/// A residual branch with stochastic depth: `x + branch(x)` where each sample's branch is dropped with probability `rate`, the
/// others scaled by `1 / (1 - rate)`. `branch` is only computed for the samples that are kept: x (B, ..) -> (K, ..).
///
/// # Errors
/// When the rate is outside [0, 1), and those of `branch`.
pub fn residual<E: From<crate::error::Error>>(
    x: &Value,
    key: Key,
    rate: f32,
    branch: impl FnOnce(&Value) -> Result<Value, E>,
) -> Result<Value, E> {
    drop::check_rate(rate).map_err(crate::error::Error::from)?;
    let samples = x.dims().first().copied().unwrap_or(1);
    let words = key.into_words();
    let kept = drop::kept(words, rate, samples);
    if kept.is_empty() {
        // Without a sample the branch still has to give its parameters their (zero) gradients.
        let dropped = apply(&Drop::Samples { words, rate }, &branch(x)?, &[])?;
        return Ok(x.add(&dropped)?);
    }
    let add = AddKept { kept: kept.clone().into(), scale: 1.0 / (1.0 - rate) };
    if kept.len() == samples {
        return Ok(apply(&add, x, &[Some(&branch(x)?)])?);
    }
    let mut some = x.dims().to_vec();
    some[0] = kept.len();
    let flat = x.reshape((1, samples, count(x.dims()) / samples.max(1)))?;
    let chosen = gather_tokens(&flat, &kept)?.reshape(some)?;
    Ok(apply(&add, x, &[Some(&branch(&chosen)?)])?)
}
