//! MAE pretraining.
//!
//! ```text
//! cargo run --release --example mae_pretrain                       # a small model on the shipped images, about 2 minutes
//! cargo run --release --example mae_pretrain -- --data_path DATA --model mae_vit_base_patch16 --norm_pix_loss
//! ```

mod support;

use candlelight::data::{Dataset, LabelKind, Loader, LoaderConfig, Normalize, Pipeline};
use candlelight::engine::pretrain::{Pretrain, PretrainConfig, Shown};
use candlelight::engine::signals::Signals;
use candlelight::engine::task::Task;
use candlelight::engine::train::{Resume, Session, Trainer};
use candlelight::models::registry;
use candlelight::store::RunFolder;
use clap::Parser;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use support::Result;
use support::common::{Common, Preset, finish, replay};

/// Pretrain a masked autoencoder. Without --data_path a small one learns the images that come with the repository.
#[derive(Parser, Debug)]
#[command(name = "mae_pretrain", version, rename_all = "snake_case", after_help = DEFAULTS)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Share of patches that are removed, between 0 and 1
    #[arg(long, default_value_t = 0.75, help_heading = "Model")]
    mask_ratio: f64,
    /// Predict patches normalised to their own mean and deviation
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, value_name = "BOOL", action = clap::ArgAction::Set, help_heading = "Model")]
    norm_pix_loss: bool,
    /// Epochs between pictures of reconstructions; 0 draws only the last
    #[arg(long, default_value_t = 10, help_heading = "Run")]
    picture_every: usize,
}

const DEFAULTS: &str = "DATA is DATA/train, any folder of images, archives of them, or IDX files for gray ones. \
Defaults with --data_path are MAE's: model mae_vit_large_patch16, batch_size 64, epochs 400, blr 1e-3, min_lr 0, \
warmup_epochs 40, weight_decay 0.05, a checkpoint every 20 epochs. The demo, about two minutes on two cores: model \
mae_vit_demo_patch4, epochs 12, blr 1e-2, warmup_epochs 1. Published recipes: docs/recipes.";

const FULL: Preset =
    Preset { batch_size: 64, epochs: 400, blr: 1e-3, min_lr: 0.0, warmup_epochs: 40.0, save_every: 20 };
const DEMO: Preset = Preset { epochs: 12, blr: 1e-2, warmup_epochs: 1.0, ..FULL };

impl Args {
    fn demo(&self) -> bool {
        self.common.demo()
    }

    fn config(&self) -> Result<PretrainConfig> {
        let default = if self.demo() { "mae_vit_demo_patch4" } else { "mae_vit_large_patch16" };
        let mut model = registry::mae(self.common.model.as_deref().unwrap_or(default))?;
        model.image = self.common.image(model.image)?;
        model.channels = self.common.reading.channels.unwrap_or(model.channels);
        model.norm_pix_loss = self.norm_pix_loss;
        Ok(PretrainConfig {
            model,
            mask_ratio: self.mask_ratio,
            weight_decay: self.common.weight_decay.unwrap_or(0.05),
            picture_every: self.picture_every,
        })
    }
}

/// The training images, the held-out images, and the normalisation of both.
type Data = (Arc<dyn Dataset>, Arc<dyn Dataset>, Normalize);

/// Opens the images of the split `train`, or all of data without splits. Others are only looked at for the picture.
fn data(args: &Args, channels: usize, run: &Path) -> Result<Data> {
    let (common, shipped) = (&args.common, support::shipped_data());
    let found = common.reading.open(common.data_path.as_deref().unwrap_or(&shipped), LabelKind::None)?;
    let train = found.train()?;
    if found.has_splits() {
        tracing::info!("pretraining on the split `{}` alone", train.name);
    }
    let shown = found.held_out().unwrap_or(train).data.clone();
    let normalize = common.reading.normalize(None, &found, &*train.data, channels, run)?;
    Ok((train.data.clone(), shown, normalize))
}

fn run(args: &Args) -> Result<ExitCode> {
    let common = &args.common;
    common.check()?;
    let (config, plan) = (args.config()?, common.plan(if args.demo() { &DEMO } else { &FULL }, None));
    let output = common.output_dir.clone().unwrap_or_else(|| "./output_dir".into());
    let workers = common.workers();
    let device = common.device()?;
    if args.demo() {
        tracing::info!("demo preset: no --data_path given, so a small model learns the shipped Fashion-MNIST images");
    } else {
        tracing::info!("MAE's own defaults, except device and num_workers ({workers})");
    }
    tracing::info!("{}", serde_json::to_string(&plan)?);
    tracing::info!("{}", serde_json::to_string(&config)?);

    let (train, test, normalize) = data(args, config.model.channels, &output)?;
    let decode = common.reading.decode(config.model.channels)?;
    let own = if Arc::ptr_eq(&train, &test) { "the picture shows some of them" } else { "the picture shows others" };
    tracing::info!("{} training images; {own}", train.len());
    let size = config.model.image;
    let load = LoaderConfig {
        batch_size: plan.batch_size,
        size,
        seed: plan.seed,
        shuffle: true,
        drop_last: true,
        workers,
        max_bad: common.max_bad,
        memory: common.memory(),
    };
    let one_look =
        LoaderConfig { batch_size: 8.min(test.len()), shuffle: false, drop_last: false, workers: 0, ..load.clone() };
    let mut loader = Loader::new(train, Pipeline::mae_pretrain(size, normalize.clone()), load)?.decoding(decode);
    if !device.is_cpu() && decode.bit_depth == 8 {
        loader = loader.bytes(); // a quarter of the traffic; normalised on the device
    }
    let held_out = Loader::new(test, Pipeline::evaluation(size, normalize.clone()), one_look)?.decoding(decode);
    tracing::info!("loading: {}", loader.plan());
    let signals = Signals::install()?;
    let shown = Shown::new(&held_out, &config.model, config.mask_ratio, normalize)?;
    let mut trainer = Trainer::new(plan.clone().check()?, Pretrain::new(config, shown, plan.seed, &device)?)?;
    support::vision::count(trainer.task().params(), &device);
    tracing::info!("{} steps per epoch; writing to {}", loader.steps(), output.display());
    let resume = common.resume();
    let folder = RunFolder::open(&output, resume != Resume::No || common.replay.is_some())?;
    let log_dir = common.log_dir.clone().unwrap_or_else(|| output.clone());
    let session = Session::new(&loader, &folder).resume(resume).signals(&signals).events(&log_dir).progress();
    if let Some(step) = common.replay {
        return replay(session, &mut trainer, step);
    }
    let outcome = session.run(&mut trainer)?;
    Ok(finish(outcome, &output, &loader, &[("picture", output.join("reconstruction.png").display().to_string())]))
}

fn main() -> ExitCode {
    candlelight::kernels::mem::keep_freed_memory();
    support::start(run)
}
