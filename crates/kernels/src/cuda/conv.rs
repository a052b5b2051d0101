//! Convolutions of channels-last images as products: patches gathered into matrices, and added up where they came from.

use crate::conv::Conv;
use crate::cuda::Gpu;
use crate::cuda::elementwise::Into;
use crate::cuda::gpu::{Arg, Shape, Source, args, int};
use crate::cuda::memory::{Kind, Slice};
use crate::error::{Error, Result, expect_len};

/// Bytes of patches at a time, at most, unless one image has more: images are taken in parts.
const PATCHES: usize = 512 << 20;

/// The patches of a convolution with one group: a matrix with a row per pixel of the result, whose columns are the kernel's rows, its columns and
/// the channels, and zeros up to a multiple of 8, as products on tensor cores want it.
#[derive(Debug, Clone, Copy)]
pub struct Patches {
    c: Conv,
    out: (usize, usize),
}

impl Patches {
    /// The patches of a convolution.
    ///
    /// # Errors
    /// When the sizes do not fit, or there are groups.
    pub fn new(c: &Conv) -> Result<Self> {
        if c.groups != 1 {
            return Err(Error::Value { op: "conv2d", message: format!("{} groups, expected 1", c.groups) });
        }
        let (oh, ow, _) = c.sizes()?;
        Ok(Patches { c: *c, out: (oh, ow) })
    }

    /// The same for another number of images.
    #[must_use]
    pub fn of(&self, batch: usize) -> Self {
        Patches { c: Conv { batch, ..self.c }, ..*self }
    }

    /// The number of patches.
    pub fn rows(&self) -> usize {
        self.c.batch * self.out.0 * self.out.1
    }

    /// The values of a patch.
    pub fn width(&self) -> usize {
        (self.taps() * self.c.inputs).next_multiple_of(8)
    }

    /// The values of an image.
    pub fn image(&self) -> usize {
        self.c.height * self.c.width * self.c.inputs
    }

    /// The values of an image's result.
    pub fn result(&self) -> usize {
        self.out.0 * self.out.1 * self.c.outputs
    }

    /// The channels of a result.
    pub fn outputs(&self) -> usize {
        self.c.outputs
    }

    /// The parts that images are taken in: the first of each, and their number.
    pub fn parts(&self, kind: Kind) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (batch, bytes) = (self.c.batch, self.of(1).rows() * self.width() * kind.size());
        let at_once = (PATCHES / bytes.max(1)).clamp(1, batch.max(1));
        (0..batch).step_by(at_once).map(move |first| (first, at_once.min(batch - first)))
    }

    /// The weights that patches are multiplied with.
    pub fn weights(&self) -> Weights {
        Weights { outputs: self.c.outputs, channels: self.c.inputs, taps: self.taps(), width: self.width() }
    }

    fn taps(&self) -> usize {
        self.c.kernel.0 * self.c.kernel.1
    }

    /// The numbers that kernels are told, behind `n`.
    fn args(&self, op: &'static str, n: usize, before: &[Arg]) -> Result<Vec<Arg>> {
        let (c, (oh, ow)) = (&self.c, self.out);
        // Kernels count in 32 bits.
        let counted = u32::try_from(n).map_err(|_| Error::Value { op, message: format!("{n} values at a time") })?;
        let numbers =
            [(self.width(), c.height), (c.width, c.inputs), (oh, ow), c.kernel, c.stride, c.padding, c.dilation];
        let mut all = before.to_vec();
        all.push(Arg::Int(counted as i32));
        for (a, b) in numbers {
            all.extend([Arg::Int(int(op, a)?), Arg::Int(int(op, b)?)]);
        }
        Ok(all)
    }

    /// Sixteen bytes at a time where everything is a multiple of them.
    fn pack(&self, kind: Kind, all: &[Slice<'_>]) -> (&'static str, usize) {
        let whole = self.c.inputs % kind.pack() == 0 && all.iter().all(|s| s.at % 16 == 0);
        if whole { ("", kind.pack()) } else { ("_any", 1) }
    }
}

/// The patches (rows, width) of images x (B, H, W, I).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn gather(gpu: &Gpu, p: &Patches, x: Slice<'_>, patches: Slice<'_>) -> Result<()> {
    let op = "conv2d";
    let kind = x.float(op, "x")?;
    expect_len(op, "x", x.len(), p.c.batch * p.image())?;
    patches.expect(op, "patches", kind, p.rows() * p.width())?;
    let (suffix, pack) = p.pack(kind, &[x, patches]);
    let n = patches.len() / pack;
    let name = format!("conv_gather_{}{suffix}", kind.name());
    // SAFETY: images and patches have these sizes.
    unsafe { gpu.launch(Source::Gather, &name, Shape::each(n), &p.args(op, n, args![x, patches])?) }
}

/// The reverse of [`gather`], which adds up what came from the same place: dx (B, H, W, I), plus `more` of the same shape.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn scatter(gpu: &Gpu, p: &Patches, patches: Slice<'_>, more: Option<Slice<'_>>, dx: Slice<'_>) -> Result<()> {
    let op = "conv2d";
    let kind = dx.float(op, "dx")?;
    expect_len(op, "dx", dx.len(), p.c.batch * p.image())?;
    patches.expect(op, "patches", kind, p.rows() * p.width())?;
    if let Some(more) = more {
        more.expect(op, "more", kind, dx.len())?;
    }
    let (suffix, pack) = p.pack(kind, &[patches, dx]);
    let n = dx.len() / pack;
    let name = format!("conv_scatter_{}{suffix}", kind.name());
    // SAFETY: images and patches have these sizes.
    unsafe { gpu.launch(Source::Gather, &name, Shape::each(n), &p.args(op, n, args![patches, more, dx])?) }
}

/// The sizes of weights: PyTorch's (O, channels, kh, kw), and rows (O, width) of the kernel's rows, its columns, then channels, and zeros up to
/// `width`.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    outputs: usize,
    channels: usize,
    taps: usize,
    width: usize,
}

impl Weights {
    /// The weights of a convolution of any number of groups, in rows without zeros.
    pub fn new(c: &Conv) -> Self {
        let (channels, taps) = (c.inputs / c.groups.max(1), c.kernel.0 * c.kernel.1);
        Weights { outputs: c.outputs, channels, taps, width: channels * taps }
    }

    /// The number of values in rows.
    pub fn len(&self) -> usize {
        self.outputs * self.width
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn args(&self, before: &[Arg], behind: &[Arg]) -> Result<Vec<Arg>> {
        let mut all = before.to_vec();
        for n in [self.channels, self.taps, self.width] {
            all.push(Arg::Int(int("conv2d", n)?));
        }
        all.extend(behind);
        Ok(all)
    }
}

/// PyTorch's weights w (O, I, kh, kw), in f32, as rows of patches (O, width).
///
/// # Errors
/// When the lengths or types do not fit.
pub fn arrange(gpu: &Gpu, s: &Weights, w: Slice<'_>, rows: Slice<'_>) -> Result<()> {
    let op = "conv2d";
    let kind = rows.float(op, "rows")?;
    w.expect(op, "w", Kind::F32, s.outputs * s.channels * s.taps)?;
    expect_len(op, "rows", rows.len(), s.len())?;
    let args = s.args(args![w, rows, rows.len() as u64], &[])?;
    // SAFETY: both have these sizes.
    unsafe { gpu.launch(Source::Gather, &format!("conv_arrange_{}", kind.name()), Shape::each(rows.len()), &args) }
}

/// The reverse of [`arrange`], for gradients: w is in f32.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn restore(gpu: &Gpu, s: &Weights, rows: Slice<'_>, w: Into<'_>) -> Result<()> {
    let op = "conv2d";
    let kind = rows.float(op, "rows")?;
    w.to.expect(op, "w", Kind::F32, s.outputs * s.channels * s.taps)?;
    expect_len(op, "rows", rows.len(), s.len())?;
    let args = s.args(args![rows, w.to, w.to.len() as u64], args![i32::from(w.add)])?;
    // SAFETY: both have these sizes.
    unsafe { gpu.launch(Source::Gather, &format!("conv_restore_{}", kind.name()), Shape::each(w.to.len()), &args) }
}
