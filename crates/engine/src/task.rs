//! What can be trained, and where batches come from: the training loop's two sides.

use crate::error::Result;
use crate::tensorboard::EventWriter;
use candle_core::Tensor;
use candlelight_autograd::{ParamStore, Tape, Value};
use candlelight_data::{Batch, Loader, Normalize, Pipeline, Stats};
use candlelight_optim::{Ema, Optimizer};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// Where in a run a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The epoch.
    pub epoch: usize,
    /// The step in it.
    pub step: usize,
}

/// What is trained: a model with its loss, its optimizer, and what is reported between epochs.
pub trait Task {
    /// What its checkpoints are called.
    const KIND: &'static str;
    /// TensorBoard's tag of the loss.
    const LOSS: &'static str;
    /// Everything that makes the model and its training what they are; in the checkpoint.
    type Config: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug;

    /// The configuration.
    fn config(&self) -> &Self::Config;

    /// Whether a checkpoint of this configuration has the same parameters.
    fn same_model(&self, other: &Self::Config) -> bool;

    /// The parameters.
    fn params(&self) -> &ParamStore;

    /// A new optimizer of the parameters that train.
    ///
    /// # Errors
    /// When the configuration does not fit them.
    fn optimizer(&self) -> Result<Optimizer>;

    /// A new moving average of the weights, if one is wanted.
    ///
    /// # Errors
    /// When its decay makes no sense.
    fn ema(&self) -> Result<Option<Ema>> {
        Ok(None)
    }

    /// Checks that the data fits.
    ///
    /// # Errors
    /// What does not fit.
    fn check(&self, data: &dyn Batches) -> Result<()> {
        let _ = data;
        Ok(())
    }

    /// Bytes a step of `batch` samples needs, if that can be said.
    fn memory(&self, batch: usize) -> Option<u64> {
        let _ = batch;
        None
    }

    /// How images are prepared for evaluating the model; in the checkpoint.
    fn evaluation(&self) -> Option<Pipeline> {
        None
    }

    /// The loss of a batch whose images are `images`. What is random comes from `seed` and `at` alone.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    fn loss(&self, tape: &Tape, images: &Tensor, batch: &Batch, seed: u64, at: At) -> Result<Value>;

    /// Called after every epoch and at the end of the run.
    ///
    /// # Errors
    /// Those of what it does; the run is saved then.
    fn report(&mut self, now: &mut Moment<'_>) -> Result<Findings>;
}

/// A moment between epochs.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Whole epochs done.
    pub epochs: usize,
    /// An epoch is just over; else the run ends within one.
    pub whole: bool,
    /// The run is over.
    pub finished: bool,
    /// The run's folder.
    pub dir: &'a Path,
    /// TensorBoard's events.
    pub events: &'a mut EventWriter,
    /// The averaged weights.
    pub ema: Option<&'a Ema>,
}

/// What a report found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Entries of the epoch's line in log.txt, before its number.
    pub log: Vec<(&'static str, serde_json::Value)>,
    /// Entries of that line after its number.
    pub last: Vec<(&'static str, serde_json::Value)>,
    /// Higher is better: the best is kept.
    pub score: Option<f64>,
}

/// Where batches come from.
pub trait Batches: Send {
    /// Batches per epoch.
    fn steps(&self) -> usize;
    /// Samples per epoch.
    fn samples(&self) -> usize;
    /// Names of the classes.
    fn classes(&self) -> &[String];
    /// What turns bytes into values, where batches are bytes.
    fn normalize(&self) -> &Normalize;
    /// The batches of an epoch from `start` on.
    fn epoch<'a>(
        &'a self,
        epoch: usize,
        start: usize,
    ) -> Box<dyn Iterator<Item = candlelight_data::Result<Batch>> + 'a>;
    /// Time spent by stage.
    fn stats(&self) -> &Stats;
}

impl Batches for Loader {
    fn steps(&self) -> usize {
        Loader::steps(self)
    }
    fn samples(&self) -> usize {
        Loader::samples(self)
    }
    fn classes(&self) -> &[String] {
        Loader::classes(self)
    }
    fn normalize(&self) -> &Normalize {
        &self.pipeline().normalize
    }
    fn epoch<'a>(
        &'a self,
        epoch: usize,
        start: usize,
    ) -> Box<dyn Iterator<Item = candlelight_data::Result<Batch>> + 'a> {
        Box::new(Loader::epoch(self, epoch, start))
    }
    fn stats(&self) -> &Stats {
        Loader::stats(self)
    }
}
