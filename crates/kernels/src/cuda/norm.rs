//! Layer normalisation.

use crate::cuda::Gpu;
use crate::cuda::elementwise::{Into, reduce};
use crate::cuda::gpu::{Shape, Source, args, int};
use crate::cuda::memory::{Buffer, Kind, Slice};
use crate::error::{Result, expect_len};

/// Warps of a block of the backward pass.
const WARPS: usize = 8;

/// The packs of 16 bytes that a lane holds of a row; `None` where rows are too wide or no packs.
fn packs(kind: Kind, width: usize) -> Option<usize> {
    let held = if kind == Kind::Bf16 { &[1, 2, 3, 4, 5, 6][..] } else { &[2, 4, 6, 8, 10] };
    let needed = width.div_ceil(32 * kind.pack());
    held.iter().copied().find(|&p| width % kind.pack() == 0 && p >= needed)
}

/// y = (x - mean) / sqrt(var + eps) gamma + beta of each row of x (rows, n); keeps each row's mean and 1 / sqrt(var + eps).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn forward(
    gpu: &Gpu,
    x: Slice<'_>,
    gamma: Slice<'_>,
    beta: Slice<'_>,
    eps: f32,
    y: Slice<'_>,
    mean: Slice<'_>,
    rstd: Slice<'_>,
) -> Result<()> {
    let op = "layer_norm";
    let (kind, n, rows) = (x.float(op, "x")?, gamma.len(), mean.len());
    expect_len(op, "x", x.len(), rows * n)?;
    y.expect(op, "y", kind, x.len())?;
    gamma.expect(op, "gamma", Kind::F32, n)?;
    beta.expect(op, "beta", Kind::F32, n)?;
    mean.expect(op, "mean", Kind::F32, rows)?;
    rstd.expect(op, "rstd", Kind::F32, rows)?;
    let held = packs(kind, n).filter(|_| (x.at | y.at | gamma.at | beta.at) % 16 == 0);
    let held = held.map_or("any".to_string(), |p| p.to_string());
    let name = format!("layer_norm_forward_{}_{held}", kind.name());
    let args = args![x, gamma, beta, y, mean, rstd, int(op, rows)?, int(op, n)?, eps];
    // SAFETY: x and y have rows of n values, gamma and beta n, mean and rstd one per row.
    unsafe { gpu.launch(Source::Layer, &name, Shape::rows(rows), args) }
}

/// The gradients of [`forward`]: dx, to which `more` is added, and the sums over all rows for gamma and beta.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn backward(
    gpu: &Gpu,
    x: Slice<'_>,
    gamma: Slice<'_>,
    mean: Slice<'_>,
    rstd: Slice<'_>,
    g: Slice<'_>,
    more: Option<Slice<'_>>,
    dx: Slice<'_>,
    dgamma: Option<Into<'_>>,
    dbeta: Option<Into<'_>>,
) -> Result<()> {
    let op = "layer_norm";
    let (kind, n, rows) = (x.float(op, "x")?, gamma.len(), mean.len());
    expect_len(op, "x", x.len(), rows * n)?;
    gamma.expect(op, "gamma", Kind::F32, n)?;
    rstd.expect(op, "rstd", Kind::F32, rows)?;
    mean.expect(op, "mean", Kind::F32, rows)?;
    for (what, s) in [("g", Some(g)), ("dx", Some(dx)), ("more", more)] {
        if let Some(s) = s {
            s.expect(op, what, kind, x.len())?;
        }
    }
    let (r, w) = (int(op, rows)?, int(op, n)?);
    let aligned = [x.at, g.at, dx.at, gamma.at, more.map_or(0, |m| m.at)].iter().all(|a| a % 16 == 0);
    let Some(held) = packs(kind, n).filter(|_| aligned && WARPS * n * 4 <= 48 << 10) else {
        let name = format!("layer_norm_backward_{}_any", kind.name());
        // SAFETY: x, g, dx and `more` have rows of n values, gamma n, mean and rstd one per row.
        unsafe { gpu.launch(Source::Layer, &name, Shape::rows(rows), args![x, gamma, mean, rstd, g, more, dx, r, w])? };
        let parts = rows.div_ceil(64).clamp(1, 256);
        let partial = Buffer::new(gpu, Kind::F32, parts * 2 * n)?;
        let name = format!("layer_norm_parameters_{}_any", kind.name());
        let shape = Shape { grid: (n.div_ceil(128), parts, 1), block: (128, 1), shared: 0 };
        // SAFETY: as above, and every block in y has a row of `partial`.
        unsafe { gpu.launch(Source::Layer, &name, shape, args![x, mean, rstd, g, partial.slice(gpu), r, w])? };
        return reduce(gpu, partial.slice(gpu), parts, dgamma, dbeta);
    };
    let blocks = rows.div_ceil(WARPS).min(gpu.processors() * 2).max(1);
    let partial = Buffer::new(gpu, Kind::F32, blocks * 2 * n)?;
    let shape = Shape { grid: (blocks, 1, 1), block: (32, WARPS as u32), shared: WARPS * n * 4 };
    let name = format!("layer_norm_backward_{}_{held}", kind.name());
    let args = args![x, gamma, mean, rstd, g, more, dx, partial.slice(gpu), r, w];
    // SAFETY: x, g, dx and `more` have rows of n values, gamma n, mean and rstd one per row, `partial` a row per block.
    unsafe { gpu.launch(Source::Layer, &name, shape, args)? };
    reduce(gpu, partial.slice(gpu), blocks, dgamma, dbeta)
}
