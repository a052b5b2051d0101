#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod archive;
mod batch;
mod cifar;
mod dataset;
mod decode;
mod draw;
mod encode;
mod erase;
mod error;
mod folder;
mod geometry;
mod idx;
mod image;
mod job;
mod levels;
mod loader;
mod mix;
mod open;
mod ops;
mod pipeline;
mod policy;
mod resize;
mod sampler;
mod split;
mod table;
mod tar_folder;
mod transform;

pub use archive::Archive;
pub use batch::{Batch, Collate, Moment, Pixels, UNLABELLED};
pub use cifar::Cifar;
pub use dataset::{Dataset, InOrder, Label, Picture, Repeat, Sample, Stream, Subset, labels};
pub use decode::{Decode, Limits, decode};
pub use encode::{encode_jpeg, encode_png};
pub use erase::{EraseMode, RandomErasing};
pub use error::{Error, Result};
pub use folder::{ClassOrder, ImageFolder, split_dir};
pub use idx::Idx;
pub use image::Image;
pub use loader::{Epoch, Loader, LoaderConfig, OnBad, Stats};
pub use mix::{Mix, MixMode};
pub use open::open;
pub use ops::{Op, PadMode};
pub use pipeline::{CropMode, Normalize, Out, Pipeline, Splits};
pub use policy::{Policy, PolicyHints};
pub use resize::{Filter, resize, resize_box, resize_opencv};
pub use sampler::{
    Distributed, Pick, RepeatedAugmentation, Resampled, Sampler, Sequential, Shuffled, Uneven, Weighted, order,
};
pub use split::{Fold, group_k_fold, k_fold, leave_one_group_out, leave_one_out, stratified};
pub use table::Table;
pub use tar_folder::{ShardWriter, TarFolder, WebDataset, shards};
pub use transform::{Interpolation, Transform};
