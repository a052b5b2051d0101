//! MAE pretraining, from data to checkpoint.

use crate::batch;
use crate::checkpoint;
use crate::error::{Error, Result};
use crate::memory;
use crate::picture::reconstructions;
use crate::progress::{Line, Progress};
use crate::run_dir::RunDir;
use crate::signals::Signals;
use crate::tensorboard::EventWriter;
use candle_core::{Device, Tensor};
use candlelight_autograd::{Gradients, Key, ParamStore, Precision, Tape};
use candlelight_data::{Batch, Loader, Normalize};
use candlelight_models::{Mae, MaeConfig, Mask, weights};
use candlelight_optim::{AdamW, AdamWConfig, Optimizer, mae_rules};
use candlelight_sched::WarmupCosine;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const KIND: &str = "mae_pretrain";

/// How to pretrain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// The model.
    pub model: MaeConfig,
    /// Share of patches removed.
    pub mask_ratio: f64,
    /// Samples a step.
    pub batch_size: usize,
    /// Steps an update.
    pub accum_iter: usize,
    /// Rate over time.
    pub schedule: WarmupCosine,
    /// Decay of matrices and tokens.
    pub weight_decay: f64,
    /// Of weights, masks, order and augmentation.
    pub seed: u64,
    /// Precision of the products: `f32` or `bf16`.
    pub precision: String,
    /// Largest gradient norm; `None` does not clip, as MAE does not.
    pub clip_grad: Option<f64>,
    /// Stop after this many steps.
    pub max_steps: Option<usize>,
    /// Epochs between checkpoints.
    pub save_every: usize,
    /// Checkpoints kept.
    pub keep: usize,
    /// Epochs between pictures.
    pub picture_every: usize,
    /// Updates with a loss that is not finite, in a row, that end the run.
    pub max_non_finite: usize,
}

/// Where a run is; all of it is in the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Position {
    epoch: usize,
    /// Steps of this epoch done.
    step: usize,
    updates: u64,
    /// Sums over this epoch's steps, as bits: text would round them.
    loss_bits: u64,
    lr_bits: u64,
    finite: usize,
    skipped: usize,
    /// Updates skipped since the last one that was done.
    #[serde(default)]
    bad_in_a_row: usize,
}

impl Position {
    fn add(&mut self, loss: f32, lr: f64) {
        if loss.is_finite() {
            self.loss_bits = (f64::from_bits(self.loss_bits) + f64::from(loss)).to_bits();
            self.lr_bits = (f64::from_bits(self.lr_bits) + lr).to_bits();
            self.finite += 1;
        }
    }

    fn means(&self) -> (f64, f64) {
        let n = self.finite.max(1) as f64;
        (f64::from_bits(self.loss_bits) / n, f64::from_bits(self.lr_bits) / n)
    }

    fn next_epoch(&mut self) {
        let &mut Position { epoch, updates, skipped, bad_in_a_row, .. } = self;
        *self = Position { epoch: epoch + 1, updates, skipped, bad_in_a_row, ..Default::default() };
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    config: PretrainConfig,
    position: Position,
    classes: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All epochs, or `max_steps`, are done.
    Finished {
        /// Mean loss of the last whole or partial epoch.
        loss: f64,
        /// The last checkpoint.
        checkpoint: PathBuf,
    },
    /// A signal came; the run was saved.
    Interrupted {
        /// Its number.
        signal: i32,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
}

/// Where to continue from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// A new run.
    No,
    /// The newest checkpoint of the run's folder that verifies; a new run if there is none.
    Auto,
    /// This file.
    From(PathBuf),
}

/// Model, optimizer and position: all a run needs.
pub struct Pretrain {
    config: PretrainConfig,
    precision: Precision,
    device: Device,
    params: ParamStore,
    model: Mae,
    optimizer: AdamW,
    grads: Gradients,
    position: Position,
    classes: Vec<String>,
}

impl std::fmt::Debug for Pretrain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pretrain(epoch {}, step {})", self.position.epoch, self.position.step)
    }
}

impl Pretrain {
    /// A fresh model and optimizer on `device`.
    ///
    /// # Errors
    /// When the configuration does not make sense.
    pub fn new(config: PretrainConfig, device: &Device) -> Result<Self> {
        config.schedule.check()?;
        config.model.check()?;
        Mask::kept(config.model.grid().patches(), config.mask_ratio)?;
        let positive =
            [("batch_size", config.batch_size), ("accum_iter", config.accum_iter), ("save_every", config.save_every)];
        if let Some((name, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Err(Error::Config(format!("{name} is 0, expected at least 1")));
        }
        let precision = config.precision.parse().map_err(candlelight_autograd::Error::from)?;
        let params = ParamStore::on(device);
        let model = Mae::init(&config.model, &params, Key::new(config.seed).child("init"))?;
        let adamw = AdamWConfig { betas: (0.9, 0.95), eps: 1e-8 };
        let optimizer = AdamW::new(adamw, &mae_rules(config.weight_decay), &params)?;
        let grads = Gradients::new(&params);
        Ok(Pretrain {
            precision,
            device: device.clone(),
            params,
            model,
            optimizer,
            grads,
            position: Position::default(),
            classes: vec![],
            config,
        })
    }

    /// The parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The model.
    pub fn model(&self) -> &Mae {
        &self.model
    }

    /// Takes over a checkpoint's weights, optimizer and position.
    ///
    /// # Errors
    /// When it is of another model, damaged, or not ours.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let c: checkpoint::Checkpoint<Record> = checkpoint::load(path, KIND)?;
        self.take(path, &c)
    }

    fn take(&mut self, path: &Path, c: &checkpoint::Checkpoint<Record>) -> Result<()> {
        if c.record.config.model != self.config.model {
            let message = format!("a checkpoint of another model: {:?}", c.record.config.model);
            return Err(crate::error::file(path, message));
        }
        let same = PretrainConfig { max_steps: self.config.max_steps, ..c.record.config.clone() };
        if same != self.config {
            tracing::warn!("the configuration differs from the checkpoint's: the result will not be that of one run");
        }
        weights::load(&self.params, &c.below("model."), true)?;
        self.optimizer.load_state(&c.below("optim.").into_iter().collect(), c.record.position.updates)?;
        self.position = c.record.position.clone();
        Ok(())
    }

    /// Writes a checkpoint of the present position and prunes old ones.
    ///
    /// # Errors
    /// When it cannot be written.
    fn save(&self, dir: &Path, steps_per_epoch: usize) -> Result<PathBuf> {
        let named =
            |prefix: &str, v: Vec<(String, Tensor)>| v.into_iter().map(|(n, t)| (format!("{prefix}.{n}"), t)).collect();
        let mut tensors: Vec<(String, Tensor)> = named("model", self.params.state_dict());
        tensors.extend(named("optim", self.optimizer.state()?) as Vec<_>);
        let record =
            Record { config: self.config.clone(), position: self.position.clone(), classes: self.classes.clone() };
        let path = checkpoint::path(dir, self.position.epoch * steps_per_epoch + self.position.step);
        checkpoint::save(&path, KIND, &record, &tensors)?;
        checkpoint::prune(dir, self.config.keep, &path)?;
        Ok(path)
    }

    /// Forward and backward of one batch; the gradients are added up. Returns the loss.
    fn accumulate(&mut self, mut batch: Batch, normalize: &Normalize) -> Result<f32> {
        let c = &self.config;
        let images = batch::images(&mut batch, normalize, &self.device)?;
        let key = Key::new(c.seed).child("mask").index(self.position.epoch as u64);
        let samples: Vec<u64> = batch.indices.iter().map(|&i| i as u64).collect();
        let mask = Mask::random(&key, &samples, c.model.grid().patches(), c.mask_ratio)?;
        let tape = Tape::new(&self.params).with_precision(self.precision);
        let (loss, _) = self.model.forward(&tape.constant(&images), &mask)?;
        let value = loss.scalar()?;
        if value.is_finite() {
            tape.backward_scaled(&loss, 1.0 / c.accum_iter as f32, &mut self.grads)?;
        }
        Ok(value)
    }

    /// Trains until the end, `max_steps` or a signal.
    ///
    /// # Errors
    /// When data, disk or numbers fail; where the disk is not what failed, the run is saved at its last update first.
    pub fn run(
        &mut self,
        loader: &Loader,
        run: &RunDir,
        shown: &Shown,
        signals: &Signals,
        resume: &Resume,
        log_dir: &Path,
    ) -> Result<Outcome> {
        let (dir, steps) = (run.path(), loader.steps());
        match resume {
            Resume::No => {}
            Resume::From(path) => self.resume(path)?,
            Resume::Auto => match checkpoint::newest(dir, KIND) {
                Some((path, c)) => {
                    tracing::info!("resuming from {}", path.display());
                    self.take(&path, &c)?;
                }
                None => tracing::info!("nothing to resume in {}: a new run", dir.display()),
            },
        }
        let c = self.config.clone();
        let at = self.position.step;
        if at > steps || (at < steps && at % c.accum_iter != 0) {
            return Err(Error::Config(format!(
                "the checkpoint lies at step {at} of its epoch, but an epoch now has {steps} steps in updates of {}: resume \
                 with the batch size, accumulation and data it was made with",
                c.accum_iter
            )));
        }
        self.classes = loader.classes().to_vec();
        if steps < c.accum_iter {
            let batch = c.batch_size * c.accum_iter;
            let n = loader.samples();
            return Err(Error::Config(format!("batch_size x accum_iter = {batch} is larger than the data set of {n}")));
        }
        if self.device.is_cpu() {
            let needed = memory::estimate(&c.model, c.batch_size, c.mask_ratio, self.params.count().0);
            memory::check(needed, memory::available())?;
        }
        let done = |p: &Position| p.epoch * steps + p.step;
        let total = (c.schedule.epochs as usize * steps).min(c.max_steps.unwrap_or(usize::MAX));
        if done(&self.position) >= total {
            let at = done(&self.position);
            return Err(Error::Config(format!(
                "nothing left to train: the run is at step {at} of {total}; raise --epochs"
            )));
        }
        run.cut_log(self.position.epoch)?;
        let mut events = EventWriter::create(log_dir)?;
        let mut progress = Progress::new(done(&self.position), total, c.batch_size);
        let mut last = (f64::NAN, checkpoint::path(dir, done(&self.position)));

        while self.position.epoch < c.schedule.epochs as usize && done(&self.position) < total {
            let epoch = self.position.epoch;
            let mut lr = 0.0;
            let mut finite = true;
            let mut updated = self.position.clone();
            self.grads.zero();
            for batch in loader.epoch(epoch, self.position.step) {
                let batch = match batch {
                    Ok(batch) => batch,
                    Err(e) => {
                        // Nothing is lost: the weights are those of the last update, and so is the position saved.
                        self.position = updated;
                        let saved = self.save(dir, steps)?;
                        progress.quiet(|| tracing::error!("the data failed; saved {}", saved.display()));
                        return Err(e.into());
                    }
                };
                let at = epoch as f64 + self.position.step as f64 / steps as f64;
                if self.position.step % c.accum_iter == 0 {
                    lr = c.schedule.at(at);
                }
                let loss = self.accumulate(batch, &loader.pipeline().normalize)?;
                finite &= loss.is_finite();
                self.position.add(loss, lr);
                self.position.step += 1;
                if self.position.step % c.accum_iter == 0 {
                    // A finite loss can still have a gradient that is not; one such update would ruin every weight.
                    if finite && self.grads.clip_norm(c.clip_grad.unwrap_or(f64::INFINITY))?.is_finite() {
                        self.optimizer.step(&self.grads, lr)?;
                        self.position.updates += 1;
                        self.position.bad_in_a_row = 0;
                    } else {
                        self.position.skipped += 1;
                        self.position.bad_in_a_row += 1;
                        let step = self.position.step;
                        progress.quiet(|| tracing::warn!("loss {loss} at epoch {epoch} step {step}: update skipped"));
                        if self.position.bad_in_a_row >= c.max_non_finite {
                            let saved = self.save(dir, steps)?;
                            return Err(Error::NonFinite { count: self.position.bad_in_a_row, epoch, step, saved });
                        }
                    }
                    finite = true;
                    self.grads.zero();
                    updated = self.position.clone();
                    let x = ((epoch as f64 + self.position.step as f64 / steps as f64) * 1000.0) as i64;
                    events.scalar("train_loss", x, loss)?;
                    events.scalar("lr", x, lr as f32)?;
                }
                let (epochs, done) = (c.schedule.epochs as usize, done(&self.position));
                let line = Line { epoch, epochs, done, loss, lr, stats: loader.stats() };
                progress.step(&line, self.position.step == steps);
                let boundary = self.position.step % c.accum_iter == 0;
                if let (Some(signal), true) = (signals.caught(), boundary) {
                    let checkpoint = self.save(dir, steps)?;
                    return Ok(Outcome::Interrupted { signal, checkpoint });
                }
                if done >= total && boundary {
                    break;
                }
            }
            let (loss, mean_lr) = self.position.means();
            last.0 = loss;
            if self.position.step == steps {
                run.log(&serde_json::json!({"train_lr": mean_lr, "train_loss": loss, "epoch": epoch}))?;
                self.position.next_epoch();
            }
            let finished = done(&self.position) >= total || self.position.epoch >= c.schedule.epochs as usize;
            if finished || (self.position.epoch % c.save_every == 0 && self.position.step == 0) {
                last.1 = self.save(dir, steps)?;
            }
            if finished
                || (c.picture_every > 0 && self.position.epoch % c.picture_every == 0 && self.position.step == 0)
            {
                let picture = reconstructions(&self.model, &shown.images, &shown.mask, &shown.normalize)?;
                picture.save(&dir.join("reconstruction.png"))?;
                let png = picture.png().map_err(|e| crate::error::file(dir, e))?;
                events.image(
                    "reconstruction",
                    (self.position.epoch * 1000) as i64,
                    picture.width,
                    picture.height,
                    &png,
                )?;
            }
            events.flush()?;
        }
        Ok(Outcome::Finished { loss: last.0, checkpoint: last.1 })
    }
}

/// The held-out images of the reconstruction picture and their fixed masks.
#[derive(Debug)]
pub struct Shown {
    /// (B, C, H, W), normalised.
    pub images: Tensor,
    /// Their masks.
    pub mask: Mask,
    /// To show pixels again.
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

/// A model and its configuration from a pretraining checkpoint, for drawing, exporting or finetuning.
///
/// # Errors
/// When the file is not such a checkpoint.
pub fn load_model(path: &Path) -> Result<(Mae, ParamStore, PretrainConfig)> {
    let c: checkpoint::Checkpoint<Record> = checkpoint::load(path, KIND)?;
    let params = ParamStore::new();
    let model = Mae::init(&c.record.config.model, &params, Key::new(0))?;
    weights::load(&params, &c.below("model."), true)?;
    Ok((model, params, c.record.config))
}
