//! The training loop: batches in, updates out, and a run that can be stopped and continued anywhere.

use crate::batch;
use crate::checkpoint;
use crate::error::{Error, Result};
use crate::memory;
use crate::progress::{Line, Progress};
use crate::run_dir::RunDir;
use crate::signals::Signals;
use crate::task::{At, Batches, Moment, Task};
use crate::tensorboard::EventWriter;
use candle_core::{Device, Tensor};
use candlelight_autograd::{Gradients, Precision, Tape};
use candlelight_data::{Batch, Normalize, Pipeline};
use candlelight_models::weights;
use candlelight_optim::{Ema, Optimizer};
use candlelight_sched::WarmupCosine;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The settings every training has, whatever it trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Samples a step.
    pub batch_size: usize,
    /// Steps an update.
    pub accum_iter: usize,
    /// Rate over time.
    pub schedule: WarmupCosine,
    /// Of weights, masks, order and augmentation.
    pub seed: u64,
    /// Precision of the products: `f32` or `bf16`.
    pub precision: String,
    /// Largest gradient norm; `None` does not clip.
    pub clip_grad: Option<f64>,
    /// Stop after this many steps.
    pub max_steps: Option<usize>,
    /// Epochs between checkpoints.
    pub save_every: usize,
    /// Checkpoints kept.
    pub keep: usize,
    /// Updates with a loss that is not finite, in a row, that end the run.
    pub max_non_finite: usize,
}

impl Plan {
    fn check(&self) -> Result<()> {
        self.schedule.check()?;
        let positive =
            [("batch_size", self.batch_size), ("accum_iter", self.accum_iter), ("save_every", self.save_every)];
        if let Some((name, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Err(Error::Config(format!("{name} is 0, expected at least 1")));
        }
        if let Some(c) = self.clip_grad
            && (c.is_nan() || c <= 0.0)
        {
            return Err(Error::Config(format!("clip_grad is {c}, expected more than 0")));
        }
        Ok(())
    }
}

/// The best report so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After this many epochs.
    pub epochs: usize,
    /// Its score.
    pub score: f64,
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
    /// The best report so far.
    #[serde(default)]
    best: Option<Best>,
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
        let &mut Position { epoch, updates, skipped, bad_in_a_row, best, .. } = self;
        *self = Position { epoch: epoch + 1, updates, skipped, bad_in_a_row, best, ..Default::default() };
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record<C> {
    plan: Plan,
    config: C,
    position: Position,
    classes: Vec<String>,
    evaluation: Option<Pipeline>,
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

/// A task, its optimizer and its position: all a run needs.
pub struct Trainer<T: Task> {
    task: T,
    plan: Plan,
    precision: Precision,
    device: Device,
    optimizer: Box<dyn Optimizer>,
    ema: Option<Ema>,
    grads: Gradients,
    position: Position,
    classes: Vec<String>,
}

impl<T: Task> std::fmt::Debug for Trainer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at epoch {}, step {}", T::KIND, self.position.epoch, self.position.step)
    }
}

impl<T: Task> Trainer<T> {
    /// The task at its start. What trains is decided: freeze before.
    ///
    /// # Errors
    /// When a setting does not make sense.
    pub fn new(plan: Plan, task: T) -> Result<Self> {
        plan.check()?;
        let precision = plan.precision.parse().map_err(candlelight_autograd::Error::from)?;
        if task.params().count().1 == 0 {
            return Err(Error::Config("every parameter is frozen: nothing would train".into()));
        }
        Ok(Trainer {
            precision,
            device: task.params().device(),
            optimizer: task.optimizer()?,
            ema: task.ema()?,
            grads: Gradients::new(task.params()),
            position: Position::default(),
            classes: vec![],
            plan,
            task,
        })
    }

    /// The task.
    pub fn task(&self) -> &T {
        &self.task
    }

    /// The task, to evaluate with.
    pub fn task_mut(&mut self) -> &mut T {
        &mut self.task
    }

    /// The averaged weights.
    pub fn ema(&self) -> Option<&Ema> {
        self.ema.as_ref()
    }

    /// The best report so far.
    pub fn best(&self) -> Option<Best> {
        self.position.best
    }

    /// Takes over a checkpoint's weights, optimizer, average and position.
    ///
    /// # Errors
    /// When it is of another model, damaged, or not ours.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let c: checkpoint::Checkpoint<Record<T::Config>> = checkpoint::load(path, T::KIND)?;
        self.take(path, &c)
    }

    fn take(&mut self, path: &Path, c: &checkpoint::Checkpoint<Record<T::Config>>) -> Result<()> {
        let fail = |message: String| Err(crate::error::file(path, message));
        if !self.task.same_model(&c.record.config) {
            return fail(format!("a checkpoint of another model: {:?}", c.record.config));
        }
        let same = Plan { max_steps: self.plan.max_steps, ..c.record.plan.clone() };
        if same != self.plan || c.record.config != *self.task.config() {
            tracing::warn!("the configuration differs from the checkpoint's: the result will not be that of one run");
        }
        let updates = c.record.position.updates;
        let optim = c.below("optim.");
        if optim.is_empty() && updates > 0 {
            return fail(
                "weights without an optimizer's state: a run is continued from a checkpoint-*.safetensors".into(),
            );
        }
        weights::load(self.task.params(), &c.below("model."), true)?;
        self.optimizer.load_state(&optim.into_iter().collect(), updates)?;
        if let Some(ema) = &mut self.ema {
            let saved = c.below("ema.");
            if saved.is_empty() {
                return fail("no averaged weights: it was trained without an EMA".into());
            }
            ema.load_state(&saved.into_iter().collect(), updates)?;
        }
        self.position = c.record.position.clone();
        self.classes = c.record.classes.clone();
        Ok(())
    }

    fn tensors(&self, optimizer: bool) -> Result<Vec<(String, Tensor)>> {
        let mut out = vec![];
        let mut add = |prefix: &str, v: Vec<(String, Tensor)>| {
            out.extend(v.into_iter().map(|(n, t)| (format!("{prefix}.{n}"), t)));
        };
        add("model", self.task.params().state_dict());
        if optimizer {
            add("optim", self.optimizer.state()?);
        }
        if let Some(ema) = &self.ema {
            add("ema", ema.state());
        }
        Ok(out)
    }

    fn record(&self) -> Record<T::Config> {
        Record {
            plan: self.plan.clone(),
            config: self.task.config().clone(),
            position: self.position.clone(),
            classes: self.classes.clone(),
            evaluation: self.task.evaluation(),
        }
    }

    /// Writes a checkpoint of the present position and prunes old ones.
    fn save(&self, dir: &Path, steps_per_epoch: usize) -> Result<PathBuf> {
        let path = checkpoint::path(dir, self.position.epoch * steps_per_epoch + self.position.step);
        checkpoint::save(&path, T::KIND, &self.record(), &self.tensors(true)?)?;
        checkpoint::prune(dir, self.plan.keep, &path)?;
        Ok(path)
    }

    /// Writes the weights, without the optimizer's state, as the best so far.
    fn save_best(&self, dir: &Path) -> Result<()> {
        checkpoint::save(&checkpoint::best(dir), T::KIND, &self.record(), &self.tensors(false)?)
    }

    /// Forward and backward of one batch; the gradients are added up. Returns the loss.
    fn accumulate(&mut self, mut batch: Batch, normalize: &Normalize) -> Result<f32> {
        let images = batch::images(&mut batch, normalize, &self.device)?;
        let at = At { epoch: self.position.epoch, step: self.position.step };
        let tape = Tape::new(self.task.params()).with_precision(self.precision);
        let loss = self.task.loss(&tape, &images, &batch, self.plan.seed, at)?;
        let value = loss.scalar()?;
        if value.is_finite() {
            tape.backward_scaled(&loss, 1.0 / self.plan.accum_iter as f32, &mut self.grads)?;
        }
        Ok(value)
    }

    /// One update from the accumulated gradients; false when they are not finite.
    fn update(&mut self, lr: f64) -> Result<bool> {
        // A finite loss can still have a gradient that is not; one such update would ruin every weight.
        if !self.grads.clip_norm(self.plan.clip_grad.unwrap_or(f64::INFINITY))?.is_finite() {
            return Ok(false);
        }
        self.optimizer.step(&self.grads, lr)?;
        if let Some(ema) = &mut self.ema {
            ema.update(self.task.params())?;
        }
        self.position.updates += 1;
        self.position.bad_in_a_row = 0;
        Ok(true)
    }

    /// Continues from where `resume` says, and checks that the data still fits. Returns the steps of the whole run.
    fn start(&mut self, data: &dyn Batches, dir: &Path, resume: &Resume) -> Result<usize> {
        match resume {
            Resume::No => {}
            Resume::From(path) => self.resume(path)?,
            Resume::Auto => match checkpoint::newest(dir, T::KIND) {
                Some((path, c)) => {
                    tracing::info!("resuming from {}", path.display());
                    self.take(&path, &c)?;
                }
                None if checkpoint::list(dir).is_empty() => {
                    tracing::info!("nothing to resume in {}: a new run", dir.display());
                }
                // A new run would overwrite and prune what lies there.
                None => {
                    return Err(crate::error::file(
                        dir,
                        "holds checkpoints, but none that this program can continue: name another --output_dir",
                    ));
                }
            },
        }
        if !self.classes.is_empty() && !data.classes().is_empty() && self.classes != data.classes() {
            return Err(Error::Config("the checkpoint was trained on other classes than the data has".into()));
        }
        if self.position.best.is_some() && !checkpoint::best(dir).exists() {
            // Continued in another folder: the best weights stayed behind, so the best of this folder is found anew.
            self.position.best = None;
        }
        let (c, steps, at) = (&self.plan, data.steps(), self.position.step);
        if at > steps || (at < steps && at % c.accum_iter != 0) {
            return Err(Error::Config(format!(
                "the checkpoint lies at step {at} of its epoch, but an epoch now has {steps} steps in updates of {}: resume \
                 with the batch size, accumulation and data it was made with",
                c.accum_iter
            )));
        }
        if steps < c.accum_iter {
            let batch = c.batch_size * c.accum_iter;
            let n = data.samples();
            return Err(Error::Config(format!("batch_size x accum_iter = {batch} is larger than the data set of {n}")));
        }
        self.task.check(data)?;
        if self.device.is_cpu()
            && let Some(needed) = self.task.memory(c.batch_size)
        {
            memory::check(needed, memory::available())?;
        }
        let total = (c.schedule.epochs as usize * steps).min(c.max_steps.unwrap_or(usize::MAX));
        let done = self.position.epoch * steps + at;
        // At the end of an epoch whose report is still to be made there is something left.
        if done >= total && at < steps {
            return Err(Error::Config(format!(
                "nothing left to train: the run is at step {done} of {total}; raise --epochs"
            )));
        }
        self.classes = data.classes().to_vec();
        Ok(total)
    }

    /// Trains until the end, `max_steps` or a signal.
    ///
    /// # Errors
    /// When data, disk or numbers fail; where the disk is not what failed, the run is saved at its last update first.
    pub fn run(
        &mut self,
        data: &dyn Batches,
        run: &RunDir,
        signals: &Signals,
        resume: &Resume,
        log_dir: &Path,
    ) -> Result<Outcome> {
        let (dir, steps) = (run.path(), data.steps());
        let total = self.start(data, dir, resume)?;
        let c = self.plan.clone();
        let done = |p: &Position| p.epoch * steps + p.step;
        run.cut_log(self.position.epoch)?;
        let mut events = EventWriter::create(log_dir)?;
        let mut progress = Progress::new(done(&self.position), total, c.batch_size);
        let mut last = (f64::NAN, checkpoint::path(dir, done(&self.position)));

        while self.position.epoch < c.schedule.epochs as usize
            && (done(&self.position) < total || self.position.step == steps)
        {
            let epoch = self.position.epoch;
            let mut lr = 0.0;
            let mut finite = true;
            let mut updated = self.position.clone();
            self.grads.zero();
            for batch in data.epoch(epoch, self.position.step) {
                let at = epoch as f64 + self.position.step as f64 / steps as f64;
                if self.position.step % c.accum_iter == 0 {
                    lr = c.schedule.at(at);
                }
                let loss = match batch.map_err(Error::from).and_then(|b| self.accumulate(b, data.normalize())) {
                    Ok(loss) => loss,
                    Err(e) => {
                        // Nothing is lost: the weights are those of the last update, and so is the position saved.
                        self.position = updated;
                        let saved = self.save(dir, steps)?;
                        progress.quiet(|| tracing::error!("a batch failed; saved {}", saved.display()));
                        return Err(e);
                    }
                };
                finite &= loss.is_finite();
                self.position.add(loss, lr);
                self.position.step += 1;
                let boundary = self.position.step % c.accum_iter == 0;
                if boundary {
                    if !(finite && self.update(lr)?) {
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
                    events.scalar(T::LOSS, x, loss)?;
                    events.scalar("lr", x, lr as f32)?;
                }
                let (epochs, done) = (c.schedule.epochs as usize, done(&self.position));
                let line = Line { epoch, epochs, done, loss, lr, stats: data.stats() };
                progress.step(&line, self.position.step == steps);
                // At the end of an epoch its report comes first.
                let inside = boundary && self.position.step < steps && done < total;
                if let (Some(signal), true) = (signals.caught(), inside) {
                    let checkpoint = self.save(dir, steps)?;
                    return Ok(Outcome::Interrupted { signal, checkpoint });
                }
                if done >= total && boundary {
                    break;
                }
            }
            let (loss, lr) = self.position.means();
            last.0 = loss;
            let whole = self.position.step == steps;
            let before = self.position.clone();
            if whole {
                self.position.next_epoch();
            }
            let finished = done(&self.position) >= total || self.position.epoch >= c.schedule.epochs as usize;
            let epochs = self.position.epoch;
            let mut now = Moment { epochs, whole, finished, dir, events: &mut events, ema: self.ema.as_ref() };
            let found = match progress.quiet(|| self.task.report(&mut now)) {
                Ok(found) => found,
                Err(e) => {
                    // Resumed, the run makes this report again.
                    self.position = before;
                    let saved = self.save(dir, steps)?;
                    progress.quiet(|| tracing::error!("the report failed; saved {}", saved.display()));
                    return Err(e);
                }
            };
            // A report inside an epoch is not one that the uninterrupted run would have made.
            if let (Some(score), true) = (found.score, whole)
                && self.position.best.is_none_or(|b| score > b.score)
            {
                // Before the checkpoint that knows of it: killed in between, the run finds the same best again.
                self.position.best = Some(Best { epochs, score });
                self.save_best(dir)?;
            }
            if whole {
                let mut line = serde_json::Map::new();
                line.insert("train_lr".into(), lr.into());
                line.insert("train_loss".into(), loss.into());
                let (before, after): (Vec<_>, Vec<_>) =
                    found.log.into_iter().partition(|(name, _)| *name != "n_parameters");
                line.extend(before.into_iter().map(|(n, v)| (n.into(), v)));
                line.insert("epoch".into(), epoch.into());
                line.extend(after.into_iter().map(|(n, v)| (n.into(), v)));
                run.log(&line.into())?;
            }
            if finished || (epochs % c.save_every == 0 && whole) {
                last.1 = self.save(dir, steps)?;
            }
            events.flush()?;
            if let (Some(signal), false) = (signals.caught(), finished) {
                let checkpoint = self.save(dir, steps)?;
                return Ok(Outcome::Interrupted { signal, checkpoint });
            }
        }
        Ok(Outcome::Finished { loss: last.0, checkpoint: last.1 })
    }
}

/// A checkpoint's configuration and parameters.
pub(crate) struct Saved<C> {
    pub(crate) config: C,
    pub(crate) tensors: Vec<(String, Tensor)>,
}

/// What a checkpoint of task `T` trained.
pub(crate) fn read<T: Task>(path: &Path) -> Result<Saved<T::Config>> {
    let c: checkpoint::Checkpoint<Record<T::Config>> = checkpoint::load(path, T::KIND)?;
    let tensors = c.below("model.");
    Ok(Saved { config: c.record.config, tensors })
}
