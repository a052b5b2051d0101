//! Sequences of tokens.

use super::{ids, product, rows, sum, upload};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{AddTable, GatherTokens, MeanTokens, PrependToken, UnshuffleTokens};
use candle_core::{Device, Tensor};
use candlelight_kernels::Precision;

/// Row numbers `of` (B, K) within each of B tables of `n` rows, as rows of one table of B n.
pub(super) fn flat_ids(of: &[u32], batch: usize, n: usize, device: &Device) -> Result<Tensor> {
    let k = of.len() / batch.max(1);
    ids(of.iter().enumerate().map(|(i, id)| (i / k.max(1) * n) as u32 + id).collect(), batch * n, device)
}

/// Adds rows `g` to the rows of a table of zeros that they came from.
pub(super) fn scatter(g: &Tensor, which: &Tensor, n: usize, width: usize) -> Result<Tensor> {
    let zeros = Tensor::zeros((n, width), g.dtype(), g.device())?;
    if g.elem_count() == 0 {
        return Ok(zeros);
    }
    Ok(zeros.index_add(which, &g.reshape((which.elem_count(), width))?, 0)?)
}

pub(crate) fn add_table(_: &AddTable, inputs: &Inputs) -> Result<Done> {
    let (x, table) = (inputs.tensor(0), inputs.tensor(1));
    let (batch, dims) = (x.dim(0)?, table.dims().to_vec());
    let per = table.elem_count();
    let y = x.reshape((batch, per))?.broadcast_add(&table.reshape((1, per))?)?.reshape(x.shape())?;
    Ok(Done::tensor(y, move |g, b| {
        b.give(1, || Ok(sum(&g.reshape((batch, per))?, 0)?.reshape(dims)?))?;
        b.give(0, || Ok(g))
    }))
}

pub(crate) fn gather_tokens(op: &GatherTokens, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (batch, n, width) = x.dims3()?;
    let which = flat_ids(&op.ids, batch, n, x.device())?;
    let k = op.ids.len() / batch.max(1);
    let y = rows(&x.reshape((batch * n, width))?, &which)?.reshape((batch, k, width))?;
    Ok(Done::tensor(y, move |g, b| {
        b.give(0, || Ok(scatter(&g, &which, batch * n, width)?.reshape((batch, n, width))?))
    }))
}

pub(crate) fn prepend_token(_: &PrependToken, inputs: &Inputs) -> Result<Done> {
    let (x, token) = (inputs.tensor(0), inputs.tensor(1));
    let (batch, n, width) = x.dims3()?;
    let dims = token.dims().to_vec();
    let first = token.reshape((1, 1, width))?.broadcast_as((batch, 1, width))?.contiguous()?;
    let y = if n == 0 { first } else { Tensor::cat(&[&first, x], 1)? };
    Ok(Done::tensor(y, move |g, b| {
        b.give(1, || Ok(sum(&g.narrow(1, 0, 1)?.contiguous()?, 0)?.reshape(dims)?))?;
        b.give(0, || Ok(g.narrow(1, 1, n)?))
    }))
}

pub(crate) fn unshuffle_tokens(op: &UnshuffleTokens, inputs: &Inputs) -> Result<Done> {
    let (x, mask_token, pos) = (inputs.tensor(0), inputs.tensor(1), inputs.tensor(2));
    let (batch, k1, width) = x.dims3()?;
    let (l, kept) = (op.restore.len() / batch.max(1), k1 - 1);
    // Rows of [x; mask token] in image order, and which of them are the mask token's.
    let mask_row = (batch * k1) as u32;
    let (mut from, mut removed) = (Vec::new(), Vec::new());
    for b in 0..batch {
        from.push((b * k1) as u32);
        removed.push(0.0);
        for &place in &op.restore[b * l..(b + 1) * l] {
            let visible = (place as usize) < kept;
            from.push(if visible { (b * k1 + 1) as u32 + place } else { mask_row });
            removed.push(if visible { 0.0 } else { 1.0 });
        }
    }
    let from = ids(from, batch * k1 + 1, x.device())?;
    let removed = upload(removed, (1, batch * (l + 1)), x)?;
    let table = Tensor::cat(&[&x.reshape((batch * k1, width))?, &mask_token.reshape((1, width))?], 0)?;
    let y = rows(&table, &from)?.reshape((batch, l + 1, width))?;
    let y = y.broadcast_add(&pos.to_dtype(x.dtype())?.reshape((1, l + 1, width))?)?;
    let dims = mask_token.dims().to_vec();
    Ok(Done::tensor(y, move |g, b| {
        b.give(2, || sum(&g, 0))?;
        let g = g.reshape((batch * (l + 1), width))?;
        b.give(1, || Ok(product(Precision::F32, &removed, &g)?.reshape(dims)?))?;
        b.give(0, || {
            let d = scatter(&g, &from, batch * k1 + 1, width)?;
            Ok(d.narrow(0, 0, batch * k1)?.reshape((batch, k1, width))?)
        })
    }))
}

pub(crate) fn mean_tokens(_: &MeanTokens, inputs: &Inputs) -> Result<Done> {
    let (batch, n, width) = inputs.tensor(0).dims3()?;
    let y = (sum(inputs.tensor(0), 1)?.reshape((batch, width))? / n as f64)?;
    Ok(Done::tensor(y, move |g, b| {
        b.give(0, || Ok((g / n as f64)?.reshape((batch, 1, width))?.broadcast_as((batch, n, width))?))
    }))
}
