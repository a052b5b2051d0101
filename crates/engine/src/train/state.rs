//! What a checkpoint holds of a trainer, and how it is taken over.

use crate::checkpoint::{self, Checkpoint};
use crate::error::{Error, Result};
use crate::position::Position;
use crate::task::Task;
use crate::train::trainer::is_statistic;
use crate::train::{Plan, Trainer};
use candle_core::Tensor;
use candlelight_data::Pipeline;
use candlelight_models::weights;
use candlelight_optim::{Ema, SlotValues};
use candlelight_store::tensors::Entry;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Everything in a checkpoint that is not a tensor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record<C> {
    pub(super) plan: Plan,
    pub(super) config: C,
    pub(super) position: Position,
    pub(super) classes: Vec<String>,
    pub(super) evaluation: Option<Pipeline>,
    /// The data that the position belongs to; the first checkpoints have none.
    #[serde(default)]
    pub(super) data: Extent,
}

/// How much data an epoch has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    /// Steps per epoch.
    pub(super) steps: usize,
    /// Samples per epoch.
    pub(super) samples: usize,
}

impl<T: Task> Trainer<T> {
    /// What a checkpoint holds, without a copy; only the running statistics, which the forward pass changes, are copied.
    pub(super) fn entries(&self, optimizer: bool) -> Result<Vec<Entry>> {
        let mut out = vec![];
        for (name, t) in self.state() {
            let t = if is_statistic(&name) { t.copy()? } else { t };
            out.push(weights::entry(&format!("model.{name}"), &t)?);
        }
        for (part, learner) in self.task.parts().iter().zip(&self.learners) {
            for slot in if optimizer { learner.optimizer.slots()? } else { vec![] } {
                let name = format!("optim.{}", part.full(&slot.name));
                out.push(match slot.values {
                    SlotValues::Host(v) => Entry::f32(name, &slot.shape, v),
                    SlotValues::Device(t) => weights::entry(&name, &t)?,
                });
            }
        }
        for (name, t) in self.ema.iter().flat_map(Ema::state) {
            out.push(weights::entry(&format!("ema.{name}"), &t)?);
        }
        Ok(out)
    }

    pub(super) fn record(&self, data: Extent) -> Result<serde_json::Value> {
        let record = Record {
            plan: Plan::clone(&self.plan),
            config: self.task.config().clone(),
            position: self.position.clone(),
            classes: self.classes.clone(),
            evaluation: self.task.evaluation(),
            data,
        };
        serde_json::to_value(record).map_err(|e| Error::Config(format!("the settings cannot be written as JSON: {e}")))
    }

    /// Writes the weights with the record, without the optimizer's state: programs can evaluate them and start from them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_weights(&self, path: &Path) -> Result<()> {
        self.write_weights(path, Extent::default())
    }

    pub(super) fn write_weights(&self, path: &Path, data: Extent) -> Result<()> {
        Ok(checkpoint::save_record(path, T::KIND, &self.record(data)?, &self.entries(false)?)?)
    }

    /// Takes over the weights, the optimizer's state, the averaged weights and the position of a checkpoint.
    ///
    /// # Errors
    /// When the checkpoint holds another model, is damaged, or is not one of ours.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        self.take(&mut checkpoint::load(path, T::KIND)?, true)
    }

    /// Takes over a checkpoint; without `optimizer` its state is left out.
    pub(super) fn take(&mut self, c: &mut Checkpoint<Record<T::Config>>, optimizer: bool) -> Result<()> {
        let path = c.path().to_path_buf();
        let fail = |message: String| crate::error::file(&path, message);
        if !self.task.same_model(&c.record.config) {
            let json = |config| serde_json::to_value(config).unwrap_or_default();
            let other = checkpoint::differences(&json(&c.record.config), &json(self.task.config()));
            return Err(fail(format!("a checkpoint of another model: {other}")));
        }
        // How long a run is and what is kept of it change no bit.
        let same = Plan {
            max_steps: self.plan.max_steps,
            keep: self.plan.keep,
            history: self.plan.history,
            save_every: self.plan.save_every,
            recovery_interval: self.plan.recovery_interval,
            stopping: self.plan.stopping,
            ..c.record.plan.clone()
        };
        if same != *self.plan || c.record.config != *self.task.config() {
            tracing::warn!(
                "the configuration differs from the checkpoint's: the result will differ from that of an uninterrupted run"
            );
        }
        self.settle();
        let (updates, anew_at) = (c.record.position.updates, c.record.position.anew_at);
        let without = c.names("optim.").is_empty();
        // Shapes first: after an error nothing is changed.
        let model = self.state();
        for (name, have) in &model {
            match c.shape(&format!("model.{name}")) {
                Some(shape) if shape == have.dims() => {}
                Some(shape) => {
                    let have = have.dims();
                    return Err(fail(format!("{name} has shape {shape:?}, the model {have:?}")));
                }
                None => return Err(fail(format!("{name} is missing"))),
            }
        }
        if let Some(other) = c.names("model.").iter().find(|n| !model.iter().any(|(m, _)| m == *n)) {
            return Err(fail(format!("{other} is no parameter of the model")));
        }
        if self.ema.is_some() && c.names("ema.").is_empty() {
            return Err(fail("no averaged weights: the checkpoint was trained without an EMA".into()));
        }
        // The optimizer's state is that of the parameters that trained then.
        self.enter_as(c.record.position.epoch.min(c.record.plan.epochs.saturating_sub(1)))?;
        // Gradient descent without momentum has no state, so a missing state is only an error where the optimizer needs one.
        let learners = if optimizer { &mut self.learners[..] } else { &mut [] };
        for (part, learner) in self.task.parts().iter().zip(learners) {
            let state = |name: &str| c.tensor(&format!("optim.{}", part.full(name)));
            match learner.optimizer.load_state_with(updates.saturating_sub(anew_at), state) {
                Err(_) if without => {
                    return Err(fail(
                        "weights without an optimizer's state, which a run needs: resume from a checkpoint-*.safetensors"
                            .into(),
                    ));
                }
                Err(e) => {
                    let json = |config| serde_json::to_value(config).unwrap_or_default()["optimizer"].clone();
                    let (theirs, ours) = (json(&c.record.config), json(self.task.config()));
                    if theirs == ours {
                        return Err(e);
                    }
                    let how = checkpoint::differences(&theirs, &ours);
                    return Err(fail(format!(
                        "a checkpoint of another optimizer: {how}; to go on with the weights alone, leave its state out (no_resume_opt)"
                    )));
                }
                Ok(()) => {}
            }
        }
        if let Some(ema) = &mut self.ema {
            ema.load_state_with(updates, |name| c.tensor(&format!("ema.{name}")))?;
        }
        for part in self.task.parts() {
            for (name, _) in part.params.values() {
                if let Some(t) = c.tensor(&format!("model.{}", part.full(&name)))? {
                    part.params.set(&name, &t)?;
                }
            }
        }
        self.position = c.record.position.clone();
        if !optimizer {
            self.position.anew_at = updates;
        }
        let start = || self.plan.loss_scale.map(|s| s.start());
        self.position.scaler =
            self.position.scaler.filter(|_| optimizer && self.plan.loss_scale.is_some()).or_else(start);
        self.classes = c.record.classes.clone();
        self.begin();
        self.enter()
    }
}

/// The configuration and the parameters of a checkpoint.
pub(crate) struct Saved<C> {
    pub(crate) config: C,
    pub(crate) tensors: Vec<(String, Tensor)>,
}

/// Reads the configuration and the parameters from a checkpoint of task `T`.
pub(crate) fn read<T: Task>(path: &Path) -> Result<Saved<T::Config>> {
    let mut c: Checkpoint<Record<T::Config>> = checkpoint::load(path, T::KIND)?;
    let mut tensors = vec![];
    for name in c.names("model.") {
        tensors.extend(c.tensor(&format!("model.{name}"))?.map(|t| (name, t)));
    }
    Ok(Saved { config: c.record.config, tensors })
}
