//! Normalisations over channels, over the batch and over groups of channels.

pub mod batch;
pub mod group;
pub mod layer;
