//! Batches in order from worker threads.
//!
//! What is in a batch is a function of (seed, epoch, step) alone: any number of workers gives the same batches, and an
//! epoch can start at any step at once. A bounded number of batches is in flight.

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::transform::Pipeline;
use candlelight_kernels::Key;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The order of an epoch: a fresh permutation of `0..n` for every (seed, epoch).
pub fn order(seed: u64, epoch: usize, n: usize) -> Vec<u32> {
    Key::new(seed).child("order").index(epoch as u64).permutation(n)
}

/// A batch, ready to become tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// (B, C, H, W), normalised.
    pub images: Vec<f32>,
    /// One a sample; 0 where there is none.
    pub labels: Vec<u32>,
    /// The samples' places in the data set.
    pub indices: Vec<usize>,
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
    /// Shuffle each epoch.
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
    /// Reading and decoding.
    pub read: AtomicU64,
    /// Augmenting and normalising.
    pub augment: AtomicU64,
    /// The consumer waiting for a batch.
    pub wait: AtomicU64,
}

struct Shared {
    dataset: Arc<dyn Dataset>,
    pipeline: Pipeline,
    config: LoaderConfig,
    bad: Mutex<HashSet<usize>>,
    first_bad: Mutex<Option<String>>,
    stats: Stats,
}

/// Makes batches from a data set.
#[derive(Clone)]
pub struct Loader(Arc<Shared>);

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loader({} samples, {:?})", self.0.dataset.len(), self.0.config)
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loader {
    /// Checks that there is at least one batch.
    ///
    /// # Errors
    /// When the data set is empty, or smaller than a batch that may not be incomplete.
    pub fn new(dataset: Arc<dyn Dataset>, pipeline: Pipeline, config: LoaderConfig) -> Result<Self> {
        let n = dataset.len();
        if n == 0 || config.batch_size == 0 {
            return Err(Error::Config(format!("{n} samples in batches of {}: nothing to load", config.batch_size)));
        }
        let (mean, std) = (pipeline.normalize.mean.len(), pipeline.normalize.std.len());
        if mean == 0 || mean != std || config.size.0 == 0 || config.size.1 == 0 {
            let (h, w) = config.size;
            return Err(Error::Config(format!("images of {h}x{w} with {mean} means and {std} deviations")));
        }
        if config.drop_last && n < config.batch_size {
            return Err(Error::Config(format!("a batch of {} is larger than the data set of {n}", config.batch_size)));
        }
        let (bad, first_bad, stats) = Default::default();
        Ok(Loader(Arc::new(Shared { dataset, pipeline, config, bad, first_bad, stats })))
    }

    /// Batches an epoch.
    pub fn steps(&self) -> usize {
        let (n, b) = (self.0.dataset.len(), self.0.config.batch_size);
        if self.0.config.drop_last { n / b } else { n.div_ceil(b) }
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.0.dataset
    }

    /// Time spent by stage.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Distinct samples that could not be read so far. Each was replaced by the next readable one of its epoch's order.
    pub fn bad_samples(&self) -> usize {
        lock(&self.0.bad).len()
    }

    /// The batches of an epoch from `start` on.
    pub fn epoch(&self, epoch: usize, start: usize) -> Epoch {
        let n = self.0.dataset.len();
        let order = if self.0.config.shuffle { order(self.0.config.seed, epoch, n) } else { (0..n as u32).collect() };
        let job = Arc::new(Job {
            shared: self.0.clone(),
            order,
            epoch,
            steps: self.steps(),
            state: Mutex::new(State { next: start, wanted: start, done: BTreeMap::new(), stop: false }),
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

struct State {
    /// The next batch a worker takes.
    next: usize,
    /// The batch the consumer waits for.
    wanted: usize,
    done: BTreeMap<usize, Result<Batch>>,
    stop: bool,
}

struct Job {
    shared: Arc<Shared>,
    order: Vec<u32>,
    epoch: usize,
    steps: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Job {
    fn work(&self, workers: usize) {
        loop {
            let step = {
                let mut s = lock(&self.state);
                while !s.stop && s.next < self.steps && s.next >= s.wanted + workers + 2 {
                    s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                }
                if s.stop || s.next >= self.steps {
                    return;
                }
                s.next += 1;
                s.next - 1
            };
            let batch = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.batch(step)))
                .unwrap_or_else(|_| Err(Error::Config(format!("a loader thread panicked on batch {step}"))));
            lock(&self.state).done.insert(step, batch);
            self.changed.notify_all();
        }
    }

    fn batch(&self, step: usize) -> Result<Batch> {
        let c = &self.shared.config;
        let first = step * c.batch_size;
        let n = c.batch_size.min(self.order.len() - first);
        let len = self.shared.pipeline.channels() * c.size.0 * c.size.1;
        let mut batch = Batch { images: vec![0.0; n * len], labels: vec![], indices: vec![] };
        for (i, out) in batch.images.chunks_exact_mut(len).enumerate() {
            let (index, label) = self.sample(first + i, out)?;
            batch.labels.push(label);
            batch.indices.push(index);
        }
        Ok(batch)
    }

    /// The sample at a place of the order, or the next readable one after it.
    fn sample(&self, place: usize, out: &mut [f32]) -> Result<(usize, u32)> {
        let shared = &self.shared;
        let key = Key::new(shared.config.seed).child("augment").index(self.epoch as u64);
        for ahead in 0..self.order.len() {
            let i = self.order[(place + ahead) % self.order.len()] as usize;
            if lock(&shared.bad).contains(&i) {
                continue;
            }
            // A panic in a decoder becomes this sample's error, not the program's end.
            let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let start = Instant::now();
                let sample = shared.dataset.get(i)?;
                let read = Instant::now();
                shared.pipeline.apply(sample.image, &key.index(i as u64), out)?;
                shared.stats.read.fetch_add((read - start).as_nanos() as u64, Ordering::Relaxed);
                shared.stats.augment.fetch_add(read.elapsed().as_nanos() as u64, Ordering::Relaxed);
                Ok(sample.label.unwrap_or(0))
            }));
            let error: Error = match attempt {
                Ok(Ok(label)) => return Ok((i, label)),
                Ok(Err(e @ Error::Config(_))) => return Err(e),
                Ok(Err(e)) => e,
                Err(_) => Error::Decode("the decoder panicked".into()),
            };
            self.report(i, &error)?;
        }
        Err(Error::Config("no sample of the data set can be read".into()))
    }

    fn report(&self, i: usize, error: &Error) -> Result<()> {
        let (name, total) = (self.shared.dataset.name(i), self.order.len());
        let text = error.to_string();
        let text = if text.contains(&name) { text } else { format!("{name}: {text}") };
        let mut bad = lock(&self.shared.bad);
        if bad.insert(i) {
            tracing::warn!("skipped: {text}");
        }
        let first = lock(&self.shared.first_bad).get_or_insert(text).clone();
        let allowed = (self.shared.config.max_bad * total as f64) as usize;
        if bad.len() > allowed {
            return Err(Error::TooManyBad { bad: bad.len(), total, allowed, first });
        }
        Ok(())
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
        if self.step >= self.job.steps {
            return None;
        }
        let step = self.step;
        self.step += 1;
        let start = Instant::now();
        let batch = if self.threads.is_empty() {
            self.job.batch(step)
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
        Some(batch)
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
mod tests {
    use super::*;
    use crate::dataset::{Image, Sample};
    use crate::transform::Normalize;

    struct Made {
        n: usize,
        bad: Vec<usize>,
        panics: bool,
    }

    impl Dataset for Made {
        fn len(&self) -> usize {
            self.n
        }
        fn get(&self, i: usize) -> Result<Sample> {
            assert!(!(self.panics && i == 3), "made to panic");
            if self.bad.contains(&i) {
                return Err(Error::Decode("made to fail".into()));
            }
            let image = Image::new(9, 7, 3, (0..9 * 7 * 3).map(|p| (p * (i + 1) % 256) as u8).collect())?;
            Ok(Sample { image, label: Some(i as u32) })
        }
        fn name(&self, i: usize) -> String {
            format!("made/{i}.jpg")
        }
    }

    fn loader(data: Made, workers: usize, max_bad: f64) -> Result<Loader> {
        let pipeline = Pipeline::mae_pretrain((4, 4), Normalize::imagenet());
        let config =
            LoaderConfig { batch_size: 4, size: (4, 4), seed: 5, shuffle: true, drop_last: true, workers, max_bad };
        Loader::new(Arc::new(data), pipeline, config)
    }

    fn all(l: &Loader, epoch: usize, start: usize) -> Vec<Batch> {
        l.epoch(epoch, start).map(|b| b.unwrap()).collect()
    }

    #[test]
    fn workers_and_starting_points_do_not_change_the_batches() {
        let made = || Made { n: 30, bad: vec![7, 11], panics: false };
        let want = all(&loader(made(), 0, 0.5).unwrap(), 2, 0);
        assert_eq!(want.len(), 7);
        for workers in [1, 2, 5, 8] {
            let l = loader(made(), workers, 0.5).unwrap();
            assert_eq!(all(&l, 2, 0), want, "{workers} workers");
            assert_eq!(all(&l, 2, 5), want[5..]);
            assert!((1..=2).contains(&l.bad_samples()));
            assert_ne!(all(&l, 3, 0), want);
        }
    }

    #[test]
    fn an_epoch_yields_each_sample_once() {
        let l = loader(Made { n: 32, bad: vec![], panics: false }, 3, 0.0).unwrap();
        let mut seen: Vec<usize> = all(&l, 0, 0).into_iter().flat_map(|b| b.indices).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..32));
    }

    #[test]
    fn bad_samples_are_counted_named_and_bounded_and_panics_are_caught() {
        let l = loader(Made { n: 30, bad: vec![1, 2, 4, 8, 16], panics: false }, 2, 0.05).unwrap();
        let e = l.epoch(0, 0).find_map(Result::err).unwrap().to_string();
        assert!(e.contains("of 30 samples") && e.contains("made/") && e.contains("made to fail"), "{e}");
        let l = loader(Made { n: 30, bad: vec![], panics: true }, 2, 0.1).unwrap();
        assert_eq!(all(&l, 0, 0).len(), 7);
        assert_eq!(l.bad_samples(), 1);
    }

    #[test]
    fn batches_larger_than_the_data_and_empty_data_are_refused() {
        let e = loader(Made { n: 3, bad: vec![], panics: false }, 0, 0.0).unwrap_err().to_string();
        assert!(e.contains("batch of 4") && e.contains("of 3"), "{e}");
        assert!(loader(Made { n: 0, bad: vec![], panics: false }, 0, 0.0).is_err());
    }

    #[test]
    fn dropping_an_epoch_early_stops_its_workers() {
        let l = loader(Made { n: 400, bad: vec![], panics: false }, 4, 0.0).unwrap();
        let mut e = l.epoch(0, 0);
        e.next().unwrap().unwrap();
        drop(e);
        assert_eq!(Arc::strong_count(&l.0), 1, "a worker is still there");
    }
}
