//! Operations that drop something at random while training: single values, whole samples, blocks of an image.

use super::{apply, gather_tokens};
use crate::error::Result;
use crate::spec::{AddKept, Drop, count, image};
use crate::tape::Value;
use candlelight_kernels::Key;
use candlelight_kernels::drop::block;
use candlelight_kernels::drop::dropout as drop;

/// Dropout: every value is set to 0 with probability `rate`, in [0, 1), and the others are multiplied by `1 / (1 - rate)`. The mask is
/// not stored; the backward pass draws it again from the same key.
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

/// Stochastic depth (drop path): every sample of x (B, ..) is set to 0 with probability `rate`, in [0, 1), and the others are
/// multiplied by `1 / (1 - rate)`.
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

/// DropBlock as timm has it, on x (B, H, W, C): squares of `size` x `size` pixels, about `rate * share` of all pixels, are set to 0 in
/// all channels, and the others are divided by the share of pixels that are kept in the whole batch.
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

/// A residual branch with stochastic depth: `x + branch(x)`, where the branch of each sample is dropped with probability `rate` and
/// the other branches are multiplied by `1 / (1 - rate)`. `branch` is only computed for the K samples that are kept: it maps (K, ..) to
/// (K, ..).
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
        // No sample is kept, but the parameters of the branch still have to get their gradients, which are zero.
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
