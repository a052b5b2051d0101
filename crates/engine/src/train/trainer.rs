//! A task with its optimizer: one step after another, and what is saved of it.

use crate::batch;
use crate::error::{Error, Result};
use crate::position::{Best, Position};
use crate::task::{At, Part, Task};
use crate::train::Checked;
use crate::train::update::clip;
use candle_core::{Device, Tensor};
use candlelight_autograd::{Gradients, STATISTICS, Tape, Value};
use candlelight_data::{Batch, Normalize};
use candlelight_optim::{Ema, Optimizer};
use candlelight_sched::ScheduleConfig;
use candlelight_store::Saver;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The epoch, counted from 0.
    pub epoch: usize,
    /// The number of steps done in it.
    pub step: usize,
    /// The loss of the batch.
    pub loss: f32,
    /// The learning rate of the update that the batch belongs to.
    pub lr: f64,
    /// The numbers of the batch's samples.
    pub samples: Vec<usize>,
    /// Whether an update ends with this step; with accumulation only every so many steps do that.
    pub boundary: bool,
    /// The norm of the update's gradients before they were clipped, where one was made or its gradients were not finite.
    pub norm: Option<f64>,
    /// The update that was not made because numbers were not finite.
    pub skipped: Option<Skipped>,
}

/// An update that was not made.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipped {
    /// The loss of its last batch; not a number where that had none.
    pub loss: f32,
    /// The numbers of the samples in its batches.
    pub samples: Vec<usize>,
    /// How many updates in a row were not made, this one included.
    pub in_a_row: usize,
    /// Where the loss was finite, but a spike: how many standard deviations above the last ones it was.
    pub spike: Option<f64>,
    /// The epoch, the first step of the update, and the step after its last.
    pub steps: (usize, usize, usize),
}

/// The batches of one update.
pub(super) struct Window {
    /// The number of batches since the last update.
    pub(super) pending: usize,
    /// Whether all of their losses were finite.
    pub(super) finite: bool,
    /// The learning rate of the update.
    pub(super) lr: f64,
    /// The samples of the batches.
    pub(super) samples: Vec<usize>,
    /// The spike among their losses.
    pub(super) spike: Option<f64>,
    /// The position after the last update.
    pub(super) updated: Position,
    /// The running statistics at that position, which forward passes move, once there was one.
    pub(super) statistics: Option<Vec<(String, Tensor)>>,
    /// Whether the update was made, where a device decided that.
    pub(super) made: Option<bool>,
}

impl Window {
    fn new(position: &Position) -> Self {
        let updated = position.clone();
        Window {
            pending: 0,
            finite: true,
            lr: 0.0,
            samples: vec![],
            spike: None,
            updated,
            statistics: None,
            made: None,
        }
    }
}

/// What changes the parameters of one part of a task.
pub(super) struct Learner {
    pub(super) optimizer: Optimizer,
    pub(super) grads: Gradients,
}

/// A task with its optimizers and its position in the run.
pub struct Trainer<T: Task> {
    pub(super) task: T,
    pub(super) plan: Checked,
    pub(super) device: Device,
    /// The optimizer and the gradients of each part of the task.
    pub(super) learners: Vec<Learner>,
    pub(super) ema: Option<Ema>,
    pub(super) position: Position,
    pub(super) classes: Vec<String>,
    pub(super) window: Window,
    /// The steps of an epoch, as the last call said.
    steps: usize,
    /// The norm of the gradients of the last update.
    pub(super) norm: Option<f64>,
    /// The save that reads weights and state while the next forward and backward pass run.
    pub(super) saver: Saver<PathBuf>,
    /// What came of a save that an update had to wait for.
    pub(super) saved: Option<candlelight_store::Result<PathBuf>>,
    /// How long training has stood still for the save.
    pub(super) stood: Duration,
}

impl<T: Task> std::fmt::Debug for Trainer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at epoch {}, step {}", T::KIND, self.position.epoch, self.position.step)
    }
}

/// The optimizer and the gradients of each part of a task.
fn learners<T: Task>(task: &T) -> Result<Vec<Learner>> {
    let learner =
        |(i, p): (usize, &Part)| Ok(Learner { optimizer: task.part_optimizer(i)?, grads: Gradients::new(p.params) });
    task.parts().iter().enumerate().map(learner).collect()
}

impl<T: Task> Trainer<T> {
    /// A trainer at the start of a run. Parameters must be frozen before this call, because the optimizer takes those that train now.
    ///
    /// # Errors
    /// When every parameter is frozen, or a setting is out of range.
    pub fn new(plan: Checked, task: T) -> Result<Self> {
        let parts = task.parts();
        if parts.iter().any(|p| p.params.count().1 == 0) {
            return Err(Error::Config("every parameter is frozen: nothing would train".into()));
        }
        if parts.len() > 1 && plan.accum_iter > 1 {
            let n = parts.len();
            return Err(Error::Config(format!(
                "accum_iter: a task of {n} parts updates each of them in every step; set it to 1"
            )));
        }
        if parts.len() > 1 && plan.spike.is_some() {
            return Err(Error::Config(
                "spike: the losses of a task of several parts are not compared; leave it out".into(),
            ));
        }
        if parts.len() > 1 && plan.loss_scale.is_some() {
            return Err(Error::Config(
                "loss_scale: the losses of a task of several parts are not scaled; leave it out".into(),
            ));
        }
        let learners = learners(&task)?;
        let mut position = Position::default();
        position.scaler = plan.loss_scale.map(|s| s.start());
        Ok(Trainer {
            device: task.params().device(),
            learners,
            ema: task.ema()?,
            window: Window::new(&position),
            steps: usize::MAX,
            norm: None,
            position,
            classes: vec![],
            saver: Saver::default(),
            saved: None,
            stood: Duration::ZERO,
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

    /// The best report of the weights themselves, where [`Trainer::best`] is that of their average.
    pub fn best_raw(&self) -> Option<Best> {
        self.position.best_raw
    }

    /// The reports whose models are kept in the folder `history`, the best first.
    pub fn history(&self) -> &[Best] {
        &self.position.history
    }

    /// The device that the model is on.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Makes one step: forward, backward and, where the batch is the last of an update, the update. An epoch has `steps` steps; a batch
    /// that carries a later step than the next one says that those between have no batch. `normalize` turns bytes into values.
    ///
    /// A loss or gradients that are not finite change no weight; the report says so.
    ///
    /// # Errors
    /// When the batch does not fit the model. The position is then that of the last update.
    pub fn step(&mut self, batch: Batch, normalize: &Normalize, steps: usize) -> Result<StepReport> {
        self.step_with(batch, None, normalize, steps, || {})
    }

    /// [`Trainer::step`] with images that have already gone to the device, if they have. `meanwhile` is called when the device has its work, before
    /// the host waits for it; not where a step fails.
    pub(super) fn step_with(
        &mut self,
        batch: Batch,
        images: Option<Result<Tensor>>,
        normalize: &Normalize,
        steps: usize,
        meanwhile: impl FnOnce(),
    ) -> Result<StepReport> {
        self.steps = steps;
        let mut skipped = self.pass(batch.step.min(steps.saturating_sub(1)))?;
        let (epoch, accum) = (self.position.epoch, self.plan.accum_iter);
        if self.position.step % accum == 0 {
            let at = epoch as f64 + self.position.step as f64 / steps as f64;
            self.window.lr = self.plan.schedule.rate(at, &self.plan.length(steps), &self.position.plateau);
        }
        if self.window.statistics.is_none() {
            self.window.statistics = Some(self.statistics()?);
        }
        let samples = batch.indices.clone();
        self.window.samples.extend(&samples);
        self.norm = None;
        let loss = match self.accumulate(batch, images, normalize, meanwhile) {
            Ok(loss) => loss,
            Err(e) => {
                self.back();
                return Err(e.of_batch(samples.len()));
            }
        };
        let lr = self.window.lr;
        self.window.pending += 1;
        self.window.finite &= loss.is_finite() && self.window.spike.is_none();
        self.position.add(loss, lr);
        self.position.step += 1;
        let boundary = self.is_boundary(self.position.step);
        if boundary {
            skipped = self.boundary(loss)?.or(skipped);
        }
        if self.position.step == steps {
            self.last_step()?;
        }
        Ok(StepReport { epoch, step: self.position.step, loss, lr, samples, boundary, norm: self.norm, skipped })
    }

    /// Passes the rest of an epoch of so many steps, for which there are no batches.
    pub(super) fn pass_rest(&mut self, steps: usize) -> Result<Option<Skipped>> {
        self.steps = steps;
        let skipped = self.pass(steps)?;
        self.last_step()?;
        Ok(skipped)
    }

    /// Whether an update is made after so many steps of the epoch.
    fn is_boundary(&self, step: usize) -> bool {
        step % self.plan.accum_iter == 0 || (self.plan.remainder && step == self.steps)
    }

    /// The number of batches of the update that the next step belongs to.
    fn window_size(&self) -> usize {
        let accum = self.plan.accum_iter;
        let rest = self.steps % accum;
        if self.plan.remainder && self.position.step >= self.steps - rest { rest } else { accum }
    }

    /// Does what optimizers do after the last step of an epoch, before anything is saved or evaluated, so that a checkpoint of this
    /// position holds it.
    fn last_step(&mut self) -> Result<()> {
        if self.learners.iter().any(|l| l.optimizer.acts_at_epoch_end()) {
            // Batches whose update would be made in the next epoch are given up here, because the position is behind them now.
            self.begin();
            self.settle();
            self.learners.iter_mut().try_for_each(|l| l.optimizer.end_epoch())?;
        }
        Ok(())
    }

    /// Takes in the score of a report for a schedule with a memory; higher is better.
    pub(super) fn observe(&mut self, epochs: usize, score: f64) {
        let schedule = &self.plan.schedule;
        let metric = match schedule {
            ScheduleConfig::Plateau(p) if !p.maximise => -score,
            _ => score,
        };
        schedule.observe(epochs, metric, &mut self.position.plateau);
    }

    /// Takes in the score of a report for early stopping.
    pub(super) fn wait(&mut self, epochs: usize, score: Option<f64>) {
        if let (Some(rule), Some(score)) = (&self.plan.stopping, score) {
            self.position.patience.observe(rule, epochs, score);
        }
    }

    /// Whether early stopping ends the run where it stands.
    pub(super) fn is_over(&self) -> bool {
        let rule = self.plan.stopping.as_ref();
        rule.is_some_and(|rule| self.position.patience.is_over(rule, self.position.epoch))
    }

    /// Ends the epoch: the next step is the first of the next one.
    ///
    /// # Errors
    /// Those of [`Task::enter`].
    pub fn end_epoch(&mut self) -> Result<()> {
        self.position.next_epoch();
        self.begin();
        self.enter()
    }

    /// Enters the epoch of the position: where other parameters train than before, the optimizers start anew.
    pub(super) fn enter(&mut self) -> Result<()> {
        if self.position.epoch < self.plan.epochs && self.enter_as(self.position.epoch)? {
            self.position.anew_at = self.position.updates;
            self.begin();
        }
        Ok(())
    }

    /// Lets those parameters train that train in an epoch, with new optimizers where they are others than before.
    pub(super) fn enter_as(&mut self, epoch: usize) -> Result<bool> {
        let others = self.task.enter(epoch)?;
        if others {
            self.settle();
            self.learners = learners(&self.task)?;
        }
        Ok(others)
    }

    /// Forgets the batches since the last update: the weights are those of that update, so the position is that of it, too.
    pub(super) fn back(&mut self) {
        self.undo_statistics();
        self.position = self.window.updated.clone();
        self.begin();
    }

    /// Copies of the running statistics.
    fn statistics(&self) -> Result<Vec<(String, Tensor)>> {
        let all = self.state().into_iter().filter(|(n, _)| is_statistic(n));
        Ok(all.map(|(n, t)| Ok((n, t.copy()?))).collect::<candle_core::Result<_>>()?)
    }

    /// Takes the running statistics back to the last update: forward passes whose update is not made leave nothing behind, and a batch that
    /// is not finite does not ruin every later evaluation.
    pub(super) fn undo_statistics(&mut self) {
        for (name, value) in self.window.statistics.take().into_iter().flatten() {
            if let Err(e) = self.set(&name, &value) {
                tracing::warn!("{name} could not be taken back to the last update: {e}");
            }
        }
    }

    /// Begins a new update.
    pub(super) fn begin(&mut self) {
        self.learners.iter_mut().for_each(|l| l.grads.zero());
        self.window = Window { lr: self.window.lr, ..Window::new(&self.position) };
    }

    /// Runs the forward and the backward pass of one batch and adds its gradients to those of the update. Returns the loss.
    fn accumulate(
        &mut self,
        mut batch: Batch,
        images: Option<Result<Tensor>>,
        normalize: &Normalize,
        meanwhile: impl FnOnce(),
    ) -> Result<f32> {
        let images = images.unwrap_or_else(|| batch::images(&mut batch, normalize, &self.device))?;
        let at = At { epoch: self.position.epoch, step: self.position.step };
        if self.learners.len() > 1 {
            return self.parts(&images, &batch, at);
        }
        let tape = Tape::new(self.task.params()).with_precision(self.plan.precision);
        let loss = self.task.loss(&tape, &images, &batch, self.plan.seed, at)?;
        // A device gets the backward pass before the host waits for the loss: where that is not finite, the update is not made.
        let known = if self.device.is_cpu() { Some(self.see_loss(&loss)?) } else { None };
        if known.is_none_or(|v| v.is_finite() && self.window.spike.is_none()) {
            // Gradients are final with the last micro-batch, and never where the update will be skipped.
            let last = self.is_boundary(self.position.step + 1);
            let size = self.window_size() as f32;
            let scale = self.position.scaler.map_or(1.0, |s| s.scale as f32);
            let grads = &mut self.learners[0].grads;
            grads.accumulating(!(last && self.window.finite));
            tape.backward_scaled(&loss, scale / size, grads)?;
            let ahead = if last { self.update_ahead(loss.tensor())? } else { None };
            meanwhile();
            if let Some(ahead) = ahead {
                let value = self.see_loss(&loss)?;
                self.take_in(&ahead)?;
                return Ok(value);
            }
        }
        known.map_or_else(|| self.see_loss(&loss), Ok)
    }

    /// The value of a loss, for which the host waits, and whether it is a spike.
    fn see_loss(&mut self, loss: &Value) -> Result<f32> {
        let value = loss.scalar()?;
        if let Some(limit) = self.plan.spike
            && value.is_finite()
        {
            self.window.spike = self.position.spike(value, limit).or(self.window.spike);
        }
        Ok(value)
    }

    /// Updates the parts of a task one after the other, and returns the last loss. After one that is not finite, its part and those behind
    /// it are left as they are.
    fn parts(&mut self, images: &Tensor, batch: &Batch, at: At) -> Result<f32> {
        let (mut value, mut norms) = (f32::NAN, 0.0);
        for i in 0..self.learners.len() {
            let params = self.task.parts()[i].params.clone();
            let tape = Tape::new(&params).with_precision(self.plan.precision);
            let loss = self.task.part_loss(i, &tape, images, batch, self.plan.seed, at)?;
            value = loss.scalar()?;
            if !value.is_finite() {
                return Ok(value);
            }
            let Learner { grads, .. } = &mut self.learners[i];
            grads.zero();
            tape.backward(&loss, grads)?;
            let norm = clip(&self.plan, &self.task, &params, grads)?;
            norms += norm * norm;
            if !norm.is_finite() {
                self.window.finite = false;
                break;
            }
            self.settle();
            let Learner { optimizer, grads } = &mut self.learners[i];
            optimizer.update(grads, self.window.lr)?;
        }
        self.norm = Some(norms.sqrt());
        Ok(value)
    }

    /// All tensors of the model, under their names in checkpoints.
    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let of = |p: Part<'_>| p.params.state_dict().into_iter().map(move |(n, t)| (p.full(&n), t)).collect::<Vec<_>>();
        self.task.parts().into_iter().flat_map(of).collect()
    }

    /// Sets a tensor by its name in checkpoints.
    fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        let parts = self.task.parts();
        let of =
            |p: &Part<'_>| if p.name.is_empty() { Some(name) } else { name.strip_prefix(p.name)?.strip_prefix('.') };
        match parts.iter().find_map(|p| Some((p, of(p)?))) {
            Some((p, name)) => Ok(p.params.set(name, value)?),
            None => Err(Error::Config(format!("{name} is a tensor of no part"))),
        }
    }

    /// Passes the steps before `to` that have no batch. An update that one of them would have completed is made without it.
    pub(super) fn pass(&mut self, to: usize) -> Result<Option<Skipped>> {
        let mut skipped = None;
        while self.position.step < to {
            self.position.step += 1;
            if self.is_boundary(self.position.step) {
                skipped = self.boundary(f32::NAN)?.or(skipped);
            }
        }
        Ok(skipped)
    }

    /// Waits for the save in flight.
    pub(super) fn settle(&mut self) {
        let start = Instant::now();
        if let Some(result) = self.saver.wait() {
            self.saved = Some(result);
            self.stood += start.elapsed();
        }
    }
}

/// Whether a tensor is a running statistic, which forward passes move.
pub(super) fn is_statistic(name: &str) -> bool {
    STATISTICS.contains(&name.rsplit('.').next().unwrap_or(name))
}
