//! Layer and group normalisation.

use crate::error::Result;
use crate::flow::Grad;
use crate::node::{Done, Inputs};
use crate::spec::{GroupNormOp, LayerNormOp};
use crate::tensor::{CpuSlice, tensor_from};
use candlelight_kernels::mem::buffer;
use candlelight_kernels::norm::{group, layer as kernel};

pub(super) fn layer_norm(op: &LayerNormOp, x: &Inputs) -> Result<Done> {
    let n = x.tensor(1).elem_count();
    let rows: usize = x.tensor(0).dims().iter().rev().skip(1).product();
    let (mut y, mut mean, mut rstd) = (buffer(rows * n), buffer(rows), buffer(rows));
    {
        let (x, g, b) = (x.slice("layer_norm", 0)?, x.slice("layer_norm", 1)?, x.slice("layer_norm", 2)?);
        kernel::forward(&x, &g, &b, op.eps as f32, &mut y, &mut mean, &mut rstd)?;
    }
    let (xt, gt) = (x.tensor(0).clone(), x.tensor(1).clone());
    Ok(Done::host(tensor_from(y, xt.shape())?, move |g, b| {
        let (mut dx, mut dgamma, mut dbeta) = (buffer(rows * n), vec![0.0; n], vec![0.0; n]);
        {
            let (x, gamma) = (CpuSlice::new("layer_norm", &xt)?, CpuSlice::new("layer_norm", &gt)?);
            kernel::backward(&x, &gamma, &mean, &rstd, &g, &mut dx, &mut dgamma, &mut dbeta, false)?;
        }
        b.add(1, Grad::new(dgamma))?;
        b.add(2, Grad::new(dbeta))?;
        b.add(0, Grad::new(dx))
    }))
}

pub(super) fn group_norm(op: &GroupNormOp, x: &Inputs) -> Result<Done> {
    let (dims, channels) = (x.tensor(0).dims(), x.tensor(1).elem_count());
    let sizes = group::GroupNorm {
        batch: dims[0],
        pixels: dims[1..dims.len() - 1].iter().product(),
        channels,
        groups: op.groups,
        eps: op.eps,
    };
    let stats = sizes.batch * sizes.groups;
    let (mut y, mut mean, mut rstd) = (buffer(x.tensor(0).elem_count()), buffer(stats), buffer(stats));
    {
        let (x, g, b) = (x.slice("group_norm", 0)?, x.slice("group_norm", 1)?, x.slice("group_norm", 2)?);
        group::forward(&sizes, &x, &g, &b, &mut y, &mut mean, &mut rstd)?;
    }
    let (xt, gt) = (x.tensor(0).clone(), x.tensor(1).clone());
    Ok(Done::host(tensor_from(y, xt.shape())?, move |g, b| {
        let (mut dx, mut dgamma, mut dbeta) = (buffer(g.len()), vec![0.0; channels], vec![0.0; channels]);
        {
            let (x, gamma) = (CpuSlice::new("group_norm", &xt)?, CpuSlice::new("group_norm", &gt)?);
            group::backward(&sizes, &x, &gamma, &mean, &rstd, &g, &mut dx, &mut dgamma, &mut dbeta)?;
        }
        b.add(1, Grad::new(dgamma))?;
        b.add(2, Grad::new(dbeta))?;
        b.add(0, Grad::new(dx))
    }))
}
