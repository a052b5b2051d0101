//! The two traits that the training loop works with: what is trained ([`Task`]), and where batches come from ([`Batches`]).

use crate::error::Result;
use crate::picture::Picture;
use crate::signals::Signals;
use candle_core::Tensor;
use candlelight_autograd::{ParamStore, Tape, Value};
use candlelight_data::{Batch, Loader, Normalize, Pipeline, Stats};
use candlelight_optim::{Ema, Optimizer};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// The place of a step in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The epoch, counted from 0.
    pub epoch: usize,
    /// The step in its epoch, counted from 0.
    pub step: usize,
}

/// What is trained: a model with its loss, its optimizer, and the reports between epochs.
pub trait Task {
    /// The kind of task, which its checkpoints record, such as `classify`.
    const KIND: &'static str;
    /// The tag of the loss in TensorBoard.
    const LOSS: &'static str;
    /// The settings of the model and of its training, which the checkpoint records.
    type Config: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug;

    /// The configuration.
    fn config(&self) -> &Self::Config;

    /// Whether a checkpoint with the configuration `other` has the same parameters as this model.
    fn same_model(&self, other: &Self::Config) -> bool;

    /// The parameters of the model.
    fn params(&self) -> &ParamStore;

    /// A new optimizer of the parameters that train.
    ///
    /// # Errors
    /// When the configuration does not fit them.
    fn optimizer(&self) -> Result<Optimizer>;

    /// The parts that a step trains one after the other, each with its optimizer and its loss, such as the discriminator and the generator of
    /// an adversarial training. By default the task is one part without a name, with [`Task::params`], [`Task::optimizer`] and
    /// [`Task::loss`]. With several parts each step is an update, and the loss that is shown is the last part's.
    fn parts(&self) -> Vec<Part<'_>> {
        vec![Part { name: "", params: self.params() }]
    }

    /// A new optimizer of the parameters of part `part` that train.
    ///
    /// # Errors
    /// When the configuration does not fit them.
    fn part_optimizer(&self, part: usize) -> Result<Optimizer> {
        let _ = part;
        self.optimizer()
    }

    /// The loss that part `part` minimises, on a tape of its parameters: those of the other parts are constants there. The parts before it
    /// have had their update.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    fn part_loss(&self, part: usize, tape: &Tape, images: &Tensor, batch: &Batch, seed: u64, at: At) -> Result<Value> {
        let _ = part;
        self.loss(tape, images, batch, seed, at)
    }

    /// Freezes what does not train in an epoch, counted from 0. Returns whether other parameters train than before; the optimizers then start
    /// anew. By default the same parameters train in every epoch.
    ///
    /// # Errors
    /// When parameters are not there.
    fn enter(&mut self, epoch: usize) -> Result<bool> {
        let _ = epoch;
        Ok(false)
    }

    /// Patterns of the names of parameters whose gradients adaptive clipping leaves alone: those of the head.
    fn unclipped(&self) -> Vec<String> {
        vec![]
    }

    /// A new moving average of the weights, if one is wanted.
    ///
    /// # Errors
    /// When its decay makes no sense.
    fn ema(&self) -> Result<Option<Ema>> {
        Ok(None)
    }

    /// Checks that the training data fits the model.
    ///
    /// # Errors
    /// When it does not fit; the error says what is wrong.
    fn check(&self, data: &dyn Batches) -> Result<()> {
        let _ = data;
        Ok(())
    }

    /// An estimate of the bytes that a step with `batch` samples needs; `None` where it is not known.
    fn memory(&self, batch: usize) -> Option<u64> {
        let _ = batch;
        None
    }

    /// How images are prepared for evaluating the model, which the checkpoint records.
    fn evaluation(&self) -> Option<Pipeline> {
        None
    }

    /// The loss of a batch, whose images (B, C, H, W) are already on the device. All random numbers must come from `seed` and `at` alone, so
    /// that a resumed run draws the same.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    fn loss(&self, tape: &Tape, images: &Tensor, batch: &Batch, seed: u64, at: At) -> Result<Value>;

    /// Reports after every epoch and at the end of the run, for example an evaluation. The run is being saved meanwhile, so weights may
    /// only be changed through [`Ema::with`]. What takes long asks [`Signals::check`] between its parts.
    ///
    /// # Errors
    /// The errors of what it does; the run is saved then.
    fn report(&mut self, now: &Moment<'_>) -> Result<Findings>;
}

/// A part of a task, see [`Task::parts`].
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its name, which stands before the names of its tensors in checkpoints; empty for the only part.
    pub name: &'static str,
    /// Its parameters, which no other part has.
    pub params: &'a ParamStore,
}

impl Part<'_> {
    /// The name of one of its tensors in checkpoints.
    pub(crate) fn full(&self, name: &str) -> String {
        if self.name.is_empty() { name.to_string() } else { format!("{}.{name}", self.name) }
    }
}

/// The point between two epochs, or at the end of the run, at which a task reports.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The number of whole epochs done.
    pub epochs: usize,
    /// True if an epoch has just ended, false if the run ends inside one.
    pub whole: bool,
    /// Whether the run ends here.
    pub finished: bool,
    /// The folder of the run.
    pub dir: &'a Path,
    /// The signals that end what takes long.
    pub signals: &'a Signals,
    /// The averaged weights, if the run keeps them.
    pub ema: Option<&'a Ema>,
}

/// The results of a report.
#[derive(Debug, Default)]
pub struct Findings {
    /// Entries of the epoch's line in log.txt, written before the epoch's number.
    pub log: Vec<(&'static str, serde_json::Value)>,
    /// Entries of that line, written after the epoch's number.
    pub last: Vec<(&'static str, serde_json::Value)>,
    /// A score, where higher is better: the weights with the best score are kept. `None` gives no score.
    pub score: Option<f64>,
    /// The score of the weights themselves, where `score` is that of their average.
    pub raw: Option<f64>,
    /// Numbers for those who see the run, such as TensorBoard.
    pub scalars: Vec<Scalar>,
    /// Pictures for them.
    pub images: Vec<Image>,
}

/// A number of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// What it is, such as `perf/test_acc1`.
    pub tag: &'static str,
    /// Its place on the axis of steps.
    pub x: i64,
    /// The number.
    pub value: f32,
}

/// A picture of a report.
#[derive(Debug)]
pub struct Image {
    /// What it is.
    pub tag: &'static str,
    /// Its place on the axis of steps.
    pub x: i64,
    /// The picture.
    pub picture: Picture,
}

/// A source of batches, such as a loader or features that were computed once.
pub trait Batches: Send {
    /// The number of batches per epoch.
    fn steps(&self) -> usize;
    /// The number of samples per epoch.
    fn samples(&self) -> usize;
    /// The number of samples of a whole batch; `None` where batches have no common size.
    fn batch_size(&self) -> Option<usize> {
        None
    }
    /// The names of the classes; empty where there are none.
    fn classes(&self) -> &[String];
    /// The normalisation that turns bytes into values, for batches that hold bytes.
    fn normalize(&self) -> &Normalize;
    /// The batches of an epoch, from step `start` on. There can be fewer than announced: each batch carries its step, and steps that
    /// have no batch do not come.
    fn epoch<'a>(
        &'a self,
        epoch: usize,
        start: usize,
    ) -> Box<dyn Iterator<Item = candlelight_data::Result<Batch>> + 'a>;
    /// How much time each stage of loading took.
    fn stats(&self) -> &Stats;
}

impl Batches for Loader {
    fn steps(&self) -> usize {
        Loader::steps(self)
    }
    fn samples(&self) -> usize {
        Loader::samples(self)
    }
    fn batch_size(&self) -> Option<usize> {
        Some(Loader::batch_size(self))
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
