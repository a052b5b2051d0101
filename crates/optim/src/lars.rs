//! LARS, Y. You et al., arXiv 1708.03888, as facebookresearch/mae's linear probe has it.

use crate::method::{Method, Now};
use crate::rules::{Group, Rule};
use crate::sgd::check_momentum;
use crate::{Error, Result};
use candle_core::Tensor;
use candlelight_kernels::elementwise::sum_squares;
use candlelight_kernels::optim::sgd::{Step, sgd};
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
}

impl Default for LarsConfig {
    /// The settings of MAE's linear probe: momentum 0.9, trust 0.001.
    fn default() -> Self {
        LarsConfig { momentum: 0.9, trust: 0.001 }
    }
}

impl LarsConfig {
    /// The trust ratio, `trust own / theirs`, of the norm of a parameter (`own`) and of its gradient (`theirs`).
    fn ratio(&self, own: f64, theirs: f64) -> f64 {
        if own > 0.0 && theirs > 0.0 { self.trust * own / theirs } else { 1.0 }
    }
}

impl Method for LarsConfig {
    fn check(&self) -> Result<()> {
        check_momentum(self.momentum)?;
        if self.trust > 0.0 && self.trust.is_finite() {
            return Ok(());
        }
        Err(Error::Config(format!("a trust coefficient of {} is not above 0", self.trust)))
    }

    /// One group: LARS leaves vectors alone by itself.
    fn rules(&self, weight_decay: f64) -> Vec<Rule> {
        vec![Rule::named("*", Group { weight_decay, lr_scale: 1.0 })]
    }

    fn slots(&self) -> &'static [&'static str] {
        if self.momentum > 0.0 { &["velocity"] } else { &[] }
    }

    fn host(&self, now: Now, param: &mut [f32], grad: &[f32], slots: &mut [Vec<f32>]) -> Result<()> {
        let Now { lr, first, rank, .. } = now;
        let weight_decay = if rank > 1 { now.weight_decay } else { 0.0 };
        let mut step = Step { lr, weight_decay, scale: 1.0, momentum: self.momentum, nesterov: false, first };
        if rank > 1 {
            let norm = |x: &[f32]| sum_squares(x).sqrt();
            let decayed = |(g, p): (&f32, &f32)| p.mul_add(weight_decay as f32, *g);
            let theirs = match weight_decay {
                0.0 => norm(grad),
                _ => norm(&grad.iter().zip(&*param).map(decayed).collect::<Vec<_>>()),
            };
            step.scale = self.ratio(norm(param), theirs);
        }
        let velocity = slots.first_mut().map_or(&mut [][..], |v| v);
        Ok(sgd(step, param, grad, velocity)?)
    }

    fn device(&self, now: Now, param: &Tensor, grad: &Tensor, slots: &mut [Tensor]) -> Result<Tensor> {
        let mut g = grad.clone();
        if now.rank > 1 {
            g = (g + (param * now.weight_decay)?)?;
            // Both norms are read on the host, so every matrix waits for the device.
            let norm = |t: &Tensor| Ok::<f64, Error>(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt());
            g = (&g * self.ratio(norm(param)?, norm(&g)?))?;
        }
        let v = match slots.first_mut() {
            Some(v) => {
                *v = ((&*v * self.momentum)? + &g)?;
                v.clone()
            }
            None => g,
        };
        Ok((param - (v * now.lr)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_maes_golden_steps() {
        let config = LarsConfig::default();
        let (mut w, mut b) = ([3f32, 4.0], [1f32]);
        let (mut of_w, mut of_b) = ([vec![0.0; 2]], [vec![0.0]]);
        for (step, (want_w, want_b)) in [(1, (3.968, -2.2)), (2, (3.9074, -8.28))] {
            let now = Now { lr: 6.4, weight_decay: 0.0, step, first: step == 1, rank: 2 };
            config.host(now, &mut w, &[0.0, 0.5], &mut of_w).unwrap();
            config.host(Now { rank: 1, ..now }, &mut b, &[0.5], &mut of_b).unwrap();
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
