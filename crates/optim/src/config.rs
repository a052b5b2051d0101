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

/// SGD's settings, or one of the two that were nested here. It lists all fields, so that an error names the one that is unknown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSgd {
    momentum: Option<f64>,
    nesterov: Option<bool>,
    sgd: Option<SgdConfig>,
    lars: Option<LarsConfig>,
}

impl From<StoredSgd> for OptimizerConfig {
    fn from(s: StoredSgd) -> Self {
        if let Some(lars) = s.lars {
            return lars.into();
        }
        let nested = s.sgd.unwrap_or_default();
        let SgdConfig { momentum, nesterov } = nested;
        SgdConfig { momentum: s.momentum.unwrap_or(momentum), nesterov: s.nesterov.unwrap_or(nesterov) }.into()
    }
}

impl From<Stored> for OptimizerConfig {
    fn from(s: Stored) -> Self {
        match s {
            Stored::AdamW(c) => OptimizerConfig::AdamW(c),
            Stored::Sgd(c) => c.into(),
            Stored::Lars(c) => OptimizerConfig::Lars(c),
        }
    }
}
