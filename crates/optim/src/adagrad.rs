//! Adagrad, J. Duchi, E. Hazan and Y. Singer (JMLR 2011), as `torch.optim.Adagrad`.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_positive};
use crate::operands::{Formula, Number, Operands, Updated};
use serde::{Deserialize, Serialize};

/// Adagrad's settings. The update is `s = s + g^2; p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)`; weight decay is added to the
/// gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdagradConfig {
    /// How fast the rate falls by itself, at least 0.
    pub lr_decay: f64,
    /// Added to the root of the sum, at least 0.
    pub eps: f64,
}

impl Default for AdagradConfig {
    /// timm's settings: no decay of the rate, eps 1e-8.
    fn default() -> Self {
        AdagradConfig { lr_decay: 0.0, eps: 1e-8 }
    }
}

struct Update {
    coupled: f32,
    eps: f32,
    lr: f32,
}

impl Formula<1, 0> for Update {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [s]: [V; 1]) -> Updated<V, 1, 0> {
        let g = p.clone().mul_add(self.coupled, g);
        let s = g.clone().square() + s;
        let u = g / s.clone().sqrt().affine(1.0, self.eps);
        (p - u.times(self.lr), [s], [])
    }
}

impl Method for AdagradConfig {
    fn check(&self) -> Result<()> {
        check_positive("lr_decay", self.lr_decay)?;
        check_positive("eps", self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["sum"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let lr = now.lr / (1.0 + (now.step.max(1) - 1) as f64 * self.lr_decay);
        let update = Update { coupled: now.weight_decay as f32, eps: self.eps as f32, lr: lr as f32 };
        operands.apply(&update).map(|_| ())
    }
}
