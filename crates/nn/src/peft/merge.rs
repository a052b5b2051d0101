//! Adapters merged into weights, and taken out of them.

use super::layer::{delta, norms};
use super::{LoraConfig, Peft, layer_of};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::collections::{BTreeSet, HashMap};

/// Where the outputs of a layer lie: in its own weight, or in the third of a fused one.
pub(super) struct Place {
    /// The name of the layer that has the weight.
    pub(super) layer: String,
    /// The first row.
    pub(super) from: usize,
    rows: usize,
}

/// The place of a layer, by the numbers of rows of the weights that there are.
pub(super) fn place(layer: &str, rows: impl Fn(&str) -> Option<usize>) -> Option<Place> {
    if let Some(rows) = rows(layer) {
        return Some(Place { layer: layer.into(), from: 0, rows });
    }
    let third = |(parent, last): (&str, &str)| {
        let place = ["q", "k", "v"].iter().position(|p| *p == last)?;
        let fused = if parent.is_empty() { "qkv".into() } else { format!("{parent}.qkv") };
        let rows = rows(&fused)? / 3;
        Some(Place { layer: fused, from: place * rows, rows })
    };
    third(layer.rsplit_once('.').unwrap_or(("", layer)))
}

/// The weight that a layer's adapter goes to, and its place in it.
fn goal(layer: &str, tensors: &HashMap<String, Tensor>) -> Result<(Tensor, Place)> {
    let weight = |name: &str| tensors.get(&format!("{name}.weight"));
    let found = place(layer, |name| weight(name)?.dims().first().copied());
    let found = found.and_then(|to| Some((weight(&to.layer)?.clone(), to)));
    found.ok_or_else(|| Error::Param { name: layer.into(), message: "has an adapter and no weight".into() })
}

/// What LoRA adds, in the shape of the rows that it is added to.
fn added(layer: &str, rows: &Tensor, (a, b): (&Tensor, &Tensor), scale: f64) -> Result<Tensor> {
    let delta = delta(a, b, scale)?;
    let want = (rows.dims()[0], rows.elem_count() / rows.dims()[0].max(1));
    if delta.dims() != [want.0, want.1] {
        let (a, b) = (a.dims(), b.dims());
        let message = format!("lora_A {a:?} and lora_B {b:?} do not make its weight {:?}", rows.dims());
        return Err(Error::Param { name: layer.into(), message });
    }
    Ok(delta.reshape(rows.dims())?)
}

/// A tensor whose rows from `from` on are replaced.
fn put(t: &Tensor, from: usize, rows: &Tensor) -> Result<Tensor> {
    let behind = from + rows.dims()[0];
    let mut parts = vec![];
    if from > 0 {
        parts.push(t.narrow(0, 0, from)?);
    }
    parts.push(rows.clone());
    if behind < t.dims()[0] {
        parts.push(t.narrow(0, behind, t.dims()[0] - behind)?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

/// The layers with adapters, and the tensors by name, in f32.
fn sorted(tensors: &[(String, Tensor)]) -> Result<(BTreeSet<String>, HashMap<String, Tensor>)> {
    let layers = tensors.iter().filter_map(|(n, _)| layer_of(n)).map(String::from).collect();
    let wide = |t: &Tensor| if t.dtype().is_float() { t.to_dtype(DType::F32) } else { Ok(t.clone()) };
    let by_name = tensors.iter().map(|(n, t)| Ok((n.clone(), wide(t)?))).collect::<Result<_>>()?;
    Ok((layers, by_name))
}

/// A state dict without the tensors of adapters, which are merged into the weights. What has no adapter is as it was; several adapters are
/// stacked by merging one after the other.
///
/// # Errors
/// When an adapter has no weight to go to, is incomplete, or has another kind than the settings; when a merged weight is not finite.
pub fn merged(tensors: &[(String, Tensor)], config: &Peft) -> Result<Vec<(String, Tensor)>> {
    let (layers, mut by_name) = sorted(tensors)?;
    for layer in &layers {
        let (weight, to) = goal(layer, &by_name)?;
        let own = |end: &str| by_name.get(&format!("{layer}.{end}"));
        let lacks = |what: &str| Error::Param { name: layer.clone(), message: format!("its adapter lacks {what}") };
        let rows = weight.narrow(0, to.from, to.rows)?;
        let fail = |what: String| Error::Param { name: layer.clone(), message: what };
        let (rows, bias) = match config {
            Peft::Lora(c) => {
                let a = own("lora_A.weight").ok_or_else(|| lacks("lora_A.weight"))?;
                let b = own("lora_B.weight").ok_or_else(|| lacks("lora_B.weight"))?;
                (lora(c, layer, (&weight, &to), (a, b), own("lora_magnitude_vector"))?, None)
            }
            Peft::Ia3(c) => {
                let f = own("ia3_l").ok_or_else(|| lacks("ia3_l"))?;
                let n = f.elem_count();
                let inputs = c.multiplies_inputs(layer, weight.rank() == 2)?;
                let want = if inputs { weight.dims()[1] } else { to.rows };
                if n != want {
                    return Err(fail(format!("{n} factors, expected {want}")));
                }
                let dims: Vec<usize> =
                    (0..weight.rank()).map(|d| if d == usize::from(inputs) { n } else { 1 }).collect();
                let rows = rows.broadcast_mul(&f.reshape(dims)?)?;
                let bias = by_name.get(&format!("{}.bias", to.layer)).filter(|_| !inputs);
                let bias = bias.map(|b| put(b, to.from, &b.narrow(0, to.from, to.rows)?.mul(&f.flatten_all()?)?));
                (rows, bias.transpose()?)
            }
        };
        if !rows.flatten_all()?.sum(0)?.to_scalar::<f32>()?.is_finite() {
            return Err(fail("the merged weight is not finite".into()));
        }
        by_name.insert(format!("{}.weight", to.layer), put(&weight, to.from, &rows)?);
        if let Some(bias) = bias {
            by_name.insert(format!("{}.bias", to.layer), bias);
        }
    }
    let kept = tensors.iter().filter(|(n, _)| layer_of(n).is_none());
    Ok(kept.map(|(n, _)| (n.clone(), by_name[n].clone())).collect())
}

/// The rows of a weight with LoRA or DoRA in them.
fn lora(
    c: &LoraConfig,
    layer: &str,
    (weight, to): (&Tensor, &Place),
    (a, b): (&Tensor, &Tensor),
    magnitude: Option<&Tensor>,
) -> Result<Tensor> {
    let scale = c.scale(layer, a.dims()[0])?;
    let rows = weight.narrow(0, to.from, to.rows)?;
    let sum = (&rows + added(layer, &rows, (a, b), scale)?)?;
    let Some(m) = magnitude else { return Ok(sum) };
    let ratio = m.flatten_all()?.div(&norms(weight, to.from, a, b, scale)?)?; // (O)
    let dims: Vec<usize> = std::iter::once(to.rows).chain(std::iter::repeat_n(1, rows.rank() - 1)).collect();
    Ok(sum.broadcast_mul(&ratio.reshape(dims)?)?)
}

/// The inverse of [`merged`] for LoRA: takes what `adapter` added, its tensors under the names of its layers, out of weights.
///
/// # Errors
/// When the adapter is DoRA or IA3, whose merging loses what would be needed, or has no weight to be taken out of.
pub fn unmerged(
    tensors: &[(String, Tensor)],
    adapter: &[(String, Tensor)],
    config: &Peft,
) -> Result<Vec<(String, Tensor)>> {
    let Peft::Lora(c) = config else {
        return Err(Error::Config("IA3 cannot be taken out of weights: keep the weights without it".into()));
    };
    if c.use_dora {
        return Err(Error::Config("DoRA cannot be taken out of weights: keep the weights without it".into()));
    }
    let (layers, by_adapter) = sorted(adapter)?;
    let (_, mut by_name) = sorted(tensors)?;
    for layer in &layers {
        let (weight, to) = goal(layer, &by_name)?;
        let own = |end: &str| {
            let name = format!("{layer}.{end}");
            let lacks = || Error::Param { name: layer.clone(), message: format!("its adapter lacks {end}") };
            by_adapter.get(&name).ok_or_else(lacks)
        };
        let (a, b) = (own("lora_A.weight")?, own("lora_B.weight")?);
        let rows = weight.narrow(0, to.from, to.rows)?;
        let less = (&rows - added(layer, &rows, (a, b), c.scale(layer, a.dims()[0])?)?)?;
        by_name.insert(format!("{}.weight", to.layer), put(&weight, to.from, &less)?);
    }
    Ok(tensors.iter().map(|(n, _)| (n.clone(), by_name[n].clone())).collect())
}
