//! The flags of an evaluation and what follows from them.

mod labels;
mod yolov5;

pub use labels::RealLabels;

use crate::data::DataArgs;
use crate::prepare::PrepareArgs;
use crate::weights::WeightArgs;
use crate::{Progress, Result, parsed, say};
use candlelight_autograd::{Precision, Tape};
use candlelight_data::{Batch, Collection, LabelKind, Loader, LoaderConfig, OnBad, Pipeline, Transform};
use candlelight_engine::batch;
use candlelight_engine::metrics::Metrics;
use candlelight_engine::trained::{Trained, numbered};
use candlelight_models::ModelConfig;
use candlelight_models::posemb::Interpolation;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Evaluate a vision transformer's or a residual network's checkpoint on any data set.
#[derive(Parser)]
#[command(name = "evaluate", version, rename_all = "snake_case")]
pub struct Args {
    #[command(flatten)]
    /// The data, and how it is seen.
    pub on: On,
    #[command(flatten)]
    /// The model and its weights.
    pub from: WeightArgs,
    /// Print and write what YOLOv5's classify/val.py does: a table of the classes, times per image, the folder runs/val-cls/exp; images that no record
    /// prepares are the centre square
    #[arg(long, value_parser = ["yolov5"], value_name = "NAME")]
    pub style: Option<String>,
    /// Of the model's classes only those in this file compete: their numbers or names, one per line
    #[arg(long, value_name = "FILE")]
    pub valid_labels: Option<PathBuf>,
    /// Judge ImageNet's validation images by their reassessed labels too: the file real.json
    #[arg(long, value_name = "FILE")]
    pub real_labels: Option<PathBuf>,
    /// Also write the scores, in percent, to this JSON file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write the accuracy, precision and F1 of each class, in percent, to this CSV file
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Also write how often images of each class were taken for each class to this CSV file; rows are the true classes
    #[arg(long, value_name = "FILE")]
    pub confusion: Option<PathBuf>,
}

/// The data that models are judged on, and how they see it.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
#[group(skip)]
pub struct On {
    /// Class folders, a list, archives, IDX or CIFAR files
    #[arg(required_unless_present = "data_path")]
    data: Option<PathBuf>,
    /// The same as a flag
    #[arg(long, value_name = "DATA", conflicts_with = "data")]
    data_path: Option<PathBuf>,
    #[command(flatten)]
    /// How data is read.
    pub reading: DataArgs,
    #[command(flatten)]
    /// How images are prepared.
    pub prepare: PrepareArgs,
    /// The part of the data to read, such as train or val [default: val, else test, else all of data without parts]
    #[arg(long)]
    pub split: Option<String>,
    /// Side, or height and width, of the images; positions are resized to match [default: the model's]
    #[arg(long, visible_alias = "imgsz", num_args = 1..=2, value_name = "PIXELS", action = clap::ArgAction::Set)]
    pub input_size: Option<Vec<usize>>,
    /// How position embeddings are resized for another image size: mae or timm
    #[arg(long, default_value = "mae", value_parser = parsed::<Interpolation>)]
    pub pos_interpolation: Interpolation,
    /// Average over views of each image: flip, five (corners and centre) or ten (both)
    #[arg(long, num_args = 0..=1, default_missing_value = "flip", value_parser = ["flip", "five", "ten"])]
    pub tta: Option<String>,
    /// Use timm's test-time pooling, for residual networks and images larger than those of training
    #[arg(long)]
    pub test_pool: bool,
    /// Share of images that may be unreadable; they are left out and counted
    #[arg(long, default_value_t = 0.0)]
    pub max_bad: f64,
    /// Samples per batch
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
    /// Number of loader threads [default: the number of cores]
    #[arg(long, visible_alias = "workers")]
    pub num_workers: Option<usize>,
    /// Precision of matrix products: f32, bf16, or tf32, which rounds the operands of products in f32 on a GPU
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
    /// Device: cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long)]
    pub device: Option<String>,
}

/// Refuses views that would all be the same.
pub(crate) fn check_views(pipeline: &Pipeline, tta: Option<&str>) -> Result<()> {
    let pct = pipeline.preparation().crop_pct.map(|c| c.value);
    let movable = pipeline.transforms.iter().any(|t| matches!(t, Transform::CenterCrop { .. }));
    if matches!(tta, Some("five" | "ten")) && (!movable || pct.is_some_and(|p| p >= 1.0)) {
        return Err("--tta five and ten (5 and 10) need a crop that can be moved: a --crop_pct below 1, and not --crop_mode border".into());
    }
    Ok(())
}

/// The pipelines whose outputs are averaged; the first is the plain one.
pub(crate) fn views(pipeline: &Pipeline, tta: Option<&str>) -> Vec<Pipeline> {
    let corners = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)];
    let cropped = |&(y, x): &(f64, f64)| {
        let mut p = pipeline.clone();
        for t in &mut p.transforms {
            if let Transform::CenterCrop { size } = *t {
                *t = Transform::CropAt { size, y, x };
            }
        }
        p
    };
    let mirrored = |p: &Pipeline| {
        let mut p = p.clone();
        p.transforms.push(Transform::HorizontalFlip { p: 1.0 });
        p
    };
    let mut all = vec![pipeline.clone()];
    if matches!(tta, Some("five" | "ten")) {
        all.extend(corners.iter().map(cropped));
    }
    if matches!(tta, Some("flip" | "ten")) {
        all.extend(all.clone().iter().map(mirrored));
    }
    all
}

/// The data to evaluate on: all of it with the model's classes, and the split.
pub struct Judged {
    /// The data with the model's classes.
    pub data: Collection,
    /// Loads its images in order, seen through every view.
    pub loader: Loader,
}

/// What a model says of images.
pub struct Said {
    /// The mean of its logits over the views of each image (N, classes).
    pub logits: Vec<f32>,
    /// The labels (N).
    pub labels: Vec<u32>,
    /// The places of the images in the data (N).
    pub places: Vec<usize>,
}

impl On {
    /// A part of some data, seen as by default.
    ///
    /// # Errors
    /// When the part has no name.
    pub fn over(data: &Path, split: Option<&str>) -> Result<Self> {
        #[derive(Parser)]
        struct Flags {
            #[command(flatten)]
            on: On,
        }
        let mut line = vec![std::ffi::OsString::from("data"), data.into()];
        line.extend(split.map(|s| format!("--split={s}").into()));
        Ok(Flags::try_parse_from(line)?.on)
    }

    /// The image size that is asked for.
    pub fn size(&self) -> Option<(usize, usize)> {
        self.input_size.as_deref().map(|s| (s[0], s[s.len() - 1]))
    }

    /// Opens the split that is asked for, with the classes of the model.
    ///
    /// # Errors
    /// When it is not there, a label is missing, or a class is none of the model's.
    ///
    /// With `square` images that no record prepares are the centre square, as in YOLOv5.
    pub fn data(&self, trained: &Trained, square: bool) -> Result<Judged> {
        let path = self.data.as_ref().or(self.data_path.as_ref()).ok_or("give the data")?;
        let data = self.reading.open(path, LabelKind::Classes)?;
        // A split that is not there is told before its classes are compared.
        let split = match &self.split {
            Some(name) => data.split(name)?.name.clone(),
            None => data.evaluated()?.name.clone(),
        };
        let (data, notes) = numbered(&data, &trained.names)?;
        say(&notes);
        let part = data.parts().iter().find(|p| p.name == split).ok_or("the split has gone")?;
        let labelled = data.labelled(part)?;
        if !part.name.is_empty() {
            tracing::info!("evaluating on the part `{}`", part.name);
        }
        let mut pipeline = self.prepare.pipeline(trained, &self.reading, self.size())?;
        let asked =
            self.prepare.crop_pct.is_some() || self.prepare.crop_mode.is_some() || self.prepare.interpolation.is_some();
        let yolo = matches!(trained.config, ModelConfig::Yolo(_));
        if square && trained.evaluation.is_none() && !asked && !yolo {
            pipeline = candlelight_engine::trained::yolov5(trained.config.image(), pipeline.normalize);
            tracing::info!("prepared as YOLOv5 does: the centre square, resized by OpenCV's rule");
        }
        check_views(&pipeline, self.tta.as_deref())?;
        let load = LoaderConfig {
            batch_size: self.batch_size,
            size: trained.config.image(),
            seed: 0,
            shuffle: false,
            drop_last: false,
            workers: self.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            max_bad: self.max_bad,
            memory: None,
        };
        // Each image is decoded once and seen through every view.
        let views = views(&pipeline, self.tta.as_deref());
        let decode = self.reading.decode(trained.config.channels())?;
        let loader = Loader::new(labelled, pipeline, load)?.decoding(decode).on_bad(OnBad::Skip).viewing(views)?;
        tracing::info!("loading: {}", loader.plan());
        Ok(Judged { data, loader })
    }

    /// What a model says of all images.
    ///
    /// # Errors
    /// When the model fails, or too many images cannot be read.
    pub fn said(&self, trained: &Trained, judged: &Judged) -> Result<Said> {
        said(trained, &judged.loader, (self.precision, self.test_pool))
    }
}

/// The logits of a batch, their mean over the views of each image; with `pool` by test-time pooling.
fn logits(
    trained: &Trained,
    batch: &mut Batch,
    (precision, pool): (Precision, bool),
    images: &Loader,
) -> Result<Vec<f32>> {
    let images = batch::images(batch, &images.pipeline().normalize, &trained.params.device())?;
    let (n, views, mut sum) = (batch.labels.len(), batch.views.max(1), vec![]);
    for view in 0..views {
        let x = Tape::off().with_precision(precision).constant(&images.narrow(0, view * n, n)?);
        let model = &trained.model;
        let logits = if pool { model.forward_test_pool(&x)? } else { model.forward(&x, None)? };
        let logits = logits.values()?;
        if sum.is_empty() {
            sum = vec![0.0; logits.len()];
        }
        sum.iter_mut().zip(&logits).for_each(|(s, l)| *s += l / views as f32);
    }
    Ok(sum)
}

/// What a model says of the images of a loader, in this precision, and with or without test-time pooling.
pub(crate) fn said(trained: &Trained, images: &Loader, how: (Precision, bool)) -> Result<Said> {
    let mut all = Said { logits: vec![], labels: vec![], places: vec![] };
    let mut shown = Progress::new("images", images.samples());
    for batch in images.epoch(0, 0) {
        let mut batch = batch?;
        all.logits.extend(logits(trained, &mut batch, how, images)?);
        all.labels.extend(&batch.labels);
        all.places.extend(&batch.indices);
        shown.at(all.labels.len(), "");
    }
    Ok(all)
}

impl Args {
    /// Evaluates a model, with the mean of its logits over the views of each image; the second result is by the reassessed labels, where
    /// there are any.
    ///
    /// # Errors
    /// When the model fails, or too many images cannot be read.
    pub fn evaluate(&self, trained: &Trained, judged: &Judged) -> Result<(Metrics, Option<RealLabels>)> {
        let loader = &judged.loader;
        let mut metrics = Metrics::new(trained.config.classes());
        let mut real = self.real_labels.as_deref().map(RealLabels::read).transpose()?;
        let classes = trained.config.classes();
        let names = trained.names.names().map_or(&[][..], |n| &n.value[..]);
        let valid = self.valid_labels.as_deref().map(|p| labels::valid(p, classes, names)).transpose()?;
        let dataset = loader.dataset();
        let mut shown = Progress::new("images", loader.samples());
        let (mut table, mut waited) = (yolov5::Table::new(classes), Instant::now());
        for batch in loader.epoch(0, 0) {
            let mut batch = batch?;
            table.waited += waited.elapsed();
            let begun = Instant::now();
            let mut sum = logits(trained, &mut batch, (self.on.precision, self.on.test_pool), loader)?;
            table.computed += begun.elapsed();
            let begun = Instant::now();
            for (row, index) in sum.chunks_exact_mut(classes).zip(&batch.indices) {
                if let Some(valid) = &valid {
                    row.iter_mut().zip(valid).filter(|(_, valid)| !**valid).for_each(|(l, _)| *l = f32::NEG_INFINITY);
                }
                if let (Some(real), Some(data)) = (&mut real, &dataset) {
                    real.add(&data.name(*index), row)?;
                }
            }
            let listed = |l: &u32| valid.as_ref().is_none_or(|v| v.get(*l as usize) != Some(&false));
            if let Some(label) = batch.labels.iter().find(|l| !listed(l)) {
                let name = judged.data.classes().get(*label as usize).map_or("", String::as_str);
                return Err(format!("--valid_labels does not list class {label} `{name}`, which an image has").into());
            }
            metrics.add(&sum, &batch.labels)?;
            if self.style.is_some() {
                table.add(&sum, &batch.labels);
            }
            table.judged += begun.elapsed();
            let s = metrics.scores();
            shown.at(s.samples as usize, &format!("top1 {:.2}", s.top1));
            waited = Instant::now();
        }
        if self.style.is_some() {
            let image = [1, trained.config.channels(), trained.config.image().0, trained.config.image().1];
            table.print(judged.data.classes(), image, &metrics)?;
        }
        Ok((metrics, real))
    }

    /// Writes the files that are asked for.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, metrics: &Metrics, data: &Collection) -> Result<()> {
        let write =
            |path: &PathBuf, text: String| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
        if let Some(path) = &self.json {
            write(path, serde_json::to_string_pretty(&metrics.scores())? + "\n")?;
        }
        if let Some(path) = &self.csv {
            let mut text = String::from("class,name,top1,precision,f1,samples\n");
            for (i, c) in metrics.confusion().of_classes().into_iter().enumerate() {
                let name = data.classes().get(i).map_or("", String::as_str).replace('"', "\"\"");
                // What has no samples has no accuracy, and what was never predicted no precision.
                let percent = |v: f64, n: u64| if n > 0 { format!("{:.3}", 100.0 * v) } else { String::new() };
                let (top1, precision) = (percent(c.recall, c.samples), percent(c.precision, c.predictions));
                let f1 = percent(c.f1, c.samples + c.predictions);
                text += &format!("{i},\"{name}\",{top1},{precision},{f1},{}\n", c.samples);
            }
            write(path, text)?;
        }
        if let Some(path) = &self.confusion {
            write(path, metrics.confusion().csv(data.classes()))?;
        }
        Ok(())
    }
}
