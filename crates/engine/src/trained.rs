//! Trained classifiers from files of weights of any library, with the names of their classes and the preparation of their images.

use crate::checkpoint;
use crate::error::{Error, Result, file};
use candle_core::{Device, Tensor};
use candlelight_autograd::{Key, ParamStore};
use candlelight_data::{Collection, Normalize, Pipeline};
use candlelight_models::adapt::Fitting;
use candlelight_models::posemb::Interpolation;
use candlelight_models::{Classifier, MaeConfig, ModelConfig, VitConfig, peft, registry, weights};
use candlelight_store::classes::{self, Names};
use candlelight_store::preparation::{Origin, Preparation, Setting};
use std::path::{Path, PathBuf};

mod foreign;
mod prepared;

pub use foreign::{not_followed, same_classes, same_order};
pub use prepared::{numbered, yolov5};

/// What is asked of a file of weights.
#[derive(Debug, Clone, Default)]
pub struct TrainedOptions {
    /// The name of the architecture; by default the one that our own checkpoint names.
    pub model: Option<String>,
    /// The name on the hub that the weights were found by, such as `hf:timm/resnet50.a1_in1k`.
    pub published: Option<String>,
    /// Of a file with several sets of weights, the one to use.
    pub set: Option<String>,
    /// Whether the moving average of the weights is used.
    pub ema: bool,
    /// Folders of adapters of peft, which are merged into the weights one after the other.
    pub adapters: Vec<PathBuf>,
    /// Whether tensors that the model has no place for are left out, although another function is computed then.
    pub partial: bool,
    /// A file of the names of the classes.
    pub names: Option<PathBuf>,
    /// Height and width of the images; by default the model's.
    pub size: Option<(usize, usize)>,
    /// How position embeddings are resized.
    pub positions: Interpolation,
    /// Whether batch normalisations have TensorFlow's constants.
    pub bn_tf: bool,
    /// The share of a batch in running statistics; by default the model's.
    pub bn_momentum: Option<f64>,
    /// The constant that batch normalisations add to variances; by default the model's.
    pub bn_eps: Option<f64>,
}

/// A trained classifier and what its file and the files beside it say about it.
pub struct Trained {
    /// The model.
    pub model: Box<dyn Classifier>,
    /// Its parameters.
    pub params: ParamStore,
    /// Its configuration.
    pub config: ModelConfig,
    /// What its outputs are called, where that is known.
    pub names: Names,
    /// How images are prepared for it, as a checkpoint of ours has it.
    pub evaluation: Option<Pipeline>,
    /// What is known of the preparation for other weights.
    pub preparation: Preparation,
    /// What was chosen, removed, resized and guessed, one sentence each.
    pub notes: Vec<String>,
    /// What is usual for the named model, where nothing is known of the weights.
    usual: Preparation,
}

impl std::fmt::Debug for Trained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trained").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The grid of patches that a checkpoint of ours was trained on.
///
/// # Errors
/// When the file cannot be read.
pub fn grid(path: &Path) -> Result<Option<(usize, usize)>> {
    let of = |image: (usize, usize), patch: usize| (image.0 / patch.max(1), image.1 / patch.max(1));
    let said = if path.is_file() { checkpoint::describe(path)? } else { None };
    Ok(said.and_then(|d| match serde_json::from_value::<VitConfig>(d.model.clone()) {
        Ok(c) => Some(of(c.image, c.patch)),
        Err(_) => serde_json::from_value::<MaeConfig>(d.model).ok().map(|c| of(c.image, c.patch)),
    }))
}

/// The grid of a file's positions by the image size that lies beside it, if that has as many patches as there are positions.
fn grid_beside(tensors: &[(String, Tensor)], config: &ModelConfig, beside: &Preparation) -> Option<(usize, usize)> {
    let ModelConfig::Vit(c) = config else { return None };
    let (h, w) = beside.size.as_ref()?.value;
    let (h, w) = (h / c.patch, w / c.patch);
    let table = ["pos_embed", "pos_embedding", "position_embeddings"];
    let rows = tensors.iter().find(|(n, _)| table.iter().any(|e| n.ends_with(e)))?.1.dims().get(1).copied()?;
    (h * w == rows || h * w + 1 == rows).then_some((h, w))
}

impl Trained {
    /// Loads a classifier of any architecture, from weights under the names of any library.
    ///
    /// # Errors
    /// When the architecture is not known, the tensors are not those of the model, or what lies beside them contradicts it.
    pub fn load(path: &Path, options: &TrainedOptions, device: &Device) -> Result<Trained> {
        let named = |e: candlelight_models::Error| file(path, e);
        let said = if path.is_file() { checkpoint::describe(path)? } else { None };
        let stored = said.as_ref().filter(|d| d.kind == "classify");
        let mut notes = vec![];
        let mut config: ModelConfig = match (options.model.as_deref(), stored) {
            (Some(name), _) => ModelConfig::named(name)?,
            (None, Some(d)) => serde_json::from_value(d.model.clone())
                .map_err(|e| file(path, format!("the model in it is none of ours: {e}")))?,
            (None, None) => return Err(file(path, "no checkpoint of ours, so the model has to be named (--model)")),
        };
        let mut preparation = Preparation::default();
        if stored.is_none() {
            let found = Preparation::of_weights(path, options.published.as_deref())?;
            notes.extend(found.notes);
            preparation = found.preparation;
        }
        config.set_batch_norm(options.bn_tf, options.bn_momentum, options.bn_eps)?;
        let set = weights::Options { set: options.set.clone(), ema: options.ema };
        let mut opened = weights::open(path, &set)?;
        notes.extend(opened.notes.iter().map(|n| format!("{}: {n}", path.display())));
        if !options.adapters.is_empty() {
            let folders: Vec<&Path> = options.adapters.iter().map(PathBuf::as_path).collect();
            let with = peft::applied(&opened.tensors, &folders)?;
            opened.tensors = with.tensors;
            notes.extend(with.notes);
        }
        let recorded = grid(path)?.or(grid_beside(&opened.tensors, &config, &preparation));
        let architecture = config.architecture_mut();
        if let Some(size) = options.size.or(preparation.size.as_ref().map(|s| s.value)) {
            architecture.set_image(size);
        }
        room(architecture.image(), architecture.channels(), options.model.as_deref())?;
        let how = Fitting { grid: recorded, positions: options.positions, partial: options.partial };
        let fitted = architecture.fit(&opened.tensors, &how).map_err(named)?;
        notes.extend(fitted.notes);
        let params = ParamStore::on(device);
        let model = config.build(params.builder(Key::new(0)))?;
        let report = weights::load(&params, &fitted.tensors, false).map_err(named)?;
        // Counters of batches are not needed here, and old files do not have them.
        if report.missing.iter().any(|n| !n.ends_with("num_batches_tracked")) || report.loaded.is_empty() {
            return Err(file(path, report));
        }
        notes.push(report.to_string());
        let others = if stored.is_none() { foreign::differs(path, &config) } else { vec![] };
        if !others.is_empty() {
            let what = format!("config.json beside {} says {}", path.display(), others.join(", "));
            if !options.partial {
                return Err(Error::Config(format!(
                    "{what}: another function would be computed; choose another model (--model), or go on all the same (--partial)"
                )));
            }
            notes.push(format!("{what}: another function is computed"));
        }
        let (classes, evaluation) = said.map_or((vec![], None), |d| (d.classes, d.evaluation));
        // The head of an adapter has classes of its own.
        let named = !classes.is_empty() && (options.adapters.is_empty() || classes.len() == config.classes());
        let recorded = named.then(|| Setting::new(classes, Origin::Record));
        let given = match &options.names {
            Some(path) => {
                let file = classes::read(path)?;
                notes.extend(file.notes);
                Some(Setting::new(file.names, Origin::Flag("--names".into())))
            }
            None => None,
        };
        let mut beside = preparation.classes.clone();
        if let Some(c) = beside.as_ref().filter(|c| c.value.len() != config.classes()) {
            let (n, outputs) = (c.value.len(), config.classes());
            notes.push(format!("{n} class names ({}) for a model of {outputs} outputs are not used", c.origin));
            beside = None;
        }
        let inside = foreign::listed(path, config.classes(), &mut notes)?;
        let names =
            Names::new(config.classes(), given.or(recorded).or(inside).or(beside)).map_err(|e| file(path, e))?;
        // Of the model's name alone, not of the weights that are published under it: these are others.
        let usual = options.model.as_deref().map(registry::entry).transpose()?.map(|e| {
            let published = candlelight_models::Published { weights: None, ..e.published };
            published.preparation(e.config.image(), config.channels())
        });
        Ok(Trained { model, params, config, names, evaluation, preparation, notes, usual: usual.unwrap_or_default() })
    }
}

/// Refuses image sizes whose inputs alone would not fit into memory.
fn room((h, w): (usize, usize), channels: usize, model: Option<&str>) -> Result<()> {
    // A transformer keeps several rows of its width for each patch; 64 bytes per pixel is less than any of them needs.
    let need = (h as u64).saturating_mul(w as u64).saturating_mul(64 * channels as u64);
    match crate::memory::available() {
        Some(have) if need > have => Err(Error::Config(format!(
            "images of {h}x{w} pixels need more than {} GiB for {}, {} GiB are available: ask for smaller ones",
            need >> 30,
            model.unwrap_or("the model"),
            have >> 30
        ))),
        _ => Ok(()),
    }
}

/// ImageNet's normalisation, or its mean over the channels for images that are not RGB.
pub fn imagenet(channels: usize) -> Normalize {
    match channels {
        3 => Normalize::imagenet(),
        _ => Normalize { mean: vec![0.449; channels], std: vec![0.226; channels] },
    }
}

/// The statistics that weights were trained with, where that is known, and where from: from our own record, from files beside them, or by
/// their name.
///
/// # Errors
/// When files beside the weights cannot be read.
pub fn statistics_of(path: &Path, notes: &mut Vec<String>) -> Result<Option<(Normalize, String)>> {
    if path.is_file()
        && let Some(d) = checkpoint::describe(path)?
    {
        return Ok(d.evaluation.map(|p| (p.normalize, format!("the record of {}", path.display()))));
    }
    let found = Preparation::of_weights(path, None)?;
    notes.extend(found.notes);
    let p = found.preparation;
    Ok(p.mean.zip(p.std).map(|(mean, std)| (Normalize { mean: mean.value, std: std.value }, mean.origin.to_string())))
}
