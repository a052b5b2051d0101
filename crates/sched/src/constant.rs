//! A constant learning rate.

use crate::{Error, Length, Schedule, check};
use serde::{Deserialize, Serialize};

/// The same learning rate during the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConstantConfig {
    /// The learning rate, at least 0.
    pub lr: f64,
}

impl Schedule for ConstantConfig {
    fn check(&self) -> Result<(), Error> {
        check("lr", self.lr)
    }

    fn at(&self, _: f64, _: &Length) -> f64 {
        self.lr
    }
}
