//! Models by name.

use crate::error::{Error, Result};
use crate::mae::{self, MaeConfig};
use crate::resnet::{self, ResNetConfig};
use crate::vit::{self, VitConfig};
use candlelight_autograd::glob;

/// Names that match `pattern` (`*` matches any text), sorted.
///
/// ```
/// assert!(candlelight_models::registry::list("mae_*_base*").contains(&"mae_vit_base_patch16"));
/// ```
pub fn list(pattern: &str) -> Vec<&'static str> {
    let mut names: Vec<_> = names().filter(|n| glob(pattern, n)).collect();
    names.sort_unstable();
    names
}

fn names() -> impl Iterator<Item = &'static str> {
    let resnets = resnet::VARIANTS.iter().map(|(n, _)| *n);
    mae::VARIANTS.iter().map(|(n, _)| *n).chain(vit::VARIANTS.iter().map(|(n, _)| *n)).chain(resnets)
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
    Ok(find(resnet::VARIANTS, name)?())
}

/// Where the hub has ImageNet weights of a named classifier, head and all, as `hf:OWNER/NAME`.
pub fn published(name: &str) -> Option<String> {
    let repository = match name {
        "resnetblur50" => "resnetblur50.bt_in1k".into(),
        "resnet18" | "resnet34" | "resnet50" | "resnet101" | "resnet152" | "resnext50_32x4d" | "resnext101_32x8d"
        | "resnext101_64x4d" | "wide_resnet50_2" | "wide_resnet101_2" => format!("{name}.tv_in1k"),
        _ => return None,
    };
    Some(format!("hf:timm/{repository}"))
}

fn find<C: Clone>(variants: &[(&'static str, C)], name: &str) -> Result<C> {
    if let Some((_, config)) = variants.iter().find(|(n, _)| *n == name) {
        return Ok(config.clone());
    }
    let suggestions = nearest(variants.iter().map(|(n, _)| *n), name).into_iter().map(Into::into).collect();
    Err(Error::Unknown { name: name.into(), suggestions })
}

/// At most two of the names, those least different from `name`.
pub(crate) fn nearest<'a>(names: impl Iterator<Item = &'a str>, name: &str) -> Vec<&'a str> {
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
        assert_eq!(list("*").len(), mae::VARIANTS.len() + vit::VARIANTS.len() + resnet::VARIANTS.len());
    }

    #[test]
    fn every_variant_fits_together() {
        mae::VARIANTS.iter().for_each(|(n, c)| c.check().unwrap_or_else(|e| panic!("{n}: {e}")));
        vit::VARIANTS.iter().for_each(|(n, c)| c.check().unwrap_or_else(|e| panic!("{n}: {e}")));
        resnet::VARIANTS.iter().for_each(|(n, c)| c().check().unwrap_or_else(|e| panic!("{n}: {e}")));
    }
}
