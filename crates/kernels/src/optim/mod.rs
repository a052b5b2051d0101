//! One step of an optimiser over all parameters.

pub mod adamw;
pub mod sgd;
