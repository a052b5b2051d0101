#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod dataset;
mod decode;
mod error;
mod folder;
mod idx;
mod loader;
mod resize;
mod transform;

pub use dataset::{Dataset, Image, Sample, Subset};
pub use decode::{Limits, decode};
pub use error::{Error, Result};
pub use folder::{ImageFolder, split_dir};
pub use idx::Idx;
pub use loader::{Batch, Loader, LoaderConfig, Stats, order};
pub use resize::{Filter, resize};
pub use transform::{Normalize, Pipeline, Transform};
