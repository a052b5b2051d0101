//! Features that are computed once: the vectors that a frozen backbone gives for a whole data set, to train heads on.
//!
//! They lie in a safetensors file that grows while they are computed and is read row by row, so that neither takes the memory of all of
//! them.

mod file;
mod partial;
mod rows;

use crate::error::{Error, Result, file as bad_file};
use crate::task::Batches;
use candle_core::{DType, Device};
use candlelight_autograd::{Key, ParamStore, Value};
use candlelight_data::{Batch, Normalize, Pixels, Stats, order};
use candlelight_models::{Anatomy, Classifier, FeatureExtractor, Model};
use candlelight_store::atomic::write_atomic;
use file::Header;
use partial::Partial;
use rows::Rows;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The vectors and labels of a data set, in its order. They are served in batches as if they were images of 1 x D pixels.
#[derive(Debug)]
pub struct Features {
    /// The vectors, (N, D).
    rows: Rows,
    labels: Vec<u32>,
    classes: Vec<String>,
    batch_size: usize,
    /// The seed of the order in training; `None` keeps the order of the data set, and the last, smaller batch.
    shuffled: Option<u64>,
    normalize: Normalize,
    stats: Stats,
}

impl Features {
    fn new(rows: Rows, labels: Vec<u32>, classes: Vec<String>) -> Self {
        let normalize = Normalize { mean: vec![0.0], std: vec![1.0] };
        Features { rows, labels, classes, batch_size: 256, shuffled: None, normalize, stats: Stats::default() }
    }

    /// Runs a model over the first epoch of `data`, which must be in order and should not be augmented, and keeps the features in memory.
    /// `progress` gets the number of samples done, and can end it with an error. For data whose features do not fit in memory, or take long, there is
    /// [`Features::extract_to`].
    ///
    /// # Errors
    /// When the images cannot be read or do not fit, when they are not in order, or when there is not enough memory.
    pub fn extract(
        model: &dyn FeatureExtractor,
        data: &dyn Batches,
        device: &Device,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let (mut values, mut labels) = (Vec::new(), vec![]);
        let n = data.samples().saturating_mul(model.width());
        values.try_reserve_exact(n).map_err(|_| {
            Error::Config(format!(
                "no memory for the features of {} samples, {} values each: use extract_to, which writes them to a file",
                data.samples(),
                model.width()
            ))
        })?;
        compute(model, data, device, (0, None), |rows, batch| {
            values.extend(rows);
            labels.extend(&batch.labels);
            progress(labels.len())
        })?;
        Ok(Self::new(Rows::Memory { values, width: model.width() }, labels, data.classes().to_vec()))
    }

    /// Runs a model over the first epoch of `data`, which must be in order and should not be augmented, and writes the features to `path`
    /// while they are computed, in the memory of one batch. `made_from` says what they are made from, for [`Features::load`]. `progress`
    /// gets the number of samples done, and can end it with an error.
    ///
    /// Until all are there, they lie in two files beside `path`, named `.NAME.partial` and `.NAME.partial.log`. If the program is killed,
    /// the next call with the same `made_from` and the same batches verifies what is there and continues behind it; files of anything
    /// else are begun anew.
    ///
    /// # Errors
    /// When the images cannot be read or do not fit, when they are not in order, when another process writes the same features, or when
    /// a file cannot be written.
    pub fn extract_to(
        path: &Path,
        made_from: &str,
        model: &dyn FeatureExtractor,
        data: &dyn Batches,
        device: &Device,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let header = Header {
            samples: data.samples(),
            width: model.width(),
            made_from: made_from.into(),
            classes: data.classes().to_vec(),
        };
        let mut partial = Partial::open(path, header, data)?;
        let (step, last) = partial.next();
        if step > 0 {
            tracing::info!("{}: {} samples are there already", path.display(), partial.samples());
            progress(partial.samples())?;
        }
        compute(model, data, device, (step, last), |rows, batch| {
            partial.push(&rows, batch)?;
            progress(partial.samples())
        })?;
        partial.finish()?;
        Self::load(path, made_from)?
            .ok_or_else(|| bad_file(path, "was just written, but is not there: does something else write it?"))
    }

    /// The length of a vector, D.
    pub fn width(&self) -> usize {
        self.rows.width()
    }

    /// The same features in batches for training: shuffled by the seed in the same order as a loader would use, and without the last batch
    /// if it is smaller.
    #[must_use]
    pub fn training(mut self, batch_size: usize, seed: u64) -> Self {
        (self.batch_size, self.shuffled) = (batch_size, Some(seed));
        self
    }

    /// Writes the tensors `features` (N, D) and `labels` (N), with a text that says what they were made from.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path, made_from: &str) -> Result<()> {
        let header = Header {
            samples: self.labels.len(),
            width: self.width(),
            made_from: made_from.into(),
            classes: self.classes.clone(),
        };
        let head = header.bytes(0).map_err(|e| bad_file(path, e))?;
        write_atomic(path, |out| {
            out.write_all(&head)?;
            let mut values = vec![];
            for first in (0..self.labels.len()).step_by(1024) {
                let some: Vec<u32> = (first..(first + 1024).min(self.labels.len())).map(|i| i as u32).collect();
                values.clear();
                self.rows.read(&some, &mut values).map_err(std::io::Error::other)?;
                out.write_all(&rows::bytes(&values))?;
            }
            for label in &self.labels {
                out.write_all(&label.to_le_bytes())?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Opens what [`Features::save`] or [`Features::extract_to`] wrote. The vectors stay in the file and are read where they are needed.
    /// Gives `None` where there is no such file, or where it was made from something else.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn load(path: &Path, made_from: &str) -> Result<Option<Self>> {
        let file = match std::fs::File::open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| bad_file(path, e))?,
        };
        let (header, start) = Header::read(&file, path)?;
        if header.made_from != made_from {
            return Ok(None);
        }
        let labels = header.labels(&file, path, start)?;
        let rows = Rows::File { file, path: path.into(), start, width: header.width };
        Ok(Some(Self::new(rows, labels, header.classes)))
    }

    fn batch(&self, epoch: usize, step: usize, order: &[u32]) -> candlelight_data::Result<Batch> {
        let start = Instant::now();
        let chosen = &order[step * self.batch_size..((step + 1) * self.batch_size).min(order.len())];
        let mut values = Vec::with_capacity(chosen.len() * self.width());
        self.rows.read(chosen, &mut values)?;
        let labels = chosen.iter().map(|i| self.labels[*i as usize]).collect();
        let indices = chosen.iter().map(|i| *i as usize).collect();
        let taken = start.elapsed().as_nanos() as u64;
        self.stats.read.fetch_add(taken, Ordering::Relaxed);
        self.stats.wait.fetch_add(taken, Ordering::Relaxed);
        Ok(Batch { epoch, step, indices, ..Batch::new(Pixels::F32(values), (1, self.width()), 1, labels) })
    }
}

/// Runs a model over the batches of the first epoch from a step on, and gives each batch with its vectors to `each`. `after` is the step
/// and the index of the last sample before it.
fn compute(
    model: &dyn FeatureExtractor,
    data: &dyn Batches,
    device: &Device,
    after: (usize, Option<usize>),
    mut each: impl FnMut(Vec<f32>, &Batch) -> Result<()>,
) -> Result<()> {
    let (start, mut last) = after;
    for batch in data.epoch(0, start) {
        let mut batch = batch?;
        for &i in &batch.indices {
            if last.is_some_and(|last| i <= last) {
                return Err(Error::Config(format!(
                    "sample {i} comes after sample {}: features are computed in the order of the data, each sample once; turn off \
                     shuffle, and use OnBad::Skip or OnBad::Fail instead of replacing samples that cannot be read",
                    last.unwrap_or_default()
                )));
            }
            last = Some(i);
        }
        let images = crate::batch::images(&mut batch, data.normalize(), device)?;
        let rows = model.extract(&images)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if rows.len() != batch.labels.len() * model.width() {
            let (n, width) = (batch.labels.len(), model.width());
            return Err(Error::Config(format!("{} values for {n} samples, expected {width} for each", rows.len())));
        }
        each(rows, &batch)?;
    }
    Ok(())
}

impl Batches for Features {
    fn steps(&self) -> usize {
        let n = self.labels.len();
        if self.shuffled.is_some() { n / self.batch_size } else { n.div_ceil(self.batch_size) }
    }

    fn samples(&self) -> usize {
        self.labels.len()
    }

    fn batch_size(&self) -> Option<usize> {
        Some(self.batch_size)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn normalize(&self) -> &Normalize {
        &self.normalize
    }

    fn epoch<'a>(
        &'a self,
        epoch: usize,
        start: usize,
    ) -> Box<dyn Iterator<Item = candlelight_data::Result<Batch>> + 'a> {
        let n = self.labels.len();
        let order = match self.shuffled {
            Some(seed) => order(seed, epoch, n),
            None => (0..n as u32).collect(),
        };
        Box::new((start..self.steps()).map(move |step| self.batch(epoch, step, &order)))
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// The head of a classifier as a model of its own, whose "images" are vectors of features.
pub struct HeadOnly<C>(
    /// The whole classifier, of which only the head is used.
    pub C,
);

impl<C> std::fmt::Debug for HeadOnly<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeadOnly")
    }
}

impl<C: Classifier> Model for HeadOnly<C> {
    fn anatomy(&self) -> Anatomy {
        self.0.anatomy()
    }
}

impl<C: Classifier> Classifier for HeadOnly<C> {
    fn forward(&self, features: &Value, key: Option<&Key>) -> candlelight_models::Result<Value> {
        let (b, c, h, w) = features.tensor().dims4()?;
        self.0.classify(&features.reshape((b, c * h * w))?, key)
    }
}

/// A text that tells two backbones apart: a checksum of every parameter outside the head.
///
/// # Errors
/// The errors of candle.
pub fn fingerprint(params: &ParamStore, model: &Anatomy) -> Result<String> {
    let mut h = crc32fast::Hasher::new();
    for (name, t) in params.state_dict() {
        if !model.in_head(&name) {
            h.update(name.as_bytes());
            for v in t.flatten_all()?.to_vec1::<f32>().map_err(Error::from)? {
                h.update(&v.to_le_bytes());
            }
        }
    }
    Ok(format!("{:08x}", h.finalize()))
}

#[cfg(test)]
#[path = "features/tests.rs"]
mod tests;
