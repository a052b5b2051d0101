//! The names of layers in the libraries that peft adapts.

use crate::error::{Error, Result};
use crate::weights::names::{Family, layer_from_timm, layer_to_timm};

/// The library, and where it matters the version, whose layers an adapter names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// timm, and our own models: vision transformers with a fused `attn.qkv`, and residual networks. Parts of the fused layer have names only
    /// here: `attn.q`, `attn.k`, `attn.v`.
    Own,
    /// timm's models, in which `attn.qkv` is one layer.
    Timm,
    /// torchvision, whose attention is PyTorch's `MultiheadAttention`.
    Torchvision,
    /// transformers from version 5 on: `vit.layers.0.attention.q_proj`.
    Huggingface,
    /// transformers before version 5: `vit.encoder.layer.0.attention.attention.query`.
    Huggingface4,
}

impl std::str::FromStr for Naming {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "own" => Ok(Naming::Own),
            "timm" => Ok(Naming::Timm),
            "torchvision" => Ok(Naming::Torchvision),
            "huggingface" | "hf" => Ok(Naming::Huggingface),
            "huggingface4" | "hf4" => Ok(Naming::Huggingface4),
            _ => Err(Error::Config(format!("`{s}`: expected own, timm, torchvision, huggingface or huggingface4"))),
        }
    }
}

/// The library whose names these layers have.
pub(super) fn family<'a>(mut layers: impl Iterator<Item = &'a str>) -> Family {
    let of = |n: &str| {
        if n.contains("encoder_layer_") {
            Some(Family::Torchvision)
        } else if ["encoder.layer.", ".q_proj", ".k_proj", ".v_proj", ".o_proj", "vit.layers."]
            .iter()
            .any(|p| n.contains(p))
        {
            Some(Family::Huggingface)
        } else {
            None
        }
    };
    layers.find_map(of).unwrap_or(Family::Timm)
}

/// A layer of another library under our name.
pub(super) fn to_ours(family: Family, layer: &str) -> String {
    // peft hides a MultiheadAttention behind its adapter; the adapter itself is that of the fused layer.
    let layer = layer.replace(".base_layer", "");
    match layer.strip_suffix(".self_attention") {
        Some(block) if family == Family::Torchvision => {
            layer_to_timm(family, &format!("{block}.self_attention.in_proj_"))
        }
        _ => layer_to_timm(family, &layer),
    }
}

/// A layer of ours under the name that it has in a file of an adapter, and under the one that the settings name as a target.
pub(super) fn to_theirs(naming: Naming, layer: &str) -> Result<(String, String)> {
    let no = || Error::Mismatch(format!("{layer} has no place in the models of that library"));
    let same = |n: String| (n.clone(), n);
    Ok(match naming {
        Naming::Own | Naming::Timm => same(layer.into()),
        Naming::Huggingface => same(layer_from_timm(Family::Huggingface, layer, true).ok_or_else(no)?),
        Naming::Huggingface4 => same(layer_from_timm(Family::Huggingface, layer, false).ok_or_else(no)?),
        Naming::Torchvision => {
            let name = layer_from_timm(Family::Torchvision, layer, false).ok_or_else(no)?;
            if let Some(attention) = name.strip_suffix(".in_proj_") {
                same(attention.into())
            } else if let Some(attention) = name.strip_suffix(".out_proj") {
                (format!("{attention}.base_layer.out_proj"), attention.into())
            } else {
                same(name)
            }
        }
    })
}
