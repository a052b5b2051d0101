//! Linear warm-up, then half a cosine.

use crate::{Error, Length, Schedule, Span, check};
use serde::{Deserialize, Serialize};

/// Linear warm-up from 0 to `lr`, then half a cosine down to `min_lr`: MAE's schedule, after I. Loshchilov and F. Hutter,
/// arXiv 1608.03983.
///
/// ```
/// use candlelight_sched::{CosineConfig, Length, Schedule, Span};
/// let s = CosineConfig { lr: 2.4e-3, min_lr: 0.0, warmup: Span::Epochs(40.0) };
/// let run = Length { epochs: 800.0, steps: 312, samples: 4096 };
/// assert_eq!(s.at(0.0, &run), 0.0);
/// assert!((s.at(20.0, &run) - 1.2e-3).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosineConfig {
    /// The learning rate at the end of the warm-up, at least 0.
    pub lr: f64,
    /// The learning rate at the end of the run, at least 0.
    #[serde(default)]
    pub min_lr: f64,
    /// The length of the warm-up.
    #[serde(default)]
    pub warmup: Span,
}

impl Schedule for CosineConfig {
    fn check(&self) -> Result<(), Error> {
        check("lr", self.lr)?;
        check("min_lr", self.min_lr)?;
        self.warmup.check("warmup")
    }

    fn at(&self, epoch: f64, run: &Length) -> f64 {
        let warmup = self.warmup.epochs(run);
        if epoch < warmup {
            return self.lr * epoch / warmup;
        }
        let span = (run.epochs - warmup).max(f64::MIN_POSITIVE);
        let done = ((epoch - warmup) / span).min(1.0);
        self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(epochs: f64) -> Length {
        Length { epochs, steps: 10, samples: 4 }
    }

    #[test]
    fn rates_are_those_of_the_reference() {
        let pretrain = CosineConfig { lr: 2.4e-3, min_lr: 0.0, warmup: Span::Epochs(40.0) };
        for (e, want) in [(0.0, 0.0), (0.5, 3e-5), (20.0, 1.2e-3), (420.0, 1.2e-3), (799.0, 1.0252e-8)] {
            let got = pretrain.at(e, &run(800.0));
            assert!((got - want).abs() < 1e-4 * want.max(1e-12), "{e}: {got}");
        }
        let finetune = CosineConfig { lr: 2e-3, min_lr: 1e-6, warmup: Span::Steps(50.0) };
        for (e, want) in [(2.5, 1e-3), (52.5, 1.0005e-3), (99.5, 1.13667e-6)] {
            let got = finetune.at(e, &run(100.0));
            assert!((got - want).abs() < 1e-4 * want, "{e}: {got}");
        }
    }

    #[test]
    fn odd_lengths_stay_finite_and_bad_values_are_refused() {
        let s = CosineConfig { lr: 1.0, min_lr: 0.1, warmup: Span::Epochs(10.0) };
        assert!((0..20).all(|e| s.at(f64::from(e), &run(5.0)).is_finite()));
        assert_eq!(CosineConfig { warmup: Span::default(), ..s }.at(0.0, &run(5.0)), 1.0);
        assert!(CosineConfig { lr: f64::NAN, ..s }.check().unwrap_err().to_string().contains("lr is NaN"));
        assert!(CosineConfig { warmup: Span::Steps(-1.0), ..s }.check().is_err());
    }
}
