//! Attention: in bf16 on tensor cores; in f32, with dropout or with heads that there is no kernel for, composed.

use crate::cuda::{On, product_kind};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::AttentionOp;
use candlelight_kernels::cuda::Kind;
use candlelight_kernels::cuda::attention::{self as kernel, Dims};

/// The sizes, where there is a kernel for the operation.
pub(super) fn dims(op: &AttentionOp, x: &Inputs) -> Result<Option<Dims>> {
    let (batch, tokens, width) = x.tensor(0).dims3()?;
    let (heads, head_dim) = (op.heads, width / 3 / op.heads.max(1));
    let d = Dims { batch, tokens, heads, head_dim, scale: (head_dim as f32).powf(-0.5) };
    let kernel = d.fit() && op.dropout.is_none() && x.tensor(0).elem_count() > 0 && product_kind(x) == Kind::Bf16;
    Ok(kernel.then_some(d))
}

pub(super) fn attention(d: &Dims, inputs: &Inputs) -> Result<Done> {
    let (on, d) = (On::of(inputs.tensor(0))?, *d);
    let qkv = on.cast(inputs.tensor(0), Kind::Bf16)?;
    let tokens = d.batch * d.tokens * d.heads;
    let (out, lse) = (on.buffer(Kind::Bf16, tokens * d.head_dim)?, on.buffer(Kind::F32, tokens)?);
    kernel::forward(&on.gpu, &d, on.hold(&qkv)?.slice(&on)?, out.slice(&on.gpu), lse.slice(&on.gpu))?;
    let out = on.tensor(out, &[d.batch, d.tokens, d.heads * d.head_dim]);
    let kept = out.clone();
    Ok(Done::tensor(out, move |g, b| {
        b.give(0, || {
            let dqkv = on.buffer(Kind::Bf16, 3 * tokens * d.head_dim)?;
            let (q, o, h) = (on.hold(&qkv)?, on.hold(&kept)?, on.hold(&g)?);
            let (q, o, h) = (q.slice(&on)?, o.slice(&on)?, h.slice(&on)?);
            kernel::backward(&on.gpu, &d, q, o, lse.slice(&on.gpu), h, dqkv.slice(&on.gpu))?;
            Ok(on.tensor(dqkv, qkv.dims()))
        })
    }))
}
