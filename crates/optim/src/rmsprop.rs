//! RMSprop, T. Hinton's lecture 6e (2012), as `torch.optim.RMSprop` and as TensorFlow has it.

use crate::Result;
use crate::caution::{Descent, descend};
use crate::method::{Method, Now, SlotSpec, check_positive, check_share};
use crate::operands::{Formula, Number, Operands, Updated};
use serde::{Deserialize, Serialize};

/// RMSprop's settings. The update is `s = alpha s + (1 - alpha) g^2; b = momentum b + g / (sqrt(s) + eps); p -= lr b`; weight decay is
/// added to the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RmsPropConfig {
    /// The decay of the mean square, in [0, 1).
    pub alpha: f64,
    /// The decay of the velocity, in [0, 1); with 0 no velocity is kept.
    pub momentum: f64,
    /// Added to the root of the mean square, at least 0.
    pub eps: f64,
    /// TensorFlow's form, on which MobileNets and EfficientNets were trained: the mean square starts at 1, eps is added under the root,
    /// and the rate is part of the velocity, `b = momentum b + lr g / sqrt(s + eps); p -= b`.
    pub tf: bool,
    /// Whether weight decay shrinks the weights by `1 - lr wd` instead of being added to the gradient.
    pub decoupled: bool,
    /// Whether only elements whose update has the sign of their gradient change (K. Liang et al., arXiv 2411.16085); this needs a momentum.
    pub caution: bool,
}

impl Default for RmsPropConfig {
    /// PyTorch's settings with those that timm sets: alpha 0.9, momentum 0.9, eps 1e-8.
    fn default() -> Self {
        RmsPropConfig { alpha: 0.9, momentum: 0.9, eps: 1e-8, tf: false, decoupled: false, caution: false }
    }
}

struct Update {
    coupled: f32,
    keep: f32,
    alpha: f32,
    take: f32,
    eps: f32,
    momentum: f32,
    lr: f32,
    tf: bool,
}

impl Update {
    /// The mean square and the gradient over its root.
    #[inline(always)]
    fn normed<V: Number>(&self, p: V, g: V, s: V) -> (V, V) {
        let g = p.mul_add(self.coupled, g);
        if self.tf {
            let s = s.towards(g.clone().square(), self.take);
            let root = s.clone().affine(1.0, self.eps).sqrt();
            (s, g / root)
        } else {
            let s = g.clone().square().mul_add(self.take, s.times(self.alpha));
            let root = s.clone().sqrt().affine(1.0, self.eps);
            (s, g / root)
        }
    }
}

impl Descent<2> for Update {
    #[inline(always)]
    fn direction<V: Number>(&self, p: V, g: V, [s, b]: [V; 2]) -> ([V; 2], V) {
        let (s, u) = self.normed(p, g, s);
        let b = u.mul_add(if self.tf { self.lr } else { 1.0 }, b.times(self.momentum));
        ([s, b.clone()], b)
    }
    #[inline(always)]
    fn change<V: Number>(&self, p: V, u: V) -> V {
        p.times(self.keep) - u.times(if self.tf { 1.0 } else { self.lr })
    }
    #[inline(always)]
    fn gradient<V: Number>(&self, p: V, g: V) -> V {
        p.mul_add(self.coupled, g)
    }
}

/// Without momentum.
impl Formula<1, 0> for Update {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [s]: [V; 1]) -> Updated<V, 1, 0> {
        let (s, u) = self.normed(p.clone(), g, s);
        (p.times(self.keep) - u.times(self.lr), [s], [])
    }
}

impl Method for RmsPropConfig {
    fn check(&self) -> Result<()> {
        check_share("alpha", self.alpha)?;
        check_share("momentum", self.momentum)?;
        check_positive("eps", self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        let mut slots = SlotSpec::zeros(if self.momentum > 0.0 { &["s", "velocity"] } else { &["s"] }, shape);
        slots[0].fill = f32::from(u8::from(self.tf));
        slots
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let decay = if self.decoupled { now.lr * now.weight_decay } else { 0.0 };
        let update = Update {
            coupled: if self.decoupled { 0.0 } else { now.weight_decay as f32 },
            keep: (1.0 - decay) as f32,
            alpha: self.alpha as f32,
            take: (1.0 - self.alpha) as f32,
            eps: self.eps as f32,
            momentum: self.momentum as f32,
            lr: now.lr as f32,
            tf: self.tf,
        };
        if self.momentum > 0.0 {
            return descend(operands, now.elements(), &update, self.caution);
        }
        operands.apply::<_, 1, 0>(&update).map(|_| ())
    }
}
