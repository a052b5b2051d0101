//! Linear probing of a pretrained vision transformer: MAE's main_linprobe.
//!
//! ```text
//! cargo run --release --example mae_linprobe                       # after mae_pretrain: what its features are worth
//! cargo run --release --example mae_linprobe -- --data_path IMAGENET --finetune mae_pretrain_vit_base.pth --model vit_base_patch16
//! ```

mod support;

use candlelight::data::{Dataset, OnBad};
use candlelight::engine::Error;
use candlelight::engine::checkpoint;
use candlelight::engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight::engine::features::{Features, HeadOnly, fingerprint};
use candlelight::engine::signals::Signals;
use candlelight::engine::task::Batches;
use candlelight::engine::train::{Resume, Session, Trainer};
use candlelight::models::freeze::Trained;
use candlelight::models::posemb::Interpolation;
use candlelight::models::vit::{Head, Pool};
use candlelight::models::{Classifier, Model, adapt};
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use clap::Parser;
use std::process::ExitCode;
use std::sync::Arc;
use support::common::{Common, Preset, replay};
use support::runs::{self, Ended, Run};
use support::{Result, vision};

/// Probe a vision transformer linearly. Without --data_path it takes mae_pretrain's checkpoint and the images that come with the
/// repository, with 1,000 labels, and compares that with random features.
#[derive(Parser, Debug)]
#[command(name = "mae_linprobe", version, rename_all = "snake_case", after_help = DEFAULTS)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Pretrained weights of facebookresearch/mae, timm, torchvision, HuggingFace or ours [demo: the newest of ./output_dir]
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    finetune: Option<String>,
    #[command(flatten)]
    pretrained: vision::Pretrained,
    /// Probe the features of random weights
    #[arg(long, help_heading = "Model")]
    from_scratch: bool,
    /// Number of classes [default: that of the data]
    #[arg(long, help_heading = "Model")]
    nb_classes: Option<usize>,
    /// Probe the mean of the patches; its normalisation, which pretraining does not have, is trained with the head
    #[arg(long, help_heading = "Model", conflicts_with = "cls_token")]
    global_pool: bool,
    /// Probe the class token, which is the default
    #[arg(long, help_heading = "Model")]
    cls_token: bool,
    /// How position embeddings are resized for another image size: mae or timm
    #[arg(long, default_value = "mae", value_parser = vision::parsed::<Interpolation>, help_heading = "Model")]
    pos_interpolation: Interpolation,
    /// Compute the features once, without augmentation, keep them in the output folder, and train the head on them
    #[arg(long, help_heading = "Data")]
    cache_features: bool,
    /// Train on so many labelled images, such as 1000, or on a share, such as 10% [default: all; demo: 1000]
    #[arg(long, value_name = "N|P%", help_heading = "Data")]
    labels: Option<String>,
    /// Only evaluate the weights of --resume
    #[arg(long, help_heading = "Run")]
    eval: bool,
    /// Epochs between evaluations [default: 1; demo: only the last]
    #[arg(long, help_heading = "Run")]
    eval_every: Option<usize>,
    /// Repeat with so many seeds and print a table [demo: 3]
    #[arg(long, help_heading = "Run")]
    seeds: Option<usize>,
    /// Also probe random features and compare; the demo does
    #[arg(long, help_heading = "Run")]
    compare: bool,
    /// Accepted for compatibility; one process evaluates everything
    #[arg(long, help_heading = "Many processes (not there yet)")]
    dist_eval: bool,
}

const DEFAULTS: &str = "Defaults with --data_path are MAE's: model vit_large_patch16, batch_size 512, epochs 90, blr 0.1, \
min_lr 0, warmup_epochs 10, weight_decay 0, LARS, a checkpoint every epoch. The demo: batch_size 64, epochs 40, three seeds, 1,000 labels. \
Published recipes: docs/recipes.";

const FULL: Preset = Preset { batch_size: 512, epochs: 90, blr: 0.1, min_lr: 0.0, warmup_epochs: 10.0, save_every: 1 };
/// The preset of the demo: about a minute and a half on two cores for all runs of the comparison.
const DEMO: Preset = Preset { batch_size: 64, epochs: 40, blr: 4.0, min_lr: 0.0, warmup_epochs: 5.0, save_every: 40 };

/// Trains one run; gives its outcome, and its top-1 if it came to its end.
fn train(args: &Args, model: &VitConfig, data: &vision::Data, v: &Run, signals: &Signals) -> Result<Ended> {
    let common = Common { seed: v.seed, ..args.common.clone() };
    let mut model = model.clone();
    model.classes = args.nb_classes.unwrap_or(data.train.classes().len());
    model.image = common.image(model.image)?;
    (model.pool, model.head) = (if args.global_pool { Pool::Avg } else { Pool::Token }, Head::Probe);
    let device = common.device()?;
    let params = ParamStore::on(&device);
    let vit = Vit::new(&model, params.builder(Key::new(v.seed).child("init")))?;
    if let Some(path) = v.weights {
        vision::load(path, &params, &model, args.pos_interpolation, &args.pretrained)?;
    }
    adapt::init_head(&params, &vit.anatomy(), 0.01, &Key::new(v.seed).child("head"))?;
    let trained =
        if args.global_pool { Trained::Matching(vec!["head.*".into(), "fc_norm.*".into()]) } else { Trained::Head };
    let config = ClassifyConfig {
        classes: model.classes,
        loss: LossConfig::CrossEntropy { smoothing: 0.0 },
        optimizer: LarsConfig::default().into(),
        weight_decay: common.weight_decay.unwrap_or(0.0),
        layer_decay: None,
        trained: Some(trained),
        ema: None,
        mix: None,
        eval_every: args.eval_every.or((!args.common.demo()).then_some(1)),
        model: model.clone(),
    };
    let plan = common.plan(if args.common.demo() { &DEMO } else { &FULL }, None);
    let train: Arc<dyn Dataset> = match args.labels.as_deref().or(args.common.demo().then_some("1000")) {
        Some(text) => vision::few(data.train.clone(), vision::share(text, data.train.len())?, v.seed)?,
        None => data.train.clone(),
    };
    tracing::info!("{}", serde_json::to_string(&plan)?);
    tracing::info!("{}", serde_json::to_string(&config)?);
    let size = model.image;
    let load = LoaderConfig {
        batch_size: plan.batch_size,
        size,
        seed: v.seed,
        shuffle: true,
        drop_last: true,
        workers: common.workers(),
        max_bad: common.max_bad,
        memory: common.memory(),
    };
    let all = LoaderConfig { shuffle: false, drop_last: false, ..load.clone() };
    let evaluation = Pipeline::evaluation(size, data.normalize.clone());
    let loader =
        Loader::new(train.clone(), Pipeline::mae_linprobe(size, data.normalize.clone()), load)?.decoding(data.decode);
    // What is judged by is never replaced: unreadable images are left out, and counted.
    let held_out =
        Loader::new(data.held_out.clone(), evaluation.clone(), all.clone())?.decoding(data.decode).on_bad(OnBad::Skip);
    tracing::info!("loading: {}", loader.plan());
    tracing::info!("{} images to train on, {} to evaluate on", loader.samples(), held_out.samples());
    let precision = plan.precision;
    let folder = if args.eval {
        None
    } else {
        Some(RunFolder::open(&v.output, common.resume() != Resume::No || common.replay.is_some())?)
    };

    // The images, and the pipelines that prepare them.
    let (batches, task): (Box<dyn Batches>, _) = if args.cache_features && !args.eval {
        // Images in shards have no names of their own, so the folder is part of what features are made from.
        let folder = common.data_path.as_deref().map(std::fs::canonicalize).transpose()?;
        let prepared = serde_json::to_string(&evaluation)?;
        let made_from = format!("{} {prepared} {} {folder:?}", fingerprint(&params, &vit.anatomy())?, v.seed);
        let transform = evaluation.clone();
        let features = |part: &str, images: &dyn Dataset, loader: &Loader| -> Result<Features> {
            let path = v.output.join(format!("features-{part}.safetensors"));
            let made_from = format!("{made_from} {part} {}", vision::identity(images)?);
            if let Some(cached) = Features::load(&path, &made_from)? {
                tracing::info!("{part} features from {}", path.display());
                return Ok(cached);
            }
            let n = loader.samples();
            let mut shown = support::every(5, |done| eprintln!("{part} features [{done}/{n}]"));
            std::fs::create_dir_all(&v.output)?;
            // What an interrupted run has computed is taken over.
            Ok(Features::extract_to(&path, &made_from, &vit, loader, &device, |done| {
                shown(done);
                if signals.caught().is_some() { signals.check() } else { Ok(()) }
            })?)
        };
        tracing::info!("features are computed once, in f32, from images as in evaluation");
        let in_order = Loader::new(train.clone(), evaluation, all)?.decoding(data.decode);
        let train = features("train", &*train, &in_order)?.training(plan.batch_size, v.seed);
        let test = features("test", &*data.held_out, &held_out)?;
        let model: Box<dyn Classifier> = Box::new(HeadOnly(vit));
        let task = Classify::new(config, params, model)?.evaluating_on(Box::new(test), precision);
        (Box::new(train), task.prepared_by(transform))
    } else {
        let task = Classify::new(config, params, Box::new(vit))?.evaluating(held_out, precision);
        (Box::new(loader.clone()), task)
    };
    vision::count(task.params(), &device);
    let Some(folder) = folder else {
        let path = match common.resume() {
            Resume::Auto => vision::newest(&v.output)?,
            Resume::From(path) => path,
            Resume::No => return Err("--eval needs --resume: a probe's head is in its own checkpoint".into()),
        };
        let said = checkpoint::describe(&path)?.map_or(vec![], |d| d.classes);
        vision::same_classes(&said, task.classes(), model.classes)?;
        vision::load_trained(&path, task.params(), &model, args.pos_interpolation, false)?;
        let s = task.evaluate()?;
        runs::print(&s);
        return Ok((ExitCode::SUCCESS, Some(s.top1)));
    };
    let mut trainer = Trainer::new(plan.check()?, task)?;
    let log_dir = common.log_dir.clone().unwrap_or_else(|| v.output.clone());
    let session = Session::new(&*batches, &folder).resume(common.resume()).signals(signals).events(&log_dir).progress();
    if let Some(step) = common.replay {
        return Ok((replay(session, &mut trainer, step)?, None));
    }
    let outcome = session.run(&mut trainer)?;
    Ok(runs::ended(outcome, &trainer, &v.output, &loader))
}

fn run(args: &Args) -> Result<ExitCode> {
    args.common.check()?;
    if args.dist_eval {
        tracing::warn!("--dist_eval: there is one process, which evaluates every image once");
    }
    let demo = args.common.demo();
    // A run that only evaluates takes its weights from --resume.
    let weights = runs::weights(args.finetune.as_deref(), args.from_scratch, demo && !args.eval)?;
    if weights.is_none() && !args.from_scratch && !args.eval {
        let resumed = if matches!(args.common.resume(), Resume::No) {
            ""
        } else {
            "; --resume continues a probe of the same weights"
        };
        return Err(
            format!("nothing to probe: give --finetune FILE, or --from_scratch for random features{resumed}").into()
        );
    }
    tracing::info!(
        "{}",
        if demo { "demo preset: the shipped Fashion-MNIST images, few labels" } else { "MAE's own defaults" }
    );
    let default = if args.common.demo() { "vit_demo_patch4" } else { "vit_large_patch16" };
    let model = vision::config(args.common.model.as_deref(), weights.as_deref(), default)?;
    let mut model = model;
    model.channels = args.common.reading.channels.unwrap_or(model.channels);
    let signals = Signals::install()?;
    let output = args.common.output_dir.clone().unwrap_or_else(|| "./output_dir/linprobe".into());
    let reading = &args.common.reading;
    let data =
        vision::labelled(reading, args.common.data_path.as_deref(), model.channels, weights.as_deref(), &output)?;
    let plan = runs::Plan {
        common: &args.common,
        weights: weights.as_deref(),
        names: ["pretrained", "random"],
        epochs: args.common.epochs.unwrap_or(if demo { DEMO.epochs } else { FULL.epochs }),
        seeds: args.seeds,
        compare: args.compare,
        eval: args.eval,
        output,
    };
    plan.run(|run| {
        let ended = train(args, &model, &data, run, &signals);
        match (&ended, signals.caught()) {
            (Err(e), Some(signal)) if matches!(e.downcast_ref(), Some(Error::Interrupted)) => {
                println!("stopped by signal {signal}; the same command continues");
                Ok((ExitCode::from(128 + signal as u8), None))
            }
            _ => ended,
        }
    })
}

fn main() -> ExitCode {
    candlelight::kernels::mem::keep_freed_memory();
    support::start(run)
}
