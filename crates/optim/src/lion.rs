//! Lion, X. Chen et al., arXiv 2302.06675.

use crate::Result;
use crate::caution::{Descent, descend};
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::{Number, Operands};
use candlelight_kernels::optim::fused::{Fused, Update};
use serde::{Deserialize, Serialize};

/// Lion's settings. The update is `p = p (1 - lr wd) - lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g`. The paper takes a third to a
/// tenth of AdamW's rate, and three to ten times its weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LionConfig {
    /// Decay rates of the update and of the moment, each in [0, 1).
    pub betas: (f64, f64),
    /// Whether only elements whose update has the sign of their gradient change (K. Liang et al., arXiv 2411.16085).
    pub caution: bool,
}

impl Default for LionConfig {
    /// The paper's: betas (0.9, 0.99).
    fn default() -> Self {
        LionConfig { betas: (0.9, 0.99), caution: false }
    }
}

struct Numbers {
    keep: f32,
    take1: f32,
    take2: f32,
    lr: f32,
}

impl Descent<1> for Numbers {
    #[inline(always)]
    fn direction<V: Number>(&self, _: V, g: V, [m]: [V; 1]) -> ([V; 1], V) {
        let u = m.clone().towards(g.clone(), self.take1).sign();
        ([m.towards(g, self.take2)], u)
    }
    #[inline(always)]
    fn change<V: Number>(&self, p: V, u: V) -> V {
        p.times(self.keep) - u.times(self.lr)
    }
}

impl Method for LionConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), 0.0)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        descend(operands, now.elements(), &self.numbers(now), self.caution)
    }

    fn fused(&self, now: &Now<'_>) -> Option<Fused> {
        let Numbers { keep, take1, take2, lr } = self.numbers(now);
        (!self.caution).then_some(Fused { how: Update::Lion { take1, take2 }, lr, keep, coupled: 0.0 })
    }
}

impl LionConfig {
    fn numbers(&self, now: &Now<'_>) -> Numbers {
        Numbers {
            keep: (1.0 - now.lr * now.weight_decay) as f32,
            take1: (1.0 - self.betas.0) as f32,
            take2: (1.0 - self.betas.1) as f32,
            lr: now.lr as f32,
        }
    }
}
