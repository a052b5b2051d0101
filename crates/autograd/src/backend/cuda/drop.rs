//! Dropout of values and samples, and residual branches of some samples.

use super::arithmetic::scaled;
use crate::cuda::{On, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{AddKept, Drop};
use candle_core::Tensor;
use candlelight_kernels::cuda::drop;
use candlelight_kernels::cuda::tokens::{self as kernel, Sequences};

pub(super) fn add_kept(op: &AddKept, inputs: &Inputs) -> Result<Done> {
    let (x, z) = (inputs.tensor(0), inputs.tensor(1));
    let (on, kind, batch, scale) = (On::of(x)?, kind_of(x)?, x.dims()[0], op.scale);
    let z = on.cast(z, kind)?;
    let width = x.elem_count() / batch;
    let mut places = vec![u32::MAX; batch];
    op.kept.iter().enumerate().for_each(|(i, &sample)| places[sample as usize] = i as u32);
    let y = on.buffer(kind, x.elem_count())?;
    {
        let places = on.gpu.numbers(&places)?;
        let (x, z) = (on.hold(x)?, on.hold(&z)?);
        kernel::add_kept(&on.gpu, x.slice(&on)?, z.slice(&on)?, places.slice(&on.gpu), scale, y.slice(&on.gpu))?;
    }
    let (kept, z_dims, x_dims) = (op.kept.clone(), z.dims().to_vec(), x.dims().to_vec());
    Ok(Done::tensor(on.tensor(y, &x_dims), move |g, b| {
        b.give(1, || {
            let d = on.buffer(kind, kept.len() * width)?;
            let (s, ids) = (Sequences { batch: 1, tokens: batch, width }, on.gpu.numbers(&kept)?);
            kernel::gather(&on.gpu, &s, on.hold(&g)?.slice(&on)?, ids.slice(&on.gpu), d.slice(&on.gpu))?;
            scaled(&on, scale, &on.tensor(d, &z_dims))
        })?;
        b.give(0, || Ok(g))
    }))
}

/// Dropout of values or samples; blocks have no kernel.
pub(super) fn drop(op: &Drop, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (on, kind, samples, op) = (On::of(x)?, kind_of(x)?, x.dims().first().copied().unwrap_or(1), op.clone());
    // The forward and the backward pass use the same mask.
    let masked = move |on: &On, x: &Tensor| -> Result<Tensor> {
        let y = on.buffer(kind, x.elem_count())?;
        let (held, to) = (on.hold(x)?, y.slice(&on.gpu));
        match op {
            Drop::Values { words, rate } => drop::dropout(&on.gpu, words, rate, held.slice(on)?, to)?,
            Drop::Samples { words, rate } => drop::drop_path(&on.gpu, words, rate, samples, held.slice(on)?, to)?,
            Drop::Blocks { .. } => return crate::error::shape("dropout", "blocks have no kernel"),
        }
        Ok(on.tensor(y, x.dims()))
    };
    let y = masked(&on, x)?;
    Ok(Done::tensor(y, move |g, b| b.give(0, || masked(&on, &g))))
}
