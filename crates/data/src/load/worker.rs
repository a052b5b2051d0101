//! The work of one epoch: taking steps, reading, decoding, augmenting, collating.
//!
//! Two locks: `stream` before `state`, never the other way; the consumer takes `stream` only without workers. Whoever changes
//! `state` notifies `changed`.

use crate::error::{Error, Result};
use crate::load::batch::{Batch, Moment, Pixels, UNLABELLED, multi_hot, squeeze};
use crate::load::pipeline::Out;
use crate::load::sampler::Pick;
use crate::load::shared::{OnBad, Shared, Source, lock};
use crate::sets::{Label, Sample};
use candlelight_kernels::Key;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

fn timed<R>(to: &AtomicU64, f: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let r = f();
    to.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    r
}

pub(crate) struct State {
    /// The next batch a worker takes.
    pub(crate) next: usize,
    /// The batch the consumer waits for.
    pub(crate) wanted: usize,
    pub(crate) done: BTreeMap<usize, Result<Option<Batch>>>,
    pub(crate) stop: bool,
}

pub(crate) type Samples = Box<dyn Iterator<Item = Result<Sample>> + Send>;

pub(crate) struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) order: Vec<Pick>,
    pub(crate) epoch: usize,
    pub(crate) steps: usize,
    pub(crate) state: Mutex<State>,
    pub(crate) stream: Mutex<Option<Samples>>,
    /// For streams, the places of this epoch that could not be read.
    pub(crate) bad: Mutex<HashSet<usize>>,
    pub(crate) changed: Condvar,
}

/// The samples of a batch as they were read, each with its place.
pub(crate) type Raw = Vec<(usize, Result<Sample>)>;

impl Job {
    pub(crate) fn work(&self, workers: usize) {
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

    pub(crate) fn pull(&self, samples: &mut Samples, step: usize) -> Raw {
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

    /// The batch of a step, or none where no sample of it can be read.
    pub(crate) fn batch(&self, step: usize, raw: Option<Raw>) -> Result<Option<Batch>> {
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

    /// Decodes and augments a sample of a stream into its slot.
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
                return Err(Error::Config(format!(
                    "the sampler names sample {i} of a data set of {} samples, which are numbered from 0",
                    data.len()
                )));
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
    result.unwrap_or_else(|_| Err(Error::Decode("reading or decoding the sample panicked".into())))
}
