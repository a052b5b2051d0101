//! One rate all along.

use crate::{Error, Length, Schedule, check};
use serde::{Deserialize, Serialize};

/// One rate all along.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConstantConfig {
    /// The rate.
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
