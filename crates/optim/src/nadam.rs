//! NAdam, T. Dozat, Incorporating Nesterov Momentum into Adam (2016), as `torch.optim.NAdam`.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_betas, check_positive};
use crate::operands::{Formula, Number, Operands, Updated};
use serde::{Deserialize, Serialize};

/// NAdam's settings. With `mu_t = b1 (1 - 0.96^(t momentum_decay) / 2)` and P the product of all `mu` up to t, the update is
/// `p -= lr ((1 - mu_t) / (1 - P) g + mu_{t+1} / (1 - P mu_{t+1}) m) / (sqrt(v / (1 - b2^t)) + eps)`; weight decay is added to the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NAdamConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment, at least 0.
    pub eps: f64,
    /// How fast the momentum grows to `b1`, at least 0.
    pub momentum_decay: f64,
}

impl Default for NAdamConfig {
    /// PyTorch's settings: betas (0.9, 0.999), eps 1e-8, momentum decay 0.004.
    fn default() -> Self {
        NAdamConfig { betas: (0.9, 0.999), eps: 1e-8, momentum_decay: 4e-3 }
    }
}

impl NAdamConfig {
    fn mu(&self, step: u64) -> f64 {
        self.betas.0 * (1.0 - 0.5 * 0.96f64.powf(step as f64 * self.momentum_decay))
    }

    /// The product of all `mu` up to a step. What is below 1e-12 changes nothing in f32.
    fn product(&self, step: u64) -> f64 {
        let mut product = 1.0;
        for t in 1..=step {
            product *= self.mu(t);
            if product < 1e-12 {
                break;
            }
        }
        product
    }
}

struct Update {
    coupled: f32,
    take1: f32,
    b2: f32,
    take2: f32,
    /// `1 / (1 - b2^t)`.
    correction: f32,
    eps: f32,
    of_grad: f32,
    of_moment: f32,
}

impl Formula<2, 0> for Update {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [m, v]: [V; 2]) -> Updated<V, 2, 0> {
        let g = p.clone().mul_add(self.coupled, g);
        let m = m.towards(g.clone(), self.take1);
        let v = g.clone().square().mul_add(self.take2, v.times(self.b2));
        let denominator = v.clone().times(self.correction).sqrt().affine(1.0, self.eps);
        let u = g.mul_add(self.of_grad, m.clone().times(self.of_moment)) / denominator;
        (p - u, [m, v], [])
    }
}

impl Method for NAdamConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)?;
        check_positive("momentum_decay", self.momentum_decay)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "v"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let (mu, next, product) = (self.mu(now.step), self.mu(now.step + 1), self.product(now.step));
        let update = Update {
            coupled: now.weight_decay as f32,
            take1: (1.0 - self.betas.0) as f32,
            b2: self.betas.1 as f32,
            take2: (1.0 - self.betas.1) as f32,
            correction: (1.0 / now.correction(self.betas.1)) as f32,
            eps: self.eps as f32,
            of_grad: (now.lr * (1.0 - mu) / (1.0 - product)) as f32,
            of_moment: (now.lr * next / (1.0 - product * next)) as f32,
        };
        operands.apply(&update).map(|_| ())
    }
}
