//! Batches in order from worker threads.
//!
//! What is in a batch is a function of (seed, epoch, step) alone: any number of workers gives the same batches, and an
//! epoch can start at any step at once. A bounded number of batches is in flight.

use crate::error::{Error, Result};
use crate::image::Decode;
use crate::load::batch::{Batch, Collate, Pixels};
use crate::load::pipeline::Pipeline;
use crate::load::sampler::{Sampler, Sequential, Shuffled};
use crate::load::shared::{LoaderConfig, OnBad, Shared, Source, Stats, lock};
use crate::load::worker::{Job, Samples, State};
use crate::sets::{Dataset, Stream};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Makes batches from a data set or a stream.
#[derive(Clone)]
pub struct Loader(Arc<Shared>);

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loader({} samples, {:?})", self.samples(), self.0.config)
    }
}

impl Loader {
    /// A loader of a data set, in order or shuffled.
    ///
    /// # Errors
    /// When the data set is empty or, with `drop_last`, smaller than one batch, or when a setting is out of range.
    pub fn new(dataset: Arc<dyn Dataset>, pipeline: Pipeline, config: LoaderConfig) -> Result<Self> {
        let n = dataset.len();
        let sampler: Arc<dyn Sampler> =
            if config.shuffle { Arc::new(Shuffled { n, seed: config.seed }) } else { Arc::new(Sequential(n)) };
        Self::build(Source::Indexed(dataset, sampler), pipeline, config)
    }

    /// A loader that takes the samples a sampler names.
    ///
    /// # Errors
    /// The same as for [`Loader::new`].
    pub fn with_sampler(
        dataset: Arc<dyn Dataset>,
        sampler: Arc<dyn Sampler>,
        pipeline: Pipeline,
        config: LoaderConfig,
    ) -> Result<Self> {
        Self::build(Source::Indexed(dataset, sampler), pipeline, config)
    }

    /// A loader of the part of a stream that process `rank` of `world` reads. An epoch that starts in the middle reads
    /// past the samples before it; samples that cannot be read are left out.
    ///
    /// # Errors
    /// The same as for [`Loader::new`].
    pub fn streaming(
        stream: Arc<dyn Stream>,
        rank: usize,
        world: usize,
        pipeline: Pipeline,
        config: LoaderConfig,
    ) -> Result<Self> {
        if rank >= world {
            return Err(Error::Config(format!("there is no process {rank} of {world}: processes are numbered from 0")));
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
            return Err(Error::Config(format!(
                "nothing to load: {n} samples in batches of {}, expected at least 1 of each",
                c.batch_size
            )));
        }
        if !(0.0..=1.0).contains(&c.max_bad) {
            return Err(Error::Config(format!("max_bad {} is not a share from 0 to 1", c.max_bad)));
        }
        if c.size.0 == 0 || c.size.1 == 0 {
            return Err(Error::Config(format!(
                "size: images of {}x{} have no pixels, expected sides of at least 1",
                c.size.0, c.size.1
            )));
        }
        if c.drop_last && n < c.batch_size {
            return Err(Error::Config(format!(
                "a batch of {} is larger than the data set of {n} samples: lower batch_size, or turn off drop_last",
                c.batch_size
            )));
        }
        Ok(loader)
    }

    /// A new loader with one thing changed, whose counters start anew.
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

    /// The same loader with other options of decoding.
    #[must_use]
    pub fn decoding(self, options: Decode) -> Self {
        self.with(|s| s.decode = options)
    }

    /// The same loader with another treatment of unreadable samples.
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

    /// Samples per epoch.
    pub fn samples(&self) -> usize {
        match &self.0.source {
            Source::Indexed(_, sampler) => sampler.len(),
            Source::Streamed { stream, world, .. } => stream.len(*world),
        }
    }

    /// Batches per epoch.
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

    /// The pipeline that each sample goes through.
    pub fn pipeline(&self) -> &Pipeline {
        &self.0.pipeline
    }

    /// The time spent in each stage.
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
