//! Finetuning a pretrained vision transformer: MAE's main_finetune.
//!
//! ```text
//! cargo run --release --example mae_finetune                       # after mae_pretrain: what its checkpoint is good for
//! cargo run --release --example mae_finetune -- --data_path IMAGENET --finetune mae_pretrain_vit_base.pth --model vit_base_patch16
//! ```

mod support;

use candlelight::data::{Dataset, OnBad, RandomErasing, Transform};
use candlelight::engine::checkpoint;
use candlelight::engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight::engine::signals::Signals;
use candlelight::engine::task::Task;
use candlelight::engine::train::{Plan, Resume, Session, Trainer};
use candlelight::models::Model;
use candlelight::models::freeze::Trained;
use candlelight::models::posemb::Interpolation;
use candlelight::models::{adapt, vit::Pool};
use candlelight::optim::{EmaConfig, LayerDecay};
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use clap::Parser;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use support::common::{Common, Preset, replay};
use support::runs::{self, Ended, Run};
use support::{Result, vision};

/// Finetune a vision transformer. Without --data_path it continues from mae_pretrain's checkpoint on the images that come with
/// the repository, with 1,000 labels, and compares that with training from scratch.
#[derive(Parser, Debug)]
#[command(name = "mae_finetune", version, rename_all = "snake_case", after_help = DEFAULTS)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Pretrained weights of facebookresearch/mae, timm, torchvision, HuggingFace or ours [demo: the newest of ./output_dir]
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    finetune: Option<String>,
    #[command(flatten)]
    pretrained: vision::Pretrained,
    /// Start from random weights
    #[arg(long, help_heading = "Model")]
    from_scratch: bool,
    /// Number of classes [default: that of the data]
    #[arg(long, help_heading = "Model")]
    nb_classes: Option<usize>,
    /// Classify the mean of the patches, which is the default
    #[arg(long, help_heading = "Model", conflicts_with = "cls_token")]
    global_pool: bool,
    /// Classify the class token
    #[arg(long, help_heading = "Model")]
    cls_token: bool,
    /// Rate of stochastic depth in the last block, in [0, 1) [default: 0.1]
    #[arg(long, help_heading = "Model")]
    drop_path: Option<f32>,
    /// How position embeddings are resized for another image size: mae or timm
    #[arg(long, default_value = "mae", value_parser = vision::parsed::<Interpolation>, help_heading = "Model")]
    pos_interpolation: Interpolation,
    /// Train only a part: head, attn_only, attn_last(N), or name patterns separated by commas
    #[arg(long, value_name = "PART", help_heading = "Model")]
    trained: Option<Trained>,
    /// Factor on the learning rate from each layer to the one before it, in (0, 1] [default: 0.75; demo: 1]
    #[arg(long, help_heading = "Optimisation")]
    layer_decay: Option<f64>,
    /// How layers are grouped for the layer decay: mae or timm
    #[arg(long, default_value = "mae", value_parser = ["mae", "timm"], help_heading = "Optimisation")]
    layer_rule: String,
    /// Largest norm of all gradients together [default: no clipping]
    #[arg(long, help_heading = "Optimisation")]
    clip_grad: Option<f64>,
    /// Optimizer: adamw, sgd or lars
    #[arg(long, default_value = "adamw", value_parser = ["adamw", "sgd", "lars"], help_heading = "Optimisation")]
    opt: String,
    /// Keep a moving average of the weights with this decay, in [0, 1), and evaluate it too
    #[arg(long, value_name = "DECAY", help_heading = "Optimisation")]
    ema: Option<f64>,
    /// Let the decay of the average start small and grow
    #[arg(long, help_heading = "Optimisation")]
    ema_warmup: bool,
    /// Loss: ce (cross-entropy, with soft targets where images are mixed) or bce (binary cross-entropy)
    #[arg(long, default_value = "ce", value_parser = ["ce", "bce"], help_heading = "Optimisation")]
    loss: String,
    /// With bce: targets above this threshold become 1, others 0
    #[arg(long, help_heading = "Optimisation")]
    bce_target_thresh: Option<f32>,
    /// With bce: sum over the classes instead of taking the mean
    #[arg(long, help_heading = "Optimisation")]
    bce_sum: bool,
    /// Label smoothing, in [0, 1)
    #[arg(long, default_value_t = 0.1, help_heading = "Optimisation")]
    smoothing: f32,
    /// Train on so many labelled images, such as 1000, or on a share, such as 10% [default: all; demo: 1000]
    #[arg(long, value_name = "N|P%", help_heading = "Augmentation")]
    labels: Option<String>,
    /// Strength of the colour jitter; it has no effect where --aa is set, as in timm
    #[arg(long, help_heading = "Augmentation")]
    color_jitter: Option<f64>,
    /// Augmentation policy, '' for none [default: rand-m9-mstd0.5-inc1; demo: none]
    #[arg(long, help_heading = "Augmentation")]
    aa: Option<String>,
    /// Smallest area of the random crop, as a share of the image [default: 0.08; demo: 0.5]
    #[arg(long, help_heading = "Augmentation")]
    crop_scale: Option<f64>,
    /// Share of images with random boxes erased, from 0 to 1 [default: 0.25; demo: 0]
    #[arg(long, help_heading = "Augmentation")]
    reprob: Option<f64>,
    /// What erased boxes are filled with: const, rand or pixel
    #[arg(long, default_value = "pixel", help_heading = "Augmentation")]
    remode: String,
    /// Largest number of boxes erased per image
    #[arg(long, default_value_t = 1, help_heading = "Augmentation")]
    recount: usize,
    /// Accepted for compatibility; it has no effect in MAE either
    #[arg(long, help_heading = "Augmentation")]
    resplit: bool,
    /// Mixup's Beta parameter; 0 turns it off
    #[arg(long, default_value_t = 0.0, help_heading = "Augmentation")]
    mixup: f64,
    /// CutMix's Beta parameter; 0 turns it off
    #[arg(long, default_value_t = 0.0, help_heading = "Augmentation")]
    cutmix: f64,
    /// Smallest and largest side of CutMix's box, as shares of the image's side
    #[arg(long, num_args = 2, action = clap::ArgAction::Set, value_names = ["MIN", "MAX"], help_heading = "Augmentation")]
    cutmix_minmax: Option<Vec<f64>>,
    /// Probability that images are mixed at all
    #[arg(long, default_value_t = 1.0, help_heading = "Augmentation")]
    mixup_prob: f64,
    /// Probability of CutMix instead of mixup where both are on
    #[arg(long, default_value_t = 0.5, help_heading = "Augmentation")]
    mixup_switch_prob: f64,
    /// What is mixed with the same random numbers: batch, pair or elem
    #[arg(long, default_value = "batch", help_heading = "Augmentation")]
    mixup_mode: String,
    /// Only evaluate the weights of --resume or --finetune
    #[arg(long, help_heading = "Run")]
    eval: bool,
    /// Epochs between evaluations [default: 1; demo: only the last]
    #[arg(long, help_heading = "Run")]
    eval_every: Option<usize>,
    /// Repeat with so many seeds and print a table [demo: 3]
    #[arg(long, help_heading = "Run")]
    seeds: Option<usize>,
    /// Also train from scratch and compare; the demo does
    #[arg(long, help_heading = "Run")]
    compare: bool,
    /// Accepted for compatibility; one process evaluates everything
    #[arg(long, help_heading = "Many processes (not there yet)")]
    dist_eval: bool,
}

const DEFAULTS: &str = "Defaults with --data_path are MAE's: model vit_large_patch16, batch_size 64, epochs 50, blr 1e-3, \
min_lr 1e-6, warmup_epochs 5, weight_decay 0.05, a checkpoint every epoch. The demo: batch_size 64, epochs 30, blr 4e-3, three seeds, \
1,000 labels. Published recipes: docs/recipes.";

const FULL: Preset = Preset { batch_size: 64, epochs: 50, blr: 1e-3, min_lr: 1e-6, warmup_epochs: 5.0, save_every: 1 };
/// The preset of the demo: about three minutes on two cores for all runs of the comparison.
const DEMO: Preset = Preset { batch_size: 64, epochs: 30, blr: 4e-3, min_lr: 1e-6, warmup_epochs: 5.0, save_every: 30 };

impl Args {
    fn demo(&self) -> bool {
        self.common.demo()
    }

    fn pipeline(&self, size: (usize, usize), normalize: Normalize) -> Result<Pipeline> {
        let aa = self.aa.as_deref().unwrap_or(if self.demo() { "" } else { "rand-m9-mstd0.5-inc1" });
        let reprob = self.reprob.unwrap_or(if self.demo() { 0.0 } else { 0.25 });
        let mut p = Pipeline::mae_finetune(size, normalize, aa, 0.0)?;
        if let Some(Transform::RandomResizedCrop { scale, .. }) = p.transforms.first_mut() {
            scale.0 = self.crop_scale.unwrap_or(if self.demo() { 0.5 } else { 0.08 });
        }
        if let (Some(j), "") = (self.color_jitter, aa) {
            p.transforms.push(Transform::ColorJitter { brightness: j, contrast: j, saturation: j, hue: 0.0, p: 1.0 });
        }
        let mode = vision::parsed(&self.remode).map_err(|e| format!("--remode {}: {e}", self.remode))?;
        p.erase = (reprob > 0.0).then(|| RandomErasing { mode, count: self.recount, ..RandomErasing::new(reprob) });
        Ok(p)
    }

    fn config(&self, model: VitConfig) -> Result<ClassifyConfig<VitConfig>> {
        let minmax = self.cutmix_minmax.as_deref().map(|m| (m[0], m[1]));
        let mixing = vision::Mixing {
            mixup: self.mixup,
            cutmix: self.cutmix,
            minmax,
            prob: self.mixup_prob,
            switch_prob: self.mixup_switch_prob,
            mode: self.mixup_mode.clone(),
        };
        let decay = self.layer_decay.unwrap_or(if self.demo() { 1.0 } else { 0.75 });
        let smoothing = self.smoothing;
        Ok(ClassifyConfig {
            classes: model.classes,
            loss: match self.loss.as_str() {
                "bce" => {
                    LossConfig::BinaryCrossEntropy { smoothing, threshold: self.bce_target_thresh, sum: self.bce_sum }
                }
                _ => LossConfig::CrossEntropy { smoothing },
            },
            optimizer: match self.opt.as_str() {
                "sgd" => SgdConfig::default().into(),
                "lars" => LarsConfig::default().into(),
                _ => AdamWConfig::default().into(),
            },
            weight_decay: self.common.weight_decay.unwrap_or(0.05),
            layer_decay: Some(LayerDecay { decay, timm: self.layer_rule == "timm" }),
            trained: self.trained.clone(),
            ema: self.ema.map(|decay| EmaConfig { decay, warmup: self.ema_warmup }),
            mix: mixing.mix(smoothing, model.classes)?,
            eval_every: self.eval_every.or((!self.demo()).then_some(1)),
            model,
        })
    }
}

/// Trains one run; gives its outcome, and its top-1 if it came to its end.
fn train(args: &Args, model: &VitConfig, data: &vision::Data, v: &Run, signals: &Signals) -> Result<Ended> {
    let common = Common { seed: v.seed, ..args.common.clone() };
    let mut model = model.clone();
    model.classes = args.nb_classes.unwrap_or(data.train.classes().len());
    model.image = common.image(model.image)?;
    model.pool = if args.cls_token { Pool::Token } else { Pool::Avg };
    model.drop_path = args.drop_path.unwrap_or(0.1);
    let config = args.config(model)?;
    let device = common.device()?;
    let params = ParamStore::on(&device);
    let key = Key::new(v.seed).child("init");
    let vit = Vit::new(&config.model, params.builder(key))?;
    adapt::init_head(&params, &vit.anatomy(), 2e-5, &Key::new(v.seed).child("head"))?;
    if let Some(path) = v.weights {
        vision::load(path, &params, &config.model, args.pos_interpolation, &args.pretrained)?;
    }
    let plan: Plan = common.plan(if args.demo() { &DEMO } else { &FULL }, args.clip_grad);
    let train: Arc<dyn Dataset> = match args.labels.as_deref().or(args.demo().then_some("1000")) {
        Some(text) => vision::few(data.train.clone(), vision::share(text, data.train.len())?, v.seed)?,
        None => data.train.clone(),
    };
    tracing::info!("{}", serde_json::to_string(&plan)?);
    tracing::info!("{}", serde_json::to_string(&config)?);
    let size = config.model.image;
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
    let mut loader = Loader::new(train, args.pipeline(size, data.normalize.clone())?, load)?.decoding(data.decode);
    if let Some(mix) = &config.mix {
        loader = loader.collating(Arc::new(mix.clone()));
    }
    // What is judged by is never replaced: unreadable images are left out, and counted.
    let held_out = Loader::new(data.held_out.clone(), Pipeline::evaluation(size, data.normalize.clone()), all)?;
    let held_out = held_out.decoding(data.decode).on_bad(OnBad::Skip);
    tracing::info!("loading: {}", loader.plan());
    tracing::info!("{} images to train on, {} to evaluate on", loader.samples(), held_out.samples());
    let task = Classify::new(config, params, Box::new(vit))?.evaluating(held_out, plan.precision);
    vision::count(task.params(), &device);
    if args.eval {
        let path = match (common.resume(), v.weights) {
            (Resume::Auto, _) => vision::newest(&v.output)?,
            (Resume::From(path), _) => vision::locate(&path.to_string_lossy())?,
            (Resume::No, Some(path)) => path.to_path_buf(),
            (Resume::No, None) => return Err("nothing to evaluate: give --resume or --finetune".into()),
        };
        return Ok((ExitCode::SUCCESS, Some(evaluate(&path, &task, args.pos_interpolation)?)));
    }
    let mut trainer = Trainer::new(plan.check()?, task)?;
    let folder = RunFolder::open(&v.output, common.resume() != Resume::No || common.replay.is_some())?;
    let log_dir = common.log_dir.clone().unwrap_or_else(|| v.output.clone());
    let session = Session::new(&loader, &folder).resume(common.resume()).signals(signals).events(&log_dir).progress();
    if let Some(step) = common.replay {
        return Ok((replay(session, &mut trainer, step)?, None));
    }
    let outcome = session.run(&mut trainer)?;
    Ok(runs::ended(outcome, &trainer, &v.output, &loader))
}

/// Evaluates the weights of a file, and their average if the file has one.
fn evaluate(path: &Path, task: &Classify<VitConfig>, how: Interpolation) -> Result<f64> {
    let said = checkpoint::describe(path)?.map_or(vec![], |d| d.classes);
    vision::same_classes(&said, task.classes(), task.config().classes)?;
    if said.is_empty() {
        vision::by_place(path, task.classes(), task.config().classes)?;
        vision::not_followed(path)?;
    }
    let config = &task.config().model;
    let averaged = vision::load_trained(path, task.params(), config, how, false)?;
    let s = task.evaluate()?;
    runs::print(&s);
    if averaged {
        vision::load_trained(path, task.params(), config, how, true)?;
        let s = task.evaluate()?;
        println!("averaged weights: top1 {:.3}  top5 {:.3}  loss {:.4}", s.top1, s.top5, s.loss);
    }
    Ok(s.top1)
}

fn run(args: &Args) -> Result<ExitCode> {
    args.common.check()?;
    if args.dist_eval {
        tracing::warn!("--dist_eval: there is one process, which evaluates every image once");
    }
    let weights = runs::weights(args.finetune.as_deref(), args.from_scratch, args.demo())?;
    match (&weights, args.demo()) {
        (_, true) => tracing::info!("demo preset: the shipped Fashion-MNIST images, few labels"),
        (None, _) => tracing::info!("MAE's own defaults; random weights, no --finetune given"),
        (Some(path), _) => tracing::info!("MAE's own defaults, from {}", path.display()),
    }
    let default = if args.common.demo() { "vit_demo_patch4" } else { "vit_large_patch16" };
    let model = vision::config(args.common.model.as_deref(), weights.as_deref(), default)?;
    let mut model = model;
    model.channels = args.common.reading.channels.unwrap_or(model.channels);
    let signals = Signals::install()?;
    let output = args.common.output_dir.clone().unwrap_or_else(|| "./output_dir/finetune".into());
    let reading = &args.common.reading;
    let data =
        vision::labelled(reading, args.common.data_path.as_deref(), model.channels, weights.as_deref(), &output)?;
    let plan = runs::Plan {
        common: &args.common,
        weights: weights.as_deref(),
        names: ["finetuned", "from scratch"],
        epochs: args.common.epochs.unwrap_or(if args.demo() { DEMO.epochs } else { FULL.epochs }),
        seeds: args.seeds,
        compare: args.compare,
        eval: args.eval,
        output,
    };
    plan.run(|run| train(args, &model, &data, run, &signals))
}

fn main() -> ExitCode {
    candlelight::kernels::mem::keep_freed_memory();
    support::start(run)
}
