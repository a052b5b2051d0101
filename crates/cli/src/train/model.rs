//! The model of a run, its weights, and its teacher.

use super::adapters::AdapterFlags;
use super::defaults::{Defaults, fill};
use crate::weights::{self, Pretrained, located};
use crate::{Result, say};
use candle_core::Device;
use candlelight_autograd::{Key, ParamStore};
use candlelight_data::Normalize;
use candlelight_engine::checkpoint;
use candlelight_engine::classify::ClassifyConfig;
use candlelight_engine::teacher::{DistillConfig, Teacher};
use candlelight_engine::trained::{Trained, TrainedOptions};
use candlelight_models::posemb::Interpolation;
use candlelight_models::{Classifier, ModelConfig, freeze, peft, registry};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The flags on the model, with timm's names.
#[derive(Args, Debug, Clone, Default, Serialize)]
#[command(rename_all = "snake_case")]
pub struct ModelFlags {
    /// Name of the model [default: resnet101; timm-1.0: resnet50; demo: resnet20]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub model: Option<String>,
    /// Start from the ImageNet weights of the model from the HuggingFace hub
    #[arg(long, help_heading = "Model", conflicts_with = "initial_checkpoint")]
    pub pretrained: bool,
    /// Weights to start from: a file of timm, torchvision, HuggingFace or ours, or hf:OWNER/NAME
    #[arg(long, visible_aliases = ["pretrained_path", "weights"], value_name = "FILE", help_heading = "Model")]
    pub initial_checkpoint: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    /// How those weights are read.
    pub reading: Pretrained,
    /// Number of classes [default: that of the data]
    #[arg(long, visible_alias = "nb_classes", value_name = "N", help_heading = "Model")]
    pub num_classes: Option<usize>,
    /// Global pooling: avg, max, avgmax or catavgmax; of transformers token or avg [default: the model's]
    #[arg(long, value_name = "POOL", help_heading = "Model")]
    pub gp: Option<String>,
    /// Of YOLOv5's layers how many are taken, the new head included: 10, or 11 to keep the pooling pyramid of a detector [default: 10]
    #[arg(long, value_name = "LAYERS", help_heading = "Model")]
    pub cutoff: Option<usize>,
    /// Train only a part: head, layer4_fc, last(N) for the last N layers and the head, attn_only, attn_last(N), bitfit, norms, gradual(N) for one more layer every N epochs, freeze(...), or names separated by commas
    #[arg(long, value_name = "PART", help_heading = "Model")]
    pub trained: Option<freeze::Trained>,
    /// Compute what the frozen network before the head makes of the images once, and train the head on that; needs --trained head
    #[arg(long, help_heading = "Model")]
    pub cache_features: bool,
    /// Train all but the first N layers, or all but layers of these numbers or names, as YOLOv5's --freeze
    #[arg(long, value_name = "LAYERS", num_args = 1.., value_delimiter = ',', conflicts_with = "trained", action = clap::ArgAction::Set, help_heading = "Model")]
    #[serde(skip)]
    pub freeze: Option<Vec<String>>,
    /// Rate of dropout, in [0, 1) [default: 0]
    #[arg(long, value_name = "RATE", help_heading = "Model")]
    pub drop: Option<f32>,
    /// Rate of dropout on attention probabilities, in [0, 1), for transformers [default: 0]
    #[arg(long, visible_alias = "attention_dropout", value_name = "RATE", help_heading = "Model")]
    pub attn_drop: Option<f32>,
    /// Rate of stochastic depth, in [0, 1) [default: 0]
    #[arg(long, visible_alias = "drop_connect", value_name = "RATE", help_heading = "Model")]
    pub drop_path: Option<f32>,
    /// Rate of DropBlock, in [0, 1), for residual networks [default: 0]
    #[arg(long, value_name = "RATE", help_heading = "Model")]
    pub drop_block: Option<f32>,
    /// Share of a batch in the running statistics of batch normalisations [default: the model's]
    #[arg(long, value_name = "SHARE", help_heading = "Model")]
    pub bn_momentum: Option<f64>,
    /// Constant that batch normalisations add to variances [default: the model's]
    #[arg(long, value_name = "EPS", help_heading = "Model")]
    pub bn_eps: Option<f64>,
    /// Use TensorFlow's constants for both, unless they are given
    #[arg(long, help_heading = "Model")]
    pub bn_tf: bool,
    /// Give each split of --aug_splits batch normalisations of its own
    #[arg(long, help_heading = "Model")]
    pub split_bn: bool,
    #[command(flatten)]
    #[serde(flatten)]
    /// Adapters.
    pub adapters: AdapterFlags,
    /// Learn from this trained model too: a checkpoint of ours, or any file with --teacher_model
    #[arg(long, value_name = "FILE", help_heading = "Teacher")]
    pub teacher: Option<String>,
    /// Architecture of the teacher [default: the one its checkpoint names]
    #[arg(long, requires = "teacher", value_name = "NAME", help_heading = "Teacher")]
    pub teacher_model: Option<String>,
    /// Temperature of both logits [default: 4]
    #[arg(long, visible_alias = "kd_temperature", requires = "teacher", value_name = "T", help_heading = "Teacher")]
    pub distill_temperature: Option<f64>,
    /// Weight of the divergence from the teacher [default: 1, or 1 less --task_loss_weight]
    #[arg(long, requires = "teacher", value_name = "W", help_heading = "Teacher")]
    pub distill_loss_weight: Option<f64>,
    /// Weight of the loss of the labels [default: 1]
    #[arg(long, requires = "teacher", value_name = "W", help_heading = "Teacher")]
    pub task_loss_weight: Option<f64>,
}

impl ModelFlags {
    pub(super) fn fill(&mut self, d: &Defaults) {
        self.initial_checkpoint = self.initial_checkpoint.take().filter(|c| !c.is_empty());
        fill(&mut self.model, d.model.into());
        self.trained = self.trained.take().or(self.freeze.clone().map(freeze::Trained::Frozen));
    }

    /// The name of the model.
    pub fn name(&self) -> &str {
        self.model.as_deref().unwrap_or_default()
    }

    /// The model for images of so many channels and this size, where they are asked for, without its number of classes.
    ///
    /// # Errors
    /// When there is no such model, or it has no place for a setting.
    pub fn config(
        &self,
        (channels, size): (Option<usize>, Option<(usize, usize)>),
        splits: usize,
    ) -> Result<ModelConfig> {
        let name = self.name();
        let mut config = match self.narrowed()? {
            Some(config) => config,
            None => ModelConfig::named(name)?,
        };
        match (self.cutoff, &mut config) {
            (None, _) => {}
            (Some(n @ (10 | 11)), ModelConfig::Yolo(c)) => c.sppf = n == 11,
            (Some(n), ModelConfig::Yolo(_)) => return Err(format!("--cutoff {n}: expected 10 or 11 layers").into()),
            (Some(_), _) => return Err(format!("--cutoff is for YOLOv5's classifiers, not for {name}").into()),
        }
        let architecture = config.architecture_mut();
        if let Some(size) = size {
            architecture.set_image(size);
        }
        if self.split_bn {
            match architecture.batch_norm() {
                Some(norm) => norm.splits = splits,
                None => return Err(format!("--split_bn: {name} has no batch normalisation to split").into()),
            }
        }
        let settings = architecture.settings();
        let mut settings = settings.ok_or_else(|| format!("{name}: its configuration cannot be changed"))?;
        let (attn, path, block) = (self.attn_drop, self.drop_path, self.drop_block);
        for (flag, rate) in [("drop", self.drop), ("attn_drop", attn), ("drop_path", path), ("drop_block", block)] {
            if let Some(r) = rate.filter(|r| !(0.0..1.0).contains(r)) {
                return Err(format!("--{flag} {r}: expected a rate in [0, 1)").into());
            }
        }
        *settings.channels = channels.unwrap_or(*settings.channels);
        *settings.dropout = self.drop.unwrap_or(*settings.dropout);
        match (attn, &mut settings.attn_dropout) {
            (Some(rate), Some(dropout)) => **dropout = rate,
            (Some(rate), None) if rate > 0.0 => {
                return Err(format!("--attn_drop {rate}: {name} has no attention; transformers have").into());
            }
            _ => {}
        }
        match (path, &mut settings.drop_path) {
            (Some(rate), Some(path)) => **path = rate,
            (Some(rate), None) if rate > 0.0 => {
                return Err(format!("--drop_path {rate}: {name} has no stochastic depth").into());
            }
            _ => {}
        }
        match (block, &mut settings.drop_block) {
            (Some(rate), Some(block)) => **block = rate,
            (Some(rate), None) if rate > 0.0 => {
                return Err(format!("--drop_block {rate}: {name} has no DropBlock; residual networks have").into());
            }
            _ => {}
        }
        if let Some(pool) = &self.gp {
            settings.set_pool(pool).map_err(|e| format!("--gp: {e}"))?;
        }
        config.set_batch_norm(self.bn_tf, self.bn_momentum, self.bn_eps)?;
        Ok(config)
    }

    /// The network in the checkpoint to start from, where that is a pruned one: its layers have widths that no name stands for.
    fn narrowed(&self) -> Result<Option<ModelConfig>> {
        let Some(path) = self.initial_checkpoint.as_deref().map(Path::new).filter(|p| p.is_file()) else {
            return Ok(None);
        };
        let Some(said) = checkpoint::describe(path)?.filter(|d| d.kind == "classify") else { return Ok(None) };
        let config = serde_json::from_value::<ModelConfig>(said.model).ok();
        let config = config.filter(|c| c.architecture().is_narrowed());
        if config.is_some() {
            tracing::info!("the pruned network of {}, with the widths of its layers", path.display());
        }
        Ok(config)
    }

    /// The file of the weights to start from.
    ///
    /// # Errors
    /// When it is not there.
    pub fn weights(&self) -> Result<Option<PathBuf>> {
        match (&self.initial_checkpoint, self.pretrained) {
            (Some(name), _) => located(name).map(Some),
            (_, true) => match registry::published(self.name()) {
                Some(name) => located(&name).map(Some),
                None => {
                    let with: Vec<_> =
                        registry::list("*").into_iter().filter(|n| registry::published(n).is_some()).collect();
                    Err(format!(
                        "--pretrained: no published weights of {} are known; there are those of {}, and --initial_checkpoint FILE",
                        self.name(),
                        with.join(", ")
                    )
                    .into())
                }
            },
            _ => Ok(None),
        }
    }

    /// Builds the model, with its adapters where there are any, on `params`, and loads the weights to start from.
    ///
    /// # Errors
    /// When they are not the model's, or adapters are for layers that it does not have.
    pub fn build(
        &self,
        config: &mut ClassifyConfig<ModelConfig>,
        params: &ParamStore,
        key: Key,
    ) -> Result<Box<dyn Classifier>> {
        let net = match &mut config.peft {
            None => config.model.build(params.builder(key))?,
            Some(peft) => {
                let (net, layers) = config.model.build_with(peft, params, key)?;
                let shown = layers.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = if layers.len() > 3 { ", .." } else { "" };
                tracing::info!("{} layers get an adapter: {shown}{more}", layers.len());
                net
            }
        };
        if let Some(path) = self.weights()? {
            weights::load(&path, params, config.model.architecture(), Interpolation::Timm, &self.reading)?;
        } else if config.peft.is_some() {
            tracing::warn!(
                "adapters beside weights that were never trained: give --pretrained or --initial_checkpoint"
            );
        }
        if let Some(adapter) = self.adapters.begun()? {
            say(&adapter.notes);
            peft::load(params, &adapter)?;
        }
        Ok(net)
    }

    /// How a teacher counts; `None` without one.
    pub(super) fn distill(&self) -> Option<DistillConfig> {
        self.teacher.as_ref().map(|_| self.distillation())
    }

    /// How any teacher counts.
    pub(crate) fn distillation(&self) -> DistillConfig {
        let usual = DistillConfig::default();
        let weight = match (self.distill_loss_weight, self.task_loss_weight) {
            (Some(w), _) => w,
            (None, Some(task)) => 1.0 - task,
            (None, None) => usual.weight,
        };
        DistillConfig {
            temperature: self.distill_temperature.unwrap_or(4.0),
            weight,
            task_weight: self.task_loss_weight.unwrap_or(usual.task_weight),
        }
    }

    /// The teacher, for images of this size that are normalised by `given`.
    ///
    /// # Errors
    /// When its weights are not there, or not those of its model.
    pub fn teacher(&self, size: (usize, usize), given: &Normalize, device: &Device) -> Result<Option<Teacher>> {
        let Some(name) = &self.teacher else { return Ok(None) };
        let options = TrainedOptions {
            model: self.teacher_model.clone(),
            published: Some(name.clone()).filter(|n| n.starts_with("hf:")),
            size: Some(size),
            ..TrainedOptions::default()
        };
        let trained = Trained::load(&located(name)?, &options, device)
            .map_err(|e| e.to_string().replace("(--model)", "(--teacher_model)"))?;
        let (pipeline, notes) = trained.pipeline(&Default::default())?;
        say(&trained.notes.iter().chain(&notes).map(|n| format!("teacher: {n}")).collect::<Vec<_>>());
        Ok(Some(Teacher::new(trained.model, given, &pipeline.normalize)))
    }
}
