//! Writing adapters.

use super::names::to_theirs;
use super::{Bias, LoraConfig, Modules, Naming, Peft, SETTINGS, TENSORS, layer_of, within};
use crate::error::{Error, Result};
use crate::weights;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// An adapter as peft has it in its files: the settings, and the tensors with their names. `tensors` are those of a trained model under our
/// names; of them the adapters, the layers that train as a whole (`modules_to_save`, or `head`), and the biases that train are taken.
///
/// Layers that the other library has in another division are brought to it without changing what they compute: a fused `qkv` is split for
/// transformers, and `q`, `k` and `v` are joined for timm and torchvision, with a rank that is the sum of theirs.
///
/// # Errors
/// When there is no adapter, or the library has no place for a layer or for its kind of adapter.
pub fn written(
    config: &Peft,
    tensors: &[(String, Tensor)],
    head: &str,
    naming: Naming,
) -> Result<(serde_json::Value, Vec<(String, Tensor)>)> {
    let mut config = config.clone();
    let low: Vec<(String, Tensor)> = tensors.iter().filter(|(n, _)| layer_of(n).is_some()).cloned().collect();
    if low.is_empty() {
        return Err(Error::Mismatch("the weights have no adapters: were they trained with --lora or --ia3?".into()));
    }
    let low = match naming {
        Naming::Own => low,
        Naming::Timm | Naming::Torchvision => joined(low, &mut config)?,
        Naming::Huggingface | Naming::Huggingface4 => split(low)?,
    };
    let low = if naming == Naming::Torchvision { completed(low, &mut config)? } else { low };
    let (mut out, mut targets, mut fed) = (vec![], BTreeSet::new(), BTreeSet::new());
    for (name, t) in &low {
        let layer = layer_of(name).unwrap_or_default();
        let (theirs, target) = to_theirs(naming, layer)?;
        out.push((format!("base_model.model.{theirs}{}", &name[layer.len()..]), t.clone()));
        if let Peft::Ia3(c) = &config
            && c.multiplies_inputs(layer, t.rank() == 2)?
        {
            fed.insert(target.clone());
        }
        targets.insert(target);
    }
    let mut saved = BTreeSet::new();
    for (name, t) in own(&config, tensors, head).into_iter().filter(|(n, _)| layer_of(n).is_none()) {
        let (layer, last) = name.rsplit_once('.').unwrap_or((&name, ""));
        if within(layer, &whole(&config, head)) {
            let (theirs, _) = to_theirs(naming, layer)?;
            saved.insert(theirs.clone());
            out.push((format!("base_model.model.{theirs}.{last}"), t.clone()));
        } else {
            for (layer, t) in biases_of(layer, &t, naming)? {
                let (theirs, _) = to_theirs(naming, &layer)?;
                let adapted = low.iter().any(|(n, _)| layer_of(n) == Some(&layer));
                let base = if adapted { ".base_layer" } else { "" };
                out.push((format!("base_model.model.{theirs}{base}.bias"), t));
            }
        }
    }
    let names = |all: BTreeSet<String>| Some(Modules::names(all));
    let saved: Vec<String> = saved.into_iter().collect();
    match &mut config {
        Peft::Lora(c) => {
            (c.target_modules, c.exclude_modules, c.layers_to_transform, c.layers_pattern) =
                (names(targets), None, None, None);
            (c.rank_pattern, c.alpha_pattern) = patterns(c, &low, naming)?;
            c.modules_to_save = Some(saved);
        }
        Peft::Ia3(c) => {
            (c.target_modules, c.exclude_modules, c.feedforward_modules) = (names(targets), None, names(fed));
            c.modules_to_save = Some(saved);
        }
    }
    let mut json =
        serde_json::to_value(&config).map_err(|e| Error::Config(format!("settings that are no JSON: {e}")))?;
    for (name, value) in [
        ("base_model_name_or_path", serde_json::Value::Null),
        ("inference_mode", true.into()),
        ("task_type", serde_json::Value::Null),
        ("fan_in_fan_out", false.into()),
    ] {
        json[name] = value;
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((json, out))
}

/// The layers that train as a whole.
fn whole(config: &Peft, head: &str) -> Vec<String> {
    let head = Some(head.trim_end_matches('.').to_string()).filter(|h| !h.is_empty());
    config.modules_to_save().map_or_else(|| head.into_iter().collect(), <[_]>::to_vec)
}

/// Of the tensors of a trained model those that belong to its adapter.
pub(super) fn own(config: &Peft, tensors: &[(String, Tensor)], head: &str) -> Vec<(String, Tensor)> {
    let (whole, layers) =
        (whole(config, head), tensors.iter().filter_map(|(n, _)| layer_of(n)).collect::<BTreeSet<_>>());
    let biases = if let Peft::Lora(c) = config { c.bias } else { Bias::None };
    let belongs = |name: &str| {
        let (layer, last) = name.rsplit_once('.').unwrap_or((name, ""));
        let adapted = || {
            let part = layer.strip_suffix("qkv").is_some_and(|p| parts(p).iter().any(|q| layers.contains(q.as_str())));
            part || layers.contains(layer)
        };
        let bias = match biases {
            Bias::None => false,
            Bias::All => last == "bias",
            Bias::LoraOnly => last == "bias" && adapted(),
        };
        bias || layer_of(name).is_some() || within(layer, &whole)
    };
    tensors.iter().filter(|(n, _)| belongs(n)).cloned().collect()
}

/// Writes the folder of an adapter; see [`written`].
///
/// # Errors
/// The same, and when the files cannot be written.
pub fn write(folder: &Path, config: &Peft, tensors: &[(String, Tensor)], head: &str, naming: Naming) -> Result<()> {
    let (json, tensors) = written(config, tensors, head, naming)?;
    let fail = |e: std::io::Error| Error::File { path: folder.into(), message: e.to_string() };
    std::fs::create_dir_all(folder).map_err(fail)?;
    weights::write_safetensors(&folder.join(TENSORS), &tensors, None)?;
    let text = serde_json::to_string_pretty(&json).map_err(|e| Error::Config(e.to_string()))?;
    Ok(candlelight_store::atomic::write_atomic(&folder.join(SETTINGS), |w| w.write_all(text.as_bytes()))?)
}

/// Ranks and scales of the layers that have others than the settings say.
type Patterns = (BTreeMap<String, usize>, BTreeMap<String, f64>);

fn patterns(c: &LoraConfig, low: &[(String, Tensor)], naming: Naming) -> Result<Patterns> {
    let (mut ranks, mut alphas) = Patterns::default();
    for (name, a) in low.iter().filter(|(n, _)| n.ends_with("lora_A.weight")) {
        let layer = layer_of(name).unwrap_or_default();
        let rank = a.dims()[0];
        let (_, target) = to_theirs(naming, layer)?;
        let target = target.replace('.', "\\.");
        // The alpha that gives the layer's scale at this rank.
        let alpha = c.scale(layer, rank)? * if c.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        if (alpha - c.lora_alpha).abs() > 1e-9 * alpha {
            alphas.insert(target.clone(), alpha);
        }
        if rank != c.r {
            ranks.insert(target, rank);
        }
    }
    Ok((ranks, alphas))
}

/// The parts of the fused layer of an attention, whose name ends in a dot.
fn parts(attention: &str) -> [String; 3] {
    ["q", "k", "v"].map(|p| format!("{attention}{p}"))
}

/// The bias of a layer, as the other library has it.
fn biases_of(layer: &str, bias: &Tensor, naming: Naming) -> Result<Vec<(String, Tensor)>> {
    match (naming, layer.strip_suffix("qkv")) {
        (Naming::Huggingface | Naming::Huggingface4, Some(attention)) => {
            let n = bias.dims()[0] / 3;
            let third = |(i, layer): (usize, String)| Ok((layer, bias.narrow(0, i * n, n)?.contiguous()?));
            parts(attention).into_iter().enumerate().map(third).collect()
        }
        (Naming::Torchvision, _) if layer.rsplit_once('.').is_some_and(|(p, _)| p.ends_with("attn")) => {
            Err(Error::Mismatch(format!(
                "{layer}: a trained bias has no place in peft's files for torchvision's attention"
            )))
        }
        _ => Ok(vec![(layer.into(), bias.clone())]),
    }
}

fn parent(layer: &str) -> &str {
    layer.rsplit_once('.').map_or("", |(p, _)| p)
}

/// Each fused `qkv` as `q`, `k` and `v`: the As are copies, the Bs, norms and factors are thirds.
fn split(low: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
    let mut out = vec![];
    for (name, t) in low {
        let layer = layer_of(&name).unwrap_or_default();
        let Some(attention) = layer.strip_suffix("qkv") else {
            out.push((name, t));
            continue;
        };
        let end = &name[layer.len()..];
        let common = end == ".lora_A.weight" || (end == ".ia3_l" && t.dims()[0] == 1);
        for (i, part) in ["q", "k", "v"].iter().enumerate() {
            let n = t.dims()[0] / 3;
            let t = if common { t.clone() } else { t.narrow(0, i * n, n)?.contiguous()? };
            out.push((format!("{attention}{part}{end}"), t));
        }
    }
    Ok(out)
}

/// `q`, `k` and `v` of each attention as one fused `qkv`, whose rank is the sum of theirs. What computes no part is 0.
fn joined(low: Vec<(String, Tensor)>, config: &mut Peft) -> Result<Vec<(String, Tensor)>> {
    let part_of = |layer: &str| ["q", "k", "v"].iter().position(|p| layer.rsplit('.').next() == Some(p));
    let attentions: BTreeSet<String> = low
        .iter()
        .filter_map(|(n, _)| layer_of(n).filter(|l| part_of(l).is_some()))
        .map(|l| parent(l).to_string())
        .collect();
    if attentions.is_empty() {
        return Ok(low);
    }
    let Peft::Lora(c) = config else {
        return Err(Error::Mismatch(
            "IA3 of q, k or v alone has no place in a fused qkv: write it for huggingface".into(),
        ));
    };
    if c.use_dora {
        return Err(Error::Mismatch(
            "DoRA of q, k or v alone has no place in a fused qkv: write it for huggingface".into(),
        ));
    }
    let by_name: BTreeMap<&str, &Tensor> = low.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut out: Vec<(String, Tensor)> =
        low.iter().filter(|(n, _)| layer_of(n).is_none_or(|l| part_of(l).is_none())).cloned().collect();
    let mut alphas = c.alpha_pattern.clone();
    for attention in attentions {
        let dot = if attention.is_empty() { "" } else { "." };
        let fused = format!("{attention}{dot}qkv");
        if by_name.contains_key(format!("{fused}.lora_A.weight").as_str()) {
            return Err(Error::Mismatch(format!("{fused} has an adapter of its own beside those of its parts")));
        }
        let parts: Vec<(usize, String)> =
            ["q", "k", "v"].iter().enumerate().map(|(i, p)| (i, format!("{attention}{dot}{p}"))).collect();
        let of = |layer: &str, end: &str| by_name.get(format!("{layer}.{end}").as_str()).copied();
        let (mut downs, mut ups, mut scales) = (vec![], vec![], vec![]);
        for (i, layer) in &parts {
            let (Some(a), Some(b)) = (of(layer, "lora_A.weight"), of(layer, "lora_B.weight")) else { continue };
            let (rows, rank) = b.dims2()?;
            let zeros = |n: usize| Tensor::zeros((n, rank), DType::F32, &Device::Cpu);
            ups.push(Tensor::cat(&[zeros(i * rows)?, b.clone(), zeros((2 - i) * rows)?], 0)?);
            downs.push(a.clone());
            scales.push(c.scale(layer, rank)?);
        }
        let (Some(scale), a) = (scales.first().copied(), Tensor::cat(&downs, 0)?) else { continue };
        // One scale for all: the others are brought to it.
        let ups = ups.iter().zip(&scales).map(|(b, s)| b * (s / scale)).collect::<candle_core::Result<Vec<_>>>()?;
        let rank = a.dims()[0] as f64;
        alphas.insert(fused.replace('.', "\\."), scale * if c.use_rslora { rank.sqrt() } else { rank });
        out.push((format!("{fused}.lora_A.weight"), a));
        out.push((format!("{fused}.lora_B.weight"), Tensor::cat(&ups, 1)?));
    }
    c.alpha_pattern = alphas;
    Ok(out)
}

/// For torchvision: peft adapts both layers of a MultiheadAttention, with one rank and one scale. A layer without an adapter gets one that adds
/// 0, and the smaller rank is filled up with zeros.
fn completed(low: Vec<(String, Tensor)>, config: &mut Peft) -> Result<Vec<(String, Tensor)>> {
    let layers: BTreeSet<&str> = low.iter().filter_map(|(n, _)| layer_of(n)).collect();
    let attentions: BTreeSet<String> = layers
        .iter()
        .filter_map(|l| l.rsplit_once('.').filter(|(p, _)| p.ends_with("attn")).map(|(p, _)| p.to_string()))
        .collect();
    if attentions.is_empty() {
        return Ok(low);
    }
    let Peft::Lora(c) = config else {
        return Err(Error::Mismatch("only LoRA has a place in torchvision's attention".into()));
    };
    if c.use_dora {
        return Err(Error::Mismatch("DoRA has no place in torchvision's attention".into()));
    }
    let inside = |name: &str| layer_of(name).is_some_and(|l| attentions.contains(parent(l)));
    let by_name: BTreeMap<&str, &Tensor> = low.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut out: Vec<(String, Tensor)> = low.iter().filter(|(n, _)| !inside(n)).cloned().collect();
    let mut alphas = c.alpha_pattern.clone();
    for attention in &attentions {
        let both = [format!("{attention}.qkv"), format!("{attention}.proj")];
        let of = |layer: &str, end: &str| by_name.get(format!("{layer}.{end}").as_str()).copied();
        let pairs: Vec<_> = both.iter().map(|l| Some((of(l, "lora_A.weight")?, of(l, "lora_B.weight")?))).collect();
        let Some((a, _)) = pairs.iter().flatten().next().copied() else { continue };
        let (width, rank) = (a.dims()[1], pairs.iter().flatten().map(|(a, _)| a.dims()[0]).max().unwrap_or_default());
        let mut common = None;
        for (i, (layer, pair)) in both.iter().zip(&pairs).enumerate() {
            let zeros = |n: usize, m: usize| Tensor::zeros((n, m), DType::F32, &Device::Cpu);
            let (a, b) = match pair {
                None => (zeros(rank, width)?, zeros(if i == 0 { 3 * width } else { width }, rank)?),
                Some((a, b)) => {
                    let (own, rows) = (a.dims()[0], b.dims()[0]);
                    let scale = c.scale(layer, own)?;
                    let b = (*b * (scale / *common.get_or_insert(scale)))?;
                    let a = Tensor::cat(&[*a, &zeros(rank - own, width)?], 0)?;
                    (a, Tensor::cat(&[&b, &zeros(rows, rank - own)?], 1)?)
                }
            };
            out.push((format!("{layer}.lora_A.weight"), a));
            out.push((format!("{layer}.lora_B.weight"), b));
        }
        let alpha = common.unwrap_or_default() * if c.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        alphas.extend(both.map(|l| (l.replace('.', "\\."), alpha)));
    }
    c.alpha_pattern = alphas;
    Ok(out)
}
