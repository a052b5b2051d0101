//! A run in a folder: epochs, reports, saves, signals.

use crate::batch;
use crate::checkpoint;
use crate::error::{Error, Result};
use crate::progress::{Line, Progress};
use crate::signals::Signals;
use crate::task::{Batches, Findings, Moment, Task};
use crate::train::observe::Observers;
use crate::train::state::Extent;
use crate::train::steps::StepLog;
use crate::train::{Events, NonFinite, Observer, Outcome, Resume, Skipped, StepReport, Trainer};
use candle_core::{Device, Tensor};
use candlelight_data::{Batch, Normalize, Pixels};
use candlelight_sched::ScheduleConfig;
use candlelight_store::{CheckpointFolder, RunFolder};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a failed save is left alone before the next attempt.
pub(super) const AGAIN: Duration = Duration::from_secs(30);

/// A run of a trainer over some data in a folder.
///
/// The run is saved before anything slow or doubtful happens, by a thread that reads weights and state while the next forward and backward
/// pass run; the next update waits for it. A checkpoint that is not whole never stands under its name.
pub struct Session<'a> {
    pub(super) data: &'a dyn Batches,
    pub(super) folder: &'a RunFolder,
    signals: Signals,
    resume: Resume,
    anew: Anew,
    events: Option<PathBuf>,
    observers: Observers<'a>,
    progress: bool,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a session in {}", self.folder.path().display())
    }
}

impl<'a> Session<'a> {
    /// A new run on `data` in `folder`. It shows nothing, and no signal stops it.
    pub fn new(data: &'a dyn Batches, folder: &'a RunFolder) -> Self {
        let (events, observers) = (None, Observers::default());
        Session {
            data,
            folder,
            signals: Signals::default(),
            resume: Resume::No,
            anew: Anew::default(),
            events,
            observers,
            progress: false,
        }
    }

    /// The checkpoint to continue from.
    #[must_use]
    pub fn resume(self, resume: Resume) -> Self {
        Session { resume, ..self }
    }

    /// Begins at this epoch, counted from 0, whatever the checkpoint says.
    #[must_use]
    pub fn start_epoch(mut self, epoch: usize) -> Self {
        self.anew.epoch = Some(epoch);
        self
    }

    /// Leaves out the optimizer's state of the checkpoint that the run continues from.
    #[must_use]
    pub fn new_optimizer(mut self) -> Self {
        self.anew.optimizer = true;
        self
    }

    /// The signals that stop the run or have it saved.
    #[must_use]
    pub fn signals(self, signals: &Signals) -> Self {
        Session { signals: signals.clone(), ..self }
    }

    /// Writes events for TensorBoard into a folder.
    #[must_use]
    pub fn events(self, dir: &Path) -> Self {
        Session { events: Some(dir.into()), ..self }
    }

    /// Adds one who sees the run go by.
    #[must_use]
    pub fn observe(mut self, observer: impl Observer + 'a) -> Self {
        self.observers.0.push(Box::new(observer));
        self
    }

    /// Shows the progress on standard error: a bar on a terminal, plain lines elsewhere.
    #[must_use]
    pub fn progress(self) -> Self {
        Session { progress: true, ..self }
    }

    /// Trains until the last epoch, `max_steps` or a signal.
    ///
    /// # Errors
    /// When data cannot be read, too many updates are not finite, or the run cannot be saved at its end. Before that a failed save is a
    /// warning, the older checkpoints stay, and it is tried again. After any other error the run is saved at its last update, if that can
    /// be done.
    pub fn run<T: Task>(mut self, trainer: &mut Trainer<T>) -> Result<Outcome> {
        self.folder.notes().iter().for_each(|n| tracing::warn!("{n}"));
        let start = trainer.start(self.data, self.folder, &self.resume, self.anew)?;
        if start.complete {
            return match start.from {
                Some(checkpoint) => Ok(Outcome::Complete { checkpoint }),
                None => Err(Error::Config("nothing to train: max_steps is 0".into())),
            };
        }
        if let Some(dir) = self.events.take() {
            self.observers.0.push(Box::new(Events::new(&dir, T::LOSS)));
        }
        let steps = self.data.steps();
        let done = trainer.position.done(steps);
        let about = serde_json::json!({
            "kind": T::KIND,
            "plan": *trainer.plan,
            "config": trainer.task.config(),
            "classes": self.data.classes(),
            "samples": self.data.samples(),
            "steps": steps,
            "total": start.total,
            "done": done,
        });
        let path = self.folder.path().join("steps.jsonl");
        let of = (done, steps, start.total);
        self.observers.0.push(Box::new(StepLog::new(path, about, of, trainer.plan.batch_size, self.data.stats())));
        let running = Running {
            extent: Extent { steps, samples: self.data.samples() },
            steps,
            total: start.total,
            progress: self.progress.then(|| Progress::new(done, start.total, trainer.plan.batch_size)),
            checkpoints: self.folder.checkpoints(),
            // A run that continues in its own folder stands where its checkpoint does.
            saved: start
                .from
                .filter(|p| p.parent() == Some(self.folder.path()) && !self.anew.any())
                .map(|p| (trainer.position.clone(), p)),
            in_flight: None,
            failed: None,
            lines: vec![],
            session: self,
            trainer,
        };
        running.run()
    }
}

/// What a run does not take over from the checkpoint that it continues from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Anew {
    /// The epoch that it begins at.
    pub(super) epoch: Option<usize>,
    /// Whether the optimizer's state starts anew.
    pub(super) optimizer: bool,
}

impl Anew {
    fn any(&self) -> bool {
        self.epoch.is_some() || self.optimizer
    }
}

/// A session under way.
pub(super) struct Running<'a, 't, T: Task> {
    pub(super) session: Session<'a>,
    pub(super) trainer: &'t mut Trainer<T>,
    pub(super) extent: Extent,
    /// The number of steps per epoch.
    pub(super) steps: usize,
    /// The number of steps of the whole run.
    total: usize,
    progress: Option<Progress>,
    pub(super) checkpoints: CheckpointFolder,
    /// The position that was saved last, and where.
    pub(super) saved: Option<(crate::position::Position, PathBuf)>,
    /// The position that is being saved.
    pub(super) in_flight: Option<crate::position::Position>,
    /// When a save failed last.
    pub(super) failed: Option<Instant>,
    /// Lines of log.txt that could not be written yet.
    lines: Vec<serde_json::Value>,
}

/// How an epoch's steps ended.
enum Steps {
    Done,
    Stopped(i32),
    /// The run is back at its newest checkpoint.
    Rewound,
}

impl<T: Task> Running<'_, '_, T> {
    fn run(mut self) -> Result<Outcome> {
        if self.session.anew.any() {
            // What is left behind must not come back with the first rewind or the next resume.
            self.save_behind();
        }
        let outcome = self.epochs();
        if !self.lines.is_empty() {
            candlelight_store::faults::pause(Duration::from_secs(1));
            self.log();
        }
        for line in std::mem::take(&mut self.lines) {
            self.say(|| tracing::warn!("could not be written to log.txt: {line}"));
        }
        outcome
    }

    fn epochs(&mut self) -> Result<Outcome> {
        self.cut_log();
        let epochs = self.trainer.plan.epochs;
        let mut loss = f64::NAN;
        // An epoch whose steps are done but whose report is missing enters the loop once more, for the report alone.
        while self.trainer.position.epoch < epochs
            && (self.trainer.position.done(self.steps) < self.total || self.trainer.position.step == self.steps)
        {
            match self.epoch()? {
                Steps::Done => {}
                Steps::Stopped(signal) => return Ok(Outcome::Interrupted { signal, checkpoint: self.save()? }),
                Steps::Rewound => continue,
            }
            loss = self.trainer.position.means().0;
            let finished = self.close()?;
            if let (Some(best), true) = (self.trainer.position.patience.best(), self.trainer.is_over()) {
                let epochs = self.trainer.position.epoch;
                return Ok(Outcome::Stopped { loss, best, epochs, checkpoint: self.save()? });
            }
            if let (Some(signal), false) = (self.session.signals.caught(), finished) {
                return Ok(Outcome::Interrupted { signal, checkpoint: self.save()? });
            }
        }
        Ok(Outcome::Finished { loss, checkpoint: self.save()? })
    }

    /// Runs the remaining steps of an epoch.
    fn epoch(&mut self) -> Result<Steps> {
        let (epoch, steps) = (self.trainer.position.epoch, self.steps);
        let data = self.session.data;
        self.trainer.begin();
        let mut came = 0;
        let mut batches = data.epoch(epoch, self.trainer.position.step);
        // While a device computes, the next batch goes there.
        let device = self.trainer.device().clone();
        let mut ahead = None;
        while let Some((batch, images)) = ahead.take().or_else(|| batches.next().map(|b| (b, None))) {
            if let Ok(b) = &batch
                && self.trainer.position.passes(b.step)
            {
                came += 1;
                let after = (b.step + 1).min(steps);
                if let Some(skipped) = self.trainer.pass(after)?
                    && self.skipped(&skipped)?
                {
                    return Ok(Steps::Rewound);
                }
                continue;
            }
            let meanwhile = || {
                if !device.is_cpu() {
                    ahead = batches.next().map(|b| uploaded(b, data.normalize(), &device));
                }
            };
            let step = batch
                .map_err(Error::from)
                .and_then(|b| self.trainer.step_with(b, images, data.normalize(), steps, meanwhile));
            let step = match step {
                Ok(step) => step,
                Err(e) => {
                    self.trainer.back();
                    return Err(self.broken("a batch", e));
                }
            };
            came += 1;
            if self.see(&step)? {
                return Ok(Steps::Rewound);
            }
            if step.boundary && self.trainer.position.done(steps) >= self.total {
                return Ok(Steps::Done);
            }
            // An update of many batches can take long: what there is of it is given up, and its batches come again.
            if !step.boundary
                && let Some(signal) = self.session.signals.caught()
            {
                self.trainer.back();
                return Ok(Steps::Stopped(signal));
            }
            // At the end of an epoch, the run is saved and the report is made before a signal stops it.
            if step.boundary && step.step < steps {
                if let Some(signal) = self.session.signals.caught() {
                    return Ok(Steps::Stopped(signal));
                }
                let again = self.failed.is_some_and(|at| at.elapsed() > AGAIN) || self.recovery_due(step.step);
                if self.session.signals.take_save() || again {
                    self.save_behind();
                }
            }
        }
        // A stream can end before the steps that it announced. The epoch is over then, for asking again would give nothing again.
        let have = self.trainer.position.step;
        if have < steps {
            if came == 0 && have == 0 {
                let e = format!(
                    "epoch {epoch} gave no batch, although {steps} were announced: no sample of the data can be read"
                );
                return Err(self.broken("the epoch", Error::Config(e)));
            }
            self.say(|| {
                tracing::warn!(
                    "epoch {epoch} ended after step {have} of {steps}: the data has fewer samples than it announced"
                );
            });
            if let Some(skipped) = self.trainer.pass_rest(steps)?
                && self.skipped(&skipped)?
            {
                return Ok(Steps::Rewound);
            }
        }
        Ok(Steps::Done)
    }

    /// Whether a multiple of the steps between checkpoints lies in the update that ended with this step.
    fn recovery_due(&self, step: usize) -> bool {
        let plan = &self.trainer.plan;
        plan.recovery_interval.is_some_and(|n| step / n > step.saturating_sub(plan.accum_iter) / n)
    }

    /// Shows a step to all who see it. Returns whether the run was brought back to a checkpoint.
    fn see(&mut self, step: &StepReport) -> Result<bool> {
        let saved = self.trainer.saved.take();
        self.note(saved);
        let at = step.epoch as f64 + step.step as f64 / self.steps as f64;
        let failed = self.session.observers.each(|o| o.step(step, at));
        failed.iter().for_each(|f| self.say(|| tracing::warn!("{f}")));
        let (epochs, done) = (self.trainer.plan.epochs, self.trainer.position.done(self.steps));
        let &StepReport { epoch, loss, lr, .. } = step;
        let line = Line { epoch, epochs, done, loss, lr, stats: self.session.data.stats() };
        if let Some(p) = &mut self.progress {
            p.step(&line, step.step == self.steps);
        }
        step.skipped.as_ref().map_or(Ok(false), |s| self.skipped(s))
    }

    /// Does what the plan says about an update whose numbers were not finite. Returns whether the run was brought back to a checkpoint.
    fn skipped(&mut self, skipped: &Skipped) -> Result<bool> {
        let (loss, (epoch, _, step)) = (skipped.loss, skipped.steps);
        let mut samples: Vec<String> = skipped.samples.iter().take(8).map(ToString::to_string).collect();
        if skipped.samples.len() > samples.len() {
            samples.push(format!("and {} more", skipped.samples.len() - samples.len()));
        }
        let (samples, policy) = (samples.join(", "), self.trainer.plan.non_finite);
        let why =
            skipped.spike.map_or_else(String::new, |d| format!(" ({d:.1} standard deviations above the last ones)"));
        self.say(|| {
            tracing::warn!("loss {loss}{why} at epoch {epoch} step {step}: update skipped (samples {samples})");
        });
        let count = match policy {
            NonFinite::Rewind => self.trainer.position.passed.len() + 1,
            NonFinite::Stop | NonFinite::Skip => skipped.in_a_row,
        };
        if policy == NonFinite::Stop || count >= self.trainer.plan.max_non_finite {
            let saved = match self.save() {
                Ok(path) => path,
                Err(e) => {
                    // What ended the run is the loss; that it cannot be saved either is said besides.
                    self.say(|| tracing::warn!("the run could not be saved: {e}"));
                    self.checkpoints.list().pop().unwrap_or_else(|| self.session.folder.path().to_path_buf())
                }
            };
            return Err(Error::NonFinite { count, epoch, step, saved });
        }
        if policy == NonFinite::Rewind { self.rewind(skipped.steps) } else { Ok(false) }
    }

    /// Brings the run back to its newest checkpoint, from where it will pass over some steps.
    fn rewind(&mut self, over: (usize, usize, usize)) -> Result<bool> {
        self.settle();
        let Some(mut c) = checkpoint::newest(self.session.folder.path(), T::KIND) else {
            self.say(|| tracing::warn!("there is no checkpoint to go back to: the update is left out"));
            return Ok(false);
        };
        let mut passed = std::mem::take(&mut self.trainer.position.passed);
        passed.push(over);
        self.trainer.take(&mut c, true)?;
        self.trainer.position.passed = passed;
        self.saved = None;
        let (epoch, from, to) = over;
        let path = c.path().display().to_string();
        self.say(|| tracing::warn!("back at {path}; steps {from} to {to} of epoch {epoch} will be passed over"));
        self.cut_log();
        Ok(true)
    }

    /// Does what follows the steps of an epoch: checkpoint, report, best weights, log. Returns whether the run is finished.
    fn close(&mut self) -> Result<bool> {
        let epoch = self.trainer.position.epoch;
        let (loss, lr) = self.trainer.position.means();
        let whole = self.trainer.position.step == self.steps;
        let epochs = epoch + usize::from(whole);
        let done = self.trainer.position.done(self.steps);
        let finished = done >= self.total || epochs >= self.trainer.plan.epochs;
        if finished || (whole && epochs % self.trainer.plan.save_every == 0) {
            // Before the report: an evaluation can take long, and may fail.
            self.save_behind();
        }
        let Some(found) = self.report(epochs, whole, finished)? else { return Ok(false) };
        match found.score {
            Some(score) if whole => self.trainer.observe(epochs, score),
            None if epochs == 1 && matches!(self.trainer.plan.schedule, ScheduleConfig::Plateau(_)) => self.say(|| {
                tracing::warn!(
                    "the rate falls when a score stops improving, and there is none so far: it stays as it is"
                );
            }),
            _ => {}
        }
        if whole && let Err(e) = self.trainer.end_epoch() {
            return Err(self.broken("the epoch", e));
        }
        // A report inside an epoch does not count for the best weights: the uninterrupted run would not have made it.
        if whole {
            self.trainer.wait(epochs, found.score);
            self.rank(epochs, &found);
        }
        let line = whole.then(|| {
            let mut line = serde_json::Map::new();
            line.insert("train_lr".into(), lr.into());
            line.insert("train_loss".into(), loss.into());
            line.extend(found.log.iter().map(|(n, v)| ((*n).to_string(), v.clone())));
            line.insert("epoch".into(), epoch.into());
            line.extend(found.last.iter().map(|(n, v)| ((*n).to_string(), v.clone())));
            serde_json::Value::from(line)
        });
        self.lines.extend(line.clone());
        self.log();
        let failed = self.session.observers.each(|o| o.report(&found, line.as_ref()));
        failed.iter().for_each(|f| self.say(|| tracing::warn!("{f}")));
        Ok(finished)
    }

    /// Lets the task report. `None` where a signal interrupted it: the run is stopped or saved then, and the report is still owed.
    fn report(&mut self, epochs: usize, whole: bool, finished: bool) -> Result<Option<Findings>> {
        loop {
            if self.trainer.ema.is_some() {
                // The report puts the averaged weights in the place of those that are being saved.
                self.settle();
            }
            let Trainer { task, ema, .. } = &mut *self.trainer;
            let (dir, signals) = (self.session.folder.path(), &self.session.signals);
            let now = Moment { epochs, whole, finished, dir, signals, ema: ema.as_ref() };
            let found = match &self.progress {
                Some(p) => p.quiet(|| task.report(&now)),
                None => task.report(&now),
            };
            match found {
                Ok(found) => return Ok(Some(found)),
                Err(Error::Interrupted) if self.session.signals.caught().is_some() => return Ok(None),
                Err(Error::Interrupted) => {
                    self.session.signals.take_save();
                    self.save()?;
                }
                // The resumed run makes this report again.
                Err(e) => return Err(self.broken("the report", e)),
            }
        }
    }

    /// Writes the lines of log.txt that are due. Those that cannot be written are kept for the next time.
    fn log(&mut self) {
        while let Some(line) = self.lines.first() {
            if let Err(e) = self.session.folder.log(line) {
                if self.lines.len() == 1 {
                    self.say(|| {
                        tracing::warn!("the log cannot be written, and is tried again after the next epoch: {e}")
                    });
                }
                return;
            }
            self.lines.remove(0);
        }
    }

    /// Removes the lines of log.txt that the run will write again.
    fn cut_log(&mut self) {
        let epoch = self.trainer.position.epoch;
        self.lines.retain(|l| l["epoch"].as_u64().is_some_and(|e| (e as usize) < epoch));
        if let Err(e) = self.session.folder.cut_log(epoch) {
            self.say(|| tracing::warn!("log.txt still has lines of epoch {epoch} and later ones: {e}"));
        }
    }

    /// Says something without tearing the bar of the progress.
    pub(super) fn say(&self, f: impl FnOnce()) {
        match &self.progress {
            Some(p) => p.quiet(f),
            None => f(),
        }
    }
}

/// A batch whose images go to a device already. Other pixels than bytes are few, and go there when they are needed.
fn uploaded(
    batch: candlelight_data::Result<Batch>,
    normalize: &Normalize,
    device: &Device,
) -> (candlelight_data::Result<Batch>, Option<Result<Tensor>>) {
    match batch {
        Ok(mut batch) if matches!(batch.images, Pixels::U8(_)) => {
            let images = batch::images(&mut batch, normalize, device);
            (Ok(batch), Some(images))
        }
        batch => (batch, None),
    }
}
