//! What a file of weights holds, without reading any value.

use super::open::Container;
use crate::error::{Error, Result};
use std::path::Path;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the file.
    pub name: String,
    /// Its dimensions.
    pub dims: Vec<usize>,
    /// The type of its values, by torch's name; `None` with the reason in `problem` where it is none that can be read.
    pub dtype: Option<&'static str>,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// A dictionary of tensors in a file, or a pickled module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The keys that lead to it, joined with dots; empty where it is the whole file.
    pub path: String,
    /// Its tensors, in the order of the file.
    pub tensors: Vec<Listed>,
}

/// Lists every tensor of a file, in the order of the file, under the names that it has there: state dicts, also those inside of other
/// dictionaries, pickled modules such as YOLOv5's, and files of torch's old format. Nothing of a pickle is called, and no value is read.
///
/// # Errors
/// When the file is none of weights, or damaged.
pub fn list(path: &Path) -> Result<Vec<Listing>> {
    let fail = |message: String| Error::File { path: path.into(), message };
    if path.is_dir() {
        return Err(fail("a folder: give the file of weights in it".into()));
    }
    let (container, dictionaries) = Container::open(path)?;
    let mut all = vec![];
    for dictionary in dictionaries {
        let of = |(name, handle): (String, super::dictionary::Handle)| match container.described(handle.index) {
            Ok((dims, kind)) => Listed { name, dims, dtype: Some(kind.name()), problem: None },
            Err(e) => Listed { name, dims: vec![], dtype: None, problem: Some(e) },
        };
        let tensors = dictionary.entries.into_iter().map(of).collect();
        all.push(Listing { path: dictionary.path.join("."), tensors });
    }
    Ok(all)
}
