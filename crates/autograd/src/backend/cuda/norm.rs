//! Layer normalisation.

use super::linear::Target;
use crate::cuda::{On, dtype_of, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::LayerNormOp;
use candle_core::Tensor;
use candlelight_kernels::cuda::elementwise::Into;
use candlelight_kernels::cuda::{Buffer, Kind, norm as kernel};

pub(super) fn layer_norm(op: &LayerNormOp, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0).clone();
    let (on, kind) = (On::of(&x)?, kind_of(&x)?);
    let (gamma, beta) = (on.cast(inputs.tensor(1), Kind::F32)?, on.cast(inputs.tensor(2), Kind::F32)?);
    let n = gamma.elem_count();
    let rows = x.elem_count() / n;
    let eps = op.eps as f32;
    let dims = x.dims().to_vec();
    let (mean, rstd) = (on.buffer(Kind::F32, rows)?, on.buffer(Kind::F32, rows)?);
    let y = forward(&on, &x, &gamma, &beta, eps, &mean, &rstd)?;
    // The result is as large as the input and cheap: it is computed again rather than kept.
    let again = {
        let (on, x, gamma, dims) = (on.clone(), x.clone(), gamma.clone(), dims.clone());
        move || {
            let (mean, rstd) = (on.buffer(Kind::F32, rows)?, on.buffer(Kind::F32, rows)?);
            Ok(on.tensor(forward(&on, &x, &gamma, &beta, eps, &mean, &rstd)?, &dims))
        }
    };
    let done = Done::tensor(on.tensor(y, &dims), move |g, b| {
        let (to_gamma, to_beta) = (Target::of(&on, b, 1, &[n])?, Target::of(&on, b, 2, &[n])?);
        let backward = |held: Option<Tensor>| -> Result<Tensor> {
            let dx = on.buffer(kind, rows * n)?;
            let held = held.as_ref().map(|t| on.hold(t)).transpose()?;
            let at_gamma = to_gamma.as_ref().map(|t| on.hold(&t.tensor)).transpose()?;
            let at_beta = to_beta.as_ref().map(|t| on.hold(&t.tensor)).transpose()?;
            let add = |t: &Option<Target>| t.as_ref().is_some_and(|t| t.add);
            let (add_gamma, add_beta) = (add(&to_gamma), add(&to_beta));
            kernel::backward(
                &on.gpu,
                on.hold(&x)?.slice(&on)?,
                on.hold(&gamma)?.slice(&on)?,
                mean.slice(&on.gpu),
                rstd.slice(&on.gpu),
                on.hold(&g)?.slice(&on)?,
                held.as_ref().map(|h| h.slice(&on)).transpose()?,
                dx.slice(&on.gpu),
                at_gamma.as_ref().map(|h| h.slice(&on)).transpose()?.map(|to| Into { to, add: add_gamma }),
                at_beta.as_ref().map(|h| h.slice(&on)).transpose()?.map(|to| Into { to, add: add_beta }),
            )?;
            Ok(on.tensor(dx, &dims))
        };
        if b.wants(0) {
            b.give_onto(0, dtype_of(kind), backward)?;
        } else {
            backward(None)?;
        }
        to_gamma.map_or(Ok(()), |t| t.give(b, 1))?;
        to_beta.map_or(Ok(()), |t| t.give(b, 2))
    });
    Ok(done.again(again))
}

fn forward(
    on: &On,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f32,
    mean: &Buffer,
    rstd: &Buffer,
) -> Result<Buffer> {
    let y = on.buffer(kind_of(x)?, x.elem_count())?;
    let (x, gamma, beta) = (on.hold(x)?, on.hold(gamma)?, on.hold(beta)?);
    let (gamma, beta) = (gamma.slice(on)?, beta.slice(on)?);
    let (to, mean, rstd) = (y.slice(&on.gpu), mean.slice(&on.gpu), rstd.slice(&on.gpu));
    kernel::forward(&on.gpu, x.slice(on)?, gamma, beta, eps, to, mean, rstd)?;
    Ok(y)
}
