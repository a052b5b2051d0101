//! The flags of MAE's finetuning and what follows from them.

use crate::common::{Preset, TrainArgs};
use crate::data::{Labelled, labelled, share};
use crate::runs::{self, Run};
use crate::weights::{self, Pretrained};
use crate::{Result, parsed};
use candlelight_data::{
    EraseMode, Loader, LoaderConfig, Mix, MixMode, Normalize, OnBad, Pipeline, RandomErasing, Transform, few,
};
use candlelight_engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight_engine::task::Task;
use candlelight_engine::train::{Plan, Resume};
use candlelight_engine::{checkpoint, trained};
use candlelight_models::VitConfig;
use candlelight_models::freeze::Trained;
use candlelight_models::posemb::Interpolation;
use candlelight_models::vit::Pool;
use candlelight_optim::{AdamWConfig, EmaConfig, LarsConfig, LayerDecay, SgdConfig};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Finetune a vision transformer. Without --data_path it continues from mae_pretrain's checkpoint on the images that come with
/// the repository, with 1,000 labels, and compares that with training from scratch.
#[derive(Parser, Debug)]
#[command(name = "mae_finetune", version, rename_all = "snake_case", after_help = DEFAULTS)]
pub struct Args {
    #[command(flatten)]
    /// The flags of every training run.
    pub common: TrainArgs,
    /// Pretrained weights of facebookresearch/mae, timm, torchvision, HuggingFace or ours [demo: the newest of ./output_dir]
    #[arg(long, visible_alias = "finetune", value_name = "FILE", help_heading = "Model")]
    pub weights: Option<String>,
    #[command(flatten)]
    /// How the weights are read.
    pub pretrained: Pretrained,
    /// Start from random weights
    #[arg(long, help_heading = "Model")]
    pub from_scratch: bool,
    /// Number of classes [default: that of the data]
    #[arg(long, help_heading = "Model")]
    pub nb_classes: Option<usize>,
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
    #[arg(long, default_value = "mae", value_parser = parsed::<Interpolation>, help_heading = "Model")]
    pub pos_interpolation: Interpolation,
    /// Train only a part: head, last(N) for the last N layers and the head, attn_only, attn_last(N), freeze(...), or names separated by commas
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
    #[arg(long, requires = "ema", help_heading = "Optimisation")]
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
    /// Strength of the colour jitter, with --aa '' ; timm has either of them
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
    /// What erased boxes are filled with: const, rand or pixel [default: pixel]
    #[arg(long, value_parser = parsed::<EraseMode>, help_heading = "Augmentation")]
    remode: Option<EraseMode>,
    /// Largest number of boxes erased per image [default: 1]
    #[arg(long, help_heading = "Augmentation")]
    recount: Option<usize>,
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
    /// Probability that images are mixed at all [default: 1]
    #[arg(long, help_heading = "Augmentation")]
    mixup_prob: Option<f64>,
    /// Probability of CutMix instead of mixup where both are on [default: 0.5]
    #[arg(long, help_heading = "Augmentation")]
    mixup_switch_prob: Option<f64>,
    /// What is mixed with the same random numbers: batch, pair or elem [default: batch]
    #[arg(long, value_parser = parsed::<MixMode>, help_heading = "Augmentation")]
    mixup_mode: Option<MixMode>,
    /// Only evaluate the weights of --resume or --finetune
    #[arg(long, help_heading = "Run")]
    pub eval: bool,
    /// Epochs between evaluations [default: 1; demo: only the last]
    #[arg(long, help_heading = "Run")]
    eval_every: Option<usize>,
    /// Repeat with so many seeds and print a table [demo: 3]
    #[arg(long, help_heading = "Run")]
    pub seeds: Option<usize>,
    /// Also train from scratch and compare; the demo does
    #[arg(long, help_heading = "Run")]
    pub compare: bool,
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

    /// Refuses flags that contradict each other or would do nothing.
    ///
    /// # Errors
    /// When there are such flags.
    pub fn check(&self) -> Result<()> {
        self.common.check()?;
        let unused =
            |flag: &str, unless: &str| Err(format!("{flag} does nothing without {unless}: leave it out").into());
        if self.loss != "bce" && (self.bce_sum || self.bce_target_thresh.is_some()) {
            return unused("--bce_sum and --bce_target_thresh: each", "--loss bce");
        }
        if self.color_jitter.is_some() && !self.policy().is_empty() {
            return unused("--color_jitter", "--aa ''");
        }
        if self.erasing() <= 0.0 && (self.remode.is_some() || self.recount.is_some()) {
            return unused("--remode and --recount: each", "--reprob");
        }
        let mode = self.mixup_prob.is_some() || self.mixup_switch_prob.is_some() || self.mixup_mode.is_some();
        if !self.mixes() && mode {
            return unused("--mixup_prob, --mixup_switch_prob and --mixup_mode: each", "--mixup or --cutmix");
        }
        if self.dist_eval {
            tracing::info!("--dist_eval: there is one process, which evaluates every image once");
        }
        Ok(())
    }

    fn policy(&self) -> &str {
        self.aa.as_deref().unwrap_or(if self.demo() { "" } else { "rand-m9-mstd0.5-inc1" })
    }

    fn erasing(&self) -> f64 {
        self.reprob.unwrap_or(if self.demo() { 0.0 } else { 0.25 })
    }

    fn mixes(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0 || self.cutmix_minmax.is_some()
    }

    /// The weights to start from, and the model that is named, or that they contain; the log says which.
    ///
    /// # Errors
    /// When the weights are not there, or there is no such model.
    pub fn start(&self) -> Result<(Option<PathBuf>, VitConfig)> {
        let weights = runs::weights(self.weights.as_deref(), self.from_scratch, self.demo())?;
        match (&weights, self.demo()) {
            (_, true) => tracing::info!("demo preset: the shipped Fashion-MNIST images, few labels"),
            (None, _) => tracing::info!("MAE's own defaults; random weights, no --weights given"),
            (Some(path), _) => tracing::info!("MAE's own defaults, from {}", path.display()),
        }
        let default = if self.demo() { "vit_demo_patch4" } else { "vit_large_patch16" };
        let mut model = weights::config(self.common.model.as_deref(), weights.as_deref(), default)?;
        model.channels = self.common.reading.channels.unwrap_or(model.channels);
        Ok((weights, model))
    }

    /// The folder of the run, or of its runs.
    pub fn output(&self) -> PathBuf {
        self.common.output_dir.clone().unwrap_or_else(|| "./output_dir/finetune".into())
    }

    /// The labelled images.
    ///
    /// # Errors
    /// When a part or labels are missing.
    pub fn data(&self, weights: Option<&Path>, channels: usize) -> Result<Labelled> {
        labelled(&self.common.reading, self.common.data_path.as_deref(), channels, weights, &self.output())
    }

    /// The runs that are asked for: one, or several to compare.
    pub fn runs<'a>(&'a self, weights: Option<&'a Path>) -> runs::Plan<'a> {
        runs::Plan {
            common: &self.common,
            weights,
            names: ["finetuned", "from scratch"],
            epochs: self.common.epochs.unwrap_or(if self.demo() { DEMO.epochs } else { FULL.epochs }),
            seeds: self.seeds,
            compare: self.compare,
            eval: self.eval,
            output: self.output(),
        }
    }

    /// The plan of one run.
    pub fn plan(&self, seed: u64) -> Plan {
        let common = TrainArgs { seed, ..self.common.clone() };
        common.plan(if self.demo() { &DEMO } else { &FULL }, self.clip_grad)
    }

    fn pipeline(&self, size: (usize, usize), normalize: Normalize) -> Result<Pipeline> {
        let (aa, reprob) = (self.policy(), self.erasing());
        let mut p = Pipeline::mae_finetune(size, normalize, aa, 0.0)?;
        if let Some(Transform::RandomResizedCrop { scale, .. }) = p.transforms.first_mut() {
            scale.0 = self.crop_scale.unwrap_or(if self.demo() { 0.5 } else { 0.08 });
        }
        if let Some(j) = self.color_jitter {
            p.transforms.push(Transform::ColorJitter { brightness: j, contrast: j, saturation: j, hue: 0.0, p: 1.0 });
        }
        let (mode, count) = (self.remode.unwrap_or(EraseMode::Pixel), self.recount.unwrap_or(1));
        p.erase = (reprob > 0.0).then(|| RandomErasing { mode, count, ..RandomErasing::new(reprob) });
        Ok(p)
    }

    fn mix(&self, classes: usize) -> Option<Mix> {
        self.mixes().then(|| Mix {
            mixup: self.mixup,
            cutmix: self.cutmix,
            cutmix_minmax: self.cutmix_minmax.as_deref().map(|m| (m[0], m[1])),
            prob: self.mixup_prob.unwrap_or(1.0),
            switch_prob: self.mixup_switch_prob.unwrap_or(0.5),
            mode: self.mixup_mode.unwrap_or(MixMode::Batch),
            smoothing: self.smoothing,
            classes,
            off_epoch: None,
        })
    }

    /// The configuration of the task for data of so many classes.
    ///
    /// # Errors
    /// When the image size is none.
    pub fn config(&self, model: &VitConfig, classes: usize) -> Result<ClassifyConfig<VitConfig>> {
        let mut model = model.clone();
        model.classes = self.nb_classes.unwrap_or(classes);
        model.image = self.common.image(model.image)?;
        model.pool = if self.cls_token { Pool::Token } else { Pool::Avg };
        model.drop_path = self.drop_path.unwrap_or(0.1);
        let decay = self.layer_decay.unwrap_or(if self.demo() { 1.0 } else { 0.75 });
        let smoothing = self.smoothing;
        Ok(ClassifyConfig {
            classes: model.classes,
            loss: match self.loss.as_str() {
                "bce" => LossConfig::BinaryCrossEntropy {
                    smoothing,
                    threshold: self.bce_target_thresh,
                    sum: self.bce_sum,
                    pos_weight: None,
                },
                _ => LossConfig::CrossEntropy { smoothing },
            },
            class_weights: None,
            penalties: vec![],
            distill: None,
            timm_groups: false,
            metric: None,
            optimizer: match self.opt.as_str() {
                "sgd" => SgdConfig::default().into(),
                "lars" => LarsConfig::default().into(),
                _ => AdamWConfig::default().into(),
            },
            weight_decay: self.common.weight_decay.unwrap_or(0.05),
            layer_decay: Some(LayerDecay { decay, timm: self.layer_rule == "timm" }),
            trained: self.trained.clone(),
            peft: None,
            ema: self.ema.map(|decay| EmaConfig { decay, warmup: self.ema_warmup, tau: None }),
            mix: self.mix(model.classes),
            eval_every: self.eval_every.or((!self.demo()).then_some(1)),
            model,
        })
    }

    /// The images to train on and those to judge by, as the configuration wants them. What is judged by is never replaced: unreadable images
    /// are left out, and counted.
    ///
    /// # Errors
    /// When the pipelines contradict the images.
    pub fn loaders(&self, config: &ClassifyConfig<VitConfig>, data: &Labelled, seed: u64) -> Result<(Loader, Loader)> {
        let plan = self.plan(seed);
        tracing::info!("{}", serde_json::to_string(&plan)?);
        tracing::info!("{}", serde_json::to_string(config)?);
        let train = match self.labels.as_deref().or(self.demo().then_some("1000")) {
            Some(text) => few(data.train.clone(), share(text, data.train.len())?, seed)?,
            None => data.train.clone(),
        };
        let size = config.model.image;
        let load = TrainArgs { seed, ..self.common.clone() }.loading(&plan, size);
        let all = LoaderConfig { shuffle: false, drop_last: false, ..load.clone() };
        let mut loader = Loader::new(train, self.pipeline(size, data.normalize.clone())?, load)?.decoding(data.decode);
        if let Some(mix) = &config.mix {
            loader = loader.collating(Arc::new(mix.clone()));
        }
        let held_out = Loader::new(data.held_out.clone(), Pipeline::evaluation(size, data.normalize.clone()), all)?;
        let held_out = held_out.decoding(data.decode).on_bad(OnBad::Skip);
        tracing::info!("loading: {}", loader.plan());
        tracing::info!("{} images to train on, {} to evaluate on", loader.samples(), held_out.samples());
        Ok((loader, held_out))
    }

    /// Evaluates the weights that `--resume` or `--weights` name, and their average if the file has one; returns the top-1.
    ///
    /// # Errors
    /// When they are not there, or of other classes.
    pub fn evaluate(&self, task: &Classify<VitConfig>, run: &Run) -> Result<f64> {
        let path = match (self.common.resume(), run.weights) {
            (Resume::Auto, _) => weights::newest(&run.output)?,
            (Resume::From(path), _) => weights::located(&path.to_string_lossy())?,
            (Resume::No, Some(path)) => path.to_path_buf(),
            (Resume::No, None) => return Err("nothing to evaluate: give --resume or --weights".into()),
        };
        let said = checkpoint::describe(&path)?.map_or(vec![], |d| d.classes);
        trained::same_classes(&said, task.classes(), task.config().classes)?;
        if said.is_empty() {
            crate::say(&trained::same_order(&path, task.classes(), task.config().classes)?);
            trained::not_followed(&path)?.iter().for_each(|w| tracing::warn!("{w}"));
        }
        let (config, how) = (&task.config().model, self.pos_interpolation);
        let averaged = weights::load_trained(&path, task.params(), config, how, false)?;
        let s = task.evaluate()?;
        runs::print(&s);
        if averaged {
            weights::load_trained(&path, task.params(), config, how, true)?;
            let s = task.evaluate()?;
            println!("averaged weights: {s}");
        }
        Ok(s.score())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_would_do_nothing_are_refused() {
        let check = |flags: &str| {
            let args = std::iter::once("mae_finetune").chain(flags.split_whitespace());
            let args = Args::try_parse_from(args).map_err(|e| e.to_string())?;
            args.check().map_err(|e| e.to_string())
        };
        for (flags, without) in [
            ("--bce_sum", "--loss bce"),
            ("--bce_target_thresh 0.2", "--loss bce"),
            ("--data_path x --color_jitter 0.4", "--aa ''"),
            ("--remode rand", "--reprob"),
            ("--data_path x --reprob 0 --recount 2", "--reprob"),
            ("--mixup_prob 0.5", "--mixup"),
            ("--ema_warmup", "--ema"),
        ] {
            let e = check(flags).unwrap_err();
            assert!(e.contains(without), "{flags}: {e}");
        }
        for flags in
            ["--loss bce --bce_sum", "--data_path x --remode rand", "--cutmix 1 --mixup_mode elem", "--ema 0.9"]
        {
            check(flags).unwrap();
        }
        // MAE's name for the weights is another name of ours.
        let args = |flag: &str| Args::try_parse_from(["mae_finetune", flag, "w.pth"]).unwrap().weights;
        assert_eq!(args("--finetune"), args("--weights"));
    }
}
