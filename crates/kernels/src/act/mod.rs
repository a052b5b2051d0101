//! Activations: the rectifier and GELU.

pub mod gelu;
pub mod relu;
