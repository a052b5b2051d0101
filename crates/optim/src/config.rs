//! The settings of an optimizer, as configuration files and checkpoints store them.

use crate::lookahead::Lookahead;
use crate::method::Method;
use crate::{
    AdaBeliefConfig, AdadeltaConfig, AdafactorConfig, AdagradConfig, AdamConfig, AdamPConfig, AdamWConfig,
    AdamaxConfig, AdanConfig, LambConfig, LarsConfig, LionConfig, LookaheadConfig, MuonConfig, NAdamConfig,
    NAdamWConfig, NovoGradConfig, RAdamConfig, RmsPropConfig, SgdConfig, SgdPConfig,
};
use serde::{Deserialize, Serialize};

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident($config:ident) as $method:ident;)*) => {
        /// An optimizer and its settings.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase", from = "Stored")]
        pub enum OptimizerConfig {
            $($(#[$doc])* $name($config),)*
            /// SGD with momentum.
            Sgd(SgdConfig),
        }

        impl OptimizerConfig {
            /// The method with these settings.
            pub fn method(self) -> Box<dyn Method> {
                match self {
                    $(OptimizerConfig::$name(c) => Box::new(<$method>::from(c)),)*
                    OptimizerConfig::Sgd(c) => Box::new(c),
                }
            }
        }

        $(impl From<$config> for OptimizerConfig {
            fn from(c: $config) -> Self {
                OptimizerConfig::$name(c)
            }
        })*

        /// The forms that checkpoints hold: today's, and the first one, which nested LARS in SGD.
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Stored {
            $($name($config),)*
            /// The first name of AdamW.
            #[serde(rename = "adam_w")]
            First(AdamWConfig),
            Sgd(StoredSgd),
        }

        impl From<Stored> for OptimizerConfig {
            fn from(s: Stored) -> Self {
                match s {
                    $(Stored::$name(c) => OptimizerConfig::$name(c),)*
                    Stored::First(c) => OptimizerConfig::AdamW(c),
                    Stored::Sgd(c) => c.into(),
                }
            }
        }
    };
}

methods! {
    /// AdaBelief.
    AdaBelief(AdaBeliefConfig) as AdaBeliefConfig;
    /// Adadelta.
    Adadelta(AdadeltaConfig) as AdadeltaConfig;
    /// Adafactor.
    Adafactor(AdafactorConfig) as AdafactorConfig;
    /// Adagrad.
    Adagrad(AdagradConfig) as AdagradConfig;
    /// Adam.
    Adam(AdamConfig) as AdamConfig;
    /// Adamax.
    Adamax(AdamaxConfig) as AdamaxConfig;
    /// AdamP.
    AdamP(AdamPConfig) as AdamPConfig;
    /// AdamW.
    AdamW(AdamWConfig) as AdamWConfig;
    /// Adan.
    Adan(AdanConfig) as AdanConfig;
    /// LAMB.
    Lamb(LambConfig) as LambConfig;
    /// LARS.
    Lars(LarsConfig) as LarsConfig;
    /// Lion.
    Lion(LionConfig) as LionConfig;
    /// Lookahead around another one.
    Lookahead(LookaheadConfig) as Lookahead;
    /// Muon.
    Muon(MuonConfig) as MuonConfig;
    /// NAdam.
    NAdam(NAdamConfig) as NAdamConfig;
    /// NAdamW.
    NAdamW(NAdamWConfig) as NAdamWConfig;
    /// NovoGrad.
    NovoGrad(NovoGradConfig) as NovoGradConfig;
    /// RAdam.
    RAdam(RAdamConfig) as RAdamConfig;
    /// RMSprop.
    RmsProp(RmsPropConfig) as RmsPropConfig;
    /// SGDP.
    SgdP(SgdPConfig) as SgdPConfig;
}

impl From<SgdConfig> for OptimizerConfig {
    fn from(c: SgdConfig) -> Self {
        OptimizerConfig::Sgd(c)
    }
}

/// SGD's settings, or one of the two that were nested here. It lists all fields, so that an error names the one that is unknown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSgd {
    momentum: Option<f64>,
    nesterov: Option<bool>,
    decoupled: Option<bool>,
    caution: Option<bool>,
    sgd: Option<SgdConfig>,
    lars: Option<LarsConfig>,
}

impl From<StoredSgd> for OptimizerConfig {
    fn from(s: StoredSgd) -> Self {
        if let Some(lars) = s.lars {
            return lars.into();
        }
        let nested = s.sgd.unwrap_or_default();
        SgdConfig {
            momentum: s.momentum.unwrap_or(nested.momentum),
            nesterov: s.nesterov.unwrap_or(nested.nesterov),
            decoupled: s.decoupled.unwrap_or(nested.decoupled),
            caution: s.caution.unwrap_or(nested.caution),
        }
        .into()
    }
}
