//! The flags that choose weights, and how they are found and loaded.

use crate::{Result, say};
use candle_core::Device;
use candlelight_autograd::ParamStore;
use candlelight_engine::checkpoint;
use candlelight_engine::trained::{Trained, TrainedOptions, grid};
use candlelight_models::adapt::Fitting;
use candlelight_models::posemb::Interpolation;
use candlelight_models::{Architecture, MaeConfig, VitConfig, registry, weights as file};
use candlelight_store::locate;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The weights that a flag names; the log says what was chosen.
///
/// # Errors
/// When they are not there.
pub fn located(name: &str) -> Result<PathBuf> {
    let found = locate(name)?;
    say(found.note.as_slice());
    Ok(found.path)
}

/// The newest checkpoint of a folder.
///
/// # Errors
/// When there is none; the error says how to get one.
pub fn newest(dir: &Path) -> Result<PathBuf> {
    let missing = || format!("no checkpoint in {}: run mae_pretrain first, or give --weights FILE", dir.display());
    Ok(checkpoint::list(dir).pop().ok_or_else(missing)?)
}

/// The flags that choose a model and its weights.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
pub struct WeightArgs {
    /// Architecture, such as vit_base_patch16 or resnet50 [default: the one our own checkpoint names]
    #[arg(long)]
    model: Option<String>,
    /// A checkpoint of facebookresearch/mae, timm, torchvision, HuggingFace or ours, or hf:OWNER/NAME
    #[arg(long, required_unless_present = "pretrained")]
    weights: Option<String>,
    /// Use the ImageNet weights of --model from the HuggingFace hub
    #[arg(long, conflicts_with = "weights", requires = "model")]
    pretrained: bool,
    /// Use the moving average of the weights that the file also holds
    #[arg(long, visible_alias = "ema")]
    use_ema: bool,
    /// Of a file with several sets of weights, the one to use, such as teacher or state_dict_ema
    #[arg(long, value_name = "NAME", conflicts_with = "use_ema")]
    weights_set: Option<String>,
    /// Merge this adapter of peft into the weights first: a folder with adapter_config.json; given several times, several
    #[arg(long, value_name = "FOLDER")]
    adapter: Vec<PathBuf>,
    /// Go on without tensors of the file that the model has no place for, although another function is computed then
    #[arg(long)]
    partial: bool,
    /// A file of the names of the model's classes, one per line [default: the checkpoint's, those beside the weights, ImageNet's]
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    #[command(flatten)]
    norm: BatchNormArgs,
}

impl WeightArgs {
    /// The name on the hub that `--pretrained` stands for.
    fn pretrained_name(&self) -> Option<String> {
        if self.pretrained { registry::published(self.model.as_deref()?) } else { None }
    }

    /// The file of weights: that of `--weights`, or with `--pretrained` that of the hub.
    ///
    /// # Errors
    /// When it is not there.
    pub fn locate(&self) -> Result<PathBuf> {
        match (&self.weights, &self.model) {
            (Some(name), _) => located(name),
            (None, Some(model)) => match registry::published(model) {
                Some(name) => located(&name),
                None => Err(format!("--pretrained: no published weights of {model} are known; give --weights").into()),
            },
            (None, None) => Err("--pretrained needs --model NAME".into()),
        }
    }

    /// Loads the classifier for images of this size, or of the model's own; the log says what was chosen and guessed.
    ///
    /// # Errors
    /// When the weights are not there, or not those of the model.
    pub fn load(&self, size: Option<(usize, usize)>, positions: Interpolation, device: &Device) -> Result<Trained> {
        let options = TrainedOptions {
            model: self.model.clone(),
            // Weights of the hub are known by their name, others by the file's.
            published: self.weights.clone().filter(|w| w.starts_with("hf:")).or_else(|| self.pretrained_name()),
            set: self.weights_set.clone(),
            ema: self.use_ema,
            adapters: self.adapter.clone(),
            partial: self.partial,
            names: self.names.clone(),
            size,
            positions,
            bn_tf: self.norm.bn_tf,
            bn_momentum: None,
            bn_eps: self.norm.bn_eps,
        };
        let trained = Trained::load(&self.locate()?, &options, device).map_err(flagged)?;
        say(&trained.notes);
        Ok(trained)
    }
}

/// The flags on how pretrained weights are read.
#[derive(clap::Args, Debug, Clone, Default, Serialize)]
#[command(rename_all = "snake_case")]
pub struct Pretrained {
    /// Of a file with several sets of weights, the one to start from, such as teacher or state_dict_ema
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    weights_set: Option<String>,
    /// Start from the moving average of the weights that the file also holds
    #[arg(long, help_heading = "Model", conflicts_with = "weights_set")]
    use_ema: bool,
    /// Go on without tensors of the file that the model has no place for, although another function is computed then
    #[arg(long, help_heading = "Model")]
    partial: bool,
}

impl Pretrained {
    /// The set of the file's weights, whether their average is read, and whether tensors without a place are left out.
    pub(crate) fn chosen(&self) -> (Option<String>, bool, bool) {
        (self.weights_set.clone(), self.use_ema, self.partial)
    }
}

/// The flags for the constants of every batch normalisation.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
struct BatchNormArgs {
    /// Constant that batch normalisations add to variances [default: the model's]
    #[arg(long)]
    bn_eps: Option<f64>,
    /// Use TensorFlow's constants for both, unless they are given
    #[arg(long)]
    bn_tf: bool,
}

/// The encoder of one of our own pretraining checkpoints.
fn described(path: &Path) -> Result<Option<MaeConfig>> {
    match checkpoint::describe(path)? {
        Some(d) if d.kind == "mae_pretrain" => Ok(serde_json::from_value::<MaeConfig>(d.model).ok()),
        _ => Ok(None),
    }
}

/// The classifier that is named, else the one that a pretraining checkpoint of ours contains, else `default`.
pub fn config(name: Option<&str>, weights: Option<&Path>, default: &str) -> Result<VitConfig> {
    if let Some(name) = name {
        return Ok(registry::vit(name)?);
    }
    if let Some(mae) = weights.map(described).transpose()?.flatten() {
        return Ok(mae.classifier(1000));
    }
    Ok(registry::vit(default)?)
}

/// An error with the flag where the library names its setting.
fn flagged(e: impl std::fmt::Display) -> String {
    e.to_string().replace("(the option `set`)", "(--weights_set NAME)")
}

/// Reads a file of weights and logs what was chosen, removed and widened in it.
fn opened(path: &Path, options: &file::Options) -> Result<file::Weights> {
    let file = file::open(path, options).map_err(flagged)?;
    file.notes.iter().for_each(|n| tracing::info!("{}: {n}", path.display()));
    Ok(file)
}

/// Loads the weights of a trained classifier, head included, to evaluate them; returns whether the file also has averaged weights.
pub fn load_trained(
    path: &Path,
    params: &ParamStore,
    config: &VitConfig,
    how: Interpolation,
    ema: bool,
) -> Result<bool> {
    let named = |e: candlelight_models::Error| format!("{}: {e}", path.display());
    let file = opened(path, &file::Options { set: None, ema })?;
    let how = Fitting { grid: grid(path)?, positions: how, partial: false };
    let loaded = config.load_pretrained(params, &file.tensors, &how).map_err(named)?;
    if let Some(name) = loaded.report.missing.iter().find(|n| !n.ends_with("num_batches_tracked")) {
        let notes = loaded.notes.join("; ");
        let hint = if name.starts_with("fc_norm") {
            "; a model that reads its class token is evaluated with --cls_token, or by `evaluate`"
        } else {
            ""
        };
        return Err(format!("{}: {name} is not in the file: nothing to evaluate{hint}. {notes}", path.display()).into());
    }
    Ok(file.has_average())
}

/// Loads pretrained weights into the parameters of a classifier, and logs what was loaded, left out or resized.
pub fn load(
    path: &Path,
    params: &ParamStore,
    config: &dyn Architecture,
    how: Interpolation,
    from: &Pretrained,
) -> Result<()> {
    let named = |e: candlelight_models::Error| format!("{}: {e}", path.display());
    let file = opened(path, &file::Options { set: from.weights_set.clone(), ema: from.use_ema })?;
    let how = Fitting { grid: grid(path)?, positions: how, partial: from.partial };
    let loaded = config.load_pretrained(params, &file.tensors, &how).map_err(named)?;
    loaded.notes.iter().for_each(|n| tracing::info!("{n}"));
    tracing::info!("{}: {}", path.display(), loaded.report);
    Ok(())
}
