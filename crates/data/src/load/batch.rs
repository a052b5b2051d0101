//! Batches, which a loader delivers, and the trait of what changes them as a whole.

use crate::error::{Error, Result};
use crate::load::memory::Memory;
use crate::load::pipeline::Normalize;
use crate::sets::Label;
use candlelight_kernels::Key;
use std::sync::{Arc, Weak};

/// The pixels of a batch, (views x B, C, H, W), the first view of every sample first.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// Normalised values.
    F32(Vec<f32>),
    /// Bytes, to be normalised by the consumer.
    U8(Vec<u8>),
}

impl Pixels {
    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Pixels::F32(v) => v.len(),
            Pixels::U8(v) => v.len(),
        }
    }

    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that the buffer occupies.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Pixels::F32(v) => 4 * v.capacity() as u64,
            Pixels::U8(v) => v.capacity() as u64,
        }
    }

    /// The values as f32; bytes are normalised.
    pub fn into_f32(self, normalize: &Normalize, plane: usize) -> Vec<f32> {
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
            Pixels::U8(_) => Err(Error::Config(
                "the batch holds bytes, but f32 values were expected: use `into_f32`, or a loader without `bytes`"
                    .into(),
            )),
        }
    }
}

/// The label of a sample that has no class or several.
pub const UNLABELLED: u32 = u32::MAX;

/// A batch, ready to become tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The epoch that the batch belongs to, counted from 0.
    pub epoch: usize,
    /// The step of its epoch, counted from 0. Steps whose samples were all left out do not come, so a consumer trusts this
    /// number and does not count batches.
    pub step: usize,
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
    /// Targets (B, classes), where classes are mixed or smoothed, or a sample has several; (B, columns) where labels are numbers.
    pub targets: Option<Vec<f32>>,
    /// The samples' places in the data set (in a stream: in the epoch).
    pub indices: Vec<usize>,
    /// Where the buffer of the pixels came from.
    pub home: Home,
}

impl Batch {
    /// The first batch of the first epoch, of one view, with samples numbered from 0 and without targets. The other
    /// fields can be set.
    pub fn new(images: Pixels, size: (usize, usize), channels: usize, labels: Vec<u32>) -> Self {
        let indices = (0..labels.len()).collect();
        let home = Home::default();
        Batch { epoch: 0, step: 0, images, size, channels, views: 1, labels, targets: None, indices, home }
    }
}

/// The loader that a batch's buffer came from, to give it back to. A batch that no loader made has none.
#[derive(Debug, Clone, Default)]
pub struct Home {
    memory: Weak<Memory>,
    /// The most bytes that the loader keeps.
    limit: u64,
}

impl Home {
    pub(crate) fn new(memory: &Arc<Memory>, limit: u64) -> Self {
        Home { memory: Arc::downgrade(memory), limit }
    }

    /// The most bytes of buffers that the loader keeps.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Gives a buffer back, to be filled again. It is freed if its loader is gone or has enough of them. A buffer that is
    /// not given back costs nothing but the time to allocate another one.
    pub fn recycle(&self, pixels: Pixels) {
        if let Some(memory) = self.memory.upgrade() {
            memory.give_back(pixels, self.limit);
        }
    }
}

impl PartialEq for Home {
    /// Always true: batches are equal whatever buffer they lie in.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The epoch and step that a batch is made for, and a key for what is random about it.
#[derive(Debug)]
pub struct Moment {
    /// The epoch.
    pub epoch: usize,
    /// The step of the epoch.
    pub step: usize,
    /// A key of (seed, epoch, step).
    pub key: Key,
}

/// Changes whole batches: mixup, other labels, or anything a user writes. It runs on the worker threads.
pub trait Collate: Send + Sync {
    /// The batch that training gets.
    ///
    /// # Errors
    /// When the batch cannot be used; the error ends the epoch.
    fn collate(&self, batch: Batch, moment: &Moment) -> Result<Batch>;
}

/// Moves the views of the samples at `kept` together, which leaves no gaps. A view has `n` samples of `len` values.
pub(crate) fn compact(images: &mut Pixels, views: usize, n: usize, kept: &[usize], len: usize) {
    fn run<T: Copy>(v: &mut Vec<T>, views: usize, n: usize, kept: &[usize], len: usize) {
        let from = (0..views).flat_map(|view| kept.iter().map(move |slot| view * n + slot));
        // Samples only move towards the front, past places whose sample has moved already.
        for (to, from) in from.enumerate() {
            v.copy_within(from * len..(from + 1) * len, to * len);
        }
        v.truncate(views * kept.len() * len);
    }
    match images {
        Pixels::F32(v) => run(v, views, n, kept, len),
        Pixels::U8(v) => run(v, views, n, kept, len),
    }
}

/// The numbers of all samples, (B, columns), where samples have numbers to predict.
pub(crate) fn numbers(labels: &[Label]) -> Result<Option<Vec<f32>>> {
    let Some(Label::Numbers(first)) = labels.iter().find(|l| matches!(l, Label::Numbers(_))) else { return Ok(None) };
    let mut out = Vec::with_capacity(labels.len() * first.len());
    for label in labels {
        match label {
            Label::Numbers(v) if v.len() == first.len() => out.extend_from_slice(v),
            other => {
                return Err(Error::Config(format!(
                    "a sample has the label {other:?}, others of its batch have {} numbers: expected as many for each",
                    first.len()
                )));
            }
        }
    }
    Ok(Some(out))
}

pub(crate) fn multi_hot(labels: &[Label], classes: usize) -> Result<Vec<f32>> {
    let mut out = vec![0.0; labels.len() * classes];
    for (row, label) in out.chunks_exact_mut(classes.max(1)).zip(labels) {
        let all = match label {
            Label::None | Label::Numbers(_) => &[],
            Label::Class(c) => std::slice::from_ref(c),
            Label::Classes(c) => c.as_slice(),
        };
        for c in all {
            match row.get_mut(*c as usize) {
                Some(v) => *v = 1.0,
                None => {
                    return Err(Error::Config(format!(
                        "a sample has label {c}, but the data set names only {classes} classes: expected a lower label"
                    )));
                }
            }
        }
    }
    if classes == 0 {
        return Err(Error::Config(
            "samples have several labels, but the data set names no classes: its `classes` must list them".into(),
        ));
    }
    Ok(out)
}
