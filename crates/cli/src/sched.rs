//! The flags of timm's schedules.

use crate::Result;
use candlelight_sched::{
    ConstantConfig, Curve, CyclesConfig, Decay, NoiseConfig, PlateauConfig, Schedule, ScheduleConfig, TimmConfig,
    TorchConfig, TorchKind, WarmupConfig, Wsd,
};
use candlelight_store::nearest;
use clap::Args;
use serde::Serialize;

/// The names of schedules: timm's, and torch's as they are called there.
pub const NAMES: [&str; 16] = [
    "cosine",
    "tanh",
    "step",
    "multistep",
    "poly",
    "plateau",
    "wsd",
    "rsqrt",
    "constant",
    "none",
    "onecycle",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "MultiStepLR",
    "StepLR",
    "ExponentialLR",
];

/// The flags of timm's schedules, with its names. Without a flag, the value is that of [`Defaults`].
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize)]
#[command(rename_all = "snake_case")]
pub struct SchedArgs {
    /// Lowest learning rate of schedules that go down to one
    #[arg(long, value_name = "LR", help_heading = "Schedule")]
    pub min_lr: Option<f64>,
    /// Learning rate at the start of the warm-up
    #[arg(long, value_name = "LR", help_heading = "Schedule")]
    pub warmup_lr: Option<f64>,
    /// Epochs of linear warm-up
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    pub warmup_epochs: Option<f64>,
    /// Put the warm-up before the schedule; otherwise it replaces the schedule's first part
    #[arg(long, help_heading = "Schedule")]
    pub warmup_prefix: bool,
    /// Epochs at the lowest rate after the schedule (cosine, tanh, poly, wsd, rsqrt)
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    pub cooldown_epochs: Option<usize>,
    /// Epochs between steps (step, StepLR), of the first cycle (CosineAnnealingWarmRestarts), or of the decay (wsd, rsqrt; below 1: its share)
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    pub decay_epochs: Option<f64>,
    /// Epochs at which the rate changes (multistep, MultiStepLR) [default: 90 180 270]
    #[arg(long, action = clap::ArgAction::Set, num_args = 1.., value_name = "EPOCHS", help_heading = "Schedule")]
    pub decay_milestones: Option<Vec<f64>>,
    /// Factor of a step (step, multistep, plateau, StepLR, MultiStepLR, ExponentialLR), or the power of poly
    #[arg(long, visible_alias = "dr", value_name = "RATE", help_heading = "Schedule")]
    pub decay_rate: Option<f64>,
    /// Epochs without an improvement that plateau lets pass
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    pub patience_epochs: Option<usize>,
    /// Where noise on the rate begins and ends, as shares of the epochs
    #[arg(long, action = clap::ArgAction::Set, num_args = 1..=2, value_name = "SHARE", help_heading = "Schedule")]
    pub lr_noise: Option<Vec<f64>>,
    /// Largest noise, as a share of the rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.67, help_heading = "Schedule")]
    pub lr_noise_pct: f64,
    /// Standard deviation of the noise
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, help_heading = "Schedule")]
    pub lr_noise_std: f64,
    /// Factor from the length of one cycle to the next
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, help_heading = "Schedule")]
    pub lr_cycle_mul: f64,
    /// Factor from the highest rate of one cycle to the next
    #[arg(long, value_name = "FACTOR", help_heading = "Schedule")]
    pub lr_cycle_decay: Option<f64>,
    /// Number of cycles
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Schedule")]
    pub lr_cycle_limit: u32,
    /// Exponent of the time (cosine, poly)
    #[arg(long, value_name = "K", default_value_t = 1.0, help_heading = "Schedule")]
    pub lr_k_decay: f64,
    /// Form of the decay of wsd and rsqrt: 1-sqrt, linear, cosine or exp
    #[arg(long, value_name = "FORM", help_heading = "Schedule")]
    pub lr_decay_fn: Option<Decay>,
    /// Epochs in which rsqrt falls to 0.71 of its start [default: the warm-up]
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    pub lr_stable_timescale: Option<f64>,
    /// Change the rate with every update instead of every epoch
    #[arg(long, help_heading = "Schedule")]
    pub sched_on_updates: bool,
}

/// The values of flags that are not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// The schedule.
    pub sched: &'static str,
    /// The epochs of the run.
    pub epochs: usize,
    /// `--warmup_lr`.
    pub warmup_lr: f64,
    /// `--warmup_epochs`.
    pub warmup_epochs: f64,
    /// `--min_lr`.
    pub min_lr: f64,
    /// `--cooldown_epochs`.
    pub cooldown_epochs: usize,
    /// `--decay_epochs`, except for wsd and rsqrt, whose decay takes the last fifth.
    pub decay_epochs: f64,
    /// `--decay_milestones`.
    pub milestones: &'static [f64],
    /// `--sched_on_updates`.
    pub on_updates: bool,
    /// `--lr_cycle_decay`; `None` for the value of `--decay_rate`, as timm had it.
    pub cycle_decay: Option<f64>,
}

impl Defaults {
    /// Those of timm 0.4, for which most published recipes were written.
    pub const TIMM_0_4: Defaults = Defaults {
        sched: "step",
        epochs: 200,
        warmup_lr: 1e-4,
        warmup_epochs: 3.0,
        min_lr: 1e-5,
        cooldown_epochs: 10,
        decay_epochs: 30.0,
        milestones: &[90.0, 180.0, 270.0],
        on_updates: false,
        cycle_decay: None,
    };
    /// Those of timm 1.0.
    pub const TIMM_1_0: Defaults = Defaults {
        sched: "cosine",
        epochs: 300,
        warmup_lr: 1e-5,
        warmup_epochs: 5.0,
        min_lr: 0.0,
        cooldown_epochs: 0,
        decay_epochs: 90.0,
        milestones: &[90.0, 180.0, 270.0],
        on_updates: false,
        cycle_decay: Some(0.5),
    };
}

/// A run that a schedule is made for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// The learning rate that the schedule starts from.
    pub lr: f64,
    /// The epochs of the first cycle.
    pub epochs: usize,
    /// Whether a higher metric is better, for plateau.
    pub maximise: bool,
    /// The seed of the noise.
    pub seed: u64,
}

impl SchedArgs {
    /// The rate at the end of the run, where none is given.
    pub(crate) fn last(&mut self, lr: f64) {
        self.min_lr.get_or_insert(lr);
    }

    /// Gives flags their defaults. Those that mean different things to different schedules are left to them.
    pub(crate) fn fill(&mut self, d: &Defaults, decay_rate: f64) {
        self.min_lr.get_or_insert(d.min_lr);
        self.warmup_lr.get_or_insert(d.warmup_lr);
        self.warmup_epochs.get_or_insert(d.warmup_epochs);
        self.cooldown_epochs.get_or_insert(d.cooldown_epochs);
        self.decay_rate.get_or_insert(decay_rate);
        self.patience_epochs.get_or_insert(10);
        self.sched_on_updates |= d.on_updates;
    }

    /// The schedule of a name, and the epochs of the whole run: cycles, cool-down and a warm-up before them are added as in timm.
    ///
    /// # Errors
    /// When there is no such schedule, or a setting is out of range.
    pub fn schedule(&self, name: &str, run: Run, defaults: &Defaults) -> Result<(ScheduleConfig, usize)> {
        let made = self.make(name, run, defaults)?;
        made.check()?;
        let epochs = match &made {
            ScheduleConfig::Timm(timm) => timm.total_epochs(self.cooldown_epochs.unwrap_or(defaults.cooldown_epochs)),
            _ => run.epochs,
        };
        Ok((made, epochs))
    }

    fn make(&self, name: &str, run: Run, defaults: &Defaults) -> Result<ScheduleConfig> {
        let Run { lr, epochs, maximise, seed } = run;
        let min_lr = self.min_lr.unwrap_or(defaults.min_lr);
        let rate = self.decay_rate.unwrap_or(0.1);
        let every = self.decay_epochs.unwrap_or(defaults.decay_epochs);
        let milestones = || self.decay_milestones.clone().unwrap_or_else(|| defaults.milestones.to_vec());
        let warmup = WarmupConfig {
            epochs: self.warmup_epochs.unwrap_or(defaults.warmup_epochs),
            lr: self.warmup_lr.unwrap_or(defaults.warmup_lr),
            prefix: self.warmup_prefix,
        };
        let torch = |kind| Ok(TorchConfig { lr, kind }.into());
        let curve = match name {
            "cosine" => Curve::Cosine { k_decay: self.lr_k_decay },
            "tanh" => Curve::tanh(),
            "poly" => Curve::Poly { power: rate, k_decay: self.lr_k_decay },
            "step" => Curve::Step { every, rate },
            "multistep" => Curve::Multistep { milestones: milestones(), rate },
            "constant" => Curve::Constant,
            "wsd" | "rsqrt" => {
                let rsqrt = name == "rsqrt";
                let form = self.lr_decay_fn.unwrap_or(if rsqrt { Decay::Linear } else { Decay::OneMinusSqrt });
                let decay = self.decay_epochs.unwrap_or(0.2);
                Curve::Wsd(Wsd { decay, form, rsqrt, timescale: self.lr_stable_timescale })
            }
            "none" => return Ok(ConstantConfig { lr }.into()),
            "plateau" => {
                let patience = self.patience_epochs.unwrap_or(10);
                let plateau = PlateauConfig::new(lr);
                return Ok(PlateauConfig { min_lr, factor: rate, patience, maximise, warmup, ..plateau }.into());
            }
            "onecycle" => {
                return torch(TorchKind::OneCycleLR { pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4 });
            }
            "CosineAnnealingLR" => {
                return torch(TorchKind::CosineAnnealingLR { t_max: epochs as f64, eta_min: min_lr });
            }
            "CosineAnnealingWarmRestarts" => {
                let (t_0, t_mult) = (every, self.lr_cycle_mul);
                return torch(TorchKind::CosineAnnealingWarmRestarts { t_0, t_mult, eta_min: min_lr });
            }
            "MultiStepLR" => return torch(TorchKind::MultiStepLR { milestones: milestones(), gamma: rate }),
            "StepLR" => return torch(TorchKind::StepLR { step_size: every, gamma: rate }),
            "ExponentialLR" => return torch(TorchKind::ExponentialLR { gamma: rate }),
            _ => {
                let near = nearest(NAMES.into_iter(), name);
                let meant =
                    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) };
                return Err(format!("there is no schedule `{name}`{meant} There are {}", NAMES.join(", ")).into());
            }
        };
        let noise = self.lr_noise.as_ref().and_then(|at| {
            let range = (*at.first()?, at.get(1).copied());
            Some(NoiseConfig { limit: self.lr_noise_pct, std: self.lr_noise_std, seed, ..NoiseConfig::new(range) })
        });
        let decay = self.lr_cycle_decay.or(defaults.cycle_decay).unwrap_or(rate);
        let cycles = CyclesConfig { mul: self.lr_cycle_mul, decay, limit: self.lr_cycle_limit };
        let epochs = epochs as f64;
        Ok(TimmConfig { lr, min_lr, epochs, curve, warmup, cycles, noise, on_updates: self.sched_on_updates }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_makes_a_schedule_and_others_are_answered() {
        let args = SchedArgs { lr_cycle_mul: 1.0, lr_cycle_limit: 1, lr_k_decay: 1.0, ..SchedArgs::default() };
        let run = Run { lr: 0.1, epochs: 300, maximise: true, seed: 42 };
        for name in NAMES {
            for d in [Defaults::TIMM_0_4, Defaults::TIMM_1_0] {
                let (_, epochs) = args.schedule(name, run, &d).unwrap();
                assert!(epochs == 300 || epochs == 300 + d.cooldown_epochs, "{name} {epochs}");
            }
        }
        let e = args.schedule("cosin", run, &Defaults::TIMM_1_0).unwrap_err().to_string();
        assert!(e.contains("did you mean cosine?"), "{e}");
        let bad = SchedArgs { decay_epochs: Some(0.0), ..args };
        assert!(bad.schedule("step", run, &Defaults::TIMM_1_0).unwrap_err().to_string().contains("decay_epochs is 0"));
    }
}
