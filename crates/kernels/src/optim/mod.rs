//! The update steps of optimizers.

pub mod adamw;
pub mod sgd;
