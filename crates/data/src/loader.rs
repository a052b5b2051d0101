//! Batches in order from worker threads.
//!
//! What is in a batch is a function of (seed, epoch, step) alone: any number of workers gives the same batches, and an
//! epoch can start at any step at once. A bounded number of batches is in flight.

use crate::batch::{Batch, Collate, Pixels};
use crate::dataset::{Dataset, Stream};
use crate::decode::Decode;
use crate::error::{Error, Result};
use crate::job::{Job, Samples, State};
use crate::pipeline::Pipeline;
use crate::sampler::{Sampler, Sequential, Shuffled};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What happens to a sample that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBad {
    /// The next readable sample of the order takes its place: batches keep their size.
    #[default]
    Replace,
    /// It is left out: batches become smaller, and one that would be empty does not come.
    Skip,
    /// Loading stops with its error.
    Fail,
}

/// How batches are made.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Samples a batch.
    pub batch_size: usize,
    /// Height and width that the pipeline produces.
    pub size: (usize, usize),
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Shuffle each epoch; a sampler of one's own decides itself.
    pub shuffle: bool,
    /// Leave out the last, incomplete batch.
    pub drop_last: bool,
    /// Worker threads; 0 loads on the calling thread.
    pub workers: usize,
    /// Share of samples that may be unreadable before loading stops.
    pub max_bad: f64,
}

/// What loading cost so far, in nanoseconds summed over threads.
#[derive(Debug, Default)]
pub struct Stats {
    /// Reading files.
    pub read: AtomicU64,
    /// Decoding.
    pub decode: AtomicU64,
    /// Augmenting and normalising.
    pub augment: AtomicU64,
    /// Batch-level work.
    pub collate: AtomicU64,
    /// The consumer waiting for a batch.
    pub wait: AtomicU64,
}

impl Stats {
    /// Shares of the loader's work: reading, decoding, augmenting, collating.
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

/// Makes batches from a data set or a stream.
#[derive(Clone)]
pub struct Loader(Arc<Shared>);

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loader({} samples, {:?})", self.samples(), self.0.config)
    }
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loader {
    /// A loader of a data set, in order or shuffled.
    ///
    /// # Errors
    /// When the data set is empty, smaller than a batch that may not be incomplete, or a setting makes no sense.
    pub fn new(dataset: Arc<dyn Dataset>, pipeline: Pipeline, config: LoaderConfig) -> Result<Self> {
        let n = dataset.len();
        let sampler: Arc<dyn Sampler> =
            if config.shuffle { Arc::new(Shuffled { n, seed: config.seed }) } else { Arc::new(Sequential(n)) };
        Self::build(Source::Indexed(dataset, sampler), pipeline, config)
    }

    /// A loader that takes the samples a sampler names.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn with_sampler(
        dataset: Arc<dyn Dataset>,
        sampler: Arc<dyn Sampler>,
        pipeline: Pipeline,
        config: LoaderConfig,
    ) -> Result<Self> {
        Self::build(Source::Indexed(dataset, sampler), pipeline, config)
    }

    /// A loader of a stream's part for process `rank` of `world`. Starting in the middle of an epoch reads past what came
    /// before; samples that cannot be read are left out.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn streaming(
        stream: Arc<dyn Stream>,
        rank: usize,
        world: usize,
        pipeline: Pipeline,
        config: LoaderConfig,
    ) -> Result<Self> {
        if rank >= world {
            return Err(Error::Config(format!("process {rank} of {world}")));
        }
        Self::build(Source::Streamed { stream, rank, world }, pipeline, config)
    }

    fn build(source: Source, pipeline: Pipeline, config: LoaderConfig) -> Result<Self> {
        pipeline.check()?;
        let (bad, first_bad, spare, stats) = Default::default();
        let (decode, on_bad, bytes, collate) = (Decode::default(), OnBad::Replace, false, vec![]);
        let shared = Shared { source, pipeline, config, decode, on_bad, bytes, collate, bad, first_bad, spare, stats };
        let loader = Loader(Arc::new(shared));
        let (n, c) = (loader.samples(), &loader.0.config);
        if n == 0 || c.batch_size == 0 {
            return Err(Error::Config(format!("{n} samples in batches of {}: nothing to load", c.batch_size)));
        }
        if !(0.0..=1.0).contains(&c.max_bad) {
            return Err(Error::Config(format!("max_bad {} is not a share from 0 to 1", c.max_bad)));
        }
        if c.size.0 == 0 || c.size.1 == 0 {
            return Err(Error::Config(format!("images of {}x{}", c.size.0, c.size.1)));
        }
        if c.drop_last && n < c.batch_size {
            return Err(Error::Config(format!("a batch of {} is larger than the data set of {n}", c.batch_size)));
        }
        Ok(loader)
    }

    /// A loader of its own with one thing changed, and with counters that start anew.
    fn with(self, change: impl FnOnce(&mut Shared)) -> Self {
        let s = &*self.0;
        let mut shared = Shared {
            source: s.source.clone(),
            pipeline: s.pipeline.clone(),
            config: s.config.clone(),
            decode: s.decode,
            on_bad: s.on_bad,
            bytes: s.bytes,
            collate: s.collate.clone(),
            bad: Mutex::default(),
            first_bad: Mutex::default(),
            spare: Mutex::default(),
            stats: Stats::default(),
        };
        change(&mut shared);
        Loader(Arc::new(shared))
    }

    /// The same loader with other decoding.
    #[must_use]
    pub fn decoding(self, options: Decode) -> Self {
        self.with(|s| s.decode = options)
    }

    /// The same loader with another way with unreadable samples.
    #[must_use]
    pub fn on_bad(self, policy: OnBad) -> Self {
        self.with(|s| s.on_bad = policy)
    }

    /// The same loader, delivering bytes that the consumer normalises on its device: a quarter of the traffic.
    #[must_use]
    pub fn bytes(self) -> Self {
        self.with(|s| s.bytes = true)
    }

    /// The same loader with one more change to each batch.
    #[must_use]
    pub fn collating(self, collate: Arc<dyn Collate>) -> Self {
        self.with(|s| s.collate.push(collate))
    }

    /// Samples an epoch.
    pub fn samples(&self) -> usize {
        match &self.0.source {
            Source::Indexed(_, sampler) => sampler.len(),
            Source::Streamed { stream, world, .. } => stream.len(*world),
        }
    }

    /// Batches an epoch.
    pub fn steps(&self) -> usize {
        let (n, b) = (self.samples(), self.0.config.batch_size);
        if self.0.config.drop_last { n / b } else { n.div_ceil(b) }
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        match &self.0.source {
            Source::Indexed(data, _) => data.classes(),
            Source::Streamed { stream, .. } => stream.classes(),
        }
    }

    /// What happens to each sample.
    pub fn pipeline(&self) -> &Pipeline {
        &self.0.pipeline
    }

    /// Time spent by stage.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Distinct samples that could not be read so far.
    pub fn bad_samples(&self) -> usize {
        lock(&self.0.bad).len()
    }

    /// Gives a batch's buffer back, to be filled again.
    pub fn recycle(&self, pixels: Pixels) {
        let mut spare = lock(&self.0.spare);
        if spare.len() <= self.0.config.workers + 2 {
            spare.push(pixels);
        }
    }

    /// The batches of an epoch from `start` on.
    pub fn epoch(&self, epoch: usize, start: usize) -> Epoch {
        let (order, stream) = match &self.0.source {
            Source::Indexed(_, sampler) => (sampler.order(epoch), None),
            Source::Streamed { stream, rank, world } => {
                let samples = stream.open(epoch, *rank, *world).map(|s| s.skip(start * self.0.config.batch_size));
                let samples: Samples = match samples {
                    Ok(s) => Box::new(s),
                    Err(e) => Box::new(std::iter::once(Err(e))),
                };
                (vec![], Some(samples))
            }
        };
        let job = Arc::new(Job {
            shared: self.0.clone(),
            order,
            epoch,
            steps: self.steps(),
            state: Mutex::new(State { next: start, wanted: start, done: BTreeMap::new(), stop: false }),
            stream: Mutex::new(stream),
            bad: Mutex::default(),
            changed: Condvar::new(),
        });
        let workers = self.0.config.workers.min(self.steps().saturating_sub(start));
        let threads = (0..workers)
            .map(|_| {
                let job = job.clone();
                std::thread::spawn(move || job.work(workers))
            })
            .collect();
        Epoch { job, step: start, threads }
    }
}
/// The batches of one epoch, in order. Dropping it stops the workers.
pub struct Epoch {
    job: Arc<Job>,
    step: usize,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Epoch({} at step {} of {})", self.job.epoch, self.step, self.job.steps)
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        while self.step < self.job.steps {
            let step = self.step;
            self.step += 1;
            let start = Instant::now();
            let batch = if self.threads.is_empty() {
                let raw = lock(&self.job.stream).as_mut().map(|samples| self.job.pull(samples, step));
                self.job.batch(step, raw)
            } else {
                let mut s = lock(&self.job.state);
                loop {
                    if let Some(batch) = s.done.remove(&step) {
                        s.wanted = step + 1;
                        break batch;
                    }
                    s = self.job.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                }
            };
            self.job.changed.notify_all();
            self.job.shared.stats.wait.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
            if let Some(batch) = batch.transpose() {
                return Some(batch);
            }
        }
        None
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        lock(&self.job.state).stop = true;
        self.job.changed.notify_all();
        for t in self.threads.drain(..) {
            // Workers catch panics; nothing is lost if one ended otherwise.
            let _ = t.join();
        }
    }
}
#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
