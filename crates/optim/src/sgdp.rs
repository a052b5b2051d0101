//! SGDP, B. Heo et al., arXiv 2006.08217, as timm has it.

use crate::Result;
use crate::method::{Method, Now, SlotSpec, check_positive, check_share};
use crate::operands::{Formula, Number, Operands, Step, Updated};
use crate::projection::Projection;
use serde::{Deserialize, Serialize};

/// SGDP's settings: SGD's direction, from which the part along the weights is removed as [`AdamPConfig`](crate::AdamPConfig) does. Weight
/// decay shrinks the weights by `1 - lr wd / (1 - momentum)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdPConfig {
    /// The decay of the velocity, in [0, 1).
    pub momentum: f64,
    /// Added to norms, at least 0.
    pub eps: f64,
    /// The bound of the cosine, which is divided by the root of a row's length.
    pub delta: f64,
    /// The share of the weight decay for projected weights.
    pub wd_ratio: f64,
    /// Whether the update looks ahead as Nesterov's does.
    pub nesterov: bool,
    /// Whether only elements whose update has the sign of their gradient change (K. Liang et al., arXiv 2411.16085).
    pub caution: bool,
}

impl Default for SgdPConfig {
    /// timm's settings: momentum 0.9, eps 1e-8, delta 0.1, wd_ratio 0.1, Nesterov.
    fn default() -> Self {
        SgdPConfig { momentum: 0.9, eps: 1e-8, delta: 0.1, wd_ratio: 0.1, nesterov: true, caution: false }
    }
}

struct Direction {
    momentum: f32,
    nesterov: bool,
}

impl Formula<1, 0> for Direction {
    #[inline(always)]
    fn update<V: Number>(&self, _: V, g: V, [v]: [V; 1]) -> Updated<V, 1, 0> {
        let v = v.mul_add(self.momentum, g.clone());
        let u = if self.nesterov { v.clone().mul_add(self.momentum, g) } else { v.clone() };
        (u, [v], [])
    }
}

impl Method for SgdPConfig {
    fn check(&self) -> Result<()> {
        check_share("momentum", self.momentum)?;
        check_positive("eps", self.eps)?;
        check_positive("delta", self.delta)?;
        check_positive("wd_ratio", self.wd_ratio)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["velocity"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let mut u = operands.work()?;
        operands.on(&mut u)?.apply(&Direction { momentum: self.momentum as f32, nesterov: self.nesterov })?;
        let &SgdPConfig { delta, wd_ratio, eps, caution, .. } = self;
        let ratio = Projection { delta, wd_ratio, eps, caution }.apply(now.shape, operands, &mut u)?;
        let keep = 1.0 - now.lr * now.weight_decay * ratio / (1.0 - self.momentum);
        operands.along(&u)?.apply(&Step { keep: keep as f32, step: now.lr as f32 }).map(|_| ())
    }
}
