//! Loading: the order of an epoch, what happens to each sample, and the batches that threads make of them.

mod batch;
mod loader;
mod mix;
mod pipeline;
mod sampler;
mod shared;
mod worker;

pub use batch::{Batch, Collate, Moment, Pixels, UNLABELLED};
pub use loader::{Epoch, Loader};
pub use mix::{Mix, MixMode};
pub use pipeline::{CropMode, Normalize, Out, Pipeline, Splits};
pub use sampler::{
    Distributed, Pick, RepeatedAugmentation, Resampled, Sampler, Sequential, Shuffled, Uneven, Weighted, order,
};
pub use shared::{LoaderConfig, OnBad, Stats};
