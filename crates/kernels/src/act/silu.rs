//! SiLU, `x / (1 + e^-x)`: S. Elfwing et al., arXiv 1702.03118; also called swish.

use crate::base::par::SERIAL;
use crate::base::simd::{exp, simd_fn};
use crate::error::{Result, expect_len};
use rayon::prelude::*;

/// The logistic function. `exp` is of a number that is never positive, so nothing overflows.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let small = e / (1.0 + e);
    if x < 0.0 { small } else { 1.0 - small }
}

simd_fn! {
    fn fwd(x: &[f32], out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = x * sigmoid(x);
        }
    }
}

simd_fn! {
    fn bwd(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((d, &x), &g) in dx.iter_mut().zip(x).zip(dy) {
            let s = sigmoid(x);
            *d = g * s * (x * (1.0 - s) + 1.0);
        }
    }
}

/// Computes `out = silu(x)`.
///
/// # Errors
/// When the lengths differ.
pub fn forward(x: &[f32], out: &mut [f32]) -> Result<()> {
    expect_len("silu", "x", x.len(), out.len())?;
    out.par_chunks_mut(SERIAL).zip(x.par_chunks(SERIAL)).for_each(|(o, x)| fwd(x, o));
    Ok(())
}

/// Computes `dx = dy silu'(x)`.
///
/// # Errors
/// When the lengths differ.
pub fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    expect_len("silu backward", "x", x.len(), dx.len())?;
    expect_len("silu backward", "dy", dy.len(), dx.len())?;
    dx.par_chunks_mut(SERIAL).zip(x.par_chunks(SERIAL)).zip(dy.par_chunks(SERIAL)).for_each(|((d, x), g)| bwd(x, g, d));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, dot64, f64s, finite_difference, levels, random};

    #[test]
    fn values_and_gradients_agree_with_f64() {
        let mut x = random("x", 997);
        x.iter_mut().for_each(|v| *v *= 4.0);
        let g = random("g", x.len());
        let reference = |x: &[f64]| x.iter().map(|x| x / (1.0 + (-x).exp())).collect::<Vec<f64>>();
        let fd = finite_difference(&x, |x| dot64(&reference(x), &g));
        let runs: Vec<_> = levels()
            .map(|l| {
                with_level(l, || {
                    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                    forward(&x, &mut y).unwrap();
                    backward(&x, &g, &mut dx).unwrap();
                    (y, dx)
                })
            })
            .collect();
        close("silu", &runs[0].0, &reference(&f64s(&x)), 1e-6);
        close("silu gradient", &runs[0].1, &fd, 1e-5);
        assert!(runs.iter().all(|r| *r == runs[0]), "levels differ");
    }

    #[test]
    fn large_numbers_neither_overflow_nor_are_lost() {
        let (mut y, mut dx) = ([0.0; 5], [0.0; 5]);
        let x = [-1e30, -200.0, 0.0, 200.0, 1e30];
        forward(&x, &mut y).unwrap();
        backward(&x, &[1.0; 5], &mut dx).unwrap();
        assert_eq!((y[3], y[4], y[2]), (200.0, 1e30, 0.0));
        assert!(y[0].abs() < 1e-6 && y[1].abs() < 1e-6, "{y:?}");
        assert_eq!((dx[2], dx[3], dx[4]), (0.5, 1.0, 1.0));
        assert!(dx[0].abs() < 1e-6 && dx[1].abs() < 1e-6, "{dx:?}");
        assert!(forward(&x, &mut [0.0]).is_err());
    }
}
