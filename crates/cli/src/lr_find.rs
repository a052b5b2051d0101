//! The learning rate range test: losses under rising rates, their picture, and a suggestion.

use crate::chart::{self, Line};
use crate::{Progress, Result, train};
use candlelight_data::Loader;
use candlelight_engine::classify::Classify;
use candlelight_engine::signals::Signals;
use candlelight_engine::train::{Plan, Trainer};
use candlelight_models::ModelConfig;
use candlelight_sched::RangeConfig;
use clap::Parser;
use std::path::PathBuf;

/// Find a learning rate: train some steps under rates that rise, and draw the loss over them. Takes the flags of `train`.
#[derive(Parser, Debug)]
#[command(name = "lr_find", version, rename_all = "snake_case")]
pub struct Args {
    /// The first learning rate
    #[arg(long, default_value_t = 1e-6, value_name = "LR")]
    pub start_lr: f64,
    /// The last learning rate
    #[arg(long, default_value_t = 10.0, value_name = "LR")]
    pub end_lr: f64,
    /// The number of steps from the first to the last
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub num_steps: usize,
    /// Where the picture is written
    #[arg(long, default_value = "lr_find.svg", value_name = "FILE")]
    pub picture: PathBuf,
    #[command(flatten)]
    /// The training.
    pub train: train::Args,
}

/// The decay of the mean that smooths losses.
const SMOOTH: f64 = 0.9;

/// A loss so many times the lowest one ends the test.
const DIVERGED: f64 = 4.0;

/// The test's losses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The learning rates.
    pub rates: Vec<f64>,
    /// The loss under each.
    pub losses: Vec<f64>,
    /// The same, smoothed.
    pub smooth: Vec<f64>,
}

/// Rates to choose from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suggestion {
    /// Where the smoothed loss falls fastest.
    pub steepest: f64,
    /// A tenth of the rate with the lowest loss, which is the more careful one where that lies close behind the fall.
    pub tenth: f64,
}

impl Found {
    /// Takes in a loss. Returns whether the test goes on.
    pub fn add(&mut self, rate: f64, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        self.rates.push(rate);
        self.losses.push(loss);
        // A mean whose weights sum to one from the first loss on.
        let weights = |i: usize| SMOOTH.powi(i as i32);
        let n = self.losses.len();
        let sum: f64 = self.losses.iter().rev().enumerate().map(|(i, l)| weights(i) * l).sum();
        self.smooth.push(sum / (0..n).map(weights).sum::<f64>());
        let lowest = self.smooth.iter().copied().fold(f64::INFINITY, f64::min);
        n < 10 || self.smooth[n - 1] < DIVERGED * lowest
    }

    /// The rates to choose from; `None` where the loss never fell.
    pub fn suggestion(&self) -> Option<Suggestion> {
        let s = &self.smooth;
        let lowest = (0..s.len()).min_by(|a, b| s[*a].total_cmp(&s[*b]))?;
        // The first tenth of the steps is noise of the start.
        let first = s.len() / 10 + 1;
        let slope = |i: usize| (s[i + 1] - s[i - 1]) / (self.rates[i + 1] / self.rates[i - 1]).ln();
        let steepest = (first..lowest).min_by(|a, b| slope(*a).total_cmp(&slope(*b)))?;
        let fell = s[lowest] < 0.95 * s[0];
        fell.then(|| Suggestion { steepest: self.rates[steepest], tenth: self.rates[lowest] / 10.0 })
    }
}

impl Args {
    /// The plan of the test.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn plan(&self, train: &train::Args) -> Result<Plan> {
        let run = &self.train.run;
        if run.resume.is_some() || run.output.is_some() || run.experiment.is_some() || run.start_epoch.is_some() {
            return Err(
                "nothing is saved or continued here: leave out --resume, --output, --experiment and --start_epoch"
                    .into(),
            );
        }
        if self.train.optim.grad_accum_steps.is_some_and(|n| n > 1) {
            return Err("every step is an update here: leave out --grad_accum_steps".into());
        }
        let range = RangeConfig { start: self.start_lr, end: self.end_lr, steps: self.num_steps };
        Ok(Plan { schedule: range.into(), accum_iter: 1, ..train.plan()? })
    }

    /// Trains under rising rates until the last, or until the loss explodes.
    ///
    /// # Errors
    /// When data cannot be read, or does not fit the model.
    pub fn find(
        &self,
        trainer: &mut Trainer<Classify<ModelConfig>>,
        loader: &Loader,
        signals: &Signals,
    ) -> Result<Found> {
        let (mut found, steps) = (Found::default(), loader.steps());
        let mut shown = Progress::new("steps", self.num_steps);
        for epoch in 0.. {
            for batch in loader.epoch(epoch, 0) {
                let report = trainer.step(batch?, &loader.pipeline().normalize, steps)?;
                let more = found.add(report.lr, f64::from(report.loss));
                let done = epoch * steps + report.step;
                shown.at(done, &format!("lr {:.2e}  loss {:.4}", report.lr, report.loss));
                if !more || done >= self.num_steps || signals.caught().is_some() {
                    return Ok(found);
                }
            }
            trainer.end_epoch()?;
        }
        Ok(found)
    }

    /// Draws the losses over the rates.
    ///
    /// # Errors
    /// When the picture cannot be written.
    pub fn draw(&self, found: &Found) -> Result<()> {
        let line = |name: &str, losses: &[f64]| {
            // The explosion at the end would hide the rest.
            let most = 1.5 * found.smooth.first().copied().unwrap_or_default().max(f64::MIN_POSITIVE);
            let points = found.rates.iter().zip(losses).map(|(r, l)| (r.log10(), l.min(most))).collect();
            Line { name: name.into(), points }
        };
        let lines = vec![line("loss", &found.losses), line("smoothed", &found.smooth)];
        chart::draw(&self.picture, &[("loss under rising learning rates", "log10 of the learning rate", lines)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggestion_lies_where_the_loss_falls_and_below_where_it_explodes() {
        let mut found = Found::default();
        let mut last = 0;
        for i in 0..100 {
            let rate = 1e-6 * 10f64.powf(i as f64 * 7.0 / 99.0);
            // Flat, falling around 1e-3, lowest around 0.1, then exploding.
            let x = rate.log10();
            let loss = 2.3 - 1.8 / (1.0 + (-3.0 * (x + 3.0)).exp()) + ((x + 0.5) * 4.0).exp();
            last = i;
            if !found.add(rate, loss) {
                break;
            }
        }
        assert!(last < 99, "the explosion ends the test");
        let s = found.suggestion().unwrap();
        assert!((3e-4..1e-2).contains(&s.steepest), "{s:?}");
        assert!(s.tenth > s.steepest && s.tenth < 0.1, "{s:?}");
        let mut flat = Found::default();
        (0..50).for_each(|i| assert!(flat.add(1e-6 * 1.2f64.powi(i), 2.3)));
        assert_eq!(flat.suggestion(), None);
        assert!(!flat.add(1.0, f64::NAN));
    }
}
