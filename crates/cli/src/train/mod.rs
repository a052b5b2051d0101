//! Supervised training with timm's flags: those of its `train.py`, under the same names, with the same meanings and defaults.

mod adapters;
mod augment;
mod data;
mod defaults;
mod features;
mod images;
mod lines;
mod loss;
mod model;
mod optimise;
mod run;
pub mod table;
mod yolov5;

pub use augment::AugmentFlags;
pub use data::{Data, DataFlags};
pub use defaults::Defaults;
pub use loss::LossFlags;
pub use model::ModelFlags;
pub use optimise::OptimFlags;
pub use run::RunFlags;

use crate::Result;
use candlelight_autograd::Precision;
use candlelight_data::{Label, Loader, LoaderConfig, OnBad, Pipeline, Sampler, Shuffled};
use candlelight_engine::Metric;
use candlelight_engine::classify::{ClassifyConfig, LossConfig};
use candlelight_engine::signals::Signals;
use candlelight_engine::task::Batches;
use candlelight_engine::train::{Plan, Session};
use candlelight_models::ModelConfig;
use candlelight_store::RunFolder;
use clap::Parser;
use images::SaveImages;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Train a classifier with timm's recipes. Without DATA it trains a small residual network on the images that come with the repository.
#[derive(Parser, Debug, Clone, Serialize)]
#[command(name = "train", version, rename_all = "snake_case")]
#[group(skip)]
pub struct Args {
    /// Whose defaults: timm-0.4, for which most published recipes were written, timm-1.0, hrank for finetuning a pruned network, or yolov5 [default: timm-0.4; of prune: hrank]
    #[arg(long, value_parser = ["timm-0.4", "timm-1.0", "hrank", "yolov5"], value_name = "VERSION")]
    pub defaults: Option<String>,
    /// A YAML (or TOML) file of these flags, such as the args.yaml of a run; the command line overrides it
    #[arg(long, short = 'c', value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Print what becomes of each of the 98 arguments of timm's train.py, as a table in Markdown
    #[arg(long)]
    #[serde(skip)]
    pub flags: bool,
    #[command(flatten)]
    #[serde(flatten)]
    /// The data.
    pub data: DataFlags,
    #[command(flatten)]
    #[serde(flatten)]
    /// The model.
    pub model: ModelFlags,
    #[command(flatten)]
    #[serde(flatten)]
    /// Augmentation.
    pub augment: AugmentFlags,
    #[command(flatten)]
    #[serde(flatten)]
    /// The loss.
    pub loss: LossFlags,
    #[command(flatten)]
    #[serde(flatten)]
    /// Optimization.
    pub optim: OptimFlags,
    #[command(flatten)]
    #[serde(flatten)]
    /// The run.
    pub run: RunFlags,
    #[command(flatten)]
    #[serde(skip)]
    /// What is accepted without effect, or refused.
    foreign: table::Foreign,
    /// Whether loaders are made without a word, because they were described before.
    #[arg(skip)]
    #[serde(skip)]
    pub quiet: bool,
}

impl Args {
    fn preset(&self) -> Defaults {
        if self.data.demo() {
            return Defaults::DEMO;
        }
        self.defaults.as_deref().and_then(Defaults::named).unwrap_or(Defaults::TIMM_0_4)
    }

    /// The same flags with a value for each that has a default. The log says what has no effect here.
    ///
    /// # Errors
    /// When flags are refused, contradict each other or would do nothing.
    pub fn filled(&self) -> Result<Self> {
        self.foreign.answer()?;
        let mut all = self.clone();
        if let Some(style) = &self.run.style {
            all.defaults.get_or_insert_with(|| style.clone());
        }
        let d = all.preset();
        self.loss.one()?;
        self.augment.check(self.loss.jsd, self.model.split_bn, &d)?;
        match self.data.demo() {
            true => {
                tracing::info!("demo: no DATA is given, so a small network trains on the shipped Fashion-MNIST images");
                if self.defaults.is_some() {
                    tracing::warn!("--defaults has no effect without DATA: the demo has its own");
                }
            }
            false => _ = all.defaults.get_or_insert_with(|| "timm-0.4".into()),
        }
        all.data.fill(&d);
        all.model.fill(&d);
        all.augment.fill(&d);
        all.loss.fill(&d);
        all.optim.fill(&d);
        all.run.fill(&d);
        all.data.check()?;
        all.loss.check()?;
        all.optim.check()?;
        all.run.check()?;
        if all.loss.jsd && all.loss.class_weights.is_some() {
            return Err("--jsd and --class_weights exclude each other".into());
        }
        Ok(all)
    }

    /// The model, without its number of classes.
    ///
    /// # Errors
    /// When there is no such model, or it has no place for a setting.
    pub fn model(&self) -> Result<ModelConfig> {
        let (mut channels, mut size) = self.data.input();
        if self.data.demo() {
            // The shipped images are gray, 28 x 28.
            channels = channels.or(Some(1));
            size = size.or(Some((28, 28)));
        }
        self.model.config((channels, size), self.augment.splits())
    }

    /// Height and width of the images, where they are asked for.
    pub fn size(&self) -> Option<(usize, usize)> {
        self.data.input().1
    }

    /// The settings of every training.
    ///
    /// # Errors
    /// When there is no such schedule, or a setting is out of range.
    pub fn plan(&self) -> Result<Plan> {
        let (batch_size, d) = (self.data.batch_size.unwrap_or(32), self.preset());
        let maximise = self.run.eval_metric.is_none_or(Metric::maximised);
        let (optim, run) = (&self.optim, &self.run);
        let (schedule, epochs) = optim.schedule(optim.rate(batch_size), maximise, run.seed(), &d)?;
        if Some(epochs) != optim.epochs {
            tracing::info!("{epochs} epochs in all, with cycles, warm-up before them and cool-down");
        }
        Ok(Plan {
            batch_size,
            accum_iter: optim.grad_accum_steps.unwrap_or(1),
            remainder: true,
            epochs,
            schedule,
            seed: run.seed(),
            precision: self.precision()?,
            clip_grad: optim.clip_grad.filter(|c| *c != 0.0),
            clip_mode: optim.clip_mode(),
            max_steps: run.max_steps,
            save_every: 1,
            keep: run.keep.unwrap_or(2),
            recovery_interval: run.recovery_interval.filter(|n| *n > 0),
            history: run.checkpoint_hist.unwrap_or_default(),
            loss_scale: optim.scaler(),
            non_finite: optim.non_finite(),
            stopping: run.stopping(),
            ..Plan::default()
        })
    }

    /// The precision of matrix products.
    ///
    /// # Errors
    /// When it is none.
    pub fn precision(&self) -> Result<Precision> {
        Ok(self.optim.precision.as_deref().unwrap_or("f32").parse()?)
    }

    /// The configuration of the task for this data, whose model has as many outputs.
    ///
    /// # Errors
    /// When there is no such optimizer, or weights of classes are none.
    pub fn config(&self, mut model: ModelConfig, data: &Data) -> Result<ClassifyConfig<ModelConfig>> {
        let classes = self.model.num_classes.unwrap_or(data.outputs);
        if let Some(settings) = model.architecture_mut().settings() {
            *settings.classes = classes;
        }
        let (loss, optim) = (&self.loss, &self.optim);
        let criterion = loss.config(self.augment.splits());
        self.judge(&criterion, &data.label)?;
        // Numbers are not smoothed.
        let smoothing = if criterion.compares_numbers() { 0.0 } else { loss.smoothing.unwrap_or_default() };
        Ok(ClassifyConfig {
            classes,
            loss: criterion,
            class_weights: loss.weights(&data.counts, data.collection.classes())?,
            penalties: loss.penalties(),
            distill: self.model.distill(),
            metric: self.run.eval_metric,
            optimizer: optim.optimizer()?,
            weight_decay: optim.weight_decay.unwrap_or_default(),
            timm_groups: true,
            layer_decay: optim.layers(),
            ema: optim.ema(),
            mix: self.augment.mix(classes, smoothing),
            trained: self.model.trained.clone(),
            peft: self.model.adapters.peft()?,
            eval_every: self.run.val_interval,
            ..ClassifyConfig::new(model, classes)
        })
    }

    /// Refuses a loss or a metric that does not fit the labels.
    fn judge(&self, loss: &LossConfig, label: &Label) -> Result<()> {
        let (kind, fits, metrics): (_, _, &[Metric]) = match label {
            Label::Classes(_) => ("several labels", loss.takes_targets(), &[Metric::Map, Metric::Loss]),
            Label::Numbers(_) => ("numbers", loss.compares_numbers(), &[Metric::Loss, Metric::Mae]),
            _ => (
                "one class each",
                true,
                &[Metric::Top1, Metric::Top5, Metric::Loss, Metric::Precision, Metric::Recall, Metric::F1],
            ),
        };
        if !fits {
            let losses = if matches!(label, Label::Numbers(_)) {
                "mse, huber or smooth_l1"
            } else {
                "bce, asl, mse, huber or smooth_l1"
            };
            return Err(format!(
                "the samples have {kind}: --loss {} is none for them, give {losses}",
                self.loss.name()
            )
            .into());
        }
        match self.run.eval_metric.filter(|m| !metrics.contains(m)) {
            Some(m) => {
                let names: Vec<&str> = metrics.iter().map(|m| m.name()).collect();
                let names = names.join(", ");
                Err(format!("--eval_metric {}: the samples have {kind}, whose metrics are {names}", m.name()).into())
            }
            None => Ok(()),
        }
    }

    /// How an evaluation prepares images.
    fn evaluation(&self, model: &ModelConfig, data: &Data) -> Result<Pipeline> {
        let (size, flags) = (model.image(), &self.data);
        let given = flags.crop_pct.is_some() || flags.crop_mode.is_some() || flags.interpolation.is_some();
        match self.run.style {
            Some(_) if !given => Ok(candlelight_engine::trained::yolov5(size, data.normalize.clone())),
            _ => flags.evaluation(self.model.name(), size, &data.normalize),
        }
    }

    /// How images of this size are loaded for training.
    fn loading(&self, size: (usize, usize)) -> LoaderConfig {
        let flags = &self.data;
        LoaderConfig {
            batch_size: flags.batch_size.unwrap_or(32),
            size,
            seed: self.run.seed(),
            shuffle: true,
            drop_last: true,
            workers: flags.threads(),
            max_bad: flags.max_bad.unwrap_or(0.1),
            memory: flags.loader_memory.map(|mb| mb.saturating_mul(1 << 20)),
        }
    }

    /// The images to train on and those to judge by, as the configuration wants them. What is judged by is never replaced: unreadable images
    /// are left out, and counted.
    ///
    /// # Errors
    /// When the pipelines contradict the images.
    pub fn loaders(
        &self,
        config: &ClassifyConfig<ModelConfig>,
        data: &Data,
        folder: &Path,
    ) -> Result<(Loader, Option<Loader>)> {
        let (size, flags) = (config.model.image(), &self.data);
        let evaluation = self.evaluation(&config.model, data)?;
        let training = self.augment.pipeline(size, &data.normalize, &evaluation)?;
        for (name, pipeline) in [("training", &training), ("evaluation", &evaluation)].iter().filter(|_| !self.quiet) {
            tracing::info!("{name}: {}", pipeline.to_string().trim_end().replace('\n', ", "));
        }
        let load = self.loading(size);
        let batch_size = load.batch_size;
        let mut loader = match (flags.sampler(&*data.train, self.run.seed())?, flags.passes()) {
            (None, 1) => Loader::new(data.train.clone(), training, load.clone())?,
            (once, passes) => {
                let (n, seed) = (data.train.len(), self.run.seed());
                let once = once.unwrap_or_else(|| Arc::new(Shuffled { n, seed }));
                let sampler = Arc::new(Repeated { once, passes });
                Loader::with_sampler(data.train.clone(), sampler, training, load.clone())?
            }
        }
        .decoding(data.decode);
        if let Some(mix) = &config.mix {
            loader = loader.collating(Arc::new(mix.clone()));
        }
        if self.run.style.is_some() {
            let (path, normalize) = (folder.join("train_images.jpg"), data.normalize.clone());
            let classes = data.collection.classes().to_vec();
            loader = loader.collating(Arc::new(yolov5::FirstImages { path, normalize, classes }));
        }
        if self.run.save_images {
            let (folder, every) = (folder.to_path_buf(), self.run.log_interval.unwrap_or(50));
            loader = loader.collating(Arc::new(SaveImages { folder, every, normalize: data.normalize.clone() }));
        }
        if !self.quiet {
            tracing::info!("loading: {}", loader.plan());
        }
        let Some(held_out) = &data.held_out else {
            if !self.quiet {
                tracing::info!("{} images to train on, none to evaluate on", loader.samples());
            }
            return Ok((loader, None));
        };
        let multiple = flags.validation_batch_size_multiplier.unwrap_or(1);
        let all = LoaderConfig { batch_size: batch_size * multiple, shuffle: false, drop_last: false, ..load };
        let views = match flags.tta.as_deref() {
            Some("2") => Some("flip"),
            Some("5") => Some("five"),
            Some("10") => Some("ten"),
            _ => None,
        };
        let mut held_out_loader =
            Loader::new(held_out.clone(), evaluation.clone(), all)?.decoding(data.decode).on_bad(OnBad::Skip);
        crate::evaluate::check_views(&evaluation, views)?;
        if views.is_some() {
            held_out_loader = held_out_loader.viewing(crate::evaluate::views(&evaluation, views))?;
        }
        if !self.quiet {
            tracing::info!("{} images to train on, {} to evaluate on", loader.samples(), held_out_loader.samples());
        }
        Ok((loader, Some(held_out_loader)))
    }

    /// The run of a trainer in its folder, with all that watches it.
    ///
    /// # Errors
    /// When the flags cannot be written as YAML.
    pub fn session<'a>(
        &self,
        batches: &'a dyn Batches,
        folder: &'a RunFolder,
        signals: &Signals,
    ) -> Result<Session<'a>> {
        Ok(self.run.session(batches, folder, signals, yaml_serde::to_string(self)?))
    }
}

/// Several passes over the data in an epoch, each in an order of its own.
struct Repeated {
    once: Arc<dyn Sampler>,
    passes: usize,
}

impl Sampler for Repeated {
    fn len(&self) -> usize {
        self.once.len() * self.passes
    }

    fn order(&self, epoch: usize) -> Vec<candlelight_data::Pick> {
        let pass = |p: usize| {
            let order = self.once.order(epoch * self.passes + p);
            order.into_iter().map(move |pick| candlelight_data::Pick { repeat: p as u32, ..pick })
        };
        (0..self.passes).flat_map(pass).collect()
    }
}

#[cfg(test)]
mod tests;
