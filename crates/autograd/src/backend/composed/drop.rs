//! Dropout of values, samples and blocks.

use super::tokens::scatter;
use super::{ids, rows, upload};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{AddKept, Drop};
use candlelight_kernels::drop::dropout as kernel;

pub(crate) fn drop(op: &Drop, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let samples = x.dims().first().copied().unwrap_or(1);
    let ones = |n: usize| (vec![1.0f32; n], vec![0.0f32; n]);
    // The mask is drawn on the host, the same on every device.
    let mask = match op {
        Drop::Values { words, rate } => {
            let (one, mut mask) = ones(x.elem_count());
            kernel::dropout(*words, *rate, &one, &mut mask)?;
            upload(mask, x.shape(), x)?
        }
        Drop::Samples { words, rate } => {
            let (one, mut mask) = ones(samples);
            kernel::drop_path(*words, *rate, samples, &one, &mut mask)?;
            let mut dims = vec![1; x.rank()];
            if let Some(d) = dims.first_mut() {
                *d = samples;
            }
            upload(mask, dims, x)?
        }
        Drop::Blocks { mask, .. } => {
            let (b, h, w, _) = x.dims4()?;
            upload(mask.to_vec(), (b, h, w, 1), x)?
        }
    };
    let y = x.broadcast_mul(&mask)?;
    Ok(Done::tensor(y, move |g, b| b.give(0, || Ok(g.broadcast_mul(&mask)?))))
}

pub(crate) fn add_kept(op: &AddKept, inputs: &Inputs) -> Result<Done> {
    let (x, y, scale) = (inputs.tensor(0), inputs.tensor(1), f64::from(op.scale));
    let samples = x.dims().first().copied().unwrap_or(1);
    let width = x.elem_count() / samples.max(1);
    let (k, which) = (op.kept.len(), ids(op.kept.to_vec(), samples, x.device())?);
    let (x_dims, y_dims) = (x.dims().to_vec(), y.dims().to_vec());
    let spread = scatter(&(y.reshape((k, width))? * scale)?, &which, samples, width)?;
    let out = (x.reshape((samples, width))? + spread)?.reshape(x_dims.as_slice())?;
    Ok(Done::tensor(out, move |g, b| {
        b.give(1, || Ok((rows(&g.reshape((samples, width))?, &which)? * scale)?.reshape(y_dims)?))?;
        b.give(0, || Ok(g))
    }))
}
