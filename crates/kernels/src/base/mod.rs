//! What all kernels share: instruction levels, memory, the division of work among threads, and sums at memory speed.

pub mod cpu;
pub mod elementwise;
pub mod mem;
pub(crate) mod par;
pub(crate) mod simd;
