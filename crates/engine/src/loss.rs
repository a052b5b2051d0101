//! The losses of a classifier, as configurations name them.

use crate::error::{Error, Result};
use candlelight_nn::loss::AsymmetricConfig;
use serde::{Deserialize, Serialize};

/// The loss of a classifier. Batches with soft targets, such as mixed images, use these instead of their labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LossConfig {
    /// Softmax cross-entropy.
    CrossEntropy {
        /// Label smoothing, in [0, 1), of class labels; soft targets are smoothed where they are made.
        smoothing: f32,
    },
    /// Binary cross-entropy of every class by itself (R. Wightman et al., arXiv 2110.00476).
    BinaryCrossEntropy {
        /// Label smoothing s, in [0, 1): the targets of K classes are `1 - s + s / K` for the right class and `s / K` for the others.
        smoothing: f32,
        /// The threshold above which targets become 1; all others become 0. `None` leaves targets as they are.
        threshold: Option<f32>,
        /// Whether the loss of a sample is the sum over classes instead of the mean.
        sum: bool,
        /// The factor of positive targets, above 0; `None` for 1.
        #[serde(default)]
        pos_weight: Option<f32>,
    },
    /// The asymmetric loss for several labels per image (T. Ridnik et al., arXiv 2009.14119).
    Asymmetric(AsymmetricConfig),
    /// Cross-entropy on the clean view, and the divergence of all views (D. Hendrycks et al., arXiv 1912.02781). Its batches have `splits`
    /// views of each sample, the first of them clean.
    Jsd {
        /// The number of views, at least 2.
        splits: usize,
        /// The factor of the divergence, at least 0.
        alpha: f32,
        /// Label smoothing, in [0, 1).
        smoothing: f32,
    },
    /// The focal loss of a softmax (T.-Y. Lin et al., arXiv 1708.02002).
    Focal {
        /// The exponent, at least 0.
        gamma: f64,
        /// Label smoothing, in [0, 1).
        smoothing: f32,
    },
    /// The dice loss of a softmax over the batch.
    Dice {
        /// What is added to numerator and denominator of each class, above 0.
        smooth: f64,
    },
    /// The mean squared difference of the outputs and one-hot targets, or the columns of numbers of the data.
    Mse,
    /// The Huber loss of the same.
    Huber {
        /// The difference from which on it is linear, above 0.
        delta: f64,
    },
    /// The same over its bound (`torch.nn.SmoothL1Loss`).
    SmoothL1 {
        /// The difference from which on it is linear, above 0.
        beta: f64,
    },
}

impl LossConfig {
    /// The smoothing of class labels.
    pub(crate) fn smoothing(&self) -> f32 {
        match *self {
            LossConfig::CrossEntropy { smoothing }
            | LossConfig::BinaryCrossEntropy { smoothing, .. }
            | LossConfig::Jsd { smoothing, .. }
            | LossConfig::Focal { smoothing, .. } => smoothing,
            _ => 0.0,
        }
    }

    /// Whether samples may have several labels, or numbers, instead of one class.
    pub fn takes_targets(&self) -> bool {
        !matches!(
            self,
            LossConfig::CrossEntropy { .. }
                | LossConfig::Jsd { .. }
                | LossConfig::Focal { .. }
                | LossConfig::Dice { .. }
        )
    }

    /// Whether its targets are numbers, such as columns of a list, where samples have no classes.
    pub fn compares_numbers(&self) -> bool {
        matches!(self, LossConfig::Mse | LossConfig::Huber { .. } | LossConfig::SmoothL1 { .. })
    }

    /// Refuses a setting that is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let smoothing = self.smoothing();
        if !(0.0..1.0).contains(&smoothing) {
            return Err(Error::Config(format!("smoothing {smoothing} is outside [0, 1)")));
        }
        let above = |name: &str, v: f64| {
            if v > 0.0 && v.is_finite() {
                return Ok(());
            }
            Err(Error::Config(format!("{name} is {v}, expected a number above 0")))
        };
        match *self {
            LossConfig::BinaryCrossEntropy { pos_weight: Some(w), .. } => above("pos_weight", w.into()),
            LossConfig::Focal { gamma, .. } if gamma.is_nan() || gamma < 0.0 => {
                Err(Error::Config(format!("gamma is {gamma}, expected at least 0")))
            }
            LossConfig::Asymmetric(AsymmetricConfig { gamma_neg, gamma_pos, clip }) => {
                if gamma_neg >= 0.0 && gamma_pos >= 0.0 && (0.0..1.0).contains(&clip) {
                    return Ok(());
                }
                Err(Error::Config(format!(
                    "gamma_neg {gamma_neg} and gamma_pos {gamma_pos} must be at least 0, and clip {clip} in [0, 1)"
                )))
            }
            LossConfig::Jsd { splits, alpha, .. } if splits < 2 || alpha.is_nan() || alpha < 0.0 => {
                Err(Error::Config(format!(
                    "jsd: {splits} splits and alpha {alpha}, expected at least 2 splits and an alpha of at least 0"
                )))
            }
            LossConfig::Dice { smooth } => above("smooth", smooth),
            LossConfig::Huber { delta } => above("delta", delta),
            LossConfig::SmoothL1 { beta } => above("beta", beta),
            _ => Ok(()),
        }
    }

    /// Whether weights of classes have a meaning for it.
    pub(crate) fn takes_weights(&self) -> bool {
        matches!(
            self,
            LossConfig::CrossEntropy { .. } | LossConfig::BinaryCrossEntropy { .. } | LossConfig::Focal { .. }
        )
    }
}
