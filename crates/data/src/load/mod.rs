//! Loading: the order of an epoch, what happens to each sample, and the batches that threads make of them.

mod batch;
mod epoch;
mod extent;
mod loader;
mod memory;
mod mix;
mod pipeline;
mod pool;
mod sampler;
mod shared;
mod worker;

pub use batch::{Batch, Collate, Home, Moment, Pixels, UNLABELLED};
pub use epoch::Epoch;
pub use loader::Loader;
pub use memory::LoadPlan;
pub use mix::{Mix, MixMode};
pub use pipeline::{CropMode, Normalize, Out, Pipeline, Splits};
pub use sampler::{
    Distributed, Pick, RepeatedAugmentation, Resampled, Sampler, Sequential, Shuffled, Uneven, Weighted, order,
};
pub use shared::{BadSample, LoaderConfig, OnBad, Stats};
