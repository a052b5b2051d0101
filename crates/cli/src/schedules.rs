//! The flags of `schedules`, and the curves it draws.

use crate::Result;
use crate::chart::Line;
use crate::sched::{Defaults, Run, SchedArgs};
use candlelight_sched::{Length, PlateauState};
use clap::Parser;
use std::path::PathBuf;

/// Draw learning rates over the epochs of a run, before it is started.
#[derive(Parser, Debug)]
#[command(name = "schedules", version, rename_all = "snake_case")]
pub struct Args {
    /// Schedules to draw; plateau is drawn as if nothing ever improved
    #[arg(long, num_args = 1.., default_values = ["cosine", "tanh", "step", "poly", "wsd", "rsqrt", "onecycle"])]
    pub sched: Vec<String>,
    /// Learning rate
    #[arg(long, default_value_t = 0.1)]
    pub lr: f64,
    /// Epochs of the first cycle
    #[arg(long, default_value_t = 100)]
    pub epochs: usize,
    /// Updates per epoch, for --sched_on_updates and onecycle
    #[arg(long, default_value_t = 20)]
    pub updates: usize,
    /// Whose defaults: timm-0.4 or timm-1.0
    #[arg(long, default_value = "timm-1.0", value_parser = ["timm-0.4", "timm-1.0"])]
    pub defaults: String,
    /// Seed of the noise
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Where the picture is written
    #[arg(long, default_value = "schedules.svg", value_name = "FILE")]
    pub output: PathBuf,
    /// The flags of the schedules.
    #[command(flatten)]
    pub flags: SchedArgs,
}

/// The points of a line, at most.
const MOST_POINTS: usize = 1_000_000;

impl Args {
    /// The rates of a schedule at every update of its run.
    ///
    /// # Errors
    /// When there is no such schedule, or a setting is out of range.
    pub fn line(&self, name: &str) -> Result<Line> {
        if self.epochs == 0 || self.updates == 0 {
            return Err("`epochs` and `updates`: expected at least 1".into());
        }
        let defaults = if self.defaults == "timm-0.4" { Defaults::TIMM_0_4 } else { Defaults::TIMM_1_0 };
        let run = Run { lr: self.lr, epochs: self.epochs, maximise: true, seed: self.seed };
        let (schedule, epochs) = self.flags.schedule(name, run, &defaults)?;
        let length = Length { epochs: epochs as f64, steps: self.updates, samples: 1 };
        if epochs.saturating_mul(self.updates) > MOST_POINTS {
            return Err(format!("{epochs} epochs of {} updates are too many to draw", self.updates).into());
        }
        let mut memory = PlateauState::default();
        let mut points = vec![];
        for epoch in 0..epochs {
            for update in 0..self.updates {
                let at = epoch as f64 + update as f64 / self.updates as f64;
                points.push((at, schedule.rate(at, &length, &memory)));
            }
            schedule.observe(epoch + 1, 0.0, &mut memory);
        }
        Ok(Line { name: name.into(), points })
    }
}
