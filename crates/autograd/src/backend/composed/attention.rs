//! Attention.

use super::{product, sum, upload};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::AttentionOp;
use candle_core::Tensor;
use candlelight_kernels::attention::dropout_mask;

pub(crate) fn attention(op: &AttentionOp, inputs: &Inputs) -> Result<Done> {
    let (qkv, heads, precision) = (inputs.tensor(0), op.heads, inputs.precision());
    let (batch, n, width) = qkv.dims3()?;
    let head_dim = width / 3 / heads;
    let split = qkv.reshape((batch, n, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?; // (3, B, H, N, Dh)
    let part = |i: usize| Ok::<_, crate::Error>(split.narrow(0, i, 1)?.squeeze(0)?.contiguous()?);
    let scale = (head_dim as f64).powf(-0.5);
    let (q, k, v) = ((part(0)? * scale)?, part(1)?, part(2)?); // (B, H, N, Dh)
    let p = super::reduce::probabilities(&product(precision, &q, &k.t()?.contiguous()?)?, 3)?; // (B, H, N, N)
    let mask = match op.dropout {
        Some(d) => {
            let mut mask = vec![0.0; p.elem_count()];
            dropout_mask(d.words, d.rate, batch * heads, n, &mut mask)?;
            Some(upload(mask, p.shape(), qkv)?)
        }
        None => None,
    };
    let masked = |p: &Tensor, mask: Option<&Tensor>| {
        Ok::<_, crate::Error>(match mask {
            Some(m) => (p * m)?,
            None => p.clone(),
        })
    };
    let out = product(precision, &masked(&p, mask.as_ref())?, &v)?; // (B, H, N, Dh)
    let out = out.transpose(1, 2)?.contiguous()?.reshape((batch, n, width / 3))?;
    Ok(Done::tensor(out, move |g, b| {
        b.give(0, || {
            let g = g.reshape((batch, n, heads, head_dim))?.transpose(1, 2)?.contiguous()?; // (B, H, N, Dh)
            let dv = product(precision, &masked(&p, mask.as_ref())?.t()?.contiguous()?, &g)?;
            let dp = masked(&product(precision, &g, &v.t()?.contiguous()?)?, mask.as_ref())?;
            let along = sum(&(&dp * &p)?, 3)?;
            let ds = (dp.broadcast_sub(&along)? * &p)?;
            let dq = (product(precision, &ds, &k)? * scale)?;
            let dk = product(precision, &ds.t()?.contiguous()?, &q)?;
            let d = Tensor::stack(&[dq, dk, dv], 0)?.permute((1, 3, 0, 2, 4))?; // (B, N, 3, H, Dh)
            Ok(d.contiguous()?.reshape((batch, n, width))?)
        })
    }))
}
