//! Reading adapters.

use super::names::{family, to_ours};
use super::{ENDINGS, Modules, Peft, SETTINGS, TENSORS, layer_of};
use crate::error::{Error, Result};
use crate::weights::{self, names::Family};
use candle_core::{Device, Tensor};
use candlelight_store::tensors::TensorFile;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// An adapter from a file, for models of this crate.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Its settings; the targets are the layers that it has tensors for, under our names.
    pub config: Peft,
    /// Its tensors under our names: `blocks.0.attn.q.lora_A.weight`, and those of layers that were trained as a whole, `head.weight`.
    pub tensors: Vec<(String, Tensor)>,
    /// What was done and guessed, one sentence each.
    pub notes: Vec<String>,
}

/// Settings of peft under which another function is computed than the one that is known here, and the values that change nothing.
const UNKNOWN: [(&str, &[&str]); 11] = [
    ("fan_in_fan_out", &["false", "null"]),
    ("use_qalora", &["false", "null"]),
    ("lora_bias", &["false", "null"]),
    ("alora_invocation_tokens", &["null"]),
    ("layer_replication", &["null"]),
    ("target_parameters", &["null", "[]"]),
    ("trainable_token_indices", &["null", "[]", "{}"]),
    ("velora_config", &["null"]),
    ("monteclora_config", &["null"]),
    ("arrow_config", &["null"]),
    ("use_bdlora", &["false", "null"]),
];

/// What peft puts in front of every name.
const OUTER: &str = "base_model.model.";
/// What the names of YOLOv5's layers begin with.
pub(super) const OWN: &str = "model.";

/// Reads the folder of an adapter, or its file of settings or tensors, or the adapter in a checkpoint of ours.
///
/// # Errors
/// When a file is missing or damaged, the kind of adapter is none of those here, or its settings mean another function.
pub fn read(path: &Path) -> Result<Adapter> {
    if path.is_file()
        && let Some(adapter) = of_checkpoint(path, false)?
    {
        return Ok(adapter);
    }
    let folder =
        if path.is_dir() { path } else { path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")) };
    let settings = folder.join(SETTINGS);
    let fail = |message: String| Error::File { path: settings.clone(), message };
    if !settings.is_file() {
        return Err(Error::File {
            path: path.into(),
            message: format!("no adapter: expected a folder with {SETTINGS} and {TENSORS}"),
        });
    }
    let text = std::fs::read_to_string(&settings).map_err(|e| fail(e.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| fail(format!("no JSON ({e}): copy the adapter once more")))?;
    let kind = json.get("peft_type").and_then(|k| k.as_str()).unwrap_or("none").to_string();
    if !["LORA", "IA3"].contains(&kind.as_str()) {
        return Err(fail(format!("an adapter of the kind {kind}, expected LORA or IA3")));
    }
    for (name, harmless) in UNKNOWN {
        let value = json.get(name).map_or("null".into(), ToString::to_string);
        if !harmless.contains(&value.as_str()) {
            return Err(fail(format!(
                "{name} is {value}, under which another function is computed than the one known here"
            )));
        }
    }
    let twice = json.get("peft_version").and_then(|v| v.as_str()).is_some_and(doubles);
    let mut config: Peft = serde_json::from_value(json).map_err(|e| fail(format!("settings that do not fit: {e}")))?;
    let file = [TENSORS, "adapter_model.bin"].iter().map(|n| folder.join(n)).find(|p| p.is_file());
    let file =
        file.ok_or_else(|| Error::File { path: folder.into(), message: format!("an adapter without {TENSORS}") })?;
    let mut raw = weights::open_apart(&file, &weights::Options::default())?.tensors;
    // What readers remove in front of names is a part of those of YOLOv5's layers.
    let listed = weights::list(&file)?;
    if listed.iter().flat_map(|l| &l.tensors).all(|t| t.name.starts_with(&format!("{OUTER}{OWN}"))) {
        raw.iter_mut().filter(|(n, _)| !n.starts_with(OWN)).for_each(|(n, _)| n.insert_str(0, OWN));
    }
    let wrong = |message: String| Error::File { path: file.clone(), message };
    // Of a layer that trained as a whole, peft may save the original beside the copy that trained.
    let kept = raw.into_iter().filter(|(n, _)| !n.contains(".original_module."));
    let mut bare: Vec<(String, Tensor)> = kept.map(|(n, t)| (plain(&n), t)).collect();
    bare.sort_by(|a, b| a.0.cmp(&b.0));
    let same = |a: &Tensor, b: &Tensor| {
        let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>());
        matches!((values(a), values(b)), (Ok(a), Ok(b)) if a == b)
    };
    bare.dedup_by(|b, a| a.0 == b.0 && same(&a.1, &b.1));
    let family = family(bare.iter().filter_map(|(n, _)| layer_of(n)));
    let ours = |name: &str| match layer_of(name) {
        Some(layer) => format!("{}{}", to_ours(family, layer), &name[layer.len()..]),
        None => match name.rsplit_once('.') {
            Some((layer, last)) => format!("{}.{last}", to_ours(family, layer)),
            None => name.into(),
        },
    };
    let theirs: BTreeMap<String, String> = bare
        .iter()
        .filter_map(|(n, _)| layer_of(n))
        // Both layers of a MultiheadAttention have the settings of their attention.
        .map(|l| (to_ours(family, l), l.split(".base_layer").next().unwrap_or(l).to_string()))
        .collect();
    let mut tensors: Vec<(String, Tensor)> = bare.into_iter().map(|(n, t)| (ours(&n), t)).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = tensors.windows(2).find(|p| p[0].0 == p[1].0) {
        return Err(wrong(format!("two tensors stand for {}", pair[0].0)));
    }
    let layers: BTreeSet<String> = theirs.keys().cloned().collect();
    if layers.is_empty() {
        return Err(wrong("no tensor of an adapter in it, such as lora_A.weight".into()));
    }
    settle(&mut config, &theirs, &tensors)?;
    // What was saved beside the adapters: layers as a whole, and biases.
    let mut whole: BTreeSet<String> = BTreeSet::new();
    for (name, _) in tensors.iter().filter(|(n, _)| layer_of(n).is_none()) {
        let (layer, last) = name.rsplit_once('.').unwrap_or(("", name));
        if last == "weight" {
            whole.insert(layer.into());
        }
    }
    config.set_modules_to_save(whole.into_iter().collect());
    let mut notes = vec![format!("{kind} for {} layers, under the names of {family:?}", layers.len())];
    let out = |n: &str| n.ends_with("attn.proj.lora_B.weight");
    if twice && family == Family::Torchvision && tensors.iter().any(|(n, _)| out(n)) {
        for (_, t) in tensors.iter_mut().filter(|(n, _)| out(n)) {
            *t = (&*t * 2.0)?;
        }
        notes.push(
            "attn.proj counts twice, as in the version of peft that it was trained with (huggingface/peft, pull request 3774)"
                .into(),
        );
    }
    Ok(Adapter { config, tensors, notes })
}

/// Whether a version of peft adds what it learnt for the last layer of a MultiheadAttention twice, when it trains and when it predicts.
/// The versions up to 0.21.2 do.
fn doubles(version: &str) -> bool {
    let number =
        |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0);
    let mut parts = version.split('.').map(number);
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next()) <= (0, 21, 2)
}

/// A name without what peft puts around it: `base_model.model.` in front, the name of the adapter behind `lora_A`.
fn plain(name: &str) -> String {
    let name = name.strip_prefix(OUTER).unwrap_or(name);
    let mut name = name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".");
    for (inner, end) in [(".lora_A.", ENDINGS[0]), (".lora_B.", ENDINGS[1])] {
        if let Some((layer, rest)) = name.split_once(inner)
            && rest.ends_with("weight")
        {
            name = format!("{layer}.{end}");
        }
    }
    for end in &ENDINGS[2..] {
        if let Some((layer, _)) = name.split_once(&format!(".{end}")) {
            name = format!("{layer}.{end}");
        }
    }
    if layer_of(&name).is_none() { name.replace(".base_layer.", ".") } else { name }
}

/// Settings for exactly these layers, from our names to those of the file, with the ranks of their tensors.
fn settle(config: &mut Peft, layers: &BTreeMap<String, String>, tensors: &[(String, Tensor)]) -> Result<()> {
    let exact = |s: &str| s.replace('.', "\\.");
    let targets = Some(Modules::names(layers.keys().cloned()));
    match config {
        Peft::Lora(c) => {
            let (mut alphas, mut ranks) = (BTreeMap::new(), BTreeMap::new());
            for (name, a) in tensors.iter().filter(|(n, _)| n.ends_with("lora_A.weight")) {
                let layer = layer_of(name).unwrap_or_default();
                let rank = a.dims()[0];
                // The patterns of the file are for the other library's names; what they come to is kept for each layer.
                let scale = c.scale(layers.get(layer).map_or(layer, String::as_str), rank)?;
                let alpha = scale * if c.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
                if (alpha - c.lora_alpha).abs() > 1e-9 * alpha {
                    alphas.insert(exact(layer), alpha);
                }
                if rank != c.r {
                    ranks.insert(exact(layer), rank);
                }
            }
            (c.rank_pattern, c.alpha_pattern) = (ranks, alphas);
            c.target_modules = targets;
            (c.exclude_modules, c.layers_to_transform, c.layers_pattern) = (None, None, None);
        }
        Peft::Ia3(c) => {
            let inputs = |layer: &&String| {
                let factors = tensors.iter().find(|(n, _)| layer_of(n) == Some(layer));
                factors.is_some_and(|(_, t)| t.rank() == 2 && t.dims()[0] == 1)
            };
            // A convolution's factors do not tell, the settings do.
            let convolution = |ours: &&String, theirs: &String| {
                let four = tensors.iter().any(|(n, t)| layer_of(n) == Some(ours) && t.rank() == 4);
                four && c.feedforward_modules.as_ref().is_some_and(|m| m.matches(theirs, false).unwrap_or_default())
            };
            let fed = layers.iter().filter(|(ours, theirs)| inputs(ours) || convolution(ours, theirs));
            let fed: Vec<String> = fed.map(|(ours, _)| ours.clone()).collect();
            c.feedforward_modules = (!fed.is_empty()).then(|| Modules::names(fed));
            c.target_modules = targets;
            c.exclude_modules = None;
        }
    }
    Ok(())
}

/// The adapter in a checkpoint of ours, under the very names of its model, with what trained as a whole beside it; with `averaged` from the moving
/// average of the weights. `None` where it has none, or is another file.
///
/// # Errors
/// When the file cannot be read, or its record is damaged.
pub fn of_checkpoint(path: &Path, averaged: bool) -> Result<Option<Adapter>> {
    let Some(config) = recorded(path)? else { return Ok(None) };
    let fail = |message: String| Error::File { path: path.into(), message };
    let all = candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| fail(e.to_string()))?;
    let all: Vec<(String, Tensor)> = all.into_iter().collect();
    // Other readers remove what wrappers put in front of names, with which those of some models begin.
    let model = if averaged { weights::averaged(&all) } else { weights::weights_only(&all) };
    let mut tensors = super::write::own(&config, &model, "");
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    if tensors.is_empty() {
        return Err(fail("no moving average of the weights in it".into()));
    }
    Ok(Some(Adapter { config, tensors, notes: vec![] }))
}

/// The settings of the adapters in a checkpoint of ours; `None` where it has none, or is another file.
///
/// # Errors
/// When the file cannot be read, or its record is damaged.
pub fn recorded(path: &Path) -> Result<Option<Peft>> {
    let fail = |message: String| Error::File { path: path.into(), message };
    let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
    let size = file.metadata().map_err(|e| fail(e.to_string()))?.len();
    let Ok(found) = TensorFile::open(file, size) else { return Ok(None) };
    let Some(text) = found.metadata().get("candlelight") else { return Ok(None) };
    let header: serde_json::Value = serde_json::from_str(text).map_err(|e| fail(format!("a damaged record: {e}")))?;
    match header["record"]["config"].get("peft").filter(|p| !p.is_null()) {
        None => Ok(None),
        Some(p) => serde_json::from_value(p.clone()).map(Some).map_err(|e| fail(format!("a damaged record: {e}"))),
    }
}
