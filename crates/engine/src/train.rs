//! The training loop. A run can be stopped at any step and continued later with the same bits.

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
    /// All epochs, or `max_steps` steps, are done.
    Finished {
        /// The mean loss of the last epoch, which may be a partial one.
        loss: f64,
        /// The last checkpoint.
        checkpoint: PathBuf,
    },
    /// A signal arrived, and the run was saved.
    Interrupted {
        /// The number of the signal.
        signal: i32,
        /// The checkpoint that was written.
        checkpoint: PathBuf,
    },
}

/// The checkpoint to continue from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// None: this is a new run.
    No,
    /// The newest checkpoint of the run's folder whose checksums are right; a new run if the folder has no checkpoint.
    Auto,
    /// This file.
    From(PathBuf),
}

/// A task with its optimizer and its position in the run.
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
    /// A trainer at the start of a run. Parameters must be frozen before this call, because the optimizer takes those that train now.
    ///
    /// # Errors
    /// When every parameter is frozen, or a setting is out of range.
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

    /// The averaged weights, if the task keeps them.
    pub fn ema(&self) -> Option<&Ema> {
        self.ema.as_ref()
    }

    /// The best report so far.
    pub fn best(&self) -> Option<Best> {
        self.position.best
    }

    /// Takes over the weights, the optimizer's state, the averaged weights and the position of a checkpoint.
    ///
    /// # Errors
    /// When the checkpoint holds another model, is damaged, or is not one of ours.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let c: checkpoint::Checkpoint<Record<T::Config>> = checkpoint::load(path, T::KIND)?;
        self.take(path, &c)
    }

    fn take(&mut self, path: &Path, c: &checkpoint::Checkpoint<Record<T::Config>>) -> Result<()> {
        let fail = |message: String| Err(crate::error::file(path, message));
        if !self.task.same_model(&c.record.config) {
            return fail(format!("a checkpoint of another model, with the configuration {:?}", c.record.config));
        }
        let same = Plan { max_steps: self.plan.max_steps, ..c.record.plan.clone() };
        if same != *self.plan || c.record.config != *self.task.config() {
            tracing::warn!(
                "the configuration differs from the checkpoint's: the result will differ from that of an uninterrupted run"
            );
        }
        let updates = c.record.position.updates;
        let optim = c.below("optim.");
        let without = optim.is_empty();
        // Gradient descent without momentum has no state, so a missing state is only an error where the optimizer needs one.
        match self.optimizer.load_state(&optim.into_iter().collect(), updates) {
            Err(_) if without => {
                return fail(
                    "weights without an optimizer's state, which a run needs: resume from a checkpoint-*.safetensors"
                        .into(),
                );
            }
            loaded => loaded?,
        }
        weights::load(self.task.params(), &c.below("model."), true)?;
        if let Some(ema) = &mut self.ema {
            let saved = c.below("ema.");
            if saved.is_empty() {
                return fail("no averaged weights: the checkpoint was trained without an EMA".into());
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

    /// Writes a checkpoint of the present position and removes old ones.
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

    /// Runs the forward and the backward pass of one batch and adds its gradients to those of the update. `finite` says whether the
    /// losses of the update's earlier batches were finite. Returns the loss.
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

    /// Updates the weights from the accumulated gradients. Returns false, and changes nothing, if the gradients are not finite.
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

    /// Continues from the checkpoint that `resume` names, and checks that the data still fits. Returns the steps of the whole run.
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
                    tracing::info!("nothing to resume in {}: this is a new run", dir.display());
                }
                // A new run would overwrite and remove the checkpoints in the folder.
                None => {
                    return Err(crate::error::file(
                        dir,
                        "holds checkpoints, but none that this program can continue: set another output_dir",
                    ));
                }
            },
        }
        if !self.classes.is_empty() && !data.classes().is_empty() && self.classes != data.classes() {
            return Err(Error::Config("the checkpoint was trained on other classes than the data has".into()));
        }
        if self.position.best.is_some() && !checkpoint::best(dir).exists() {
            // The run continues in another folder, where the file of the best weights is missing: find the best of this folder anew.
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
        // A run that stands at the end of an epoch still has the report of that epoch to make.
        if done >= total && at < steps {
            return Err(Error::Config(format!(
                "nothing left to train: the run is at step {done} of {total}; raise epochs"
            )));
        }
        self.classes = data.classes().to_vec();
        Ok(total)
    }

    /// Trains until the last epoch, `max_steps` or a signal.
    ///
    /// # Errors
    /// When data cannot be read, a file cannot be written, or too many updates are not finite. Unless writing itself fails, the run is saved
    /// at its last update first.
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
        // An epoch whose steps are done but whose report is missing enters the loop once more, for the report alone.
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

    /// Runs the remaining steps of an epoch. Returns the signal that stopped it before its end, if one did.
    fn epoch(&mut self, stage: &mut Stage<'_>) -> Result<Option<i32>> {
        let (epoch, steps, accum) = (self.position.epoch, stage.steps, self.plan.accum_iter);
        let at = |step: usize| epoch as f64 + step as f64 / steps as f64;
        let mut lr = 0.0;
        let mut window = Window { pending: 0, finite: true, updated: self.position.clone() };
        self.grads.zero();
        let mut came = 0;
        for batch in stage.data.epoch(epoch, self.position.step) {
            // A step whose samples were all left out has no batch: the batch says which step it is.
            let step = batch.as_ref().map_or(0, |b| b.step);
            self.pass(stage, step.min(steps.saturating_sub(1)), lr, &mut window)?;
            came += 1;
            if self.position.step % accum == 0 {
                lr = self.plan.schedule.at(at(self.position.step), &self.plan.length(steps));
            }
            let (finite, normalize) = (window.finite, stage.data.normalize());
            let loss = match batch.map_err(Error::from).and_then(|b| self.accumulate(b, normalize, finite)) {
                Ok(loss) => loss,
                // The weights are those of the last update, so the position saved with them is that of the last update too.
                Err(e) => return Err(self.failed(stage, "a batch", window.updated, e)?),
            };
            window.pending += 1;
            window.finite &= loss.is_finite();
            self.position.add(loss, lr);
            self.position.step += 1;
            let boundary = self.position.step % accum == 0;
            if boundary {
                self.boundary(stage, loss, lr, &mut window)?;
                let x = (at(self.position.step) * 1000.0) as i64;
                stage.events.scalar(T::LOSS, x, loss)?;
                stage.events.scalar("lr", x, lr as f32)?;
            }
            let (epochs, done) = (self.plan.epochs, self.position.done(steps));
            let line = Line { epoch, epochs, done, loss, lr, stats: stage.data.stats() };
            stage.progress.step(&line, self.position.step == steps);
            if boundary && done >= stage.total {
                return Ok(None);
            }
            // At the end of an epoch, the report is made before a signal stops the run.
            if let (Some(signal), true) = (stage.signals.caught(), boundary && self.position.step < steps) {
                return Ok(Some(signal));
            }
        }
        // A stream can end before the steps that it announced. The epoch is over then, for asking again would give nothing again.
        let have = self.position.step;
        if have < steps {
            if came == 0 && have == 0 {
                let e = format!(
                    "epoch {epoch} gave no batch, although {steps} were announced: no sample of the data can be read"
                );
                return Err(self.failed(stage, "the epoch", window.updated, Error::Config(e))?);
            }
            stage.progress.quiet(|| {
                tracing::warn!(
                    "epoch {epoch} ended after step {have} of {steps}: the data has fewer samples than it announced"
                );
            });
            self.pass(stage, steps, lr, &mut window)?;
        }
        Ok(None)
    }

    /// Passes the steps before `to` that have no batch. An update that one of them would have completed is made without it.
    fn pass(&mut self, stage: &Stage<'_>, to: usize, lr: f64, window: &mut Window) -> Result<()> {
        while self.position.step < to {
            self.position.step += 1;
            if self.position.step % self.plan.accum_iter == 0 {
                self.boundary(stage, f32::NAN, lr, window)?;
            }
        }
        Ok(())
    }

    /// Makes the update of the batches since the last one, unless there are none or a loss was not finite; `loss` is the last one.
    fn boundary(&mut self, stage: &Stage<'_>, loss: f32, lr: f64, window: &mut Window) -> Result<()> {
        if window.pending > 0 && !(window.finite && self.update(lr)?) {
            self.skip(stage, loss)?;
        }
        self.grads.zero();
        *window = Window { pending: 0, finite: true, updated: self.position.clone() };
        Ok(())
    }

    /// Counts an update that was skipped because numbers were not finite; too many in a row end the run.
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

    /// Saves the run at the position before something failed; returns the error.
    fn failed(&mut self, stage: &Stage<'_>, what: &str, before: Position, e: Error) -> Result<Error> {
        self.position = before;
        let saved = self.save(stage.run.path(), stage.steps)?;
        stage.progress.quiet(|| tracing::error!("{what} failed; saved {}", saved.display()));
        Ok(e)
    }

    /// Does what follows the steps of an epoch: report, best weights, log, checkpoint. Returns whether the run is finished, and the
    /// checkpoint if one was due.
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
            // The resumed run makes this report again.
            Err(e) => return Err(self.failed(stage, "the report", before, e)?),
        };
        // A report inside an epoch does not count for the best weights: the uninterrupted run would not have made it.
        if let (Some(score), true) = (found.score, whole)
            && self.position.best.is_none_or(|b| score > b.score)
        {
            // The best weights are saved before the checkpoint that records them: a run killed in between finds the same best again.
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

/// The batches of one update.
struct Window {
    /// The number of batches since the last update.
    pending: usize,
    /// Whether all of their losses were finite.
    finite: bool,
    /// The position after the last update.
    updated: Position,
}

/// What the parts of the loop need of their run.
struct Stage<'a> {
    data: &'a dyn Batches,
    run: &'a RunDir,
    signals: &'a Signals,
    /// The number of steps per epoch.
    steps: usize,
    /// The number of steps of the whole run.
    total: usize,
    events: EventWriter,
    progress: Progress,
}

/// The configuration and the parameters of a checkpoint.
pub(crate) struct Saved<C> {
    pub(crate) config: C,
    pub(crate) tensors: Vec<(String, Tensor)>,
}

/// Reads the configuration and the parameters from a checkpoint of task `T`.
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
