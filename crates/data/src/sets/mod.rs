//! Data sets: what samples are, the kinds that are read from disk, and splitting them into parts.

mod archives;
mod cifar;
mod class_folders;
mod classes;
mod collection;
mod cub;
mod dataset;
mod files;
mod flat;
mod folder;
mod folds;
mod handles;
mod idx;
mod json_lines;
mod layout;
mod list;
mod list_paths;
mod listed;
mod names;
mod open;
#[cfg(feature = "parquet")]
mod parquet;
pub(crate) mod retry;
mod scan;
mod skipped;
mod split;
mod tar_headers;
mod tar_index;
mod tree;
mod tree_paths;
mod webdataset;
mod zip;

pub use self::archives::shards;
pub use self::cifar::Cifar;
pub use self::collection::{Collection, Part};
pub use self::dataset::{Dataset, InOrder, Label, Picture, Repeat, Sample, Stream, Subset, labels};
pub use self::files::Renumbered;
pub use self::folder::ImageFolder;
pub use self::folds::{
    Fold, Nested, group_k_fold, k_fold, leave_one_group_out, leave_one_out, nested, scarce, stratified_k_fold,
};
pub use self::idx::Idx;
pub use self::list::LabelKind;
pub use self::names::ClassOrder;
pub use self::open::{OpenConfig, open};
pub use self::skipped::{Reason, Skipped};
pub use self::split::{few, identity, stratified};
pub use self::tar_index::Archive;
pub use self::webdataset::ShardWriter;
