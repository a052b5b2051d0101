//! The nearest matrix with orthonormal rows or columns, by Newton-Schulz iterations in bf16, as Muon uses them (K. Jordan et al., 2024).

use crate::base::elementwise::sum_squares;
use crate::base::mem::buffer;
use crate::base::par::{SERIAL, in_pool};
use crate::base::simd::simd_fn;
use crate::error::{Result, expect_len};
use crate::matmul::bf16::gram;
use crate::matmul::gemm::gemm_with;
use crate::matmul::pack_bf16::round;
use crate::matmul::{MatMut, MatRef, Precision};
use rayon::prelude::*;

/// Five iterations of a quintic polynomial, `(a, b, c)` each, with which singular values in [0, 1] come close to 1
/// (<https://leloykun.github.io/ponder/muon-opt-coeffs/>).
pub const QUINTIC: [(f32, f32, f32); 5] = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
];

simd_fn! {
    /// `out = round(by x + out times)`.
    fn combine(by: f32, x: &[f32], times: f32, out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = x.mul_add(by, *o * times);
        }
        round(out);
    }
}

/// Replaces a `rows x cols` matrix X by iterations of `X = a X + (b A + c A A) X` with `A = X X^T`, after dividing it by its Frobenius norm
/// (at least `eps`). Products take bf16, results are rounded to bf16.
///
/// # Errors
/// When the length is not `rows * cols`.
pub fn newton_schulz(
    x: &mut [f32],
    rows: usize,
    cols: usize,
    coefficients: &[(f32, f32, f32)],
    eps: f32,
) -> Result<()> {
    expect_len("newton_schulz", "x", x.len(), rows * cols)?;
    in_pool(|| iterate(x, rows, cols, coefficients, eps))
}

fn iterate(x: &mut [f32], rows: usize, cols: usize, coefficients: &[(f32, f32, f32)], eps: f32) -> Result<()> {
    let all = |x: &mut [f32], f: &(dyn Fn(&mut [f32]) + Sync)| x.par_chunks_mut(SERIAL).for_each(f);
    all(x, &|x| round(x));
    let mut norm = [sum_squares(x).sqrt() as f32];
    round(&mut norm);
    let scale = norm[0].max(eps);
    all(x, &|x| {
        x.iter_mut().for_each(|x| *x /= scale);
        round(x);
    });
    // The smaller side makes the square matrix.
    let (tall, n) = (rows > cols, rows.min(cols));
    let (mut square, mut poly, mut other) = (buffer(n * n), buffer(n * n), buffer(x.len()));
    let (mut from, mut to) = (&mut *x, &mut *other);
    for &(a, b, c) in coefficients {
        let view = MatRef::row_major(from, rows, cols)?;
        gram(if tall { view.t() } else { view }, MatMut::row_major(&mut square, n, n)?, Some(&|_, _, row| round(row)));
        // It is symmetric: the products of its rows are its square.
        let plus = |r: usize, first: usize, row: &mut [f32]| combine(b, &square[r * n + first..], c, row);
        gram(MatRef::row_major(&square, n, n)?, MatMut::row_major(&mut poly, n, n)?, Some(&plus));
        let p = MatRef::row_major(&poly, n, n)?;
        let (left, right) = if tall { (view, p) } else { (p, view) };
        let plus = |r: usize, first: usize, row: &mut [f32]| combine(a, &from[r * cols + first..], 1.0, row);
        gemm_with(Precision::Bf16, left, right, MatMut::row_major(to, rows, cols)?, false, Some(&plus))?;
        std::mem::swap(&mut from, &mut to);
    }
    if coefficients.len() % 2 == 1 {
        to.par_chunks_mut(SERIAL).zip(from.par_chunks(SERIAL)).for_each(|(t, f)| t.copy_from_slice(f));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::random;

    #[test]
    fn rows_or_columns_become_nearly_orthonormal_whatever_the_shape() {
        for (rows, cols) in [(8, 8), (8, 40), (40, 8), (1, 5)] {
            let mut x = random("x", rows * cols);
            newton_schulz(&mut x, rows, cols, &QUINTIC, 1e-7).unwrap();
            let n = rows.min(cols);
            let at = |i: usize, k: usize| if rows <= cols { x[i * cols + k] } else { x[k * cols + i] };
            for i in 0..n {
                for j in 0..n {
                    let dot: f32 = (0..rows.max(cols)).map(|k| at(i, k) * at(j, k)).sum();
                    let want = if i == j { 1.0 } else { 0.0 };
                    assert!((dot - want).abs() < 0.45, "{rows}x{cols}: {i} {j} {dot}");
                }
            }
        }
        assert!(newton_schulz(&mut [0.0; 5], 2, 3, &QUINTIC, 1e-7).is_err());
        let mut zeros = [0.0; 6];
        newton_schulz(&mut zeros, 2, 3, &QUINTIC, 1e-7).unwrap();
        assert_eq!(zeros, [0.0; 6]);
    }
}
