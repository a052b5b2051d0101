//! What a loader and its workers share: the settings, the counters, and where samples come from.

use crate::image::Decode;
use crate::load::batch::Collate;
use crate::load::memory::{LoadPlan, Memory};
use crate::load::pipeline::Pipeline;
use crate::load::sampler::Sampler;
use crate::sets::{Dataset, Stream};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happens to a sample that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBad {
    /// The next readable sample of the order takes its place: batches keep their size. This is for training; an
    /// evaluation would count the replacement twice.
    #[default]
    Replace,
    /// The sample is left out: batches become smaller, and a batch that would be empty does not come. The others keep
    /// their indices and steps. This is for evaluation, together with `max_bad`.
    Skip,
    /// Loading stops with the error of the sample.
    Fail,
}

/// How batches are made.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Samples per batch.
    pub batch_size: usize,
    /// Height and width that the pipeline produces.
    pub size: (usize, usize),
    /// The seed of the order and of augmentation.
    pub seed: u64,
    /// Whether each epoch is shuffled; the sampler of [`Loader::with_sampler`](crate::Loader::with_sampler) decides
    /// itself.
    pub shuffle: bool,
    /// Whether the last batch is left out where it is incomplete.
    pub drop_last: bool,
    /// Worker threads; 0 loads on the calling thread.
    pub workers: usize,
    /// Share of samples that may be unreadable before loading stops.
    pub max_bad: f64,
    /// The most bytes that batches ahead of the consumer and the pictures being decoded may take. `None` is an eighth
    /// of the available memory, at most 2 GiB and at least two batches. It never changes what is in a batch;
    /// [`Loader::plan`](crate::Loader::plan) says what follows from it.
    pub memory: Option<u64>,
}

impl Default for LoaderConfig {
    /// Training: 64 images of 224 x 224 per batch, shuffled, whole batches only, one worker, no damaged sample allowed,
    /// memory chosen by the loader.
    fn default() -> Self {
        LoaderConfig {
            batch_size: 64,
            size: (224, 224),
            seed: 0,
            shuffle: true,
            drop_last: true,
            workers: 1,
            max_bad: 0.0,
            memory: None,
        }
    }
}

/// The time that loading took so far, in nanoseconds, summed over threads.
#[derive(Debug, Default)]
pub struct Stats {
    /// Time spent reading files.
    pub read: AtomicU64,
    /// Time spent decoding.
    pub decode: AtomicU64,
    /// Time spent augmenting and normalising.
    pub augment: AtomicU64,
    /// Time spent changing whole batches.
    pub collate: AtomicU64,
    /// Time the consumer waited for a batch.
    pub wait: AtomicU64,
    /// How many times a sample was read again because an error was likely to pass, such as a hiccup of a network drive.
    pub retries: AtomicU64,
}

impl Stats {
    /// The shares of reading, decoding, augmenting and collating in the loader's work.
    pub fn shares(&self) -> [(&'static str, f64); 4] {
        let parts =
            [("read", &self.read), ("decode", &self.decode), ("augment", &self.augment), ("collate", &self.collate)];
        let values = parts.map(|(n, v)| (n, v.load(Ordering::Relaxed) as f64));
        let sum: f64 = values.iter().map(|(_, v)| v).sum();
        values.map(|(n, v)| (n, v / sum.max(1.0)))
    }
}

/// A sample that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSample {
    /// The sample's place in the data set (in a stream: in the epoch).
    pub index: usize,
    /// Its name and what is wrong with it.
    pub message: String,
}

/// Where samples come from.
#[derive(Clone)]
pub(crate) enum Source {
    Indexed(Arc<dyn Dataset>, Arc<dyn Sampler>),
    Streamed { stream: Arc<dyn Stream>, rank: usize, world: usize },
}

impl Source {
    pub(crate) fn streamed(&self) -> bool {
        matches!(self, Source::Streamed { .. })
    }

    pub(crate) fn classes(&self) -> &[String] {
        match self {
            Source::Indexed(data, _) => data.classes(),
            Source::Streamed { stream, .. } => stream.classes(),
        }
    }

    /// The number of samples that `max_bad` is a share of.
    pub(crate) fn total(&self) -> usize {
        match self {
            Source::Indexed(data, _) => data.len(),
            Source::Streamed { stream, world, .. } => stream.len(*world),
        }
    }
}

pub(crate) struct Shared {
    pub(crate) source: Source,
    pub(crate) pipeline: Pipeline,
    /// Pipelines of which each makes one view of every sample; empty where `pipeline` makes the views.
    pub(crate) fixed_views: Vec<Pipeline>,
    pub(crate) config: LoaderConfig,
    pub(crate) decode: Decode,
    pub(crate) on_bad: OnBad,
    pub(crate) bytes: bool,
    pub(crate) collate: Vec<Arc<dyn Collate>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) plan: LoadPlan,
    /// The samples that could not be read, by index, in the batches that were delivered.
    pub(crate) bad: Mutex<BTreeMap<usize, String>>,
    /// The message of the first of them in the order of the batches.
    pub(crate) first_bad: Mutex<Option<String>>,
    pub(crate) stats: Stats,
}

impl Shared {
    pub(crate) fn views(&self) -> usize {
        if self.fixed_views.is_empty() { self.pipeline.views() } else { self.fixed_views.len() }
    }

    /// The number of values of one view of one sample.
    pub(crate) fn values(&self) -> usize {
        self.pipeline.channels() * self.config.size.0 * self.config.size.1
    }

    /// How many samples may be unreadable.
    pub(crate) fn allowed_bad(&self) -> usize {
        (self.config.max_bad * self.source.total() as f64) as usize
    }
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
