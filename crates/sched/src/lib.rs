#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod constant;
mod cosine;
mod curve;
mod noise;
mod plateau;
mod range;
mod span;
mod timm;
mod torch;

pub use constant::ConstantConfig;
pub use cosine::CosineConfig;
pub use curve::{Curve, Decay, Wsd};
pub use noise::NoiseConfig;
pub use plateau::{PlateauConfig, PlateauState};
pub use range::RangeConfig;
pub use span::{Length, Span};
pub use timm::{CyclesConfig, TimmConfig, WarmupConfig};
pub use torch::{TorchConfig, TorchKind};

use serde::{Deserialize, Serialize};

/// A setting of a schedule that is out of range; the text names it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// A learning rate over time. It is a pure function of the time, so a checkpoint need not store it, and a resumed run continues with
/// the rates that the uninterrupted run would have had.
pub trait Schedule {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a rate or a length is negative or not finite.
    fn check(&self) -> Result<(), Error>;

    /// The rate at a time in epochs, `epoch + step / steps`, in a run of this length.
    fn at(&self, epoch: f64, run: &Length) -> f64;

    /// The rate at a step, counted over the whole run.
    fn at_step(&self, step: usize, run: &Length) -> f64 {
        self.at(step as f64 / run.steps.max(1) as f64, run)
    }
}

/// A schedule and its settings, as configuration files and checkpoints store them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleConfig {
    /// The same learning rate during the whole run.
    Constant(ConstantConfig),
    /// Linear warm-up, then half a cosine.
    Cosine(CosineConfig),
    /// A schedule of timm.
    Timm(TimmConfig),
    /// A schedule of PyTorch.
    Torch(TorchConfig),
    /// A rate that falls when a metric stops improving. It has a memory.
    Plateau(PlateauConfig),
    /// A rate that rises through all sizes.
    Range(RangeConfig),
}

impl ScheduleConfig {
    /// The rate at a time in epochs, with what [`PlateauConfig`] remembers; the other schedules are pure functions of the time.
    pub fn rate(&self, epoch: f64, run: &Length, memory: &PlateauState) -> f64 {
        match self {
            ScheduleConfig::Plateau(s) => s.at(epoch, memory),
            _ => self.at(epoch, run),
        }
    }

    /// Takes in the metric of an epoch that ended, for [`PlateauConfig`]; `epochs` have ended with it.
    pub fn observe(&self, epochs: usize, metric: f64, memory: &mut PlateauState) {
        if let ScheduleConfig::Plateau(s) = self {
            s.observe(epochs, metric, memory);
        }
    }
}

impl Schedule for ScheduleConfig {
    fn check(&self) -> Result<(), Error> {
        match self {
            ScheduleConfig::Constant(s) => s.check(),
            ScheduleConfig::Cosine(s) => s.check(),
            ScheduleConfig::Timm(s) => s.check(),
            ScheduleConfig::Torch(s) => s.check(),
            ScheduleConfig::Plateau(s) => s.check(),
            ScheduleConfig::Range(s) => s.check(),
        }
    }

    /// The rate; that of [`PlateauConfig`] is the one before any fall, see [`ScheduleConfig::rate`].
    fn at(&self, epoch: f64, run: &Length) -> f64 {
        match self {
            ScheduleConfig::Constant(s) => s.at(epoch, run),
            ScheduleConfig::Cosine(s) => s.at(epoch, run),
            ScheduleConfig::Timm(s) => s.at(epoch, run),
            ScheduleConfig::Torch(s) => s.at(epoch, run),
            ScheduleConfig::Plateau(s) => s.at(epoch, &PlateauState::default()),
            ScheduleConfig::Range(s) => s.at(epoch, run),
        }
    }
}

impl From<TimmConfig> for ScheduleConfig {
    fn from(s: TimmConfig) -> Self {
        ScheduleConfig::Timm(s)
    }
}

impl From<TorchConfig> for ScheduleConfig {
    fn from(s: TorchConfig) -> Self {
        ScheduleConfig::Torch(s)
    }
}

impl From<PlateauConfig> for ScheduleConfig {
    fn from(s: PlateauConfig) -> Self {
        ScheduleConfig::Plateau(s)
    }
}

impl From<RangeConfig> for ScheduleConfig {
    fn from(s: RangeConfig) -> Self {
        ScheduleConfig::Range(s)
    }
}

impl From<ConstantConfig> for ScheduleConfig {
    fn from(s: ConstantConfig) -> Self {
        ScheduleConfig::Constant(s)
    }
}

impl From<CosineConfig> for ScheduleConfig {
    fn from(s: CosineConfig) -> Self {
        ScheduleConfig::Cosine(s)
    }
}

/// Refuses a setting that is negative or not finite.
fn check(name: &str, v: f64) -> Result<(), Error> {
    if v.is_finite() && v >= 0.0 {
        return Ok(());
    }
    Err(Error(format!("{name} is {v}, expected a number of at least 0")))
}

/// MAE's scaling rule: `blr * batch / 256`, where the batch counts the samples of one update over all processes and accumulated steps.
pub fn scaled_lr(blr: f64, effective_batch: usize) -> f64 {
    blr * effective_batch as f64 / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_and_written_and_follow_steps() {
        let s: ScheduleConfig = CosineConfig { lr: 1.0, min_lr: 0.0, warmup: Span::Steps(4.0) }.into();
        let text = serde_json::to_string(&s).unwrap();
        assert_eq!(text, r#"{"cosine":{"lr":1.0,"min_lr":0.0,"warmup":{"steps":4.0}}}"#);
        assert_eq!(serde_json::from_str::<ScheduleConfig>(&text).unwrap(), s);
        let run = Length { epochs: 2.0, steps: 4, samples: 1 };
        assert_eq!([0, 2, 4, 8].map(|step| s.at_step(step, &run)), [0.0, 0.5, 1.0, 0.0]);
        let constant: ScheduleConfig = ConstantConfig { lr: 0.5 }.into();
        assert_eq!((constant.at_step(3, &run), constant.check().is_ok()), (0.5, true));
        let e = serde_json::from_str::<ScheduleConfig>(r#"{"cosine":{"lr":1.0,"warm":1}}"#).unwrap_err().to_string();
        assert!(e.contains("unknown field `warm`"), "{e}");
        assert_eq!(scaled_lr(1.5e-4, 4096), 2.4e-3);
    }
}
