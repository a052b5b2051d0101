//! AdaBelief, J. Zhuang et al., arXiv 2010.07468, as timm has it.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::{Formula, Number, Operands, Updated};
use crate::radam::window;
use serde::{Deserialize, Serialize};

/// AdaBelief's settings. The second moment is that of the gradient's distance from the first, `s = b2 s + (1 - b2) (g - m)^2 + eps`; the
/// update is `p = p (1 - lr wd) - lr m' / (sqrt(s / (1 - b2^t)) + eps)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaBeliefConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the second moment and to its root, at least 0.
    pub eps: f64,
    /// Whether the rate is rectified as RAdam's is, timm's `radabelief`.
    pub rectify: bool,
}

impl Default for AdaBeliefConfig {
    /// timm's settings of `adabelief`: betas (0.9, 0.999), eps 1e-16, not rectified.
    fn default() -> Self {
        AdaBeliefConfig { betas: (0.9, 0.999), eps: 1e-16, rectify: false }
    }
}

struct Update {
    keep: f32,
    take1: f32,
    b2: f32,
    take2: f32,
    eps: f32,
    /// The factor of the second moment's root.
    root: f32,
    step: f32,
    adaptive: bool,
}

impl Formula<2, 0> for Update {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [m, s]: [V; 2]) -> Updated<V, 2, 0> {
        let m = m.towards(g.clone(), self.take1);
        let s = (g - m.clone()).square().mul_add(self.take2, s.times(self.b2)).affine(1.0, self.eps);
        let u = if self.adaptive { m.clone() / s.clone().sqrt().affine(self.root, self.eps) } else { m.clone() };
        (p.times(self.keep) - u.times(self.step), [m, s], [])
    }
}

impl Method for AdaBeliefConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "s"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let (b1, b2) = self.betas;
        let (mut step, mut root, mut adaptive) = (now.lr / now.correction(b1), 1.0 / now.correction(b2).sqrt(), true);
        if self.rectify {
            let (rho, limit) = window(now, b2);
            // From 5 on, where RAdam begins above 5.
            adaptive = rho >= 5.0;
            root = 1.0;
            if adaptive {
                let of = |r: f64| (r - 4.0) * (r - 2.0) / r;
                step *= (of(rho) / of(limit) * now.correction(b2)).sqrt();
            }
        }
        let update = Update {
            keep: (1.0 - now.lr * now.weight_decay) as f32,
            take1: (1.0 - b1) as f32,
            b2: b2 as f32,
            take2: (1.0 - b2) as f32,
            eps: self.eps as f32,
            root: root as f32,
            step: step as f32,
            adaptive,
        };
        operands.apply(&update).map(|_| ())
    }
}
