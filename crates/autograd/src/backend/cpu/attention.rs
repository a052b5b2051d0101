//! Attention.

use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::AttentionOp;
use crate::tensor::{CpuSlice, tensor_from};
use candlelight_kernels::attention as kernel;
use candlelight_kernels::mem::buffer;

pub(super) fn attention(op: &AttentionOp, x: &Inputs) -> Result<Done> {
    let (batch, tokens, width) = x.tensor(0).dims3()?;
    let (heads, dropout, precision) = (op.heads, op.dropout, x.precision());
    let head_dim = width / 3 / heads;
    let d = kernel::Dims { batch, tokens, heads, head_dim, scale: (head_dim as f32).powf(-0.5), precision };
    let (mut y, mut lse) = (buffer(batch * tokens * heads * head_dim), buffer(batch * heads * tokens));
    kernel::forward(&d, &x.slice("attention", 0)?, dropout, &mut y, &mut lse)?;
    let qkv = x.tensor(0).clone();
    Ok(Done::host(tensor_from(y, (batch, tokens, heads * head_dim))?, move |g, b| {
        b.write(0, qkv.elem_count(), |d_qkv| {
            Ok(kernel::backward(&d, &CpuSlice::new("attention", &qkv)?, &lse, dropout, &g, d_qkv)?)
        })
    }))
}
