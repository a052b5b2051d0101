//! Repeating one step of a run.

use crate::checkpoint::{self, Checkpoint};
use crate::error::{Error, Result, file};
use crate::task::Task;
use crate::train::state::{Extent, Record};
use crate::train::{Session, StepReport, Trainer};

impl Session<'_> {
    /// Repeats step number `step` of the run in this session's folder, counted from 1 over the whole run as its progress shows it: from the
    /// newest checkpoint before it, with the same samples and the same bits. Nothing is written. Afterwards the trainer stands behind the
    /// step.
    ///
    /// # Errors
    /// When no checkpoint lies before the step, or the data or a setting that decides about the step is another than the run's.
    pub fn replay<T: Task>(self, trainer: &mut Trainer<T>, step: usize) -> Result<StepReport> {
        let (data, dir) = (self.data, self.folder.path());
        let steps = data.steps();
        if step == 0 || step > trainer.plan.epochs * steps {
            let all = trainer.plan.epochs * steps;
            return Err(Error::Config(format!("there is no step {step} in a run of {all}, counted from 1")));
        }
        let mut found: Option<Checkpoint<Record<T::Config>>> = None;
        for path in checkpoint::list(dir).iter().rev() {
            let c: Checkpoint<Record<T::Config>> = checkpoint::load(path, T::KIND)?;
            if c.record.position.done(c.record.data.steps) < step {
                found = Some(c);
                break;
            }
        }
        if let Some(c) = &mut found {
            let r = &c.record;
            let now = Extent { steps, samples: data.samples() };
            let same = (r.data, r.plan.batch_size, r.plan.accum_iter, r.plan.seed, &r.plan.schedule, r.plan.epochs)
                == (
                    now,
                    trainer.plan.batch_size,
                    trainer.plan.accum_iter,
                    trainer.plan.seed,
                    &trainer.plan.schedule,
                    trainer.plan.epochs,
                );
            if !same {
                return Err(file(
                    c.path(),
                    "made with other data, or another batch size, accumulation, seed, schedule or number of epochs: give those \
                     of the run",
                ));
            }
            trainer.take(c, true)?;
        } else if !checkpoint::list(dir).is_empty() {
            // The weights at the start of the run are made from its seed.
            tracing::info!("no checkpoint in {} lies before step {step}: from the start of the run", dir.display());
        }
        loop {
            let epoch = trainer.position.epoch;
            for batch in data.epoch(epoch, trainer.position.step) {
                let batch = batch?;
                if trainer.position.passes(batch.step) {
                    trainer.pass((batch.step + 1).min(steps))?;
                    continue;
                }
                let report = trainer.step(batch, data.normalize(), steps)?;
                if trainer.position.done(steps) >= step {
                    return Ok(report);
                }
            }
            trainer.pass(steps)?;
            if trainer.position.done(steps) >= step {
                return Err(Error::Config(format!("step {step} has no batch: all of its samples were left out")));
            }
            trainer.end_epoch()?;
        }
    }
}
