//! AdamP, B. Heo et al., arXiv 2006.08217, as timm has it.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_betas, check_positive};
use crate::operands::{Formula, Number, Operands, Step, Updated};
use crate::projection::Projection;
use serde::{Deserialize, Serialize};

/// AdamP's settings: Adam's direction, from which the part along the weights is removed where gradients are nearly orthogonal to them (as
/// they are before a normalisation); such weights decay by `wd_ratio` of the weight decay, which shrinks them by `1 - lr wd`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamPConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment and to norms, at least 0.
    pub eps: f64,
    /// The bound of the cosine, which is divided by the root of a row's length.
    pub delta: f64,
    /// The share of the weight decay for projected weights.
    pub wd_ratio: f64,
    /// Whether the direction takes in the gradient once more.
    pub nesterov: bool,
    /// Whether only elements whose update has the sign of their gradient change (K. Liang et al., arXiv 2411.16085).
    pub caution: bool,
}

impl Default for AdamPConfig {
    /// timm's settings: betas (0.9, 0.999), eps 1e-8, delta 0.1, wd_ratio 0.01, Nesterov.
    fn default() -> Self {
        AdamPConfig { betas: (0.9, 0.999), eps: 1e-8, delta: 0.1, wd_ratio: 0.01, nesterov: true, caution: false }
    }
}

struct Direction {
    take1: f32,
    b2: f32,
    take2: f32,
    root: f32,
    eps: f32,
    nesterov: bool,
}

impl Formula<2, 0> for Direction {
    #[inline(always)]
    fn update<V: Number>(&self, _: V, g: V, [m, v]: [V; 2]) -> Updated<V, 2, 0> {
        let m = m.towards(g.clone(), self.take1);
        let v = g.clone().square().mul_add(self.take2, v.times(self.b2));
        let ahead = if self.nesterov { m.clone().towards(g, self.take1) } else { m.clone() };
        let u = ahead / v.clone().sqrt().affine(self.root, self.eps);
        (u, [m, v], [])
    }
}

impl Method for AdamPConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)?;
        check_positive("delta", self.delta)?;
        check_positive("wd_ratio", self.wd_ratio)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "v"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let (b1, b2) = self.betas;
        let direction = Direction {
            take1: (1.0 - b1) as f32,
            b2: b2 as f32,
            take2: (1.0 - b2) as f32,
            root: (1.0 / now.correction(b2).sqrt()) as f32,
            eps: self.eps as f32,
            nesterov: self.nesterov,
        };
        let mut u = operands.work()?;
        operands.on(&mut u)?.apply(&direction)?;
        let &AdamPConfig { delta, wd_ratio, eps, caution, .. } = self;
        let ratio = Projection { delta, wd_ratio, eps, caution }.apply(now.shape, operands, &mut u)?;
        let keep = (1.0 - now.lr * now.weight_decay * ratio) as f32;
        let step = (now.lr / now.correction(b1)) as f32;
        operands.along(&u)?.apply(&Step { keep, step }).map(|_| ())
    }
}
