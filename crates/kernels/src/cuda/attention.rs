//! Attention on packed projections, in bf16 on tensor cores.

use crate::cuda::Gpu;
use crate::cuda::gpu::{Shape, Source, args, int};
use crate::cuda::memory::{Kind, Slice};
use crate::error::{Error, Result};

/// Tokens that a block works on.
const TILE: usize = 64;
/// Widths of a head that there are kernels for.
const HEADS: [usize; 7] = [16, 32, 48, 64, 80, 96, 128];

/// The sizes of a call.
#[derive(Debug, Clone, Copy)]
pub struct Dims {
    /// Samples.
    pub batch: usize,
    /// Tokens per sample.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
}

impl Dims {
    /// Whether there is a kernel for these sizes.
    pub fn fit(&self) -> bool {
        HEADS.contains(&self.head_dim) && self.heads <= 65_535 && self.batch <= 65_535
    }

    fn check(&self, qkv: Slice<'_>, out: Slice<'_>, lse: Slice<'_>) -> Result<()> {
        let op = "attention";
        if !self.fit() {
            let message = format!("heads of {} values, expected one of {HEADS:?}", self.head_dim);
            return Err(Error::Value { op, message });
        }
        let n = self.batch * self.tokens * self.heads;
        qkv.expect(op, "qkv", Kind::Bf16, 3 * n * self.head_dim)?;
        out.expect(op, "out", Kind::Bf16, n * self.head_dim)?;
        lse.expect(op, "lse", Kind::F32, n)?;
        if (qkv.at | out.at) % 16 != 0 {
            return Err(Error::Value { op, message: "values that do not begin at a multiple of 16 bytes".into() });
        }
        Ok(())
    }

    /// A block per head, whose warps share the stripes of 16 tokens in as few rounds as `most` warps can; `None` where the tiles of all tokens do
    /// not fit into shared memory.
    fn short(&self, gpu: &Gpu, items: usize, most: usize, tiles: usize, rows: usize) -> Option<Shape> {
        let stripes = self.tokens.div_ceil(16);
        let shared = tiles * stripes * 16 * (self.head_dim + 8) * 2 + rows * stripes * 16 * 4;
        let items = items * stripes;
        let warps = items.div_ceil(items.div_ceil(most)).max(1);
        // One tile is streamed once: measured on an H200, that is faster.
        (shared <= gpu.shared() && self.tokens > TILE).then_some(Shape {
            grid: (self.heads, self.batch, 1),
            block: (32 * warps as u32, 1),
            shared,
        })
    }

    /// Blocks that stream tiles of tokens.
    fn long(&self, blocks: usize, tiles: usize, rows: usize) -> Shape {
        let shared = tiles * TILE * (self.head_dim + 8) * 2 + rows * TILE * 4;
        Shape { grid: (blocks * self.tokens.div_ceil(TILE), self.heads, self.batch), block: (128, 1), shared }
    }

    /// The kernel's name and its shape.
    fn kernel(&self, way: &str, short: Option<Shape>, long: Shape) -> (String, Shape) {
        match short {
            Some(shape) => (format!("attention_{way}_{}", self.head_dim), shape),
            None => (format!("attention_{way}_long_{}", self.head_dim), long),
        }
    }
}

/// out (B, N, H D) of qkv (B, N, 3, H, D); keeps the logarithms of the softmax's sums, lse (B, H, N).
///
/// # Errors
/// When the sizes do not fit, or there is no kernel for the heads.
pub fn forward(gpu: &Gpu, d: &Dims, qkv: Slice<'_>, out: Slice<'_>, lse: Slice<'_>) -> Result<()> {
    d.check(qkv, out, lse)?;
    let (n, h) = (int("attention", d.tokens)?, int("attention", d.heads)?);
    let (name, shape) = d.kernel("forward", d.short(gpu, 1, 8, 2, 0), d.long(1, 3, 0));
    // SAFETY: qkv, out and lse have these sizes, and shared memory has the kernel's tiles.
    unsafe { gpu.launch(Source::Attention, &name, shape, args![qkv, out, lse, n, h, d.scale]) }
}

/// The gradient of qkv, from that of out.
///
/// # Errors
/// The same as [`forward`].
pub fn backward(
    gpu: &Gpu,
    d: &Dims,
    qkv: Slice<'_>,
    out: Slice<'_>,
    lse: Slice<'_>,
    g: Slice<'_>,
    dqkv: Slice<'_>,
) -> Result<()> {
    d.check(qkv, out, lse)?;
    d.check(dqkv, g, lse)?;
    let (n, h) = (int("attention", d.tokens)?, int("attention", d.heads)?);
    // As `WARPS` in the source.
    let warps = if d.head_dim > 32 && d.head_dim <= 64 { 14 } else { 8 };
    let (name, shape) = d.kernel("backward", d.short(gpu, 2, warps, 4, 2), d.long(2, 4, 2));
    // SAFETY: all have these sizes, and shared memory has the kernel's tiles and rows of numbers.
    unsafe { gpu.launch(Source::Attention, &name, shape, args![qkv, out, lse, g, dqkv, n, h, d.scale]) }
}
