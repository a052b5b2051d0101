//! Activations with kernels of their own: ReLU, also called the rectifier, and GELU in its exact and its tanh form.

pub mod gelu;
pub mod relu;
pub mod silu;
