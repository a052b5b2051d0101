//! Batch normalisation, over one process or several.

use crate::error::{Result, shape};
use crate::ops::{params, read, source_params};
use crate::tape::{AllReduce, Grad, Source, Value};
use crate::tensor::tensor_from;
use crate::vision::relu;
use crate::{composed, composed_vision};
use candle_core::{Tensor, Var};
use candlelight_kernels::batch_norm as bn;
use candlelight_kernels::mem::buffer;

/// Constants of a batch normalisation and what it does with its statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Share of the batch's statistics in the running ones.
    pub momentum: f64,
    /// Normalise by the batch and update the running statistics; else normalise by these.
    pub train: bool,
}

/// What follows a batch normalisation in the same operation.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// Nothing.
    Plain,
    /// The rectifier.
    Relu,
    /// A residual connection, then the rectifier.
    AddRelu(&'a Value),
}

/// Batch normalisation over all but the last dimension; of all processes' batches on a tape with an [`AllReduce`]: x (.., C); gamma, beta (C) or without; running mean and variance (C),
/// which training updates in place: `(1 - momentum) old + momentum new`, with the unbiased variance, as PyTorch. A batch whose
/// statistics are not finite leaves them alone.
///
/// # Errors
/// When the shapes do not fit, or a training batch has a single row.
pub fn batch_norm(
    x: &Value,
    affine: Option<(&Tensor, &Tensor)>,
    running: (&Tensor, &Tensor),
    how: BatchNorm,
) -> Result<Value> {
    batch_norm_then(x, affine, running, how, Then::Plain)
}

/// [`batch_norm`] and what follows it, in one pass.
///
/// # Errors
/// As [`batch_norm`].
pub fn batch_norm_then(
    x: &Value,
    affine: Option<(&Tensor, &Tensor)>,
    running: (&Tensor, &Tensor),
    how: BatchNorm,
    then: Then<'_>,
) -> Result<Value> {
    let n = running.0.elem_count();
    let fits = |t: &Tensor| t.dims() == [n];
    let vectors = affine.into_iter().flat_map(|(g, b)| [g, b]).chain([running.0, running.1]);
    if x.dims().last() != Some(&n) || !vectors.into_iter().all(fits) {
        return shape("batch_norm", format!("x {:?} with statistics of {n} channels", x.dims()));
    }
    if let Then::AddRelu(r) = then
        && r.dims() != x.dims()
    {
        return shape("batch_norm", format!("x {:?} and a residual {:?}", x.dims(), r.dims()));
    }
    let rows = x.tensor().elem_count() / n.max(1);
    let all = x.tape().all_reduce().filter(|_| how.train);
    if how.train && rows < 2 && all.is_none() {
        return shape("batch_norm", "training statistics need more than one value a channel");
    }
    if composed::wanted(x) {
        let y = composed_vision::batch_norm(x, affine, running, how, all)?;
        return match then {
            Then::Plain => Ok(y),
            Then::Relu => relu(&y),
            Then::AddRelu(r) => relu(&y.add(r)?),
        };
    }
    let xs = read("batch_norm", x.tensor())?;
    let (mut mean, mut var) = (read("batch_norm", running.0)?.to_vec(), read("batch_norm", running.1)?.to_vec());
    if how.train {
        let old = (mean.clone(), var.clone());
        if rows > 0 {
            bn::statistics(&xs, &mut mean, &mut var)?;
        }
        let rows = match &all {
            Some(all) => joint(&**all, rows, &mut mean, &mut var)?,
            None => rows as f64,
        };
        if !x.tape().repeats() {
            update_running(running, old, (&mean, &var), rows, how.momentum)?;
        }
    }
    let rstd: Vec<f32> = var.iter().map(|v| (1.0 / (f64::from(*v) + how.eps).sqrt()) as f32).collect();
    let (scale, beta) = match affine {
        Some((gamma, beta)) => {
            let gamma = read("batch_norm", gamma)?;
            (rstd.iter().zip(gamma.iter()).map(|(r, g)| r * g).collect(), read("batch_norm", beta)?.to_vec())
        }
        None => (rstd.clone(), vec![0.0; n]),
    };
    let mut y = buffer(xs.len());
    let residual = match then {
        Then::AddRelu(r) => Some((r.source(), read("batch_norm", r.tensor())?)),
        _ => None,
    };
    let kind = match (then, &residual) {
        (Then::Plain, _) => bn::Then::Plain,
        (_, Some((_, r))) => bn::Then::AddRelu(r),
        (_, None) => bn::Then::Relu,
    };
    bn::forward(&xs, &mean, &scale, &beta, kind, &mut y)?;
    let tape = x.tape();
    let (gp, bp) = (affine.and_then(|(g, _)| tape.param(g)), affine.and_then(|(_, b)| tape.param(b)));
    let (source, from, xt) = (x.source(), residual.and_then(|(s, _)| s), x.tensor().clone());
    let tracked = source.is_some() || from.is_some() || gp.is_some() || bp.is_some();
    std::mem::drop(xs);
    let y = tensor_from(y, x.tensor().shape())?;
    let rectified = (!matches!(then, Then::Plain)).then(|| y.clone());
    let mut used = params([gp, bp]);
    used.extend(source_params([source, from]));
    Ok(tape.push(y, tracked, used, move |g, b| {
        let mut d = g.into_vec();
        let (mut dgamma, mut dbeta) = (vec![0.0; n], vec![0.0; n]);
        let saved = bn::Saved { mean: &mean, rstd: &rstd, scale: &scale, batch: how.train };
        // Where the residual wants the gradient too, that of x gets a buffer of its own.
        let mut apart = source.and(from).map(|_| buffer(d.len()));
        {
            let (x, y) = (read("batch_norm", &xt)?, rectified.as_ref().map(|y| read("batch_norm", y)).transpose()?);
            let dx = match (&mut apart, source) {
                (Some(dx), _) => bn::Dx::Into(dx),
                (None, Some(_)) => bn::Dx::InPlace,
                (None, None) => bn::Dx::None,
            };
            let mut failed = None;
            let mut combine = |sums: &mut [f32]| {
                let shared = all.as_ref().map_or(Ok(rows as f64), |all| joint_sums(&**all, rows, sums));
                shared.unwrap_or_else(|e| {
                    failed = Some(e);
                    rows as f64
                })
            };
            let combine: Option<bn::Combine<'_>> = if all.is_some() { Some(&mut combine) } else { None };
            bn::backward(&x, &mut d, saved, y.as_deref(), dx, &mut dgamma, &mut dbeta, combine)?;
            failed.map_or(Ok(()), Err)?;
        }
        for (p, d) in [(gp, dgamma), (bp, dbeta)] {
            if let Some(p) = p {
                b.add(Source::Param(p), Grad::new(d))?;
            }
        }
        match (apart, source, from) {
            (Some(dx), Some(source), Some(from)) => {
                b.add(from, Grad::new(d))?;
                b.add(source, Grad::new(dx))
            }
            (_, Some(to), _) | (_, None, Some(to)) => b.add(to, Grad::new(d)),
            _ => Ok(()),
        }
    }))
}

/// Makes one process's mean and biased variance over `rows` rows those of all processes; returns the rows of all.
pub(crate) fn joint(all: &dyn AllReduce, rows: usize, mean: &mut [f32], var: &mut [f32]) -> Result<f64> {
    let own = rows as f64;
    let mut sums: Vec<f64> = mean.iter().map(|m| own * f64::from(*m)).chain([own]).collect();
    all.sum(&mut sums)?;
    let total = sums.pop().unwrap_or(own);
    if total < 2.0 {
        return shape("batch_norm", "training statistics need more than one value a channel over all processes");
    }
    let apart = |(v, (m, s)): (&f32, (&f32, &f64))| own * (f64::from(*v) + (f64::from(*m) - s / total).powi(2));
    let mut squares: Vec<f64> = var.iter().zip(mean.iter().zip(&sums)).map(apart).collect();
    all.sum(&mut squares)?;
    mean.iter_mut().zip(sums).for_each(|(m, s)| *m = (s / total) as f32);
    var.iter_mut().zip(squares).for_each(|(v, s)| *v = (s / total) as f32);
    Ok(total)
}

/// Makes sums over one process's rows those of all; returns the rows of all.
pub(crate) fn joint_sums(all: &dyn AllReduce, rows: usize, sums: &mut [f32]) -> Result<f64> {
    let mut wide: Vec<f64> = sums.iter().map(|v| f64::from(*v)).chain([rows as f64]).collect();
    all.sum(&mut wide)?;
    let total = wide.pop().unwrap_or(rows as f64);
    sums.iter_mut().zip(wide).for_each(|(to, v)| *to = v as f32);
    Ok(total)
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
