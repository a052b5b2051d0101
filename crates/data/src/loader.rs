//! Batches in order from worker threads.
//!
//! What is in a batch is a function of (seed, epoch, step) alone: any number of workers gives the same batches, and an
//! epoch can start at any step at once. A bounded number of batches is in flight.

use crate::dataset::{Dataset, Label, Sample, Stream};
use crate::decode::Decode;
use crate::error::{Error, Result};
use crate::pipeline::{Out, Pipeline};
use crate::sampler::{Pick, Sampler, Sequential, Shuffled};
use candlelight_kernels::Key;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The pixels of a batch, (views x B, C, H, W), the first view of every sample first.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// Normalised.
    F32(Vec<f32>),
    /// Bytes, to be normalised by the consumer.
    U8(Vec<u8>),
}

impl Pixels {
    /// The values as f32; bytes are normalised.
    pub fn into_f32(self, normalize: &crate::Normalize, plane: usize) -> Vec<f32> {
        match self {
            Pixels::F32(v) => v,
            Pixels::U8(v) => {
                let channels = normalize.mean.len();
                let one = |(c, p): (usize, &[u8])| p.iter().map(|v| normalize.value(c, *v)).collect::<Vec<f32>>();
                v.chunks_exact(plane.max(1)).enumerate().flat_map(|(i, p)| one((i % channels, p))).collect()
            }
        }
    }

    /// The values, where they are f32.
    ///
    /// # Errors
    /// When they are bytes.
    pub fn f32(self) -> Result<Vec<f32>> {
        match self {
            Pixels::F32(v) => Ok(v),
            Pixels::U8(_) => Err(Error::Config("this loader delivers bytes, f32 was expected".into())),
        }
    }
}

/// The label of a sample that has none, or several.
pub const UNLABELLED: u32 = u32::MAX;

/// A batch, ready to become tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The pixels.
    pub images: Pixels,
    /// Height and width.
    pub size: (usize, usize),
    /// Channels.
    pub channels: usize,
    /// Views of each sample.
    pub views: usize,
    /// Class of each sample; [`UNLABELLED`] where there is none.
    pub labels: Vec<u32>,
    /// (B, classes) where classes are mixed, smoothed or several a sample.
    pub targets: Option<Vec<f32>>,
    /// The samples' places in the data set (in a stream: in the epoch).
    pub indices: Vec<usize>,
}

/// When a batch is made, and a key for what is random about it.
#[derive(Debug)]
pub struct Moment {
    /// The epoch.
    pub epoch: usize,
    /// The step in it.
    pub step: usize,
    /// A key of (seed, epoch, step).
    pub key: Key,
}

/// Changes whole batches: mixup, labels, anything a user writes. Runs on the worker threads.
pub trait Collate: Send + Sync {
    /// The batch that training gets.
    ///
    /// # Errors
    /// What makes the batch unusable; it ends the epoch.
    fn collate(&self, batch: Batch, moment: &Moment) -> Result<Batch>;
}

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

fn timed<R>(to: &AtomicU64, f: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let r = f();
    to.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    r
}

/// Where samples come from.
#[derive(Clone)]
enum Source {
    Indexed(Arc<dyn Dataset>, Arc<dyn Sampler>),
    Streamed { stream: Arc<dyn Stream>, rank: usize, world: usize },
}

struct Shared {
    source: Source,
    pipeline: Pipeline,
    config: LoaderConfig,
    decode: Decode,
    on_bad: OnBad,
    bytes: bool,
    collate: Vec<Arc<dyn Collate>>,
    bad: Mutex<HashSet<usize>>,
    first_bad: Mutex<Option<String>>,
    spare: Mutex<Vec<Pixels>>,
    stats: Stats,
}

/// Makes batches from a data set or a stream.
#[derive(Clone)]
pub struct Loader(Arc<Shared>);

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loader({} samples, {:?})", self.samples(), self.0.config)
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
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

struct State {
    /// The next batch a worker takes.
    next: usize,
    /// The batch the consumer waits for.
    wanted: usize,
    done: BTreeMap<usize, Result<Option<Batch>>>,
    stop: bool,
}

type Samples = Box<dyn Iterator<Item = Result<Sample>> + Send>;

struct Job {
    shared: Arc<Shared>,
    order: Vec<Pick>,
    epoch: usize,
    steps: usize,
    state: Mutex<State>,
    stream: Mutex<Option<Samples>>,
    /// Places of this epoch that could not be read, for streams.
    bad: Mutex<HashSet<usize>>,
    changed: Condvar,
}

/// The samples of a batch as they were read: place, sample.
type Raw = Vec<(usize, Result<Sample>)>;

impl Job {
    fn work(&self, workers: usize) {
        loop {
            let (step, raw) = {
                // A stream is read in the order of the batches; decoding, which is what takes time, is not.
                let mut stream = lock(&self.stream);
                let mut s = lock(&self.state);
                while !s.stop && s.next < self.steps && s.next >= s.wanted + workers + 2 {
                    drop(stream);
                    s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                    drop(s);
                    stream = lock(&self.stream);
                    s = lock(&self.state);
                }
                if s.stop || s.next >= self.steps {
                    return;
                }
                s.next += 1;
                let step = s.next - 1;
                drop(s);
                (step, stream.as_mut().map(|samples| self.pull(samples, step)))
            };
            let batch = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.batch(step, raw)))
                .unwrap_or_else(|_| Err(Error::Config(format!("a loader thread panicked on batch {step}"))));
            lock(&self.state).done.insert(step, batch);
            self.changed.notify_all();
        }
    }

    fn pull(&self, samples: &mut Samples, step: usize) -> Raw {
        let b = self.shared.config.batch_size;
        timed(&self.shared.stats.read, || {
            let mut raw = Raw::new();
            for place in step * b..(step + 1) * b {
                // A stream that panics is over; its last sample is an error like any other.
                match caught(|| samples.next().transpose().map(|s| s.map(Ok)).or_else(|e| Ok(Some(Err(e))))) {
                    Ok(Some(sample)) => raw.push((place, sample)),
                    Ok(None) => break,
                    Err(e) => {
                        raw.push((place, Err(e)));
                        break;
                    }
                }
            }
            raw
        })
    }

    fn buffer(&self, n: usize) -> Pixels {
        let shared = &self.shared;
        let taken = lock(&shared.spare).pop();
        match taken {
            Some(Pixels::F32(mut v)) if !shared.bytes => {
                v.resize(n, 0.0);
                Pixels::F32(v)
            }
            Some(Pixels::U8(mut v)) if shared.bytes => {
                v.resize(n, 0);
                Pixels::U8(v)
            }
            _ if shared.bytes => Pixels::U8(vec![0; n]),
            _ => Pixels::F32(vec![0.0; n]),
        }
    }

    /// The batch of a step; none where no sample of it can be read.
    fn batch(&self, step: usize, raw: Option<Raw>) -> Result<Option<Batch>> {
        let (c, p) = (&self.shared.config, &self.shared.pipeline);
        let first = step * c.batch_size;
        let n = match &raw {
            Some(raw) => raw.len(),
            None => c.batch_size.min(self.order.len().saturating_sub(first)),
        };
        let (views, channels) = (p.views(), p.channels());
        let len = channels * c.size.0 * c.size.1;
        let mut images = self.buffer(views * n * len);
        let (mut indices, mut labels) = (vec![], vec![]);
        let mut raw = raw.into_iter().flatten();
        for i in 0..n {
            // View v of sample j lies at v n + j; samples that are left out leave no gap.
            let slot = indices.len();
            let taken = match raw.next() {
                Some((place, sample)) => self.given(place, sample, &mut images, n, slot, len)?,
                None => self.sample(first + i, &mut images, n, slot, len)?,
            };
            if let Some((index, label)) = taken {
                indices.push(index);
                labels.push(label);
            }
        }
        if indices.is_empty() {
            return Ok(None);
        }
        if indices.len() < n {
            squeeze(&mut images, views, n, indices.len(), len);
        }
        let several = labels.iter().any(|l| matches!(l, Label::Classes(_)));
        let targets = several.then(|| multi_hot(&labels, self.classes())).transpose()?;
        let labels = labels.iter().map(|l| l.class().unwrap_or(UNLABELLED)).collect();
        let batch = Batch { images, size: c.size, channels, views, labels, targets, indices };
        let key = Key::new(c.seed).child("batch").index(self.epoch as u64).index(step as u64);
        let moment = Moment { epoch: self.epoch, step, key };
        timed(&self.shared.stats.collate, || self.shared.collate.iter().try_fold(batch, |b, c| c.collate(b, &moment)))
            .map(Some)
    }

    fn classes(&self) -> usize {
        match &self.shared.source {
            Source::Indexed(data, _) => data.classes().len(),
            Source::Streamed { stream, .. } => stream.classes().len(),
        }
    }

    /// A stream's sample.
    fn given(
        &self,
        place: usize,
        sample: Result<Sample>,
        images: &mut Pixels,
        n: usize,
        slot: usize,
        len: usize,
    ) -> Result<Option<(usize, Label)>> {
        let key = self.key().child("stream").index(place as u64);
        match sample.and_then(|s| self.prepare(s, &key, images, n, slot, len)) {
            Ok(label) => Ok(Some((place, label))),
            Err(e @ Error::Config(_)) => Err(e),
            Err(e) => {
                self.report(place, format!("sample {place} of the stream"), e)?;
                Ok(None)
            }
        }
    }

    fn key(&self) -> Key {
        Key::new(self.shared.config.seed).child("augment").index(self.epoch as u64)
    }

    /// The sample at a place of the order; where it cannot be read, the next one that can, or none.
    fn sample(
        &self,
        place: usize,
        images: &mut Pixels,
        n: usize,
        slot: usize,
        len: usize,
    ) -> Result<Option<(usize, Label)>> {
        let shared = &self.shared;
        let Source::Indexed(data, _) = &shared.source else { return Ok(None) };
        let key = self.key();
        for ahead in 0..self.order.len() {
            let Pick { index, repeat } = self.order[(place + ahead) % self.order.len()];
            let i = index as usize;
            if i >= data.len() {
                return Err(Error::Config(format!("the sampler names sample {i} of a data set of {}", data.len())));
            }
            let key = key.index(i as u64);
            let key = if repeat > 0 { key.child("repeat").index(repeat.into()) } else { key };
            let sample = timed(&shared.stats.read, || caught(|| data.get(i)));
            match sample.and_then(|s| self.prepare(s, &key, images, n, slot, len)) {
                Ok(label) => return Ok(Some((i, label))),
                Err(e @ Error::Config(_)) => return Err(e),
                Err(e) => self.report(i, data.name(i), e)?,
            }
            if shared.on_bad == OnBad::Skip {
                return Ok(None);
            }
        }
        Err(Error::Config("no sample of the data set can be read".into()))
    }

    /// Decodes and augments a sample into every view of its slot.
    fn prepare(
        &self,
        sample: Sample,
        key: &Key,
        images: &mut Pixels,
        n: usize,
        slot: usize,
        len: usize,
    ) -> Result<Label> {
        let (stats, p) = (&self.shared.stats, &self.shared.pipeline);
        let label = sample.label.clone();
        let image = timed(&stats.decode, || caught(|| sample.image(&self.shared.decode)))?;
        timed(&stats.augment, || {
            caught(|| {
                let views = p.views();
                for view in 0..views {
                    let at = (view * n + slot) * len..(view * n + slot + 1) * len;
                    let out = match images {
                        Pixels::F32(v) => Out::F32(&mut v[at]),
                        Pixels::U8(v) => Out::U8(&mut v[at]),
                    };
                    p.apply(image.clone(), key, view, out)?;
                }
                Ok(label)
            })
        })
    }

    fn report(&self, i: usize, name: String, error: Error) -> Result<()> {
        if self.shared.on_bad == OnBad::Fail {
            return Err(if error.to_string().contains(&name) {
                error
            } else {
                Error::Config(format!("{name}: {error}"))
            });
        }
        let total = match &self.shared.source {
            Source::Indexed(data, _) => data.len(),
            Source::Streamed { stream, world, .. } => stream.len(*world),
        };
        let text = error.to_string();
        let text = if text.contains(&name) { text } else { format!("{name}: {text}") };
        // A stream's places say nothing beyond their epoch.
        let streamed = matches!(self.shared.source, Source::Streamed { .. });
        let mut bad = lock(if streamed { &self.bad } else { &self.shared.bad });
        if streamed {
            lock(&self.shared.bad).insert(i);
        }
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

/// A panic in a decoder becomes this sample's error, not the program's end.
fn caught<R>(f: impl FnOnce() -> Result<R>) -> Result<R> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    result.unwrap_or_else(|_| Err(Error::Decode("reading or decoding it panicked".into())))
}

/// Moves the views of `kept` samples together.
fn squeeze(images: &mut Pixels, views: usize, n: usize, kept: usize, len: usize) {
    fn run<T: Copy>(v: &mut Vec<T>, views: usize, n: usize, kept: usize, len: usize) {
        for view in 1..views {
            v.copy_within(view * n * len..(view * n + kept) * len, view * kept * len);
        }
        v.truncate(views * kept * len);
    }
    match images {
        Pixels::F32(v) => run(v, views, n, kept, len),
        Pixels::U8(v) => run(v, views, n, kept, len),
    }
}

fn multi_hot(labels: &[Label], classes: usize) -> Result<Vec<f32>> {
    let mut out = vec![0.0; labels.len() * classes];
    for (row, label) in out.chunks_exact_mut(classes.max(1)).zip(labels) {
        let all = match label {
            Label::None => &[],
            Label::Class(c) => std::slice::from_ref(c),
            Label::Classes(c) => c.as_slice(),
        };
        for c in all {
            match row.get_mut(*c as usize) {
                Some(v) => *v = 1.0,
                None => return Err(Error::Config(format!("label {c} of a data set that names {classes} classes"))),
            }
        }
    }
    if classes == 0 {
        return Err(Error::Config("several labels a sample, but the data set names no classes".into()));
    }
    Ok(out)
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
mod tests {
    use super::*;
    use crate::dataset::{InOrder, Picture, Repeat};
    use crate::image::Image;
    use crate::mix::Mix;
    use crate::pipeline::{Normalize, Splits};
    use crate::sampler::RepeatedAugmentation;

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
            Ok(Sample { picture: Picture::Image(image), label: Label::Class(i as u32) })
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
    fn the_ways_with_bad_samples_do_what_they_say() {
        let made = || Made { n: 30, bad: vec![7, 11], panics: false };
        let l = loader(made(), 2, 0.5).unwrap().on_bad(OnBad::Skip);
        let sizes: Vec<usize> = all(&l, 2, 0).iter().map(|b| b.indices.len()).collect();
        assert!(sizes.iter().sum::<usize>() <= 28 && sizes.contains(&3) | sizes.contains(&2), "{sizes:?}");
        let e = loader(made(), 2, 0.5).unwrap().on_bad(OnBad::Fail).epoch(0, 0).find_map(Result::err);
        assert!(e.is_none_or(|e| e.to_string().contains("made/")));
        let strict = loader(Made { n: 30, bad: (0..30).collect(), panics: false }, 0, 1.0).unwrap().on_bad(OnBad::Fail);
        assert!(strict.epoch(0, 0).next().unwrap().unwrap_err().to_string().contains("made to fail"));
    }

    #[test]
    fn a_stream_gives_the_same_batches_for_any_workers_and_start_and_its_parts_are_disjoint() {
        let stream = |bad: Vec<usize>| Arc::new(InOrder(Arc::new(Made { n: 37, bad, panics: false })));
        let make = |workers: usize, rank: usize, world: usize| {
            let l = loader(Made { n: 30, bad: vec![], panics: false }, workers, 0.5).unwrap();
            let (p, c) = (l.pipeline().clone(), LoaderConfig { drop_last: false, ..l.0.config.clone() });
            Loader::streaming(stream(vec![5]), rank, world, p, c).unwrap()
        };
        let want = all(&make(0, 0, 1), 1, 0);
        assert_eq!(want.len(), 10);
        assert_eq!(want[1].indices, [4, 6, 7], "what cannot be read is left out");
        for workers in [1, 3] {
            assert_eq!(all(&make(workers, 0, 1), 1, 0), want);
            assert_eq!(all(&make(workers, 0, 1), 1, 6), want[6..]);
        }
        let labels =
            |rank: usize| -> Vec<u32> { all(&make(2, rank, 2), 0, 0).into_iter().flat_map(|b| b.labels).collect() };
        let (a, b) = (labels(0), labels(1));
        assert!(a.iter().all(|l| l % 2 == 0) && b.iter().all(|l| l % 2 == 1));
        let thrice = Repeat::new(InOrder(Arc::new(Made { n: 5, bad: vec![], panics: false })), 3);
        assert_eq!((Stream::len(&thrice, 1), thrice.open(0, 0, 1).unwrap().count()), (15, 15));
    }

    #[test]
    fn streams_that_panic_or_end_early_and_unreadable_batches_end_nothing_else() {
        let c = LoaderConfig {
            drop_last: false,
            ..loader(Made { n: 30, bad: vec![], panics: false }, 0, 0.5).unwrap().0.config.clone()
        };
        let p = Pipeline::mae_pretrain((4, 4), Normalize::imagenet());
        for workers in [0, 1, 3] {
            let c = LoaderConfig { workers, ..c.clone() };
            let make = |bad: Vec<usize>, panics: bool| {
                let stream = Arc::new(InOrder(Arc::new(Made { n: 37, bad, panics })));
                Loader::streaming(stream, 0, 1, p.clone(), c.clone()).unwrap()
            };
            // Sample 3 panics: it is left out, and the stream goes on behind it.
            let all_but_one: usize = all(&make(vec![], true), 0, 0).iter().map(|b| b.indices.len()).sum();
            assert_eq!(all_but_one, 36, "{workers} workers");
            let l = make(vec![36], false);
            assert_eq!(all(&l, 0, 0).len(), 9, "the last batch has nothing in it");
            for epoch in 0..30 {
                all(&l, epoch, 0); // one bad sample an epoch never adds up
            }
        }
        let e = Loader::with_sampler(
            Arc::new(Made { n: 8, bad: vec![], panics: false }),
            Arc::new(Sequential(20)),
            p.clone(),
            c.clone(),
        );
        let e = e.unwrap().epoch(0, 0).find_map(Result::err).unwrap().to_string();
        assert!(e.contains("sample 8 of a data set of 8"), "{e}");
        let bad = LoaderConfig { max_bad: f64::NAN, ..c };
        assert!(Loader::new(Arc::new(Made { n: 8, bad: vec![], panics: false }), p, bad).is_err());
    }

    #[test]
    fn repeats_are_augmented_anew_and_views_and_mixing_reach_the_batch() {
        let data = || Arc::new(Made { n: 8, bad: vec![], panics: false });
        let base = loader(Made { n: 8, bad: vec![], panics: false }, 2, 0.0).unwrap();
        let (mut p, c) = (base.pipeline().clone(), base.0.config.clone());
        let sampler = Arc::new(RepeatedAugmentation { n: 8, seed: 1, repeats: 4 });
        let l = Loader::with_sampler(data(), sampler, p.clone(), c.clone()).unwrap();
        let batch = all(&l, 0, 0).remove(0);
        let Pixels::F32(v) = &batch.images else { panic!() };
        assert!(batch.indices.iter().all(|i| *i == batch.indices[0]));
        assert!(v.chunks(48).skip(1).any(|o| o != &v[..48]), "the same sample four times, not the same pixels");

        p.splits = Some(Splits { count: 3, shared: 2 });
        p.transforms.push(crate::Transform::GaussianNoise { std: 0.2, p: 1.0 });
        let l = Loader::new(data(), p, c.clone()).unwrap();
        let batch = all(&l, 0, 0).remove(0);
        let Pixels::F32(v) = &batch.images else { panic!() };
        assert_eq!((v.len(), batch.views, batch.labels.len()), (3 * 4 * 48, 3, 4));

        let mix = || Arc::new(Mix::mae_finetune(8));
        let l = Loader::new(data(), base.pipeline().clone(), c.clone()).unwrap().collating(mix()).bytes();
        let batch = all(&l, 0, 0).remove(0);
        assert!(matches!(&batch.images, Pixels::U8(v) if v.len() == 4 * 48));
        assert_eq!(batch.targets.as_ref().unwrap().len(), 32);
        let again = Loader::new(data(), base.pipeline().clone(), c).unwrap().collating(mix()).bytes();
        l.recycle(batch.images.clone());
        assert_eq!(all(&again, 0, 0).remove(0), batch);
        assert_eq!(all(&l, 0, 0).remove(0), batch, "a used buffer is filled anew");
        let f32s = batch.images.into_f32(&Normalize::imagenet(), 16);
        assert!(f32s.len() == 192 && f32s.iter().all(|v| v.abs() < 3.0));
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
