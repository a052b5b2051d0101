//! Adapters of HuggingFace's peft as files: a folder with `adapter_config.json` and `adapter_model.safetensors`, read from and written for
//! models of timm, torchvision and transformers.
//!
//! The layers themselves are those of [`candlelight_nn::peft`].

mod names;
mod read;
mod write;

pub use candlelight_nn::peft::*;
pub use names::Naming;
pub use read::{Adapter, of_checkpoint, read, recorded};
pub use write::{write, written};

use crate::error::{Error, Result};
use crate::model::Fitted;
use crate::weights::{self, names::to_timm};
use candle_core::Tensor;
use candlelight_autograd::ParamStore;
use std::path::Path;

/// The file of an adapter's settings.
pub const SETTINGS: &str = "adapter_config.json";
/// The file of an adapter's tensors.
pub const TENSORS: &str = "adapter_model.safetensors";

/// Weights of any library with adapters merged into them, one after the other, under our names. Layers that were trained as a whole, such as
/// the head, take the place of those of the weights. The lines say what was done.
///
/// # Errors
/// When an adapter cannot be read, or is for layers that the weights do not have.
pub fn applied(tensors: &[(String, Tensor)], adapters: &[&Path]) -> Result<Fitted> {
    let (mut all, mut notes) = (to_timm(&weights::unwrapped(&weights::weights_only(tensors))?)?, vec![]);
    for path in adapters {
        let adapter = read(path)?;
        let fail = |message: String| Error::File { path: path.to_path_buf(), message };
        let own = |tensors: &[(String, Tensor)]| tensors.iter().all(|(n, _)| n.starts_with(read::OWN));
        if own(&adapter.tensors) && !own(&all) {
            all.iter_mut().for_each(|(n, _)| n.insert_str(0, read::OWN));
        }
        let (low, whole): (Vec<_>, Vec<_>) = adapter.tensors.iter().cloned().partition(|(n, _)| layer_of(n).is_some());
        for (name, t) in &whole {
            overlay(&mut all, name, t)?;
        }
        let layers = low.iter().filter(|(n, _)| n.ends_with("lora_A.weight") || n.ends_with("ia3_l")).count();
        all.extend(low);
        all = merged(&all, &adapter.config).map_err(|e| fail(format!("{e}: is it an adapter for these weights?")))?;
        let more = if whole.is_empty() { String::new() } else { format!(", {} tensors are its own", whole.len()) };
        notes.push(format!("{}: adapters of {layers} layers are merged into the weights{more}", path.display()));
        notes.extend(adapter.notes.iter().map(|n| format!("{}: {n}", path.display())));
    }
    Ok(Fitted { tensors: all, notes })
}

/// Puts a tensor in place of that of the same name. The bias of `q`, `k` or `v` takes the place of a third of the fused one.
pub(crate) fn overlay(all: &mut Vec<(String, Tensor)>, name: &str, t: &Tensor) -> Result<()> {
    let part = [".q.bias", ".k.bias", ".v.bias"].iter().position(|p| name.ends_with(p));
    let fused = part.map(|i| (i, format!("{}.qkv.bias", &name[..name.len() - 7])));
    if let Some((i, fused)) = fused
        && let Some((_, whole)) = all.iter_mut().find(|(n, _)| *n == fused)
    {
        let n = whole.dims()[0] / 3;
        let thirds = (0..3).map(|j| if i == j { Ok(t.clone()) } else { whole.narrow(0, j * n, n) });
        *whole = Tensor::cat(&thirds.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        return Ok(());
    }
    all.retain(|(n, _)| n != name);
    all.push((name.into(), t.clone()));
    Ok(())
}

/// Sets the parameters of a model, which was built with an adapter's settings, to that adapter.
///
/// # Errors
/// When the model has no place for one of its tensors.
pub fn load(params: &ParamStore, adapter: &Adapter) -> Result<()> {
    let mut all = params.values();
    let known: Vec<String> = all.iter().map(|(n, _)| n.clone()).collect();
    for (name, t) in &adapter.tensors {
        overlay(&mut all, name, t)?;
    }
    if let Some((other, _)) = all.iter().find(|(n, _)| !known.contains(n)) {
        return Err(Error::Mismatch(format!("{other} of the adapter has no place in the model")));
    }
    for (name, t) in &all {
        params.set(name, &t.copy()?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
