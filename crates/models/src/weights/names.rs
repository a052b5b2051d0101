//! Names of the same vision transformer in four libraries.
//!
//! facebookresearch/mae and timm share their names, which are ours: a fused `attn.qkv`. torchvision fuses it as
//! `self_attention.in_proj_*`; HuggingFace splits it into query, key and value.

use crate::error::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The library whose names a state dict has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// facebookresearch/mae and timm: `blocks.0.attn.qkv.weight`.
    Timm,
    /// torchvision: `encoder.layers.encoder_layer_0.self_attention.in_proj_weight`.
    Torchvision,
    /// HuggingFace's ViT and ViTMAE: `vit.encoder.layer.0.attention.attention.query.weight`.
    Huggingface,
}

impl std::str::FromStr for Family {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "timm" | "mae" => Ok(Family::Timm),
            "torchvision" => Ok(Family::Torchvision),
            "huggingface" | "hf" => Ok(Family::Huggingface),
            _ => Err(Error::Config(format!("`{s}`: expected timm, mae, torchvision or huggingface"))),
        }
    }
}

/// The library that these names come from, if they are those of a vision transformer.
pub fn detect<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Family> {
    names.into_iter().find_map(|n| {
        if n.contains("encoder_layer_") || n == "class_token" || n.starts_with("conv_proj.") {
            Some(Family::Torchvision)
        } else if ["embeddings.", "encoder.layer.", ".q_proj.", "decoder.decoder_"].iter().any(|p| n.contains(p)) {
            Some(Family::Huggingface)
        } else if n.starts_with("blocks.") || n == "cls_token" || n.starts_with("patch_embed.") {
            Some(Family::Timm)
        } else {
            None
        }
    })
}

/// (ours, theirs) outside of blocks.
const TORCHVISION: [(&str, &str); 5] = [
    ("cls_token", "class_token"),
    ("pos_embed", "encoder.pos_embedding"),
    ("patch_embed.proj", "conv_proj"),
    ("norm", "encoder.ln"),
    ("head", "heads.head"),
];
const TORCHVISION_BLOCK: [(&str, &str); 7] = [
    ("norm1", "ln_1"),
    ("attn.qkv.weight", "self_attention.in_proj_weight"),
    ("attn.qkv.bias", "self_attention.in_proj_bias"),
    ("attn.proj", "self_attention.out_proj"),
    ("norm2", "ln_2"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.3"),
];
const HUGGINGFACE: [(&str, &str); 10] = [
    ("cls_token", "vit.embeddings.cls_token"),
    ("pos_embed", "vit.embeddings.position_embeddings"),
    ("patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
    ("norm", "vit.layernorm"),
    ("head", "classifier"),
    ("decoder_embed", "decoder.decoder_embed"),
    ("mask_token", "decoder.mask_token"),
    ("decoder_pos_embed", "decoder.decoder_pos_embed"),
    ("decoder_norm", "decoder.decoder_norm"),
    ("decoder_pred", "decoder.decoder_pred"),
];
const HUGGINGFACE_BLOCK: [(&str, &str); 6] = [
    ("norm1", "layernorm_before"),
    ("attn.qkv", "attention.attention.{query,key,value}"),
    ("attn.proj", "attention.output.dense"),
    ("norm2", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
];
const PARTS: [&str; 3] = ["query", "key", "value"];
/// Names that transformers 5 uses in memory, and those that transformers 4 and the files on the hub use instead.
const HUGGINGFACE_5: [(&str, &str); 7] = [
    ("vit.layers.", "vit.encoder.layer."),
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
];

/// `from` at the start of `name`, as a whole word, replaced.
fn renamed(name: &str, from: &str, to: &str) -> Option<String> {
    let rest = name.strip_prefix(from)?;
    (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
}

/// (ours, theirs)
type Renames = &'static [(&'static str, &'static str)];

/// The prefixes of stacks of blocks, and the names inside a block.
fn stacks(family: Family) -> (Renames, Renames) {
    match family {
        Family::Timm => (&[], &[]),
        Family::Torchvision => (&[("blocks.", "encoder.layers.encoder_layer_")], &TORCHVISION_BLOCK),
        Family::Huggingface => {
            (&[("blocks.", "vit.encoder.layer."), ("decoder_blocks.", "decoder.decoder_layers.")], &HUGGINGFACE_BLOCK)
        }
    }
}

fn outside(family: Family) -> Renames {
    match family {
        Family::Timm => &[],
        Family::Torchvision => &TORCHVISION,
        Family::Huggingface => &HUGGINGFACE,
    }
}

/// The number at the start of `s` and what follows its dot.
fn numbered(s: &str) -> Option<(&str, &str)> {
    let (number, rest) = s.split_once('.')?;
    number.bytes().all(|b| b.is_ascii_digit()).then_some((number, rest))
}

/// The state dict of any library under our names. Unknown names stay as they are and are later reported as unexpected; among them are
/// tensors that a classifier does not need, such as a pooler or counters.
///
/// # Errors
/// When one of query, key and value is missing, or their shapes differ.
pub fn to_timm(tensors: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
    let Some(family) = detect(tensors.iter().map(|(n, _)| n.as_str())).filter(|f| *f != Family::Timm) else {
        return Ok(tensors.to_vec());
    };
    // HuggingFace's bare model has no `vit.` in front.
    let bare = family == Family::Huggingface && !tensors.iter().any(|(n, _)| n.starts_with("vit."));
    let mut out = Vec::with_capacity(tensors.len());
    let mut split: BTreeMap<String, [Option<Tensor>; 3]> = BTreeMap::new();
    for (name, t) in tensors {
        let known = ["embeddings.", "encoder.", "layers.", "layernorm."].iter().any(|p| name.starts_with(p));
        let name = if bare && known { format!("vit.{name}") } else { name.clone() };
        let name = match family {
            Family::Huggingface => HUGGINGFACE_5.iter().fold(name, |n, (new, old)| n.replace(new, old)),
            // torchvision's first models named the MLP's layers.
            _ => name.replace("mlp.linear_1", "mlp.0").replace("mlp.linear_2", "mlp.3"),
        };
        match ours(family, &name) {
            Ours::Name(n) => out.push((n, t.clone())),
            Ours::Part(n, part) => split.entry(n).or_default()[part] = Some(t.clone()),
        }
    }
    for (name, parts) in split {
        let [Some(q), Some(k), Some(v)] = parts else {
            return Err(Error::Mismatch(format!("{name}: query, key or value is missing")));
        };
        if q.dims() != k.dims() || q.dims() != v.dims() {
            let (q, k, v) = (q.dims(), k.dims(), v.dims());
            return Err(Error::Mismatch(format!("{name}: query {q:?}, key {k:?} and value {v:?} differ")));
        }
        out.push((name, Tensor::cat(&[q, k, v], 0)?));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

enum Ours {
    Name(String),
    Part(String, usize),
}

fn ours(family: Family, name: &str) -> Ours {
    let (stacks, block) = stacks(family);
    for (mine, theirs) in stacks {
        let Some((number, rest)) = name.strip_prefix(theirs).and_then(numbered) else { continue };
        for (a, b) in block {
            if let Some((before, _)) = b.split_once('{') {
                for (i, part) in PARTS.iter().enumerate() {
                    if let Some(rest) = rest.strip_prefix(&format!("{before}{part}")) {
                        return Ours::Part(format!("{mine}{number}.{a}{rest}"), i);
                    }
                }
            } else if let Some(rest) = renamed(rest, b, a) {
                return Ours::Name(format!("{mine}{number}.{rest}"));
            }
        }
    }
    let found = outside(family).iter().find_map(|(a, b)| renamed(name, b, a));
    Ours::Name(found.unwrap_or_else(|| name.into()))
}

/// Our state dict under the names of another library.
///
/// # Errors
/// When a fused projection does not divide into three, or the family has no place for a name.
pub fn from_timm(tensors: &[(String, Tensor)], family: Family) -> Result<Vec<(String, Tensor)>> {
    if family == Family::Timm {
        return Ok(tensors.to_vec());
    }
    let (stacks, block) = stacks(family);
    let mut out = Vec::with_capacity(tensors.len());
    for (name, t) in tensors {
        let inside = stacks.iter().find_map(|(mine, theirs)| {
            let (number, rest) = name.strip_prefix(mine).and_then(numbered)?;
            block.iter().find_map(|(a, b)| Some(format!("{theirs}{number}.{}", renamed(rest, a, b)?)))
        });
        let theirs = inside.or_else(|| outside(family).iter().find_map(|(a, b)| renamed(name, a, b)));
        let Some(theirs) = theirs else {
            // `fc_norm` belongs to models that pool the patches; the models of the other libraries read the class token.
            return Err(Error::Mismatch(format!("{name} has no place in {family:?}'s models")));
        };
        match theirs.split_once("{query,key,value}") {
            None => out.push((theirs, t.clone())),
            Some((before, after)) => {
                let n = t.dim(0)?;
                if n % 3 != 0 {
                    return Err(Error::Mismatch(format!(
                        "{name}: {:?} does not divide into query, key, value",
                        t.dims()
                    )));
                }
                for (i, part) in PARTS.iter().enumerate() {
                    out.push((format!("{before}{part}{after}"), t.narrow(0, i * n / 3, n / 3)?.contiguous()?));
                }
            }
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// A layer of another library's vision transformer under our name; the parts of a split attention are `attn.q`, `attn.k` and `attn.v`. Other
/// layers keep their names.
pub(crate) fn layer_to_timm(family: Family, layer: &str) -> String {
    if family == Family::Timm {
        return layer.into();
    }
    // A layer is found by the name of its weight.
    let name = if layer.ends_with("in_proj_") { format!("{layer}weight") } else { format!("{layer}.weight") };
    let name = match family {
        Family::Huggingface => {
            let bare = ["encoder.", "layers.", "layernorm"].iter().any(|p| name.starts_with(p));
            let name = if bare { format!("vit.{name}") } else { name };
            HUGGINGFACE_5.iter().fold(name, |n, (new, old)| n.replace(new, old))
        }
        _ => name,
    };
    let ours = match ours(family, &name) {
        Ours::Name(n) => n,
        Ours::Part(n, part) => n.replace("attn.qkv", ["attn.q", "attn.k", "attn.v"][part]),
    };
    ours.strip_suffix(".weight").unwrap_or(&ours).into()
}

/// The inverse of [`layer_to_timm`], with the names of transformers 5 where `new` is true; `None` where the library has no such layer.
pub(crate) fn layer_from_timm(family: Family, layer: &str, new: bool) -> Option<String> {
    let part = ["q", "k", "v"].iter().position(|p| layer.ends_with(&format!(".attn.{p}")));
    if part.is_some() && family != Family::Huggingface {
        return None;
    }
    let fused = part.map_or(layer.to_string(), |_| format!("{}qkv", &layer[..layer.len() - 1]));
    let name = format!("{fused}.weight");
    let (stacks, block) = stacks(family);
    let inside = stacks.iter().find_map(|(mine, theirs)| {
        let (number, rest) = name.strip_prefix(mine).and_then(numbered)?;
        block.iter().find_map(|(a, b)| Some(format!("{theirs}{number}.{}", renamed(rest, a, b)?)))
    });
    let theirs = inside.or_else(|| outside(family).iter().find_map(|(a, b)| renamed(&name, a, b)))?;
    let theirs = match (part, theirs.contains("{query,key,value}")) {
        (Some(i), true) => theirs.replace("{query,key,value}", PARTS[i]),
        (None, false) => theirs,
        _ => return None,
    };
    let theirs = if new { HUGGINGFACE_5.iter().fold(theirs, |n, (new, old)| n.replace(old, new)) } else { theirs };
    Some(theirs.strip_suffix(".weight").or_else(|| theirs.strip_suffix("weight")).unwrap_or(&theirs).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mae, Vit, registry};
    use candle_core::Device;
    use candlelight_autograd::{Key, ParamStore};

    fn same(a: &[(String, Tensor)], b: &[(String, Tensor)]) {
        assert_eq!(a.iter().map(|(n, _)| n).collect::<Vec<_>>(), b.iter().map(|(n, _)| n).collect::<Vec<_>>());
        for ((n, x), (_, y)) in a.iter().zip(b) {
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(x), values(y), "{n}");
        }
    }

    #[test]
    fn there_and_back_is_the_same_state_dict() {
        let small =
            crate::VitConfig { dim: 12, heads: 3, depth: 2, classes: 5, ..registry::vit("vit_tiny_patch16").unwrap() };
        let vit = ParamStore::new();
        let token = crate::VitConfig { pool: crate::vit::Pool::Token, ..small };
        Vit::new(&token, vit.builder(Key::new(0))).unwrap();
        let mut vit = vit.state_dict();
        vit.sort_by(|a, b| a.0.cmp(&b.0));
        for family in [Family::Timm, Family::Torchvision, Family::Huggingface] {
            let theirs = from_timm(&vit, family).unwrap();
            assert_eq!(detect(theirs.iter().map(|(n, _)| n.as_str())), Some(family));
            same(&to_timm(&theirs).unwrap(), &vit);
        }
        let mae = ParamStore::new();
        Mae::init(&registry::mae("mae_vit_demo_patch4").unwrap(), &mae, Key::new(0)).unwrap();
        let mut mae = mae.state_dict();
        mae.sort_by(|a, b| a.0.cmp(&b.0));
        let theirs = from_timm(&mae, Family::Huggingface).unwrap();
        assert!(theirs.iter().any(|(n, _)| n == "decoder.decoder_layers.0.attention.attention.key.bias"));
        same(&to_timm(&theirs).unwrap(), &mae);
        assert!(from_timm(&mae, Family::Torchvision).unwrap_err().to_string().contains("no place"));
    }

    #[test]
    fn bare_models_old_names_and_gaps_are_understood() {
        let t = |n: usize| Tensor::zeros(n, candle_core::DType::F32, &Device::Cpu).unwrap();
        let names = |all: &[(String, Tensor)]| to_timm(all).unwrap().into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        let bare =
            ["embeddings.cls_token", "encoder.layer.3.layernorm_before.bias", "layernorm.weight", "pooler.dense.bias"];
        let bare: Vec<(String, Tensor)> = bare.iter().map(|n| (n.to_string(), t(2))).collect();
        assert_eq!(names(&bare), ["blocks.3.norm1.bias", "cls_token", "norm.weight", "pooler.dense.bias"]);
        let old = vec![("encoder.layers.encoder_layer_11.mlp.linear_2.weight".to_string(), t(2))];
        assert_eq!(names(&old), ["blocks.11.mlp.fc2.weight"]);
        let part = |n: &str, k: usize| (format!("vit.encoder.layer.0.attention.attention.{n}.bias"), t(k));
        let e = to_timm(&[part("query", 2), part("key", 2)]).unwrap_err().to_string();
        assert!(e.contains("blocks.0.attn.qkv.bias") && e.contains("missing"), "{e}");
        assert!(to_timm(&[part("query", 2), part("key", 2), part("value", 3)]).is_err());
        assert_eq!(detect(["conv1.weight"]), None);
    }
}
