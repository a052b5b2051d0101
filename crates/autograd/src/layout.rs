//! The order of values: permutations, parts and joins, zeros around.

use crate::error::{Result, shape};
use crate::ops::source_params;
use crate::tape::{Source, Value};
use crate::vision::dims4;
use candle_core::Tensor;

/// Images (B, C, H, W) -> (B, H, W, C).
///
/// # Errors
/// When they have other dimensions.
pub fn channels_last(x: &Value) -> Result<Value> {
    permuted(x, [0, 2, 3, 1], [0, 3, 1, 2])
}

/// Images (B, H, W, C) -> (B, C, H, W).
///
/// # Errors
/// When they have other dimensions.
pub fn channels_first(x: &Value) -> Result<Value> {
    permuted(x, [0, 3, 1, 2], [0, 2, 3, 1])
}

fn permuted(x: &Value, there: [usize; 4], back: [usize; 4]) -> Result<Value> {
    dims4("permute", x)?;
    let out = x.tensor().permute(there)?.contiguous()?;
    let source = x.source();
    Ok(x.tape().push_tensor(out, source.is_some(), source_params([source]), move |g, b| match source {
        Some(s) => b.add_tensor(s, g.permute(back)?.contiguous()?),
        None => Ok(()),
    }))
}

/// Channels of zeros before and behind those of x (.., C) -> (.., before + C + behind).
///
/// # Errors
/// Those of candle.
pub fn pad_channels(x: &Value, before: usize, behind: usize) -> Result<Value> {
    if before + behind == 0 {
        return Ok(x.clone());
    }
    let last = x.dims().len().saturating_sub(1);
    let out = x.tensor().pad_with_zeros(last, before, behind)?;
    let (source, n) = (x.source(), x.tensor().dim(last)?);
    Ok(x.tape().push_tensor(out, source.is_some(), source_params([source]), move |g, b| match source {
        Some(s) => b.add_tensor(s, g.narrow(last, before, n)?.contiguous()?),
        None => Ok(()),
    }))
}

/// `len` entries of dimension `dim`, from `from` on.
///
/// # Errors
/// When x has fewer.
pub fn narrow(x: &Value, dim: usize, from: usize, len: usize) -> Result<Value> {
    let have = x.dims().get(dim).copied().unwrap_or(0);
    if from.checked_add(len).is_none_or(|end| end > have) {
        return shape("narrow", format!("entries {from} to {from} + {len} of dimension {dim} of {:?}", x.dims()));
    }
    let out = x.tensor().narrow(dim, from, len)?.contiguous()?;
    let source = x.source();
    Ok(x.tape().push_tensor(out, source.is_some(), source_params([source]), move |g, b| match source {
        Some(s) => b.add_tensor(s, g.pad_with_zeros(dim, from, have - from - len)?.contiguous()?),
        None => Ok(()),
    }))
}

/// Values one after the other along dimension `dim`.
///
/// # Errors
/// When there are none, or another dimension differs.
pub fn cat(values: &[Value], dim: usize) -> Result<Value> {
    let Some(first) = values.first() else { return shape("cat", "nothing to join") };
    let tensors: Vec<&Tensor> = values.iter().map(Value::tensor).collect();
    let out = Tensor::cat(&tensors, dim)?;
    let mut parts: Vec<(Option<Source>, usize, usize)> = vec![];
    let mut from = 0;
    for v in values {
        let len = v.tensor().dim(dim)?;
        parts.push((v.source(), from, len));
        from += len;
    }
    let tracked = parts.iter().any(|(s, ..)| s.is_some());
    let used = parts.iter().flat_map(|(s, ..)| source_params([*s])).collect();
    Ok(first.tape().push_tensor(out, tracked, used, move |g, b| {
        parts.into_iter().rev().try_for_each(|(source, from, len)| match source {
            Some(s) => b.add_tensor(s, g.narrow(dim, from, len)?.contiguous()?),
            None => Ok(()),
        })
    }))
}
