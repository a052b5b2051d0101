//! Pruning of whole channels: filters of convolutions, channels of residual streams, hidden units of MLPs, heads of attention.
//!
//! [`Structure`] follows every channel through a model's forward pass and finds which entries of which parameters go with it. [`Importance`] and
//! [`Ranks`] say how much each channel matters, [`Structure::select`] and [`Structure::search`] which ones stay, and [`pruned`] makes the
//! smaller model: its weights, and a configuration that builds it without the larger one. It computes what the larger one computes with those
//! channels set to zero.
//!
//! ```
//! use candlelight_autograd::{Key, ParamStore};
//! use candlelight_models::prune::{CompressRates, Importance, Limits, Structure, pruned};
//! use candlelight_models::registry::ModelConfig;
//! let config = ModelConfig::named("resnet20")?;
//! let params = ParamStore::new();
//! let model = config.build(params.builder(Key::new(0)))?;
//! let structure = Structure::of_model(&*model, &config, &params)?;
//! let rates: CompressRates = "[0.]+[0.25]*2+[0.5]*9".parse()?;
//! let scores = Importance::L1.scores(&structure, &params.state_dict(), &[], &Key::new(0))?;
//! let keep = structure.select(&structure.rates(&config, &rates)?, &scores, &Limits::default())?;
//! let smaller = pruned(&config, &structure, &params.state_dict(), &keep)?;
//! assert!(structure.macs(&keep) * 2 < structure.macs(&structure.all()));
//! # let _ = smaller;
//! # Ok::<(), candlelight_models::Error>(())
//! ```

mod channels;
mod hrankplus;
mod importance;
mod rank;
mod rates;
mod select;
mod structure;

pub use hrankplus::hrankplus;
pub use importance::{Importance, Scores};
pub use rank::{Ranks, SiteRanks, Steady};
pub use rates::CompressRates;
pub use select::{Goal, Limits};
pub use structure::{Group, Keep, Member, Site, Structure};

use crate::error::Result;
use crate::model::Classifier;
use crate::registry::ModelConfig;
use candle_core::{DType, Device, Tensor};
use candlelight_autograd::{ParamStore, Trace};
use std::collections::HashMap;

/// The operations of a classifier's forward pass in evaluation, for one image of the configuration's size.
///
/// # Errors
/// When the image does not fit the model.
pub fn trace(model: &dyn Classifier, config: &ModelConfig) -> Result<Trace> {
    let (h, w) = config.image();
    // One value that is seen as an image: nothing is computed.
    let image = Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as((1, config.channels(), h, w))?;
    Trace::of(|tape| model.forward(&tape.constant(&image), None))
}

impl Structure {
    /// The structure of a classifier with these parameters.
    ///
    /// # Errors
    /// Those of [`trace`].
    pub fn of_model(model: &dyn Classifier, config: &ModelConfig, params: &ParamStore) -> Result<Self> {
        Ok(Structure::of(&trace(model, config)?, params))
    }
}

/// A smaller model.
#[derive(Debug, Clone)]
pub struct Pruned {
    /// Its configuration, with a width for each layer.
    pub config: ModelConfig,
    /// Its weights.
    pub tensors: Vec<(String, Tensor)>,
}

/// The model with the channels that stay.
///
/// # Errors
/// When channels to keep do not fit, or the architecture cannot be built with widths of single layers.
pub fn pruned(
    config: &ModelConfig,
    structure: &Structure,
    tensors: &[(String, Tensor)],
    keep: &Keep,
) -> Result<Pruned> {
    let tensors = structure.cut(tensors, keep)?;
    let dims: HashMap<&str, &[usize]> = tensors.iter().map(|(n, t)| (n.as_str(), t.dims())).collect();
    let mut config = config.clone();
    let of = |name: &str| dims.get(name).map(|d| d.to_vec());
    config.architecture_mut().narrow(&of, &structure.paddings(keep))?;
    Ok(Pruned { config, tensors })
}

#[cfg(test)]
mod tests;
