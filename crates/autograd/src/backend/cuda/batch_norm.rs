//! Batch normalisation of one process's batch.

use super::linear::Target;
use crate::cuda::{On, dtype_of, kind_of, slice_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::BatchNormOp;
use candle_core::{DType, Tensor, Var};
use candlelight_kernels::cuda::Kind;
use candlelight_kernels::cuda::batch_norm::{self as kernel, Saved, Statistics};
use candlelight_kernels::cuda::elementwise::Into;

/// Whether there is a kernel: the statistics of a batch of several processes are joined on the host.
pub(super) fn fits(op: &BatchNormOp, inputs: &Inputs) -> bool {
    let alone = inputs.comm().is_none() || !op.config.train;
    alone && [&op.mean, &op.var].iter().all(|t| t.dtype() == DType::F32 && t.is_contiguous())
}

/// What the backward pass keeps.
struct Norm {
    on: On,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Option<Tensor>,
    /// The result, if ReLU made it.
    rectified: Option<Tensor>,
    /// Whether the statistics were those of x.
    batch: bool,
}

pub(super) fn batch_norm(op: &BatchNormOp, inputs: &Inputs) -> Result<Done> {
    let (config, n, x) = (op.config, op.channels(), inputs.tensor(0).clone());
    let (on, kind, eps) = (On::of(&x)?, kind_of(&x)?, config.eps as f32);
    let rstd = on.tensor(on.buffer(Kind::F32, n)?, &[n]);
    let mean = if config.train { statistics(&on, op, inputs, &rstd)? } else { op.mean.detach() };
    if !config.train {
        kernel::rstd(&on.gpu, on.hold(&op.var)?.slice(&on)?, eps, on.hold(&rstd)?.slice(&on)?)?;
    }
    let weight = |i: usize| op.affine.then(|| on.cast(inputs.tensor(i), Kind::F32)).transpose();
    let (gamma, beta) = (weight(1)?, weight(2)?);
    let residual = op.residual_at().map(|i| on.cast(inputs.tensor(i), kind)).transpose()?;
    let y = on.tensor(on.buffer(kind, x.elem_count())?, x.dims());
    let rectified = op.relu.then(|| y.clone());
    let norm = Norm { on, x, mean, rstd, gamma, rectified, batch: config.train };
    norm.forward(beta.as_ref(), residual.as_ref(), &y)?;
    let residual = op.residual_at();
    Ok(Done::tensor(y, move |g, b| {
        let affine = norm.gamma.is_some();
        let target = |b: &mut _, i| if affine { Target::of(&norm.on, b, i, &[n]) } else { Ok(None) };
        let (gamma, beta) = (target(b, 1)?, target(b, 2)?);
        // Without ReLU the residual's gradient is that of the result.
        let masked = match residual.filter(|i| b.wants(*i)) {
            Some(_) if norm.rectified.is_some() => Some(norm.like_x()?),
            Some(_) => Some(g.clone()),
            None => None,
        };
        let to_mask = masked.as_ref().filter(|_| norm.rectified.is_some());
        if b.wants(0) {
            b.give_onto(0, dtype_of(kind), |held| {
                let dx = norm.like_x()?;
                norm.backward(&g, held.as_ref(), Some(&dx), to_mask, [gamma.as_ref(), beta.as_ref()])?;
                Ok(dx)
            })?;
        } else {
            norm.backward(&g, None, None, to_mask, [gamma.as_ref(), beta.as_ref()])?;
        }
        gamma.map_or(Ok(()), |t| t.give(b, 1))?;
        beta.map_or(Ok(()), |t| t.give(b, 2))?;
        match (residual, masked) {
            (Some(i), Some(masked)) => b.give(i, || Ok(masked)),
            _ => Ok(()),
        }
    }))
}

/// The mean of a batch, after which the running statistics have moved; `rstd` gets 1 over the deviations.
fn statistics(on: &On, op: &BatchNormOp, inputs: &Inputs, rstd: &Tensor) -> Result<Tensor> {
    let (x, n) = (inputs.tensor(0), op.channels());
    let (mean, var) = (on.tensor(on.buffer(Kind::F32, n)?, &[n]), on.buffer(Kind::F32, n)?);
    {
        let (held, rstd) = (on.hold(&mean)?, on.hold(rstd)?);
        let (to, var) = (Statistics { mean: held.slice(on)?, rstd: rstd.slice(on)? }, var.slice(&on.gpu));
        kernel::statistics(&on.gpu, on.hold(x)?.slice(on)?, op.config.eps as f32, to, var)?;
        if !inputs.repeats() {
            let (old_mean, old_var) = (Var::from_tensor(&op.mean)?, Var::from_tensor(&op.var)?);
            let (old_mean, old_var) = (on.hold(&old_mean)?, on.hold(&old_var)?);
            let old = (old_mean.slice(on)?, old_var.slice(on)?);
            let momentum = op.config.momentum as f32;
            kernel::running(&on.gpu, (to.mean, var), old, x.elem_count() / n, momentum)?;
        }
    }
    Ok(mean)
}

impl Norm {
    fn like_x(&self) -> Result<Tensor> {
        Ok(self.on.tensor(self.on.buffer(kind_of(&self.x)?, self.x.elem_count())?, self.x.dims()))
    }

    fn forward(&self, beta: Option<&Tensor>, residual: Option<&Tensor>, y: &Tensor) -> Result<()> {
        let on = &self.on;
        let (x, y, residual) = (on.hold(&self.x)?, on.hold(y)?, on.maybe(residual)?);
        let (mean, rstd) = (on.hold(&self.mean)?, on.hold(&self.rstd)?);
        let by = Statistics { mean: mean.slice(on)?, rstd: rstd.slice(on)? };
        let (gamma, beta) = (on.maybe(self.gamma.as_ref())?, on.maybe(beta)?);
        let affine = slice_of(&gamma, on)?.zip(slice_of(&beta, on)?);
        let (residual, relu) = (slice_of(&residual, on)?, self.rectified.is_some());
        Ok(kernel::forward(&on.gpu, x.slice(on)?, by, affine, residual, relu, y.slice(on)?)?)
    }

    /// The gradients of x, to which `held` is added, of the residual, `masked`, and of gamma and beta.
    fn backward(
        &self,
        g: &Tensor,
        held: Option<&Tensor>,
        dx: Option<&Tensor>,
        masked: Option<&Tensor>,
        weights: [Option<&Target>; 2],
    ) -> Result<()> {
        let on = &self.on;
        let (x, g, mean, rstd) = (on.hold(&self.x)?, on.hold(g)?, on.hold(&self.mean)?, on.hold(&self.rstd)?);
        let (gamma, y) = (on.maybe(self.gamma.as_ref())?, on.maybe(self.rectified.as_ref())?);
        let (held, dx, masked) = (on.maybe(held)?, on.maybe(dx)?, on.maybe(masked)?);
        let saved = Saved {
            x: x.slice(on)?,
            by: Statistics { mean: mean.slice(on)?, rstd: rstd.slice(on)? },
            gamma: slice_of(&gamma, on)?,
            y: slice_of(&y, on)?,
            batch: self.batch,
        };
        let [dgamma, dbeta] = weights.map(|t| on.maybe(t.map(|t| &t.tensor)));
        let (dgamma, dbeta) = (dgamma?, dbeta?);
        let [add_gamma, add_beta] = weights.map(|t| t.is_some_and(|t| t.add));
        let to_gamma = slice_of(&dgamma, on)?.map(|to| Into { to, add: add_gamma });
        let to_beta = slice_of(&dbeta, on)?.map(|to| Into { to, add: add_beta });
        let (to_x, masked) = ((slice_of(&held, on)?, slice_of(&dx, on)?), slice_of(&masked, on)?);
        Ok(kernel::backward(&on.gpu, &saved, g.slice(on)?, to_x, masked, (to_gamma, to_beta))?)
    }
}
