//! Reductions and softmax.

use super::{mask, sum};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Reduce, Reduction, Softmax};
use candle_core::{DType, Tensor};

/// The sum over several dimensions, which stay.
fn sums(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    dims.iter().try_fold(x.clone(), |x, d| sum(&x, *d))
}

/// The place of the first largest or smallest value along a dimension, which stays. NaN counts as both, as in PyTorch; candle's own
/// functions pass over a NaN that is not the first value.
fn first(kind: Reduction, x: &Tensor, dim: usize) -> Result<Tensor> {
    let place = if kind == Reduction::Max { x.argmax_keepdim(dim)? } else { x.argmin_keepdim(dim)? };
    let nan = mask(&x.ne(x)?, x)?;
    Ok(nan.max_keepdim(dim)?.gt(0.0)?.where_cond(&nan.argmax_keepdim(dim)?, &place)?)
}

pub(crate) fn reduce(op: &Reduce, inputs: &Inputs) -> Result<Done> {
    let (op, x) = (op.clone(), inputs.tensor(0).clone());
    let n: usize = op.dims.iter().map(|d| x.dims()[*d]).product();
    let kept: Vec<usize> =
        x.dims().iter().enumerate().map(|(i, d)| if op.dims.contains(&i) { 1 } else { *d }).collect();
    let (y, saved) = match op.kind {
        Reduction::Sum => (sums(&x, &op.dims)?, None),
        Reduction::Mean => ((sums(&x, &op.dims)? / n as f64)?, None),
        Reduction::Var { unbiased } => {
            let centred = x.broadcast_sub(&(sums(&x, &op.dims)? / n as f64)?)?;
            let over = if unbiased { n - 1 } else { n } as f64;
            ((sums(&centred.sqr()?, &op.dims)? / over)?, Some((centred * (2.0 / over))?))
        }
        Reduction::Max | Reduction::Min if x.elem_count() == 0 => {
            (Tensor::zeros(kept.as_slice(), x.dtype(), x.device())?, Some(x.clone()))
        }
        Reduction::Max | Reduction::Min => {
            let d = op.dims[0];
            let place = first(op.kind, &x, d)?;
            let all = Tensor::arange(0u32, n as u32, x.device())?;
            let mut along = vec![1; x.rank()];
            along[d] = n;
            let chosen = place.broadcast_as(x.dims())?.eq(&all.reshape(along)?.broadcast_as(x.dims())?)?;
            (x.gather(&place.contiguous()?, d)?, Some(mask(&chosen, &x)?))
        }
    };
    let shape: Vec<usize> =
        if op.keep { kept.clone() } else { (0..x.rank()).filter(|i| !op.dims.contains(i)).map(|i| kept[i]).collect() };
    let dims = x.dims().to_vec();
    Ok(Done::tensor(y.reshape(shape)?, move |g, b| {
        b.give(0, || {
            let g = g.reshape(kept)?;
            Ok(match (op.kind, saved) {
                (_, Some(factor)) => factor.broadcast_mul(&g)?,
                (Reduction::Mean, None) => (g / n as f64)?.broadcast_as(dims)?.contiguous()?,
                (_, None) => g.broadcast_as(dims)?.contiguous()?,
            })
        })
    }))
}

/// Softmax over dimension `dim`.
pub(super) fn probabilities(x: &Tensor, dim: usize) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    let e = x.broadcast_sub(&x.max_keepdim(dim)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(dim)?)?)
}

/// Its logarithm.
pub(super) fn log_probabilities(x: &Tensor, dim: usize) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    let x = x.broadcast_sub(&x.max_keepdim(dim)?)?;
    Ok(x.broadcast_sub(&x.exp()?.sum_keepdim(dim)?.log()?)?)
}

pub(crate) fn softmax(op: &Softmax, inputs: &Inputs) -> Result<Done> {
    let Softmax { dim, log } = *op;
    let y = if log { log_probabilities(inputs.tensor(0), dim)? } else { probabilities(inputs.tensor(0), dim)? };
    let kept = y.clone();
    Ok(Done::tensor(y, move |g, b| {
        b.give(0, || {
            Ok(if log {
                (&g - kept.exp()?.broadcast_mul(&sum(&g, dim)?)?)?
            } else {
                (g.broadcast_sub(&sum(&(&g * &kept)?, dim)?)? * kept)?
            })
        })
    }))
}

/// Whether all values are finite, (1) of bytes, without waiting for the device.
pub(super) fn finite(x: &Tensor) -> Result<Tensor> {
    // 0 x is 0 where x is finite, and NaN where not.
    let zero = (x.flatten_all()? * 0.0)?.sum_keepdim(0)?;
    Ok(zero.eq(&zero)?.to_dtype(DType::U8)?)
}
