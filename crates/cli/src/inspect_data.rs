//! The flags of `inspect_data`, the statistics it prints and the sheet it draws.

use crate::data::DataArgs;
use crate::draw::{paste, write};
use crate::{Progress, Result};
use candlelight_data::{
    Dataset, Decode, Filter, Image, Label, Loader, LoaderConfig, Normalize, Out, Part, Pipeline, SurveyConfig,
    Transform, survey_with,
};
use candlelight_kernels::Key;
use clap::Parser;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Prints the statistics of a data set and draws a sheet of augmented samples.
#[derive(Parser)]
#[command(name = "inspect_data", version, rename_all = "snake_case")]
pub struct Args {
    /// Folder, list, archive or shards [default: the shipped Fashion-MNIST]
    data: Option<PathBuf>,
    /// The same as a flag
    #[arg(long, value_name = "DATA", conflicts_with = "data")]
    data_path: Option<PathBuf>,
    /// The part of the data to look at, such as train or val [default: all of them]
    #[arg(long)]
    pub split: Option<String>,
    /// Height and width after augmentation [default: 224, and 28 for the shipped images]
    #[arg(long)]
    input_size: Option<usize>,
    /// Augmentation policy, such as rand-m9-mstd0.5-inc1; empty for none
    #[arg(long, default_value = "rand-m9-mstd0.5-inc1")]
    aa: String,
    /// Share of images with a random box erased, from 0 to 1
    #[arg(long, default_value_t = 0.25)]
    reprob: f64,
    /// A JSON file with a pipeline, instead of the augmentation flags above
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Number of rows of the sheet, one sample each
    #[arg(long, default_value_t = 8)]
    pub rows: usize,
    /// Samples to decode for the statistics; 0 for all
    #[arg(long, default_value_t = 2000)]
    pub scan: usize,
    /// Number of loader threads [default: the number of cores]
    #[arg(long)]
    num_workers: Option<usize>,
    /// Seed of the chosen samples and their augmentation
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    /// How data is read.
    pub reading: DataArgs,
    /// The PNG file to write the sheet to
    #[arg(long, default_value = "inspect_data.png")]
    pub output: PathBuf,
}

impl Args {
    /// The data that is named; `None` for the shipped images.
    pub fn data(&self) -> Option<&PathBuf> {
        self.data.as_ref().or(self.data_path.as_ref())
    }

    /// Side of the images after augmentation.
    pub fn size(&self) -> usize {
        self.input_size.unwrap_or(if self.data().is_none() { 28 } else { 224 })
    }

    /// The number of loader threads.
    pub fn workers(&self) -> usize {
        self.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// The pipeline whose work is shown: that of a file, or finetuning's with these flags.
    ///
    /// # Errors
    /// When the file holds none, or the policy is not known.
    pub fn augmentation(&self, normalize: Normalize, decode: &Decode) -> Result<Pipeline> {
        let size = self.size();
        Ok(match &self.pipeline {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
                serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?
            }
            None => {
                // Policies change colours, which only bytes of one or three channels have.
                let plain = decode.bit_depth == 8 && matches!(normalize.mean.len(), 1 | 3);
                let aa = if plain { self.aa.as_str() } else { "" };
                Pipeline::mae_finetune((size, size), normalize, aa, self.reprob)?
            }
        })
    }
}

/// Indices that are evenly spread over a data set.
fn spread(n: usize, of: usize) -> Vec<usize> {
    (0..n.min(of)).map(|i| i * of / n.min(of)).collect()
}

/// Surveys the samples, prints what was found, and gives the normalisation for the sheet: ImageNet's for bytes of one or
/// three channels, the data's own for everything else.
///
/// # Errors
/// When no sample can be decoded.
pub fn statistics(parts: &[&Part], scan: usize, decode: Decode) -> Result<Normalize> {
    let shown = Mutex::new(None);
    let progress = |done: usize, all: usize| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.get_or_insert_with(|| Progress::new("images looked at", all)).at(done, "");
    };
    let config = SurveyConfig { decode, scan, threads: 0 };
    let parts: Vec<(&str, &dyn Dataset)> = parts.iter().map(|p| (p.name.as_str(), &*p.data as &dyn Dataset)).collect();
    let found = survey_with(&parts, &config, &progress)?;
    print!("{found}");
    let Some(own) = found.normalize() else {
        let first = found.broken.first.first().cloned().unwrap_or_else(|| "there are no samples".into());
        return Err(format!("none of {} samples can be decoded; the first: {first}", found.looked_at()).into());
    };
    let plain = decode.bit_depth == 8 && matches!(own.mean.len(), 1 | 3);
    Ok(if plain { Normalize::imagenet() } else { own })
}

const COLUMNS: usize = 6;
const CELL: usize = 112;

/// Draws one sample per row: as it is, then augmented five times.
///
/// # Errors
/// When a picture has no preview.
pub fn sheet(
    data: &dyn Dataset,
    pipeline: &Pipeline,
    decode: &Decode,
    size: usize,
    rows: usize,
    seed: u64,
) -> Result<Image> {
    let (gap, text) = (6, 14);
    let indices = spread(rows, data.len());
    let (width, height) = (COLUMNS * (CELL + gap) + gap, indices.len() * (CELL + gap + text) + gap);
    let mut sheet = Image::filled(width, height, 3, [255; 3]);
    let fit = Transform::ResizeKeepRatio { size: (CELL, CELL), longest: 1.0, filter: Filter::Bicubic };
    for (row, &i) in indices.iter().enumerate() {
        let y = gap + row * (CELL + gap + text);
        let broken = |sheet: &mut Image, e: &dyn std::fmt::Display| {
            write(sheet, gap, y + CELL + 3, &format!("broken: {}: {e}", data.name(i)), 1, [0; 3]);
        };
        let sample = match data.get(i) {
            Ok(sample) => sample,
            Err(e) => {
                broken(&mut sheet, &e);
                continue;
            }
        };
        let label = match &sample.label {
            Label::None => String::new(),
            Label::Class(c) => data.classes().get(*c as usize).cloned().unwrap_or_else(|| c.to_string()),
            Label::Classes(all) => format!("{all:?}"),
            Label::Numbers(all) => format!("{all:?}"),
        };
        let image = match sample.image(decode) {
            Ok(image) => image,
            Err(e) => {
                broken(&mut sheet, &e);
                continue;
            }
        };
        let caption = format!("{label}  {}x{}  {}", image.width, image.height, data.name(i));
        write(&mut sheet, gap, y + CELL + 3, &caption, 1, [0; 3]);
        if let Ok(small) = fit.apply(image.preview(), Key::new(0)) {
            paste(&mut sheet, &small, gap, y);
        }
        for column in 1..COLUMNS {
            let channels = pipeline.channels();
            let mut out = vec![0.0; channels * size * size];
            let key = Key::new(seed).index(i as u64).index(column as u64);
            if let Err(e) = pipeline.apply(image.clone(), &key, pipeline.views() - 1, Out::F32(&mut out)) {
                broken(&mut sheet, &e);
                break;
            }
            let shown = shown(&out, &pipeline.normalize, size, image.values().is_some())?;
            let filter = if size < CELL { Filter::Nearest } else { Filter::Bicubic };
            let shown = Transform::ResizeTo { size: (CELL, CELL), filter }.apply(shown, Key::new(0))?;
            paste(&mut sheet, &shown, gap + column * (CELL + gap), y);
        }
    }
    Ok(sheet)
}

/// Normalised pixels (C, size, size) as a picture to look at.
fn shown(out: &[f32], n: &Normalize, size: usize, real: bool) -> Result<Image> {
    let (channels, plane) = (n.mean.len(), size * size);
    let value = |c: usize, p: usize| out[c * plane + p] * n.std[c] + n.mean[c];
    if real {
        let values = (0..plane).flat_map(|p| (0..channels).map(move |c| value(c, p))).collect();
        return Ok(Image::from_values(size, size, channels, values)?.preview());
    }
    let of = if channels >= 3 { [0, 1, 2] } else { [0; 3] };
    let pixel = |p: usize| of.map(|c| (value(c, p) * 255.0).round().clamp(0.0, 255.0) as u8);
    Ok(Image::new(size, size, 3, (0..plane).flat_map(pixel).collect())?)
}

/// Loads batches for three seconds and prints how many images that are per second.
///
/// # Errors
/// When they cannot be loaded.
pub fn throughput(
    data: Arc<dyn Dataset>,
    pipeline: &Pipeline,
    decode: Decode,
    size: usize,
    workers: usize,
) -> Result<()> {
    let batch_size = 64.min(data.len());
    let config = LoaderConfig {
        batch_size,
        size: (size, size),
        seed: 0,
        shuffle: true,
        drop_last: false,
        workers,
        max_bad: 1.0,
        memory: None,
    };
    let loader = Loader::new(data, pipeline.clone(), config)?.decoding(decode);
    let (start, mut images) = (Instant::now(), 0);
    'epochs: for epoch in 0.. {
        for batch in loader.epoch(epoch, 0) {
            let batch = batch?;
            images += batch.indices.len();
            loader.recycle(batch.images);
            if start.elapsed() > Duration::from_secs(3) {
                break 'epochs;
            }
        }
    }
    let shares = loader.stats().shares().map(|(name, share)| format!("{name} {:.0}%", 100.0 * share)).join(", ");
    let waited = loader.stats().wait.load(Ordering::Relaxed) as f64 / 1e9;
    println!(
        "loader     {:.0} img/s with {workers} workers ({shares}; waited {waited:.1} s)",
        images as f64 / start.elapsed().as_secs_f64()
    );
    Ok(())
}
