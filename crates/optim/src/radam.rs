//! RAdam, L. Liu et al., arXiv 1908.03265, as `torch.optim.RAdam`.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::{Formula, Number, Operands, Updated};
use serde::{Deserialize, Serialize};

/// RAdam's settings. With `rho = rho_inf - 2 t b2^t / (1 - b2^t)` and `rho_inf = 2 / (1 - b2) - 1`, the update is Adam's times
/// `sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho))` where rho is above 5, and `p -= lr m / (1 - b1^t)` before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RAdamConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment, at least 0.
    pub eps: f64,
    /// Whether weight decay shrinks the weights by `1 - lr wd` instead of being added to the gradient.
    pub decoupled: bool,
}

impl Default for RAdamConfig {
    /// PyTorch's settings: betas (0.9, 0.999), eps 1e-8, weight decay added to the gradient.
    fn default() -> Self {
        RAdamConfig { betas: (0.9, 0.999), eps: 1e-8, decoupled: false }
    }
}

/// The length of the moving average's window at a step, and its limit (equations 2 to 4 of the paper).
pub(crate) fn window(now: &Now<'_>, b2: f64) -> (f64, f64) {
    let limit = 2.0 / (1.0 - b2) - 1.0;
    let left = b2.powf(now.step as f64);
    (limit - 2.0 * now.step as f64 * left / (1.0 - left), limit)
}

struct Update {
    coupled: f32,
    keep: f32,
    take1: f32,
    b2: f32,
    take2: f32,
    eps: f32,
    /// The factor of `m / (sqrt(v) + eps)`, or of m alone.
    step: f32,
    rectified: bool,
}

impl Formula<2, 0> for Update {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [m, v]: [V; 2]) -> Updated<V, 2, 0> {
        let g = p.clone().mul_add(self.coupled, g);
        let m = m.towards(g.clone(), self.take1);
        let v = g.square().mul_add(self.take2, v.times(self.b2));
        let u = if self.rectified { m.clone() / v.clone().sqrt().affine(1.0, self.eps) } else { m.clone() };
        (p.times(self.keep) - u.times(self.step), [m, v], [])
    }
}

impl Method for RAdamConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "v"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let (rho, limit) = window(now, self.betas.1);
        let rectified = rho > 5.0;
        let mut step = now.lr / now.correction(self.betas.0);
        if rectified {
            let of = |r: f64| (r - 4.0) * (r - 2.0) / r;
            step *= (of(rho) / of(limit)).sqrt() * now.correction(self.betas.1).sqrt();
        }
        let decay = now.weight_decay;
        let update = Update {
            coupled: if self.decoupled { 0.0 } else { decay as f32 },
            keep: if self.decoupled { (1.0 - now.lr * decay) as f32 } else { 1.0 },
            take1: (1.0 - self.betas.0) as f32,
            b2: self.betas.1 as f32,
            take2: (1.0 - self.betas.1) as f32,
            eps: self.eps as f32,
            step: step as f32,
            rectified,
        };
        operands.apply(&update).map(|_| ())
    }
}
