//! Sums, scalings and norms at memory speed.

use crate::base::par::{SERIAL, add_row, chunk_rows, fold_rows};
use crate::base::simd::simd_fn;
use crate::error::{Result, expect_len};
use rayon::prelude::*;

const CHUNK: usize = SERIAL;

simd_fn! {
    fn add_body(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = a + b;
        }
    }
}

/// Computes `out = a + b`.
///
/// # Errors
/// When the lengths differ.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) -> Result<()> {
    expect_len("add", "a", a.len(), out.len())?;
    expect_len("add", "b", b.len(), out.len())?;
    out.par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK))
        .zip(b.par_chunks(CHUNK))
        .for_each(|((o, a), b)| add_body(a, b, o));
    Ok(())
}

simd_fn! {
    fn axpy_body(alpha: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.mul_add(alpha, *y);
        }
    }
}

/// Computes `y += alpha x`.
///
/// # Errors
/// When the lengths differ.
pub fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) -> Result<()> {
    expect_len("axpy", "x", x.len(), y.len())?;
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| axpy_body(alpha, x, y));
    Ok(())
}

simd_fn! {
    fn average_body(share: f32, p: &[f32], e: &mut [f32]) {
        for (e, p) in e.iter_mut().zip(p) {
            *e = (p - *e).mul_add(share, *e);
        }
    }
}

/// Computes `e += share (p - e)`, the update of a moving average.
///
/// # Errors
/// When the lengths differ.
pub fn average(share: f32, p: &[f32], e: &mut [f32]) -> Result<()> {
    expect_len("average", "p", p.len(), e.len())?;
    e.par_chunks_mut(CHUNK).zip(p.par_chunks(CHUNK)).for_each(|(e, p)| average_body(share, p, e));
    Ok(())
}

simd_fn! {
    fn scale_body(alpha: f32, x: &mut [f32]) {
        for x in x {
            *x *= alpha;
        }
    }
}

/// Computes `x *= alpha`.
pub fn scale(alpha: f32, x: &mut [f32]) {
    x.par_chunks_mut(CHUNK).for_each(|x| scale_body(alpha, x));
}

simd_fn! {
    fn sum_squares_body(x: &[f32]) -> f32 {
        crate::base::simd::dot(x, x)
    }
}

/// Computes the sum of squares: chunks of 16 k values in f32 lanes, which are added in f64 in order.
pub fn sum_squares(x: &[f32]) -> f64 {
    x.par_chunks(CHUNK).map(sum_squares_body).collect::<Vec<_>>().into_iter().map(f64::from).sum()
}

/// Writes the column sums of a `(rows, n)` matrix, the gradient of a bias, to `out`: partial sums over fixed chunks of rows.
///
/// # Errors
/// When `x` is not whole rows.
pub fn column_sum(x: &[f32], out: &mut [f32], accumulate: bool) -> Result<()> {
    let n = out.len();
    expect_len("column_sum", "x", x.len() % n.max(1), 0)?;
    let rows = chunk_rows(n);
    let chunks = (x.len() / n.max(1)).div_ceil(rows);
    let mut partial = vec![0.0; chunks * n];
    partial.par_chunks_mut(n.max(1)).zip(x.par_chunks((rows * n).max(1))).for_each(|(acc, x)| {
        for row in x.chunks_exact(n) {
            add_row(row, acc);
        }
    });
    fold_rows(&partial, out, accumulate);
    Ok(())
}

/// Computes `out[r] = x[r] + table[r % period]` for rows of width `n`: adds position embeddings to every sample.
///
/// # Errors
/// When the lengths do not fit.
pub fn add_rows(x: &[f32], table: &[f32], out: &mut [f32]) -> Result<()> {
    expect_len("add_rows", "x", x.len(), out.len())?;
    expect_len("add_rows", "x modulo table", x.len() % table.len().max(1), 0)?;
    out.par_chunks_mut(table.len().max(1))
        .zip(x.par_chunks(table.len().max(1)))
        .for_each(|(o, x)| add_body(x, table, o));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, f64s, levels, random};

    #[test]
    fn sums_agree_with_f64_at_every_level() {
        for (rows, n) in [(1, 1), (3, 7), (1000, 33), (70, 1000)] {
            let x = random("x", rows * n);
            let mut want = vec![0.0f64; n];
            for r in x.chunks(n) {
                for (w, v) in want.iter_mut().zip(r) {
                    *w += f64::from(*v);
                }
            }
            let runs: Vec<_> = levels()
                .map(|l| {
                    with_level(l, || {
                        let mut out = vec![1.0; n];
                        column_sum(&x, &mut out, true).unwrap();
                        (out, sum_squares(&x))
                    })
                })
                .collect();
            want.iter_mut().for_each(|w| *w += 1.0);
            close("column_sum", &runs[0].0, &want, 1e-5);
            assert!((runs[0].1 - f64s(&x).iter().map(|v| v * v).sum::<f64>()).abs() < 1e-5 * runs[0].1);
            assert!(runs.iter().all(|r| r == &runs[0]));
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert!(add(&[1.0], &[1.0, 2.0], &mut [0.0]).is_err());
        assert!(column_sum(&[1.0; 5], &mut [0.0; 2], false).is_err());
        assert!(add_rows(&[1.0; 5], &[1.0; 2], &mut [0.0; 5]).is_err());
    }
}
