//! Data and models of the programs that classify.

use super::{Result, fashion, shipped_data};
use candle_core::Device;
use candlelight::autograd::{Key, ParamStore};
use candlelight::data::{
    ClassOrder, Dataset, Decode, Idx, Mix, Normalize, Pipeline, Subset, labels, open, split_dir, stratified,
};
use candlelight::engine::checkpoint;
use candlelight::models::adapt::Fitting;
use candlelight::models::posemb::Interpolation;
use candlelight::models::{Architecture, Classifier, MaeConfig, ModelConfig, VitConfig, registry, weights};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// ImageNet's normalisation, or its mean over the channels for images that are not RGB.
pub fn imagenet(channels: usize) -> Normalize {
    match channels {
        3 => Normalize::imagenet(),
        _ => Normalize { mean: vec![0.449; channels], std: vec![0.226; channels] },
    }
}

/// Labelled images to train on and to evaluate on, and their normalisation.
pub struct Data {
    pub train: Arc<dyn Dataset>,
    pub held_out: Arc<dyn Dataset>,
    pub normalize: Normalize,
}

/// Opens the parts `train` and `val` (or `test`) of DATA, or the shipped images.
pub fn labelled(root: Option<&Path>, channels: usize) -> Result<Data> {
    let shipped = shipped_data();
    let root = root.unwrap_or(&shipped);
    let normalize = if Idx::present(root, "train") {
        let f = fashion();
        Normalize { mean: vec![f.mean[0]; channels], std: vec![f.std[0]; channels] }
    } else {
        imagenet(channels)
    };
    let order = ClassOrder::Lexicographic;
    let (part, held_out) = match open(root, "val", order) {
        Ok(data) => ("val", data),
        // A part that exists but cannot be read is an error; another part must not replace it.
        Err(e) if split_dir(root, "val").is_some() => return Err(e.into()),
        Err(e) => ("test", open(root, "test", order).map_err(|_| e)?),
    };
    let train = open(root, "train", order)?;
    if same(&*train, &*held_out)? {
        let message = "the images to train on and those to evaluate on are the same: DATA needs parts `train` and `val` (or `test`)";
        return Err(format!("{}: {message}", root.display()).into());
    }
    tracing::info!("evaluating on the part `{part}`");
    Ok(Data { train, held_out, normalize })
}

/// Whether two parts begin and end with the same pixels.
fn same(a: &dyn Dataset, b: &dyn Dataset) -> Result<bool> {
    let n = a.len();
    if n != b.len() || n == 0 {
        return Ok(false);
    }
    let equal = |i: usize| -> Result<bool> {
        let image = |d: &dyn Dataset| d.get(i).ok().and_then(|s| s.image(&Decode::default()).ok());
        // An image that cannot be read is ignored here; the loader will name it.
        Ok(image(a).zip(image(b)).is_some_and(|(a, b)| a == b))
    };
    Ok(equal(0)? && equal(n - 1)?)
}

/// About `n` samples, with the same share of every class.
pub fn few(data: Arc<dyn Dataset>, n: usize, seed: u64) -> Result<Arc<dyn Dataset>> {
    if n >= data.len() {
        return Ok(data);
    }
    let fold = stratified(&labels(&data)?, n as f64 / data.len() as f64, seed)?;
    Ok(Arc::new(Subset::new(data, fold.test)?))
}

/// A text that tells two data sets apart: a checksum of the names and labels of all samples and of the classes.
pub fn identity(data: &dyn Dataset) -> Result<String> {
    let mut h = crc32fast::Hasher::new();
    for (i, label) in labels(data)?.into_iter().enumerate() {
        h.update(data.name(i).as_bytes());
        h.update(&label.to_le_bytes());
    }
    data.classes().iter().for_each(|c| h.update(c.as_bytes()));
    Ok(format!("{} samples, {:08x}", data.len(), h.finalize()))
}

/// `1000` samples or `10%` of them.
pub fn share(text: &str, of: usize) -> Result<usize> {
    let bad = || format!("--labels {text}: expected a number of images, or a share such as 10%");
    let n = match text.strip_suffix('%') {
        Some(p) => p.trim().parse::<f64>().map(|p| (p / 100.0 * of as f64).round() as usize).map_err(|_| bad())?,
        None => text.parse().map_err(|_| bad())?,
    };
    if n == 0 { Err(bad().into()) } else { Ok(n) }
}

/// The newest checkpoint of a folder, or an error that says how to get one.
pub fn newest(dir: &Path) -> Result<PathBuf> {
    let missing = || format!("no checkpoint in {}: run mae_pretrain first, or give --finetune FILE", dir.display());
    Ok(checkpoint::list(dir).pop().ok_or_else(missing)?)
}

/// Parses a value from its serialised name.
pub fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

/// The weights a flag names: a file, or `hf:OWNER/NAME` on the hub.
pub fn locate(name: &str) -> Result<PathBuf> {
    if !name.starts_with("hf:") {
        return Ok(name.into());
    }
    #[cfg(feature = "hub")]
    return Ok(candlelight::store::hub::Hub::from_env().locate(name)?);
    #[cfg(not(feature = "hub"))]
    Err(format!("{name}: this program was built without the hub; build it with --features hub").into())
}

/// The flags that choose a model and its weights.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
pub struct From {
    /// Architecture, such as vit_base_patch16 or resnet50 [default: the one our own checkpoint names]
    #[arg(long)]
    model: Option<String>,
    /// A checkpoint of facebookresearch/mae, timm, torchvision, HuggingFace or ours, or hf:OWNER/NAME
    #[arg(long, required_unless_present = "pretrained")]
    weights: Option<String>,
    /// Use the ImageNet weights of --model from the HuggingFace hub
    #[arg(long, conflicts_with = "weights", requires = "model")]
    pretrained: bool,
    /// Use the averaged weights of one of our own checkpoints
    #[arg(long)]
    ema: bool,
    #[command(flatten)]
    norm: BatchNormArgs,
}

impl From {
    /// The file of weights: that of `--weights`, or with `--pretrained` that of the hub.
    pub fn locate(&self) -> Result<PathBuf> {
        match (&self.weights, &self.model) {
            (Some(name), _) => locate(name),
            (None, Some(model)) => match registry::published(model) {
                Some(name) => locate(&name),
                None => Err(format!("--pretrained: no published weights of {model} are known; give --weights").into()),
            },
            (None, None) => Err("--pretrained needs --model NAME".into()),
        }
    }
}

/// The flags for the constants of every batch normalisation.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
struct BatchNormArgs {
    /// Share of a batch in the running statistics of batch normalisations, used only in training [default: the model's]
    #[arg(long)]
    bn_momentum: Option<f64>,
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

/// The grid of patches that a checkpoint of ours was trained on.
fn grid(path: &Path) -> Result<Option<(usize, usize)>> {
    let of = |image: (usize, usize), patch: usize| (image.0 / patch.max(1), image.1 / patch.max(1));
    Ok(checkpoint::describe(path)?.and_then(|d| match serde_json::from_value::<VitConfig>(d.model.clone()) {
        Ok(c) => Some(of(c.image, c.patch)),
        Err(_) => serde_json::from_value::<MaeConfig>(d.model).ok().map(|c| of(c.image, c.patch)),
    }))
}

/// Reads a file of weights and logs what was chosen, removed and widened in it.
fn opened(path: &Path, ema: bool) -> Result<weights::Weights> {
    let file = weights::open(path, &weights::Options { set: None, ema })?;
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
    let named = |e: candlelight::models::Error| format!("{}: {e}", path.display());
    let file = opened(path, ema)?;
    let how = Fitting { grid: grid(path)?, positions: how, partial: false };
    let loaded = config.load_pretrained(params, &file.tensors, &how).map_err(named)?;
    if let Some(name) = loaded.report.missing.iter().find(|n| !n.ends_with("num_batches_tracked")) {
        let notes = loaded.notes.join("; ");
        return Err(format!("{}: {name} is not in the file: nothing to evaluate ({notes})", path.display()).into());
    }
    Ok(file.has_average())
}

/// Loads pretrained weights into the parameters of a classifier, and logs what was loaded, left out or resized.
pub fn load(path: &Path, params: &ParamStore, config: &VitConfig, how: Interpolation) -> Result<()> {
    let named = |e: candlelight::models::Error| format!("{}: {e}", path.display());
    let file = opened(path, false)?;
    let how = Fitting { grid: grid(path)?, positions: how, partial: false };
    let loaded = config.load_pretrained(params, &file.tensors, &how).map_err(named)?;
    loaded.notes.iter().for_each(|n| tracing::info!("{n}"));
    tracing::info!("{}: {}", path.display(), loaded.report);
    Ok(())
}

/// A trained classifier and what its file says about itself.
pub struct Trained {
    pub model: Box<dyn Classifier>,
    pub config: ModelConfig,
    /// Names of the classes, from a checkpoint of ours.
    pub classes: Vec<String>,
    /// How images are prepared for it, from a checkpoint of ours.
    pub evaluation: Option<Pipeline>,
}

/// The options with which a file of weights is loaded.
pub struct Asked<'a> {
    pub weights: &'a Path,
    pub from: &'a From,
    pub size: Option<(usize, usize)>,
    pub positions: Interpolation,
}

/// Loads a classifier of any architecture, from weights under the names of any library.
pub fn classifier(asked: &Asked, device: &Device) -> Result<Trained> {
    let path = asked.weights;
    let said = checkpoint::describe(path)?;
    let stored = said.as_ref().filter(|d| d.kind == "classify");
    let config = match (asked.from.model.as_deref(), stored) {
        (Some(name), _) => ModelConfig::named(name)?,
        (None, Some(d)) => serde_json::from_value(d.model.clone())
            .map_err(|e| format!("{}: the model in it is none of ours: {e}", path.display()))?,
        (None, None) => {
            return Err(format!("{}: no checkpoint of ours, so give --model", path.display()).into());
        }
    };
    let mut config: ModelConfig = config;
    config.set_batch_norm(asked.from.norm.bn_tf, asked.from.norm.bn_momentum, asked.from.norm.bn_eps)?;
    let named = |e: candlelight::models::Error| format!("{}: {e}", path.display());
    let file = opened(path, asked.from.ema)?;
    let architecture = config.architecture_mut();
    if let Some(size) = asked.size {
        architecture.set_image(size);
    }
    let how = Fitting { grid: grid(path)?, positions: asked.positions, partial: false };
    let fitted = architecture.fit(&file.tensors, &how).map_err(named)?;
    fitted.notes.iter().for_each(|n| tracing::info!("{n}"));
    let params = ParamStore::on(device);
    let model = config.build(params.builder(Key::new(0)))?;
    let report = weights::load(&params, &fitted.tensors, false).map_err(named)?;
    // Counters of batches are not needed here, and old files do not have them.
    if report.missing.iter().any(|n| !n.ends_with("num_batches_tracked")) || report.loaded.is_empty() {
        return Err(format!("{}: {report}", path.display()).into());
    }
    tracing::info!("{report}");
    let (classes, evaluation) = said.map_or((vec![], None), |d| (d.classes, d.evaluation));
    Ok(Trained { model, config, classes, evaluation })
}

/// Refuses data whose classes are not the checkpoint's.
pub fn same_classes(checkpoint: &[String], data: &[String], known: usize) -> Result<()> {
    if data.len() > known {
        return Err(
            format!("the data has {} classes, the model {known}: other data, or other weights", data.len()).into()
        );
    }
    if checkpoint.is_empty() || checkpoint == data {
        return Ok(());
    }
    Err(match checkpoint.iter().zip(data).position(|(a, b)| a != b) {
        Some(i) => format!(
            "class {i} of the checkpoint is `{}`, of the data `{}`: other data, or classes in another order",
            checkpoint[i], data[i]
        ),
        None => format!("the checkpoint knows {} classes, the data has {}", checkpoint.len(), data.len()),
    }
    .into())
}

/// How many parameters train, and in what precision they are kept.
pub fn count(params: &ParamStore, device: &Device) {
    let (all, trained) = params.count();
    tracing::info!("{all} parameters, {trained} trained, on {}", super::device_name(device));
}

/// The mixing of images that the flags ask for; `None` if neither mixup nor CutMix is on.
pub struct Mixing {
    pub mixup: f64,
    pub cutmix: f64,
    pub minmax: Option<(f64, f64)>,
    pub prob: f64,
    pub switch_prob: f64,
    pub mode: String,
}

impl Mixing {
    pub fn mix(&self, smoothing: f32, classes: usize) -> Result<Option<Mix>> {
        if self.mixup <= 0.0 && self.cutmix <= 0.0 && self.minmax.is_none() {
            return Ok(None);
        }
        let mode = serde_json::from_value(self.mode.as_str().into())
            .map_err(|_| format!("--mixup_mode {}: expected batch, pair or elem", self.mode))?;
        let &Mixing { mixup, cutmix, minmax: cutmix_minmax, prob, switch_prob, .. } = self;
        Ok(Some(Mix { mixup, cutmix, cutmix_minmax, prob, switch_prob, mode, smoothing, classes, off_epoch: None }))
    }
}
