//! Layer normalisation, J. L. Ba et al., arXiv 1607.06450: `y = (x - mean) / sqrt(var + eps) * gamma + beta` over the last
//! dimension, with the biased variance, in two passes over a row in cache.

use crate::base::par::{chunk_rows, fold_rows};
use crate::base::simd::{LANES, fold, simd_fn, sum};
use crate::error::{Result, expect_len};
use rayon::prelude::*;

simd_fn! {
    fn forward_rows(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32], mean: &mut [f32], rstd: &mut [f32]) {
        let n = gamma.len();
        let inv = 1.0 / n as f32;
        for (((x, y), m), r) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(mean).zip(rstd) {
            let mu = sum(x) * inv;
            let mut acc = [0.0; LANES];
            let mut chunks = x.chunks_exact(LANES);
            for c in &mut chunks {
                for i in 0..LANES {
                    let d = c[i] - mu;
                    acc[i] = d.mul_add(d, acc[i]);
                }
            }
            for (a, v) in acc.iter_mut().zip(chunks.remainder()) {
                *a = (v - mu).mul_add(v - mu, *a);
            }
            let rs = 1.0 / (fold(acc) * inv + eps).sqrt();
            for i in 0..n {
                y[i] = ((x[i] - mu) * rs).mul_add(gamma[i], beta[i]);
            }
            *m = mu;
            *r = rs;
        }
    }
}

/// Normalises rows of width `gamma.len()`; `mean` and `rstd` (one per row) are what [`backward`] needs.
///
/// # Errors
/// When the lengths do not fit.
pub fn forward(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) -> Result<()> {
    let n = gamma.len();
    expect_len("layer_norm", "beta", beta.len(), n)?;
    expect_len("layer_norm", "x", x.len(), mean.len() * n)?;
    expect_len("layer_norm", "y", y.len(), x.len())?;
    expect_len("layer_norm", "rstd", rstd.len(), mean.len())?;
    let rows = chunk_rows(n);
    x.par_chunks((rows * n).max(1))
        .zip(y.par_chunks_mut((rows * n).max(1)))
        .zip(mean.par_chunks_mut(rows))
        .zip(rstd.par_chunks_mut(rows))
        .for_each(|(((x, y), m), r)| forward_rows(x, gamma, beta, eps, y, m, r));
    Ok(())
}

simd_fn! {
    fn backward_rows(
        x: &[f32], gamma: &[f32], mean: &[f32], rstd: &[f32], dy: &[f32], dx: &mut [f32], partial: &mut [f32],
    ) {
        let n = gamma.len();
        let inv = 1.0 / n as f32;
        let (dg, db) = partial.split_at_mut(n);
        for ((((x, dy), dx), &mu), &rs) in
            x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)).zip(mean).zip(rstd)
        {
            // dx holds dy * gamma until the two row means are known.
            for i in 0..n {
                let xhat = (x[i] - mu) * rs;
                dg[i] = dy[i].mul_add(xhat, dg[i]);
                db[i] += dy[i];
                dx[i] = dy[i] * gamma[i];
            }
            let a = sum(dx) * inv;
            let mut acc = [0.0; LANES];
            let (mut xs, mut ds) = (x.chunks_exact(LANES), dx.chunks_exact(LANES));
            for (x, d) in (&mut xs).zip(&mut ds) {
                for i in 0..LANES {
                    acc[i] = d[i].mul_add(x[i] - mu, acc[i]);
                }
            }
            for ((acc, x), d) in acc.iter_mut().zip(xs.remainder()).zip(ds.remainder()) {
                *acc = d.mul_add(x - mu, *acc);
            }
            let b = fold(acc) * inv * rs;
            for i in 0..n {
                let xhat = (x[i] - mu) * rs;
                dx[i] = (dx[i] - a - xhat * b) * rs;
            }
        }
    }
}

/// Computes the gradients of [`forward`]: `dx` is written; `dgamma` and `dbeta` are written, or added to when `accumulate`.
///
/// # Errors
/// When the lengths do not fit.
pub fn backward(
    x: &[f32],
    gamma: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let n = gamma.len();
    for (what, len) in [("x", x.len()), ("dy", dy.len()), ("dx", dx.len())] {
        expect_len("layer_norm backward", what, len, mean.len() * n)?;
    }
    expect_len("layer_norm backward", "dgamma", dgamma.len(), n)?;
    expect_len("layer_norm backward", "dbeta", dbeta.len(), n)?;
    let rows = chunk_rows(n);
    let chunks = mean.len().div_ceil(rows);
    let mut partial = vec![0.0; chunks * 2 * n];
    x.par_chunks((rows * n).max(1))
        .zip(dy.par_chunks((rows * n).max(1)))
        .zip(dx.par_chunks_mut((rows * n).max(1)))
        .zip(mean.par_chunks(rows).zip(rstd.par_chunks(rows)))
        .zip(partial.par_chunks_mut((2 * n).max(1)))
        .for_each(|((((x, dy), dx), (m, r)), p)| backward_rows(x, gamma, m, r, dy, dx, p));
    let mut total = vec![0.0; 2 * n];
    fold_rows(&partial, &mut total, false);
    for (out, sum) in [(dgamma, &total[..n]), (dbeta, &total[n..])] {
        if accumulate {
            out.iter_mut().zip(sum).for_each(|(o, s)| *o += s);
        } else {
            out.copy_from_slice(sum);
        }
    }
    Ok(())
}

simd_fn! {
    fn normalise_row(x: &[f32], mean: f32, rstd: f32, gamma: &[f32], beta: &[f32], y: &mut [f32]) {
        for i in 0..x.len() {
            y[i] = ((x[i] - mean) * rstd).mul_add(gamma[i], beta[i]);
        }
    }
}

/// Computes the output again from the saved statistics, which is cheaper than to keep it.
///
/// # Errors
/// When the lengths do not fit.
pub fn recompute(x: &[f32], gamma: &[f32], beta: &[f32], mean: &[f32], rstd: &[f32], y: &mut [f32]) -> Result<()> {
    let n = gamma.len();
    expect_len("layer_norm recompute", "x", x.len(), mean.len() * n)?;
    expect_len("layer_norm recompute", "y", y.len(), x.len())?;
    y.par_chunks_mut(n.max(1))
        .zip(x.par_chunks(n.max(1)))
        .zip(mean.par_iter().zip(rstd))
        .with_min_len(16)
        .for_each(|((y, x), (&m, &r))| normalise_row(x, m, r, gamma, beta, y));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, dot64, f64s, finite_difference, levels, random};

    fn reference(x: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
        let n = gamma.len();
        x.chunks(n)
            .flat_map(|x| {
                let m = x.iter().sum::<f64>() / n as f64;
                let v = x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / n as f64;
                x.iter().zip(gamma).zip(beta).map(|((x, g), b)| (x - m) / (v + eps).sqrt() * g + b).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn values_and_gradients_agree_with_f64() {
        let eps = 1e-6;
        for (rows, n) in [(2, 3), (3, 7), (5, 16), (4, 33)] {
            let (mut x, gamma, beta, dy) =
                (random("x", rows * n), random("gamma", n), random("beta", n), random("dy", rows * n));
            x.iter_mut().for_each(|v| *v += 5.0); // a mean far from 0 shows cancellation
            let (x64, g64, b64) = (f64s(&x), f64s(&gamma), f64s(&beta));
            let runs: Vec<_> = levels()
                .map(|l| {
                    with_level(l, || {
                        let (mut y, mut m, mut r) = (vec![0.0; rows * n], vec![0.0; rows], vec![0.0; rows]);
                        forward(&x, &gamma, &beta, eps as f32, &mut y, &mut m, &mut r).unwrap();
                        let mut again = vec![0.0; rows * n];
                        recompute(&x, &gamma, &beta, &m, &r, &mut again).unwrap();
                        assert_eq!(again, y);
                        let (mut dx, mut dg, mut db) = (vec![0.0; rows * n], vec![1.0; n], vec![1.0; n]);
                        backward(&x, &gamma, &m, &r, &dy, &mut dx, &mut dg, &mut db, true).unwrap();
                        (y, dx, dg, db)
                    })
                })
                .collect();
            let (y, dx, dg, db) = &runs[0];
            close("y", y, &reference(&x64, &g64, &b64, eps), 1e-5);
            let plus1 = |v: Vec<f64>| v.into_iter().map(|v| v + 1.0).collect::<Vec<_>>();
            close("dx", dx, &finite_difference(&x, |x| dot64(&reference(x, &g64, &b64, eps), &dy)), 3e-5);
            close(
                "dgamma",
                dg,
                &plus1(finite_difference(&gamma, |g| dot64(&reference(&x64, g, &b64, eps), &dy))),
                1e-5,
            );
            close("dbeta", db, &plus1(finite_difference(&beta, |b| dot64(&reference(&x64, &g64, b, eps), &dy))), 1e-5);
            assert!(runs.iter().all(|r| r == &runs[0]), "levels differ");
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert!(forward(&[0.0; 4], &[1.0; 3], &[0.0; 3], 0.0, &mut [0.0; 4], &mut [0.0], &mut [0.0]).is_err());
    }
}
