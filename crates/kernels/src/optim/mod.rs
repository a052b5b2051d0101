//! The update steps of optimizers.

pub mod factored;
pub mod formula;
pub mod fused;
pub mod orthogonal;
