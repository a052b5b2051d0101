//! Data sets of encoded files: in folders, lists and archives.

use crate::error::Result;
use crate::sets::dataset::{Dataset, Label, Picture, Sample};
use crate::sets::retry;
use crate::sets::tree::{FileId, Tree};
use std::path::PathBuf;
use std::sync::Arc;

/// Where the files are.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// In a tree of folders.
    Tree(Arc<Tree>, Vec<FileId>),
    /// Anywhere, by their paths.
    Paths(Vec<PathBuf>),
    /// In one temporary file.
    #[cfg(feature = "parquet")]
    Blobs(Arc<crate::sets::parquet::Blobs>),
}

impl Source {
    pub(crate) fn len(&self) -> usize {
        match self {
            Source::Tree(_, files) => files.len(),
            Source::Paths(paths) => paths.len(),
            #[cfg(feature = "parquet")]
            Source::Blobs(b) => b.len(),
        }
    }

    pub(crate) fn path(&self, i: usize) -> PathBuf {
        match self {
            Source::Tree(tree, files) => tree.path(files[i]),
            Source::Paths(paths) => paths[i].clone(),
            #[cfg(feature = "parquet")]
            Source::Blobs(b) => b.name(i).into(),
        }
    }

    fn read(&self, i: usize, most: u64) -> Result<Vec<u8>> {
        match self {
            Source::Tree(tree, files) => tree.read(files[i], most),
            Source::Paths(paths) => retry::read_below(&paths[i], most),
            #[cfg(feature = "parquet")]
            Source::Blobs(b) => b.read(i, most),
        }
    }
}

/// The labels of all samples.
#[derive(Debug, Clone)]
pub(crate) enum Labels {
    None,
    /// The class of each sample, or `u32::MAX`.
    One(Vec<u32>),
    Many(Vec<Vec<u32>>),
    Numbers(Vec<Vec<f32>>),
}

/// Encoded pictures with labels.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub source: Source,
    pub labels: Labels,
    pub classes: Arc<Vec<String>>,
    /// Most bytes of one file.
    pub most: u64,
}

impl Dataset for Files {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        Ok(Sample { picture: Picture::Encoded(self.source.read(i, self.most)?), label: self.label(i)? })
    }

    fn label(&self, i: usize) -> Result<Label> {
        Ok(match &self.labels {
            Labels::None => Label::None,
            Labels::One(of) => {
                if of[i] == u32::MAX {
                    Label::None
                } else {
                    Label::Class(of[i])
                }
            }
            Labels::Many(of) => Label::Classes(of[i].clone()),
            Labels::Numbers(of) => Label::Numbers(of[i].clone()),
        })
    }

    fn name(&self, i: usize) -> String {
        self.source.path(i).display().to_string()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

/// A data set whose classes have other numbers, such as those of a checkpoint.
#[derive(Debug, Clone)]
pub struct Renumbered<D> {
    inner: D,
    map: Vec<u32>,
    classes: Vec<String>,
}

impl<D: Dataset> Renumbered<D> {
    /// `map` gives for each class of `inner` its number in `classes`.
    ///
    /// # Errors
    /// When a class has no number, or one past the last of `classes`.
    pub fn new(inner: D, map: Vec<u32>, classes: Vec<String>) -> Result<Self> {
        let most = map.iter().copied().max().map_or(0, |m| m as usize + 1);
        if map.len() != inner.classes().len() || most > classes.len() {
            return Err(crate::Error::Config(format!(
                "{} numbers up to {most} for {} classes: expected one for each, below {}",
                map.len(),
                inner.classes().len(),
                classes.len()
            )));
        }
        Ok(Renumbered { inner, map, classes })
    }

    fn label_of(&self, label: Label) -> Label {
        let other = |c: u32| self.map.get(c as usize).copied().unwrap_or(c);
        match label {
            Label::Class(c) => Label::Class(other(c)),
            Label::Classes(all) => Label::Classes(all.into_iter().map(other).collect()),
            rest => rest,
        }
    }
}

impl<D: Dataset> Dataset for Renumbered<D> {
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn get(&self, i: usize) -> Result<Sample> {
        let Sample { picture, label } = self.inner.get(i)?;
        Ok(Sample { picture, label: self.label_of(label) })
    }
    fn label(&self, i: usize) -> Result<Label> {
        Ok(self.label_of(self.inner.label(i)?))
    }
    fn name(&self, i: usize) -> String {
        self.inner.name(i)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
}
