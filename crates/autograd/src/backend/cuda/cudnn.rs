//! Convolutions by cuDNN, where it has kernels that are faster than products of patches.

use super::conv::add_bias;
use super::linear::{column_sum, into};
use crate::cuda::{On, dtype_of, how};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::Conv2dOp;
use candlelight_kernels::conv::Conv;
use candlelight_kernels::cuda::conv::{Weights, arrange, restore};
use candlelight_kernels::cuda::cudnn::{Pass, convolve, has};
use candlelight_kernels::cuda::elementwise;
use candlelight_kernels::cuda::matmul::How;
use candlelight_kernels::cuda::{Gpu, Kind};

/// Bytes of patches from which on cuDNN is faster: the library takes its time to start.
const PATCHES: usize = 64 << 20;

/// Whether cuDNN is to compute a convolution. What is a plain product, has few channels or is small is multiplied as patches.
fn fits(gpu: &Gpu, c: &Conv, how: How) -> Result<bool> {
    let patches = c.sizes()?.2 / c.outputs * c.kernel.0 * c.kernel.1 * c.inputs * how.kind.size();
    let large = c.inputs.is_multiple_of(8) && c.outputs.is_multiple_of(8) && patches >= PATCHES;
    Ok(!c.pointwise() && (large || c.groups > 1) && has(gpu, c, how)?)
}

/// The convolution, if cuDNN is to compute it.
pub(super) fn conv2d(op: &Conv2dOp, inputs: &Inputs) -> Result<Option<Done>> {
    let c = op.sizes(inputs.tensor(0).dims(), inputs.tensor(1).dims())?;
    let (on, how, s) = (On::of(inputs.tensor(0))?, how(inputs), Weights::new(&c));
    let kind = how.kind;
    if !fits(&on.gpu, &c, how)? {
        return Ok(None);
    }
    let ((oh, ow), batch, outputs) = (c.output()?, c.batch, c.outputs);
    let (x_dims, w_dims) = (inputs.tensor(0).dims().to_vec(), inputs.tensor(1).dims().to_vec());
    let (x, w) = (on.cast(inputs.tensor(0), kind)?, on.cast(inputs.tensor(1), Kind::F32)?);
    let rows = on.buffer(kind, s.len())?;
    arrange(&on.gpu, &s, on.hold(&w)?.slice(&on)?, rows.slice(&on.gpu))?;
    let y = on.buffer(kind, batch * oh * ow * outputs)?;
    {
        let to = y.slice(&on.gpu);
        convolve(&on.gpu, &c, how, Pass::Forward, [on.hold(&x)?.slice(&on)?, rows.slice(&on.gpu), to])?;
        if let Some(bias) = inputs.get(2) {
            add_bias(&on, to, bias)?;
        }
    }
    let y = on.tensor(y, &[batch, oh, ow, outputs]);
    let x = inputs.wants(1).then_some(x);
    Ok(Some(Done::tensor(y, move |g, b| {
        column_sum(&on, b, 2, &g, &[outputs])?;
        let held = on.hold(&g)?;
        let g = held.slice(&on)?;
        if let Some(x) = &x {
            into(&on, b, 1, &w_dims, |to| {
                let dw = on.buffer(kind, s.len())?;
                convolve(&on.gpu, &c, how, Pass::Weight, [on.hold(x)?.slice(&on)?, dw.slice(&on.gpu), g])?;
                Ok(restore(&on.gpu, &s, dw.slice(&on.gpu), to)?)
            })?;
        }
        b.give_onto(0, dtype_of(kind), |held| {
            let dx = on.buffer(kind, x_dims.iter().product())?;
            let to = dx.slice(&on.gpu);
            convolve(&on.gpu, &c, how, Pass::Image, [to, rows.slice(&on.gpu), g])?;
            if let Some(held) = held {
                elementwise::add(&on.gpu, to, on.hold(&held)?.slice(&on)?, to)?;
            }
            Ok(on.tensor(dx, &x_dims))
        })
    })))
}
