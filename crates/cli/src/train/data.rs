//! The images to train on and to evaluate on.

use super::defaults::{Defaults, fill};
use crate::Result;
use crate::data::{DataArgs, same};
use crate::{parsed, shipped_data};
use candlelight_data::{
    Collection, Dataset, Decode, Label, LabelKind, Normalize, Pipeline, Resampled, Sampler, Weighted, labels,
};
use candlelight_models::registry;
use candlelight_store::preparation::{CropMode, Interpolation, Origin, Preparation, Setting};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The flags on data, with timm's names.
#[derive(Args, Debug, Clone, Serialize)]
#[command(rename_all = "snake_case")]
pub struct DataFlags {
    /// The images: class folders, a list, archives, IDX or CIFAR files; without it `train` runs its demo on those that come with the repository
    #[arg(value_name = "DATA", id = "data")]
    #[serde(skip)]
    data: Option<PathBuf>,
    /// The same as a flag; the first argument overrides it
    #[arg(long = "data_dir", visible_aliases = ["data_path", "data"], value_name = "DATA", help_heading = "Data")]
    pub data_dir: Option<PathBuf>,
    /// Kind of the data: '' or a name of timm's; the kind is recognised by the files
    #[arg(long, short = 'd', value_name = "KIND", help_heading = "Data")]
    pub dataset: Option<String>,
    /// The part of the data to train on
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub train_split: Option<String>,
    /// The part of the data to evaluate on, '' for none [default: validation, else test]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub val_split: Option<String>,
    /// What the labels of a list are: classes, or numbers for --loss mse, huber and smooth_l1
    #[arg(long, value_parser = ["classes", "numbers"], value_name = "KIND", help_heading = "Data")]
    pub labels: Option<String>,
    /// Side of the square images in pixels [default: the model's]
    #[arg(long, value_name = "PIXELS", help_heading = "Data")]
    pub img_size: Option<usize>,
    /// Channels, height and width of the images; overrides --img_size
    #[arg(long, num_args = 3, value_names = ["C", "H", "W"], action = clap::ArgAction::Set, help_heading = "Data")]
    pub input_size: Option<Vec<usize>>,
    /// Share of the resized image that the crop of an evaluation keeps [default: the model's, else 0.875]
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub crop_pct: Option<f64>,
    /// How the image is fitted to the crop of an evaluation: center, squash or border [default: center]
    #[arg(long, value_parser = parsed::<CropMode>, value_name = "MODE", help_heading = "Data")]
    pub crop_mode: Option<CropMode>,
    /// Filter of the resize of an evaluation: nearest, box, bilinear, hamming, bicubic or lanczos [default: the model's]
    #[arg(long, value_parser = filter_or_none, value_name = "FILTER", help_heading = "Data")]
    pub interpolation: Option<String>,
    /// Samples per step [default: 32; timm-1.0: 128]
    #[arg(long, short = 'b', value_name = "N", help_heading = "Data")]
    pub batch_size: Option<usize>,
    /// Samples per batch of an evaluation, as a multiple of --batch_size [default: 1]
    #[arg(long, visible_alias = "vb", value_name = "N", help_heading = "Data")]
    pub validation_batch_size_multiplier: Option<usize>,
    /// How often an epoch repeats the data; 0 and 1 pass it once [default: 0]
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub epoch_repeats: Option<f64>,
    /// Which images an epoch has, where classes are of unequal size: balanced (drawn with the same chance for each class), oversample (the small ones repeat theirs), undersample (as many of each as the smallest has) [default: each image once]
    #[arg(long, value_parser = ["balanced", "oversample", "undersample"], value_name = "HOW", help_heading = "Data")]
    pub sampler: Option<String>,
    /// Number of loader threads [default: the number of cores]
    #[arg(long, short = 'j', visible_alias = "num_workers", value_name = "N", help_heading = "Data")]
    pub workers: Option<usize>,
    /// Most megabytes of memory for batches that are loaded ahead [default: an eighth of what is free, 2048 at most]
    #[arg(long, value_name = "MB", help_heading = "Data")]
    pub loader_memory: Option<u64>,
    /// Share of unreadable images, from 0 to 1, at which the run stops [default: 0.1]
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub max_bad: Option<f64>,
    /// Average evaluations over so many views of each image: 2 (mirrored), 5 (corners and centre), 10 (both) [default: 0, one view]
    #[arg(long, value_parser = ["0", "1", "2", "5", "10"], value_name = "VIEWS", help_heading = "Data")]
    pub tta: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    /// How data is read.
    pub reading: DataArgs,
}

/// The name of a filter, or nothing, which is timm's default.
fn filter_or_none(text: &str) -> std::result::Result<String, String> {
    if !text.is_empty() {
        parsed::<Interpolation>(text)?;
    }
    Ok(text.into())
}

/// The data of a run.
#[derive(Clone)]
pub struct Data {
    /// All that was found.
    pub collection: Collection,
    /// The images to train on.
    pub train: Arc<dyn Dataset>,
    /// How many of them each class has.
    pub counts: Vec<usize>,
    /// The images to evaluate on.
    pub held_out: Option<Arc<dyn Dataset>>,
    /// The number of outputs that a model of this data needs.
    pub outputs: usize,
    /// The label of the first sample, which says what kind of labels there are.
    pub label: Label,
    /// The statistics that images are normalised by.
    pub normalize: Normalize,
    /// How they are decoded.
    pub decode: Decode,
}

impl DataFlags {
    /// The order of the images, where it is not that of each image once.
    ///
    /// # Errors
    /// When samples have other labels than one class each.
    pub(super) fn sampler(&self, data: &dyn Dataset, seed: u64) -> Result<Option<Arc<dyn Sampler>>> {
        let Some(how) = self.sampler.as_deref() else { return Ok(None) };
        let labels = labels(data).map_err(|e| format!("--sampler {how}: {e}"))?;
        Ok(Some(match how {
            "balanced" => Arc::new(Weighted::class_balanced(&labels, seed)?),
            "oversample" => Arc::new(Resampled::over(&labels, seed)?),
            _ => Arc::new(Resampled::under(&labels, seed)?),
        }))
    }

    /// Whether the program runs its demo.
    pub fn demo(&self) -> bool {
        self.path().is_none()
    }

    /// The data that is given.
    pub fn path(&self) -> Option<&Path> {
        self.data.as_deref().or(self.data_dir.as_deref())
    }

    pub(super) fn fill(&mut self, d: &Defaults) {
        self.data_dir = self.data.take().or(self.data_dir.take());
        // timm's order of classes: 2 before 10.
        self.reading.naturally();
        fill(&mut self.dataset, String::new());
        fill(&mut self.train_split, "train".into());
        fill(&mut self.labels, "classes".into());
        fill(&mut self.batch_size, d.batch_size);
        fill(&mut self.validation_batch_size_multiplier, 1);
        fill(&mut self.epoch_repeats, 0.0);
        fill(&mut self.max_bad, 0.1);
        fill(&mut self.tta, "0".into());
    }

    pub(super) fn check(&self) -> Result<()> {
        if let Some(name) = self.dataset.as_deref().filter(|n| !n.is_empty()) {
            let kind = name.split('/').next().unwrap_or_default().to_lowercase();
            match kind.as_str() {
                "folder" | "imagefolder" | "image_folder" | "tar" | "imagetar" | "image_tar" | "wds" | "webdataset" => {
                    tracing::warn!("--dataset {name}: the kind of the data is recognised by its files")
                }
                "torch" | "hfds" | "hfids" | "tfds" => {
                    return Err(format!(
                        "--dataset {name}: nothing is downloaded; give the folder that {kind} has stored, whose kind is recognised"
                    )
                    .into());
                }
                _ => {
                    return Err(format!(
                        "--dataset {name}: no such kind; leave it out, for the kind of the data is recognised by its files"
                    )
                    .into());
                }
            }
        }
        let repeats = self.epoch_repeats.unwrap_or_default();
        if repeats < 0.0 || repeats.fract() != 0.0 || repeats > 1e6 {
            return Err(format!("--epoch_repeats {repeats}: expected a whole number of passes").into());
        }
        if let Some(size) = self.input_size.as_deref().filter(|s| s.contains(&0)) {
            return Err(format!("--input_size {size:?}: expected channels, height and width of at least 1").into());
        }
        if self.img_size == Some(0) {
            return Err("--img_size 0: expected at least 1 pixel".into());
        }
        if self.validation_batch_size_multiplier == Some(0) {
            return Err("--validation_batch_size_multiplier 0: expected at least 1".into());
        }
        Ok(())
    }

    /// Channels, and height and width, that are asked for.
    pub(super) fn input(&self) -> (Option<usize>, Option<(usize, usize)>) {
        match self.input_size.as_deref() {
            Some(&[c, h, w]) => (Some(c), Some((h, w))),
            _ => (self.reading.channels, self.img_size.map(|s| (s, s))),
        }
    }

    /// The number of loader threads.
    pub fn threads(&self) -> usize {
        self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Passes over the data in an epoch.
    pub(super) fn passes(&self) -> usize {
        (self.epoch_repeats.unwrap_or_default() as usize).max(1)
    }

    /// Opens the parts to train on and to evaluate on; the log says what was chosen. `weights` are those that training starts from.
    ///
    /// # Errors
    /// When a part or labels are missing, or both parts are the same.
    pub fn open(&self, channels: usize, weights: Option<&Path>, run: &Path) -> Result<Data> {
        let shipped = shipped_data();
        let numbers = self.labels.as_deref() == Some("numbers");
        let kind = if numbers { LabelKind::Numbers } else { LabelKind::Classes };
        let collection = self.reading.open(self.path().unwrap_or(&shipped), kind)?;
        let train = match self.train_split.as_deref() {
            // Data without parts is a part to train on, as in timm.
            None | Some("" | "train" | "training") => collection.train()?.clone(),
            Some(name) => collection.split(name)?.clone(),
        };
        let held_out = match self.val_split.as_deref() {
            Some("") => None,
            Some(name) => Some(collection.split(name)?.clone()),
            None => match collection.held_out() {
                Some(part) => Some(part.clone()),
                None => {
                    return Err(format!(
                        "{}: has neither a part `validation` nor `test` to evaluate on: name one with --val_split, or none with --val_split ''",
                        collection.path().display()
                    )
                    .into());
                }
            },
        };
        if !numbers {
            collection.labelled(&train)?;
            held_out.as_ref().map(|p| collection.labelled(p)).transpose()?;
        }
        if let Some(part) = &held_out {
            if train.name == part.name || same(&*train.data, &*part.data)? {
                let message = "the images to train on and those to evaluate on are the same";
                return Err(format!("{}: {message}", collection.path().display()).into());
            }
            tracing::info!("training on the part `{}`, evaluating on `{}`", train.name, part.name);
        }
        if train.data.is_empty() {
            return Err(format!("{}: the part `{}` is empty", collection.path().display(), train.name).into());
        }
        let label = train.data.label(0)?;
        let outputs = match &label {
            Label::Numbers(v) => v.len(),
            _ => collection.classes().len(),
        };
        let normalize = self.reading.normalize(weights, &collection, &*train.data, channels, run)?;
        let decode = self.reading.decode(channels)?;
        Ok(Data {
            held_out: held_out.map(|p| p.data),
            counts: train.counts,
            train: train.data,
            outputs,
            label,
            normalize,
            decode,
            collection,
        })
    }

    /// How images of this size are prepared for an evaluation.
    ///
    /// # Errors
    /// When flags contradict each other.
    pub fn evaluation(&self, model: &str, size: (usize, usize), normalize: &Normalize) -> Result<Pipeline> {
        // A network that no name stands for comes with all of it.
        let whole = self.crop_pct.is_some() && self.crop_mode.is_some() && self.interpolation.is_some();
        let usual = if whole { Preparation::default() } else { registry::entry(model)?.preparation() };
        let flag = |name: &str| Origin::Flag(format!("--{name}"));
        let filter = self.interpolation.as_deref().filter(|f| !f.is_empty());
        let filter = filter.map(parsed::<Interpolation>).transpose()?;
        let set = |v: Vec<f32>| Some(Setting::new(v, Origin::Assumed));
        Ok(Pipeline::prepared(&Preparation {
            size: Some(Setting::new(size, Origin::Assumed)),
            mean: set(normalize.mean.clone()),
            std: set(normalize.std.clone()),
            crop_pct: self.crop_pct.map(|v| Setting::new(v, flag("crop_pct"))).or(usual.crop_pct),
            crop_mode: self.crop_mode.map(|v| Setting::new(v, flag("crop_mode"))).or(usual.crop_mode),
            interpolation: filter.map(|v| Setting::new(v, flag("interpolation"))).or(usual.interpolation),
            ..Preparation::default()
        })?)
    }
}
