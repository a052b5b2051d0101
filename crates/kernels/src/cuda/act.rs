//! GELU.

use crate::act::gelu::Gelu;
use crate::cuda::Gpu;
use crate::cuda::gpu::{Shape, Source, args};
use crate::cuda::memory::Slice;
use crate::error::{Result, expect_len};

fn name(kind: Gelu, way: &str, x: Slice<'_>) -> String {
    let kind = if kind == Gelu::Tanh { "tanh" } else { "erf" };
    format!("gelu_{kind}_{way}_{}", x.kind().name())
}

/// y = gelu(x).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn forward(gpu: &Gpu, kind: Gelu, x: Slice<'_>, y: Slice<'_>) -> Result<()> {
    let of = x.float("gelu", "x")?;
    y.expect("gelu", "y", of, x.len())?;
    let shape = Shape::each(x.len().div_ceil(of.pack()));
    // SAFETY: both have as many values as the kernel is told.
    unsafe { gpu.launch(Source::Gelu, &name(kind, "forward", x), shape, args![x, y, x.len() as u64]) }
}

/// dx = g gelu'(x); `dx` may be `g` itself.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn backward(gpu: &Gpu, kind: Gelu, x: Slice<'_>, g: Slice<'_>, dx: Slice<'_>) -> Result<()> {
    let of = x.float("gelu", "x")?;
    g.expect("gelu", "g", of, x.len())?;
    dx.expect("gelu", "dx", of, x.len())?;
    expect_len("gelu", "dx", dx.len(), x.len())?;
    let shape = Shape::each(x.len().div_ceil(of.pack()));
    // SAFETY: all have as many values as the kernel is told; a thread reads its values before it writes them.
    unsafe { gpu.launch(Source::Gelu, &name(kind, "backward", x), shape, args![x, g, dx, x.len() as u64]) }
}
