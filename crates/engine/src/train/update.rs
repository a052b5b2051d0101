//! The update of the weights: when it is made, where it is left out, and what a device decides.

use crate::error::Result;
use crate::task::Task;
use crate::train::trainer::{Learner, Trainer};
use crate::train::{Plan, Skipped};
use candle_core::Tensor;
use candlelight_autograd::{Gradients, ParamStore};
use candlelight_optim::{Ahead, ClipMode};

impl<T: Task> Trainer<T> {
    /// Makes the update of the batches since the last one, unless there are none or a loss was not finite; `loss` is the last one.
    pub(super) fn boundary(&mut self, loss: f32) -> Result<Option<Skipped>> {
        let mut skipped = None;
        let made = match self.window.made {
            Some(made) => made,
            None => self.window.pending > 0 && self.window.finite && self.update()?,
        };
        if made {
            self.position.updates += 1;
            self.position.bad_in_a_row = 0;
        } else if self.window.pending > 0 {
            self.undo_statistics();
            self.position.skipped += 1;
            if self.overflowed() {
                self.begin();
                return Ok(None);
            }
            self.position.bad_in_a_row += 1;
            let samples = std::mem::take(&mut self.window.samples);
            let steps = (self.position.epoch, self.window.updated.step, self.position.step);
            skipped =
                Some(Skipped { loss, samples, in_a_row: self.position.bad_in_a_row, spike: self.window.spike, steps });
        }
        self.begin();
        Ok(skipped)
    }

    /// Lowers the scale of the loss after gradients that are not finite, where that can help.
    fn overflowed(&mut self) -> bool {
        let (Some(scaler), Some(state)) = (&self.plan.loss_scale, &mut self.position.scaler) else { return false };
        let was = state.scale;
        let blamed = self.window.finite && scaler.update(state, true);
        if blamed {
            tracing::info!(
                "gradients overflowed at a loss scale of {was}: the update is left out, the scale is {} now",
                state.scale
            );
        }
        blamed
    }

    /// Updates the weights from the accumulated gradients. Returns false, and changes nothing, if the gradients are not finite.
    fn update(&mut self) -> Result<bool> {
        if self.learners.len() == 1 {
            if let Some(s) = self.position.scaler {
                self.learners[0].grads.scale((1.0 / s.scale) as f32)?;
            }
            // A finite loss can still have a gradient that is not; one such update would ruin every weight.
            let norm = clip(&self.plan, &self.task, self.task.params(), &mut self.learners[0].grads)?;
            self.norm = Some(norm);
            if !norm.is_finite() {
                return Ok(false);
            }
        }
        // What is being saved must not change.
        self.settle();
        if let [Learner { optimizer, grads }] = &mut self.learners[..] {
            optimizer.update(grads, self.window.lr)?;
        }
        if let Some(ema) = &mut self.ema {
            ema.update(self.task.params())?;
        }
        if let (Some(scaler), Some(state)) = (&self.plan.loss_scale, &mut self.position.scaler) {
            scaler.update(state, false);
        }
        Ok(true)
    }

    /// Queues the update on a device, which leaves it out by itself where a number is not finite, so that the device need not wait until the
    /// host has seen that. `None` where the plan wants the host's judgement first, or there is no kernel for that.
    pub(super) fn update_ahead(&mut self, loss: &Tensor) -> Result<Option<Ahead>> {
        let plan = &self.plan;
        let limit = plan.clip_grad.filter(|_| plan.clip_mode == ClipMode::Norm);
        let judged = plan.spike.is_some() || self.position.scaler.is_some() || plan.clip_grad != limit;
        // The first update of an average copies the weights.
        let copied = self.ema.as_ref().is_some_and(|e| e.updates() == 0);
        if self.device.is_cpu() || judged || copied || !self.window.finite {
            return Ok(None);
        }
        self.settle();
        let [Learner { optimizer, grads }] = &mut self.learners[..] else { return Ok(None) };
        let Some(ahead) = optimizer.update_ahead(grads, self.window.lr, limit, loss)? else { return Ok(None) };
        if let Some(ema) = &mut self.ema {
            ema.update_ahead(self.task.params(), &ahead)?;
        }
        Ok(Some(ahead))
    }

    /// Waits until it is known whether an update was made.
    pub(super) fn take_in(&mut self, ahead: &Ahead) -> Result<()> {
        let (norm, made) = self.learners[0].optimizer.known(ahead)?;
        (self.norm, self.window.made) = (Some(norm), Some(made));
        if !made {
            self.undo_statistics();
            if let Some(ema) = &mut self.ema {
                ema.left_out(self.task.params())?;
            }
        }
        Ok(())
    }
}

/// Clips gradients as the plan says, and returns their norm before.
pub(super) fn clip(plan: &Plan, task: &impl Task, params: &ParamStore, grads: &mut Gradients) -> Result<f64> {
    let Some(limit) = plan.clip_grad else { return Ok(grads.norm()?) };
    let head = if plan.clip_mode == ClipMode::Agc { task.unclipped() } else { vec![] };
    Ok(plan.clip_mode.clip(limit, grads, params, &head)?)
}
