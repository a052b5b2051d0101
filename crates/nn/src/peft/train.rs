//! Training adapters alone.

use super::layer::norms;
use super::merge::place;
use super::{Bias, Peft, layer_of, within};
use crate::{Anatomy, Error, Result};
use candlelight_autograd::ParamStore;
use std::collections::HashMap;

/// Freezes every parameter but those of adapters, the layers that train as a whole, and the biases that the settings name. Norms of DoRA that
/// were not loaded become those of the weights. Call it once the weights are loaded.
///
/// # Errors
/// When the model was built without adapters, or a layer that is to train as a whole does not exist. Nothing is changed then.
pub fn train_only(config: &Peft, params: &ParamStore, model: &Anatomy) -> Result<()> {
    let names = params.names();
    let layers: Vec<&str> = names.iter().filter_map(|n| layer_of(n)).collect();
    if layers.is_empty() {
        return Err(Error::Config(
            "the model has no adapters: build it with the builder of their Plan, then train them".into(),
        ));
    }
    let whole: Vec<String> = match config.modules_to_save() {
        Some(modules) => modules.to_vec(),
        None => model.heads().map(|h| h.trim_end_matches('.').to_string()).collect(),
    };
    let of_layer = |name: &str, module: &String| {
        let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
        within(layer, std::slice::from_ref(module))
    };
    if let Some(none) = whole.iter().find(|m| !names.iter().any(|n| of_layer(n, m))) {
        return Err(Error::Config(format!("modules_to_save: `{none}` is no layer of the model")));
    }
    let bias = if let Peft::Lora(c) = config { c.bias } else { Bias::None };
    set_norms(config, params)?;
    params.freeze("*");
    for name in &names {
        let bias = name.strip_suffix(".bias").is_some_and(|layer| match bias {
            Bias::None => false,
            Bias::All => true,
            // The bias of a fused layer belongs to its parts.
            Bias::LoraOnly => layers.iter().any(|l| {
                *l == layer
                    || layer.strip_suffix("qkv").is_some_and(|p| l.strip_prefix(p).is_some_and(|r| !r.contains('.')))
            }),
        });
        if bias || layer_of(name).is_some() || whole.iter().any(|m| of_layer(name, m)) {
            params.unfreeze(name);
        }
    }
    Ok(())
}

/// Sets the norms of DoRA that are not known yet.
fn set_norms(config: &Peft, params: &ParamStore) -> Result<()> {
    let Peft::Lora(c) = config else { return Ok(()) };
    let entries: HashMap<String, _> = params.entries().into_iter().map(|e| (e.name, e.var)).collect();
    for (name, var) in &entries {
        let Some(layer) = name.strip_suffix(".lora_magnitude_vector") else { continue };
        if !var.flatten_all()?.get(0)?.to_scalar::<f32>()?.is_nan() {
            continue;
        }
        let of = |name: String| entries.get(&name).map(|v| v.as_tensor());
        let (a, b) = (of(format!("{layer}.lora_A.weight")), of(format!("{layer}.lora_B.weight")));
        let (Some(a), Some(b)) = (a, b) else { continue };
        let weight = |name: &str| of(format!("{name}.weight"));
        let to = place(layer, |name| weight(name)?.dims().first().copied());
        let Some((weight, to)) = to.and_then(|to| Some((weight(&to.layer)?, to))) else { continue };
        let norms = norms(weight, to.from, a, b, c.scale(layer, a.dims()[0])?)?.reshape(var.dims())?;
        params.set(name, &norms)?;
    }
    Ok(())
}
