//! AdamW, I. Loshchilov and F. Hutter, arXiv 1711.05101.

use crate::Result;
use crate::caution::{Descent, descend};
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::{Number, Operands};
use candlelight_kernels::optim::fused::{Fused, Update};
use serde::{Deserialize, Serialize};

/// AdamW's settings. The update is `m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p = p (1 - lr wd) - lr m' / (sqrt(v') + eps)`, where
/// `m'` and `v'` are `m` and `v` corrected for their bias towards zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment, at least 0.
    pub eps: f64,
    /// Whether only elements whose update has the sign of their gradient change (K. Liang et al., arXiv 2411.16085).
    pub caution: bool,
}

impl Default for AdamWConfig {
    /// PyTorch's settings: betas (0.9, 0.999), eps 1e-8.
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, caution: false }
    }
}

/// The update of Adam and its relatives.
pub(crate) struct Moments {
    /// What is added to the gradient, as a share of the parameter: the weight decay of Adam.
    coupled: f32,
    /// What the parameter is multiplied by: the weight decay of AdamW.
    keep: f32,
    b2: f32,
    take1: f32,
    take2: f32,
    step_size: f32,
    /// `1 / sqrt(1 - b2^t)`.
    root: f32,
    eps: f32,
    /// Whether the direction takes in the gradient once more, as NAdamW does.
    nesterov: bool,
}

impl Moments {
    pub(crate) fn new(now: &Now<'_>, betas: (f64, f64), eps: f64) -> Self {
        Moments {
            coupled: 0.0,
            keep: (1.0 - now.lr * now.weight_decay) as f32,
            b2: betas.1 as f32,
            take1: (1.0 - betas.0) as f32,
            take2: (1.0 - betas.1) as f32,
            step_size: (now.lr / now.correction(betas.0)) as f32,
            root: (1.0 / now.correction(betas.1).sqrt()) as f32,
            eps: eps as f32,
            nesterov: false,
        }
    }

    /// The same with the decay added to the gradient.
    pub(crate) fn coupled(self, weight_decay: f64) -> Self {
        Moments { coupled: weight_decay as f32, keep: 1.0, ..self }
    }

    /// The same with Nesterov's look ahead.
    pub(crate) fn nesterov(self) -> Self {
        Moments { nesterov: true, ..self }
    }
}

impl Moments {
    /// The same for a device's kernel, which knows no look ahead.
    pub(crate) fn fused(&self) -> Option<Fused> {
        let &Moments { coupled, keep, b2, take1, take2, step_size: lr, root, eps, nesterov } = self;
        (!nesterov).then_some(Fused { how: Update::AdamW { take1, b2, take2, root, eps }, lr, keep, coupled })
    }
}

impl Descent<2> for Moments {
    #[inline(always)]
    fn direction<V: Number>(&self, p: V, g: V, [m, v]: [V; 2]) -> ([V; 2], V) {
        let g = p.mul_add(self.coupled, g);
        let m = m.towards(g.clone(), self.take1);
        let v = g.clone().square().mul_add(self.take2, v.times(self.b2));
        let ahead = if self.nesterov { m.clone().towards(g, self.take1) } else { m.clone() };
        let u = ahead / v.clone().sqrt().affine(self.root, self.eps);
        ([m, v], u)
    }
    #[inline(always)]
    fn change<V: Number>(&self, p: V, u: V) -> V {
        p.times(self.keep) - u.times(self.step_size)
    }
}

impl Method for AdamWConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "v"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let moments = Moments::new(now, self.betas, self.eps);
        descend(operands, now.elements(), &moments, self.caution)
    }

    fn fused(&self, now: &Now<'_>) -> Option<Fused> {
        Moments::new(now, self.betas, self.eps).fused().filter(|_| !self.caution)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        AdamWConfig::default().check().unwrap();
        assert!(
            AdamWConfig { betas: (1.0, 0.9), ..AdamWConfig::default() }
                .check()
                .unwrap_err()
                .to_string()
                .contains("beta1 1 is not in [0, 1)")
        );
    }

    #[test]
    fn settings_written_before_are_read() {
        let read = |text: &str| serde_json::from_str::<crate::OptimizerConfig>(text).unwrap();
        let want = AdamWConfig { betas: (0.9, 0.95), ..AdamWConfig::default() };
        assert_eq!(read(r#"{"adam_w":{"betas":[0.9,0.95],"eps":1e-8}}"#), want.into());
        assert_eq!(read(r#"{"adamw":{"betas":[0.9,0.95]}}"#), want.into());
        let now: crate::OptimizerConfig = want.into();
        assert_eq!(read(&serde_json::to_string(&now).unwrap()), now);
    }
}
