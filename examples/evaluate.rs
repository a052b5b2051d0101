//! Top-1, top-5 and loss of a classifier on a labelled data set.
//!
//! ```text
//! cargo run --release --example evaluate -- IMAGENET --model vit_base_patch16 --weights mae_finetuned_vit_base.pth --split val
//! ```

#[path = "support/mod.rs"]
mod support;

use candlelight::data::{ClassOrder, CropMode, Filter, Op, open};
use candlelight::engine::metrics;
use candlelight::models::posemb::Interpolation;
use candlelight::models::{adapt, weights};
use candlelight::prelude::*;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Evaluate any vision transformer's checkpoint on any data set.
#[derive(Parser)]
#[command(name = "evaluate", version, rename_all = "snake_case")]
struct Args {
    /// Class folders, a list, archives, IDX or CIFAR files
    data: PathBuf,
    /// Architecture, such as vit_base_patch16
    #[arg(long)]
    model: String,
    /// A checkpoint of facebookresearch/mae, timm, torchvision, HuggingFace or ours
    #[arg(long)]
    weights: PathBuf,
    /// Which part of the data
    #[arg(long, default_value = "val")]
    split: String,
    /// Height and width; positions are brought to it [default: the model's]
    #[arg(long)]
    input_size: Option<usize>,
    /// Share of the resized image that is cut out [default: 0.875 up to 224, else 1]
    #[arg(long)]
    crop_pct: Option<f64>,
    /// center, squash or border
    #[arg(long, default_value = "center", value_parser = parsed::<CropMode>)]
    crop_mode: CropMode,
    /// nearest, box, bilinear, hamming, bicubic or lanczos
    #[arg(long, default_value = "bicubic", value_parser = parsed::<Filter>)]
    interpolation: Filter,
    /// How positions are brought to another size: mae or timm
    #[arg(long, default_value = "mae", value_parser = parsed::<Interpolation>)]
    pos_interpolation: Interpolation,
    /// Average with the mirrored image
    #[arg(long)]
    tta: bool,
    /// Samples a batch
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Loader threads [default: cores]
    #[arg(long)]
    num_workers: Option<usize>,
    /// f32 or bf16
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// Number classes as timm does: 2 before 10
    #[arg(long)]
    natural: bool,
    /// Also write the scores, in percent, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write each class's share to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// A value by its serialised name.
fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

/// The pipeline with every image mirrored.
fn mirrored(pipeline: &Pipeline) -> Pipeline {
    let mut p = pipeline.clone();
    p.transforms.push(candlelight::data::Transform::Sometimes { op: Op::FlipHorizontal, p: 1.0 });
    p
}

fn run(args: &Args) -> Result<()> {
    let device = support::device(args.device.as_deref())?;
    let mut config = registry::vit(&args.model)?;
    if let Some(side) = args.input_size {
        config.image = (side, side);
    }
    let named = |e: candlelight::models::Error| format!("{}: {e}", args.weights.display());
    let adapted = adapt::classifier(&weights::read(&args.weights)?, &config, args.pos_interpolation).map_err(named)?;
    adapted.notes.iter().for_each(|n| tracing::info!("{n}"));
    let (config, params) = (adapted.config, ParamStore::on(&device));
    let model = Vit::new(&config, params.builder(Key::new(0)))?;
    let report = weights::load(&params, &adapted.tensors, false).map_err(named)?;
    if !report.missing.is_empty() {
        return Err(format!("{}: {report}", args.weights.display()).into());
    }
    tracing::info!("{report}");

    let order = if args.natural { ClassOrder::Natural } else { ClassOrder::Lexicographic };
    let data = open(&args.data, &args.split, order)?;
    if data.classes().len() > config.classes {
        let (found, known) = (data.classes().len(), config.classes);
        return Err(format!("the data has {found} classes, the model {known}: other data, or other weights").into());
    }
    let normalize = match config.channels {
        3 => Normalize::imagenet(),
        c => Normalize { mean: vec![0.449; c], std: vec![0.226; c] },
    };
    let pct = args.crop_pct.unwrap_or(if config.image.0 <= 224 { 0.875 } else { 1.0 });
    let pipeline = Pipeline::evaluation_with(config.image, normalize, pct, args.crop_mode, args.interpolation);
    let workers = args.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let load = LoaderConfig {
        batch_size: args.batch_size,
        size: config.image,
        seed: 0,
        shuffle: false,
        drop_last: false,
        workers,
        max_bad: 0.0,
    };
    let passes = if args.tta { vec![pipeline.clone(), mirrored(&pipeline)] } else { vec![pipeline] };
    let mut extra: Vec<Vec<f32>> = vec![];
    let mut result = None;
    let last = passes.len() - 1;
    for (pass, pipeline) in passes.into_iter().enumerate() {
        let loader = Loader::new(data.clone(), pipeline, load.clone())?;
        let (start, mut shown, mut step) = (Instant::now(), Instant::now(), 0);
        let forward = |images: &candle_core::Tensor| -> candlelight::engine::Result<candle_core::Tensor> {
            let tape = Tape::off().with_precision(args.precision);
            let logits = model.forward(&tape.constant(images), None)?.tensor().clone();
            step += 1;
            if pass < last {
                extra.push(logits.flatten_all()?.to_vec1()?);
                return Ok(logits);
            }
            match extra.get(step - 1) {
                Some(other) => {
                    let other = candle_core::Tensor::from_slice(other, logits.shape(), logits.device())?;
                    Ok(((logits + other)? * 0.5)?)
                }
                None => Ok(logits),
            }
        };
        let metrics = metrics::evaluate(&loader, config.classes, &device, forward, |m| {
            if shown.elapsed() > Duration::from_secs(5) {
                shown = Instant::now();
                let s = m.scores();
                let rate = s.samples as f64 / start.elapsed().as_secs_f64();
                let left = ((loader.samples() as f64 - s.samples as f64) / rate) as u64;
                eprintln!(
                    "[{}/{}] top1 {:.2}  {rate:.0} img/s  eta {}:{:02}",
                    s.samples,
                    loader.samples(),
                    s.top1,
                    left / 60,
                    left % 60
                );
            }
        })?;
        result = Some(metrics);
    }
    let Some(metrics) = result else { return Ok(()) };
    let s = metrics.scores();
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
    Ok(())
}

fn main() -> ExitCode {
    candlelight::kernels::mem::keep_freed_memory();
    let args = Args::parse_from(support::arguments());
    support::log();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => support::fail(e.as_ref()),
    }
}
