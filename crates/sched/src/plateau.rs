//! The schedule with a memory: the rate falls when a metric stops improving, as `torch.optim.lr_scheduler.ReduceLROnPlateau`.

use crate::timm::WarmupConfig;
use crate::{Error, check};
use serde::{Deserialize, Serialize};

/// The settings of a rate that falls by `factor` after more than `patience` epochs in a row whose metric is not better than the best one by
/// a relative `threshold`. The metrics of epochs in the warm-up do not count.
///
/// It is no pure function of time: what it remembers, [`PlateauState`], is part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlateauConfig {
    /// The first learning rate, at least 0.
    pub lr: f64,
    /// The lowest, at least 0.
    pub min_lr: f64,
    /// The factor, in [0, 1).
    pub factor: f64,
    /// The number of epochs without an improvement that are let pass.
    pub patience: usize,
    /// The relative improvement that counts, at least 0.
    pub threshold: f64,
    /// Whether a higher metric is better.
    pub maximise: bool,
    /// A linear warm-up; its `prefix` is not used.
    pub warmup: WarmupConfig,
}

impl PlateauConfig {
    /// timm's settings: a tenth after more than 10 epochs without an improvement of 1e-4, of a metric that should rise.
    pub fn new(lr: f64) -> Self {
        let warmup = WarmupConfig::default();
        PlateauConfig { lr, min_lr: 0.0, factor: 0.1, patience: 10, threshold: 1e-4, maximise: true, warmup }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        check("lr", self.lr)?;
        check("min_lr", self.min_lr)?;
        check("threshold", self.threshold)?;
        check("warmup_epochs", self.warmup.epochs)?;
        check("warmup_lr", self.warmup.lr)?;
        if (0.0..1.0).contains(&self.factor) {
            return Ok(());
        }
        Err(Error(format!("decay_rate is {}, expected at least 0 and less than 1 for plateau", self.factor)))
    }

    /// The rate of an epoch.
    pub fn at(&self, epoch: f64, state: &PlateauState) -> f64 {
        let (t, warmup) = ((epoch + 1e-9).floor(), self.warmup.epochs);
        if warmup > 0.0 && t <= warmup {
            return self.warmup.lr + t * (self.lr - self.warmup.lr) / warmup;
        }
        state.lr.unwrap_or(self.lr)
    }

    /// Takes in the metric of an epoch that ended; `epochs` have ended with it. A metric that is no number counts as no improvement.
    pub fn observe(&self, epochs: usize, metric: f64, state: &mut PlateauState) {
        if self.warmup.epochs > 0.0 && epochs as f64 <= self.warmup.epochs {
            return;
        }
        let better = state.best.is_none_or(|best| {
            // A share of the best one's size: torch takes it of the value, so that below 0 a worse metric would be better.
            let margin = if best < 0.0 { -self.threshold } else { self.threshold };
            if self.maximise { metric > best * (1.0 + margin) } else { metric < best * (1.0 - margin) }
        });
        if better && !metric.is_nan() {
            state.best = Some(metric);
            state.bad = 0;
            return;
        }
        state.bad += 1;
        if state.bad > self.patience {
            state.bad = 0;
            let lr = state.lr.unwrap_or(self.lr);
            let next = (lr * self.factor).max(self.min_lr);
            // As torch: a change below 1e-8 is none.
            if lr - next > 1e-8 {
                state.lr = Some(next);
            }
        }
    }
}

/// What [`PlateauConfig`] remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlateauState {
    /// The rate after the first fall.
    pub lr: Option<f64>,
    /// The best metric.
    pub best: Option<f64>,
    /// The epochs in a row without an improvement.
    pub bad: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_below_zero_improve_upwards_too() {
        let config = PlateauConfig { patience: 0, threshold: 0.1, ..PlateauConfig::new(1.0) };
        let mut state = PlateauState::default();
        config.observe(1, -1.0, &mut state);
        config.observe(2, -0.8, &mut state);
        assert_eq!((state.best, state.lr), (Some(-0.8), None));
        config.observe(3, -0.85, &mut state);
        assert_eq!((state.best, state.lr), (Some(-0.8), Some(0.1)), "worse, although within the threshold");
        config.observe(4, f64::NAN, &mut state);
        assert_eq!(state.lr, Some(0.1 * 0.1));
    }
}
