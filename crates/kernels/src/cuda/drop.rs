//! Dropout and stochastic depth, with the masks of the CPU.

use crate::cuda::Gpu;
use crate::cuda::gpu::{Shape, Source, args};
use crate::cuda::memory::Slice;
use crate::drop::dropout::check_rate;
use crate::error::{Error, Result};

/// y = x times the mask of a key's words over 1 - rate; the same call on a gradient is the backward pass.
///
/// # Errors
/// When the lengths or types do not fit, or the rate is outside [0, 1).
pub fn dropout(gpu: &Gpu, words: [u32; 2], rate: f32, x: Slice<'_>, y: Slice<'_>) -> Result<()> {
    check_rate(rate)?;
    let kind = x.float("dropout", "x")?;
    y.expect("dropout", "y", kind, x.len())?;
    let [k0, k1] = words.map(|w| w as i32);
    let args = args![x, y, x.len() as u64, k0, k1, rate];
    let shape = Shape::each(x.len().div_ceil(4));
    // SAFETY: both have as many values as the kernel is told.
    unsafe { gpu.launch(Source::Dropout, &format!("dropout_{}", kind.name()), shape, args) }
}

/// The same for whole samples, of which x has so many.
///
/// # Errors
/// When the lengths or types do not fit, or the rate is outside [0, 1).
pub fn drop_path(gpu: &Gpu, words: [u32; 2], rate: f32, samples: usize, x: Slice<'_>, y: Slice<'_>) -> Result<()> {
    let op = "drop_path";
    check_rate(rate)?;
    let kind = x.float(op, "x")?;
    y.expect(op, "y", kind, x.len())?;
    if samples == 0 || x.len() % samples != 0 {
        return Err(Error::Value { op, message: format!("{} values of {samples} samples", x.len()) });
    }
    let [k0, k1] = words.map(|w| w as i32);
    let args = args![x, y, x.len() as u64, (x.len() / samples) as u64, k0, k1, rate];
    // SAFETY: both have as many values as the kernel is told.
    unsafe { gpu.launch(Source::Dropout, &format!("drop_path_{}", kind.name()), Shape::each(x.len()), args) }
}
