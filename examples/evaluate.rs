//! Top-1, top-5 and loss of a classifier on a labelled data set.
//!
//! ```text
//! cargo run --release --example evaluate -- IMAGENET --model vit_base_patch16 --weights mae_finetuned_vit_base.pth --split val
//! ```

#[path = "support/mod.rs"]
mod support;

use candlelight::data::{LabelKind, OnBad, Transform};
use candlelight::engine::metrics::{Metrics, Scores};
use candlelight::models::posemb::Interpolation;
use candlelight::models::{Classifier, Model};
use candlelight::prelude::*;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use support::data::DataArgs;
use support::vision::{self, PrepareArgs, parsed};
use support::{Result, every};

/// Evaluate a vision transformer's or a residual network's checkpoint on any data set.
#[derive(Parser)]
#[command(name = "evaluate", version, rename_all = "snake_case")]
struct Args {
    /// Class folders, a list, archives, IDX or CIFAR files
    data: PathBuf,
    #[command(flatten)]
    from: vision::From,
    #[command(flatten)]
    reading: DataArgs,
    #[command(flatten)]
    prepare: PrepareArgs,
    /// The part of the data to read, such as train or val [default: val, else test, else all of data without parts]
    #[arg(long)]
    split: Option<String>,
    /// Side, or height and width, of the images; positions are resized to match [default: the model's]
    #[arg(long, num_args = 1..=2, value_name = "PIXELS")]
    input_size: Option<Vec<usize>>,
    /// How position embeddings are resized for another image size: mae or timm
    #[arg(long, default_value = "mae", value_parser = parsed::<Interpolation>)]
    pos_interpolation: Interpolation,
    /// Average over views of each image: flip, five (corners and centre) or ten (both)
    #[arg(long, num_args = 0..=1, default_missing_value = "flip", value_parser = ["flip", "five", "ten"])]
    tta: Option<String>,
    /// Use timm's test-time pooling, for residual networks and images larger than those of training
    #[arg(long)]
    test_pool: bool,
    /// Share of images that may be unreadable; they are left out and counted
    #[arg(long, default_value_t = 0.0)]
    max_bad: f64,
    /// Samples per batch
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Number of loader threads [default: the number of cores]
    #[arg(long)]
    num_workers: Option<usize>,
    /// Precision of matrix products: f32 or bf16
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Device: cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// Also write the scores, in percent, to this JSON file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the accuracy of each class, in percent, to this CSV file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// The pipelines whose outputs are averaged; the first is the plain one.
fn views(pipeline: &Pipeline, tta: Option<&str>) -> Vec<Pipeline> {
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

fn run(args: &Args) -> Result<ExitCode> {
    let device = support::device(args.device.as_deref())?;
    let weights = args.from.locate()?;
    let size = args.input_size.as_deref().map(|s| (s[0], s[s.len() - 1]));
    let asked = vision::Asked { weights: &weights, size, positions: args.pos_interpolation, from: &args.from };
    let trained = vision::classifier(&asked, &device)?;
    let data = args.reading.open(&args.data, LabelKind::Classes)?;
    // A split that is not there is told before its classes are compared.
    let split = match &args.split {
        Some(name) => data.split(name)?.name.clone(),
        None => data.evaluated()?.name.clone(),
    };
    let data = vision::numbered(&data, &trained.names)?;
    let part = data.parts().iter().find(|p| p.name == split).ok_or("the split has gone")?;
    let labelled = data.labelled(part)?;
    if !part.name.is_empty() {
        tracing::info!("evaluating on the part `{}`", part.name);
    }

    let image = trained.config.image();
    let pipeline = vision::prepared(&trained, &args.prepare, &args.reading, asked.size)?;
    let pct = pipeline.preparation().crop_pct.map(|c| c.value);
    let decode = args.reading.decode(trained.config.channels())?;
    let (model, config) = (trained.model, trained.config);
    let load = LoaderConfig {
        batch_size: args.batch_size,
        size: image,
        seed: 0,
        shuffle: false,
        drop_last: false,
        workers: args.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        max_bad: args.max_bad,
        memory: None,
    };
    let movable = pipeline.transforms.iter().any(|t| matches!(t, Transform::CenterCrop { .. }));
    if matches!(args.tta.as_deref(), Some("five" | "ten")) && (!movable || pct.is_some_and(|p| p >= 1.0)) {
        return Err(
            "--tta five and ten need a crop that can be moved: a --crop_pct below 1, and not --crop_mode border".into(),
        );
    }
    // Each image is decoded once and seen through every view.
    let views = views(&pipeline, args.tta.as_deref());
    let count = views.len();
    let loader = Loader::new(labelled.clone(), pipeline, load)?.decoding(decode).on_bad(OnBad::Skip).viewing(views)?;
    tracing::info!("loading: {}", loader.plan());
    let (mut metrics, start) = (Metrics::new(config.classes()), Instant::now());
    let mut shown = every(5, |s: Scores| {
        let (rate, all) = (s.samples as f64 / start.elapsed().as_secs_f64(), labelled.len());
        let left = ((all as f64 - s.samples as f64) / rate) as u64;
        eprintln!("[{}/{all}] top1 {:.2}  {rate:.0} img/s  eta {}:{:02}", s.samples, s.top1, left / 60, left % 60);
    });
    for batch in loader.epoch(0, 0) {
        let mut batch = batch?;
        let images = candlelight::engine::batch::images(&mut batch, &loader.pipeline().normalize, &device)?;
        let mut sum = vec![];
        for view in 0..count {
            let tape = Tape::off().with_precision(args.precision);
            let x = tape.constant(&images.narrow(0, view * batch.labels.len(), batch.labels.len())?);
            let logits = if args.test_pool { model.forward_test_pool(&x)? } else { model.forward(&x, None)? };
            let logits = logits.tensor().flatten_all()?.to_vec1::<f32>()?;
            if sum.is_empty() {
                sum = vec![0.0; logits.len()];
            }
            sum.iter_mut().zip(&logits).for_each(|(s, l)| *s += l / count as f32);
        }
        metrics.add(&sum, &batch.labels)?;
        shown(metrics.scores());
    }
    let s = metrics.scores();
    if loader.bad_samples() > 0 {
        println!("{} images could not be read and were left out", loader.bad_samples());
    }
    println!("samples  {}\ntop1     {:.3}\ntop5     {:.3}\nloss     {:.4}", s.samples, s.top1, s.top5, s.loss);
    let write =
        |path: &PathBuf, text: String| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    if let Some(path) = &args.json {
        write(path, serde_json::to_string_pretty(&s)? + "\n")?;
    }
    if let Some(path) = &args.csv {
        let mut text = String::from("class,name,top1\n");
        for (i, share) in metrics.per_class().into_iter().enumerate() {
            let name = data.classes().get(i).map_or("", String::as_str).replace('"', "\"\"");
            text += &format!("{i},\"{name}\",{}\n", share.map_or(String::new(), |s| format!("{s:.3}")));
        }
        write(path, text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    candlelight::kernels::mem::keep_freed_memory();
    support::start(run)
}
