//! Stochastic gradient descent with momentum, as `torch.optim.SGD`.

use crate::caution::{Descent, descend};
use crate::method::{Method, Now, SlotSpec, check_share};
use crate::operands::{Formula, Number, Operands, Updated};
use crate::rules::{Group, Rule};
use crate::{Error, Result};
use candlelight_kernels::optim::fused::{Fused, Update};
use serde::{Deserialize, Serialize};

/// SGD's settings. The update is `v = momentum v + g; p -= lr v`, or with Nesterov `p -= lr (g + momentum v)`. The first `v` is the
/// gradient, to which weight decay is added.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// The decay of the velocity, in [0, 1); with 0 no velocity is kept.
    pub momentum: f64,
    /// Whether the update looks ahead as Nesterov's does; this needs a momentum above 0.
    pub nesterov: bool,
    /// Whether weight decay shrinks the weights by `1 - lr wd` instead of being added to the gradient, timm's SGDW.
    pub decoupled: bool,
    /// Whether only elements whose update has the sign of their gradient change (K. Liang et al., arXiv 2411.16085).
    pub caution: bool,
}

impl Default for SgdConfig {
    /// The momentum of every ImageNet recipe, 0.9, without Nesterov.
    fn default() -> Self {
        SgdConfig { momentum: 0.9, nesterov: false, decoupled: false, caution: false }
    }
}

/// The update with a factor on the gradient after the decay, the trust ratio of LARS.
pub(crate) struct Momentum {
    pub(crate) lr: f32,
    /// What is added to the gradient.
    pub(crate) coupled: f32,
    /// What the weights are multiplied by.
    pub(crate) keep: f32,
    pub(crate) scale: f32,
    pub(crate) momentum: f32,
    pub(crate) nesterov: bool,
}

impl Descent<1> for Momentum {
    #[inline(always)]
    fn direction<V: Number>(&self, p: V, g: V, [v]: [V; 1]) -> ([V; 1], V) {
        let g = p.mul_add(self.coupled, g).times(self.scale);
        let v = v.mul_add(self.momentum, g.clone());
        let u = if self.nesterov { v.clone().mul_add(self.momentum, g) } else { v.clone() };
        ([v], u)
    }
    #[inline(always)]
    fn change<V: Number>(&self, p: V, u: V) -> V {
        p.times(self.keep) - u.times(self.lr)
    }
}

/// Without momentum.
impl Formula<0, 0> for Momentum {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, _: [V; 0]) -> Updated<V, 0, 0> {
        let g = p.clone().mul_add(self.coupled, g).times(self.scale);
        (p.times(self.keep) - g.times(self.lr), [], [])
    }
}

impl Momentum {
    /// Makes the update, with the velocity if there is one.
    pub(crate) fn step(&self, operands: &mut Operands<'_>, elements: usize, caution: bool) -> Result<()> {
        if self.momentum > 0.0 {
            return descend(operands, elements, self, caution);
        }
        operands.apply::<_, 0, 0>(self).map(|_| ())
    }
}

impl SgdConfig {
    fn numbers(&self, now: &Now<'_>) -> Momentum {
        let decay = if self.decoupled { now.lr * now.weight_decay } else { 0.0 };
        Momentum {
            lr: now.lr as f32,
            coupled: if self.decoupled { 0.0 } else { now.weight_decay as f32 },
            keep: (1.0 - decay) as f32,
            scale: 1.0,
            momentum: self.momentum as f32,
            nesterov: self.nesterov,
        }
    }
}

impl Method for SgdConfig {
    fn check(&self) -> Result<()> {
        check_share("momentum", self.momentum)?;
        if self.nesterov && self.momentum == 0.0 {
            return Err(Error::Config("Nesterov's update needs a momentum above 0".into()));
        }
        Ok(())
    }

    /// Everything decays, as in PyTorch.
    fn rules(&self, weight_decay: f64) -> Vec<Rule> {
        vec![Rule::named("*", Group { weight_decay, lr_scale: 1.0 })]
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(if self.momentum > 0.0 { &["velocity"] } else { &[] }, shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        self.numbers(now).step(operands, now.elements(), self.caution)
    }

    fn fused(&self, now: &Now<'_>) -> Option<Fused> {
        let Momentum { lr, coupled, keep, momentum, nesterov, .. } = self.numbers(now);
        let kernel = self.momentum > 0.0 && !self.caution;
        kernel.then_some(Fused { how: Update::Sgd { momentum, nesterov }, lr, keep, coupled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_those_written_before_are_read() {
        assert!(SgdConfig { momentum: 1.0, ..SgdConfig::default() }.check().is_err());
        assert!(
            SgdConfig { momentum: 0.0, nesterov: true, ..SgdConfig::default() }
                .check()
                .unwrap_err()
                .to_string()
                .contains("Nesterov")
        );
        let read = |text: &str| serde_json::from_str::<crate::OptimizerConfig>(text).unwrap();
        let want: crate::OptimizerConfig = SgdConfig { momentum: 0.9, nesterov: true, ..SgdConfig::default() }.into();
        assert_eq!(read(r#"{"sgd":{"sgd":{"momentum":0.9,"nesterov":true}}}"#), want);
        assert_eq!(read(&serde_json::to_string(&want).unwrap()), want);
        for text in [r#"{"sgd":{"momentun":0.9}}"#, r#"{"sgd":{"lars":{"momentun":1}}}"#] {
            let e = serde_json::from_str::<crate::OptimizerConfig>(text).unwrap_err().to_string();
            assert!(e.contains("momentun"), "{e}");
        }
        assert_eq!(read(r#"{"sgd":{"lars":{"momentum":0.9,"trust":0.001}}}"#), crate::LarsConfig::default().into());
    }
}
