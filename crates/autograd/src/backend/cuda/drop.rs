//! Residual branches of some samples.

use super::arithmetic::scaled;
use crate::cuda::{On, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::AddKept;
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
