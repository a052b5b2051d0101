//! timm's schedules: a curve with a warm-up, cycles and noise.

use crate::curve::Curve;
use crate::noise::NoiseConfig;
use crate::{Error, Length, Schedule, check};
use serde::{Deserialize, Serialize};

/// A schedule of timm. Times are in epochs.
///
/// ```
/// use candlelight_sched::{Curve, Length, Schedule, TimmConfig, WarmupConfig};
/// let warmup = WarmupConfig { epochs: 3.0, lr: 1e-5, prefix: false };
/// let s = TimmConfig { min_lr: 1e-6, warmup, ..TimmConfig::new(0.1, 10.0, Curve::cosine()) };
/// let run = Length { epochs: 10.0, steps: 100, samples: 128 };
/// assert_eq!(s.at(0.0, &run), 1e-5);
/// assert!((s.at(3.7, &run) - 0.07938947).abs() < 1e-8); // the value of epoch 3, the whole epoch long
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimmConfig {
    /// The learning rate that the curve starts from, at least 0.
    pub lr: f64,
    /// The learning rate that the curve goes down to, at least 0. Steps and milestones do not use it.
    #[serde(default)]
    pub min_lr: f64,
    /// The length of the first cycle, above 0: timm's `--epochs`.
    pub epochs: f64,
    /// The form of the way down.
    pub curve: Curve,
    /// The warm-up.
    #[serde(default)]
    pub warmup: WarmupConfig,
    /// The cycles, for cosine, tanh and poly.
    #[serde(default)]
    pub cycles: CyclesConfig,
    /// Noise on the rate; `None` adds none.
    #[serde(default)]
    pub noise: Option<NoiseConfig>,
    /// Whether the rate changes with every update instead of every epoch.
    #[serde(default)]
    pub on_updates: bool,
}

/// A linear warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupConfig {
    /// Its length in epochs, at least 0.
    pub epochs: f64,
    /// The learning rate at its start, at least 0.
    pub lr: f64,
    /// Whether the curve begins after the warm-up. Otherwise its first part is replaced, and the rate jumps from the warm-up to the curve.
    pub prefix: bool,
}

impl Default for WarmupConfig {
    /// No warm-up.
    fn default() -> Self {
        WarmupConfig { epochs: 0.0, lr: 0.0, prefix: false }
    }
}

/// How a curve is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CyclesConfig {
    /// The factor from the length of one cycle to the next, above 0.
    pub mul: f64,
    /// The factor from the highest rate of one cycle to the next, above 0.
    pub decay: f64,
    /// The number of cycles, from 1 to 10,000; after them the rate is `min_lr`.
    pub limit: u32,
}

impl Default for CyclesConfig {
    /// One cycle.
    fn default() -> Self {
        CyclesConfig { mul: 1.0, decay: 1.0, limit: 1 }
    }
}

impl CyclesConfig {
    /// The length of all cycles, in lengths of the first.
    fn total(&self) -> f64 {
        (0..self.limit).map(|i| self.mul.powi(i as i32)).sum()
    }

    /// The number of the cycle at time t, its start and its length, in the unit of `first`, the length of the first.
    fn find(&self, t: f64, first: f64) -> (u32, f64, f64) {
        let (mut start, mut length) = (0.0, first);
        for i in 0..self.limit {
            if t < start + length {
                return (i, start, length);
            }
            start += length;
            length *= self.mul;
        }
        (self.limit, start, length)
    }
}

/// What a run can have: more is a slip of the keys, and would never end.
const MOST_CYCLES: u32 = 10_000;
const MOST_EPOCHS: f64 = 1e7;

impl TimmConfig {
    /// A schedule without warm-up, in one cycle, that changes with the epochs.
    pub fn new(lr: f64, epochs: f64, curve: Curve) -> Self {
        let (warmup, cycles) = (WarmupConfig::default(), CyclesConfig::default());
        TimmConfig { lr, min_lr: 0.0, epochs, curve, warmup, cycles, noise: None, on_updates: false }
    }

    /// The epochs of a run by this schedule, as timm counts them: the cycles, `cooldown` epochs at the lowest rate after cosine, tanh, poly
    /// and wsd, and the warm-up where it is a prefix. timm cuts growing cycles to whole epochs.
    pub fn total_epochs(&self, cooldown: usize) -> usize {
        let prefix = if self.warmup.prefix { self.warmup.epochs } else { 0.0 };
        match &self.curve {
            c if c.repeats() => {
                (self.epochs * self.cycles.total() + 1e-9).floor() as usize + prefix as usize + cooldown
            }
            Curve::Wsd(_) => (self.epochs + prefix) as usize + cooldown,
            _ => (self.epochs + prefix) as usize,
        }
    }

    /// The rate at `t` ticks, which are whole epochs or steps; an epoch has `scale` of them.
    fn rate(&self, t: f64, scale: f64) -> f64 {
        let warmup = self.warmup.epochs * scale;
        if t < warmup {
            let target = match &self.curve {
                Curve::Tanh { .. } if !self.warmup.prefix => self.curved(warmup, scale),
                _ => self.lr,
            };
            return self.warmup.lr + t * (target - self.warmup.lr) / warmup;
        }
        self.curved(t, scale)
    }

    fn curved(&self, t: f64, scale: f64) -> f64 {
        let warmup = self.warmup.epochs * scale;
        let t = if self.warmup.prefix { t - warmup } else { t };
        if let Curve::Wsd(wsd) = &self.curve {
            let since = if self.warmup.prefix { t } else { t - warmup };
            let length = self.epochs * scale - if self.warmup.prefix { 0.0 } else { warmup };
            return wsd.at(since, length, self.warmup.epochs * scale, scale, (self.lr, self.min_lr));
        }
        if !self.curve.repeats() {
            return self.lr * self.curve.factor(t, scale);
        }
        let (cycle, start, length) = self.cycles.find(t, self.epochs * scale);
        if cycle >= self.cycles.limit {
            return self.min_lr;
        }
        let top = self.lr * self.cycles.decay.powi(cycle as i32);
        self.min_lr + (top - self.min_lr) * self.curve.share(t - start, length)
    }
}

impl Schedule for TimmConfig {
    fn check(&self) -> Result<(), Error> {
        check("lr", self.lr)?;
        check("min_lr", self.min_lr)?;
        check("warmup_epochs", self.warmup.epochs)?;
        check("warmup_lr", self.warmup.lr)?;
        let positive = [("epochs", self.epochs), ("cycle_mul", self.cycles.mul), ("cycle_decay", self.cycles.decay)];
        for (name, v) in positive {
            check(name, v)?;
            if v == 0.0 {
                return Err(Error(format!("{name} is 0, expected more")));
            }
        }
        let limit = self.cycles.limit;
        if limit == 0 || limit > MOST_CYCLES {
            return Err(Error(format!("cycle_limit is {limit}, expected at least 1 and at most {MOST_CYCLES} cycles")));
        }
        let total = self.epochs * self.cycles.total();
        if total > MOST_EPOCHS {
            return Err(Error(format!("all cycles together have {total:.0} epochs, expected at most {MOST_EPOCHS}")));
        }
        if let Some(noise) = &self.noise {
            noise.check()?;
        }
        let after = if self.warmup.prefix { self.epochs } else { self.epochs - self.warmup.epochs };
        self.curve.check(after, self.warmup.epochs)
    }

    fn at(&self, epoch: f64, run: &Length) -> f64 {
        let scale = if self.on_updates { run.steps.max(1) as f64 } else { 1.0 };
        // Times of steps come as fractions of epochs, whose product with the steps may lie just below a whole number.
        let t = (epoch * scale + 1e-6).floor();
        let rate = self.rate(t, scale);
        self.noise.as_ref().map_or(rate, |n| rate + rate * n.at(t, self.epochs * scale))
    }
}
