//! The forms of timm's schedules.

use crate::{Error, check};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The form of a schedule's way down. Those of cosine, tanh and poly go from the highest rate to the lowest over a cycle and can repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Curve {
    /// `(1 + cos(pi (t / T)^k)) / 2`, I. Loshchilov and F. Hutter, arXiv 1608.03983; k-decay is T. Zhang and W. Li, arXiv 2004.05909.
    Cosine {
        /// The exponent k, above 0; 1 is the plain cosine.
        k_decay: f64,
    },
    /// `(1 - tanh(lb (1 - t / T) + ub t / T)) / 2`, B.-Y. Hsueh et al., arXiv 1806.01593.
    Tanh {
        /// The lower bound of the argument.
        lb: f64,
        /// Its upper bound.
        ub: f64,
    },
    /// `(1 - (t / T)^k)^power`.
    Poly {
        /// The power, above 0.
        power: f64,
        /// The exponent k, above 0.
        k_decay: f64,
    },
    /// A factor of `rate` after every so many epochs.
    Step {
        /// The epochs between two steps, above 0.
        every: f64,
        /// The factor of a step.
        rate: f64,
    },
    /// A factor of `rate` at each milestone. As in timm, it acts one epoch (or update) before the milestone; torch's `MultiStepLR` acts at it.
    Multistep {
        /// The epochs at which the rate changes, in ascending order.
        milestones: Vec<f64>,
        /// The factor of each.
        rate: f64,
    },
    /// Warm-up, a stable phase, and a decay at the end.
    Wsd(Wsd),
    /// The same rate.
    Constant,
}

/// Warm-up, stable phase, decay (S. Hu et al., arXiv 2404.06395): the rate is constant, or falls as `(1 + t / timescale)^-0.5` (rsqrt), and is
/// multiplied by a decay in the last epochs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wsd {
    /// The length of the decay in epochs; below 1, its share of all epochs after the warm-up.
    pub decay: f64,
    /// The form of the decay.
    pub form: Decay,
    /// Whether the stable phase falls as the inverse root of time.
    pub rsqrt: bool,
    /// The epochs in which an rsqrt falls to `2^-0.5`; `None` for the length of the warm-up.
    pub timescale: Option<f64>,
}

impl Default for Wsd {
    /// timm's settings of `wsd`: the last fifth decays as `1 - sqrt`.
    fn default() -> Self {
        Wsd { decay: 0.2, form: Decay::OneMinusSqrt, rsqrt: false, timescale: None }
    }
}

/// The decay of [`Wsd`] over its share x of the time, from 1 to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// `1 - sqrt(x)` (A. Hägele et al., arXiv 2405.18392).
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
    /// `1 - x`.
    Linear,
    /// `(1 + cos(pi x)) / 2`.
    Cosine,
    /// `(0.1^x - 0.1) / 0.9`.
    Exp,
}

impl std::str::FromStr for Decay {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "1-sqrt" => Ok(Decay::OneMinusSqrt),
            "linear" => Ok(Decay::Linear),
            "cosine" => Ok(Decay::Cosine),
            "exp" => Ok(Decay::Exp),
            _ => Err(format!("`{s}` is none of 1-sqrt, linear, cosine, exp")),
        }
    }
}

impl Wsd {
    /// The epochs of the decay in a run of so many after the warm-up, rounded to whole ticks.
    fn decay_ticks(&self, length: f64, scale: f64) -> f64 {
        let ticks = if self.decay < 1.0 { self.decay * length } else { self.decay * scale };
        // Half to even, as Python rounds.
        ticks.round_ties_even()
    }

    /// The rate at so many ticks after the warm-up.
    pub(crate) fn at(&self, since: f64, length: f64, warmup: f64, scale: f64, (lr, min_lr): (f64, f64)) -> f64 {
        let stable = if self.rsqrt {
            let timescale = self.timescale.map_or(warmup, |t| t * scale);
            (lr / (1.0 + since / timescale).sqrt()).max(min_lr)
        } else {
            lr.max(min_lr)
        };
        let decay = self.decay_ticks(length, scale);
        let into = since - (length - decay);
        if into <= 0.0 {
            return stable;
        }
        let x = (into / decay).min(1.0);
        let factor = match self.form {
            Decay::OneMinusSqrt => 1.0 - x.sqrt(),
            Decay::Linear => 1.0 - x,
            Decay::Cosine => 0.5 * (1.0 + (PI * x).cos()),
            Decay::Exp => (0.1f64.powf(x) - 0.1) / 0.9,
        };
        min_lr + (stable - min_lr) * factor
    }
}

impl Curve {
    /// The plain cosine.
    pub fn cosine() -> Self {
        Curve::Cosine { k_decay: 1.0 }
    }

    /// timm's hyperbolic tangent, from -7 to 3.
    pub fn tanh() -> Self {
        Curve::Tanh { lb: -7.0, ub: 3.0 }
    }

    /// Whether the curve goes to the lowest rate over a cycle, and can repeat.
    pub(crate) fn repeats(&self) -> bool {
        matches!(self, Curve::Cosine { .. } | Curve::Tanh { .. } | Curve::Poly { .. })
    }

    /// The share of the way that is left at time t of a cycle of this length.
    pub(crate) fn share(&self, t: f64, length: f64) -> f64 {
        let x = (t / length).clamp(0.0, 1.0);
        match self {
            Curve::Cosine { k_decay } => 0.5 * (1.0 + (PI * x.powf(*k_decay)).cos()),
            Curve::Tanh { lb, ub } => 0.5 * (1.0 - (lb * (1.0 - x) + ub * x).tanh()),
            Curve::Poly { power, k_decay } => (1.0 - x.powf(*k_decay)).powf(*power),
            _ => 1.0,
        }
    }

    /// The factor of the rate at t ticks, an epoch having `scale` of them.
    pub(crate) fn factor(&self, t: f64, scale: f64) -> f64 {
        match self {
            Curve::Step { every, rate } => rate.powf((t / (every * scale) + 1e-9).floor()),
            Curve::Multistep { milestones, rate } => {
                rate.powi(milestones.iter().filter(|m| **m * scale <= t + 1.0).count() as i32)
            }
            _ => 1.0,
        }
    }

    pub(crate) fn check(&self, after_warmup: f64, warmup: f64) -> Result<(), Error> {
        let above = |name: &str, v: f64| {
            check(name, v)?;
            if v > 0.0 { Ok(()) } else { Err(Error(format!("{name} is 0, expected more"))) }
        };
        match self {
            Curve::Cosine { k_decay } => above("k_decay", *k_decay),
            Curve::Tanh { lb, ub } if lb < ub => Ok(()),
            Curve::Tanh { lb, ub } => Err(Error(format!("tanh goes from lb {lb} to ub {ub}, expected a larger ub"))),
            Curve::Poly { power, k_decay } => above("the power of poly", *power).and(above("k_decay", *k_decay)),
            Curve::Step { every, rate } => above("decay_epochs", *every).and(check("decay_rate", *rate)),
            Curve::Multistep { milestones, rate } => {
                if milestones.is_empty() || !milestones.is_sorted() || milestones.iter().any(|m| !m.is_finite()) {
                    return Err(Error(format!(
                        "decay_milestones are {milestones:?}, expected epochs in ascending order"
                    )));
                }
                check("decay_rate", *rate)
            }
            Curve::Wsd(wsd) => {
                let length = wsd.decay_ticks(after_warmup, 1.0);
                if wsd.decay.is_nan() || wsd.decay <= 0.0 || length > after_warmup {
                    let d = wsd.decay;
                    return Err(Error(format!(
                        "decay_epochs is {d}, expected more than 0 and at most the {after_warmup} epochs after the warm-up"
                    )));
                }
                if wsd.rsqrt && wsd.timescale.unwrap_or(warmup) <= 0.0 {
                    return Err(Error(
                        "an rsqrt without a warm-up needs a timescale above 0: set lr_stable_timescale".into(),
                    ));
                }
                Ok(())
            }
            Curve::Constant => Ok(()),
        }
    }
}
