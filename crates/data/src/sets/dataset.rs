//! Samples, and the traits of data sets.

use crate::error::{Error, Result};
use crate::image::{Decode, Image, decode};
use std::sync::Arc;

/// A sample's picture, decoded or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// The bytes of a file whose content tells its format.
    Encoded(Vec<u8>),
    /// Decoded pixels.
    Image(Image),
}

/// What a sample shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Label {
    /// Nothing is known about it.
    #[default]
    None,
    /// The index of its class.
    Class(u32),
    /// The indices of all its classes.
    Classes(Vec<u32>),
    /// Numbers to predict.
    Numbers(Vec<f32>),
}

impl Label {
    /// The class, where there is one.
    pub fn class(&self) -> Option<u32> {
        if let Label::Class(c) = self { Some(*c) } else { None }
    }
}

/// One picture with its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The picture.
    pub picture: Picture,
    /// What the picture shows.
    pub label: Label,
}

impl Sample {
    /// The picture's pixels.
    ///
    /// # Errors
    /// When the picture cannot be decoded.
    pub fn image(self, options: &Decode) -> Result<Image> {
        match self.picture {
            Picture::Encoded(bytes) => decode(&bytes, options),
            Picture::Image(image) => Ok(image),
        }
    }
}

/// A data set with random access. `len` and `get` are all it needs; the rest has defaults.
///
/// ```
/// use candlelight_data::{Dataset, Image, Label, Picture, Result, Sample};
/// struct Stripes;
/// impl Dataset for Stripes {
///     fn len(&self) -> usize {
///         100
///     }
///     fn get(&self, i: usize) -> Result<Sample> {
///         let image = Image::new(8, 8, 1, (0..64).map(|p| (p * i % 256) as u8).collect())?;
///         Ok(Sample { picture: Picture::Image(image), label: Label::Class((i % 2) as u32) })
///     }
/// }
/// assert_eq!(Stripes.label(3)?, Label::Class(1));
/// # Ok::<(), candlelight_data::Error>(())
/// ```
pub trait Dataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True if there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sample `i`.
    ///
    /// # Errors
    /// When the sample cannot be read.
    fn get(&self, i: usize) -> Result<Sample>;

    /// The label of sample `i` alone.
    ///
    /// # Errors
    /// When the sample cannot be read.
    fn label(&self, i: usize) -> Result<Label> {
        Ok(self.get(i)?.label)
    }

    /// What to call sample `i` in messages.
    fn name(&self, i: usize) -> String {
        format!("sample {i}")
    }

    /// Names of the classes; empty without labels.
    fn classes(&self) -> &[String] {
        &[]
    }
}

impl<D: Dataset + ?Sized> Dataset for Arc<D> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn get(&self, i: usize) -> Result<Sample> {
        (**self).get(i)
    }
    fn label(&self, i: usize) -> Result<Label> {
        (**self).label(i)
    }
    fn name(&self, i: usize) -> String {
        (**self).name(i)
    }
    fn classes(&self) -> &[String] {
        (**self).classes()
    }
}

/// The class of every sample.
///
/// # Errors
/// When a label cannot be read, or a sample has no class or several.
pub fn labels(data: &dyn Dataset) -> Result<Vec<u32>> {
    let one = |i| match data.label(i)? {
        Label::Class(c) => Ok(c),
        other => {
            Err(Error::Config(format!("{}: the label is {other:?}, but exactly one class is needed", data.name(i))))
        }
    };
    (0..data.len()).map(one).collect()
}

/// A data set that is read from front to back because it cannot be indexed.
pub trait Stream: Send + Sync {
    /// The samples of an epoch that process `rank` of `world` reads; together the processes read each sample
    /// once.
    ///
    /// # Errors
    /// When the source cannot be opened.
    fn open(&self, epoch: usize, rank: usize, world: usize) -> Result<Box<dyn Iterator<Item = Result<Sample>> + Send>>;

    /// Samples per epoch of one process, from which the number of steps follows.
    fn len(&self, world: usize) -> usize;

    /// Names of the classes; empty without labels.
    fn classes(&self) -> &[String] {
        &[]
    }
}

/// Any data set as a stream, in order. Every process reads equally many samples; the rest is left out.
#[derive(Debug)]
pub struct InOrder<D>(pub Arc<D>);

impl<D> Clone for InOrder<D> {
    fn clone(&self) -> Self {
        InOrder(self.0.clone())
    }
}

impl<D: Dataset + 'static> Stream for InOrder<D> {
    fn open(&self, _: usize, rank: usize, world: usize) -> Result<Box<dyn Iterator<Item = Result<Sample>> + Send>> {
        let (data, each) = (self.0.clone(), Stream::len(self, world));
        Ok(Box::new((rank..data.len()).step_by(world.max(1)).take(each).map(move |i| data.get(i))))
    }
    fn len(&self, world: usize) -> usize {
        self.0.len() / world.max(1)
    }
    fn classes(&self) -> &[String] {
        self.0.classes()
    }
}

/// Some samples of another data set.
#[derive(Debug, Clone)]
pub struct Subset<D> {
    inner: D,
    indices: Vec<usize>,
}

impl<D: Dataset> Subset<D> {
    /// The samples at `indices`, in that order.
    ///
    /// # Errors
    /// When an index is past the last sample.
    pub fn new(inner: D, indices: Vec<usize>) -> Result<Self> {
        match indices.iter().find(|&&i| i >= inner.len()) {
            Some(i) => {
                Err(Error::Config(format!("index {i} is past the end of a data set of {} samples", inner.len())))
            }
            None => Ok(Subset { inner, indices }),
        }
    }
}

impl<D: Dataset> Dataset for Subset<D> {
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn get(&self, i: usize) -> Result<Sample> {
        self.inner.get(self.indices[i])
    }
    fn label(&self, i: usize) -> Result<Label> {
        self.inner.label(self.indices[i])
    }
    fn name(&self, i: usize) -> String {
        self.inner.name(self.indices[i])
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
}

/// A data set several times over: longer epochs for small data. Each repeat is augmented anew.
#[derive(Debug, Clone)]
pub struct Repeat<T> {
    inner: T,
    times: usize,
}

impl<T> Repeat<T> {
    /// The data set `times` times over.
    pub fn new(inner: T, times: usize) -> Self {
        Repeat { inner, times }
    }
}

impl<D: Dataset> Dataset for Repeat<D> {
    fn len(&self) -> usize {
        self.inner.len() * self.times
    }
    fn get(&self, i: usize) -> Result<Sample> {
        self.inner.get(i % self.inner.len())
    }
    fn label(&self, i: usize) -> Result<Label> {
        self.inner.label(i % self.inner.len())
    }
    fn name(&self, i: usize) -> String {
        self.inner.name(i % self.inner.len())
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
}

impl<S: Stream + Clone + 'static> Stream for Repeat<S> {
    fn open(&self, epoch: usize, rank: usize, world: usize) -> Result<Box<dyn Iterator<Item = Result<Sample>> + Send>> {
        let (inner, times) = (self.inner.clone(), self.times);
        let round = move |t: usize| match inner.open(epoch * times + t, rank, world) {
            Ok(samples) => samples,
            Err(e) => Box::new(std::iter::once(Err(e))),
        };
        Ok(Box::new((0..times).flat_map(round)))
    }
    fn len(&self, world: usize) -> usize {
        self.inner.len(world) * self.times
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
}
