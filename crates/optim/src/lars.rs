//! LARS, Y. You et al., arXiv 1708.03888, as facebookresearch/mae's linear probe has it and as timm has it.

use crate::method::{Method, Now, SlotSpec, check_share};
use crate::operands::{Formula, Number, Operands, Updated};
use crate::rules::{Group, Rule, mae_rules};
use crate::sgd::Momentum;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// LARS's settings. Weight decay is added to the gradient of a matrix, which is then scaled by the trust ratio `trust |p| / |g|`, or by 1
/// where either norm is 0; gradients of vectors are used as they are. The update is `v = momentum v + g; p -= lr v`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LarsConfig {
    /// The decay of the velocity, in [0, 1).
    pub momentum: f64,
    /// The trust coefficient, above 0.
    pub trust: f64,
    /// timm's form: the ratio is `trust |p| / (|g| + wd |p| + eps)` with the gradient's norm before the decay, for all parameters that
    /// decay and no others.
    pub timm: Option<TimmLars>,
}

/// What timm's LARS has besides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimmLars {
    /// Added to the denominator of the trust ratio, at least 0.
    pub eps: f64,
    /// Whether the ratio divided by the rate is at most 1, which makes it LARC.
    pub trust_clip: bool,
    /// Whether the update looks ahead as Nesterov's does.
    pub nesterov: bool,
}

impl Default for TimmLars {
    /// timm's settings: eps 1e-8.
    fn default() -> Self {
        TimmLars { eps: 1e-8, trust_clip: false, nesterov: false }
    }
}

impl Default for LarsConfig {
    /// The settings of MAE's linear probe: momentum 0.9, trust 0.001.
    fn default() -> Self {
        LarsConfig { momentum: 0.9, trust: 0.001, timm: None }
    }
}

impl LarsConfig {
    /// The trust ratio, `trust own / theirs`, of the norm of a parameter (`own`) and of its gradient (`theirs`).
    fn ratio(&self, own: f64, theirs: f64) -> f64 {
        if own > 0.0 && theirs > 0.0 { self.trust * own / theirs } else { 1.0 }
    }

    fn timms_ratio(&self, timm: &TimmLars, now: &Now<'_>, (own, theirs): (f64, f64)) -> f64 {
        let ratio = if own > 0.0 && theirs > 0.0 {
            self.trust * own / (theirs + own * now.weight_decay + timm.eps)
        } else {
            1.0
        };
        if timm.trust_clip { (ratio / now.lr).min(1.0) } else { ratio }
    }
}

/// The sum of squares of the gradient with its decay; changes nothing.
struct Decayed(f32);

impl Formula<0, 1> for Decayed {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, _: [V; 0]) -> Updated<V, 0, 1> {
        let square = p.clone().mul_add(self.0, g).square();
        (p, [], [square])
    }
}

impl Method for LarsConfig {
    fn check(&self) -> Result<()> {
        check_share("momentum", self.momentum)?;
        if self.timm.is_some_and(|t| t.nesterov && self.momentum == 0.0) {
            return Err(Error::Config("Nesterov's update needs a momentum above 0".into()));
        }
        if self.trust > 0.0 && self.trust.is_finite() {
            return Ok(());
        }
        Err(Error::Config(format!("a trust coefficient of {} is not above 0", self.trust)))
    }

    /// MAE's leaves vectors alone by itself and has one group; timm's leaves alone what does not decay.
    fn rules(&self, weight_decay: f64) -> Vec<Rule> {
        match self.timm {
            Some(_) => mae_rules(weight_decay),
            None => vec![Rule::named("*", Group { weight_decay, lr_scale: 1.0 })],
        }
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(if self.momentum > 0.0 { &["velocity"] } else { &[] }, shape)
    }

    /// On a device every parameter that is scaled waits for its norms.
    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let adapts = if self.timm.is_some() { now.weight_decay != 0.0 } else { now.shape.len() > 1 };
        let decay = if adapts { now.weight_decay } else { 0.0 };
        let scale = match &self.timm {
            _ if !adapts => 1.0,
            Some(timm) => self.timms_ratio(timm, now, operands.norms()?),
            None => {
                let (own, theirs) = operands.norms()?;
                let theirs = if decay == 0.0 { theirs } else { operands.apply(&Decayed(decay as f32))?[0].sqrt() };
                self.ratio(own, theirs)
            }
        };
        let step = Momentum {
            lr: now.lr as f32,
            coupled: decay as f32,
            keep: 1.0,
            scale: scale as f32,
            momentum: self.momentum as f32,
            nesterov: self.timm.is_some_and(|t| t.nesterov),
        };
        step.step(operands, now.elements(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operands::Place;

    #[test]
    fn it_follows_maes_golden_steps() {
        let config = LarsConfig::default();
        let (mut w, mut b) = ([3f32, 4.0], [1f32]);
        let (mut of_w, mut of_b) = ([vec![0.0; 2]], [vec![0.0]]);
        for (step, (want_w, want_b)) in [(1, (3.968, -2.2)), (2, (3.9074, -8.28))] {
            let now = Now { lr: 6.4, weight_decay: 0.0, step, first: step == 1, shape: &[1, 2], global_norm: 0.0 };
            let host = |param, grad, slots| Operands { place: Place::Host { param, grad, slots } };
            config.update(&now, &mut host(&mut w, &[0.0, 0.5], &mut of_w)).unwrap();
            config.update(&Now { shape: &[1], ..now }, &mut host(&mut b, &[0.5], &mut of_b)).unwrap();
            assert!((w[1] - want_w).abs() < 2e-4 && w[0] == 3.0, "{w:?}");
            assert!((b[0] - want_b).abs() < 1e-5, "{b:?}");
        }
    }

    #[test]
    fn settings_are_checked() {
        assert!(LarsConfig { trust: 0.0, ..LarsConfig::default() }.check().is_err());
        assert!(LarsConfig { momentum: -0.1, ..LarsConfig::default() }.check().is_err());
    }
}
