//! GELU, and activations that need one number alone.

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

/// An activation of one number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pointwise {
    /// `max(x, 0)`.
    Relu,
    /// `x` above 0, the slope times `x` below.
    LeakyRelu(f32),
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x / (1 + e^-x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// `ln(1 + e^x)`.
    Softplus,
}

/// y = f(x), or, where g is there, y = g f'(x), the gradient.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn pointwise(gpu: &Gpu, f: Pointwise, x: Slice<'_>, g: Option<Slice<'_>>, y: Slice<'_>) -> Result<()> {
    let (name, slope) = match f {
        Pointwise::Relu => ("relu", 0.0),
        Pointwise::LeakyRelu(slope) => ("leaky_relu", slope),
        Pointwise::Sigmoid => ("sigmoid", 0.0),
        Pointwise::Silu => ("silu", 0.0),
        Pointwise::Tanh => ("tanh", 0.0),
        Pointwise::Softplus => ("softplus", 0.0),
    };
    let of = x.float(name, "x")?;
    y.expect(name, "y", of, x.len())?;
    if let Some(g) = g {
        g.expect(name, "g", of, x.len())?;
    }
    let (shape, args) = (Shape::each(x.len().div_ceil(of.pack())), args![x, g, y, x.len() as u64, slope]);
    // SAFETY: all have as many values as the kernel is told.
    unsafe { gpu.launch(Source::Pointwise, &format!("act_{name}_{}", of.name()), shape, args) }
}
