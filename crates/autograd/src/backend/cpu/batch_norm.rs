//! Batch normalisation.

use crate::backend::composed::batch_norm::{joint, joint_sums};
use crate::error::Result;
use crate::flow::Grad;
use crate::node::{Done, Inputs};
use crate::spec::BatchNormOp;
use crate::tensor::{CpuSlice, tensor_from};
use candle_core::{Tensor, Var};
use candlelight_kernels::mem::buffer;
use candlelight_kernels::norm::batch as kernel;

const NAME: &str = "batch_norm";

pub(super) fn batch_norm(op: &BatchNormOp, inputs: &Inputs) -> Result<Done> {
    let (config, n) = (op.config, op.channels());
    let running = (&op.mean, &op.var);
    let xs = inputs.slice(NAME, 0)?;
    let rows = xs.len() / n.max(1);
    let all = inputs.comm().filter(|_| config.train);
    let (mut mean, mut var) = (CpuSlice::new(NAME, running.0)?.to_vec(), CpuSlice::new(NAME, running.1)?.to_vec());
    if config.train {
        let old = (mean.clone(), var.clone());
        if rows > 0 {
            kernel::statistics(&xs, &mut mean, &mut var)?;
        }
        let rows = match &all {
            Some(all) => joint(&**all, rows, &mut mean, &mut var)?,
            None => rows as f64,
        };
        if !inputs.repeats() {
            update_running(running, old, (&mean, &var), rows, config.momentum)?;
        }
    }
    let rstd: Vec<f32> = var.iter().map(|v| (1.0 / (f64::from(*v) + config.eps).sqrt()) as f32).collect();
    let (scale, beta) = if op.affine {
        let gamma = inputs.slice(NAME, 1)?;
        (rstd.iter().zip(gamma.iter()).map(|(r, g)| r * g).collect(), inputs.slice(NAME, 2)?.to_vec())
    } else {
        (rstd.clone(), vec![0.0; n])
    };
    let mut y = buffer(xs.len());
    let residual = op.residual_at();
    {
        let r = residual.map(|i| inputs.slice(NAME, i)).transpose()?;
        let then = match (&r, op.relu) {
            (Some(r), _) => kernel::Then::AddRelu(r),
            (None, true) => kernel::Then::Relu,
            (None, false) => kernel::Then::Plain,
        };
        kernel::forward(&xs, &mean, &scale, &beta, then, &mut y)?;
    }
    std::mem::drop(xs);
    let (xt, affine) = (inputs.tensor(0).clone(), op.affine);
    let y = tensor_from(y, xt.shape())?;
    let rectified = op.relu.then(|| y.clone());
    Ok(Done::host(y, move |g, b| {
        let mut d = g.into_vec();
        let (mut dgamma, mut dbeta) = (vec![0.0; n], vec![0.0; n]);
        let saved = kernel::Saved { mean: &mean, rstd: &rstd, scale: &scale, batch: config.train };
        let residual = residual.filter(|i| b.wants(*i));
        // Where the residual wants the gradient too, that of x gets a buffer of its own.
        let mut apart = (b.wants(0) && residual.is_some()).then(|| buffer(d.len()));
        {
            let y = rectified.as_ref().map(|y| CpuSlice::new(NAME, y)).transpose()?;
            let dx = match (&mut apart, b.wants(0)) {
                (Some(dx), _) => kernel::Dx::Into(dx),
                (None, true) => kernel::Dx::InPlace,
                (None, false) => kernel::Dx::None,
            };
            let mut failed = None;
            let mut combine = |sums: &mut [f32]| {
                let shared = all.as_ref().map_or(Ok(rows as f64), |all| joint_sums(&**all, rows, sums));
                shared.unwrap_or_else(|e| {
                    failed = Some(e);
                    rows as f64
                })
            };
            let combine: Option<kernel::Combine<'_>> = if all.is_some() { Some(&mut combine) } else { None };
            let x = CpuSlice::new(NAME, &xt)?;
            kernel::backward(&x, &mut d, saved, y.as_deref(), dx, &mut dgamma, &mut dbeta, combine)?;
            failed.map_or(Ok(()), Err)?;
        }
        if affine {
            b.add(1, Grad::new(dgamma))?;
            b.add(2, Grad::new(dbeta))?;
        }
        match (apart, residual) {
            (Some(dx), Some(i)) => {
                b.add(i, Grad::new(d))?;
                b.add(0, Grad::new(dx))
            }
            (_, Some(i)) => b.add(i, Grad::new(d)),
            _ => b.add(0, Grad::new(d)),
        }
    }))
}

/// Moves the running statistics towards a batch's mean and biased variance over `rows` rows.
fn update_running(
    running: (&Tensor, &Tensor),
    old: (Vec<f32>, Vec<f32>),
    new: (&[f32], &[f32]),
    rows: f64,
    momentum: f64,
) -> Result<()> {
    if new.0.iter().chain(new.1).any(|v| !v.is_finite()) {
        return Ok(());
    }
    let unbiased = rows / (rows - 1.0);
    for (t, old, new, factor) in [(running.0, old.0, new.0, 1.0), (running.1, old.1, new.1, unbiased)] {
        let mix = |(o, v): (f32, &f32)| ((1.0 - momentum) * f64::from(o) + momentum * factor * f64::from(*v)) as f32;
        let mixed: Vec<f32> = old.into_iter().zip(new).map(mix).collect();
        Var::from_tensor(t)?.set(&Tensor::from_vec(mixed, t.shape(), t.device())?)?;
    }
    Ok(())
}
