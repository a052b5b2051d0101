//! Group normalisation over channels-last images, Y. Wu and K. He, arXiv 1803.08494.

use crate::base::par::fold_rows;
use crate::error::{Error, Result, expect_len};
use rayon::prelude::*;

/// The sizes of a group normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Samples, B.
    pub batch: usize,
    /// Pixels of a sample, P.
    pub pixels: usize,
    /// Channels, C.
    pub channels: usize,
    /// Groups of channels, G, which divide them.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl GroupNorm {
    fn check(&self, op: &'static str, x: usize, stats: usize) -> Result<usize> {
        if self.groups == 0 || self.channels % self.groups != 0 {
            let message = format!("{} groups do not divide {} channels", self.groups, self.channels);
            return Err(Error::Value { op, message });
        }
        expect_len(op, "x", x, self.batch * self.pixels * self.channels)?;
        expect_len(op, "statistics", stats, self.batch * self.groups)?;
        Ok(self.channels / self.groups)
    }
}

/// Computes `y = (x - mean) rstd gamma + beta`: x, y (B, P, C), gamma, beta (C); `mean` and `rstd` (B, G) are what [`backward`] needs.
///
/// # Errors
/// When the lengths do not fit or the groups do not divide the channels.
pub fn forward(
    g: &GroupNorm,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) -> Result<()> {
    let per = g.check("group_norm", x.len(), mean.len())?;
    for (what, len, want) in [
        ("y", y.len(), x.len()),
        ("gamma", gamma.len(), g.channels),
        ("beta", beta.len(), g.channels),
        ("rstd", rstd.len(), mean.len()),
    ] {
        expect_len("group_norm", what, len, want)?;
    }
    let (c, sample, n) = (g.channels, (g.pixels * g.channels).max(1), (g.pixels * per) as f64);
    let parts = y.par_chunks_mut(sample).zip(x.par_chunks(sample));
    let parts = parts.zip(mean.par_chunks_mut(g.groups).zip(rstd.par_chunks_mut(g.groups)));
    parts.for_each(|((y, x), (mean, rstd))| {
        for k in 0..g.groups {
            let values = || x.chunks_exact(c).flat_map(|p| &p[k * per..(k + 1) * per]).map(|v| f64::from(*v));
            let m = values().sum::<f64>() / n;
            let var = values().map(|v| (v - m) * (v - m)).sum::<f64>() / n;
            (mean[k], rstd[k]) = (m as f32, (1.0 / (var + g.eps).sqrt()) as f32);
        }
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
                let k = i / per;
                *y = ((x - mean[k]) * rstd[k]).mul_add(gamma[i], beta[i]);
            }
        }
    });
    Ok(())
}

/// Computes the gradients of [`forward`]; `dx`, `dgamma` and `dbeta` are overwritten.
///
/// # Errors
/// When the lengths do not fit.
pub fn backward(
    g: &GroupNorm,
    x: &[f32],
    gamma: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) -> Result<()> {
    let op = "group_norm backward";
    let per = g.check(op, x.len(), mean.len())?;
    for (what, len, want) in [
        ("dy", dy.len(), x.len()),
        ("dx", dx.len(), x.len()),
        ("gamma", gamma.len(), g.channels),
        ("dgamma", dgamma.len(), g.channels),
        ("dbeta", dbeta.len(), g.channels),
        ("rstd", rstd.len(), mean.len()),
    ] {
        expect_len(op, what, len, want)?;
    }
    let (c, sample, n) = (g.channels, (g.pixels * g.channels).max(1), (g.pixels * per) as f64);
    // Per sample: the sums over its pixels of dy x and dy, channel by channel.
    let mut partial = vec![0.0f32; 2 * g.batch * c];
    let (of_gamma, of_beta) = partial.split_at_mut(g.batch * c);
    let statistics = mean.par_chunks(g.groups).zip(rstd.par_chunks(g.groups));
    let sums = of_gamma.par_chunks_mut(c.max(1)).zip(of_beta.par_chunks_mut(c.max(1)));
    let samples = dx.par_chunks_mut(sample).zip(x.par_chunks(sample).zip(dy.par_chunks(sample)));
    samples.zip(statistics).zip(sums).for_each(|(((dx, (x, dy)), (mean, rstd)), (dg, db))| {
        let normal = |x: f32, k: usize| (x - mean[k]) * rstd[k];
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for i in 0..c {
                dg[i] += dy[i] * normal(x[i], i / per);
                db[i] += dy[i];
            }
        }
        let mean_of = |sums: &[f32], k: usize| {
            (k * per..(k + 1) * per).map(|i| f64::from(sums[i]) * f64::from(gamma[i])).sum::<f64>() / n
        };
        let along: Vec<f32> = (0..g.groups).map(|k| mean_of(dg, k) as f32).collect();
        let flat: Vec<f32> = (0..g.groups).map(|k| mean_of(db, k) as f32).collect();
        for (dx, (x, dy)) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c).zip(dy.chunks_exact(c))) {
            for i in 0..c {
                let k = i / per;
                dx[i] = (dy[i] * gamma[i] - flat[k] - normal(x[i], k) * along[k]) * rstd[k];
            }
        }
    });
    fold_rows(&partial[..g.batch * c], dgamma, false);
    fold_rows(&partial[g.batch * c..], dbeta, false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, dot64, f64s, finite_difference, random};

    fn reference(g: &GroupNorm, x: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
        let (c, per) = (g.channels, g.channels / g.groups);
        let mut y = vec![0.0; x.len()];
        for b in 0..g.batch {
            for k in 0..g.groups {
                let at = |p: usize, j: usize| (b * g.pixels + p) * c + k * per + j;
                let all: Vec<f64> = (0..g.pixels).flat_map(|p| (0..per).map(move |j| x[at(p, j)])).collect();
                let m = all.iter().sum::<f64>() / all.len() as f64;
                let v = all.iter().map(|a| (a - m).powi(2)).sum::<f64>() / all.len() as f64;
                for p in 0..g.pixels {
                    for j in 0..per {
                        let i = k * per + j;
                        y[at(p, j)] = (x[at(p, j)] - m) / (v + g.eps).sqrt() * gamma[i] + beta[i];
                    }
                }
            }
        }
        y
    }

    #[test]
    fn values_and_gradients_agree_with_f64() {
        for (batch, pixels, channels, groups) in [(2, 5, 6, 3), (1, 1, 4, 1), (3, 4, 5, 5), (2, 9, 8, 2)] {
            let g = GroupNorm { batch, pixels, channels, groups, eps: 1e-5 };
            let x: Vec<f32> = random("x", batch * pixels * channels).iter().map(|v| 3.0 * v + 2.0).collect();
            let (gamma, beta, dy) = (random("g", channels), random("b", channels), random("d", x.len()));
            let (mut y, mut mean, mut rstd) =
                (vec![0.0; x.len()], vec![0.0; batch * groups], vec![0.0; batch * groups]);
            forward(&g, &x, &gamma, &beta, &mut y, &mut mean, &mut rstd).unwrap();
            let (x64, g64, b64) = (f64s(&x), f64s(&gamma), f64s(&beta));
            close("y", &y, &reference(&g, &x64, &g64, &b64), 2e-5);
            let (mut dx, mut dg, mut db) = (vec![9.0; x.len()], vec![9.0; channels], vec![9.0; channels]);
            backward(&g, &x, &gamma, &mean, &rstd, &dy, &mut dx, &mut dg, &mut db).unwrap();
            if pixels * channels / groups > 1 {
                close("dx", &dx, &finite_difference(&x, |x| dot64(&reference(&g, x, &g64, &b64), &dy)), 5e-5);
            }
            close("dgamma", &dg, &finite_difference(&gamma, |v| dot64(&reference(&g, &x64, v, &b64), &dy)), 5e-5);
            close("dbeta", &db, &finite_difference(&beta, |v| dot64(&reference(&g, &x64, &g64, v), &dy)), 5e-5);
        }
    }

    #[test]
    fn groups_divide_the_channels() {
        let g = GroupNorm { batch: 1, pixels: 1, channels: 4, groups: 3, eps: 1e-5 };
        let e = forward(&g, &[0.0; 4], &[1.0; 4], &[0.0; 4], &mut [0.0; 4], &mut [0.0; 3], &mut [0.0; 3]);
        assert!(e.unwrap_err().to_string().contains("3 groups"));
    }
}
