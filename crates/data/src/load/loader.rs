//! Batches in order from worker threads.
//!
//! What is in a batch is a function of (seed, epoch, step) alone: any number of workers and any budget of memory give the
//! same batches, and an epoch can start at any step at once. The bytes of the batches in memory are bounded.

use crate::error::{Error, Result};
use crate::image::Decode;
use crate::load::batch::{Collate, Home, Pixels};
use crate::load::epoch::Epoch;
use crate::load::memory::{self, LoadPlan};
use crate::load::pipeline::Pipeline;
use crate::load::pool::Pool;
use crate::load::sampler::{Sampler, Sequential, Shuffled};
use crate::load::shared::{BadSample, LoaderConfig, OnBad, Shared, Source, Stats, lock};
use crate::load::worker::{Job, Samples};
use crate::sets::{Dataset, Stream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// More threads than any machine has use for.
const MOST_WORKERS: usize = 1024;

/// Makes batches from a data set or a stream. Its threads are started with the first epoch and kept for the next ones;
/// clones share them, and they end with the last clone and epoch.
#[derive(Clone)]
pub struct Loader {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    /// Whether the pool is that of another loader.
    joined: bool,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loader({} samples, {:?})", self.samples(), self.shared.config)
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
        let n = match &source {
            Source::Indexed(_, sampler) => sampler.len(),
            Source::Streamed { stream, world, .. } => stream.len(*world),
        };
        let c = &config;
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
        let batch_bytes = batch_bytes(&config, &pipeline, pipeline.views(), false)?;
        let memory = Arc::new(memory::budget(&config, batch_bytes)?);
        let plan = memory::plan(&config, batch_bytes, &memory)?;
        if config.workers > MOST_WORKERS {
            return Err(Error::Config(format!("workers {}: expected at most {MOST_WORKERS}", config.workers)));
        }
        let pool = Arc::new(Pool::new(memory.clone(), config.workers, config.batch_size));
        let shared = Shared {
            source,
            pipeline,
            fixed_views: vec![],
            config,
            decode: Decode::default(),
            on_bad: OnBad::default(),
            bytes: false,
            collate: vec![],
            memory,
            plan,
            bad: Mutex::default(),
            first_bad: Mutex::default(),
            stats: Stats::default(),
        };
        Ok(Loader { shared: Arc::new(shared), pool, joined: false })
    }

    /// A new loader with one thing changed, whose counters start anew.
    fn with(self, change: impl FnOnce(&mut Shared)) -> Self {
        let s = &*self.shared;
        let mut shared = Shared {
            source: s.source.clone(),
            pipeline: s.pipeline.clone(),
            fixed_views: s.fixed_views.clone(),
            config: s.config.clone(),
            decode: s.decode,
            on_bad: s.on_bad,
            bytes: s.bytes,
            collate: s.collate.clone(),
            memory: s.memory.clone(),
            plan: s.plan,
            bad: Mutex::default(),
            first_bad: Mutex::default(),
            stats: Stats::default(),
        };
        change(&mut shared);
        Loader { shared: Arc::new(shared), pool: self.pool, joined: self.joined }
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
        self.with(|s| {
            if !s.bytes {
                s.bytes = true;
                s.plan.batch_bytes /= 4;
            }
        })
    }

    /// The same loader, whose batches have one view of every sample from each of these pipelines: an image is decoded
    /// once and prepared several times, as for test-time augmentation. Every view draws from the same key.
    ///
    /// # Errors
    /// When there is no pipeline, when they differ in normalisation from the loader's own or have several views
    /// themselves, or when two such batches do not fit in memory.
    pub fn viewing(self, pipelines: Vec<Pipeline>) -> Result<Self> {
        if pipelines.is_empty() {
            return Err(Error::Config("no pipeline to view samples by, expected at least 1".into()));
        }
        for p in &pipelines {
            p.check()?;
            if p.normalize != self.shared.pipeline.normalize {
                return Err(Error::Config(format!(
                    "a view is normalised by {:?}, but the loader's own pipeline by {:?}: all views of a batch need the \
                     same normalisation",
                    p.normalize, self.shared.pipeline.normalize
                )));
            }
            if p.splits.is_some() {
                return Err(Error::Config(
                    "splits: a pipeline with several views cannot be one view of several: leave out one of the two"
                        .into(),
                ));
            }
        }
        let s = &self.shared;
        let batch_bytes = batch_bytes(&s.config, &s.pipeline, pipelines.len(), s.bytes)?;
        // Larger batches need a larger budget, unless the loader shares another one's, which must hold them.
        let pool = if self.joined {
            self.pool.clone()
        } else {
            let memory = Arc::new(memory::budget(&s.config, batch_bytes)?);
            Arc::new(Pool::new(memory, s.config.workers, s.config.batch_size))
        };
        let plan = memory::plan(&s.config, batch_bytes, pool.memory())?;
        let memory = pool.memory().clone();
        let loader = self.with(|s| (s.fixed_views, s.plan, s.memory) = (pipelines, plan, memory));
        Ok(Loader { pool, ..loader })
    }

    /// The same loader with the threads and the memory of `other`, instead of its own: however many loaders share, there
    /// are no more threads, and batches take no more memory, except that every open epoch is always allowed one batch.
    ///
    /// # Errors
    /// When two batches of this loader do not fit into the memory of `other`.
    pub fn sharing(self, other: &Loader) -> Result<Self> {
        let pool = other.pool.clone();
        let config = LoaderConfig { workers: pool.workers(), ..self.shared.config.clone() };
        let plan = memory::plan(&config, self.shared.plan.batch_bytes, pool.memory())?;
        let memory = pool.memory().clone();
        let loader = self.with(|s| (s.config, s.plan, s.memory) = (config, plan, memory));
        Ok(Loader { pool, joined: true, ..loader })
    }

    /// The same loader with one more change to each batch.
    #[must_use]
    pub fn collating(self, collate: Arc<dyn Collate>) -> Self {
        self.with(|s| s.collate.push(collate))
    }

    /// The data set it loads; `None` for a stream.
    pub fn dataset(&self) -> Option<Arc<dyn Dataset>> {
        match &self.shared.source {
            Source::Indexed(data, _) => Some(data.clone()),
            Source::Streamed { .. } => None,
        }
    }

    /// Samples per epoch.
    pub fn samples(&self) -> usize {
        match &self.shared.source {
            Source::Indexed(_, sampler) => sampler.len(),
            Source::Streamed { stream, world, .. } => stream.len(*world),
        }
    }

    /// Batches per epoch.
    pub fn steps(&self) -> usize {
        let (n, b) = (self.samples(), self.shared.config.batch_size);
        if self.shared.config.drop_last { n / b } else { n.div_ceil(b) }
    }

    /// Samples per batch.
    pub fn batch_size(&self) -> usize {
        self.shared.config.batch_size
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        self.shared.source.classes()
    }

    /// The pipeline that each sample goes through.
    pub fn pipeline(&self) -> &Pipeline {
        &self.shared.pipeline
    }

    /// How many threads there are, how many batches are made ahead, and how much memory that takes at most. It can be
    /// printed.
    pub fn plan(&self) -> LoadPlan {
        self.shared.plan
    }

    /// The time spent in each stage.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Distinct samples that could not be read, in the batches that were delivered so far.
    pub fn bad_samples(&self) -> usize {
        lock(&self.shared.bad).len()
    }

    /// The samples that could not be read, in the batches that were delivered so far, by their indices.
    pub fn bad(&self) -> Vec<BadSample> {
        let one = |(index, message): (&usize, &String)| BadSample { index: *index, message: message.clone() };
        lock(&self.shared.bad).iter().map(one).collect()
    }

    /// Gives a batch's buffer back, to be filled again; the same as [`Home::recycle`].
    pub fn recycle(&self, pixels: Pixels) {
        Home::new(&self.shared.memory, self.shared.plan.buffer_bytes()).recycle(pixels);
    }

    /// The batches of an epoch from `start` on.
    pub fn epoch(&self, epoch: usize, start: usize) -> Epoch {
        let (order, stream) = match &self.shared.source {
            Source::Indexed(_, sampler) => (sampler.order(epoch), None),
            Source::Streamed { stream, rank, world } => {
                let samples = stream.open(epoch, *rank, *world).map(|s| s.skip(start * self.batch_size()).fuse());
                let samples: Samples = match samples {
                    Ok(s) => Box::new(s),
                    Err(e) => Box::new(std::iter::once(Err(e))),
                };
                (vec![], Some(samples))
            }
        };
        let (shared, stream, stop) = (self.shared.clone(), Mutex::new(stream), AtomicBool::new(false));
        let job = Arc::new(Job { shared, order, epoch, stream, stop });
        Epoch::new(job, &self.pool, start, self.steps())
    }
}

#[cfg(test)]
impl Loader {
    /// The number of threads that run.
    pub(crate) fn threads(&self) -> Arc<std::sync::atomic::AtomicUsize> {
        self.pool.alive.clone()
    }

    pub(crate) fn memory(&self) -> &memory::Memory {
        self.pool.memory()
    }
}

/// The bytes of a batch's pixels.
fn batch_bytes(config: &LoaderConfig, pipeline: &Pipeline, views: usize, bytes: bool) -> Result<u64> {
    let factors = [pipeline.channels(), config.size.0, config.size.1, views, if bytes { 1 } else { 4 }];
    let product = factors.iter().try_fold(config.batch_size as u64, |p, f| p.checked_mul(*f as u64));
    product.filter(|p| *p <= isize::MAX as u64).ok_or_else(|| {
        Error::Config(format!(
            "a batch of {} samples of {}x{} pixels is larger than any memory: lower batch_size or size",
            config.batch_size, config.size.0, config.size.1
        ))
    })
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
