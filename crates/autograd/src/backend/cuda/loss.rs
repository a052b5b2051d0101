//! Losses: each kernel gives the value, in f32, and the gradient in one pass.

use super::arithmetic::scaled;
use crate::cuda::{On, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::Loss;
use candlelight_kernels::cuda::Kind;
use candlelight_kernels::cuda::loss::{self as kernel, Targets};
use candlelight_kernels::tokens::patch::Grid;

pub(super) fn loss(op: &Loss, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (on, kind) = (On::of(x)?, kind_of(x)?);
    let (value, d) = (on.buffer(Kind::F32, 1)?, on.buffer(kind, x.elem_count())?);
    {
        let (gpu, held) = (&on.gpu, on.hold(x)?);
        let (x_slice, to, out) = (held.slice(&on)?, d.slice(gpu), value.slice(gpu));
        let second = inputs.get(1).map(|t| on.cast(t, Kind::F32)).transpose()?;
        let second = second.as_ref().map(|t| on.hold(t)).transpose()?;
        let second = || second.as_ref().map_or(Ok(x_slice), |h| h.slice(&on));
        let classes = x.dims().last().copied().unwrap_or(1);
        match op {
            Loss::Mae { patch, mask, norm_pix } => {
                let (_, channels, height, width) = inputs.tensor(1).dims4()?;
                let g = Grid { channels, height, width, patch: *patch };
                let removed = mask.iter().map(|&m| f64::from(m)).sum();
                let mask = gpu.values(mask)?;
                kernel::mae(gpu, &g, second()?, x_slice, mask.slice(gpu), removed, *norm_pix, to, out)?;
            }
            Loss::CrossEntropy { labels, smoothing } => {
                let labels = gpu.numbers(labels)?;
                let targets = Targets::Labels(labels.slice(gpu), *smoothing);
                kernel::cross_entropy(gpu, x_slice, classes, targets, to, out)?;
            }
            Loss::SoftCrossEntropy => kernel::cross_entropy(gpu, x_slice, classes, Targets::Soft(second()?), to, out)?,
            Loss::BinaryCrossEntropy { sum_classes } => {
                let over = if *sum_classes { x.dim(0)? } else { x.elem_count() } as f64;
                kernel::binary(gpu, x_slice, second()?, over, to, out)?;
            }
        }
    }
    let d = on.tensor(d, x.dims());
    // The gradient of a loss is mostly a number that the host knows.
    Ok(Done::host(on.tensor(value, &[]), move |g, b| {
        b.give(0, || if g[0] == 1.0 { Ok(d) } else { scaled(&on, g[0], &d) })
    }))
}
