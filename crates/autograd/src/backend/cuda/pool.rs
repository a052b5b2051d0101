//! Pools.

use crate::cuda::{On, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Pool2dConfig, Pool2dOp};
use candlelight_kernels::cuda::Kind;
use candlelight_kernels::cuda::pool as kernel;
use candlelight_kernels::cuda::tokens::{self, Sequences};

/// Whether there is a kernel for a pool.
pub(super) fn fits(op: &Pool2dOp) -> bool {
    match op {
        Pool2dOp::Max(c) => c.kernel.0 * c.kernel.1 <= kernel::WINDOW,
        Pool2dOp::Avg(_) | Pool2dOp::AdaptiveAvg((1, 1)) => true,
        _ => false,
    }
}

pub(super) fn pool2d(op: &Pool2dOp, inputs: &Inputs) -> Result<Done> {
    match *op {
        Pool2dOp::Max(config) => max(config, inputs),
        Pool2dOp::Avg(config) => avg(config, inputs),
        _ => mean(inputs),
    }
}

fn max(config: Pool2dConfig, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (on, kind, p) = (On::of(x)?, kind_of(x)?, config.sizes(x.dims())?);
    let ((oh, ow), dims) = (p.output()?, x.dims().to_vec());
    let n = p.batch * oh * ow * p.channels;
    let (y, place) = (on.buffer(kind, n)?, on.buffer(Kind::U8, n)?);
    kernel::max_forward(&on.gpu, &p, on.hold(x)?.slice(&on)?, y.slice(&on.gpu), place.slice(&on.gpu))?;
    Ok(Done::tensor(on.tensor(y, &[p.batch, oh, ow, p.channels]), move |g, b| {
        b.give(0, || {
            let dx = on.buffer(kind, dims.iter().product())?;
            kernel::max_backward(&on.gpu, &p, on.hold(&g)?.slice(&on)?, place.slice(&on.gpu), dx.slice(&on.gpu))?;
            Ok(on.tensor(dx, &dims))
        })
    }))
}

fn avg(config: Pool2dConfig, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (on, kind, p) = (On::of(x)?, kind_of(x)?, config.sizes(x.dims())?);
    let ((oh, ow), dims) = (p.output()?, x.dims().to_vec());
    let y = on.buffer(kind, p.batch * oh * ow * p.channels)?;
    kernel::avg_forward(&on.gpu, &p, on.hold(x)?.slice(&on)?, y.slice(&on.gpu))?;
    Ok(Done::tensor(on.tensor(y, &[p.batch, oh, ow, p.channels]), move |g, b| {
        b.give(0, || {
            let dx = on.buffer(kind, dims.iter().product())?;
            kernel::avg_backward(&on.gpu, &p, on.hold(&g)?.slice(&on)?, dx.slice(&on.gpu))?;
            Ok(on.tensor(dx, &dims))
        })
    }))
}

/// The mean of each image's pixels, which are as tokens.
fn mean(inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (batch, h, w, width) = x.dims4()?;
    let (on, kind, s, dims) = (On::of(x)?, kind_of(x)?, Sequences { batch, tokens: h * w, width }, x.dims().to_vec());
    let y = on.buffer(kind, batch * width)?;
    tokens::mean(&on.gpu, &s, on.hold(x)?.slice(&on)?, y.slice(&on.gpu))?;
    Ok(Done::tensor(on.tensor(y, &[batch, 1, 1, width]), move |g, b| {
        b.give(0, || {
            let d = on.buffer(kind, dims.iter().product())?;
            tokens::mean_backward(&on.gpu, &s, on.hold(&g)?.slice(&on)?, d.slice(&on.gpu))?;
            Ok(on.tensor(d, &dims))
        })
    }))
}
