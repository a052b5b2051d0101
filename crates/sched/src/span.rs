//! Lengths of time in epochs, steps or samples.

use crate::Error;
use serde::{Deserialize, Serialize};

/// How long a run is, and how long an epoch of it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Length {
    /// The epochs of the run.
    pub epochs: f64,
    /// Steps per epoch.
    pub steps: usize,
    /// Samples per step.
    pub samples: usize,
}

/// A length of time in epochs, steps or samples, at least 0.
///
/// ```
/// use candlelight_sched::{Length, Span};
/// let run = Length { epochs: 90.0, steps: 500, samples: 256 };
/// assert_eq!(Span::Steps(1000.0).epochs(&run), 2.0);
/// assert_eq!(Span::Samples(64_000.0).epochs(&run), 0.5);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// A length in epochs, which need not be whole.
    Epochs(f64),
    /// A length in steps.
    Steps(f64),
    /// A length in samples.
    Samples(f64),
}

impl Span {
    /// The same length in epochs of a run.
    pub fn epochs(self, run: &Length) -> f64 {
        let steps = run.steps.max(1) as f64;
        match self {
            Span::Epochs(n) => n,
            Span::Steps(n) => n / steps,
            Span::Samples(n) => n / (steps * run.samples.max(1) as f64),
        }
    }

    /// Refuses a length that is negative or not finite; `name` is what the error calls it.
    ///
    /// # Errors
    /// When the length is negative or not finite.
    pub fn check(self, name: &str) -> Result<(), Error> {
        let (Span::Epochs(n) | Span::Steps(n) | Span::Samples(n)) = self;
        crate::check(name, n)
    }
}

impl Default for Span {
    fn default() -> Self {
        Span::Epochs(0.0)
    }
}
