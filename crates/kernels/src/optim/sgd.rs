//! Stochastic gradient descent with momentum (`torch.optim.SGD`), in one pass over memory: 20 bytes per parameter.

use crate::base::par::SERIAL;
use crate::base::simd::simd_fn;
use crate::error::{Result, expect_len};
use rayon::prelude::*;

/// The numbers of one tensor's update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The learning rate.
    pub lr: f64,
    /// The weight decay, which is added to the gradient.
    pub weight_decay: f64,
    /// The factor of the gradient after the decay: the trust ratio of LARS, else 1.
    pub scale: f64,
    /// The decay of the velocity, in [0, 1); with 0 no velocity is kept.
    pub momentum: f64,
    /// Whether the step looks ahead, as Nesterov does.
    pub nesterov: bool,
    /// Whether there is no velocity yet, so that it becomes the gradient.
    pub first: bool,
}

#[derive(Clone, Copy)]
struct Scalars {
    lr: f32,
    weight_decay: f32,
    scale: f32,
    momentum: f32,
    nesterov: bool,
}

simd_fn! {
    fn update(s: Scalars, param: &mut [f32], grad: &[f32], velocity: &mut [f32]) {
        for ((p, &g), v) in param.iter_mut().zip(grad).zip(velocity) {
            let g = p.mul_add(s.weight_decay, g) * s.scale;
            *v = v.mul_add(s.momentum, g);
            *p -= s.lr * if s.nesterov { v.mul_add(s.momentum, g) } else { *v };
        }
    }
}

simd_fn! {
    fn plain(s: Scalars, param: &mut [f32], grad: &[f32]) {
        for (p, &g) in param.iter_mut().zip(grad) {
            *p -= s.lr * (p.mul_add(s.weight_decay, g) * s.scale);
        }
    }
}

/// Updates one tensor: `g = scale (grad + weight_decay p); v = momentum v + g; p -= lr v`, or `p -= lr (g + momentum v)` with Nesterov.
/// Without momentum `velocity` stays empty.
///
/// # Errors
/// When the lengths differ.
pub fn sgd(step: Step, param: &mut [f32], grad: &[f32], velocity: &mut [f32]) -> Result<()> {
    expect_len("sgd", "grad", grad.len(), param.len())?;
    let Step { lr, weight_decay, scale, momentum, nesterov, first } = step;
    let narrow = |momentum: f64| Scalars {
        lr: lr as f32,
        weight_decay: weight_decay as f32,
        scale: scale as f32,
        momentum: momentum as f32,
        nesterov,
    };
    if momentum == 0.0 {
        let s = narrow(0.0);
        param.par_chunks_mut(SERIAL).zip(grad.par_chunks(SERIAL)).for_each(|(p, g)| plain(s, p, g));
        return Ok(());
    }
    expect_len("sgd", "velocity", velocity.len(), param.len())?;
    if first {
        velocity.fill(0.0);
    }
    let parts = param.par_chunks_mut(SERIAL).zip(grad.par_chunks(SERIAL)).zip(velocity.par_chunks_mut(SERIAL));
    parts.for_each(|((p, g), v)| update(narrow(momentum), p, g, v));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, f64s, levels, random};

    #[test]
    fn steps_agree_with_f64_at_every_level() {
        let n = 37;
        let start = random("p", n);
        for (momentum, nesterov, scale) in [(0.0, false, 1.0), (0.9, false, 1.0), (0.9, true, 0.5)] {
            let step = |t| Step { lr: 0.1, weight_decay: 0.05, scale, momentum, nesterov, first: t == 0 };
            let grad = |t: usize| random(&format!("g{t}"), n);
            let runs: Vec<_> = levels()
                .map(|l| {
                    with_level(l, || {
                        // The contents of the velocity do not matter in the first update.
                        let (mut p, mut v) = (start.clone(), vec![f32::NAN; if momentum > 0.0 { n } else { 0 }]);
                        (0..5).for_each(|t| sgd(step(t), &mut p, &grad(t), &mut v).unwrap());
                        p
                    })
                })
                .collect();
            let (mut p, mut v) = (f64s(&start), vec![0.0; n]);
            for t in 0..5 {
                for (i, g) in f64s(&grad(t)).into_iter().enumerate() {
                    let g = scale * (g + 0.05 * p[i]);
                    v[i] = momentum * v[i] + g;
                    p[i] -= 0.1 * if nesterov { g + momentum * v[i] } else { v[i] };
                }
            }
            close("p", &runs[0], &p, 1e-6);
            assert!(runs.iter().all(|r| r == &runs[0]), "levels differ");
        }
        assert!(
            sgd(
                Step { lr: 0.1, weight_decay: 0.0, scale: 1.0, momentum: 0.9, nesterov: false, first: true },
                &mut [0.0; 2],
                &[0.0; 2],
                &mut []
            )
            .is_err()
        );
    }
}
