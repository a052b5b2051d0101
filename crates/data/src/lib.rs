#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod augment;
mod error;
mod image;
mod load;
mod sets;
mod statistics;
mod survey;

pub use augment::{EraseMode, Interpolation, Policy, PolicyHints, RandomErasing, Transform};
pub use error::{Error, Result};
pub use image::{
    Decode, Filter, Image, Kind, Limits, Op, PadMode, decode, encode_jpeg, encode_png, kind, orientation, resize,
    resize_box, resize_opencv,
};
pub use load::{
    BadSample, Batch, Collate, CropMode, Distributed, Epoch, Home, LoadPlan, Loader, LoaderConfig, Mix, MixMode,
    Moment, Normalize, OnBad, Out, Pick, Pipeline, Pixels, RepeatedAugmentation, Resampled, Sampler, Sequential,
    Shuffled, Splits, Stats, UNLABELLED, Uneven, Weighted, order,
};
pub use sets::{
    Archive, Cifar, ClassOrder, Collection, Dataset, Fold, Idx, ImageFolder, InOrder, Label, LabelKind, Nested,
    OpenConfig, Part, Picture, Reason, Renumbered, Repeat, Sample, ShardWriter, Skipped, Stream, Subset, few,
    group_k_fold, identity, k_fold, labels, leave_one_group_out, leave_one_out, nested, open, scarce, shards,
    stratified, stratified_k_fold,
};
pub use statistics::{Statistics, statistics};
pub use survey::{Found, Survey, SurveyConfig, survey, survey_with};
