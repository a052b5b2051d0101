//! Data and models of the programs that classify.

use super::data::DataArgs;
use super::{Result, shipped_data};
use candle_core::{Device, Tensor};
use candlelight::autograd::{Key, ParamStore};
use candlelight::data::{Collection, Dataset, Decode, LabelKind, Mix, Normalize, Pipeline, Subset, labels, stratified};
use candlelight::engine::checkpoint;
use candlelight::models::adapt::Fitting;
use candlelight::models::posemb::Interpolation;
use candlelight::models::{Architecture, Classifier, MaeConfig, ModelConfig, VitConfig, registry, weights};
use candlelight::store::classes::Names;
use candlelight::store::preparation::{CropMode, Interpolation as Filter, Origin, Preparation, Setting};
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
    pub collection: Collection,
    pub train: Arc<dyn Dataset>,
    pub held_out: Arc<dyn Dataset>,
    pub normalize: Normalize,
    pub decode: Decode,
}

/// Opens the parts `train` and `val` (or `test`) of DATA, or the shipped images. `weights` are those that training starts from.
pub fn labelled(
    args: &DataArgs,
    root: Option<&Path>,
    channels: usize,
    weights: Option<&Path>,
    run: &Path,
) -> Result<Data> {
    let shipped = shipped_data();
    let collection = args.open(root.unwrap_or(&shipped), LabelKind::Classes)?;
    let (train, part) = collection.to_classify()?;
    let (train, held_out) = (train.data.clone(), part.data.clone());
    if same(&*train, &*held_out)? {
        let message = "the images to train on and those to evaluate on are the same: DATA needs parts `train` and `val` (or `test`)";
        return Err(format!("{}: {message}", collection.path().display()).into());
    }
    tracing::info!("evaluating on the part `{}`", part.name);
    let normalize = args.normalize(weights, &collection, &*train, channels, run)?;
    Ok(Data { train, held_out, normalize, decode: args.decode(channels)?, collection })
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
    /// Use the moving average of the weights that the file also holds
    #[arg(long)]
    ema: bool,
    /// Of a file with several sets of weights, the one to use, such as teacher or state_dict_ema
    #[arg(long, value_name = "NAME", conflicts_with = "ema")]
    weights_set: Option<String>,
    /// Go on without tensors of the file that the model has no place for, although another function is computed then
    #[arg(long)]
    partial: bool,
    /// A file of the names of the model's classes, one per line [default: the checkpoint's, those beside the weights, ImageNet's]
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    #[command(flatten)]
    norm: BatchNormArgs,
}

impl From {
    /// The name on the hub that `--pretrained` stands for.
    fn pretrained_name(&self) -> Option<String> {
        if self.pretrained { registry::published(self.model.as_deref()?) } else { None }
    }

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

/// The flags on how pretrained weights are read.
#[derive(clap::Args, Debug, Clone)]
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

/// The grid of a file's positions by the image size that lies beside it, if that has as many patches as there are positions.
fn grid_beside(tensors: &[(String, Tensor)], config: &ModelConfig, beside: &Preparation) -> Option<(usize, usize)> {
    let ModelConfig::Vit(c) = config else { return None };
    let (h, w) = beside.size.as_ref()?.value;
    let (h, w) = (h / c.patch, w / c.patch);
    let table = ["pos_embed", "pos_embedding", "position_embeddings"];
    let rows = tensors.iter().find(|(n, _)| table.iter().any(|e| n.ends_with(e)))?.1.dims().get(1).copied()?;
    (h * w == rows || h * w + 1 == rows).then_some((h, w))
}

/// Reads a file of weights and logs what was chosen, removed and widened in it.
fn opened(path: &Path, options: &weights::Options) -> Result<weights::Weights> {
    // The library names its setting; this is the flag for it.
    let flag = |e: candlelight::models::Error| e.to_string().replace("(the option `set`)", "(--weights_set NAME)");
    let file = weights::open(path, options).map_err(flag)?;
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
    let file = opened(path, &weights::Options { set: None, ema })?;
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
pub fn load(path: &Path, params: &ParamStore, config: &VitConfig, how: Interpolation, from: &Pretrained) -> Result<()> {
    let named = |e: candlelight::models::Error| format!("{}: {e}", path.display());
    let file = opened(path, &weights::Options { set: from.weights_set.clone(), ema: from.use_ema })?;
    let how = Fitting { grid: grid(path)?, positions: how, partial: from.partial };
    let loaded = config.load_pretrained(params, &file.tensors, &how).map_err(named)?;
    loaded.notes.iter().for_each(|n| tracing::info!("{n}"));
    tracing::info!("{}: {}", path.display(), loaded.report);
    Ok(())
}

/// A trained classifier and what its file and the files beside it say about it.
pub struct Trained {
    pub model: Box<dyn Classifier>,
    pub config: ModelConfig,
    /// What its outputs are called, where that is known.
    pub names: Names,
    /// How images are prepared for it, as a checkpoint of ours has it.
    pub evaluation: Option<Pipeline>,
    /// What is known of other weights.
    pub preparation: Preparation,
    /// What is usual for the named model, where nothing is known of the weights.
    usual: Preparation,
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
    let (path, from) = (asked.weights, asked.from);
    let said = if path.is_file() { checkpoint::describe(path)? } else { None };
    let stored = said.as_ref().filter(|d| d.kind == "classify");
    let mut config: ModelConfig = match (from.model.as_deref(), stored) {
        (Some(name), _) => ModelConfig::named(name)?,
        (None, Some(d)) => serde_json::from_value(d.model.clone())
            .map_err(|e| format!("{}: the model in it is none of ours: {e}", path.display()))?,
        (None, None) => {
            return Err(format!("{}: no checkpoint of ours, so give --model", path.display()).into());
        }
    };
    let mut preparation = Preparation::default();
    if stored.is_none() {
        // Weights of the hub are known by their name, others by the file's.
        let hub = from.weights.clone().filter(|w| w.starts_with("hf:")).or_else(|| from.pretrained_name());
        let found = Preparation::of_weights(path, hub.as_deref())?;
        found.notes.iter().for_each(|n| tracing::info!("{n}"));
        preparation = found.preparation;
    }
    config.set_batch_norm(from.norm.bn_tf, from.norm.bn_momentum, from.norm.bn_eps)?;
    let named = |e: candlelight::models::Error| format!("{}: {e}", path.display());
    let file = opened(path, &weights::Options { set: from.weights_set.clone(), ema: from.ema })?;
    let recorded = grid(path)?.or(grid_beside(&file.tensors, &config, &preparation));
    let architecture = config.architecture_mut();
    if let Some(size) = asked.size.or(preparation.size.as_ref().map(|s| s.value)) {
        architecture.set_image(size);
    }
    room(architecture.image(), architecture.channels(), from.model.as_deref())?;
    let how = Fitting { grid: recorded, positions: asked.positions, partial: from.partial };
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
    let others = if stored.is_none() { differs(path, &config) } else { vec![] };
    if !others.is_empty() {
        let what = format!("config.json beside {} says {}", path.display(), others.join(", "));
        if !from.partial {
            return Err(format!(
                "{what}: another function would be computed; choose another --model, or go on with --partial"
            )
            .into());
        }
        tracing::warn!("{what}: another function is computed");
    }
    let (classes, evaluation) = said.map_or((vec![], None), |d| (d.classes, d.evaluation));
    let recorded = (!classes.is_empty()).then(|| Setting::new(classes, Origin::Record));
    let given = match &from.names {
        Some(path) => {
            let file = candlelight::store::classes::read(path)?;
            file.notes.iter().for_each(|n| tracing::info!("{n}"));
            Some(Setting::new(file.names, Origin::Flag("--names".into())))
        }
        None => None,
    };
    let mut beside = preparation.classes.clone();
    if let Some(c) = beside.as_ref().filter(|c| c.value.len() != config.classes()) {
        tracing::warn!(
            "{} class names ({}) for a model of {} outputs are not used",
            c.value.len(),
            c.origin,
            config.classes()
        );
        beside = None;
    }
    let inside = listed(path, config.classes())?;
    let names = Names::new(config.classes(), given.or(recorded).or(inside).or(beside))?;
    // Of the model's name alone, not of the weights that are published under it: these are others.
    let usual = from.model.as_deref().map(registry::entry).transpose()?.map(|e| {
        candlelight::models::Published { weights: None, ..e.published }.preparation(e.config.image(), config.channels())
    });
    Ok(Trained { model, config, names, evaluation, preparation, usual: usual.unwrap_or_default() })
}

/// The one list of class names, among those that a file has beside its weights, with a name for each output.
fn listed(path: &Path, outputs: usize) -> Result<Option<Setting<Vec<String>>>> {
    let lists = weights::class_lists(path)?;
    let (fit, other): (Vec<_>, Vec<_>) = lists.into_iter().partition(|l| l.names.len() == outputs);
    if let ([], [first, ..]) = (fit.as_slice(), other.as_slice()) {
        tracing::warn!(
            "{}: `{}` lists {} classes for a model of {outputs} outputs and is not used",
            path.display(),
            first.key,
            first.names.len()
        );
    }
    match fit.as_slice() {
        [] => Ok(None),
        [only] => {
            let origin = Origin::File(format!("`{}` in {}", only.key, path.display()));
            Ok(Some(Setting::new(only.names.clone(), origin)))
        }
        [a, b, ..] => Err(format!(
            "{}: `{}` and `{}` list other classes, or in another order: choose with --names FILE",
            path.display(),
            a.key,
            b.key
        )
        .into()),
    }
}

/// Refuses image sizes whose inputs alone would not fit into memory.
fn room((h, w): (usize, usize), channels: usize, model: Option<&str>) -> Result<()> {
    // A transformer keeps several rows of its width for each patch; 64 bytes per pixel is less than any of them needs.
    let need = (h as u64).saturating_mul(w as u64).saturating_mul(64 * channels as u64);
    match candlelight::engine::memory::available() {
        Some(have) if need > have => Err(format!(
            "images of {h}x{w} pixels need more than {} GiB for {}, {} GiB are available: ask for smaller ones",
            need >> 30,
            model.unwrap_or("the model"),
            have >> 30
        )
        .into()),
        _ => Ok(()),
    }
}

/// What the configuration beside weights says of the model and that this program's model does not do. The tensors would fit all the same.
fn differs(path: &Path, config: &ModelConfig) -> Vec<String> {
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
        let pooled = if c.pool == candlelight::models::vit::Pool::Avg { "avg" } else { "token" };
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

/// The flags on how images are prepared for a trained model.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
pub struct PrepareArgs {
    /// Share of the resized image that the crop keeps, up to 1 [default: the checkpoint's, that beside the weights, else 0.875 up to 224 pixels and 1 above]
    #[arg(long)]
    pub crop_pct: Option<f64>,
    /// How the image is fitted to the crop: center, squash or border [default: the checkpoint's, that beside the weights, else center]
    #[arg(long, value_parser = parsed::<CropMode>)]
    pub crop_mode: Option<CropMode>,
    /// Filter of the resize: nearest, box, bilinear, hamming, bicubic or lanczos [default: the checkpoint's, that beside the weights, else bicubic]
    #[arg(long, value_parser = parsed::<Filter>)]
    pub interpolation: Option<Filter>,
}

/// How images, of the size that is asked for if one is, are prepared for a trained model: by the flags, the checkpoint's record, what lies beside the weights or is known of
/// them by name, and what is assumed otherwise; the log says which.
pub fn prepared(
    trained: &Trained,
    args: &PrepareArgs,
    data: &DataArgs,
    asked: Option<(usize, usize)>,
) -> Result<Pipeline> {
    let size = trained.config.image();
    let channels = trained.config.channels();
    if let Some(c) = data.channels.filter(|c| *c != channels) {
        return Err(format!("--channels {c}: the model takes images of {channels} channels").into());
    }
    let given = |name: &str| Origin::Flag(format!("--{name}"));
    let untouched = args.crop_pct.is_none() && args.crop_mode.is_none() && args.interpolation.is_none();
    if let (Some(recorded), true) = (&trained.evaluation, untouched && asked.is_none()) {
        let mut pipeline = recorded.clone();
        if let (Some(mean), Some(std)) = (&data.mean, &data.std) {
            pipeline.normalize = Normalize { mean: mean.clone(), std: std.clone() };
        }
        let (n, steps) = (&pipeline.normalize, pipeline.to_string().replace('\n', ", "));
        tracing::info!("prepared as the checkpoint says: {steps}");
        tracing::info!("channels normalised by means {:?} and deviations {:?}", n.mean, n.std);
        return Ok(pipeline);
    }
    let flags = Preparation {
        size: asked.map(|s| Setting::new(s, given("input_size"))),
        channels: Some(Setting::new(channels, Origin::Assumed)),
        mean: data.mean.clone().map(|v| Setting::new(v, given("mean"))),
        std: data.std.clone().map(|v| Setting::new(v, given("std"))),
        crop_pct: args.crop_pct.map(|v| Setting::new(v, given("crop_pct"))),
        crop_mode: args.crop_mode.map(|v| Setting::new(v, given("crop_mode"))),
        interpolation: args.interpolation.map(|v| Setting::new(v, given("interpolation"))),
        ..Preparation::default()
    };
    let mut record = Preparation::default();
    if let Some(p) = &trained.evaluation {
        record.mean = Some(Setting::new(p.normalize.mean.clone(), Origin::Record));
        record.std = Some(Setting::new(p.normalize.std.clone(), Origin::Record));
    }
    let known = Preparation {
        classes: None,
        test_size: None,
        test_crop_pct: None,
        channels: None,
        ..trained.preparation.clone()
    };
    // Statistics of other channels, as where an RGB model was brought to gray, say nothing here.
    let fits = known.mean.as_ref().is_none_or(|m| m.value.len() == 1 || m.value.len() == channels);
    let known = if fits { known } else { Preparation { mean: None, std: None, ..known } };
    // The share that a crop keeps is that of the model's own size.
    let usual =
        Some(&trained.usual).filter(|u| u.size.as_ref().is_some_and(|s| s.value == size)).cloned().unwrap_or_default();
    let p = flags.or(record).or(known).or(usual).or(Preparation::assumed(size, channels)).checked()?;
    tracing::info!("{p}");
    Ok(Pipeline::prepared(&p)?)
}

/// The data with the classes of a model: by name where names are known, by number where labels are numbers, and by place where nothing else
/// is known and there are as many; the log says which.
pub fn numbered(data: &Collection, names: &Names) -> Result<Collection> {
    if data.classes().is_empty() {
        return Ok(data.clone());
    }
    let labels: Vec<String> = (0..names.outputs()).map(|i| names.label(i)).collect();
    // Labels that are numbers say themselves which outputs they mean.
    if data.has_numbers() && names.names().is_none() {
        if data.classes().len() > names.outputs() {
            return Err(format!(
                "{}: labels are numbers up to {}, but the model has {} outputs: other data, or other weights",
                data.path().display(),
                data.classes().len() - 1,
                names.outputs()
            )
            .into());
        }
        let map: Vec<u32> = (0..data.classes().len() as u32).collect();
        return Ok(data.renumbered(&map, &named_by_data(data.classes(), &map, labels))?);
    }
    // Of classes without a sample, such as numbers between those that a list names, the model need not know any.
    let counted = |c: &usize| data.parts().iter().any(|p| p.counts.get(*c).is_some_and(|n| *n > 0));
    let numbers = data.has_numbers() && (0..data.classes().len()).any(|c| counted(&c));
    let used: Vec<usize> = (0..data.classes().len()).filter(|c| !numbers || counted(c)).collect();
    let classes: Vec<String> = used.iter().map(|&c| data.classes()[c].clone()).collect();
    let found = names.matching(&classes).map_err(|e| format!("{}: {e}", data.path().display()))?;
    found.notes.iter().for_each(|n| tracing::info!("{n}"));
    let shown = if names.names().is_some() { labels } else { named_by_data(&classes, &found.outputs, labels) };
    let mut map = vec![0; data.classes().len()];
    used.iter().zip(&found.outputs).for_each(|(c, o)| map[*c] = *o);
    Ok(data.renumbered(&map, &shown)?)
}

/// The names of outputs that only the data names.
fn named_by_data(classes: &[String], outputs: &[u32], mut labels: Vec<String>) -> Vec<String> {
    for (c, o) in classes.iter().zip(outputs) {
        labels[*o as usize] = c.clone();
    }
    labels
}

/// Refuses data whose classes are not in the checkpoint's order: a model in training has the data's.
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

/// Refuses foreign weights whose classes are not the data's in the same order; training numbers classes as the data does.
pub fn by_place(path: &Path, data: &[String], outputs: usize) -> Result<()> {
    let beside = Preparation::of_weights(path, None)?.preparation.classes.filter(|c| c.value.len() == outputs);
    let known = listed(path, outputs)?.or(beside);
    let matching = Names::new(outputs, known)?.matching(data).map_err(|e| format!("{}: {e}", path.display()))?;
    matching.notes.iter().for_each(|n| tracing::info!("{n}"));
    if !matching.is_identity() {
        return Err(format!(
            "{}: its classes are in another order than the data's, or more than these: the program `evaluate` renumbers them",
            path.display()
        )
        .into());
    }
    Ok(())
}

/// Warns where weights want images fitted in another way than MAE's evaluation does.
pub fn not_followed(path: &Path) -> Result<()> {
    let p = Preparation::of_weights(path, None)?.preparation;
    let other = p.crop_pct.as_ref().is_some_and(|c| (c.value - 0.875).abs() > 1e-3)
        || p.crop_mode.as_ref().is_some_and(|m| m.value != CropMode::Center)
        || p.interpolation.as_ref().is_some_and(|i| i.value != Filter::Bicubic);
    if other {
        tracing::warn!(
            "{} wants images {p}; this program evaluates as MAE does: bicubic, the centre of 0.875. The program `evaluate` does what the \
             weights want",
            path.display()
        );
    }
    Ok(())
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
