//! Where a run continues: choosing the checkpoint, and finding its place in today's epochs.

use crate::checkpoint;
use crate::error::{Error, Result, file};
use crate::memory;
use crate::position::{Best, Position};
use crate::task::{Batches, Task};
use crate::train::session::Anew;
use crate::train::state::{Extent, Record};
use crate::train::{Resume, Trainer};
use candlelight_store::RunFolder;
use std::path::{Path, PathBuf};

/// What a run begins with.
pub(super) struct Start {
    /// The checkpoint it continues from.
    pub(super) from: Option<PathBuf>,
    /// The steps of the whole run.
    pub(super) total: usize,
    /// Whether nothing is left to do.
    pub(super) complete: bool,
}

impl<T: Task> Trainer<T> {
    /// Continues from the checkpoint that `resume` names, and checks that the data still fits.
    pub(super) fn start(
        &mut self,
        data: &dyn Batches,
        folder: &RunFolder,
        resume: &Resume,
        anew: Anew,
    ) -> Result<Start> {
        let dir = folder.path();
        let mut found = match resume {
            Resume::No => None,
            Resume::From(path) => Some(checkpoint::load(path, T::KIND)?),
            Resume::Auto => match checkpoint::newest(dir, T::KIND) {
                Some(c) => Some(c),
                None if checkpoint::list(dir).is_empty() => {
                    tracing::info!("nothing to resume in {}: this is a new run", dir.display());
                    None
                }
                // A new run would overwrite and remove the checkpoints in the folder.
                None => {
                    return Err(file(
                        dir,
                        "holds checkpoints, but none that this program can continue: set another output_dir",
                    ));
                }
            },
        };
        let steps = data.steps();
        if let Some(c) = &mut found {
            tracing::info!("resuming from {}", c.path().display());
            self.take(c, !anew.optimizer)?;
            if !self.classes.is_empty() && !data.classes().is_empty() && self.classes != data.classes() {
                return Err(Error::Config("the checkpoint was trained on other classes than the data has".into()));
            }
            self.place(&c.record, data)?;
        }
        if let Some(epoch) = anew.epoch {
            if epoch >= self.plan.epochs {
                let all = self.plan.epochs;
                return Err(Error::Config(format!(
                    "start_epoch is {epoch}, and a run of {all} epochs counts them from 0"
                )));
            }
            self.position.begin_epoch(epoch);
            self.position.forget_after(epoch);
            self.begin();
            self.enter()?;
        }
        let c = &self.plan;
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
        // A run that stands at the end of an epoch still has the report of that epoch to make.
        let complete = (self.position.done(steps) >= total || self.is_over()) && self.position.step < steps;
        self.classes = data.classes().to_vec();
        let from = found.map(|c| c.path().to_path_buf());
        if let (Some(from), false) = (&from, complete) {
            self.set_aside(folder, from, steps)?;
        }
        Ok(Start { from, total, complete })
    }

    /// Brings a position to the epochs of today's batch size and data.
    fn place(&mut self, record: &Record<T::Config>, data: &dyn Batches) -> Result<()> {
        let (steps, accum, at) = (data.steps(), self.plan.accum_iter, self.position.step);
        let (old, batch) = (record.data, record.plan.batch_size);
        let now = Extent { steps, samples: data.samples() };
        let same = old == now && batch == self.plan.batch_size && at % accum == 0;
        if at == 0 || same {
            return Ok(());
        }
        if old.steps == 0 {
            // The first checkpoints do not say how long their epochs were.
            if at > steps || (at < steps && at % accum != 0) {
                return Err(Error::Config(format!(
                    "the checkpoint lies at step {at} of its epoch, but an epoch now has {steps} steps in updates of \
                     {accum}: resume with the batch size, accumulation and data it was made with"
                )));
            }
            return Ok(());
        }
        if at >= old.steps {
            self.position.step = steps;
            return Ok(());
        }
        let seen = at * batch;
        let step = (seen / self.plan.batch_size / accum * accum).min(steps);
        self.position.step = step;
        self.begin();
        tracing::warn!(
            "the checkpoint lies inside epoch {}, after step {at} of {} with {batch} samples each, and an epoch now has \
             {steps} steps of {}: it goes on at step {step}, after about as many samples, which need not be the same ones. \
             For the exact continuation resume with the batch size, accumulation and data it was made with, or from a \
             checkpoint at the end of an epoch",
            self.position.epoch,
            old.steps,
            self.plan.batch_size,
        );
        Ok(())
    }

    /// Moves what is newer than the resumed checkpoint out of the way: it is no part of this run any more.
    fn set_aside(&mut self, folder: &RunFolder, from: &Path, steps: usize) -> Result<()> {
        let checkpoints = folder.checkpoints();
        if let Some(aside) = checkpoints.set_aside(from)? {
            tracing::warn!(
                "{} checkpoints that are not the past of {} are now in {}: this run goes on without them",
                aside.files,
                from.display(),
                aside.folder.display()
            );
        }
        let (epoch, owes) = (self.position.epoch, self.position.step == steps);
        let position = |path: &Path| {
            let c = crate::checkpoint::load::<serde_json::Value>(path, T::KIND).ok()?;
            serde_json::from_value::<Position>(c.record.get("position")?.clone()).ok()
        };
        // The report that this checkpoint still owes was made before, and will find the same best again.
        let owed = |b: &Option<Best>| owes && b.is_some_and(|b| b.epochs == epoch + 1);
        type Which = fn(&mut Position) -> &mut Option<Best>;
        let kinds: [(PathBuf, Which); 2] =
            [(checkpoints.best(), |p| &mut p.best), (checkpoints.best_raw(), |p| &mut p.best_raw)];
        for (best, which) in kinds {
            let there = position(&best).and_then(|mut p| which(&mut p).take());
            let ours = which(&mut self.position);
            if best.exists()
                && there != *ours
                && !owed(&there)
                && let Some(aside) = checkpoints.set_file_aside(&best)?
            {
                tracing::warn!("{} is not of this run's past and is now in {}", best.display(), aside.folder.display());
            }
            if !best.exists() {
                // The file of the best weights is missing, or the run continues in another folder: the best is found anew.
                *ours = None;
            }
        }
        self.position.history.retain(|b| checkpoints.ranked(b.epochs).exists());
        for path in checkpoints.all_ranked() {
            let is = |epochs| checkpoints.ranked(epochs) == path;
            let ours = self.position.history.iter().any(|b| is(b.epochs)) || (owes && is(epoch + 1));
            if !ours && let Some(aside) = checkpoints.set_file_aside(&path)? {
                tracing::warn!("{} is not of this run's past and is now in {}", path.display(), aside.folder.display());
            }
        }
        Ok(())
    }
}
