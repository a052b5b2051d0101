//! MAE pretraining.
//!
//! ```text
//! cargo run --release --example mae_pretrain                       # a small model on the shipped images, about 3 minutes
//! cargo run --release --example mae_pretrain -- --data_path DATA --model mae_vit_base_patch16 --norm_pix_loss
//! ```

mod support;

use candlelight::data::{
    ClassOrder, Dataset, Idx, ImageFolder, Loader, LoaderConfig, Normalize, Pipeline, open, shards, split_dir,
};
use candlelight::engine::pretrain::{Outcome, Pretrain, PretrainConfig, Resume, Shown};
use candlelight::engine::run_dir::RunDir;
use candlelight::engine::signals::Signals;
use candlelight::kernels::cpu;
use candlelight::models::registry;
use candlelight::sched::{WarmupCosine, scaled_lr};
use clap::Parser;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Pretrain a masked autoencoder. Without --data_path a small one learns the images that come with the repository.
#[derive(Parser, Serialize, Deserialize, Default, Debug)]
#[command(name = "mae_pretrain", version, rename_all = "snake_case")]
#[serde(deny_unknown_fields, default)]
struct Args {
    /// Model name [default: mae_vit_large_patch16; demo: mae_vit_demo_patch4]
    #[arg(long, help_heading = "Model")]
    model: Option<String>,
    /// Image side, or height and width [default: 224; demo: 28]
    #[arg(long, num_args = 1..=2, value_name = "PIXELS", help_heading = "Model")]
    input_size: Option<Vec<usize>>,
    /// Share of patches removed [default: 0.75]
    #[arg(long, help_heading = "Model")]
    mask_ratio: Option<f64>,
    /// Predict patches normalised to their own mean and deviation
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Model")]
    norm_pix_loss: Option<bool>,
    /// Samples a step [default: 64]
    #[arg(long, help_heading = "Optimisation")]
    batch_size: Option<usize>,
    /// Epochs [default: 400; demo: 32]
    #[arg(long, help_heading = "Optimisation")]
    epochs: Option<usize>,
    /// Steps an update [default: 1]
    #[arg(long, help_heading = "Optimisation")]
    accum_iter: Option<usize>,
    /// Absolute learning rate; overrides --blr
    #[arg(long, help_heading = "Optimisation")]
    lr: Option<f64>,
    /// Rate for 256 samples: lr = blr * batch_size * accum_iter / 256 [default: 1e-3; demo: 6e-3]
    #[arg(long, help_heading = "Optimisation")]
    blr: Option<f64>,
    /// Rate at the end [default: 0]
    #[arg(long, help_heading = "Optimisation")]
    min_lr: Option<f64>,
    /// Epochs of linear warm-up [default: 40; demo: 2]
    #[arg(long, help_heading = "Optimisation")]
    warmup_epochs: Option<f64>,
    /// Weight decay [default: 0.05]
    #[arg(long, help_heading = "Optimisation")]
    weight_decay: Option<f64>,
    /// Precision of the products: f32 or bf16 [default: f32]
    #[arg(long, help_heading = "Optimisation")]
    precision: Option<String>,
    /// Stop after this many steps
    #[arg(long, help_heading = "Optimisation")]
    max_steps: Option<usize>,
    /// Images: DATA/train, or any folder of images; IDX files for gray ones [default: the shipped images]
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    data_path: Option<PathBuf>,
    /// Loader threads [default: the number of cores]
    #[arg(long, help_heading = "Data")]
    num_workers: Option<usize>,
    /// Share of unreadable images at which to stop [default: 0.1]
    #[arg(long, help_heading = "Data")]
    max_bad: Option<f64>,
    /// Accepted for compatibility; batches for the CPU are not pinned
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Data")]
    pin_mem: Option<bool>,
    /// Accepted for compatibility
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Data")]
    no_pin_mem: Option<bool>,
    /// Where checkpoints, log.txt and pictures go [default: ./output_dir]
    #[arg(long, help_heading = "Run")]
    output_dir: Option<PathBuf>,
    /// Where TensorBoard events go [default: the output folder]
    #[arg(long, help_heading = "Run")]
    log_dir: Option<PathBuf>,
    /// cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long, help_heading = "Run")]
    device: Option<String>,
    /// Seed of weights, masks, order and augmentation [default: 0]
    #[arg(long, help_heading = "Run")]
    seed: Option<u64>,
    /// A checkpoint to continue from, or `auto` for the newest of the output folder
    #[arg(long, value_name = "PATH|auto", help_heading = "Run")]
    resume: Option<String>,
    /// First epoch; a resumed run continues at its own, so only 0 is accepted
    #[arg(long, help_heading = "Run")]
    start_epoch: Option<usize>,
    /// Epochs between checkpoints [default: 20]
    #[arg(long, help_heading = "Run")]
    save_every: Option<usize>,
    /// Checkpoints kept [default: 3]
    #[arg(long, help_heading = "Run")]
    keep: Option<usize>,
    /// Epochs between pictures, 0 for only the last [default: 10]
    #[arg(long, help_heading = "Run")]
    picture_every: Option<usize>,
    /// A TOML file of these flags; the command line overrides it
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Number of processes; only 1 so far
    #[arg(long, help_heading = "Many processes (not there yet)")]
    world_size: Option<usize>,
    /// Accepted at -1
    #[arg(long, allow_hyphen_values = true, help_heading = "Many processes (not there yet)")]
    local_rank: Option<i64>,
    /// Accepted at false
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Many processes (not there yet)")]
    dist_on_itp: Option<bool>,
    /// Accepted at env://
    #[arg(long, help_heading = "Many processes (not there yet)")]
    dist_url: Option<String>,
}

impl Args {
    /// The command line over the configuration file.
    fn with_file(self) -> Result<Self> {
        let Some(path) = &self.config else { return Ok(self) };
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| named(&e))?;
        let file: Args = toml::from_str(&text).map_err(|e| named(&e))?;
        let (mut merged, over) = (serde_json::to_value(file)?, serde_json::to_value(&self)?);
        if let (Some(merged), Some(over)) = (merged.as_object_mut(), over.as_object()) {
            merged.extend(over.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
        }
        Ok(serde_json::from_value(merged)?)
    }

    fn check(&self) -> Result<()> {
        let many = self.world_size.is_some_and(|w| w != 1)
            || self.local_rank.is_some_and(|r| r != -1)
            || self.dist_on_itp == Some(true)
            || self.dist_url.as_ref().is_some_and(|u| u != "env://");
        if many {
            return Err("training with many processes is not there yet: leave --world_size, --local_rank, --dist_on_itp and --dist_url at their defaults".into());
        }
        if self.start_epoch.is_some_and(|e| e != 0) {
            return Err("--start_epoch: a resumed run continues where it stopped; leave it at 0".into());
        }
        Ok(())
    }

    fn demo(&self) -> bool {
        self.data_path.is_none()
    }

    fn resolve(&self) -> Result<PretrainConfig> {
        let preset = if self.demo() { DEMO } else { FULL };
        let name = self.model.clone().unwrap_or_else(|| preset.model.into());
        let mut model = registry::mae(&name)?;
        model.image = match self.input_size.as_deref() {
            None => model.image,
            Some([side]) => (*side, *side),
            Some([h, w]) => (*h, *w),
            Some(other) => return Err(format!("input_size {other:?}: expected one or two numbers").into()),
        };
        model.norm_pix_loss = self.norm_pix_loss.unwrap_or(false);
        let (batch_size, accum_iter) = (self.batch_size.unwrap_or(64), self.accum_iter.unwrap_or(1));
        let blr = self.blr.unwrap_or(preset.blr);
        let schedule = WarmupCosine {
            lr: self.lr.unwrap_or_else(|| scaled_lr(blr, batch_size * accum_iter)),
            min_lr: self.min_lr.unwrap_or(0.0),
            warmup_epochs: self.warmup_epochs.unwrap_or(preset.warmup_epochs),
            epochs: self.epochs.unwrap_or(preset.epochs) as f64,
        };
        Ok(PretrainConfig {
            model,
            mask_ratio: self.mask_ratio.unwrap_or(0.75),
            batch_size,
            accum_iter,
            schedule,
            weight_decay: self.weight_decay.unwrap_or(0.05),
            seed: self.seed.unwrap_or(0),
            precision: self.precision.clone().unwrap_or_else(|| "f32".into()),
            clip_grad: None,
            max_steps: self.max_steps,
            save_every: self.save_every.unwrap_or(20),
            keep: self.keep.unwrap_or(3),
            picture_every: self.picture_every.unwrap_or(10),
            max_non_finite: 10,
        })
    }
}

/// Defaults that differ between the demo and the published program.
struct Preset {
    model: &'static str,
    epochs: usize,
    warmup_epochs: f64,
    blr: f64,
}

/// About three minutes on two cores.
const DEMO: Preset = Preset { model: "mae_vit_demo_patch4", epochs: 32, warmup_epochs: 2.0, blr: 6e-3 };
const FULL: Preset = Preset { model: "mae_vit_large_patch16", epochs: 400, warmup_epochs: 40.0, blr: 1e-3 };

/// Training images, held-out images, their normalisation.
type Data = (Arc<dyn Dataset>, Arc<dyn Dataset>, Normalize);

fn data(root: Option<&Path>, channels: usize) -> Result<Data> {
    let shipped = support::shipped_data();
    let root = root.unwrap_or(&shipped);
    if Idx::present(root, "train") {
        let (train, test) = (Idx::open(root, "train")?, Idx::open(root, "t10k")?);
        let fashion = support::fashion();
        let normalize = Normalize { mean: vec![fashion.mean[0]; channels], std: vec![fashion.std[0]; channels] };
        return Ok((Arc::new(train), Arc::new(test), normalize));
    }
    // Archives, shards and lists; class folders and flat folders are read without their labels.
    let one_file = root.is_file() || root.to_string_lossy().contains('{');
    if one_file || root.join("train.tar").is_file() || shards(root).is_ok() {
        let train = open(root, "train", ClassOrder::Lexicographic)?;
        let normalize = imagenet(channels);
        return Ok((train.clone(), train, normalize));
    }
    let train = ImageFolder::for_pretraining(root)?;
    let held_out = split_dir(root, "val").or_else(|| split_dir(root, "test"));
    let test = held_out.map_or_else(|| Ok(train.clone()), |p| ImageFolder::unlabelled(&p))?;
    Ok((Arc::new(train), Arc::new(test), imagenet(channels)))
}

/// ImageNet's statistics, or their mean for images that are not RGB.
fn imagenet(channels: usize) -> Normalize {
    match channels {
        3 => Normalize::imagenet(),
        _ => Normalize { mean: vec![0.449; channels], std: vec![0.226; channels] },
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    args.check()?;
    let config = args.resolve()?;
    let device = support::device(args.device.as_deref())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = args.num_workers.unwrap_or(cores);
    let output = args.output_dir.clone().unwrap_or_else(|| "./output_dir".into());
    if args.demo() {
        tracing::info!("demo preset: no --data_path given, so a small model learns the shipped Fashion-MNIST images");
    } else {
        tracing::info!("MAE's own defaults, except device {} and num_workers {workers}", support::device_name(&device));
    }
    tracing::info!("{}", serde_json::to_string(&config)?);

    let (train, test, normalize) = data(args.data_path.as_deref(), config.model.channels)?;
    tracing::info!("{} training images, {} held out for the picture", train.len(), test.len());
    let size = config.model.image;
    let load = LoaderConfig {
        batch_size: config.batch_size,
        size,
        seed: config.seed,
        shuffle: true,
        drop_last: true,
        workers,
        max_bad: args.max_bad.unwrap_or(0.1),
    };
    let one_look =
        LoaderConfig { batch_size: 8.min(test.len()), shuffle: false, drop_last: false, workers: 0, ..load.clone() };
    let mut loader = Loader::new(train, Pipeline::mae_pretrain(size, normalize.clone()), load)?;
    if !device.is_cpu() {
        loader = loader.bytes(); // a quarter of the traffic; normalised on the device
    }
    let held_out = Loader::new(test, Pipeline::evaluation(size, normalize.clone()), one_look)?;

    let resume = match args.resume.as_deref() {
        None | Some("") => Resume::No,
        Some("auto") => Resume::Auto,
        Some(path) => Resume::From(path.into()),
    };
    if let Err(reason) = cpu::requested() {
        tracing::warn!("{reason}; using {}", cpu::level().name());
    }
    if device.is_cpu() {
        tracing::info!("kernels: {} on {} threads, products in {}", cpu::level().name(), cores, config.precision);
    } else {
        tracing::info!("on {}: candle's operations, products in {}", support::device_name(&device), config.precision);
    }
    let signals = Signals::install()?;
    let mut pretrain = Pretrain::new(config.clone(), &device)?;
    let (all, trained) = pretrain.params().count();
    tracing::info!(
        "{all} parameters, {trained} trained; {} steps an epoch; writing to {}",
        loader.steps(),
        output.display()
    );
    let shown = Shown::new(&held_out, &config.model, config.mask_ratio, normalize)?;
    let folder = RunDir::open(&output, resume != Resume::No)?;
    let log_dir = args.log_dir.clone().unwrap_or_else(|| output.clone());
    match pretrain.run(&loader, &folder, &shown, &signals, &resume, &log_dir)? {
        Outcome::Finished { loss, checkpoint } => {
            println!("finished: loss {loss:.4}");
            println!("  checkpoint  {}", checkpoint.display());
            println!("  log         {}", output.join("log.txt").display());
            println!("  picture     {}", output.join("reconstruction.png").display());
            if loader.bad_samples() > 0 {
                println!("  {} images could not be read and were replaced", loader.bad_samples());
            }
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted { signal, checkpoint } => {
            println!("stopped by signal {signal}, saved {}; continue with --resume auto", checkpoint.display());
            Ok(ExitCode::from(128 + signal as u8))
        }
    }
}

fn main() -> ExitCode {
    candlelight::kernels::mem::keep_freed_memory();
    let args = Args::parse_from(support::arguments());
    support::log();
    match args.with_file().and_then(|args| run(&args)) {
        Ok(code) => code,
        Err(e) => support::fail(e.as_ref()),
    }
}
