//! What lies in and beside the weights of others: lists of classes, configurations of models, how they want images.

use super::*;
use candlelight_store::preparation::{CropMode, Interpolation as Filter};

/// The one list of class names, among those that a file has beside its weights, with a name for each output.
pub(super) fn listed(path: &Path, outputs: usize, notes: &mut Vec<String>) -> Result<Option<Setting<Vec<String>>>> {
    let lists = weights::class_lists(path)?;
    let (fit, other): (Vec<_>, Vec<_>) = lists.into_iter().partition(|l| l.names.len() == outputs);
    if let ([], [first, ..]) = (fit.as_slice(), other.as_slice()) {
        notes.push(format!(
            "{}: `{}` lists {} classes for a model of {outputs} outputs and is not used",
            path.display(),
            first.key,
            first.names.len()
        ));
    }
    match fit.as_slice() {
        [] => Ok(None),
        [only] => {
            let origin = Origin::File(format!("`{}` in {}", only.key, path.display()));
            Ok(Some(Setting::new(only.names.clone(), origin)))
        }
        [a, b, ..] => Err(file(
            path,
            format!(
                "`{}` and `{}` list other classes, or in another order: choose with a file of names (--names)",
                a.key, b.key
            ),
        )),
    }
}

/// What the configuration beside weights says of the model and that this program's model does not do. The tensors would fit all the same.
pub(super) fn differs(path: &Path, config: &ModelConfig) -> Vec<String> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let text = std::fs::read(folder.join("config.json")).unwrap_or_default();
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&text) else { return vec![] };
    let mut all = vec![];
    let text = |key: &str| json.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_string();
    if let ModelConfig::Vit(c) = config {
        for (key, ours) in [
            ("num_attention_heads", c.heads),
            ("num_hidden_layers", c.depth),
            ("hidden_size", c.dim),
            ("patch_size", c.patch),
        ] {
            if let Some(theirs) = json.get(key).and_then(serde_json::Value::as_u64).filter(|t| *t != ours as u64) {
                all.push(format!("{key} {theirs} (this model: {ours})"));
            }
        }
        if !matches!(text("hidden_act").as_str(), "" | "gelu") {
            all.push(format!("hidden_act {} (this model: gelu)", text("hidden_act")));
        }
        let pooled = if c.pool == candlelight_models::vit::Pool::Avg { "avg" } else { "token" };
        let theirs = text("global_pool");
        if !theirs.is_empty() && theirs != pooled && json.get("pretrained_cfg").is_some() {
            all.push(format!("global_pool {theirs} (this model, by its tensors: {pooled})"));
        }
    } else {
        let theirs = text("global_pool");
        if !theirs.is_empty() && theirs != "avg" {
            all.push(format!("global_pool {theirs} (this model: avg)"));
        }
    }
    if let Some(args) = json.get("model_args").and_then(|v| v.as_object()) {
        let changes = |k: &&String| {
            !matches!(
                k.as_str(),
                "num_classes"
                    | "img_size"
                    | "in_chans"
                    | "drop_rate"
                    | "drop_path_rate"
                    | "global_pool"
                    | "class_token"
            )
        };
        all.extend(args.keys().filter(changes).map(|k| format!("model_args `{k}` {}", args[k])));
    }
    all
}

/// Refuses data whose classes are not in the checkpoint's order: a model in training has the data's. `known` is the number of the model's
/// outputs.
///
/// # Errors
/// When a class is another, or there are more of them.
pub fn same_classes(checkpoint: &[String], data: &[String], known: usize) -> Result<()> {
    let n = data.len();
    if n > known {
        return Err(Error::Config(format!(
            "the data has {n} classes, the model {known}: other data, or other weights"
        )));
    }
    if checkpoint.is_empty() || checkpoint == data {
        return Ok(());
    }
    Err(Error::Config(match checkpoint.iter().zip(data).position(|(a, b)| a != b) {
        Some(i) => format!(
            "class {i} of the checkpoint is `{}`, of the data `{}`: other data, or classes in another order",
            checkpoint[i], data[i]
        ),
        None => format!("the checkpoint knows {} classes, the data has {n}", checkpoint.len()),
    }))
}

/// Refuses weights of others whose classes are not the data's in the same order, as training numbers classes as the data does; returns what
/// was guessed.
///
/// # Errors
/// When the classes are others, or in another order.
pub fn same_order(path: &Path, data: &[String], outputs: usize) -> Result<Vec<String>> {
    let mut notes = vec![];
    let beside = Preparation::of_weights(path, None)?.preparation.classes.filter(|c| c.value.len() == outputs);
    let known = listed(path, outputs, &mut notes)?.or(beside);
    let matching = Names::new(outputs, known).map_err(|e| file(path, e))?.matching(data).map_err(|e| file(path, e))?;
    notes.extend(matching.notes.iter().cloned());
    if !matching.is_identity() {
        return Err(file(
            path,
            "its classes are in another order than the data's, or more than these: the program `evaluate` renumbers them",
        ));
    }
    Ok(notes)
}

/// A warning where weights want images fitted in another way than MAE's evaluation does.
///
/// # Errors
/// When files beside the weights cannot be read.
pub fn not_followed(path: &Path) -> Result<Option<String>> {
    let p = Preparation::of_weights(path, None)?.preparation;
    let other = p.crop_pct.as_ref().is_some_and(|c| (c.value - 0.875).abs() > 1e-3)
        || p.crop_mode.as_ref().is_some_and(|m| m.value != CropMode::Center)
        || p.interpolation.as_ref().is_some_and(|i| i.value != Filter::Bicubic);
    Ok(other.then(|| {
        format!(
            "{} wants images {p}; this program evaluates as MAE does: bicubic, the centre of 0.875. The program `evaluate` does what the \
             weights want",
            path.display()
        )
    }))
}
