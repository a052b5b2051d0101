//! Pools of channels-last images.

use crate::cuda::Gpu;
use crate::cuda::gpu::{Arg, Shape, Source, args, int};
use crate::cuda::memory::{Kind, Slice};
use crate::error::{Error, Result, expect_len};
use crate::pool::window::Pool;

/// The most values of a window whose places fit into a byte.
pub const WINDOW: usize = 255;

const OP: &str = "pool2d";

/// The values of images and of results.
fn sizes(p: &Pool) -> Result<(usize, usize)> {
    let (oh, ow) = p.output()?;
    Ok((p.batch * p.height * p.width * p.channels, p.batch * oh * ow * p.channels))
}

/// Launches a kernel with a thread for each of `n` values.
///
/// # Safety
/// `before` are the first arguments of the kernel, and have the sizes of the pool.
unsafe fn launch(gpu: &Gpu, p: &Pool, name: &str, n: usize, before: &[Arg]) -> Result<()> {
    let (oh, ow) = p.output()?;
    // Kernels count in 32 bits.
    let counted = u32::try_from(n).map_err(|_| Error::Value { op: OP, message: format!("{n} values") })?;
    let mut all = before.to_vec();
    all.push(Arg::Int(counted as i32));
    let numbers = [p.height, p.width, p.channels, oh, ow, p.kernel.0, p.kernel.1];
    for v in numbers.into_iter().chain([p.stride.0, p.stride.1, p.padding.0, p.padding.1]) {
        all.push(Arg::Int(int(OP, v)?));
    }
    // SAFETY: the caller's promise.
    unsafe { gpu.launch(Source::Window, name, Shape::each(n), &all) }
}

/// The largest value of each window of x (B, H, W, C), y (B, H', W', C), and its place in the window.
///
/// # Errors
/// When the lengths or types do not fit, or windows have more than [`WINDOW`] values.
pub fn max_forward(gpu: &Gpu, p: &Pool, x: Slice<'_>, y: Slice<'_>, place: Slice<'_>) -> Result<()> {
    let (kind, (images, results)) = (x.float(OP, "x")?, sizes(p)?);
    if p.kernel.0 * p.kernel.1 > WINDOW {
        return Err(Error::Value { op: OP, message: format!("a window of {:?}, at most {WINDOW} values", p.kernel) });
    }
    expect_len(OP, "x", x.len(), images)?;
    y.expect(OP, "y", kind, results)?;
    place.expect(OP, "place", Kind::U8, results)?;
    // SAFETY: all have the sizes of the pool.
    unsafe { launch(gpu, p, &format!("max_pool_forward_{}", kind.name()), results, args![x, y, place]) }
}

/// The gradient of [`max_forward`]: dx (B, H, W, C) of g (B, H', W', C).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn max_backward(gpu: &Gpu, p: &Pool, g: Slice<'_>, place: Slice<'_>, dx: Slice<'_>) -> Result<()> {
    let (kind, (images, results)) = (g.float(OP, "g")?, sizes(p)?);
    expect_len(OP, "g", g.len(), results)?;
    dx.expect(OP, "dx", kind, images)?;
    place.expect(OP, "place", Kind::U8, results)?;
    // SAFETY: all have the sizes of the pool.
    unsafe { launch(gpu, p, &format!("max_pool_backward_{}", kind.name()), images, args![g, place, dx]) }
}

/// The mean of each window of x (B, H, W, C), the border's zeros among its values: y (B, H', W', C).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn avg_forward(gpu: &Gpu, p: &Pool, x: Slice<'_>, y: Slice<'_>) -> Result<()> {
    let (kind, (images, results)) = (x.float(OP, "x")?, sizes(p)?);
    expect_len(OP, "x", x.len(), images)?;
    y.expect(OP, "y", kind, results)?;
    // SAFETY: both have the sizes of the pool.
    unsafe { launch(gpu, p, &format!("avg_pool_forward_{}", kind.name()), results, args![x, y]) }
}

/// The gradient of [`avg_forward`]: dx (B, H, W, C) of g (B, H', W', C).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn avg_backward(gpu: &Gpu, p: &Pool, g: Slice<'_>, dx: Slice<'_>) -> Result<()> {
    let (kind, (images, results)) = (g.float(OP, "g")?, sizes(p)?);
    expect_len(OP, "g", g.len(), results)?;
    dx.expect(OP, "dx", kind, images)?;
    // SAFETY: both have the sizes of the pool.
    unsafe { launch(gpu, p, &format!("avg_pool_backward_{}", kind.name()), images, args![g, dx]) }
}
