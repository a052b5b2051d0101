//! SGD with momentum: `torch.optim.SGD`.

use crate::method::{Method, Now};
use crate::rules::{Group, Rule};
use crate::{Error, Result};
use candle_core::Tensor;
use candlelight_kernels::optim::sgd::{Step, sgd};
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
}

impl Default for SgdConfig {
    /// The momentum of every ImageNet recipe, 0.9, without Nesterov.
    fn default() -> Self {
        SgdConfig { momentum: 0.9, nesterov: false }
    }
}

/// Refuses a momentum outside [0, 1).
pub(crate) fn check_momentum(momentum: f64) -> Result<()> {
    if (0.0..1.0).contains(&momentum) {
        return Ok(());
    }
    Err(Error::Config(format!("momentum {momentum} is not in [0, 1)")))
}

impl Method for SgdConfig {
    fn check(&self) -> Result<()> {
        check_momentum(self.momentum)?;
        if self.nesterov && self.momentum == 0.0 {
            return Err(Error::Config("Nesterov's update needs a momentum above 0".into()));
        }
        Ok(())
    }

    /// Everything decays, as in PyTorch.
    fn rules(&self, weight_decay: f64) -> Vec<Rule> {
        vec![Rule::named("*", Group { weight_decay, lr_scale: 1.0 })]
    }

    fn slots(&self) -> &'static [&'static str] {
        if self.momentum > 0.0 { &["velocity"] } else { &[] }
    }

    fn host(&self, now: Now, param: &mut [f32], grad: &[f32], slots: &mut [Vec<f32>]) -> Result<()> {
        let SgdConfig { momentum, nesterov } = *self;
        let Now { lr, weight_decay, first, .. } = now;
        let velocity = slots.first_mut().map_or(&mut [][..], |v| v);
        Ok(sgd(Step { lr, weight_decay, scale: 1.0, momentum, nesterov, first }, param, grad, velocity)?)
    }

    fn device(&self, now: Now, param: &Tensor, grad: &Tensor, slots: &mut [Tensor]) -> Result<Tensor> {
        let g = (grad + (param * now.weight_decay)?)?;
        // Slots start as zeros, so that the first velocity is the gradient.
        let v = match slots.first_mut() {
            Some(v) => {
                *v = ((&*v * self.momentum)? + &g)?;
                v.clone()
            }
            None => g.clone(),
        };
        let update = if self.nesterov { (g + (v * self.momentum)?)? } else { v };
        Ok((param - (update * now.lr)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_pytorchs_rule_with_and_without_nesterov() {
        // p = 1, g = 0.5, decay 0.1, momentum 0.9, lr 0.1, by hand in f64.
        for nesterov in [false, true] {
            let config = SgdConfig { momentum: 0.9, nesterov };
            let (mut ours, mut slots) = ([1f32], [vec![0.0]]);
            let (mut p, mut v) = (1.0f64, 0.0);
            for step in 1..5 {
                let g = 0.5 + 0.1 * p;
                v = if step == 1 { g } else { 0.9 * v + g };
                p -= 0.1 * if nesterov { g + 0.9 * v } else { v };
                let now = Now { lr: 0.1, weight_decay: 0.1, step, first: step == 1, rank: 1 };
                config.host(now, &mut ours, &[0.5], &mut slots).unwrap();
                assert!((f64::from(ours[0]) - p).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn settings_are_checked_and_those_written_before_are_read() {
        assert!(SgdConfig { momentum: 1.0, nesterov: false }.check().is_err());
        assert!(SgdConfig { momentum: 0.0, nesterov: true }.check().unwrap_err().to_string().contains("Nesterov"));
        let read = |text: &str| serde_json::from_str::<crate::OptimizerConfig>(text).unwrap();
        let want: crate::OptimizerConfig = SgdConfig { momentum: 0.9, nesterov: true }.into();
        assert_eq!(read(r#"{"sgd":{"sgd":{"momentum":0.9,"nesterov":true}}}"#), want);
        assert_eq!(read(&serde_json::to_string(&want).unwrap()), want);
        for text in [r#"{"sgd":{"momentun":0.9}}"#, r#"{"sgd":{"lars":{"momentun":1}}}"#] {
            let e = serde_json::from_str::<crate::OptimizerConfig>(text).unwrap_err().to_string();
            assert!(e.contains("momentun"), "{e}");
        }
        assert_eq!(read(r#"{"sgd":{"lars":{"momentum":0.9,"trust":0.001}}}"#), crate::LarsConfig::default().into());
    }
}
