#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

use serde::{Deserialize, Serialize};

/// A schedule that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Linear warm-up from 0, then half a cosine down to `min_lr`: MAE's schedule, a function of the fractional epoch.
///
/// ```
/// use candlelight_sched::WarmupCosine;
/// let s = WarmupCosine { lr: 2.4e-3, min_lr: 0.0, warmup_epochs: 40.0, epochs: 800.0 };
/// assert_eq!(s.at(0.0), 0.0);
/// assert!((s.at(20.0) - 1.2e-3).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupCosine {
    /// Rate at the end of the warm-up.
    pub lr: f64,
    /// Rate at the end.
    pub min_lr: f64,
    /// Length of the warm-up, in epochs.
    pub warmup_epochs: f64,
    /// Length of the whole, in epochs.
    pub epochs: f64,
}

impl WarmupCosine {
    /// Checks that the values make sense.
    ///
    /// # Errors
    /// When a rate is negative or not finite, or there is no epoch.
    pub fn check(&self) -> Result<(), Error> {
        for (name, v) in [("lr", self.lr), ("min_lr", self.min_lr), ("warmup_epochs", self.warmup_epochs)] {
            if !(v.is_finite() && v >= 0.0) {
                return Err(Error(format!("{name} is {v}, expected a number of at least 0")));
            }
        }
        if !(self.epochs.is_finite() && self.epochs > 0.0) {
            return Err(Error(format!("epochs is {}, expected more than 0", self.epochs)));
        }
        Ok(())
    }

    /// The rate at a fractional epoch: `epoch + step / steps`.
    pub fn at(&self, epoch: f64) -> f64 {
        if epoch < self.warmup_epochs {
            return self.lr * epoch / self.warmup_epochs;
        }
        let span = (self.epochs - self.warmup_epochs).max(f64::MIN_POSITIVE);
        let done = ((epoch - self.warmup_epochs) / span).min(1.0);
        self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// MAE's scaling rule: `blr * batch / 256`, with the batch over all processes and accumulated steps.
pub fn scaled_lr(blr: f64, effective_batch: usize) -> f64 {
    blr * effective_batch as f64 / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_reference() {
        let pretrain = WarmupCosine { lr: 2.4e-3, min_lr: 0.0, warmup_epochs: 40.0, epochs: 800.0 };
        for (e, want) in [(0.0, 0.0), (0.5, 3e-5), (20.0, 1.2e-3), (420.0, 1.2e-3), (799.0, 1.0252e-8)] {
            assert!((pretrain.at(e) - want).abs() < 1e-4 * want.max(1e-12), "{e}: {}", pretrain.at(e));
        }
        let finetune = WarmupCosine { lr: 2e-3, min_lr: 1e-6, warmup_epochs: 5.0, epochs: 100.0 };
        for (e, want) in [(2.5, 1e-3), (52.5, 1.0005e-3), (99.5, 1.13667e-6)] {
            assert!((finetune.at(e) - want).abs() < 1e-4 * want, "{e}: {}", finetune.at(e));
        }
        assert_eq!(scaled_lr(1.5e-4, 4096), 2.4e-3);
    }

    #[test]
    fn odd_lengths_stay_finite_and_bad_values_are_refused() {
        let s = WarmupCosine { lr: 1.0, min_lr: 0.1, warmup_epochs: 10.0, epochs: 5.0 };
        assert!((0..20).all(|e| s.at(f64::from(e)).is_finite()));
        assert_eq!(WarmupCosine { warmup_epochs: 0.0, ..s }.at(0.0), 1.0);
        assert!(WarmupCosine { lr: f64::NAN, ..s }.check().is_err());
        assert!(WarmupCosine { epochs: 0.0, ..s }.check().is_err());
    }
}
