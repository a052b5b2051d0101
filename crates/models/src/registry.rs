//! Finds models by name. The variants of an architecture are listed in its own file.

use crate::adapt::Fitting;
use crate::error::{Error, Result};
use crate::mae::{self, MaeConfig};
use crate::model::{Architecture, Classifier, Loaded, Published, Variant};
use crate::ntsnet::NtsNetConfig;
use crate::resnet::{self, ResNetConfig};
use crate::vit::{self, VitConfig};
use crate::yolov5::YoloConfig;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candlelight_autograd::{Key, ParamStore, glob};
use candlelight_nn::BatchNormConfig;
use candlelight_nn::peft::{Peft, Plan};
use candlelight_store::{Preparation, nearest};
use serde::{Deserialize, Serialize};

/// A named classifier.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name.
    pub name: &'static str,
    /// The default configuration, including input size, channels and classes.
    pub config: ModelConfig,
    /// How images are prepared for it, and where its weights are published.
    pub published: Published,
}

impl Entry {
    /// How images are prepared for the model; see [`Published::preparation`].
    pub fn preparation(&self) -> Preparation {
        self.published.preparation(self.config.image(), self.config.channels())
    }
}

/// The enum of all classifiers' configurations, one line per architecture: its configuration, its model, its variants by name.
macro_rules! architectures {
    ($($(#[$doc:meta])* $name:ident($config:ty) => $variants:expr,)*) => {
        /// The configuration of a classifier of any architecture.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum ModelConfig {
            $($(#[$doc])* $name($config),)*
        }

        impl<'de> Deserialize<'de> for ModelConfig {
            /// Configurations are told apart by their fields; one that fits none says why for each.
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(d)?;
                let mut why = vec![];
                $(match serde_json::from_value::<$config>(value.clone()) {
                    Ok(c) => return Ok(ModelConfig::$name(c)),
                    Err(e) => why.push(format!("as {}: {e}", stringify!($config))),
                })*
                Err(serde::de::Error::custom(format!("no model's configuration: {}", why.join("; "))))
            }
        }

        impl ModelConfig {
            /// The architecture.
            pub fn architecture(&self) -> &dyn Architecture {
                match self {
                    $(ModelConfig::$name(c) => c,)*
                }
            }

            /// The configuration as an [`Architecture`], to change it.
            pub fn architecture_mut(&mut self) -> &mut dyn Architecture {
                match self {
                    $(ModelConfig::$name(c) => c,)*
                }
            }

            /// Every named classifier.
            pub(crate) fn variants() -> Vec<Entry> {
                let mut all = vec![];
                $(all.extend($variants.iter().map(|v| Entry {
                    name: v.name,
                    config: ModelConfig::$name(v.config.clone()),
                    published: v.published,
                }));)*
                all
            }
        }

        $(impl From<$config> for ModelConfig {
            fn from(c: $config) -> Self {
                ModelConfig::$name(c)
            }
        })*
    };
}

architectures! {
    /// A vision transformer.
    Vit(VitConfig) => crate::vit::variants(),
    /// A residual network.
    ResNet(ResNetConfig) => crate::resnet::variants(),
    /// A YOLOv5 classifier.
    Yolo(YoloConfig) => crate::yolov5::variants(),
    /// A network that looks for informative parts, on another network.
    NtsNet(NtsNetConfig) => crate::ntsnet::variants(),
}

impl ModelConfig {
    /// The configuration of a named classifier.
    ///
    /// # Errors
    /// When there is none of this name; the error names the nearest.
    pub fn named(name: &str) -> Result<Self> {
        Ok(entry(name)?.config)
    }

    /// Height and width of the images that the model is meant for.
    pub fn image(&self) -> (usize, usize) {
        self.architecture().image()
    }

    /// The number of image channels.
    pub fn channels(&self) -> usize {
        self.architecture().channels()
    }

    /// The number of classes of the head.
    pub fn classes(&self) -> usize {
        self.architecture().classes()
    }

    /// Changes the constants of every batch normalisation: first, if `tf` is true, to TensorFlow's, then to those that are given.
    ///
    /// # Errors
    /// When a constant is out of range, or something is to be changed in a model that has none to change.
    pub fn set_batch_norm(&mut self, tf: bool, momentum: Option<f64>, eps: Option<f64>) -> Result<()> {
        if !tf && momentum.is_none() && eps.is_none() {
            return Ok(());
        }
        let Some(norm) = self.architecture_mut().batch_norm() else {
            return Err(Error::Config("this model has no batch normalisation whose constants could change".into()));
        };
        if tf {
            *norm = BatchNormConfig { splits: norm.splits, ..BatchNormConfig::TENSORFLOW };
        }
        norm.momentum = momentum.unwrap_or(norm.momentum);
        norm.eps = eps.unwrap_or(norm.eps);
        Ok(norm.check()?)
    }

    /// [`Architecture::load_pretrained`] of the architecture.
    ///
    /// # Errors
    /// The same as [`Architecture::load_pretrained`].
    pub fn load_pretrained(&self, params: &ParamStore, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Loaded> {
        self.architecture().load_pretrained(params, tensors, how)
    }

    /// Builds the model.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        self.architecture().build(vb)
    }

    /// Builds the model with adapters, and names the layers that got one. Where the settings name no layers to train as a whole, the head is
    /// one, and gets no adapter.
    ///
    /// # Errors
    /// When the settings make no sense, or name layers that the model does not have.
    pub fn build_with(
        &self,
        adapters: &mut Peft,
        params: &ParamStore,
        key: Key,
    ) -> Result<(Box<dyn Classifier>, Vec<String>)> {
        if adapters.modules_to_save().is_none() {
            let dry = self.build(VarBuilder::zeros(DType::F32, &Device::Cpu))?;
            let heads = dry.anatomy();
            adapters.set_modules_to_save(heads.heads().map(|h| h.trim_end_matches('.').to_string()).collect());
        }
        let plan = Plan::new(adapters)?;
        let model = self.build(plan.builder(params.builder(key)))?;
        Ok((model, plan.finish()?))
    }
}

/// The names of the models that match `pattern` (`*` matches any text), sorted.
///
/// ```
/// assert!(candlelight_models::registry::list("mae_*_base*").contains(&"mae_vit_base_patch16"));
/// ```
pub fn list(pattern: &str) -> Vec<&'static str> {
    let classifiers = ModelConfig::variants().into_iter().map(|e| e.name);
    let mut names: Vec<_> =
        mae::VARIANTS.iter().map(|v| v.name).chain(classifiers).filter(|n| glob(pattern, n)).collect();
    names.sort_unstable();
    names
}

/// A named classifier of any architecture.
///
/// # Errors
/// When there is none of this name; the error names the nearest.
pub fn entry(name: &str) -> Result<Entry> {
    let all = ModelConfig::variants();
    match all.iter().find(|e| e.name == name) {
        Some(e) => Ok(e.clone()),
        None => unknown(all.iter().map(|e| e.name), name),
    }
}

/// The configuration of a named masked autoencoder.
///
/// # Errors
/// When there is none of this name; the error names the nearest.
pub fn mae(name: &str) -> Result<MaeConfig> {
    find(mae::VARIANTS, name)
}

/// The configuration of a named vision transformer.
///
/// # Errors
/// When there is none of this name; the error names the nearest.
pub fn vit(name: &str) -> Result<VitConfig> {
    find(vit::variants(), name)
}

/// The configuration of a named residual network.
///
/// # Errors
/// When there is none of this name; the error names the nearest.
pub fn resnet(name: &str) -> Result<ResNetConfig> {
    find(resnet::variants(), name)
}

/// Where the HuggingFace hub has ImageNet weights of a named classifier, head included, as `hf:OWNER/NAME`.
pub fn published(name: &str) -> Option<String> {
    Some(format!("hf:{}", entry(name).ok()?.published.weights?))
}

fn find<C: Clone>(variants: &[Variant<C>], name: &str) -> Result<C> {
    match variants.iter().find(|v| v.name == name) {
        Some(v) => Ok(v.config.clone()),
        None => unknown(variants.iter().map(|v| v.name), name),
    }
}

fn unknown<'a, T>(names: impl Iterator<Item = &'a str>, name: &str) -> Result<T> {
    let suggestions = nearest(names, name).into_iter().map(Into::into).collect();
    Err(Error::Unknown { name: name.into(), suggestions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlelight_store::Origin;

    #[test]
    fn published_weights_are_of_models_there_are() {
        let all = list("*");
        let with: Vec<_> = all.iter().filter_map(|n| published(n)).collect();
        assert_eq!(with.len(), 11);
        assert!(with.contains(&"hf:timm/resnet18.tv_in1k".to_string()) && published("resnet20").is_none());
    }

    #[test]
    fn the_registry_prepares_as_timm_does() {
        for e in ModelConfig::variants() {
            let p = e.preparation().checked().unwrap_or_else(|why| panic!("{}: {why}", e.name));
            assert_eq!(p.size.as_ref().map(|s| s.value), Some(e.config.image()), "{}", e.name);
            let Some(weights) = e.published.weights else {
                assert_eq!(p.mean.map(|m| m.origin), Some(Origin::Assumed), "{}", e.name);
                continue;
            };
            assert!(matches!(p.mean.as_ref().map(|m| &m.origin), Some(Origin::Table { .. })), "{weights} is not known");
            let ours = Published { weights: None, ..e.published }.preparation(e.config.image(), 3);
            let plain = |p: Preparation| {
                let (mean, std) = (p.mean.map(|v| v.value), p.std.map(|v| v.value));
                (mean, std, p.crop_pct.map(|v| v.value), p.interpolation.map(|v| v.value))
            };
            assert_eq!(plain(p), plain(ours), "{}", e.name);
        }
        assert_eq!(entry("vit_demo_patch4").unwrap().preparation().mean.unwrap().value, [0.449]);
    }

    #[test]
    fn unknown_names_get_a_suggestion() {
        let e = mae("mae_vit_bse_patch16").unwrap_err().to_string();
        assert!(e.contains("did you mean mae_vit_base_patch16"), "{e}");
        assert!(!mae("efficientnet").unwrap_err().to_string().contains("did you mean"));
        assert!(vit("vit_huge_patch14").is_ok());
        assert_eq!(list("vit_*").len(), vit::variants().len());
        assert_eq!(list("*").len(), mae::VARIANTS.len() + ModelConfig::variants().len());
    }

    #[test]
    fn every_variant_fits_together() {
        mae::VARIANTS.iter().for_each(|v| v.config.check().unwrap_or_else(|e| panic!("{}: {e}", v.name)));
        vit::variants().iter().for_each(|v| v.config.check().unwrap_or_else(|e| panic!("{}: {e}", v.name)));
        resnet::variants().iter().for_each(|v| v.config.check().unwrap_or_else(|e| panic!("{}: {e}", v.name)));
        crate::yolov5::variants().iter().for_each(|v| v.config.check().unwrap_or_else(|e| panic!("{}: {e}", v.name)));
        crate::ntsnet::variants().iter().for_each(|v| v.config.check().unwrap_or_else(|e| panic!("{}: {e}", v.name)));
    }

    #[test]
    fn batch_normalisation_takes_other_constants() {
        let mut c = ModelConfig::named("resnet18").unwrap();
        let norm = |c: &mut ModelConfig| c.architecture_mut().batch_norm().map(|n| (n.eps, n.momentum));
        c.set_batch_norm(false, None, None).unwrap();
        assert_eq!(norm(&mut c), Some((1e-5, 0.1)));
        c.set_batch_norm(true, None, None).unwrap();
        assert_eq!(norm(&mut c), Some((1e-3, 0.01)));
        c.set_batch_norm(true, Some(0.2), Some(1e-4)).unwrap();
        assert_eq!(norm(&mut c), Some((1e-4, 0.2)));
        assert!(c.set_batch_norm(false, Some(2.0), None).unwrap_err().to_string().contains("bn_momentum 2"));
        let mut vit = ModelConfig::named("vit_tiny_patch16").unwrap();
        vit.set_batch_norm(false, None, None).unwrap();
        assert!(vit.set_batch_norm(true, None, None).unwrap_err().to_string().contains("no batch normalisation"));
    }

    #[test]
    fn names_and_stored_configurations_find_their_architecture() {
        for name in ["vit_tiny_patch16", "resnet20", "vit_b_16"] {
            let c = ModelConfig::named(name).unwrap();
            let back: ModelConfig = serde_json::from_str(&serde_json::to_string(&c).unwrap()).unwrap();
            assert_eq!(back, c);
        }
        let mut typo = serde_json::to_value(ModelConfig::named("resnet20").unwrap()).unwrap();
        typo["drop_paths"] = 0.into();
        let e = serde_json::from_value::<ModelConfig>(typo).unwrap_err().to_string();
        assert!(e.contains("unknown field `drop_paths`"), "{e}");
        for (typo, want) in [("resnet51", "resnet50"), ("vit_b_17", "vit_b_16")] {
            let e = ModelConfig::named(typo).unwrap_err().to_string();
            assert!(e.contains("did you mean") && e.contains(want), "{e}");
        }
    }
}
