//! Losses with their gradients.

pub mod bce;
pub mod cross_entropy;
pub mod mae;
