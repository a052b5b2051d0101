//! MAE pretraining as a task for the training loop.

use crate::batch;
use crate::error::{Error, Result};
use crate::picture::reconstructions;
use crate::task::{At, Findings, Image, Moment, Task};
use crate::train;
use candle_core::{Device, Tensor};
use candlelight_autograd::{Key, ParamStore, Tape, Value};
use candlelight_data::{Batch, Loader, Normalize, Pipeline};
use candlelight_models::{Mae, MaeConfig, Mask, weights};
use candlelight_optim::{AdamWConfig, Optimizer, mae_rules};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The settings of MAE pretraining.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// The model.
    pub model: MaeConfig,
    /// The share of patches that are removed, in (0, 1); 0.75 in the paper.
    pub mask_ratio: f64,
    /// The weight decay of matrices and tokens.
    pub weight_decay: f64,
    /// The number of epochs between pictures of reconstructions; 0 draws only the last.
    pub picture_every: usize,
}

/// MAE pretraining as a task.
#[derive(Debug)]
pub struct Pretrain {
    config: PretrainConfig,
    params: ParamStore,
    model: Mae,
    shown: Shown,
}

impl Pretrain {
    /// The task with a new model on `device`, whose weights are drawn from `seed`.
    ///
    /// # Errors
    /// When the configuration does not make sense.
    pub fn new(config: PretrainConfig, shown: Shown, seed: u64, device: &Device) -> Result<Self> {
        config.model.check()?;
        Mask::kept(config.model.grid().patches(), config.mask_ratio)?;
        let params = ParamStore::on(device);
        let model = Mae::init(&config.model, &params, Key::new(seed).child("init"))?;
        Ok(Pretrain { config, params, model, shown })
    }

    /// The model.
    pub fn model(&self) -> &Mae {
        &self.model
    }
}

impl Task for Pretrain {
    const KIND: &'static str = "mae_pretrain";
    const LOSS: &'static str = "train_loss";
    type Config = PretrainConfig;

    fn config(&self) -> &PretrainConfig {
        &self.config
    }

    fn same_model(&self, other: &PretrainConfig) -> bool {
        other.model == self.config.model
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn optimizer(&self) -> Result<Optimizer> {
        let adamw = AdamWConfig { betas: (0.9, 0.95), ..AdamWConfig::default() };
        Ok(Optimizer::new(adamw, &mae_rules(self.config.weight_decay), &self.params)?)
    }

    fn evaluation(&self) -> Option<Pipeline> {
        // What finetuning and probing take over: the statistics that the images were normalised by.
        Some(Pipeline::evaluation(self.config.model.image, self.shown.normalize.clone()))
    }

    fn memory(&self, batch: usize) -> Option<u64> {
        Some(self.config.model.memory(batch, self.config.mask_ratio, self.params.count().0))
    }

    fn loss(&self, tape: &Tape, images: &Tensor, batch: &Batch, seed: u64, at: At) -> Result<Value> {
        let key = Key::new(seed).child("mask").index(at.epoch as u64);
        let samples: Vec<u64> = batch.indices.iter().map(|&i| i as u64).collect();
        let mask = Mask::random(&key, &samples, self.config.model.grid().patches(), self.config.mask_ratio)?;
        Ok(self.model.forward(&tape.constant(images), &mask)?.0)
    }

    fn report(&mut self, now: &Moment<'_>) -> Result<Findings> {
        let every = self.config.picture_every;
        let mut found = Findings::default();
        if now.finished || (now.whole && every > 0 && now.epochs % every == 0) {
            let picture = reconstructions(&self.model, &self.shown.images, &self.shown.mask, &self.shown.normalize)?;
            let path = now.dir.join("reconstruction.png");
            // The picture is no reason to end a run.
            if let Err(e) = picture.save(&path) {
                tracing::warn!("the picture is not written: {e}");
            }
            found.images.push(Image { tag: "reconstruction", x: (now.epochs * 1000) as i64, picture });
        }
        Ok(found)
    }
}

/// The held-out images of the reconstruction picture and their fixed masks.
#[derive(Debug)]
pub struct Shown {
    /// The normalised images, (B, C, H, W).
    pub images: Tensor,
    /// The masks of the images.
    pub mask: Mask,
    /// The normalisation of the images, which the picture undoes.
    pub normalize: Normalize,
}

impl Shown {
    /// The first batch of a loader, under masks that stay the same from picture to picture.
    ///
    /// # Errors
    /// When nothing can be loaded.
    pub fn new(loader: &Loader, model: &MaeConfig, mask_ratio: f64, normalize: Normalize) -> Result<Self> {
        let Some(batch) = loader.epoch(0, 0).next() else {
            return Err(Error::Config("no held-out image to show".into()));
        };
        let mut batch = batch?;
        let n = batch.indices.len();
        let images = batch::images(&mut batch, &normalize, &Device::Cpu)?;
        let rows: Vec<u64> = (0..n as u64).collect();
        let mask = Mask::random(&Key::new(0).child("shown"), &rows, model.grid().patches(), mask_ratio)?;
        Ok(Shown { images, mask, normalize })
    }
}

/// Loads the model of a pretraining checkpoint with its parameters and its configuration, for drawing, exporting or finetuning.
///
/// # Errors
/// When the file is not such a checkpoint.
pub fn load_model(path: &Path) -> Result<(Mae, ParamStore, PretrainConfig)> {
    let train::Saved { config, tensors } = train::read::<Pretrain>(path)?;
    let params = ParamStore::new();
    let model = Mae::init(&config.model, &params, Key::new(0))?;
    weights::load(&params, &tensors, true)?;
    Ok((model, params, config))
}
