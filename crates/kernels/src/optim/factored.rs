//! The factored second moment of Adafactor (N. Shazeer and M. Stern, arXiv 1804.04235).

use crate::base::simd::{LANES, dot, fold, simd_fn};
use crate::error::{Result, expect_len};
use rayon::prelude::*;

/// A tensor whose second moment is factored: `before x cols x rows x after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// The product of the dimensions before the two that are factored.
    pub before: usize,
    /// The first of the two.
    pub cols: usize,
    /// The second.
    pub rows: usize,
    /// The product of those behind them.
    pub after: usize,
}

simd_fn! {
    /// Adds `g^2 + eps` to the sums of the columns, and returns the sum of the row.
    fn add_squares(eps: f32, g: &[f32], sums: &mut [f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        let (mut gs, mut ss) = (g.chunks_exact(LANES), sums.chunks_exact_mut(LANES));
        for (g, s) in (&mut gs).zip(&mut ss) {
            for i in 0..LANES {
                let square = g[i].mul_add(g[i], eps);
                s[i] += square;
                lanes[i] += square;
            }
        }
        for ((g, s), lane) in gs.remainder().iter().zip(ss.into_remainder()).zip(&mut lanes) {
            let square = g.mul_add(*g, eps);
            *s += square;
            *lane += square;
        }
        fold(lanes)
    }
}

simd_fn! {
    /// The same where both means have dimensions behind them.
    fn add_squares_of(eps: f32, g: &[f32], sums: &mut [f32], own: &mut [f32]) {
        let after = own.len();
        for (s, g) in sums.chunks_exact_mut(after).zip(g.chunks_exact(after)) {
            for ((s, own), g) in s.iter_mut().zip(&mut *own).zip(g) {
                let square = g.mul_add(*g, eps);
                *s += square;
                *own += square;
            }
        }
    }
}

simd_fn! {
    /// Writes the update of a row, and returns the sum of its squares.
    fn normed(by_col: f32, by_row: &[f32], g: &[f32], u: &mut [f32]) -> f32 {
        for ((u, g), by_row) in u.iter_mut().zip(g).zip(by_row) {
            *u = by_row * by_col * g;
        }
        dot(u, u)
    }
}

simd_fn! {
    /// The same where both means have dimensions behind them.
    fn normed_of(by_col: &[f32], by_row: &[f32], g: &[f32], u: &mut [f32]) -> f32 {
        let after = by_col.len();
        for ((u, g), by_row) in u.chunks_exact_mut(after).zip(g.chunks_exact(after)).zip(by_row.chunks_exact(after)) {
            for (((u, g), by_row), by_col) in u.iter_mut().zip(g).zip(by_row).zip(by_col) {
                *u = by_row * by_col * g;
            }
        }
        dot(u, u)
    }
}

/// Takes `g^2 + eps` into the means over rows, `(before, cols, after)`, and over columns, `(before, rows, after)`, with the share `take`, and
/// writes the update, `g` over the root of `cols mean * rows mean / mean of the cols means`. Returns the sum of its squares.
///
/// # Errors
/// When a length does not fit.
pub fn factored(
    Dims { before, cols, rows, after }: Dims,
    take: f32,
    eps: f32,
    grad: &[f32],
    [of_cols, of_rows]: [&mut [f32]; 2],
    u: &mut [f32],
) -> Result<f64> {
    for (what, found, want) in [
        ("grad", grad.len(), before * cols * rows * after),
        ("update", u.len(), before * cols * rows * after),
        ("means over rows", of_cols.len(), before * cols * after),
        ("means over columns", of_rows.len(), before * rows * after),
    ] {
        expect_len("factored", what, found, want)?;
    }
    if grad.is_empty() {
        return Ok(0.0);
    }
    let line = rows * after;
    let mut total = 0.0;
    for b in 0..before {
        let grad = &grad[b * cols * line..][..cols * line];
        let of_cols = &mut of_cols[b * cols * after..][..cols * after];
        let of_rows = &mut of_rows[b * line..][..line];
        // Fixed parts of the columns, so that the number of threads changes no bit.
        let part = cols.div_ceil(16);
        let sums: Vec<Vec<f32>> = of_cols
            .par_chunks_mut(part * after)
            .zip(grad.par_chunks(part * line))
            .map(|(of_cols, grad)| {
                let mut sums = vec![0.0; line];
                for (means, g) in of_cols.chunks_exact_mut(after).zip(grad.chunks_exact(line)) {
                    let mut own = vec![0.0f32; after];
                    match &mut own[..] {
                        [own] => *own = add_squares(eps, g, &mut sums),
                        own => add_squares_of(eps, g, &mut sums, own),
                    }
                    for (mean, own) in means.iter_mut().zip(&own) {
                        *mean += take * (own / rows as f32 - *mean);
                    }
                }
                sums
            })
            .collect();
        for (i, mean) in of_rows.iter_mut().enumerate() {
            let sum: f32 = sums.iter().map(|s| s[i]).sum();
            *mean += take * (sum / cols as f32 - *mean);
        }
        let root = |x: f32| 1.0 / x.sqrt();
        let by_row: Vec<f32> = of_rows.iter().map(|v| root(*v)).collect();
        let mut middle = vec![0.0f32; after];
        for means in of_cols.chunks_exact(after) {
            middle.iter_mut().zip(means).for_each(|(m, v)| *m += v / cols as f32);
        }
        let u = &mut u[b * cols * line..][..cols * line];
        let squares: Vec<f64> = u
            .par_chunks_mut(line)
            .zip(grad.par_chunks(line))
            .zip(of_cols.par_chunks(after))
            .map(|((u, g), means)| {
                let by_col: Vec<f32> = means.iter().zip(&middle).map(|(v, m)| root(v / m)).collect();
                let square = match by_col[..] {
                    [by_col] => normed(by_col, &by_row, g, u),
                    _ => normed_of(&by_col, &by_row, g, u),
                };
                f64::from(square)
            })
            .collect();
        total += squares.iter().sum::<f64>();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, f64s, random};

    #[test]
    fn means_and_update_agree_with_f64() {
        for d in [Dims { before: 1, cols: 40, rows: 17, after: 1 }, Dims { before: 2, cols: 3, rows: 5, after: 9 }] {
            let Dims { before, cols, rows, after } = d;
            let g = random("g", before * cols * rows * after);
            let (mut a, mut b) = (vec![0.5; before * cols * after], vec![0.25; before * rows * after]);
            let (mut c, mut r) = (f64s(&a), f64s(&b));
            let mut u = vec![f32::NAN; g.len()];
            let square = factored(d, 0.5, 0.125, &g, [&mut a, &mut b], &mut u).unwrap();
            let at = |x: usize, i: usize, j: usize, k: usize| ((x * cols + i) * rows + j) * after + k;
            let sq = |x, i, j, k| f64::from(g[at(x, i, j, k)]).powi(2) + 0.125;
            let mut want = vec![0.0; g.len()];
            for x in 0..before {
                for k in 0..after {
                    for i in 0..cols {
                        let mean = (0..rows).map(|j| sq(x, i, j, k)).sum::<f64>() / rows as f64;
                        let c = &mut c[(x * cols + i) * after + k];
                        *c += 0.5 * (mean - *c);
                    }
                    for j in 0..rows {
                        let mean = (0..cols).map(|i| sq(x, i, j, k)).sum::<f64>() / cols as f64;
                        let r = &mut r[(x * rows + j) * after + k];
                        *r += 0.5 * (mean - *r);
                    }
                    let middle = (0..cols).map(|i| c[(x * cols + i) * after + k]).sum::<f64>() / cols as f64;
                    for i in 0..cols {
                        for j in 0..rows {
                            let v = c[(x * cols + i) * after + k] * r[(x * rows + j) * after + k] / middle;
                            want[at(x, i, j, k)] = f64::from(g[at(x, i, j, k)]) / v.sqrt();
                        }
                    }
                }
            }
            close("cols", &a, &c, 1e-6);
            close("rows", &b, &r, 1e-6);
            close("update", &u, &want, 1e-5);
            let sum: f64 = want.iter().map(|u| u * u).sum();
            assert!((square - sum).abs() < 1e-4 * sum);
            assert!(factored(d, 0.5, 0.1, &g[1..], [&mut a, &mut b], &mut u).is_err());
        }
    }
}
