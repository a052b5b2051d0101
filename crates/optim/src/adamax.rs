//! Adamax, D. Kingma and J. Ba, arXiv 1412.6980, section 7, as `torch.optim.Adamax`.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::{Formula, Number, Operands, Updated};
use serde::{Deserialize, Serialize};

/// Adamax's settings. The update is `u = max(b2 u, |g| + eps); p -= lr / (1 - b1^t) m / u`; weight decay is added to the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamaxConfig {
    /// Decay rates of the moment and of the largest gradient, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the absolute gradient, at least 0.
    pub eps: f64,
}

impl Default for AdamaxConfig {
    /// PyTorch's settings: betas (0.9, 0.999), eps 1e-8.
    fn default() -> Self {
        AdamaxConfig { betas: (0.9, 0.999), eps: 1e-8 }
    }
}

struct Update {
    coupled: f32,
    take1: f32,
    b2: f32,
    eps: f32,
    step: f32,
}

impl Formula<2, 0> for Update {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [m, u]: [V; 2]) -> Updated<V, 2, 0> {
        let g = p.clone().mul_add(self.coupled, g);
        let m = m.towards(g.clone(), self.take1);
        let u = u.times(self.b2).max(g.abs().affine(1.0, self.eps));
        (p - (m.clone() / u.clone()).times(self.step), [m, u], [])
    }
}

impl Method for AdamaxConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "u"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let update = Update {
            coupled: now.weight_decay as f32,
            take1: (1.0 - self.betas.0) as f32,
            b2: self.betas.1 as f32,
            eps: self.eps as f32,
            step: (now.lr / now.correction(self.betas.0)) as f32,
        };
        operands.apply(&update).map(|_| ())
    }
}
