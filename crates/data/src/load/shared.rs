//! What a loader and its workers share: the settings, the counters, and where samples come from.

use crate::image::Decode;
use crate::load::batch::{Collate, Pixels};
use crate::load::pipeline::Pipeline;
use crate::load::sampler::Sampler;
use crate::sets::{Dataset, Stream};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happens to a sample that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBad {
    /// The next readable sample of the order takes its place: batches keep their size.
    #[default]
    Replace,
    /// The sample is left out: batches become smaller, and a batch that would be empty does not come.
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
}

impl Default for LoaderConfig {
    /// Training: 64 images of 224 x 224 per batch, shuffled, whole batches only, one worker, no damaged sample allowed.
    fn default() -> Self {
        LoaderConfig {
            batch_size: 64,
            size: (224, 224),
            seed: 0,
            shuffle: true,
            drop_last: true,
            workers: 1,
            max_bad: 0.0,
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

/// Where samples come from.
#[derive(Clone)]
pub(crate) enum Source {
    Indexed(Arc<dyn Dataset>, Arc<dyn Sampler>),
    Streamed { stream: Arc<dyn Stream>, rank: usize, world: usize },
}

pub(crate) struct Shared {
    pub(crate) source: Source,
    pub(crate) pipeline: Pipeline,
    pub(crate) config: LoaderConfig,
    pub(crate) decode: Decode,
    pub(crate) on_bad: OnBad,
    pub(crate) bytes: bool,
    pub(crate) collate: Vec<Arc<dyn Collate>>,
    pub(crate) bad: Mutex<HashSet<usize>>,
    pub(crate) first_bad: Mutex<Option<String>>,
    pub(crate) spare: Mutex<Vec<Pixels>>,
    pub(crate) stats: Stats,
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
