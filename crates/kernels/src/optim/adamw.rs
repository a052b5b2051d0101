//! AdamW, I. Loshchilov and F. Hutter, arXiv 1711.05101, in one pass over memory: 28 bytes per parameter.

use crate::base::par::SERIAL;
use crate::base::simd::simd_fn;
use crate::error::{Result, expect_len};
use rayon::prelude::*;

/// The numbers that are the same for all tensors in one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Decay rates of the first and second moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The number of this update, counted from 1.
    pub step: u64,
}

/// One tensor's part of an update.
#[derive(Debug)]
pub struct Part<'a> {
    /// The parameter.
    pub param: &'a mut [f32],
    /// The gradient of the parameter.
    pub grad: &'a [f32],
    /// The first moment, the running mean of gradients.
    pub m: &'a mut [f32],
    /// The second moment, the running mean of squared gradients.
    pub v: &'a mut [f32],
    /// The learning rate of the parameter's group.
    pub lr: f64,
    /// The decoupled weight decay of the parameter's group.
    pub weight_decay: f64,
}

#[derive(Clone, Copy)]
struct Scalars {
    decay: f32,
    b2: f32,
    one_minus_b2: f32,
    one_minus_b1: f32,
    step_size: f32,
    inv_sqrt_bc2: f32,
    eps: f32,
}

simd_fn! {
    fn update(s: Scalars, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, &g), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
            *m = (g - *m).mul_add(s.one_minus_b1, *m);
            *v = (g * g).mul_add(s.one_minus_b2, *v * s.b2);
            let denom = v.sqrt().mul_add(s.inv_sqrt_bc2, s.eps);
            *p = (*p * s.decay) - s.step_size * (*m / denom);
        }
    }
}

/// Updates every part of an update by `p <- p (1 - lr wd) - lr/bc1 m / (sqrt(v/bc2) + eps)`, in PyTorch's order of operations.
///
/// # Errors
/// When a part's lengths differ.
pub fn adamw(step: Step, parts: &mut [Part<'_>]) -> Result<()> {
    for part in parts {
        let n = part.param.len();
        for (what, len) in [("grad", part.grad.len()), ("m", part.m.len()), ("v", part.v.len())] {
            expect_len("adamw", what, len, n)?;
        }
        let (b1, b2) = step.betas;
        let t = step.step.max(1) as f64;
        let (bc1, bc2) = (1.0 - b1.powf(t), 1.0 - b2.powf(t));
        let s = Scalars {
            decay: (1.0 - part.lr * part.weight_decay) as f32,
            b2: b2 as f32,
            one_minus_b1: (1.0 - b1) as f32,
            one_minus_b2: (1.0 - b2) as f32,
            step_size: (part.lr / bc1) as f32,
            inv_sqrt_bc2: (1.0 / bc2.sqrt()) as f32,
            eps: step.eps as f32,
        };
        if n <= SERIAL {
            update(s, part.param, part.grad, part.m, part.v);
        } else {
            part.param
                .par_chunks_mut(SERIAL)
                .zip(part.grad.par_chunks(SERIAL))
                .zip(part.m.par_chunks_mut(SERIAL))
                .zip(part.v.par_chunks_mut(SERIAL))
                .for_each(|(((p, g), m), v)| update(s, p, g, m, v));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, f64s, levels, random};

    #[test]
    fn ten_steps_agree_with_f64() {
        let (n, lr, wd, betas, eps) = (37, 1e-2, 0.05, (0.9, 0.95), 1e-8);
        let start = random("p", n);
        let (mut p, mut m, mut v) = (f64s(&start), vec![0.0; n], vec![0.0; n]);
        let runs: Vec<_> = levels()
            .map(|l| {
                with_level(l, || {
                    let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
                    for t in 1..=10 {
                        let g = random(&format!("g{t}"), n);
                        let part = Part { param: &mut p, grad: &g, m: &mut m, v: &mut v, lr, weight_decay: wd };
                        adamw(Step { betas, eps, step: t }, &mut [part]).unwrap();
                    }
                    p
                })
            })
            .collect();
        for t in 1..=10u64 {
            let g = f64s(&random(&format!("g{t}"), n));
            let (bc1, bc2) = (1.0 - f64::powf(betas.0, t as f64), 1.0 - f64::powf(betas.1, t as f64));
            for i in 0..n {
                m[i] = betas.0 * m[i] + (1.0 - betas.0) * g[i];
                v[i] = betas.1 * v[i] + (1.0 - betas.1) * g[i] * g[i];
                p[i] = p[i] * (1.0 - lr * wd) - lr / bc1 * m[i] / ((v[i] / bc2).sqrt() + eps);
            }
        }
        close("p", &runs[0], &p, 1e-6);
        assert!(runs.iter().all(|r| r == &runs[0]), "levels differ");
    }
}
