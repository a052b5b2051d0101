//! The numerical rank of matrices, as `torch.linalg.matrix_rank` counts it for f32: the number of singular values above
//! `largest * max(rows, columns) * 2^-23`.
//!
//! Singular values are not computed. Their squares are the eigenvalues of the Gram matrix of the shorter side, in f64, where the smallest that
//! count, 1e-13 of the largest for a matrix of 4 x 4, are still far above the rounding. Householder reflections make that matrix
//! tridiagonal, and Sturm's sequence counts the eigenvalues above any number (J. W. Demmel, "Applied Numerical Linear Algebra", 5.3.4).

use crate::error::{Error, Result};
use rayon::prelude::*;

/// The rank of one matrix (rows, columns), row-major.
///
/// # Errors
/// When the number of values differs.
///
/// ```
/// use candlelight_kernels::rank::matrix_rank;
/// assert_eq!(matrix_rank(&[1.0; 16], (4, 4))?, 1);
/// # Ok::<(), candlelight_kernels::Error>(())
/// ```
pub fn matrix_rank(a: &[f32], (rows, columns): (usize, usize)) -> Result<usize> {
    check("matrix_rank", a.len(), rows * columns)?;
    Ok(rank(&a.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), rows, columns))
}

/// The ranks of feature maps: x (B, H, W, C) -> (B, C), each the rank of one H x W map. A map that holds a value that is not finite has rank 0.
///
/// # Errors
/// When the number of values differs.
pub fn feature_map_ranks(x: &[f32], [b, h, w, c]: [usize; 4]) -> Result<Vec<u32>> {
    check("feature_map_ranks", x.len(), b * h * w * c)?;
    let mut out = vec![0; b * c];
    if out.is_empty() || h * w == 0 {
        return Ok(out);
    }
    out.par_chunks_mut(c).zip(x.par_chunks(h * w * c)).for_each(|(out, image)| {
        out.par_iter_mut().enumerate().for_each(|(channel, out)| {
            let map: Vec<f64> = image.iter().skip(channel).step_by(c).map(|v| f64::from(*v)).collect();
            *out = rank(&map, h, w) as u32;
        });
    });
    Ok(out)
}

fn check(op: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Len { op, what: "the input", expected, found })
}

fn rank(a: &[f64], rows: usize, columns: usize) -> usize {
    if a.iter().all(|v| *v == 0.0) || a.iter().any(|v| !v.is_finite()) {
        return 0;
    }
    let n = rows.min(columns);
    let mut gram = vec![0.0; n * n];
    // The entry at `place` of vector `i`, one of the shorter side's.
    let at = |i: usize, place: usize| if rows <= columns { a[i * columns + place] } else { a[place * columns + i] };
    let vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..rows.max(columns)).map(|p| at(i, p)).collect()).collect();
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = vectors[i].iter().zip(&vectors[j]).map(|(x, y)| x * y).sum();
            (gram[i * n + j], gram[j * n + i]) = (dot, dot);
        }
    }
    let (diagonal, beside) = tridiagonal(&mut gram, n);
    let largest = largest(&diagonal, &beside);
    let tolerance = rows.max(columns) as f64 * f64::from(f32::EPSILON);
    above(&diagonal, &beside, largest * tolerance * tolerance)
}

/// Diagonal and off-diagonal of a tridiagonal matrix with the eigenvalues of the symmetric `a`, which is used up.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; n.saturating_sub(1)];
    let (mut v, mut p) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n.saturating_sub(1) {
        let from = k + 1;
        (from..n).for_each(|i| v[i] = a[i * n + k]);
        let norm = v[from..].iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0.0 || from + 1 == n {
            beside[k] = v[from];
            continue;
        }
        let alpha = if v[from] > 0.0 { -norm } else { norm };
        beside[k] = alpha;
        v[from] -= alpha;
        let beta = 2.0 / v[from..].iter().map(|x| x * x).sum::<f64>();
        // a - v q^T - q v^T with q = beta (a v) - (beta / 2) (v . beta a v) v
        for i in from..n {
            p[i] = beta * a[i * n + from..(i + 1) * n].iter().zip(&v[from..]).map(|(x, y)| x * y).sum::<f64>();
        }
        let half = 0.5 * beta * p[from..].iter().zip(&v[from..]).map(|(x, y)| x * y).sum::<f64>();
        (from..n).for_each(|i| p[i] -= half * v[i]);
        for i in from..n {
            let (vi, pi) = (v[i], p[i]);
            for ((x, y), q) in a[i * n + from..(i + 1) * n].iter_mut().zip(&v[from..]).zip(&p[from..]) {
                *x -= vi * q + pi * y;
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), beside)
}

/// The number of eigenvalues above `x`.
fn above(diagonal: &[f64], beside: &[f64], x: f64) -> usize {
    let (mut count, mut q) = (0, 1.0);
    for (i, d) in diagonal.iter().enumerate() {
        let e = if i == 0 { 0.0 } else { beside[i - 1] };
        q = d - x - e * e / q;
        if q == 0.0 {
            q = -f64::MIN_POSITIVE;
        }
        count += usize::from(q > 0.0);
    }
    count
}

/// The largest eigenvalue, by bisection.
fn largest(diagonal: &[f64], beside: &[f64]) -> f64 {
    let e = |i: usize| beside.get(i).map_or(0.0, |e| e.abs());
    let row = |(i, d): (usize, &f64)| d + e(i) + if i > 0 { e(i - 1) } else { 0.0 };
    // Gershgorin's bound, and a value that is below: the largest entry of the diagonal.
    let mut high = diagonal.iter().enumerate().map(row).fold(0.0, f64::max);
    let mut low = diagonal.iter().copied().fold(0.0, f64::max);
    while high - low > 1e-12 * high {
        let middle = low + 0.5 * (high - low);
        if above(diagonal, beside, middle) > 0 { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    fn diag(values: &[f32]) -> Vec<f32> {
        let n = values.len();
        (0..n * n).map(|i| if i % (n + 1) == 0 { values[i / n] } else { 0.0 }).collect()
    }

    #[test]
    fn ranks_are_torchs() {
        let of = |a: &[f32], n: usize| matrix_rank(a, (n, a.len() / n)).unwrap();
        assert_eq!(of(&[0.0; 16], 4), 0);
        assert_eq!(of(&[1.0; 16], 4), 1);
        assert_eq!(of(&diag(&[1.0, 1e-3, 1e-6, 1e-7]), 4), 3);
        assert_eq!(of(&(0..16).map(|v| v as f32).collect::<Vec<_>>(), 4), 2);
        assert_eq!((of(&[2.0], 1), of(&[0.0, 3.0], 1), of(&[0.0, 3.0], 2)), (1, 1, 1));
        assert_eq!(of(&[f32::NAN; 4], 2), 0);
        assert!(matrix_rank(&[1.0], (2, 2)).unwrap_err().to_string().contains("1 elements, expected 4"));
    }

    #[test]
    fn products_of_thin_matrices_have_their_width_as_rank() {
        for (h, w, r) in [(7, 7, 3), (14, 9, 9), (8, 30, 5), (56, 56, 17), (32, 32, 31), (2, 1, 1)] {
            let (a, b) = (Key::new(r).child("a").normal(h * r as usize), Key::new(r).child("b").normal(w * r as usize));
            let r = r as usize;
            let entry =
                |i: usize| (0..r).map(|k| f64::from(a[i / w * r + k]) * f64::from(b[i % w * r + k])).sum::<f64>();
            // In f64 the product is exact enough; rounded to f32 it would have rounding's rank.
            let exact: Vec<f64> = (0..h * w).map(entry).collect();
            assert_eq!(rank(&exact, h, w), r, "{h} x {w}");
        }
    }

    #[test]
    fn maps_of_a_batch_are_ranked_one_by_one() {
        // (2, 3, 2, 2): channel 0 is constant, channel 1 random, and zero in the second image.
        let noise = Key::new(1).normal(6);
        let x: Vec<f32> = (0..24)
            .map(|i| {
                if i % 2 == 0 {
                    1.0
                } else if i < 12 {
                    noise[i / 2]
                } else {
                    0.0
                }
            })
            .collect();
        assert_eq!(feature_map_ranks(&x, [2, 3, 2, 2]).unwrap(), [1, 2, 1, 0]);
        assert!(feature_map_ranks(&x, [2, 3, 2, 3]).is_err());
        assert_eq!(feature_map_ranks(&[], [2, 0, 2, 3]).unwrap(), [0; 6]);
        assert!(feature_map_ranks(&[], [2, 4, 2, 0]).unwrap().is_empty());
    }
}
