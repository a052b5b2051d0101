//! What is dropped while training: values, samples, blocks of an image.

use crate::composed;
use crate::error::{Result, shape};
use crate::ops::{gather_tokens, read, source_params};
use crate::tape::Value;
use crate::tensor::tensor_from;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::{Key, drop_block as block, dropout as drop, elementwise};

/// Dropout; the mask is drawn again in the backward pass.
///
/// # Errors
/// When the rate is outside [0, 1).
pub fn dropout(x: &Value, key: Key, rate: f32) -> Result<Value> {
    drop::check_rate(rate)?;
    if rate == 0.0 {
        return Ok(x.clone());
    }
    let words = key.into_words();
    if composed::wanted(x) {
        return composed::dropout(x, words, rate);
    }
    masked(x, move |x, out| drop::dropout(words, rate, x, out))
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
    let (words, samples) = (key.into_words(), x.dims().first().copied().unwrap_or(1));
    if composed::wanted(x) {
        return composed::drop_path(x, words, rate);
    }
    masked(x, move |x, out| drop::drop_path(words, rate, samples, x, out))
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
    // Without a sample the branch still has to give its parameters their (zero) gradients.
    if composed::wanted(x) || kept.is_empty() {
        let h = branch(x)?;
        let h = if composed::wanted(x) {
            composed::drop_path(&h, words, rate)?
        } else {
            masked(&h, move |x, out| drop::drop_path(words, rate, samples, x, out))?
        };
        return Ok(x.add(&h)?);
    }
    let scale = 1.0 / (1.0 - rate);
    if kept.len() == samples {
        return Ok(add_kept(x, &branch(x)?, kept, scale)?);
    }
    let dims = x.dims().to_vec();
    let flat = x.reshape((1, samples, x.tensor().elem_count() / samples.max(1)))?;
    let mut some = dims.clone();
    some[0] = kept.len();
    let chosen = gather_tokens(&flat, &kept)?.reshape(some)?;
    Ok(add_kept(x, &branch(&chosen)?, kept, scale)?)
}

/// `x`, plus `scale y` at the samples `kept`.
fn add_kept(x: &Value, y: &Value, kept: Vec<u32>, scale: f32) -> Result<Value> {
    let samples = x.dims().first().copied().unwrap_or(1);
    if y.tensor().elem_count() * samples != x.tensor().elem_count() * kept.len() {
        return shape("residual", format!("x {:?} and a branch {:?} of {} samples", x.dims(), y.dims(), kept.len()));
    }
    let mut out = buffer(x.tensor().elem_count());
    drop::add_kept(&read("residual", x.tensor())?, &read("residual", y.tensor())?, &kept, samples, scale, &mut out)?;
    let (a, c) = (x.source(), y.source());
    let used = source_params([a, c]);
    Ok(x.tape().push(tensor_from(out, x.tensor().shape())?, a.or(c).is_some(), used, move |g, b| {
        b.add_with(c, || {
            let n = g.len() / samples.max(1);
            let mut d = Vec::with_capacity(kept.len() * n);
            kept.iter().for_each(|&k| d.extend_from_slice(&g[k as usize * n..][..n]));
            elementwise::scale(scale, &mut d);
            Ok(d)
        })?;
        match a {
            Some(a) => b.add(a, g),
            None => Ok(()),
        }
    }))
}

fn masked(x: &Value, f: impl Fn(&[f32], &mut [f32]) -> candlelight_kernels::Result<()> + 'static) -> Result<Value> {
    let mut out = buffer(x.tensor().elem_count());
    f(&read("dropout", x.tensor())?, &mut out)?;
    let source = x.source();
    Ok(x.tape().push(tensor_from(out, x.tensor().shape())?, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut d = buffer(g.len());
            f(&g, &mut d)?;
            Ok(d)
        })
    }))
}

/// DropBlock, G. Ghiasi et al., arXiv 1810.12890, as timm has it: x (B, H, W, C); squares of `size` pixels are cleared in all channels,
/// about `rate * share` of the pixels, and what is left is scaled by the kept share of the whole batch.
///
/// # Errors
/// When the rate is outside [0, 1) or x has other dimensions.
pub fn drop_block2d(x: &Value, key: Key, rate: f32, size: usize, share: f32) -> Result<Value> {
    drop::check_rate(rate)?;
    let &[batch, height, width, channels] = x.dims() else {
        return shape("drop_block2d", format!("x {:?}, expected (B, H, W, C)", x.dims()));
    };
    if rate == 0.0 {
        return Ok(x.clone());
    }
    let b = block::DropBlock { batch, height, width, size, rate: rate * share };
    let mask = block::mask(&b, key)?;
    let source = x.source();
    if composed::wanted(x) {
        let mask = tensor_from(mask, (batch, height, width, 1))?.to_device(x.tensor().device())?;
        let y = x.tensor().broadcast_mul(&mask)?;
        return Ok(x.tape().push_tensor(y, source.is_some(), source_params([source]), move |g, b| match source {
            Some(s) => b.add_tensor(s, g.broadcast_mul(&mask)?),
            None => Ok(()),
        }));
    }
    let mut y = buffer(x.tensor().elem_count());
    block::apply(&mask, channels, &read("drop_block2d", x.tensor())?, &mut y)?;
    Ok(x.tape().push(tensor_from(y, x.tensor().shape())?, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut d = buffer(g.len());
            block::apply(&mask, channels, &g, &mut d)?;
            Ok(d)
        })
    }))
}
