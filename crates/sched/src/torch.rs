//! The schedules of `torch.optim.lr_scheduler`, by their names there.

use crate::{Error, Length, Schedule, check};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// A schedule of PyTorch. Times are in epochs; a rate holds for a whole epoch, except that of `OneCycleLR`, which changes with every step.
///
/// ```
/// use candlelight_sched::{Length, Schedule, TorchConfig, TorchKind};
/// let kind = TorchKind::MultiStepLR { milestones: vec![3.0, 6.0], gamma: 0.1 };
/// let s = TorchConfig { lr: 0.1, kind };
/// let run = Length { epochs: 10.0, steps: 100, samples: 128 };
/// assert!((s.at(3.5, &run) - 0.01).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TorchConfig {
    /// The learning rate of the optimizer, at least 0; the highest one of `OneCycleLR`.
    pub lr: f64,
    /// The schedule.
    pub kind: TorchKind,
}

/// The schedules of PyTorch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::enum_variant_names)] // these are PyTorch's names
pub enum TorchKind {
    /// `eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2`, which rises again after `t_max`.
    CosineAnnealingLR {
        /// Half the period in epochs, above 0.
        t_max: f64,
        /// The lowest rate.
        eta_min: f64,
    },
    /// The same over cycles of `t_0`, `t_0 t_mult`, ... epochs, each starting at the full rate; there is no warm-up in it.
    CosineAnnealingWarmRestarts {
        /// The length of the first cycle in epochs, at least 1.
        t_0: f64,
        /// The factor from one cycle's length to the next, at least 1.
        t_mult: f64,
        /// The lowest rate.
        eta_min: f64,
    },
    /// A factor of gamma at each milestone.
    MultiStepLR {
        /// The epochs, in ascending order.
        milestones: Vec<f64>,
        /// The factor.
        gamma: f64,
    },
    /// A factor of gamma after every so many epochs.
    StepLR {
        /// The epochs between two steps, above 0.
        step_size: f64,
        /// The factor.
        gamma: f64,
    },
    /// A factor of gamma after every epoch.
    ExponentialLR {
        /// The factor.
        gamma: f64,
    },
    /// One cycle over the steps of the run (L. Smith and N. Topin, arXiv 1708.07120): by cosines from `lr / div_factor` up to `lr`, then down
    /// to `lr / (div_factor final_div_factor)`.
    OneCycleLR {
        /// The share of the steps that goes up, in (0, 1).
        pct_start: f64,
        /// The highest rate over the first, above 0.
        div_factor: f64,
        /// The first rate over the last, above 0.
        final_div_factor: f64,
    },
}

/// Half a cosine from a to b.
fn cosine(a: f64, b: f64, x: f64) -> f64 {
    b + (a - b) * 0.5 * (1.0 + (PI * x).cos())
}

impl Schedule for TorchConfig {
    fn check(&self) -> Result<(), Error> {
        check("lr", self.lr)?;
        type Named = Vec<(&'static str, f64)>;
        let (positive, others): (Named, Named) = match &self.kind {
            TorchKind::CosineAnnealingLR { t_max, eta_min } => (vec![("t_max", *t_max)], vec![("eta_min", *eta_min)]),
            TorchKind::CosineAnnealingWarmRestarts { t_0, t_mult, eta_min } => {
                if *t_0 < 1.0 {
                    return Err(Error(format!("t_0 is {t_0}, expected at least 1 epoch")));
                }
                if *t_mult < 1.0 {
                    return Err(Error(format!("t_mult is {t_mult}, expected at least 1")));
                }
                (vec![("t_0", *t_0)], vec![("t_mult", *t_mult), ("eta_min", *eta_min)])
            }
            TorchKind::MultiStepLR { milestones, gamma } => {
                if milestones.is_empty() || !milestones.is_sorted() {
                    return Err(Error(format!("milestones are {milestones:?}, expected epochs in ascending order")));
                }
                (vec![], vec![("gamma", *gamma)])
            }
            TorchKind::StepLR { step_size, gamma } => (vec![("step_size", *step_size)], vec![("gamma", *gamma)]),
            TorchKind::ExponentialLR { gamma } => (vec![], vec![("gamma", *gamma)]),
            TorchKind::OneCycleLR { pct_start, div_factor, final_div_factor } => {
                if !(*pct_start > 0.0 && *pct_start < 1.0) {
                    return Err(Error(format!("pct_start is {pct_start}, expected a share between 0 and 1")));
                }
                (vec![("div_factor", *div_factor), ("final_div_factor", *final_div_factor)], vec![])
            }
        };
        for (name, v) in others.into_iter().chain(positive.iter().copied()) {
            check(name, v)?;
        }
        match positive.into_iter().find(|(_, v)| *v == 0.0) {
            Some((name, _)) => Err(Error(format!("{name} is 0, expected more"))),
            None => Ok(()),
        }
    }

    fn at(&self, epoch: f64, run: &Length) -> f64 {
        let (lr, t) = (self.lr, (epoch + 1e-9).floor());
        match &self.kind {
            TorchKind::CosineAnnealingLR { t_max, eta_min } => cosine(lr, *eta_min, t / t_max),
            TorchKind::CosineAnnealingWarmRestarts { t_0, t_mult, eta_min } => {
                let (mut start, mut length) = (0.0, *t_0);
                while t >= start + length {
                    start += length;
                    length *= t_mult;
                }
                cosine(lr, *eta_min, (t - start) / length)
            }
            TorchKind::MultiStepLR { milestones, gamma } => {
                lr * gamma.powi(milestones.iter().filter(|m| **m <= t).count() as i32)
            }
            TorchKind::StepLR { step_size, gamma } => lr * gamma.powf((t / step_size + 1e-9).floor()),
            TorchKind::ExponentialLR { gamma } => lr * gamma.powf(t),
            TorchKind::OneCycleLR { pct_start, div_factor, final_div_factor } => {
                let total = (run.epochs * run.steps.max(1) as f64).max(1.0);
                let step = (epoch * run.steps.max(1) as f64 + 1e-6).floor().min(total - 1.0);
                let (first, top) = (lr / div_factor, pct_start * total - 1.0);
                if step <= top {
                    return cosine(first, lr, step / top.max(f64::MIN_POSITIVE));
                }
                cosine(lr, first / final_div_factor, (step - top) / (total - 1.0 - top).max(f64::MIN_POSITIVE))
            }
        }
    }
}
