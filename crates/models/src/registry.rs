//! Models by name. Each architecture's file lists its variants; this one finds them.

use crate::error::{Error, Result};
use crate::mae::{self, MaeConfig};
use crate::model::ModelConfig;
use crate::resnet::{self, ResNetConfig};
use crate::vit::{self, VitConfig};
use candlelight_autograd::glob;

/// How images were prepared for published weights, and where these are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Mean of the pixels, RGB, from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of the pixels, RGB.
    pub std: [f32; 3],
    /// The share of the resized image's side that the centre crop keeps.
    pub crop_pct: f32,
    /// The resize's filter, as torchvision calls it.
    pub interpolation: &'static str,
    /// Weights on the hub, head and all, as `OWNER/NAME`.
    pub weights: Option<&'static str>,
}

impl Published {
    /// torchvision's preparation of ImageNet: 224 of 256 pixels, bilinear.
    pub const IMAGENET: Self = Published {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        crop_pct: 0.875,
        interpolation: "bilinear",
        weights: None,
    };

    /// The same with a bicubic filter, as MAE's.
    pub const IMAGENET_BICUBIC: Self = Published { interpolation: "bicubic", ..Self::IMAGENET };

    /// akamaster's preparation of CIFAR: ImageNet's statistics, the whole image.
    pub const CIFAR: Self = Published { crop_pct: 1.0, ..Self::IMAGENET };

    /// The same with weights on the hub.
    pub const fn at(self, weights: &'static str) -> Self {
        Published { weights: Some(weights), ..self }
    }
}

/// A named configuration of an architecture.
#[derive(Debug, Clone)]
pub struct Variant<C> {
    /// Its name.
    pub name: &'static str,
    /// Its configuration.
    pub config: C,
    /// How images are prepared, and where weights are published.
    pub published: Published,
}

/// A named classifier.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Its default configuration: input size, channels, classes and all.
    pub config: ModelConfig,
    /// How images are prepared, and where weights are published.
    pub published: Published,
}

/// Names that match `pattern` (`*` matches any text), sorted.
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
    find(vit::VARIANTS, name)
}

/// The configuration of a named residual network.
///
/// # Errors
/// When there is none of this name; the error names the nearest.
pub fn resnet(name: &str) -> Result<ResNetConfig> {
    find(resnet::variants(), name)
}

/// Where the hub has ImageNet weights of a named classifier, head and all, as `hf:OWNER/NAME`.
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

/// At most two of the names, those least different from `name`.
fn nearest<'a>(names: impl Iterator<Item = &'a str>, name: &str) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = names.map(|n| (distance(name, n), n)).collect();
    near.sort_unstable();
    let limit = name.len().max(9) / 3;
    near.into_iter().filter(|(d, _)| *d <= limit).take(2).map(|(_, n)| n).collect()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = if ca == *cb { corner } else { corner + 1 };
            corner = row[j + 1];
            row[j + 1] = cost.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_weights_are_of_models_there_are() {
        let all = list("*");
        let with: Vec<_> = all.iter().filter_map(|n| published(n)).collect();
        assert_eq!(with.len(), 11);
        assert!(with.contains(&"hf:timm/resnet18.tv_in1k".to_string()) && published("resnet20").is_none());
    }

    #[test]
    fn unknown_names_get_a_suggestion() {
        let e = mae("mae_vit_bse_patch16").unwrap_err().to_string();
        assert!(e.contains("did you mean mae_vit_base_patch16"), "{e}");
        assert!(!mae("efficientnet").unwrap_err().to_string().contains("did you mean"));
        assert!(vit("vit_huge_patch14").is_ok());
        assert_eq!(list("vit_*").len(), vit::VARIANTS.len());
        assert_eq!(list("*").len(), mae::VARIANTS.len() + vit::VARIANTS.len() + resnet::variants().len());
    }

    #[test]
    fn every_variant_fits_together() {
        mae::VARIANTS.iter().for_each(|v| v.config.check().unwrap_or_else(|e| panic!("{}: {e}", v.name)));
        vit::VARIANTS.iter().for_each(|v| v.config.check().unwrap_or_else(|e| panic!("{}: {e}", v.name)));
        resnet::variants().iter().for_each(|v| v.config.check().unwrap_or_else(|e| panic!("{}: {e}", v.name)));
    }
}
