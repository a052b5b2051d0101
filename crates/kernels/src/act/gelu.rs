//! GELU, D. Hendrycks and K. Gimpel, arXiv 1606.08415: exact (erf), as timm's and MAE's models use it, and the tanh form.

use crate::base::par::SERIAL;
use crate::base::simd::{erf, exp, simd_fn};
use crate::error::{Result, expect_len};
use rayon::prelude::*;

/// The formula of GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gelu {
    /// `x Phi(x)`, where Phi is the normal distribution function.
    #[default]
    Erf,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    Tanh,
}

const INV_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
const INV_SQRT_2PI: f32 = 0.398_942_3;
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// tanh through exp, absolute error about 1e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

simd_fn! {
    pub(crate) fn erf_fwd(x: &[f32], out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = 0.5 * x * (1.0 + erf(x * INV_SQRT_2));
        }
    }
}

simd_fn! {
    fn erf_bwd(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((d, &x), &g) in dx.iter_mut().zip(x).zip(dy) {
            let cdf = 0.5 * (1.0 + erf(x * INV_SQRT_2));
            let pdf = exp(-0.5 * x * x) * INV_SQRT_2PI;
            *d = g * x.mul_add(pdf, cdf);
        }
    }
}

simd_fn! {
    pub(crate) fn tanh_fwd(x: &[f32], out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            let u = SQRT_2_OVER_PI * x * (0.044_715 * x).mul_add(x, 1.0);
            *o = 0.5 * x * (1.0 + tanh(u));
        }
    }
}

simd_fn! {
    fn tanh_bwd(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((d, &x), &g) in dx.iter_mut().zip(x).zip(dy) {
            let t = tanh(SQRT_2_OVER_PI * x * (0.044_715 * x).mul_add(x, 1.0));
            let du = SQRT_2_OVER_PI * (3.0 * 0.044_715 * x).mul_add(x, 1.0);
            *d = g * (0.5 * x * (1.0 - t * t)).mul_add(du, 0.5 * (1.0 + t));
        }
    }
}

/// Computes `out = gelu(x)`.
///
/// # Errors
/// When the lengths differ.
pub fn forward(kind: Gelu, x: &[f32], out: &mut [f32]) -> Result<()> {
    expect_len("gelu", "x", x.len(), out.len())?;
    let f = if kind == Gelu::Erf { erf_fwd } else { tanh_fwd };
    out.par_chunks_mut(SERIAL).zip(x.par_chunks(SERIAL)).for_each(|(o, x)| f(x, o));
    Ok(())
}

/// Computes `dx = dy gelu'(x)`.
///
/// # Errors
/// When the lengths differ.
pub fn backward(kind: Gelu, x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    expect_len("gelu backward", "x", x.len(), dx.len())?;
    expect_len("gelu backward", "dy", dy.len(), dx.len())?;
    let f = if kind == Gelu::Erf { erf_bwd } else { tanh_bwd };
    dx.par_chunks_mut(SERIAL).zip(x.par_chunks(SERIAL)).zip(dy.par_chunks(SERIAL)).for_each(|((d, x), g)| f(x, g, d));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, dot64, erf64, f64s, finite_difference, levels, random};

    fn reference(kind: Gelu, x: &[f64]) -> Vec<f64> {
        x.iter()
            .map(|&x| match kind {
                Gelu::Erf => 0.5 * x * (1.0 + erf64(x / 2f64.sqrt())),
                Gelu::Tanh => {
                    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
                }
            })
            .collect()
    }

    #[test]
    fn values_and_gradients_agree_with_f64() {
        let mut x = random("x", 997);
        x.iter_mut().for_each(|v| *v *= 3.0);
        let g = random("g", x.len());
        for kind in [Gelu::Erf, Gelu::Tanh] {
            let fd = finite_difference(&x, |x| dot64(&reference(kind, x), &g));
            let runs: Vec<_> = levels()
                .map(|l| {
                    with_level(l, || {
                        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                        forward(kind, &x, &mut y).unwrap();
                        backward(kind, &x, &g, &mut dx).unwrap();
                        (y, dx)
                    })
                })
                .collect();
            close("gelu", &runs[0].0, &reference(kind, &f64s(&x)), 1e-6);
            close("gelu gradient", &runs[0].1, &fd, 2e-6);
            assert!(runs.iter().all(|r| r == &runs[0]), "levels differ");
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert!(forward(Gelu::Erf, &[1.0], &mut [0.0; 2]).is_err());
        assert!(backward(Gelu::Erf, &[1.0; 2], &[1.0], &mut [0.0; 2]).is_err());
    }
}
