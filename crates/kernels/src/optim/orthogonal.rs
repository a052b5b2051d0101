//! The nearest matrix with orthonormal rows or columns, by Newton-Schulz iterations in bf16, as Muon uses them (K. Jordan et al., 2024).

use crate::base::elementwise::sum_squares;
use crate::base::mem::buffer;
use crate::base::par::SERIAL;
use crate::base::simd::simd_fn;
use crate::error::{Result, expect_len};
use crate::matmul::gemm::gemm;
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

fn combine_all(by: f32, x: &[f32], times: f32, out: &mut [f32]) {
    out.par_chunks_mut(SERIAL).zip(x.par_chunks(SERIAL)).for_each(|(o, x)| combine(by, x, times, o));
}

/// Blocks up to this side are computed whole.
const WHOLE: usize = 128;

/// Rows of a tile when the upper triangle is copied to the lower one: a cache line of columns.
const TILE: usize = 16;

/// Rows of a matrix and their products with each other.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    /// The number of rows, and their length.
    n: usize,
    k: usize,
    /// The distance between rows, and between the elements of one.
    rs: usize,
    cs: usize,
}

impl Rows<'_> {
    fn some(&self, first: usize, count: usize) -> Result<MatRef<'_>> {
        MatRef::new(&self.data[first * self.rs..], count, self.k, self.rs, self.cs)
    }

    /// The products of all rows with all rows, n x n, in bf16. Only half of them are computed, because the others are the same to the bit.
    fn products(&self, out: &mut [f32]) -> Result<()> {
        self.upper(0, self.n, out)?;
        mirror(out, self.n);
        Ok(())
    }

    /// Those of `count` rows from `first` on, on and above the diagonal.
    fn upper(&self, first: usize, count: usize, out: &mut [f32]) -> Result<()> {
        let n = self.n;
        let mut block = |i: usize, h: usize, j: usize, w: usize| {
            let c = MatMut::new(&mut out[i * n + j..], h, w, n)?;
            gemm(Precision::Bf16, self.some(i, h)?, self.some(j, w)?.t(), c, false)
        };
        if count <= WHOLE {
            return block(first, count, first, count);
        }
        let half = (count / 2).next_multiple_of(32);
        block(first, half, first + half, count - half)?;
        self.upper(first, half, out)?;
        self.upper(first + half, count - half, out)
    }
}

/// Copies the upper triangle of an n x n matrix to the lower one.
fn mirror(out: &mut [f32], n: usize) {
    for first in (0..n).step_by(TILE) {
        let (above, below) = out.split_at_mut(first * n);
        let rows = TILE.min(n - first);
        for (i, line) in above.chunks_exact(n).enumerate() {
            for (r, v) in line[first..first + rows].iter().enumerate() {
                below[r * n + i] = *v;
            }
        }
        for r in 1..rows {
            for i in 0..r {
                below[r * n + first + i] = below[i * n + first + r];
            }
        }
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
    let (mut square, mut poly, mut next) = (buffer(n * n), buffer(n * n), buffer(x.len()));
    for &(a, b, c) in coefficients {
        let view = MatRef::row_major(x, rows, cols)?;
        let (rs, cs) = if tall { (1, cols) } else { (cols, 1) };
        Rows { data: x, n, k: rows.max(cols), rs, cs }.products(&mut square)?;
        all(&mut square, &|x| round(x));
        // It is symmetric: the products of its rows are its square.
        Rows { data: &square, n, k: n, rs: n, cs: 1 }.products(&mut poly)?;
        combine_all(b, &square, c, &mut poly);
        let p = MatRef::row_major(&poly, n, n)?;
        let (left, right) = if tall { (view, p) } else { (p, view) };
        gemm(Precision::Bf16, left, right, MatMut::row_major(&mut next, rows, cols)?, false)?;
        combine_all(a, x, 1.0, &mut next);
        x.copy_from_slice(&next);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::random;

    #[test]
    fn half_of_the_products_are_all_of_them_to_the_bit() {
        for (n, k) in [(1, 3), (17, 40), (128, 64), (129, 200), (300, 70), (515, 33)] {
            for transposed in [false, true] {
                let x = random("x", n * k);
                let (rs, cs) = if transposed { (1, n) } else { (k, 1) };
                let rows = Rows { data: &x, n, k, rs, cs };
                let (mut half, mut whole) = (vec![f32::NAN; n * n], vec![0.0; n * n]);
                rows.products(&mut half).unwrap();
                let all = rows.some(0, n).unwrap();
                gemm(Precision::Bf16, all, all.t(), MatMut::row_major(&mut whole, n, n).unwrap(), false).unwrap();
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert!(bits(&half) == bits(&whole), "{n} {k} {transposed}");
            }
        }
    }

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
