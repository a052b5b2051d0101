//! Data sets: what samples are, the kinds that are read from disk, and splitting them into parts.

mod cifar;
mod csv;
mod dataset;
mod folder;
mod idx;
mod open;
mod split;
mod tar;
mod tar_index;
mod webdataset;

pub use self::cifar::Cifar;
pub use self::csv::Table;
pub use self::dataset::{Dataset, InOrder, Label, Picture, Repeat, Sample, Stream, Subset, labels};
pub use self::folder::{ClassOrder, ImageFolder, split_dir};
pub use self::idx::Idx;
pub use self::open::open;
pub use self::split::{Fold, group_k_fold, k_fold, leave_one_group_out, leave_one_out, stratified};
pub use self::tar::{TarFolder, shards};
pub use self::tar_index::Archive;
pub use self::webdataset::{ShardWriter, WebDataset};
