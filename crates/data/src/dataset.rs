//! What a data set is.

use crate::error::{Error, Result};

/// An 8-bit image, rows of interleaved channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// height x width x channels.
    pub data: Vec<u8>,
}

impl Image {
    /// Checks that the bytes fill the image.
    ///
    /// # Errors
    /// When they do not.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        if width == 0 || height == 0 || data.len() != width * height * channels {
            return Err(Error::Decode(format!("{} bytes for a {width}x{height}x{channels} image", data.len())));
        }
        Ok(Image { width, height, channels, data })
    }
}

/// One image with its class, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The image.
    pub image: Image,
    /// Index of its class.
    pub label: Option<u32>,
}

/// A data set with random access.
pub trait Dataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True without samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sample `i`, decoded.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, i: usize) -> Result<Sample>;

    /// What to call sample `i` in messages.
    fn name(&self, i: usize) -> String {
        format!("sample {i}")
    }

    /// Names of the classes; empty without labels.
    fn classes(&self) -> &[String] {
        &[]
    }
}

impl<D: Dataset + ?Sized> Dataset for std::sync::Arc<D> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn get(&self, i: usize) -> Result<Sample> {
        (**self).get(i)
    }
    fn name(&self, i: usize) -> String {
        (**self).name(i)
    }
    fn classes(&self) -> &[String] {
        (**self).classes()
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
            Some(i) => Err(Error::Config(format!("index {i} of a data set of {}", inner.len()))),
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
    fn name(&self, i: usize) -> String {
        self.inner.name(self.indices[i])
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
}
