//! The settings that every training has, whatever it trains.

use crate::error::{Error, Result};
use crate::scaler::LossScaler;
use crate::stopping::EarlyStopping;
use candlelight_autograd::Precision;
use candlelight_optim::ClipMode;
use candlelight_sched::{CosineConfig, Length, Schedule, ScheduleConfig, Span};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The settings that every training has, whatever it trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct Plan {
    /// The number of samples per step, at least 1.
    pub batch_size: usize,
    /// The number of steps per update, at least 1: gradients are accumulated over so many batches.
    pub accum_iter: usize,
    /// The number of epochs of the run, at least 1.
    pub epochs: usize,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// The seed of weights, masks, order and augmentation.
    pub seed: u64,
    /// The precision of matrix products.
    #[serde(with = "precision")]
    pub precision: Precision,
    /// The limit of gradients, above 0: by default the largest norm of all together; `None` does not clip.
    pub clip_grad: Option<f64>,
    /// What the limit applies to.
    pub clip_mode: ClipMode,
    /// The number of steps after which the run stops early; `None` runs all epochs.
    pub max_steps: Option<usize>,
    /// The number of epochs between checkpoints, at least 1.
    pub save_every: usize,
    /// The number of checkpoints that are kept; the newest always is.
    pub keep: usize,
    /// The number of updates in a row that may fail because numbers are not finite before the run ends.
    pub max_non_finite: usize,
    /// The number of steps between checkpoints inside an epoch; `None` makes them at its end only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_interval: Option<usize>,
    /// The number of best models that are kept in the folder `history`; 0 keeps none there.
    #[serde(skip_serializing_if = "is_zero")]
    pub history: usize,
    /// Whether the batches at the end of an epoch that are fewer than `accum_iter` make an update, as in timm, of the mean of their
    /// gradients; otherwise they make none, as in MAE.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remainder: bool,
    /// The scaling of the loss; `None` scales nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaler>,
    /// What is done where numbers are not finite, or the loss is a spike.
    pub non_finite: NonFinite,
    /// How many standard deviations above the mean of the last 64 losses a loss must lie to be a spike, whose update is treated as one
    /// that is not finite; `None` looks for none.
    pub spike: Option<f64>,
    /// When the run ends because its score does not improve any more; `None` runs all epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<EarlyStopping>,
}

/// What is done where the loss or the gradients of an update are not finite. No policy ever changes a weight by such an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// The run is saved and ends.
    Stop,
    /// The update is left out; after `max_non_finite` in a row the run is saved and ends.
    #[default]
    Skip,
    /// The run goes back to its newest checkpoint and passes over the batches of the update when it comes to them again; after
    /// `max_non_finite` such updates in the whole run it is saved and ends. Without a checkpoint the update is left out.
    Rewind,
}

impl std::str::FromStr for NonFinite {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "stop" => Ok(NonFinite::Stop),
            "skip" => Ok(NonFinite::Skip),
            "rewind" => Ok(NonFinite::Rewind),
            _ => Err(format!("`{s}` is none of stop, skip, rewind")),
        }
    }
}

impl Default for Plan {
    /// MAE's batch of 64 and rate of 1e-3 for one epoch, a checkpoint after each, two kept.
    fn default() -> Self {
        Plan {
            batch_size: 64,
            accum_iter: 1,
            epochs: 1,
            schedule: CosineConfig { lr: 1e-3, min_lr: 0.0, warmup: Span::default() }.into(),
            seed: 0,
            precision: Precision::F32,
            clip_grad: None,
            clip_mode: ClipMode::default(),
            max_steps: None,
            save_every: 1,
            keep: 2,
            max_non_finite: 10,
            recovery_interval: None,
            history: 0,
            remainder: false,
            loss_scale: None,
            non_finite: NonFinite::default(),
            spike: None,
            stopping: None,
        }
    }
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A plan whose settings were checked, as a trainer needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked(Plan);

impl std::ops::Deref for Checked {
    type Target = Plan;
    fn deref(&self) -> &Plan {
        &self.0
    }
}

impl Plan {
    /// Checks the settings; a trainer accepts only a checked plan.
    ///
    /// # Errors
    /// When a setting is out of range; the error names it.
    pub fn check(self) -> Result<Checked> {
        self.schedule.check()?;
        let positive = [
            ("batch_size", self.batch_size),
            ("accum_iter", self.accum_iter),
            ("epochs", self.epochs),
            ("save_every", self.save_every),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Err(Error::Config(format!("{name} is 0, expected at least 1")));
        }
        if let Some(c) = self.clip_grad
            && (c.is_nan() || c <= 0.0)
        {
            return Err(Error::Config(format!("clip_grad is {c}, expected more than 0")));
        }
        if self.recovery_interval == Some(0) {
            return Err(Error::Config("recovery_interval is 0, expected at least 1 step".into()));
        }
        self.loss_scale.as_ref().map_or(Ok(()), LossScaler::check)?;
        self.stopping.as_ref().map_or(Ok(()), EarlyStopping::check)?;
        if let Some(s) = self.spike
            && (s.is_nan() || s <= 0.0)
        {
            return Err(Error::Config(format!("spike is {s}, expected more than 0 standard deviations")));
        }
        Ok(Checked(self))
    }

    /// The length of the run with so many steps per epoch.
    pub fn length(&self, steps: usize) -> Length {
        Length { epochs: self.epochs as f64, steps, samples: self.batch_size }
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Plan::serialize(self, s)
    }
}

impl<'de> Deserialize<'de> for Plan {
    /// Reads today's form, and that of the first checkpoints, whose schedule held the epochs.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut value = serde_json::Value::deserialize(d)?;
        if let Some(first) = value.get("schedule").filter(|s| s.get("warmup_epochs").is_some()) {
            let first: FirstSchedule = serde_json::from_value(first.clone()).map_err(D::Error::custom)?;
            let FirstSchedule { lr, min_lr, warmup_epochs, epochs } = first;
            let schedule: ScheduleConfig = CosineConfig { lr, min_lr, warmup: Span::Epochs(warmup_epochs) }.into();
            value["schedule"] = serde_json::to_value(schedule).map_err(D::Error::custom)?;
            value["epochs"] = (epochs as usize).into();
        }
        Plan::deserialize(value).map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstSchedule {
    lr: f64,
    min_lr: f64,
    warmup_epochs: f64,
    epochs: f64,
}

/// A precision by its name, `f32`, `bf16` or `tf32`.
mod precision {
    use super::{Deserialize, Deserializer, Precision, Serializer};

    pub(super) fn serialize<S: Serializer>(p: &Precision, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(p)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Precision, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_written_before_are_read() {
        let first = r#"{"batch_size":64,"accum_iter":2,"schedule":{"lr":0.001,"min_lr":1e-6,"warmup_epochs":2.0,"epochs":30.0},
            "seed":3,"precision":"bf16","clip_grad":null,"max_steps":null,"save_every":1,"keep":2,"max_non_finite":10}"#;
        let plan: Plan = serde_json::from_str(first).unwrap();
        let schedule = CosineConfig { lr: 1e-3, min_lr: 1e-6, warmup: Span::Epochs(2.0) }.into();
        let want = Plan { accum_iter: 2, epochs: 30, schedule, seed: 3, precision: Precision::Bf16, ..Plan::default() };
        assert_eq!(plan, want);
        assert_eq!(serde_json::from_str::<Plan>(&serde_json::to_string(&want).unwrap()).unwrap(), want);
        assert_eq!(serde_json::from_str::<Plan>("{}").unwrap(), Plan::default());
        let e = serde_json::from_str::<Plan>(r#"{"batchsize":3}"#).unwrap_err().to_string();
        assert!(e.contains("unknown field `batchsize`"), "{e}");
    }

    #[test]
    fn what_makes_no_sense_does_not_train() {
        for (plan, word) in [
            (Plan { batch_size: 0, ..Plan::default() }, "batch_size"),
            (Plan { epochs: 0, ..Plan::default() }, "epochs"),
            (Plan { clip_grad: Some(0.0), ..Plan::default() }, "clip_grad"),
            (Plan { spike: Some(-1.0), ..Plan::default() }, "spike"),
            (Plan { stopping: Some(EarlyStopping::after(0)), ..Plan::default() }, "patience"),
        ] {
            assert!(plan.check().unwrap_err().to_string().contains(word), "{word}");
        }
        assert_eq!(Plan::default().check().unwrap().length(7).steps, 7);
    }
}
