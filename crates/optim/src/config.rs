//! The settings of an optimizer, as configuration files and checkpoints store them.

use crate::method::Method;
use crate::{AdamWConfig, LarsConfig, SgdConfig};
use serde::{Deserialize, Serialize};

/// An optimizer and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", from = "Stored")]
pub enum OptimizerConfig {
    /// AdamW.
    AdamW(AdamWConfig),
    /// SGD with momentum.
    Sgd(SgdConfig),
    /// LARS.
    Lars(LarsConfig),
}

impl OptimizerConfig {
    /// The method with these settings.
    pub fn method(self) -> Box<dyn Method> {
        match self {
            OptimizerConfig::AdamW(c) => Box::new(c),
            OptimizerConfig::Sgd(c) => Box::new(c),
            OptimizerConfig::Lars(c) => Box::new(c),
        }
    }
}

impl From<AdamWConfig> for OptimizerConfig {
    fn from(c: AdamWConfig) -> Self {
        OptimizerConfig::AdamW(c)
    }
}

impl From<SgdConfig> for OptimizerConfig {
    fn from(c: SgdConfig) -> Self {
        OptimizerConfig::Sgd(c)
    }
}

impl From<LarsConfig> for OptimizerConfig {
    fn from(c: LarsConfig) -> Self {
        OptimizerConfig::Lars(c)
    }
}

/// The forms that checkpoints hold: today's, and the first one, which nested LARS in SGD.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stored {
    #[serde(alias = "adam_w")]
    AdamW(AdamWConfig),
    Sgd(StoredSgd),
    Lars(LarsConfig),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StoredSgd {
    Nested(Nested),
    Plain(SgdConfig),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Nested {
    Sgd(SgdConfig),
    Lars(LarsConfig),
}

impl From<Stored> for OptimizerConfig {
    fn from(s: Stored) -> Self {
        match s {
            Stored::AdamW(c) => OptimizerConfig::AdamW(c),
            Stored::Sgd(StoredSgd::Plain(c) | StoredSgd::Nested(Nested::Sgd(c))) => OptimizerConfig::Sgd(c),
            Stored::Lars(c) | Stored::Sgd(StoredSgd::Nested(Nested::Lars(c))) => OptimizerConfig::Lars(c),
        }
    }
}
