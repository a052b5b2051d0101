//! The settings of adapters, with peft's names and defaults. As JSON they are its `adapter_config.json`.

use super::targets::{Layers, Modules, of_pattern, within};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The settings of adapters of any kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "peft_type")]
pub enum Peft {
    /// LoRA, rsLoRA and DoRA.
    #[serde(rename = "LORA")]
    Lora(LoraConfig),
    /// IA3.
    #[serde(rename = "IA3")]
    Ia3(Ia3Config),
}

/// The biases that train beside LoRA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// All biases of the model.
    All,
    /// The biases of the layers that have an adapter.
    LoraOnly,
}

/// The settings of LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// The rank, from 1 to the smaller width of each layer.
    pub r: usize,
    /// The scale: what `B A` adds is multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// The rate of dropout in front of `A`, in [0, 1).
    pub lora_dropout: f64,
    /// The layers that get an adapter.
    pub target_modules: Option<Modules>,
    /// Layers that get none, although they are targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Modules>,
    /// The blocks whose layers get an adapter; `None` stands for all.
    pub layers_to_transform: Option<Layers>,
    /// The names in front of those blocks' numbers, such as `blocks`; `None` takes the first number of a name.
    pub layers_pattern: Option<Modules>,
    /// Ranks of single layers, by regular expressions of the ends of their names.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Scales of single layers, in the same way.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// rsLoRA: the scale is `lora_alpha / sqrt(r)`.
    pub use_rslora: bool,
    /// DoRA: the norm of each row of the weight is a parameter of its own.
    pub use_dora: bool,
    /// The biases that train too.
    pub bias: Bias,
    /// Layers that train as a whole and are saved with the adapter. `None` stands for the head of the model.
    pub modules_to_save: Option<Vec<String>>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
            bias: Bias::None,
            modules_to_save: None,
        }
    }
}

impl LoraConfig {
    /// peft's defaults, rank 8 and alpha 8, on the layers of these names, separated by commas.
    pub fn on(layers: &str) -> Self {
        let names = Modules::names(layers.split(',').map(str::trim));
        LoraConfig { target_modules: Some(names), ..LoraConfig::default() }
    }

    /// The rank of a layer.
    ///
    /// # Errors
    /// When a pattern of ranks cannot be read.
    pub fn rank(&self, layer: &str) -> Result<usize> {
        Ok(of_pattern(&self.rank_pattern, layer)?.unwrap_or(self.r))
    }

    /// What the product `B A` of a layer is multiplied by.
    ///
    /// # Errors
    /// When a pattern cannot be read.
    pub fn scale(&self, layer: &str, rank: usize) -> Result<f64> {
        let alpha = of_pattern(&self.alpha_pattern, layer)?.unwrap_or(self.lora_alpha);
        Ok(alpha / if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 })
    }
}

/// The settings of IA3.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ia3Config {
    /// The layers that get factors.
    pub target_modules: Option<Modules>,
    /// Layers that get none, although they are targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Modules>,
    /// Those of the layers whose inputs are multiplied, not their outputs.
    pub feedforward_modules: Option<Modules>,
    /// Layers that train as a whole and are saved with the factors. `None` stands for the head of the model.
    pub modules_to_save: Option<Vec<String>>,
}

impl Ia3Config {
    /// Whether the inputs of a layer are multiplied, not its outputs; `linear` says that it is a linear one.
    ///
    /// # Errors
    /// When the regular expression cannot be read.
    pub fn multiplies_inputs(&self, layer: &str, linear: bool) -> Result<bool> {
        Ok(self.feedforward_modules.as_ref().map(|m| m.matches(layer, linear)).transpose()?.unwrap_or_default())
    }
}

impl Peft {
    /// The layers that get an adapter.
    pub fn targets(&self) -> Option<&Modules> {
        match self {
            Peft::Lora(c) => c.target_modules.as_ref(),
            Peft::Ia3(c) => c.target_modules.as_ref(),
        }
    }

    /// The layers that train as a whole; `None` stands for the head of the model.
    pub fn modules_to_save(&self) -> Option<&[String]> {
        match self {
            Peft::Lora(c) => c.modules_to_save.as_deref(),
            Peft::Ia3(c) => c.modules_to_save.as_deref(),
        }
    }

    /// Sets the layers that train as a whole.
    pub fn set_modules_to_save(&mut self, modules: Vec<String>) {
        match self {
            Peft::Lora(c) => c.modules_to_save = Some(modules),
            Peft::Ia3(c) => c.modules_to_save = Some(modules),
        }
    }

    /// Whether a layer gets an adapter; `linear` says that it is a linear one.
    pub(super) fn wants(&self, layer: &str, linear: bool) -> Result<bool> {
        let (targets, but) = match self {
            Peft::Lora(c) => (&c.target_modules, &c.exclude_modules),
            Peft::Ia3(c) => (&c.target_modules, &c.exclude_modules),
        };
        let Some(targets) = targets else { return Ok(false) };
        let out = but.as_ref().map(|m| m.matches(layer, linear)).transpose()?.unwrap_or_default();
        // What trains as a whole needs no adapter.
        if out || within(layer, self.modules_to_save().unwrap_or_default()) || !targets.matches(layer, linear)? {
            return Ok(false);
        }
        let Peft::Lora(LoraConfig { layers_to_transform: Some(blocks), layers_pattern, .. }) = self else {
            return Ok(true);
        };
        let patterns = match layers_pattern {
            Some(Modules::Names(names)) => &names[..],
            Some(Modules::Pattern(p)) => std::slice::from_ref(p),
            None => &[],
        };
        Ok(blocks.contain(layer, patterns))
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When no layer is named, a rank is 0, or a number is out of range.
    pub fn check(&self) -> Result<()> {
        let Some(targets) = self.targets() else {
            return Err(Error::Config("no layer gets an adapter: expected target_modules, such as q,v".into()));
        };
        targets.check()?;
        match self {
            Peft::Lora(c) => {
                if c.r == 0 || c.rank_pattern.values().any(|r| *r == 0) {
                    return Err(Error::Config("a rank r of 0: expected at least 1".into()));
                }
                if !(0.0..1.0).contains(&c.lora_dropout) {
                    return Err(Error::Config(format!("lora_dropout {}: expected a rate in [0, 1)", c.lora_dropout)));
                }
                if let Some(bad) = std::iter::once(&c.lora_alpha)
                    .chain(c.alpha_pattern.values())
                    .find(|a| !(a.is_finite() && **a > 0.0))
                {
                    return Err(Error::Config(format!("lora_alpha {bad}: expected a number above 0")));
                }
                c.exclude_modules.as_ref().map_or(Ok(()), Modules::check)
            }
            Peft::Ia3(c) => {
                if let (Some(Modules::Names(targets)), Some(Modules::Names(fed))) =
                    (&c.target_modules, &c.feedforward_modules)
                    && let Some(name) = fed.iter().find(|f| !targets.contains(f))
                {
                    return Err(Error::Config(format!("feedforward_modules: {name} is none of target_modules")));
                }
                c.exclude_modules.as_ref().map_or(Ok(()), Modules::check)
            }
        }
    }
}
