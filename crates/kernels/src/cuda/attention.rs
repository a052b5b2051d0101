//! Attention on packed projections, in bf16 on tensor cores.

use crate::cuda::Gpu;
use crate::cuda::gpu::{Shape, Source, args, int};
use crate::cuda::memory::{Kind, Slice};
use crate::error::{Error, Result};

/// Stripes of 16 tokens that pass through shared memory at a time, at most.
const CHUNK: usize = 7;
/// The most tokens: two numbers of each lie in shared memory.
const TOKENS: usize = 4112;
/// Bytes of shared memory for tiles. With the numbers, this is less than what a block of any device with bf16 may have.
const TILES: usize = 64 << 10;
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
        HEADS.contains(&self.head_dim) && self.tokens <= TOKENS && self.heads <= 65_535 && self.batch <= 65_535
    }

    fn check(&self, qkv: Slice<'_>, out: Slice<'_>, lse: Slice<'_>) -> Result<()> {
        let op = "attention";
        if !self.fit() {
            let message = format!(
                "{} tokens with heads of {} values, expected at most {TOKENS} tokens with heads of one of {HEADS:?}",
                self.tokens, self.head_dim
            );
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

    /// Blocks of at most `warps` warps, each with `stripes` stripes of 16 tokens, and the tokens of a chunk: four tiles of a chunk's rows and
    /// `numbers` floats per token lie in shared memory. The grid has `times` blocks for the same tokens.
    fn shape(&self, stripes: usize, warps: usize, times: usize, numbers: usize) -> (Shape, i32) {
        let all = self.tokens.div_ceil(16).max(1);
        let (units, row) = (all.div_ceil(stripes), self.head_dim + 8);
        let chunk = 16 * all.div_ceil(all.div_ceil(CHUNK.min(TILES / (4 * 16 * row * 2))));
        let blocks = units.div_ceil(warps);
        let shape = Shape {
            grid: (times * blocks, self.heads, self.batch),
            block: (32 * units.div_ceil(blocks) as u32, 1),
            shared: 4 * chunk * row * 2 + numbers * 16 * all * 4,
        };
        (shape, chunk as i32)
    }
}

/// out (B, N, H D) of qkv (B, N, 3, H, D); keeps the logarithms of the softmax's sums, lse (B, H, N).
///
/// # Errors
/// When the sizes do not fit, or there is no kernel for the heads.
pub fn forward(gpu: &Gpu, d: &Dims, qkv: Slice<'_>, out: Slice<'_>, lse: Slice<'_>) -> Result<()> {
    d.check(qkv, out, lse)?;
    let (n, h) = (int("attention", d.tokens)?, int("attention", d.heads)?);
    // As `FORWARD` and `FORWARD_WARPS` in the source.
    let stripes = if d.head_dim > 32 && d.head_dim <= 64 { 2 } else { 1 };
    let (shape, chunk) = d.shape(stripes, if d.head_dim <= 32 { 7 } else { 4 }, 1, 0);
    let name = format!("attention_forward_{}", d.head_dim);
    // SAFETY: qkv, out and lse have these sizes, and shared memory has the kernel's tiles.
    unsafe { gpu.launch(Source::Attention, &name, shape, args![qkv, out, lse, n, h, d.scale, chunk]) }
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
    // As `BACKWARD` and `BACKWARD_WARPS` in the source.
    let (shape, chunk) = d.shape(if d.head_dim <= 64 { 2 } else { 1 }, 4, 2, 2);
    let name = format!("attention_backward_{}", d.head_dim);
    // SAFETY: all have these sizes, and shared memory has the kernel's tiles and numbers.
    unsafe { gpu.launch(Source::Attention, &name, shape, args![qkv, out, lse, g, dqkv, n, h, d.scale, chunk]) }
}
