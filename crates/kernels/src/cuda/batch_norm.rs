//! Batch normalisation of x (rows, channels), with a residual and ReLU behind it.

use crate::cuda::Gpu;
use crate::cuda::elementwise::Into;
use crate::cuda::gpu::{Shape, Source, args, int};
use crate::cuda::memory::{Buffer, Kind, Slice};
use crate::error::{Error, Result, expect_len};

const OP: &str = "batch_norm";
/// Threads of a block.
const THREADS: usize = 256;

/// How a kernel walks over rows: threads along the channels and along the rows, and blocks of rows.
struct Walk {
    shape: Shape,
    parts: usize,
    tall: usize,
    suffix: &'static str,
}

impl Walk {
    /// `waves` blocks per multiprocessor at most; `numbers` floats of shared memory per channel of a thread.
    fn new(gpu: &Gpu, kind: Kind, rows: usize, channels: usize, aligned: bool, waves: usize, numbers: usize) -> Self {
        let (suffix, pack) = if aligned && channels % kind.pack() == 0 { ("", kind.pack()) } else { ("_any", 1) };
        let packs = channels / pack;
        let wide = packs.next_power_of_two().min(32);
        let tall = THREADS / wide;
        let across = packs.div_ceil(wide);
        let parts = (gpu.processors() * waves).div_ceil(across).min(rows.div_ceil(tall)).clamp(1, 65_535);
        let shared = if numbers > 0 { THREADS * (numbers * pack + 1) * 4 } else { 0 };
        let shape = Shape { grid: (across, parts, 1), block: (wide as u32, tall as u32), shared };
        Walk { shape, parts, tall, suffix }
    }
}

/// The statistics of channels: what values are normalised by.
#[derive(Debug, Clone, Copy)]
pub struct Statistics<'a> {
    /// The means, (channels), in f32.
    pub mean: Slice<'a>,
    /// 1 / sqrt(variance + eps), (channels), in f32.
    pub rstd: Slice<'a>,
}

impl Statistics<'_> {
    /// Refuses other lengths and types; the number of channels.
    fn check(&self) -> Result<usize> {
        let n = self.mean.len();
        self.mean.expect(OP, "mean", Kind::F32, n)?;
        self.rstd.expect(OP, "rstd", Kind::F32, n)?;
        if n == 0 {
            return Err(Error::Value { op: OP, message: "no channels".into() });
        }
        Ok(n)
    }
}

fn aligned(all: &[Option<Slice<'_>>]) -> bool {
    all.iter().flatten().all(|s| s.at % 16 == 0)
}

/// The statistics of x's rows, and their biased variances in `var`.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn statistics(gpu: &Gpu, x: Slice<'_>, eps: f32, to: Statistics<'_>, var: Slice<'_>) -> Result<()> {
    let (kind, n) = (x.float(OP, "x")?, to.check()?);
    let rows = x.len() / n;
    expect_len(OP, "x", x.len(), rows * n)?;
    var.expect(OP, "var", Kind::F32, n)?;
    let walk = Walk::new(gpu, kind, rows, n, aligned(&[Some(x)]), 4, 2);
    let partial = Buffer::new(gpu, Kind::F32, walk.parts * 2 * n)?;
    let name = format!("batch_norm_statistics_{}{}", kind.name(), walk.suffix);
    let p = partial.slice(gpu);
    // SAFETY: x has rows of n values, and every block in y has two rows of `partial`.
    unsafe { gpu.launch(Source::Batch, &name, walk.shape, args![x, p, rows as u64, int(OP, n)?])? };
    let shape = Shape { grid: (n.div_ceil(4), 1, 1), block: (32, 4), shared: 0 };
    let (channels, parts, tall) = (int(OP, n)?, int(OP, walk.parts)?, int(OP, walk.tall)?);
    let args = args![p, to.mean, var, to.rstd, rows as u64, channels, parts, tall, eps];
    // SAFETY: `partial` has two rows per part, and the others n values.
    unsafe { gpu.launch(Source::Batch, "batch_norm_join", shape, args) }
}

/// Moves the running mean and variance towards those of a batch of `rows` rows, the variance as the unbiased one; nothing moves where one of the
/// batch's numbers is not finite.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn running(
    gpu: &Gpu,
    batch: (Slice<'_>, Slice<'_>),
    running: (Slice<'_>, Slice<'_>),
    rows: usize,
    momentum: f32,
) -> Result<()> {
    let n = batch.0.len();
    for (what, s) in [("mean", batch.0), ("var", batch.1), ("running mean", running.0), ("running var", running.1)] {
        s.expect(OP, what, Kind::F32, n)?;
    }
    let unbiased = (rows as f64 / (rows as f64 - 1.0)) as f32;
    let shape = Shape { grid: (1, 1, 1), block: (1024, 1), shared: 0 };
    let args = args![batch.0, batch.1, running.0, running.1, int(OP, n)?, momentum, unbiased];
    // SAFETY: all have n values.
    unsafe { gpu.launch(Source::Batch, "batch_norm_running", shape, args) }
}

/// `rstd` = 1 / sqrt(var + eps).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn rstd(gpu: &Gpu, var: Slice<'_>, eps: f32, rstd: Slice<'_>) -> Result<()> {
    var.expect(OP, "var", Kind::F32, var.len())?;
    rstd.expect(OP, "rstd", Kind::F32, var.len())?;
    // SAFETY: both have the same length.
    unsafe {
        gpu.launch(Source::Batch, "batch_norm_rstd", Shape::each(var.len()), args![var, rstd, int(OP, var.len())?, eps])
    }
}

/// y = (x - mean) rstd gamma + beta + residual, and ReLU of that where `relu` says so.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn forward(
    gpu: &Gpu,
    x: Slice<'_>,
    by: Statistics<'_>,
    affine: Option<(Slice<'_>, Slice<'_>)>,
    residual: Option<Slice<'_>>,
    relu: bool,
    y: Slice<'_>,
) -> Result<()> {
    let (kind, n) = (x.float(OP, "x")?, by.check()?);
    let rows = x.len() / n;
    expect_len(OP, "x", x.len(), rows * n)?;
    y.expect(OP, "y", kind, x.len())?;
    if let Some(r) = residual {
        r.expect(OP, "residual", kind, x.len())?;
    }
    if let Some((gamma, beta)) = affine {
        gamma.expect(OP, "gamma", Kind::F32, n)?;
        beta.expect(OP, "beta", Kind::F32, n)?;
    }
    let walk = Walk::new(gpu, kind, rows, n, aligned(&[Some(x), Some(y), residual]), 8, 0);
    let name = format!("batch_norm_forward_{}{}", kind.name(), walk.suffix);
    let (gamma, beta) = (affine.map(|a| a.0), affine.map(|a| a.1));
    let args = args![x, by.mean, by.rstd, gamma, beta, residual, y, rows as u64, int(OP, n)?, i32::from(relu)];
    // SAFETY: x, y and the residual have rows of n values, the others n.
    unsafe { gpu.launch(Source::Batch, &name, walk.shape, args) }
}

/// What a backward pass reads.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// The input.
    pub x: Slice<'a>,
    /// What it was normalised by.
    pub by: Statistics<'a>,
    /// The scale, if there is one.
    pub gamma: Option<Slice<'a>>,
    /// The result, if ReLU made it.
    pub y: Option<Slice<'a>>,
    /// Whether the statistics were those of x.
    pub batch: bool,
}

/// The gradients of [`forward`] from g, that of y: dx, plus `more`; g where y is above 0, `masked`, which is the residual's; gamma's and beta's.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn backward(
    gpu: &Gpu,
    saved: &Saved<'_>,
    g: Slice<'_>,
    (more, dx): (Option<Slice<'_>>, Option<Slice<'_>>),
    masked: Option<Slice<'_>>,
    (dgamma, dbeta): (Option<Into<'_>>, Option<Into<'_>>),
) -> Result<()> {
    let Saved { x, by, gamma, y, batch } = *saved;
    let (kind, n) = (x.float(OP, "x")?, by.check()?);
    let rows = x.len() / n;
    expect_len(OP, "x", x.len(), rows * n)?;
    for (what, s) in [("y", y), ("g", Some(g)), ("more", more), ("dx", dx), ("masked", masked)] {
        if let Some(s) = s {
            s.expect(OP, what, kind, x.len())?;
        }
    }
    for (what, s) in [("gamma", gamma), ("dgamma", dgamma.map(|d| d.to)), ("dbeta", dbeta.map(|d| d.to))] {
        if let Some(s) = s {
            s.expect(OP, what, Kind::F32, n)?;
        }
    }
    let fits = aligned(&[Some(x), y, Some(g), more, dx, masked]);
    let (channels, count) = (int(OP, n)?, rows as u64);
    let sums = if (dx.is_some() && batch) || dgamma.is_some() || dbeta.is_some() {
        let walk = Walk::new(gpu, kind, rows, n, fits, 4, 2);
        let (partial, sums) = (Buffer::new(gpu, Kind::F32, walk.parts * 2 * n)?, Buffer::new(gpu, Kind::F32, 2 * n)?);
        let name = format!("batch_norm_partial_sums_{}{}", kind.name(), walk.suffix);
        let args = args![x, by.mean, by.rstd, y, g, partial.slice(gpu), count, channels];
        // SAFETY: x, y and g have rows of n values, the statistics n, and every block in y has two rows of `partial`.
        unsafe { gpu.launch(Source::Batch, &name, walk.shape, args)? };
        let shape = Shape { grid: ((2 * n).div_ceil(32), 1, 1), block: (32, 8), shared: 0 };
        let add = |o: Option<Into<'_>>| i32::from(o.is_some_and(|o| o.add));
        let (to_gamma, to_beta, parts) = (dgamma.map(|d| d.to), dbeta.map(|d| d.to), int(OP, walk.parts)?);
        let args =
            args![partial.slice(gpu), sums.slice(gpu), to_gamma, to_beta, parts, channels, add(dgamma), add(dbeta)];
        // SAFETY: `partial` has two rows of n values per part, `sums` two, and the gradients one.
        unsafe { gpu.launch(Source::Batch, "batch_norm_sums", shape, args)? };
        Some(sums)
    } else {
        None
    };
    if dx.is_none() && masked.is_none() {
        return Ok(());
    }
    let walk = Walk::new(gpu, kind, rows, n, fits, 8, 0);
    let name = format!("batch_norm_backward_{}{}", kind.name(), walk.suffix);
    let sums = sums.as_ref().filter(|_| batch).map(|s| s.slice(gpu));
    let args = args![x, by.mean, by.rstd, gamma, y, g, sums, more, dx, masked, count, channels];
    // SAFETY: as above, and `more`, dx and `masked` have rows of n values.
    unsafe { gpu.launch(Source::Batch, &name, walk.shape, args) }
}
