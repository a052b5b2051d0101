//! What every kernel stands on: instruction levels, memory, the cutting up of work, and sums at memory speed.

pub mod cpu;
pub mod elementwise;
pub mod mem;
pub(crate) mod par;
pub(crate) mod simd;
