//! The flags of MAE's linear probing and what follows from them.

use crate::common::{Preset, TrainArgs};
use crate::data::{Labelled, labelled, share};
use crate::features::Cache;
use crate::runs::{self, Run};
use crate::weights::{self, Pretrained};
use crate::{Result, parsed};
use candle_core::Device;
use candlelight_autograd::ParamStore;
use candlelight_data::{Loader, LoaderConfig, OnBad, Pipeline, few};
use candlelight_engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight_engine::features::{Features, fingerprint};
use candlelight_engine::signals::Signals;
use candlelight_engine::task::Task;
use candlelight_engine::train::{Plan, Resume};
use candlelight_engine::{checkpoint, trained};
use candlelight_models::freeze::Trained;
use candlelight_models::posemb::Interpolation;
use candlelight_models::vit::{Head, Pool};
use candlelight_models::{Model, Vit, VitConfig};
use candlelight_optim::LarsConfig;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Probe a vision transformer linearly. Without --data_path it takes mae_pretrain's checkpoint and the images that come with the
/// repository, with 1,000 labels, and compares that with random features.
#[derive(Parser, Debug)]
#[command(name = "mae_linprobe", version, rename_all = "snake_case", after_help = DEFAULTS)]
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
    /// Probe the features of random weights
    #[arg(long, help_heading = "Model")]
    pub from_scratch: bool,
    /// Number of classes [default: that of the data]
    #[arg(long, help_heading = "Model")]
    pub nb_classes: Option<usize>,
    /// Probe the mean of the patches; its normalisation, which pretraining does not have, is trained with the head
    #[arg(long, help_heading = "Model", conflicts_with = "cls_token")]
    pub global_pool: bool,
    /// Probe the class token, which is the default
    #[arg(long, help_heading = "Model")]
    cls_token: bool,
    /// How position embeddings are resized for another image size: mae or timm
    #[arg(long, default_value = "mae", value_parser = parsed::<Interpolation>, help_heading = "Model")]
    pub pos_interpolation: Interpolation,
    /// Compute the features once, without augmentation, keep them in the output folder, and train the head on them
    #[arg(long, help_heading = "Data")]
    pub cache_features: bool,
    /// Train on so many labelled images, such as 1000, or on a share, such as 10% [default: all; demo: 1000]
    #[arg(long, value_name = "N|P%", help_heading = "Data")]
    labels: Option<String>,
    /// Only evaluate the weights of --resume
    #[arg(long, help_heading = "Run")]
    pub eval: bool,
    /// Epochs between evaluations [default: 1; demo: only the last]
    #[arg(long, help_heading = "Run")]
    eval_every: Option<usize>,
    /// Repeat with so many seeds and print a table [demo: 3]
    #[arg(long, help_heading = "Run")]
    pub seeds: Option<usize>,
    /// Also probe random features and compare; the demo does
    #[arg(long, help_heading = "Run")]
    pub compare: bool,
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

/// The loaders of a probe.
pub struct Loaders {
    /// The images to train on, augmented and shuffled.
    pub train: Loader,
    /// The same images in order, as an evaluation sees them.
    pub in_order: Loader,
    /// The images to judge by. They are never replaced: unreadable ones are left out, and counted.
    pub held_out: Loader,
    /// How an evaluation prepares images.
    pub evaluation: Pipeline,
}

impl Args {
    /// Refuses what is not there yet.
    ///
    /// # Errors
    /// When a flag asks for it.
    pub fn check(&self) -> Result<()> {
        self.common.check()?;
        if self.dist_eval {
            tracing::info!("--dist_eval: there is one process, which evaluates every image once");
        }
        Ok(())
    }

    /// The weights to probe, and the model that is named, or that they contain.
    ///
    /// # Errors
    /// When there are none to probe, or there is no such model.
    pub fn start(&self) -> Result<(Option<PathBuf>, VitConfig)> {
        let demo = self.common.demo();
        // A run that only evaluates takes its weights from --resume.
        let weights = runs::weights(self.weights.as_deref(), self.from_scratch, demo && !self.eval)?;
        if weights.is_none() && !self.from_scratch && !self.eval {
            let none = matches!(self.common.resume(), Resume::No);
            let resumed = if none { "" } else { "; --resume continues a probe of the same weights" };
            return Err(format!(
                "nothing to probe: give --weights FILE, or --from_scratch for random features{resumed}"
            )
            .into());
        }
        let whose =
            if demo { "demo preset: the shipped Fashion-MNIST images, few labels" } else { "MAE's own defaults" };
        tracing::info!("{whose}");
        let default = if demo { "vit_demo_patch4" } else { "vit_large_patch16" };
        let mut model = weights::config(self.common.model.as_deref(), weights.as_deref(), default)?;
        model.channels = self.common.reading.channels.unwrap_or(model.channels);
        Ok((weights, model))
    }

    /// The folder of the run, or of its runs.
    pub fn output(&self) -> PathBuf {
        self.common.output_dir.clone().unwrap_or_else(|| "./output_dir/linprobe".into())
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
        let preset = if self.common.demo() { DEMO } else { FULL };
        runs::Plan {
            common: &self.common,
            weights,
            names: ["pretrained", "random"],
            epochs: self.common.epochs.unwrap_or(preset.epochs),
            seeds: self.seeds,
            compare: self.compare,
            eval: self.eval,
            output: self.output(),
        }
    }

    /// The plan of one run.
    pub fn plan(&self, seed: u64) -> Plan {
        let common = TrainArgs { seed, ..self.common.clone() };
        common.plan(if self.common.demo() { &DEMO } else { &FULL }, None)
    }

    /// The configuration of the task for data of so many classes.
    ///
    /// # Errors
    /// When the image size is none.
    pub fn config(&self, model: &VitConfig, classes: usize) -> Result<ClassifyConfig<VitConfig>> {
        let mut model = model.clone();
        model.classes = self.nb_classes.unwrap_or(classes);
        model.image = self.common.image(model.image)?;
        (model.pool, model.head) = (if self.global_pool { Pool::Avg } else { Pool::Token }, Head::Probe);
        let with_norm = || Trained::Matching(vec!["head.*".into(), "fc_norm.*".into()]);
        Ok(ClassifyConfig {
            classes: model.classes,
            loss: LossConfig::CrossEntropy { smoothing: 0.0 },
            class_weights: None,
            penalties: vec![],
            distill: None,
            timm_groups: false,
            metric: None,
            optimizer: LarsConfig::default().into(),
            weight_decay: self.common.weight_decay.unwrap_or(0.0),
            layer_decay: None,
            trained: Some(if self.global_pool { with_norm() } else { Trained::Head }),
            peft: None,
            ema: None,
            mix: None,
            eval_every: self.eval_every.or((!self.common.demo()).then_some(1)),
            model,
        })
    }

    /// The images of a probe, as the configuration wants them.
    ///
    /// # Errors
    /// When the pipelines contradict the images.
    pub fn loaders(&self, config: &ClassifyConfig<VitConfig>, data: &Labelled, seed: u64) -> Result<Loaders> {
        let plan = self.plan(seed);
        tracing::info!("{}", serde_json::to_string(&plan)?);
        tracing::info!("{}", serde_json::to_string(config)?);
        let train = match self.labels.as_deref().or(self.common.demo().then_some("1000")) {
            Some(text) => few(data.train.clone(), share(text, data.train.len())?, seed)?,
            None => data.train.clone(),
        };
        let size = config.model.image;
        let load = TrainArgs { seed, ..self.common.clone() }.loading(&plan, size);
        let all = LoaderConfig { shuffle: false, drop_last: false, ..load.clone() };
        let evaluation = Pipeline::evaluation(size, data.normalize.clone());
        let augmented = Pipeline::mae_linprobe(size, data.normalize.clone());
        let in_order = Loader::new(train.clone(), evaluation.clone(), all.clone())?.decoding(data.decode);
        let held_out = Loader::new(data.held_out.clone(), evaluation.clone(), all)?.decoding(data.decode);
        let loaders = Loaders {
            train: Loader::new(train, augmented, load)?.decoding(data.decode),
            in_order,
            held_out: held_out.on_bad(OnBad::Skip),
            evaluation,
        };
        tracing::info!("loading: {}", loaders.train.plan());
        let (train, held_out) = (loaders.train.samples(), loaders.held_out.samples());
        tracing::info!("{train} images to train on, {held_out} to evaluate on");
        Ok(loaders)
    }

    /// The features of the images to train on and of those to judge by, from the files of the run, or computed now; what an interrupted run
    /// has computed is taken over.
    ///
    /// # Errors
    /// When images cannot be read or files not be written, or a signal interrupts it.
    pub fn features(
        &self,
        vit: &Vit,
        params: &ParamStore,
        loaders: &Loaders,
        run: &Run,
        device: &Device,
        signals: &Signals,
    ) -> Result<(Features, Features)> {
        // Images in shards have no names of their own, so the folder is part of what features are made from.
        let folder = self.common.data_path.as_deref().map(std::fs::canonicalize).transpose()?;
        let prepared = serde_json::to_string(&loaders.evaluation)?;
        let made_from = format!("{} {prepared} {} {folder:?}", fingerprint(params, &vit.anatomy())?, run.seed);
        let cache = Cache { folder: &run.output, made_from: &made_from, model: vit, device, signals };
        tracing::info!("features are computed once, in f32, from images as in evaluation");
        let of = |l: &Loader| l.dataset().ok_or("features are computed of data with random access");
        let train = cache.features("train", &*of(&loaders.in_order)?, &loaders.in_order)?;
        let test = cache.features("test", &*of(&loaders.held_out)?, &loaders.held_out)?;
        Ok((train, test))
    }

    /// Evaluates the checkpoint that `--resume` names; returns the top-1.
    ///
    /// # Errors
    /// When it is not there, or of other classes.
    pub fn evaluate(&self, task: &Classify<VitConfig>, run: &Run) -> Result<f64> {
        let path = match self.common.resume() {
            Resume::Auto => weights::newest(&run.output)?,
            Resume::From(path) => path,
            Resume::No => return Err("--eval needs --resume: a probe's head is in its own checkpoint".into()),
        };
        let said = checkpoint::describe(&path)?.map_or(vec![], |d| d.classes);
        let model = &task.config().model;
        trained::same_classes(&said, task.classes(), model.classes)?;
        weights::load_trained(&path, task.params(), model, self.pos_interpolation, false)?;
        let s = task.evaluate()?;
        runs::print(&s);
        Ok(s.score())
    }
}

/// How a run that a signal interrupted in the middle of its features ends.
///
/// # Errors
/// All others.
pub fn or_interrupted(ended: Result<runs::Ended>, signals: &Signals) -> Result<runs::Ended> {
    use candlelight_engine::Error;
    match (&ended, signals.caught()) {
        (Err(e), Some(signal)) if matches!(e.downcast_ref(), Some(Error::Interrupted)) => {
            println!("stopped by signal {signal}; the same command continues");
            Ok((ExitCode::from(128 + signal as u8), None))
        }
        _ => ended,
    }
}
