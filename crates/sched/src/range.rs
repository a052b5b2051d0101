//! A rate that rises through all sizes, to find the one to train with.

use crate::{Error, Length, Schedule};
use serde::{Deserialize, Serialize};

/// The rates of L. Smith's range test (arXiv 1506.01186) on a logarithmic scale: from `start` in the first step to `end` in the last of
/// `steps`.
///
/// ```
/// use candlelight_sched::{Length, RangeConfig, Schedule};
/// let s = RangeConfig { start: 1e-4, end: 1.0, steps: 5 };
/// let run = Length { epochs: 1.0, steps: 5, samples: 1 };
/// let near = |step, want: f64| (s.at_step(step, &run) / want - 1.0).abs() < 1e-12;
/// assert!(near(0, 1e-4) && near(2, 1e-2) && near(4, 1.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeConfig {
    /// The first rate, above 0.
    pub start: f64,
    /// The last rate, above the first.
    pub end: f64,
    /// The number of steps, at least 2.
    pub steps: usize,
}

impl Schedule for RangeConfig {
    fn check(&self) -> Result<(), Error> {
        let RangeConfig { start, end, steps } = *self;
        if start > 0.0 && end > start && end.is_finite() && steps >= 2 {
            return Ok(());
        }
        Err(Error(format!(
            "range: from {start} to {end} in {steps} steps, expected a start above 0, an end above it, and at least 2 steps"
        )))
    }

    fn at(&self, epoch: f64, run: &Length) -> f64 {
        let part = (epoch * run.steps as f64) / (self.steps - 1) as f64;
        self.start * (self.end / self.start).powf(part.min(1.0))
    }
}
