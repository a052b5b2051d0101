//! Batch normalisation, S. Ioffe and C. Szegedy, arXiv 1502.03167, over rows of channels: `(B, C)`, or `(B, H, W, C)` taken as
//! `(B H W, C)`. `y = (x - mean) / sqrt(var + eps) * gamma + beta` per channel, with the biased variance.

use crate::base::par::{chunk_rows, fold_rows};
use crate::base::simd::simd_fn;
use crate::error::{Result, expect_len};
use rayon::prelude::*;

fn whole_rows(op: &'static str, x: &[f32], channels: usize) -> Result<()> {
    if channels == 0 {
        return Err(crate::Error::Value { op, message: "no channels".into() });
    }
    expect_len(op, "x modulo channels", x.len() % channels, 0)
}

simd_fn! {
    /// Mean and sum of squared deviations of each channel of a few rows, which stay in cache between the two passes.
    fn moments(x: &[f32], mean: &mut [f32], m2: &mut [f32]) {
        let n = mean.len();
        for row in x.chunks_exact(n) {
            for (m, v) in mean.iter_mut().zip(row) {
                *m += v;
            }
        }
        let inv = n as f32 / x.len() as f32;
        mean.iter_mut().for_each(|m| *m *= inv);
        for row in x.chunks_exact(n) {
            for ((q, m), v) in m2.iter_mut().zip(mean.iter()).zip(row) {
                *q = (v - m).mul_add(v - m, *q);
            }
        }
    }
}

/// Computes the mean and the biased variance of each channel: chunks of rows in f32, combined in f64 in order (T. Chan et al., 1979).
///
/// # Errors
/// When `x` is not whole rows of at least one.
pub fn statistics(x: &[f32], mean: &mut [f32], var: &mut [f32]) -> Result<()> {
    let n = mean.len();
    expect_len("batch_norm", "var", var.len(), n)?;
    whole_rows("batch_norm", x, n)?;
    if x.is_empty() {
        return Err(crate::Error::Value { op: "batch_norm", message: "no rows to compute statistics from".into() });
    }
    let rows = chunk_rows(n);
    let mut partial = vec![0.0; (x.len() / n).div_ceil(rows) * 2 * n];
    partial.par_chunks_mut(2 * n).zip(x.par_chunks(rows * n)).for_each(|(p, x)| {
        let (mean, m2) = p.split_at_mut(n);
        moments(x, mean, m2);
    });
    let (mut count, mut mu, mut m2) = (0.0, vec![0.0f64; n], vec![0.0f64; n]);
    for (p, x) in partial.chunks_exact(2 * n).zip(x.chunks(rows * n)) {
        let more = (x.len() / n) as f64;
        let share = more / (count + more);
        for c in 0..n {
            let delta = f64::from(p[c]) - mu[c];
            mu[c] += delta * share;
            m2[c] += f64::from(p[n + c]) + delta * delta * count * share;
        }
        count += more;
    }
    for c in 0..n {
        mean[c] = mu[c] as f32;
        var[c] = (m2[c] / count) as f32;
    }
    Ok(())
}

simd_fn! {
    fn apply_rows(x: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], y: &mut [f32]) {
        let n = mean.len();
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            for i in 0..n {
                y[i] = (x[i] - mean[i]).mul_add(scale[i], beta[i]);
            }
        }
    }
}

simd_fn! {
    fn apply_relu_rows(x: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], y: &mut [f32]) {
        let n = mean.len();
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            for i in 0..n {
                let v = (x[i] - mean[i]).mul_add(scale[i], beta[i]);
                y[i] = if v < 0.0 { 0.0 } else { v };
            }
        }
    }
}

simd_fn! {
    fn apply_add_relu_rows(x: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], residual: &[f32], y: &mut [f32]) {
        let n = mean.len();
        for ((x, y), r) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(residual.chunks_exact(n)) {
            for i in 0..n {
                let v = (x[i] - mean[i]).mul_add(scale[i], beta[i]) + r[i];
                y[i] = if v < 0.0 { 0.0 } else { v };
            }
        }
    }
}

/// What follows the normalisation in the same pass over memory.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// Nothing follows.
    Plain,
    /// ReLU, the rectifier `max(x, 0)`.
    Relu,
    /// A residual connection, then ReLU.
    AddRelu(&'a [f32]),
}

/// Computes `y = (x - mean) scale + beta`, with `scale = gamma / sqrt(var + eps)`, and what follows.
///
/// # Errors
/// When the lengths do not fit.
pub fn forward(x: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], then: Then<'_>, y: &mut [f32]) -> Result<()> {
    let n = mean.len();
    expect_len("batch_norm", "scale", scale.len(), n)?;
    expect_len("batch_norm", "beta", beta.len(), n)?;
    whole_rows("batch_norm", x, n)?;
    expect_len("batch_norm", "y", y.len(), x.len())?;
    let chunk = (chunk_rows(n) * n).max(1);
    let chunks = x.par_chunks(chunk).zip(y.par_chunks_mut(chunk));
    match then {
        Then::Plain => chunks.for_each(|(x, y)| apply_rows(x, mean, scale, beta, y)),
        Then::Relu => chunks.for_each(|(x, y)| apply_relu_rows(x, mean, scale, beta, y)),
        Then::AddRelu(residual) => {
            expect_len("batch_norm", "residual", residual.len(), x.len())?;
            let chunks = chunks.zip(residual.par_chunks(chunk));
            chunks.for_each(|((x, y), r)| apply_add_relu_rows(x, mean, scale, beta, r, y));
        }
    }
    Ok(())
}

simd_fn! {
    /// Adds `sum dy (x - mean)` and `sum dy` of each channel.
    fn sums_rows(x: &[f32], dy: &[f32], mean: &[f32], partial: &mut [f32]) {
        let n = mean.len();
        let (dg, db) = partial.split_at_mut(n);
        let db = &mut db[..n];
        for (x, dy) in x.chunks_exact(n).zip(dy.chunks_exact(n)) {
            for i in 0..n {
                dg[i] = dy[i].mul_add(x[i] - mean[i], dg[i]);
                db[i] += dy[i];
            }
        }
    }
}

simd_fn! {
    /// The same after clearing `dy` where the rectifier's result `y` is 0.
    fn masked_sums_rows(x: &[f32], y: &[f32], dy: &mut [f32], mean: &[f32], partial: &mut [f32]) {
        let n = mean.len();
        let (dg, db) = partial.split_at_mut(n);
        let db = &mut db[..n];
        for ((x, dy), y) in x.chunks_exact(n).zip(dy.chunks_exact_mut(n)).zip(y.chunks_exact(n)) {
            for i in 0..n {
                let d = if y[i] <= 0.0 { 0.0 } else { dy[i] };
                dg[i] = d.mul_add(x[i] - mean[i], dg[i]);
                db[i] += d;
                dy[i] = d;
            }
        }
    }
}

simd_fn! {
    fn backward_rows(x: &[f32], dy: &[f32], mean: &[f32], scale: &[f32], a: &[f32], b: &[f32], dx: &mut [f32]) {
        let n = mean.len();
        for ((x, dy), dx) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            for i in 0..n {
                dx[i] = (dy[i] - a[i] - (x[i] - mean[i]) * b[i]) * scale[i];
            }
        }
    }
}

simd_fn! {
    fn backward_rows_in_place(x: &[f32], d: &mut [f32], mean: &[f32], scale: &[f32], a: &[f32], b: &[f32]) {
        let n = mean.len();
        for (x, d) in x.chunks_exact(n).zip(d.chunks_exact_mut(n)) {
            for i in 0..n {
                d[i] = (d[i] - a[i] - (x[i] - mean[i]) * b[i]) * scale[i];
            }
        }
    }
}

/// Where the gradient of the input is written.
#[derive(Debug)]
pub enum Dx<'a> {
    /// It is not needed and not computed.
    None,
    /// Into the buffer of `dy`, which is overwritten.
    InPlace,
    /// Into this buffer; `dy` then keeps the gradient behind the rectifier, which is also the residual's.
    Into(&'a mut [f32]),
}

/// What [`backward`] needs of the forward pass, one value per channel.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// The means that were subtracted.
    pub mean: &'a [f32],
    /// `1 / sqrt(var + eps)`.
    pub rstd: &'a [f32],
    /// `gamma rstd`.
    pub scale: &'a [f32],
    /// True where mean and variance are the batch's own and so have a gradient; false for running statistics.
    pub batch: bool,
}

/// Replaces sums of this process by those of all processes and returns the rows of all.
pub type Combine<'a> = &'a mut dyn FnMut(&mut [f32]) -> f64;

/// Computes the gradients: the input's where asked for; `dgamma` and `dbeta` are written, for this process's rows alone.
/// `relu` is the result of a forward pass that ended in the rectifier.
/// `combine` is called where the statistics were those of several processes.
///
/// # Errors
/// When the lengths do not fit.
pub fn backward(
    x: &[f32],
    dy: &mut [f32],
    saved: Saved<'_>,
    relu: Option<&[f32]>,
    dx: Dx<'_>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    combine: Option<Combine<'_>>,
) -> Result<()> {
    let n = saved.mean.len();
    for (what, len) in
        [("dgamma", dgamma.len()), ("dbeta", dbeta.len()), ("rstd", saved.rstd.len()), ("scale", saved.scale.len())]
    {
        expect_len("batch_norm backward", what, len, n)?;
    }
    expect_len("batch_norm backward", "dy", dy.len(), x.len())?;
    expect_len("batch_norm backward", "y", relu.map_or(x.len(), <[f32]>::len), x.len())?;
    whole_rows("batch_norm backward", x, n)?;
    let chunk = (chunk_rows(n) * n).max(1);
    let mut partial = vec![0.0; x.len().div_ceil(chunk) * 2 * n];
    let chunks = partial.par_chunks_mut((2 * n).max(1)).zip(x.par_chunks(chunk)).zip(dy.par_chunks_mut(chunk));
    match relu {
        None => chunks.for_each(|((p, x), dy)| sums_rows(x, dy, saved.mean, p)),
        Some(y) => {
            chunks.zip(y.par_chunks(chunk)).for_each(|(((p, x), dy), y)| masked_sums_rows(x, y, dy, saved.mean, p));
        }
    }
    let mut sums = vec![0.0; 2 * n];
    fold_rows(&partial, &mut sums, false);
    for c in 0..n {
        dgamma[c] = sums[c] * saved.rstd[c];
        dbeta[c] = sums[n + c];
    }
    let (mut a, mut b) = (vec![0.0; n], vec![0.0; n]);
    if saved.batch {
        let rows = combine.map_or(x.len().max(1) as f64 / n as f64, |all| all(&mut sums));
        let inv = (1.0 / rows) as f32;
        for c in 0..n {
            a[c] = sums[n + c] * inv;
            b[c] = sums[c] * saved.rstd[c] * saved.rstd[c] * inv;
        }
    }
    let (mean, scale) = (saved.mean, saved.scale);
    match dx {
        Dx::None => {}
        Dx::InPlace => x
            .par_chunks(chunk)
            .zip(dy.par_chunks_mut(chunk))
            .for_each(|(x, d)| backward_rows_in_place(x, d, mean, scale, &a, &b)),
        Dx::Into(dx) => {
            expect_len("batch_norm backward", "dx", dx.len(), x.len())?;
            x.par_chunks(chunk)
                .zip(dy.par_chunks(chunk))
                .zip(dx.par_chunks_mut(chunk))
                .for_each(|((x, dy), dx)| backward_rows(x, dy, mean, scale, &a, &b, dx));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, dot64, f64s, finite_difference, levels, random};

    fn reference(x: &[f64], gamma: &[f64], beta: &[f64], fixed: Option<(&[f64], &[f64])>) -> Vec<f64> {
        let n = gamma.len();
        let rows = (x.len() / n) as f64;
        (0..x.len())
            .map(|i| {
                let c = i % n;
                let column = || x.iter().skip(c).step_by(n);
                let (m, v) = match fixed {
                    Some((m, v)) => (m[c], v[c]),
                    None => {
                        let m = column().sum::<f64>() / rows;
                        (m, column().map(|v| (v - m).powi(2)).sum::<f64>() / rows)
                    }
                };
                (x[i] - m) / (v + 1e-5).sqrt() * gamma[c] + beta[c]
            })
            .collect()
    }

    #[test]
    fn values_and_gradients_agree_with_f64_in_every_mode() {
        for (rows, n) in [(2, 1), (7, 5), (40, 19)] {
            let x: Vec<f32> = random("x", rows * n).iter().map(|v| v + 3.0).collect();
            let (gamma, beta, dy) = (random("g", n), random("b", n), random("dy", rows * n));
            let residual = random("r", rows * n);
            let running = (random("m", n), random("v", n).iter().map(|v| v * v + 0.1).collect::<Vec<f32>>());
            let modes = [(true, 0), (false, 0), (true, 1), (true, 2), (false, 2)];
            for (lv, (batch, then)) in levels().flat_map(|l| modes.map(|m| (l, m))) {
                with_level(lv, || {
                    let (mut mean, mut var) = running.clone();
                    if batch {
                        statistics(&x, &mut mean, &mut var).unwrap();
                    }
                    let rstd: Vec<f32> = var.iter().map(|v| 1.0 / (v + 1e-5).sqrt()).collect();
                    let scale: Vec<f32> = rstd.iter().zip(&gamma).map(|(r, g)| r * g).collect();
                    let fixed = (f64s(&running.0), f64s(&running.1));
                    let fixed = (!batch).then_some((&fixed.0[..], &fixed.1[..]));
                    let whole = |x: &[f64], g: &[f64], b: &[f64], r: &[f64]| -> Vec<f64> {
                        let y = reference(x, g, b, fixed);
                        match then {
                            0 => y,
                            1 => y.into_iter().map(|v| v.max(0.0)).collect(),
                            _ => y.into_iter().zip(r).map(|(v, r)| (v + r).max(0.0)).collect(),
                        }
                    };
                    let f = |x: &[f64], g: &[f64], b: &[f64], r: &[f64]| dot64(&whole(x, g, b, r), &dy);
                    let kind = [Then::Plain, Then::Relu, Then::AddRelu(&residual)][then];
                    let (x64, g64, b64, r64) = (f64s(&x), f64s(&gamma), f64s(&beta), f64s(&residual));
                    let mut y = vec![0.0; x.len()];
                    forward(&x, &mean, &scale, &beta, kind, &mut y).unwrap();
                    close("y", &y, &whole(&x64, &g64, &b64, &r64), 1e-5);
                    let saved = Saved { mean: &mean, rstd: &rstd, scale: &scale, batch };
                    let relu = (then > 0).then_some(&y[..]);
                    let (mut dx, mut dg, mut db) = (vec![0.0; x.len()], vec![0.0; n], vec![0.0; n]);
                    let (mut d, mut own) = (dy.clone(), dy.clone());
                    backward(&x, &mut d, saved, relu, Dx::Into(&mut dx), &mut dg, &mut db, None).unwrap();
                    // Two rows: dx is the difference of nearly equal numbers.
                    let tol = if rows == 2 { 1e-3 } else { 2e-5 };
                    close("dx", &dx, &finite_difference(&x, |x| f(x, &g64, &b64, &r64)), tol);
                    close("dgamma", &dg, &finite_difference(&gamma, |g| f(&x64, g, &b64, &r64)), 2e-5);
                    close("dbeta", &db, &finite_difference(&beta, |b| f(&x64, &g64, b, &r64)), 1e-5);
                    if then == 2 {
                        close("dresidual", &d, &finite_difference(&residual, |r| f(&x64, &g64, &b64, r)), 1e-5);
                    }
                    backward(&x, &mut own, saved, relu, Dx::InPlace, &mut dg, &mut db, None).unwrap();
                    assert_eq!(own, dx);
                });
            }
        }
    }

    #[test]
    fn statistics_keep_their_digits_far_from_zero_and_over_many_rows() {
        let (rows, n) = (50_000, 3);
        let x: Vec<f32> = random("far", rows * n).iter().map(|v| v * 0.5 + 300.0).collect();
        let column = |c: usize| x.iter().skip(c).step_by(n).map(|v| f64::from(*v));
        let mean: Vec<f64> = (0..n).map(|c| column(c).sum::<f64>() / rows as f64).collect();
        let var: Vec<f64> =
            (0..n).map(|c| column(c).map(|v| (v - mean[c]).powi(2)).sum::<f64>() / rows as f64).collect();
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        statistics(&x, &mut m, &mut v).unwrap();
        close("mean", &m, &mean, 1e-6);
        close("var", &v, &var, 1e-4);
        assert!(statistics(&[], &mut m, &mut v).is_err() && statistics(&x[..4], &mut m, &mut v).is_err());
    }
}
