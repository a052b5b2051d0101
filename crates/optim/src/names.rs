//! Optimizers by timm's names.

use crate::{
    AdaBeliefConfig, AdadeltaConfig, AdafactorConfig, AdagradConfig, AdamConfig, AdamPConfig, AdamWConfig,
    AdamaxConfig, AdanConfig, Error, LambConfig, LarsConfig, LionConfig, LookaheadConfig, MuonConfig, NAdamConfig,
    NAdamWConfig, NovoGradConfig, OptimizerConfig, RAdamConfig, Result, RmsPropConfig, SgdConfig, SgdPConfig, TimmLars,
};

/// The settings that timm's `--momentum`, `--opt-eps` and `--opt-betas` give. A method without such a setting does not use it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The decay of the velocity.
    pub momentum: f64,
    /// The method's eps; `None` for its own.
    pub eps: Option<f64>,
    /// The method's betas, as many as it has; `None` for its own.
    pub betas: Option<Vec<f64>>,
}

impl Default for Settings {
    /// timm's: momentum 0.9, the method's eps and betas.
    fn default() -> Self {
        Settings { momentum: 0.9, eps: None, betas: None }
    }
}

/// The names that [`OptimizerConfig::named`] knows, without the prefix `lookahead_`.
pub const NAMES: [&str; 61] = [
    "sgd",
    "nesterov",
    "momentum",
    "sgdw",
    "nesterovw",
    "sgdp",
    "adam",
    "adamw",
    "adamwlegacy",
    "adamax",
    "adamp",
    "nadam",
    "nadamw",
    "radam",
    "radamw",
    "adabelief",
    "radabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adan",
    "adanw",
    "lamb",
    "lambc",
    "lambw",
    "lambcw",
    "lars",
    "larc",
    "nlars",
    "nlarc",
    "lion",
    "muon",
    "nmuon",
    "adamuon",
    "nadamuon",
    "novograd",
    "nvnovograd",
    "novogradw",
    "rmsprop",
    "rmsproptf",
    "rmsproptfw",
    "cadafactor",
    "cadamp",
    "cadamw",
    "cadan",
    "cadanw",
    "clamb",
    "clambw",
    "clion",
    "cnadamw",
    "crmsproptf",
    "csgdp",
    "csgdw",
    "fusedsgd",
    "fusedmomentum",
    "fusedadam",
    "fusedadamw",
    "fusedlamb",
    "fusednovograd",
    "adahessian",
    "lookahead",
];

impl OptimizerConfig {
    /// The optimizer of one of timm's names, such as `adamw`; `lookahead_adamw` has Lookahead around it, and `fusedadamw` is another name
    /// of `adamw`, because every update here is fused. As in timm, `sgd` is Nesterov's and `momentum` the classical one.
    ///
    /// # Errors
    /// When there is no such name, or the number of betas is not that of the method.
    pub fn named(name: &str, settings: &Settings) -> Result<Self> {
        let lower = name.to_lowercase();
        if let Some(inner) = lower.strip_prefix("lookahead_") {
            return Ok(LookaheadConfig::new(Self::named(inner, settings)?).into());
        }
        let plain = lower.strip_prefix("fused").unwrap_or(&lower);
        Maker { name: plain, settings }.make()
    }
}

struct Maker<'a> {
    name: &'a str,
    settings: &'a Settings,
}

impl Maker<'_> {
    fn eps(&self, own: f64) -> f64 {
        self.settings.eps.unwrap_or(own)
    }

    fn betas<const N: usize>(&self, own: [f64; N]) -> Result<[f64; N]> {
        let Some(betas) = &self.settings.betas else { return Ok(own) };
        <[f64; N]>::try_from(betas.as_slice())
            .map_err(|_| Error::Config(format!("{} takes {N} betas, and {} are given", self.name, betas.len())))
    }

    fn pair(&self, own: (f64, f64)) -> Result<(f64, f64)> {
        Ok(self.betas([own.0, own.1])?.into())
    }

    /// Whether the name, or the name behind a `c` for cautious, is one of these.
    fn caution(&self, cautious: &[&str]) -> bool {
        self.name.strip_prefix('c').is_some_and(|n| cautious.contains(&n))
    }

    fn make(&self) -> Result<OptimizerConfig> {
        let momentum = self.settings.momentum;
        let cautious = [
            "adafactor",
            "adamp",
            "adamw",
            "adan",
            "adanw",
            "lamb",
            "lambw",
            "lion",
            "nadamw",
            "rmsproptf",
            "sgdp",
            "sgdw",
        ];
        let caution = self.caution(&cautious);
        let name = if caution { &self.name[1..] } else { self.name };
        Ok(match name {
            // Nesterov's look ahead is nothing without a momentum.
            "sgd" | "nesterov" => SgdConfig { momentum, nesterov: momentum > 0.0, ..SgdConfig::default() }.into(),
            "momentum" => SgdConfig { momentum, ..SgdConfig::default() }.into(),
            "sgdw" | "nesterovw" => SgdConfig { momentum, nesterov: momentum > 0.0, decoupled: true, caution }.into(),
            "sgdp" => {
                let d = SgdPConfig::default();
                SgdPConfig { momentum, eps: self.eps(d.eps), caution, ..d }.into()
            }
            "adam" => {
                let d = AdamConfig::default();
                AdamConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps) }.into()
            }
            "adamw" | "adamwlegacy" => {
                let d = AdamWConfig::default();
                AdamWConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps), caution }.into()
            }
            "adamax" => {
                let d = AdamaxConfig::default();
                AdamaxConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps) }.into()
            }
            "adamp" => {
                let d = AdamPConfig::default();
                AdamPConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps), caution, ..d }.into()
            }
            "nadam" => {
                let d = NAdamConfig::default();
                NAdamConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps), ..d }.into()
            }
            "nadamw" => {
                let d = NAdamWConfig::default();
                NAdamWConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps), caution }.into()
            }
            "radam" | "radamw" => {
                let d = RAdamConfig::default();
                RAdamConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps), decoupled: name == "radamw" }.into()
            }
            "adabelief" | "radabelief" => {
                let d = AdaBeliefConfig::default();
                let rectify = name == "radabelief";
                AdaBeliefConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps), rectify }.into()
            }
            "adadelta" => {
                let d = AdadeltaConfig::default();
                AdadeltaConfig { eps: self.eps(d.eps), ..d }.into()
            }
            "adafactor" => {
                let d = AdafactorConfig::default();
                // timm's cautious form sets betas (0.9, 0.999), of which Adafactor uses the first.
                let given = self.settings.betas.as_ref().and_then(|b| b.first().copied());
                let beta1 = given.or(caution.then_some(0.9));
                AdafactorConfig { eps: self.eps(d.eps), beta1, caution, ..d }.into()
            }
            "adagrad" => {
                let d = AdagradConfig::default();
                AdagradConfig { eps: self.eps(d.eps), ..d }.into()
            }
            "adan" | "adanw" => {
                let d = AdanConfig::default();
                let [b1, b2, b3] = self.betas(d.betas.into())?;
                AdanConfig { betas: (b1, b2, b3), eps: self.eps(d.eps), no_prox: name == "adanw", caution }.into()
            }
            "lamb" | "lambc" | "lambw" | "lambcw" => {
                let d = LambConfig::default();
                let (trust_clip, decoupled) = (name.contains("bc"), name.ends_with('w'));
                LambConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps), trust_clip, decoupled, caution, ..d }
                    .into()
            }
            "lars" | "larc" | "nlars" | "nlarc" => {
                let nesterov = name.starts_with('n') && momentum > 0.0;
                let timm = TimmLars { eps: self.eps(1e-8), trust_clip: name.ends_with('c'), nesterov };
                LarsConfig { momentum, timm: Some(timm), ..LarsConfig::default() }.into()
            }
            "lion" => LionConfig { betas: self.pair(LionConfig::default().betas)?, caution }.into(),
            "muon" | "nmuon" | "adamuon" | "nadamuon" => {
                let d = MuonConfig::default();
                let (nesterov, ada) = (name.starts_with('n'), name.contains("ada"));
                MuonConfig { momentum, nesterov, ada, betas: self.pair(d.betas)?, eps: self.eps(d.eps) }.into()
            }
            "novograd" | "nvnovograd" | "novogradw" => {
                let d = NovoGradConfig::default();
                let decoupled = name.ends_with('w');
                NovoGradConfig { betas: self.pair(d.betas)?, eps: self.eps(d.eps), decoupled }.into()
            }
            "rmsprop" => {
                let d = RmsPropConfig::default();
                RmsPropConfig { momentum, eps: self.eps(d.eps), ..d }.into()
            }
            "rmsproptf" | "rmsproptfw" => {
                let (eps, decoupled) = (self.eps(1e-10), name.ends_with('w'));
                RmsPropConfig { momentum, eps, tf: true, decoupled, caution, ..RmsPropConfig::default() }.into()
            }
            "adahessian" => {
                return Err(Error::Config(
                    "adahessian needs second derivatives, which the tape does not have: adamw or lamb are the nearest"
                        .into(),
                ));
            }
            "lookahead" => {
                return Err(Error::Config("lookahead goes around a method: write lookahead_adamw, for example".into()));
            }
            _ => {
                let refused = |n: &&str| n.starts_with("fused") || ["adahessian", "lookahead"].contains(n);
                let known: Vec<&str> = NAMES.into_iter().filter(|n| !refused(n)).collect();
                return Err(Error::Config(format!(
                    "there is no optimizer `{}`; there are {}, each also as fused and with lookahead_ before its name",
                    self.name,
                    known.join(", ")
                )));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_method_or_says_why_not() {
        for name in NAMES {
            match OptimizerConfig::named(name, &Settings::default()) {
                Ok(config) => {
                    config.clone().method().check().unwrap();
                    let text = serde_json::to_string(&config).unwrap();
                    assert_eq!(serde_json::from_str::<OptimizerConfig>(&text).unwrap(), config, "{text}");
                }
                Err(e) => assert!(matches!(name, "adahessian" | "lookahead"), "{name}: {e}"),
            }
        }
        let named = |n: &str| OptimizerConfig::named(n, &Settings::default()).unwrap();
        assert_eq!(named("fusedAdamW"), named("adamw"));
        assert_eq!(named("sgd"), SgdConfig { momentum: 0.9, nesterov: true, ..SgdConfig::default() }.into());
        let text = serde_json::to_string(&named("lookahead_lion")).unwrap();
        assert_eq!(text, r#"{"lookahead":{"inner":{"lion":{"betas":[0.9,0.99],"caution":false}},"alpha":0.5,"k":6}}"#);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let e = |n: &str, s: &Settings| OptimizerConfig::named(n, s).unwrap_err().to_string();
        assert!(e("adamz", &Settings::default()).contains("no optimizer `adamz`; there are sgd, "));
        assert!(!e("adamz", &Settings::default()).contains("adahessian"));
        assert!(e("lookahead_x", &Settings::default()).contains("no optimizer `x`"));
        assert!(e("adahessian", &Settings::default()).contains("second derivatives"));
        let two = Settings { betas: Some(vec![0.9, 0.99]), ..Settings::default() };
        assert!(e("adan", &two).contains("adan takes 3 betas, and 2 are given"));
    }
}
