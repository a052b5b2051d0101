//! Dropout of values, samples and blocks.

use crate::error::Result;
use crate::flow::Grad;
use crate::node::{Done, Inputs};
use crate::spec::{AddKept, Drop};
use crate::tensor::tensor_from;
use candlelight_kernels::drop::{block, dropout};
use candlelight_kernels::elementwise;
use candlelight_kernels::mem::buffer;

pub(super) fn drop(op: &Drop, x: &Inputs) -> Result<Done> {
    let dims = x.tensor(0).dims();
    let (samples, channels) = (dims.first().copied().unwrap_or(1), dims.last().copied().unwrap_or(1));
    let op = op.clone();
    // The forward and the backward pass use the same mask.
    let masked = move |x: &[f32], y: &mut [f32]| match &op {
        Drop::Values { words, rate } => dropout::dropout(*words, *rate, x, y),
        Drop::Samples { words, rate } => dropout::drop_path(*words, *rate, samples, x, y),
        Drop::Blocks { mask, .. } => block::apply(mask, channels, x, y),
    };
    let mut y = buffer(x.tensor(0).elem_count());
    masked(&x.slice("dropout", 0)?, &mut y)?;
    Ok(Done::host(tensor_from(y, x.tensor(0).shape())?, move |g, b| b.write(0, g.len(), |d| Ok(masked(&g, d)?))))
}

pub(super) fn add_kept(op: &AddKept, x: &Inputs) -> Result<Done> {
    let samples = x.tensor(0).dims().first().copied().unwrap_or(1);
    let (kept, scale) = (op.kept.clone(), op.scale);
    let mut y = buffer(x.tensor(0).elem_count());
    dropout::add_kept(&x.slice("add_kept", 0)?, &x.slice("add_kept", 1)?, &kept, samples, scale, &mut y)?;
    Ok(Done::host(tensor_from(y, x.tensor(0).shape())?, move |g, b| {
        if b.wants(1) {
            let n = g.len() / samples.max(1);
            let mut d = Vec::with_capacity(kept.len() * n);
            kept.iter().for_each(|&k| d.extend_from_slice(&g[k as usize * n..][..n]));
            elementwise::scale(scale, &mut d);
            b.add(1, Grad::new(d))?;
        }
        b.add(0, g)
    }))
}
