//! Batch normalisation.

use super::reduce::finite;
use super::{column_sum, upload};
use crate::error::{Error, Result, shape};
use crate::node::{Done, Inputs};
use crate::spec::{BatchNormOp, BatchNormStep};
use candle_core::{DType, Tensor, Var};
use candlelight_dist::Comm;
use std::sync::Arc;

pub(crate) fn batch_norm(op: &BatchNormOp, inputs: &Inputs) -> Result<Done> {
    let BatchNormStep { eps, momentum, train } = op.config;
    let (x, n) = (inputs.tensor(0), op.channels());
    let dims = x.dims().to_vec();
    let own = dims[..dims.len() - 1].iter().product::<usize>();
    let flat = x.reshape((own, n))?; // (R, C)
    let all = inputs.comm().filter(|_| train);
    let mut rows = own as f64;
    let running = |t: &Tensor| -> Result<Tensor> { Ok(t.detach().to_dtype(x.dtype())?.reshape((1, n))?) };
    let (mean, var) = if train {
        // A process without rows contributes zeros; the mean of no rows would be NaN.
        let (mut mean, mut var) = if own == 0 {
            let zeros = Tensor::zeros((1, n), x.dtype(), x.device())?;
            (zeros.clone(), zeros)
        } else {
            let mean = flat.mean_keepdim(0)?;
            let var = flat.broadcast_sub(&mean)?.sqr()?.mean_keepdim(0)?;
            (mean, var)
        };
        if let Some(all) = &all {
            // The sums of all processes are added on the host.
            let host = |t: &Tensor| Ok::<_, Error>(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
            let (mut m, mut v) = (host(&mean)?, host(&var)?);
            rows = joint(&**all, own, &mut m, &mut v)?;
            (mean, var) = (upload(m, (1, n), x)?, upload(v, (1, n), x)?);
        }
        if !inputs.repeats() {
            let fine = finite(&Tensor::cat(&[&mean, &var], 1)?)?;
            for (t, new, factor) in [(&op.mean, &mean, 1.0), (&op.var, &var, rows / (rows - 1.0))] {
                let old = t.detach();
                let new = new.reshape(n)?.to_dtype(old.dtype())?;
                let mixed = ((&old * (1.0 - momentum))? + (new * (momentum * factor))?)?;
                let fine = fine.broadcast_as(n)?.contiguous()?;
                Var::from_tensor(t)?.set(&fine.where_cond(&mixed, &old)?)?;
            }
        }
        (mean, var)
    } else {
        (running(&op.mean)?, running(&op.var)?)
    };
    let rstd = (var + eps)?.sqrt()?.recip()?; // (1, C)
    let centred = flat.broadcast_sub(&mean)?.broadcast_mul(&rstd)?; // (R, C)
    let (gamma, beta) = if op.affine { (inputs.get(1).cloned(), inputs.get(2)) } else { (None, None) };
    let mut y = match (&gamma, beta) {
        (Some(gamma), Some(beta)) => centred.broadcast_mul(gamma)?.broadcast_add(beta)?,
        _ => centred.clone(),
    };
    let residual = op.residual_at();
    if let Some(i) = residual {
        y = (y + inputs.tensor(i).reshape((own, n))?)?;
    }
    let open = op.relu.then(|| y.le(0.0)).transpose()?;
    if let Some(closed) = &open {
        y = closed.where_cond(&y.zeros_like()?, &y)?;
    }
    let (input_dims, relu_closed) = (dims.clone(), open);
    Ok(Done::tensor(y.reshape(dims)?, move |g, b| {
        let mut g = g.reshape((own, n))?;
        if let Some(closed) = &relu_closed {
            g = closed.where_cond(&g.zeros_like()?, &g)?;
        }
        if let Some(i) = residual {
            b.give(i, || Ok(g.reshape(input_dims.as_slice())?))?;
        }
        let (dbeta, dgamma) = (column_sum(&g)?, column_sum(&(&g * &centred)?)?);
        if gamma.is_some() {
            b.give(2, || Ok(dbeta.clone()))?;
            b.give(1, || Ok(dgamma.clone()))?;
        }
        let (dbeta, dgamma) = match &all {
            Some(all) => {
                let both = Tensor::cat(&[&dbeta, &dgamma], 0)?;
                let mut sums = both.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                joint_sums(Arc::as_ref(all), own, &mut sums)?;
                let both = upload(sums, 2 * n, &g)?;
                (both.narrow(0, 0, n)?, both.narrow(0, n, n)?)
            }
            None => (dbeta, dgamma),
        };
        b.give(0, || {
            let d = if train {
                let mean_part = g.broadcast_sub(&(dbeta.unsqueeze(0)? / rows)?)?;
                (mean_part - centred.broadcast_mul(&(dgamma.unsqueeze(0)? / rows)?)?)?
            } else {
                g.clone()
            };
            let d = match &gamma {
                Some(gamma) => d.broadcast_mul(gamma)?,
                None => d,
            };
            Ok(d.broadcast_mul(&rstd)?.reshape(input_dims)?)
        })
    }))
}

/// Replaces the mean and the biased variance of one process's `rows` rows by those of all processes; returns the number of rows of all.
pub(crate) fn joint(all: &dyn Comm, rows: usize, mean: &mut [f32], var: &mut [f32]) -> Result<f64> {
    let own = rows as f64;
    let mut sums: Vec<f64> = mean.iter().map(|m| own * f64::from(*m)).chain([own]).collect();
    all.all_reduce(&mut sums)?;
    let total = sums.pop().unwrap_or(own);
    if total < 2.0 {
        return shape(
            "batch_norm",
            "statistics of a training batch need more than one value per channel over all processes",
        );
    }
    let apart = |(v, (m, s)): (&f32, (&f32, &f64))| own * (f64::from(*v) + (f64::from(*m) - s / total).powi(2));
    let mut squares: Vec<f64> = var.iter().zip(mean.iter().zip(&sums)).map(apart).collect();
    all.all_reduce(&mut squares)?;
    mean.iter_mut().zip(sums).for_each(|(m, s)| *m = (s / total) as f32);
    var.iter_mut().zip(squares).for_each(|(v, s)| *v = (s / total) as f32);
    Ok(total)
}

/// Replaces sums over one process's rows by the sums over all processes; returns the number of rows of all.
pub(crate) fn joint_sums(all: &dyn Comm, rows: usize, sums: &mut [f32]) -> Result<f64> {
    let mut wide: Vec<f64> = sums.iter().map(|v| f64::from(*v)).chain([rows as f64]).collect();
    all.all_reduce(&mut wide)?;
    let total = wide.pop().unwrap_or(rows as f64);
    sums.iter_mut().zip(wide).for_each(|(to, v)| *to = v as f32);
    Ok(total)
}
