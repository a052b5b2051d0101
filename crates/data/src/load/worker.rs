//! The work of one epoch: reading, decoding, augmenting, collating. A batch is made of units of a few samples, which
//! workers fill at the same time; what is in it depends on the epoch and the step alone.

use crate::error::{Error, Result};
use crate::load::batch::{Batch, Home, Moment, Pixels, UNLABELLED, compact, multi_hot, numbers};
use crate::load::extent;
use crate::load::pipeline::Out;
use crate::load::sampler::Pick;
use crate::load::shared::{OnBad, Shared, Source, lock};
use crate::sets::{Label, Sample};
use candlelight_kernels::Key;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long to wait before a sample is read again, after each try that failed for a reason that is likely to pass.
const WAITS: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(150)];

pub(crate) fn timed<R>(to: &AtomicU64, f: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let r = f();
    to.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    r
}

pub(crate) type Samples = Box<dyn Iterator<Item = Result<Sample>> + Send>;

/// One epoch of a loader.
pub(crate) struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) order: Vec<Pick>,
    pub(crate) epoch: usize,
    /// The samples of a stream, which are read in the order of the batches.
    pub(crate) stream: Mutex<Option<Samples>>,
    /// Set when nobody wants the batches any more.
    pub(crate) stop: AtomicBool,
}

/// The samples of a stream's batch as they were read, each with its place.
pub(crate) struct Raw {
    samples: Vec<Option<(usize, Result<Sample>)>>,
    /// Whether the stream is over, so that no further batch comes.
    pub(crate) ended: bool,
}

impl Raw {
    pub(crate) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

/// A sample that could not be read.
pub(crate) struct Bad {
    pub(crate) index: usize,
    pub(crate) message: String,
}

/// What came of a step: the batch, or none where no sample of it can be read, and the samples that could not be read, in
/// the order of the batch.
pub(crate) struct Made {
    pub(crate) batch: Result<Option<Batch>>,
    pub(crate) bad: Vec<Bad>,
}

/// What came of one place of a batch.
#[derive(Default)]
struct Taken {
    kept: Option<(usize, Label)>,
    bad: Vec<Bad>,
    fatal: Option<Error>,
}

/// A few places of a batch that one worker fills.
struct Unit<'a> {
    /// The first place, counted from the start of the batch.
    first: usize,
    raw: &'a mut [Option<(usize, Result<Sample>)>],
    slots: Slots<'a>,
    taken: &'a mut [Taken],
}

/// The pixels of a unit's places, one part per view.
enum Slots<'a> {
    F32(Vec<&'a mut [f32]>),
    U8(Vec<&'a mut [u8]>),
}

impl Slots<'_> {
    fn at(&mut self, view: usize, i: usize, len: usize) -> Out<'_> {
        let range = i * len..(i + 1) * len;
        match self {
            Slots::F32(v) => Out::F32(&mut v[view][range]),
            Slots::U8(v) => Out::U8(&mut v[view][range]),
        }
    }
}

/// Cuts the views of a batch into the parts of its units: view v of sample j lies at v n + j.
fn cut<T>(pixels: &mut [T], view: usize, unit: usize) -> Vec<Vec<&mut [T]>> {
    let mut parts: Vec<Vec<&mut [T]>> = (0..view.div_ceil(unit)).map(|_| vec![]).collect();
    for pixels in pixels.chunks_exact_mut(view) {
        for (part, pixels) in parts.iter_mut().zip(pixels.chunks_mut(unit)) {
            part.push(pixels);
        }
    }
    parts
}

impl Job {
    /// Whether the consumer is gone.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Reads the samples of a stream's batch.
    pub(crate) fn pull(&self, samples: &mut Samples, step: usize) -> Raw {
        let b = self.shared.config.batch_size;
        timed(&self.shared.stats.read, || {
            let mut raw = Raw { samples: vec![], ended: false };
            for place in step * b..(step + 1) * b {
                if self.stopped() {
                    break;
                }
                // A sample whose reading panics is an error like any other; the batch ends behind it.
                match caught(|| samples.next().transpose().map(|s| s.map(Ok)).or_else(|e| Ok(Some(Err(e))))) {
                    Ok(Some(sample)) => raw.samples.push(Some((place, sample))),
                    Ok(None) => {
                        raw.ended = true;
                        break;
                    }
                    Err(e) => {
                        raw.samples.push(Some((place, Err(e))));
                        break;
                    }
                }
            }
            // The last batch of a stream that is shorter than announced is incomplete like any other.
            if raw.ended && self.shared.config.drop_last {
                raw.samples.clear();
            }
            raw
        })
    }

    /// The batch of a step, made by the workers or else on this thread. A panic is an error.
    pub(crate) fn make(&self, step: usize, raw: Option<Raw>, workers: Option<&rayon::ThreadPool>) -> Made {
        let mut bad = vec![];
        let batch = std::panic::AssertUnwindSafe(|| self.batch(step, raw, workers, &mut bad));
        let batch = std::panic::catch_unwind(batch).unwrap_or_else(|panic| {
            let (epoch, said) = (self.epoch, said(&*panic));
            Err(Error::Config(format!("making the batch of epoch {epoch}, step {step} panicked: {said}")))
        });
        Made { batch, bad }
    }

    fn batch(
        &self,
        step: usize,
        raw: Option<Raw>,
        workers: Option<&rayon::ThreadPool>,
        bad: &mut Vec<Bad>,
    ) -> Result<Option<Batch>> {
        let shared = &*self.shared;
        let (c, p) = (&shared.config, &shared.pipeline);
        let start = step * c.batch_size;
        let mut raw = raw.map(|r| r.samples);
        let n = match &raw {
            Some(raw) => raw.len(),
            None => c.batch_size.min(self.order.len().saturating_sub(start)),
        };
        if n == 0 {
            return Ok(None);
        }
        let (views, len) = (shared.views(), shared.values());
        let home = Home::new(&shared.memory, shared.plan.buffer_bytes());
        let mut images = shared.memory.buffer(views * n * len, shared.bytes, home.limit());
        let mut taken: Vec<Taken> = (0..n).map(|_| Taken::default()).collect();
        // Several units per worker level out slow samples; a unit of several samples makes quick ones worth the switch.
        let unit = (n / (8 * c.workers.max(1))).clamp(1, 16);
        {
            let parts: Vec<Slots<'_>> = match &mut images {
                Pixels::F32(v) => cut(v, n * len, unit * len).into_iter().map(Slots::F32).collect(),
                Pixels::U8(v) => cut(v, n * len, unit * len).into_iter().map(Slots::U8).collect(),
            };
            let mut raw = raw.as_deref_mut().unwrap_or_default().chunks_mut(unit);
            let units = taken.chunks_mut(unit).zip(parts).enumerate().map(|(u, (taken, slots))| Unit {
                first: u * unit,
                raw: raw.next().unwrap_or_default(),
                slots,
                taken,
            });
            match workers {
                Some(workers) => workers.in_place_scope(|scope| {
                    for unit in units {
                        scope.spawn(move |_| self.fill(start, unit, len));
                    }
                }),
                None => units.for_each(|unit| self.fill(start, unit, len)),
            }
        }
        let (mut kept, mut indices, mut labels) = (vec![], vec![], vec![]);
        for (slot, taken) in taken.into_iter().enumerate() {
            bad.extend(taken.bad);
            if let Some(e) = taken.fatal {
                return Err(e);
            }
            if let Some((index, label)) = taken.kept {
                kept.push(slot);
                indices.push(index);
                labels.push(label);
            }
        }
        if indices.is_empty() {
            home.recycle(images);
            return Ok(None);
        }
        if kept.len() < n {
            compact(&mut images, views, n, &kept, len);
        }
        let several = labels.iter().any(|l| matches!(l, Label::Classes(_)));
        let targets = match numbers(&labels)? {
            Some(numbers) => Some(numbers),
            None => several.then(|| multi_hot(&labels, shared.source.classes().len())).transpose()?,
        };
        let labels = labels.iter().map(|l| l.class().unwrap_or(UNLABELLED)).collect();
        let (epoch, size, channels) = (self.epoch, c.size, p.channels());
        let batch = Batch { epoch, step, images, size, channels, views, labels, targets, indices, home };
        let key = Key::new(c.seed).child("batch").index(epoch as u64).index(step as u64);
        let moment = Moment { epoch, step, key };
        timed(&shared.stats.collate, || shared.collate.iter().try_fold(batch, |b, c| c.collate(b, &moment))).map(Some)
    }

    /// Fills the places of a unit, until nobody wants them any more.
    fn fill(&self, start: usize, mut unit: Unit<'_>, len: usize) {
        for (i, taken) in unit.taken.iter_mut().enumerate() {
            if self.stopped() {
                return;
            }
            let place = start + unit.first + i;
            match unit.raw.get_mut(i).and_then(Option::take) {
                Some((place, sample)) => self.given(place, sample, &mut unit.slots, i, len, taken),
                None => self.chosen(place, &mut unit.slots, i, len, taken),
            }
        }
    }

    fn key(&self) -> Key {
        Key::new(self.shared.config.seed).child("augment").index(self.epoch as u64)
    }

    /// Decodes and augments a sample of a stream into its slot.
    fn given(&self, place: usize, sample: Result<Sample>, slots: &mut Slots<'_>, i: usize, len: usize, to: &mut Taken) {
        let key = self.key().child("stream").index(place as u64);
        match sample.and_then(|s| self.prepare(s, &key, slots, i, len)) {
            Ok(label) => to.kept = Some((place, label)),
            Err(e) => self.refuse(place, format!("sample {place} of the stream"), e, to),
        }
    }

    /// The sample at a place of the order; where it cannot be read, the next one that can, or none.
    fn chosen(&self, place: usize, slots: &mut Slots<'_>, i: usize, len: usize, to: &mut Taken) {
        let shared = &*self.shared;
        let Source::Indexed(data, _) = &shared.source else { return };
        let (epoch_key, allowed) = (self.key(), shared.allowed_bad());
        let mut bad = HashSet::new();
        for ahead in 0..self.order.len() {
            let Pick { index, repeat } = self.order[(place + ahead) % self.order.len()];
            let index = index as usize;
            if index >= data.len() {
                to.fatal = Some(Error::Config(format!(
                    "the sampler names sample {index} of a data set of {} samples, which are numbered from 0",
                    data.len()
                )));
                return;
            }
            let key = epoch_key.index(index as u64);
            let key = if repeat > 0 { key.child("repeat").index(repeat.into()) } else { key };
            let sample = timed(&shared.stats.read, || self.retried(|| caught(|| data.get(index))));
            match sample.and_then(|s| self.prepare(s, &key, slots, i, len)) {
                Ok(label) => {
                    to.kept = Some((index, label));
                    return;
                }
                Err(e) => self.refuse(index, data.name(index), e, to),
            }
            bad.insert(index);
            // More bad samples than allowed are an error already, whatever else there is.
            if to.fatal.is_some() || shared.on_bad == OnBad::Skip || bad.len() > allowed || self.stopped() {
                return;
            }
        }
        to.fatal = Some(Error::Config("no sample of the data set can be read".into()));
    }

    /// What `read` gives; it is asked again where its error is likely to pass.
    fn retried(&self, read: impl Fn() -> Result<Sample>) -> Result<Sample> {
        for wait in WAITS {
            match read() {
                Err(e) if e.is_transient() && !self.stopped() => {
                    self.shared.stats.retries.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(wait);
                }
                done => return done,
            }
        }
        read()
    }

    /// Decodes and augments a sample into every view of its slot.
    fn prepare(&self, sample: Sample, key: &Key, slots: &mut Slots<'_>, i: usize, len: usize) -> Result<Label> {
        let shared = &*self.shared;
        let label = sample.label.clone();
        shared.memory.decoding(extent::bytes(&sample), || {
            let image = timed(&shared.stats.decode, || caught(|| sample.image(&shared.decode)))?;
            timed(&shared.stats.augment, || {
                caught(|| {
                    let views = shared.views();
                    let mut image = Some(image);
                    for view in 0..views {
                        // The last view has the image itself, the others a copy.
                        let last = view + 1 == views;
                        let Some(image) = (if last { image.take() } else { image.clone() }) else { break };
                        let out = slots.at(view, i, len);
                        match shared.fixed_views.get(view) {
                            Some(pipeline) => pipeline.apply(image, key, 0, out)?,
                            None => shared.pipeline.apply(image, key, view, out)?,
                        }
                    }
                    Ok(label)
                })
            })
        })
    }

    /// Notes a sample that cannot be read. An error of the settings, or of any sample where that is asked for, ends
    /// loading.
    fn refuse(&self, index: usize, name: String, error: Error, to: &mut Taken) {
        if matches!(error, Error::Config(_)) {
            to.fatal = Some(error);
            return;
        }
        let text = error.to_string();
        let message = if text.contains(&name) { text } else { format!("{name}: {text}") };
        if self.shared.on_bad == OnBad::Fail {
            to.fatal = Some(if error.to_string().contains(&name) { error } else { Error::Config(message) });
            return;
        }
        to.bad.push(Bad { index, message });
    }

    /// Counts the samples of a batch that could not be read, in the order of the batches, so that the count and its limit
    /// do not depend on the workers. `stream` has those of this epoch, for places of a stream mean nothing beyond it.
    ///
    /// # Errors
    /// When there are more than allowed.
    pub(crate) fn count(&self, bad: Vec<Bad>, stream: &mut HashSet<usize>) -> Result<()> {
        let shared = &*self.shared;
        let streamed = shared.source.streamed();
        for Bad { index, message } in bad {
            lock(&shared.first_bad).get_or_insert_with(|| message.clone());
            let mut known = lock(&shared.bad);
            let new = known.insert(index, message.clone()).is_none();
            let (new, count) = if streamed { (stream.insert(index), stream.len()) } else { (new, known.len()) };
            drop(known);
            if new {
                tracing::warn!("skipped: {message}");
            }
            let allowed = shared.allowed_bad();
            if count > allowed {
                let first = lock(&shared.first_bad).clone().unwrap_or(message);
                return Err(Error::TooManyBad { bad: count, total: shared.source.total(), allowed, first });
            }
        }
        Ok(())
    }
}

/// A panic in a decoder becomes this sample's error, not the program's end.
fn caught<R>(f: impl FnOnce() -> Result<R>) -> Result<R> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    result.unwrap_or_else(|panic| {
        Err(Error::Decode(format!("reading or decoding the sample panicked: {}", said(&*panic))))
    })
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("nothing was said about why")
}
