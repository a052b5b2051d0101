//! Layer and group normalisation.

use super::column_sum;
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{GroupNormOp, LayerNormOp};
use candle_core::Tensor;

/// Rows normalised to mean 0 and variance 1: the rows (R, n), and 1 over their deviations (R, 1).
fn normalised(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    if x.elem_count() == 0 {
        return Ok((x.clone(), Tensor::ones((x.dim(0)?, 1), x.dtype(), x.device())?));
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(1)?)?;
    let rstd = centred.sqr()?.mean_keepdim(1)?.affine(1.0, eps)?.sqrt()?.recip()?;
    Ok((centred.broadcast_mul(&rstd)?, rstd))
}

/// The gradient of [`normalised`].
fn back(g: &Tensor, normal: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    if g.elem_count() == 0 {
        return Ok(g.clone());
    }
    let along = (g * normal)?.mean_keepdim(1)?;
    let g = g.broadcast_sub(&g.mean_keepdim(1)?)?;
    Ok((g - normal.broadcast_mul(&along)?)?.broadcast_mul(rstd)?)
}

pub(crate) fn layer_norm(op: &LayerNormOp, inputs: &Inputs) -> Result<Done> {
    let (x, gamma, beta) = (inputs.tensor(0), inputs.tensor(1).clone(), inputs.tensor(2));
    let (dims, n) = (x.dims().to_vec(), gamma.elem_count());
    let rows: usize = dims[..dims.len() - 1].iter().product();
    let (normal, rstd) = normalised(&x.reshape((rows, n))?, op.eps)?;
    let y = normal.broadcast_mul(&gamma)?.broadcast_add(beta)?.reshape(dims.as_slice())?;
    Ok(Done::tensor(y, move |g, b| {
        let g = g.reshape((rows, n))?;
        b.give(1, || column_sum(&(&g * &normal)?))?;
        b.give(2, || column_sum(&g))?;
        b.give(0, || Ok(back(&g.broadcast_mul(&gamma)?, &normal, &rstd)?.reshape(dims)?))
    }))
}

pub(crate) fn group_norm(op: &GroupNormOp, inputs: &Inputs) -> Result<Done> {
    let (x, gamma, beta) = (inputs.tensor(0), inputs.tensor(1).clone(), inputs.tensor(2));
    let (dims, c, groups) = (x.dims().to_vec(), gamma.elem_count(), op.groups);
    let batch = dims[0];
    let pixels: usize = dims[1..dims.len() - 1].iter().product();
    let per = c / groups;
    // (B, P, C) as rows of one group of one sample, (B G, P C / G), and back.
    let apart = move |t: &Tensor| -> Result<Tensor> {
        let t = t.reshape((batch, pixels, groups, per))?.transpose(1, 2)?.contiguous()?;
        Ok(t.reshape((batch * groups, pixels * per))?)
    };
    let joined = move |t: &Tensor| -> Result<Tensor> {
        let t = t.reshape((batch, groups, pixels, per))?.transpose(1, 2)?.contiguous()?;
        Ok(t.reshape((batch * pixels, c))?)
    };
    let (normal, rstd) = normalised(&apart(x)?, op.eps)?;
    let y = joined(&normal)?.broadcast_mul(&gamma)?.broadcast_add(beta)?.reshape(dims.as_slice())?;
    Ok(Done::tensor(y, move |g, b| {
        let g = g.reshape((batch * pixels, c))?;
        b.give(1, || column_sum(&(&g * joined(&normal)?)?))?;
        b.give(2, || column_sum(&g))?;
        b.give(0, || {
            let d = back(&apart(&g.broadcast_mul(&gamma)?)?, &normal, &rstd)?;
            Ok(joined(&d)?.reshape(dims)?)
        })
    }))
}
