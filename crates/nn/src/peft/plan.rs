//! Which layers of a model get an adapter, told to the layers by the builder that they take their parameters from.

use super::Peft;
use super::layer::{Kind, Settings};
use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use std::sync::{Arc, Mutex, PoisonError};

/// A layer that could have an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Whether it is a linear layer, not a convolution.
    pub linear: bool,
    /// Whether it gets an adapter.
    pub adapted: bool,
}

/// The adapters of a model that is about to be built.
#[derive(Debug, Clone)]
pub struct Plan {
    config: Arc<Peft>,
    asked: Arc<Mutex<Vec<Module>>>,
}

impl Plan {
    /// Adapters with these settings.
    ///
    /// # Errors
    /// When the settings make no sense.
    pub fn new(config: &Peft) -> Result<Self> {
        config.check()?;
        Ok(Plan { config: Arc::new(config.clone()), asked: Arc::default() })
    }

    /// A builder that gives the same parameters as `vb`, which must be the root of the model, and lets the layers of this crate that are
    /// targets make adapters beside them.
    pub fn builder<'a>(&self, vb: VarBuilder<'a>) -> VarBuilder<'a> {
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        VarBuilder::from_backend(Box::new(Hook { plan: self.clone(), vb }), dtype, device)
    }

    /// The layers that were built and could have an adapter, in their order.
    pub fn modules(&self) -> Vec<Module> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks back once the model is built; returns the layers that got an adapter.
    ///
    /// # Errors
    /// When no layer did, or a name of the targets stands for no layer: an adapter that does nothing would not be noticed.
    pub fn finish(&self) -> Result<Vec<String>> {
        let all = self.modules();
        let got: Vec<&str> = all.iter().filter(|m| m.adapted).map(|m| m.name.as_str()).collect();
        let without = self.config.targets().map_or(vec![], |t| t.without(&got));
        let Some(targets) = self.config.targets().filter(|_| got.is_empty() || !without.is_empty()) else {
            return Ok(got.into_iter().map(String::from).collect());
        };
        let none = if without.is_empty() { targets.to_string() } else { without.join(", ") };
        // The last parts say it in short: blocks repeat themselves.
        let mut ends: Vec<&str> = vec![];
        for m in &all {
            let end = m.name.rsplit_once('.').map_or(m.name.as_str(), |(_, last)| last);
            let end = if end.parse::<usize>().is_ok() { m.name.as_str() } else { end };
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        ends.truncate(16);
        Err(Error::Config(format!(
            "target_modules: `{none}` matches no layer that an adapter could go to; the model's layers end in {}",
            ends.join(", ")
        )))
    }

    /// The settings of a layer's adapter; `None` where it gets none.
    fn settings(&self, name: &str, kind: Kind) -> Result<Option<Settings>> {
        let linear = kind != Kind::Conv;
        // A part of a fused layer is no linear layer of its own, unless it is named.
        let wants = if kind == Kind::Part && self.config.targets().is_some_and(super::Modules::every_linear) {
            false
        } else {
            self.config.wants(name, linear)?
        };
        if !wants {
            return Ok(None);
        }
        Ok(Some(match &*self.config {
            Peft::Lora(c) => {
                let rank = c.rank(name)?;
                Settings {
                    rank,
                    scale: c.scale(name, rank)?,
                    dropout: c.lora_dropout as f32,
                    dora: c.use_dora,
                    feedforward: false,
                }
            }
            Peft::Ia3(c) => {
                let feedforward = c.multiplies_inputs(name, linear)?;
                Settings { rank: 0, scale: 1.0, dropout: 0.0, dora: false, feedforward }
            }
        }))
    }
}

/// A builder's source of parameters that also answers what layers ask about adapters.
struct Hook<'a> {
    plan: Plan,
    vb: VarBuilder<'a>,
}

impl SimpleBackend for Hook<'_> {
    fn get(&self, s: Shape, name: &str, init: Init, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.vb.get_with_hints_dtype(s, name, init, dtype)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some((layer, kind)) = Kind::asked(name) else { return self.vb.get_unchecked_dtype(name, dtype) };
        let settings = self.plan.settings(layer, kind).map_err(candle_core::Error::wrap)?;
        let module = Module { name: layer.into(), linear: kind != Kind::Conv, adapted: settings.is_some() };
        self.plan.asked.lock().unwrap_or_else(PoisonError::into_inner).push(module);
        settings.map_or_else(|| Tensor::zeros(0, DType::F64, &Device::Cpu), |s| s.tensor(device))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        Kind::asked(name).is_some() || self.vb.contains_tensor(name)
    }
}
