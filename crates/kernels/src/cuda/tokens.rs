//! Sequences of tokens, and images as patches.

use crate::cuda::Gpu;
use crate::cuda::elementwise::{Into, reduce};
use crate::cuda::gpu::{Shape, Source, args, int};
use crate::cuda::memory::{Buffer, Kind, Slice};
use crate::error::{Error, Result, expect_len};
use crate::tokens::patch::Grid;

/// The sizes of a batch of sequences.
#[derive(Debug, Clone, Copy)]
pub struct Sequences {
    /// Samples, B.
    pub batch: usize,
    /// Tokens per sample, N.
    pub tokens: usize,
    /// Values per token, D.
    pub width: usize,
}

impl Sequences {
    fn len(&self) -> usize {
        self.batch * self.tokens * self.width
    }
}

/// y (B, K, D) = the tokens `ids` (B, K) of x (B, N, D); ids are below N.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn gather(gpu: &Gpu, s: &Sequences, x: Slice<'_>, ids: Slice<'_>, y: Slice<'_>) -> Result<()> {
    gathered(gpu, s, "gather", x, ids, y)
}

/// dx (B, N, D) of [`gather`] from g (B, K, D); gradients of a token that was taken several times add up.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn gather_backward(gpu: &Gpu, s: &Sequences, g: Slice<'_>, ids: Slice<'_>, dx: Slice<'_>) -> Result<()> {
    gathered(gpu, s, "gather_backward", dx, ids, g)
}

/// `wide` has N tokens per sample, `few` K.
fn gathered(gpu: &Gpu, s: &Sequences, op: &'static str, wide: Slice<'_>, ids: Slice<'_>, few: Slice<'_>) -> Result<()> {
    let kind = wide.float(op, "x")?;
    let k = ids.len() / s.batch.max(1);
    wide.expect(op, "x", kind, s.len())?;
    ids.expect(op, "ids", Kind::U32, s.batch * k)?;
    few.expect(op, "y", kind, s.batch * k * s.width)?;
    let sizes = [s.batch, s.tokens, k, s.width].map(|v| int(op, v));
    let [b, n, k32, d] = sizes;
    let (from, to, rows) = if op == "gather" { (wide, few, s.batch * k) } else { (few, wide, s.batch * s.tokens) };
    let args = args![from, ids, to, b?, n?, k32?, d?];
    // SAFETY: the sequences have these sizes; the caller has checked the ids.
    unsafe { gpu.launch(Source::Sequence, &format!("{op}_{}", kind.name()), Shape::wide_rows(rows, s.width), args) }
}

/// y (B, D) = x (B, D) plus `scale` times the rows of z (K, D) at their `places` (B); a place of K or more has none.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn add_kept(gpu: &Gpu, x: Slice<'_>, z: Slice<'_>, places: Slice<'_>, scale: f32, y: Slice<'_>) -> Result<()> {
    let op = "add_kept";
    let kind = x.float(op, "x")?;
    let batch = places.len();
    let width = x.len() / batch.max(1);
    let k = z.len() / width.max(1);
    x.expect(op, "x", kind, batch * width)?;
    z.expect(op, "z", kind, k * width)?;
    y.expect(op, "y", kind, x.len())?;
    places.expect(op, "places", Kind::U32, batch)?;
    let args = args![x, z, places, y, int(op, batch)?, int(op, k)?, int(op, width)?, scale];
    let shape = Shape::wide_rows(batch, width);
    // SAFETY: x and y have a row per place, z has k rows, and a place that is not in z is passed over.
    unsafe { gpu.launch(Source::Sequence, &format!("add_kept_{}", kind.name()), shape, args) }
}

/// y (B, N + 1, D) = `token` (D), in f32, before the tokens of x (B, N, D).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn prepend(gpu: &Gpu, s: &Sequences, x: Slice<'_>, token: Slice<'_>, y: Slice<'_>) -> Result<()> {
    let op = "prepend_token";
    let kind = x.float(op, "x")?;
    x.expect(op, "x", kind, s.len())?;
    token.expect(op, "token", Kind::F32, s.width)?;
    y.expect(op, "y", kind, s.len() + s.batch * s.width)?;
    let args = args![x, token, y, int(op, s.batch)?, int(op, s.tokens)?, int(op, s.width)?];
    let rows = Shape::rows(s.batch * (s.tokens + 1));
    // SAFETY: the sequences have these sizes.
    unsafe { gpu.launch(Source::Sequence, &format!("prepend_{}", kind.name()), rows, args) }
}

/// The gradient of [`prepend`]'s token: the sum of the first tokens of g, whose sizes are `s`.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn first_tokens(gpu: &Gpu, s: &Sequences, g: Slice<'_>, out: Into<'_>) -> Result<()> {
    token_backward(gpu, s, g, None, 0, out)
}

fn token_backward(
    gpu: &Gpu,
    s: &Sequences,
    g: Slice<'_>,
    restore: Option<Slice<'_>>,
    k1: usize,
    out: Into<'_>,
) -> Result<()> {
    let op = "token";
    let kind = g.float(op, "g")?;
    g.expect(op, "g", kind, s.len())?;
    let parts = s.batch.min(gpu.processors()).max(1);
    let partial = Buffer::new(gpu, Kind::F32, parts * s.width)?;
    let shape = Shape { grid: (s.width.div_ceil(128), parts, 1), block: (128, 1), shared: 0 };
    let (b, l) = (int(op, s.batch)?, int(op, s.tokens.saturating_sub(1))?);
    let args = args![g, restore, partial.slice(gpu), b, l, int(op, k1)?, int(op, s.width)?];
    // SAFETY: the sequences have these sizes, and every block in y has a row of `partial`.
    unsafe { gpu.launch(Source::Sequence, &format!("token_backward_{}", kind.name()), shape, args)? };
    reduce(gpu, partial.slice(gpu), parts, Some(out), None)
}

/// y (B, N, D) = x (B, N, D) + table (N, D), in f32.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn add_table(gpu: &Gpu, s: &Sequences, x: Slice<'_>, table: Slice<'_>, y: Slice<'_>) -> Result<()> {
    let op = "add_table";
    let kind = x.float(op, "x")?;
    x.expect(op, "x", kind, s.len())?;
    y.expect(op, "y", kind, s.len())?;
    table.expect(op, "table", Kind::F32, s.tokens * s.width)?;
    let args = args![x, table, y, int(op, s.batch)?, int(op, s.tokens)?, int(op, s.width)?];
    let rows = Shape::rows(s.batch * s.tokens);
    // SAFETY: the sequences have these sizes.
    unsafe { gpu.launch(Source::Sequence, &format!("add_table_{}", kind.name()), rows, args) }
}

/// MAE's decoder input y (B, 1 + L, D), whose sizes are `s`: the tokens of x (B, 1 + K, D) at the places that `restore` (B, L) names, the mask
/// token (D) elsewhere, and positions (1 + L, D) added.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn unshuffle(
    gpu: &Gpu,
    s: &Sequences,
    x: Slice<'_>,
    mask: Slice<'_>,
    restore: Slice<'_>,
    pos: Slice<'_>,
    y: Slice<'_>,
) -> Result<()> {
    let op = "unshuffle_tokens";
    let kind = x.float(op, "x")?;
    let k1 = kept(op, s, x)?;
    y.expect(op, "y", kind, s.len())?;
    mask.expect(op, "mask_token", Kind::F32, s.width)?;
    pos.expect(op, "pos", Kind::F32, s.tokens * s.width)?;
    restore.expect(op, "restore", Kind::U32, s.batch * s.tokens.saturating_sub(1))?;
    let sizes = [s.batch, s.tokens - 1, k1, s.width].map(|v| int(op, v));
    let [b, l, k1, d] = sizes;
    let args = args![x, mask, restore, pos, y, b?, l?, k1?, d?];
    let rows = Shape::rows(s.batch * s.tokens);
    // SAFETY: the sequences have these sizes; a place that is not in x gets the mask token.
    unsafe { gpu.launch(Source::Sequence, &format!("unshuffle_{}", kind.name()), rows, args) }
}

/// The gradients of [`unshuffle`] from g (B, 1 + L, D): dx (B, 1 + K, D) and that of the mask token.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn unshuffle_backward(
    gpu: &Gpu,
    s: &Sequences,
    g: Slice<'_>,
    restore: Slice<'_>,
    dx: Option<Slice<'_>>,
    k1: usize,
    mask: Option<Into<'_>>,
) -> Result<()> {
    let op = "unshuffle_tokens";
    let kind = g.float(op, "g")?;
    g.expect(op, "g", kind, s.len())?;
    restore.expect(op, "restore", Kind::U32, s.batch * s.tokens.saturating_sub(1))?;
    if let Some(dx) = dx {
        dx.expect(op, "dx", kind, s.batch * k1 * s.width)?;
        let sizes = [s.batch, s.tokens - 1, k1, s.width].map(|v| int(op, v));
        let [b, l, k1, d] = sizes;
        let args = args![g, restore, dx, b?, l?, k1?, d?];
        let rows = Shape::rows(s.batch * s.tokens);
        // SAFETY: the sequences have these sizes; places that are not in dx are passed over.
        unsafe { gpu.launch(Source::Sequence, &format!("unshuffle_backward_{}", kind.name()), rows, args)? };
    }
    mask.map_or(Ok(()), |out| token_backward(gpu, s, g, Some(restore), k1, out))
}

fn kept(op: &'static str, s: &Sequences, x: Slice<'_>) -> Result<usize> {
    let k1 = x.len() / (s.batch * s.width).max(1);
    expect_len(op, "x", x.len(), s.batch * k1 * s.width)?;
    if s.tokens == 0 || k1 == 0 {
        return Err(Error::Value { op, message: "no class token".into() });
    }
    Ok(k1)
}

/// y (B, D) = the means over the tokens of x (B, N, D).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn mean(gpu: &Gpu, s: &Sequences, x: Slice<'_>, y: Slice<'_>) -> Result<()> {
    means(gpu, s, "mean", x, y)
}

/// dx (B, N, D) of [`mean`] from g (B, D).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn mean_backward(gpu: &Gpu, s: &Sequences, g: Slice<'_>, dx: Slice<'_>) -> Result<()> {
    means(gpu, s, "mean_backward", dx, g)
}

fn means(gpu: &Gpu, s: &Sequences, op: &'static str, wide: Slice<'_>, few: Slice<'_>) -> Result<()> {
    let kind = wide.float(op, "x")?;
    wide.expect(op, "x", kind, s.len())?;
    few.expect(op, "y", kind, s.batch * s.width)?;
    let (from, to) = if op == "mean" { (wide, few) } else { (few, wide) };
    let args = args![from, to, int(op, s.batch)?, int(op, s.tokens)?, int(op, s.width)?];
    // SAFETY: the sequences have these sizes.
    unsafe { gpu.launch(Source::Sequence, &format!("{op}_{}", kind.name()), Shape::each(to.len()), args) }
}

/// y (B, K, C p p) = the patches `ids` (B, K) of images x (B, C, H, W), or all of them, in a convolution's order of values. Ids are below the
/// number of patches.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn patches(gpu: &Gpu, g: &Grid, x: Slice<'_>, ids: Option<Slice<'_>>, y: Slice<'_>) -> Result<()> {
    g.check()?;
    let op = "image_patches";
    let batch = x.len() / g.image_len();
    let k = ids.map_or(g.patches(), |i| i.len() / batch.max(1));
    x.expect(op, "x", Kind::F32, batch * g.image_len())?;
    let kind = y.float(op, "y")?;
    y.expect(op, "y", kind, batch * k * g.patch_len())?;
    if let Some(ids) = ids {
        ids.expect(op, "ids", Kind::U32, batch * k)?;
    }
    let sizes = [batch, k, g.channels, g.height, g.width, g.patch].map(|v| int(op, v));
    let [b, k, c, h, w, p] = sizes;
    let args = args![x, ids, y, b?, k?, c?, h?, w?, p?];
    // SAFETY: images and patches have these sizes; the caller has checked the ids.
    unsafe { gpu.launch(Source::Patch, &format!("patches_{}", kind.name()), Shape::each(y.len()), args) }
}

/// Bytes as numbers in torchvision's order, `(x / 255 - mean) / std`: x and y (B, C, H, W), of `pixels` = H W values per channel.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn normalise(gpu: &Gpu, x: Slice<'_>, mean: Slice<'_>, std: Slice<'_>, pixels: usize, y: Slice<'_>) -> Result<()> {
    let op = "normalise";
    x.expect(op, "x", Kind::U8, y.len())?;
    y.expect(op, "y", Kind::F32, x.len())?;
    mean.expect(op, "mean", Kind::F32, mean.len())?;
    std.expect(op, "std", Kind::F32, mean.len())?;
    expect_len(op, "x modulo an image", x.len() % (mean.len() * pixels).max(1), 0)?;
    let args = args![x, mean, std, y, x.len() as u64, int(op, mean.len())?, int(op, pixels)?];
    // SAFETY: both have as many values as the kernel is told, and mean and std one per channel.
    unsafe { gpu.launch(Source::Patch, "normalise", Shape::each(x.len().div_ceil(4)), args) }
}
