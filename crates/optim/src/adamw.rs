//! AdamW, I. Loshchilov and F. Hutter, arXiv 1711.05101.

use crate::method::{Method, Now};
use crate::{Error, Result};
use candle_core::Tensor;
use candlelight_kernels::optim::adamw::{Part, Step, adamw};
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
}

impl Default for AdamWConfig {
    /// PyTorch's settings: betas (0.9, 0.999), eps 1e-8.
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.999), eps: 1e-8 }
    }
}

impl Method for AdamWConfig {
    fn check(&self) -> Result<()> {
        let (b1, b2) = self.betas;
        if (0.0..1.0).contains(&b1) && (0.0..1.0).contains(&b2) && self.eps >= 0.0 {
            return Ok(());
        }
        Err(Error::Config(format!("betas ({b1}, {b2}) are not in [0, 1) or eps {} is negative", self.eps)))
    }

    fn slots(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn host(&self, now: Now, param: &mut [f32], grad: &[f32], slots: &mut [Vec<f32>]) -> Result<()> {
        let [m, v] = slots else { return Err(Error::State("AdamW expects two moments, m and v".into())) };
        let step = Step { betas: self.betas, eps: self.eps, step: now.step };
        Ok(adamw(step, &mut [Part { param, grad, m, v, lr: now.lr, weight_decay: now.weight_decay }])?)
    }

    fn device(&self, now: Now, param: &Tensor, grad: &Tensor, slots: &mut [Tensor]) -> Result<Tensor> {
        let [m, v] = slots else { return Err(Error::State("AdamW expects two moments, m and v".into())) };
        let (b1, b2) = self.betas;
        let correction = |b: f64| 1.0 - b.powi(now.step.min(i32::MAX as u64) as i32);
        *m = ((&*m * b1)? + (grad * (1.0 - b1))?)?;
        *v = ((&*v * b2)? + (grad.sqr()? * (1.0 - b2))?)?;
        let root = v.sqrt()?.affine(1.0 / correction(b2).sqrt(), self.eps)?;
        let update = ((&*m * (now.lr / correction(b1)))? / root)?;
        Ok(((param * (1.0 - now.lr * now.weight_decay))? - update)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        AdamWConfig::default().check().unwrap();
        assert!(
            AdamWConfig { betas: (1.0, 0.9), eps: 1e-8 }.check().unwrap_err().to_string().contains("betas (1, 0.9)")
        );
    }

    #[test]
    fn settings_written_before_are_read() {
        let read = |text: &str| serde_json::from_str::<crate::OptimizerConfig>(text).unwrap();
        let want = AdamWConfig { betas: (0.9, 0.95), eps: 1e-8 };
        assert_eq!(read(r#"{"adam_w":{"betas":[0.9,0.95],"eps":1e-8}}"#), want.into());
        assert_eq!(read(r#"{"adamw":{"betas":[0.9,0.95]}}"#), want.into());
        let now: crate::OptimizerConfig = want.into();
        assert_eq!(read(&serde_json::to_string(&now).unwrap()), now);
    }
}
