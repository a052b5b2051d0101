//! Adadelta, M. Zeiler, arXiv 1212.5701, as `torch.optim.Adadelta`.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_positive, check_share};
use crate::operands::{Formula, Number, Operands, Updated};
use serde::{Deserialize, Serialize};

/// Adadelta's settings. The update is `s = rho s + (1 - rho) g^2; d = sqrt(a + eps) / sqrt(s + eps) g; a = rho a + (1 - rho) d^2;
/// p -= lr d`; weight decay is added to the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdadeltaConfig {
    /// The decay of both mean squares, in [0, 1).
    pub rho: f64,
    /// Added under both roots, at least 0.
    pub eps: f64,
}

impl Default for AdadeltaConfig {
    /// PyTorch's settings: rho 0.9, eps 1e-6.
    fn default() -> Self {
        AdadeltaConfig { rho: 0.9, eps: 1e-6 }
    }
}

struct Update {
    coupled: f32,
    rho: f32,
    take: f32,
    eps: f32,
    lr: f32,
}

impl Formula<2, 0> for Update {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [s, a]: [V; 2]) -> Updated<V, 2, 0> {
        let g = p.clone().mul_add(self.coupled, g);
        let s = g.clone().square().mul_add(self.take, s.times(self.rho));
        let root = |x: V| x.affine(1.0, self.eps).sqrt();
        let d = root(a.clone()) / root(s.clone()) * g;
        let a = d.clone().square().mul_add(self.take, a.times(self.rho));
        (p - d.times(self.lr), [s, a], [])
    }
}

impl Method for AdadeltaConfig {
    fn check(&self) -> Result<()> {
        check_share("rho", self.rho)?;
        check_positive("eps", self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["s", "delta"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let update = Update {
            coupled: now.weight_decay as f32,
            rho: self.rho as f32,
            take: (1.0 - self.rho) as f32,
            eps: self.eps as f32,
            lr: now.lr as f32,
        };
        operands.apply(&update).map(|_| ())
    }
}
