//! Layer normalisation.

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
        // The gradients of gamma and beta are in place where they are parameters; else they are given afterwards.
        let (place_gamma, place_beta) = (b.place(1)?, b.place(2)?);
        let own = |place: &Option<(Tensor, bool)>, wanted: bool| {
            (place.is_none() && wanted).then(|| on.buffer(Kind::F32, n)).transpose()
        };
        let (own_gamma, own_beta) = (own(&place_gamma, b.wants(1))?, own(&place_beta, b.wants(2))?);
        let backward = |held: Option<&Tensor>| -> Result<Tensor> {
            let dx = on.buffer(kind, rows * n)?;
            let hold = |p: &Option<(Tensor, bool)>| p.as_ref().map(|(t, _)| t.clone());
            let (tg, tb) = (hold(&place_gamma), hold(&place_beta));
            let (hg, hb) = (tg.as_ref().map(|t| on.hold(t)).transpose()?, tb.as_ref().map(|t| on.hold(t)).transpose()?);
            let to_gamma = match (&hg, &own_gamma) {
                (Some(h), _) => Some(Into { to: h.slice(&on)?, add: place_gamma.as_ref().is_some_and(|p| p.1) }),
                (None, Some(o)) => Some(Into { to: o.slice(&on.gpu), add: false }),
                _ => None,
            };
            let to_beta = match (&hb, &own_beta) {
                (Some(h), _) => Some(Into { to: h.slice(&on)?, add: place_beta.as_ref().is_some_and(|p| p.1) }),
                (None, Some(o)) => Some(Into { to: o.slice(&on.gpu), add: false }),
                _ => None,
            };
            let held = held.map(|t| on.hold(t)).transpose()?;
            kernel::backward(
                &on.gpu,
                on.hold(&x)?.slice(&on)?,
                on.hold(&gamma)?.slice(&on)?,
                mean.slice(&on.gpu),
                rstd.slice(&on.gpu),
                on.hold(&g)?.slice(&on)?,
                held.as_ref().map(|h| h.slice(&on)).transpose()?,
                dx.slice(&on.gpu),
                to_gamma,
                to_beta,
            )?;
            Ok(on.tensor(dx, &dims))
        };
        if b.wants(0) {
            b.give_onto(0, dtype_of(kind), |held| backward(held.as_ref()))?;
        } else {
            backward(None)?;
        }
        for (i, own) in [(1, own_gamma), (2, own_beta)] {
            if let Some(own) = own {
                b.give(i, || Ok(on.tensor(own, &[n])))?;
            }
        }
        Ok(())
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
