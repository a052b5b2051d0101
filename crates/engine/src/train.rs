//! The training loop: batches in, updates out, and a run that can be stopped and continued anywhere.

use crate::batch;
use crate::checkpoint;
use crate::error::{Error, Result};
use crate::memory;
pub use crate::plan::{Checked, Plan};
pub use crate::position::Best;
use crate::position::Position;
use crate::progress::{Line, Progress};
use crate::run_dir::RunDir;
use crate::signals::Signals;
use crate::task::{At, Batches, Moment, Task};
use crate::tensorboard::EventWriter;
use candle_core::{Device, Tensor};
use candlelight_autograd::{Gradients, Tape};
use candlelight_data::{Batch, Normalize, Pipeline};
use candlelight_models::weights;
use candlelight_optim::{Ema, Optimizer};
use candlelight_sched::Schedule;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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

/// A task, its optimizer and its position: all that a run needs.
pub struct Trainer<T: Task> {
    task: T,
    plan: Checked,
    device: Device,
    optimizer: Optimizer,
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
    pub fn new(plan: Checked, task: T) -> Result<Self> {
        if task.params().count().1 == 0 {
            return Err(Error::Config("every parameter is frozen: nothing would train".into()));
        }
        Ok(Trainer {
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
        if same != *self.plan || c.record.config != *self.task.config() {
            tracing::warn!("the configuration differs from the checkpoint's: the result will not be that of one run");
        }
        let updates = c.record.position.updates;
        let optim = c.below("optim.");
        let without = optim.is_empty();
        // Plain gradient descent has no state; what has one does not do without.
        match self.optimizer.load_state(&optim.into_iter().collect(), updates) {
            Err(_) if without => {
                return fail(
                    "weights without an optimizer's state: a run is continued from a checkpoint-*.safetensors".into(),
                );
            }
            loaded => loaded?,
        }
        weights::load(self.task.params(), &c.below("model."), true)?;
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
            plan: Plan::clone(&self.plan),
            config: self.task.config().clone(),
            position: self.position.clone(),
            classes: self.classes.clone(),
            evaluation: self.task.evaluation(),
        }
    }

    /// Writes a checkpoint of the present position and prunes old ones.
    fn save(&self, dir: &Path, steps_per_epoch: usize) -> Result<PathBuf> {
        let path = checkpoint::path(dir, self.position.done(steps_per_epoch));
        checkpoint::save(&path, T::KIND, &self.record(), &self.tensors(true)?)?;
        checkpoint::prune(dir, self.plan.keep, &path)?;
        Ok(path)
    }

    /// Writes the weights, without the optimizer's state, as the best so far.
    fn save_best(&self, dir: &Path) -> Result<()> {
        checkpoint::save(&checkpoint::best(dir), T::KIND, &self.record(), &self.tensors(false)?)
    }

    /// Forward and backward of one batch; the gradients are added up. `finite` says whether the losses of the update's earlier
    /// batches were. Returns the loss.
    fn accumulate(&mut self, mut batch: Batch, normalize: &Normalize, finite: bool) -> Result<f32> {
        let images = batch::images(&mut batch, normalize, &self.device)?;
        let at = At { epoch: self.position.epoch, step: self.position.step };
        let tape = Tape::new(self.task.params()).with_precision(self.plan.precision);
        let loss = self.task.loss(&tape, &images, &batch, self.plan.seed, at)?;
        let value = loss.scalar()?;
        if value.is_finite() {
            // Gradients are final with the last micro-batch, and never where the update will be skipped.
            let last = (self.position.step + 1) % self.plan.accum_iter == 0;
            self.grads.accumulating(!(last && finite));
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
        self.optimizer.update(&self.grads, lr)?;
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
                        "holds checkpoints, but none that this program can continue: name another output_dir",
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
        let total = (c.epochs * steps).min(c.max_steps.unwrap_or(usize::MAX));
        let done = self.position.done(steps);
        // At the end of an epoch whose report is still to be made there is something left.
        if done >= total && at < steps {
            return Err(Error::Config(format!(
                "nothing left to train: the run is at step {done} of {total}; raise epochs"
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
        let total = self.start(data, run.path(), resume)?;
        let (steps, epochs) = (data.steps(), self.plan.epochs);
        run.cut_log(self.position.epoch)?;
        let done = self.position.done(steps);
        let events = EventWriter::create(log_dir)?;
        let progress = Progress::new(done, total, self.plan.batch_size);
        let mut stage = Stage { data, run, signals, steps, total, events, progress };
        let mut last = (f64::NAN, checkpoint::path(run.path(), done));
        // An epoch that is done but not reported yet is gone through once more, without a step.
        while self.position.epoch < epochs && (self.position.done(steps) < total || self.position.step == steps) {
            if let Some(signal) = self.epoch(&mut stage)? {
                let checkpoint = self.save(run.path(), steps)?;
                return Ok(Outcome::Interrupted { signal, checkpoint });
            }
            last.0 = self.position.means().0;
            let (finished, saved) = self.close(&mut stage)?;
            last.1 = saved.unwrap_or(last.1);
            if let (Some(signal), false) = (signals.caught(), finished) {
                let checkpoint = self.save(run.path(), steps)?;
                return Ok(Outcome::Interrupted { signal, checkpoint });
            }
        }
        Ok(Outcome::Finished { loss: last.0, checkpoint: last.1 })
    }

    /// The steps of an epoch that are left. Returns the signal that ended it inside.
    fn epoch(&mut self, stage: &mut Stage<'_>) -> Result<Option<i32>> {
        let (epoch, steps, accum) = (self.position.epoch, stage.steps, self.plan.accum_iter);
        let at = |step: usize| epoch as f64 + step as f64 / steps as f64;
        let (mut lr, mut finite) = (0.0, true);
        let mut updated = self.position.clone();
        self.grads.zero();
        for batch in stage.data.epoch(epoch, self.position.step) {
            if self.position.step % accum == 0 {
                lr = self.plan.schedule.at(at(self.position.step), &self.plan.length(steps));
            }
            let loss = match batch.map_err(Error::from).and_then(|b| self.accumulate(b, stage.data.normalize(), finite))
            {
                Ok(loss) => loss,
                // Nothing is lost: the weights are those of the last update, and so is the position saved.
                Err(e) => return Err(self.failed(stage, "a batch", updated, e)?),
            };
            finite &= loss.is_finite();
            self.position.add(loss, lr);
            self.position.step += 1;
            let boundary = self.position.step % accum == 0;
            if boundary {
                if !(finite && self.update(lr)?) {
                    self.skip(stage, loss)?;
                }
                finite = true;
                self.grads.zero();
                updated = self.position.clone();
                let x = (at(self.position.step) * 1000.0) as i64;
                stage.events.scalar(T::LOSS, x, loss)?;
                stage.events.scalar("lr", x, lr as f32)?;
            }
            let (epochs, done) = (self.plan.epochs, self.position.done(steps));
            let line = Line { epoch, epochs, done, loss, lr, stats: stage.data.stats() };
            stage.progress.step(&line, self.position.step == steps);
            if boundary && done >= stage.total {
                break;
            }
            // At the end of an epoch its report comes first.
            if let (Some(signal), true) = (stage.signals.caught(), boundary && self.position.step < steps) {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }

    /// An update that was not done; too many of them end the run.
    fn skip(&mut self, stage: &Stage<'_>, loss: f32) -> Result<()> {
        self.position.skipped += 1;
        self.position.bad_in_a_row += 1;
        let Position { epoch, step, bad_in_a_row: count, .. } = self.position;
        stage.progress.quiet(|| tracing::warn!("loss {loss} at epoch {epoch} step {step}: update skipped"));
        if count >= self.plan.max_non_finite {
            let saved = self.save(stage.run.path(), stage.steps)?;
            return Err(Error::NonFinite { count, epoch, step, saved });
        }
        Ok(())
    }

    /// Saves the run where it stood before something failed; gives the error back.
    fn failed(&mut self, stage: &Stage<'_>, what: &str, before: Position, e: Error) -> Result<Error> {
        self.position = before;
        let saved = self.save(stage.run.path(), stage.steps)?;
        stage.progress.quiet(|| tracing::error!("{what} failed; saved {}", saved.display()));
        Ok(e)
    }

    /// What comes after the steps of an epoch: report, best weights, log, checkpoint. Returns whether the run is finished, and
    /// the checkpoint if one was due.
    fn close(&mut self, stage: &mut Stage<'_>) -> Result<(bool, Option<PathBuf>)> {
        let (dir, epoch) = (stage.run.path(), self.position.epoch);
        let (loss, lr) = self.position.means();
        let whole = self.position.step == stage.steps;
        let before = self.position.clone();
        if whole {
            self.position.next_epoch();
        }
        let epochs = self.position.epoch;
        let finished = self.position.done(stage.steps) >= stage.total || epochs >= self.plan.epochs;
        let ema = self.ema.as_ref();
        let mut now = Moment { epochs, whole, finished, dir, events: &mut stage.events, ema };
        let found = match stage.progress.quiet(|| self.task.report(&mut now)) {
            Ok(found) => found,
            // Resumed, the run makes this report again.
            Err(e) => return Err(self.failed(stage, "the report", before, e)?),
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
            line.extend(found.log.into_iter().map(|(n, v)| (n.into(), v)));
            line.insert("epoch".into(), epoch.into());
            line.extend(found.last.into_iter().map(|(n, v)| (n.into(), v)));
            stage.run.log(&line.into())?;
        }
        let due = finished || (epochs % self.plan.save_every == 0 && whole);
        let saved = due.then(|| self.save(dir, stage.steps)).transpose()?;
        stage.events.flush()?;
        Ok((finished, saved))
    }
}

/// What a run goes on in.
struct Stage<'a> {
    data: &'a dyn Batches,
    run: &'a RunDir,
    signals: &'a Signals,
    /// Steps an epoch.
    steps: usize,
    /// Steps of the whole run.
    total: usize,
    events: EventWriter,
    progress: Progress,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Classify;
    use crate::pretrain::Pretrain;

    #[test]
    fn what_trains_may_move_to_another_thread() {
        fn moves<T: Send>() {}
        moves::<Trainer<Pretrain>>();
        moves::<Trainer<Classify<candlelight_models::ModelConfig>>>();
        moves::<Batch>();
    }
}
