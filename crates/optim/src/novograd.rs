//! NovoGrad, B. Ginsburg et al., arXiv 1905.11286, as timm's NvNovoGrad.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::{Formula, Number, Operands, Updated};
use serde::{Deserialize, Serialize};

/// NovoGrad's settings. Each tensor has one second moment, of its gradient's norm: `s = b2 s + (1 - b2) |g|^2`, at first `|g|^2`. The update
/// is `m = b1 m + g / (sqrt(s) + eps) + wd p; p -= lr m`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NovoGradConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment, at least 0.
    pub eps: f64,
    /// Whether weight decay shrinks the weights by `1 - lr wd` instead of being part of the moment, timm's `novogradw`.
    pub decoupled: bool,
}

impl Default for NovoGradConfig {
    /// timm's settings: betas (0.95, 0.98), eps 1e-8.
    fn default() -> Self {
        NovoGradConfig { betas: (0.95, 0.98), eps: 1e-8, decoupled: false }
    }
}

struct Update {
    /// `1 / (sqrt(s) + eps)`.
    scale: f32,
    coupled: f32,
    keep: f32,
    b1: f32,
    lr: f32,
}

impl Formula<1, 0> for Update {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [m]: [V; 1]) -> Updated<V, 1, 0> {
        let p = p.times(self.keep);
        let m = m.mul_add(self.b1, p.clone().mul_add(self.coupled, g.times(self.scale)));
        (p - m.clone().times(self.lr), [m], [])
    }
}

impl Method for NovoGradConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        let mut slots = SlotSpec::zeros(&["m"], shape);
        slots.extend(SlotSpec::zeros(&["s"], &[1]));
        slots
    }

    /// On a device this waits for the norm of the gradient.
    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let (b1, b2) = self.betas;
        let square = operands.norms()?.1.powi(2);
        let before = operands.scalar(1)?;
        let s = if before == 0.0 { square } else { b2 * before + (1.0 - b2) * square };
        operands.set_scalar(1, s)?;
        let decay = now.weight_decay;
        let update = Update {
            scale: (1.0 / (s.sqrt() + self.eps)) as f32,
            coupled: if self.decoupled { 0.0 } else { decay as f32 },
            keep: if self.decoupled { (1.0 - now.lr * decay) as f32 } else { 1.0 },
            b1: b1 as f32,
            lr: now.lr as f32,
        };
        operands.apply(&update).map(|_| ())
    }
}
