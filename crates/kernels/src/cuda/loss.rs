//! Losses, each with its gradient in one pass.

use crate::cuda::Gpu;
use crate::cuda::elementwise::total;
use crate::cuda::gpu::{Shape, Source, args, int};
use crate::cuda::memory::{Buffer, Kind, Slice};
use crate::error::{Error, Result, expect_len};
use crate::tokens::patch::Grid;

/// MAE's loss into `loss[0]`, and its gradient into `d`: the same as [`crate::loss::mae::forward`]. `removed` is the sum of `mask`.
///
/// # Errors
/// When the lengths or types do not fit, or no patch is removed.
pub fn mae(
    gpu: &Gpu,
    g: &Grid,
    images: Slice<'_>,
    pred: Slice<'_>,
    mask: Slice<'_>,
    removed: f64,
    norm_pix: bool,
    d: Slice<'_>,
    loss: Slice<'_>,
) -> Result<()> {
    let op = "mae_loss";
    g.check()?;
    let kind = pred.float(op, "pred")?;
    let batch = images.len() / g.image_len();
    let patches = batch * g.patches();
    images.expect(op, "images", Kind::F32, batch * g.image_len())?;
    pred.expect(op, "pred", kind, patches * g.patch_len())?;
    d.expect(op, "d", kind, pred.len())?;
    mask.expect(op, "mask", Kind::F32, patches)?;
    if norm_pix && g.patch_len() < 2 {
        return Err(Error::Value { op, message: "norm_pix needs at least two values per patch".into() });
    }
    if removed <= 0.0 {
        return Err(Error::Value { op, message: "the mask removes no patch".into() });
    }
    let over = removed * g.patch_len() as f64;
    let losses = Buffer::new(gpu, Kind::F32, patches)?;
    let sizes = [patches, g.patches(), g.channels, g.height, g.width, g.patch].map(|v| int(op, v));
    let [n, l, c, h, w, p] = sizes;
    let args = args![
        pred,
        images,
        mask,
        d,
        losses.slice(gpu),
        n?,
        l?,
        c?,
        h?,
        w?,
        p?,
        (2.0 / over) as f32,
        i32::from(norm_pix)
    ];
    // SAFETY: images, patches and mask have these sizes, and `losses` a number per patch.
    unsafe { gpu.launch(Source::Mae, &format!("mae_{}", kind.name()), Shape::rows(patches), args)? };
    total(gpu, losses.slice(gpu), (1.0 / over) as f32, loss)
}

/// The targets of a cross-entropy.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// A class per sample, (B), below the number of classes, and how much of it goes to all classes alike.
    Labels(Slice<'a>, f32),
    /// A weight per class, (B, K), in f32.
    Soft(Slice<'a>),
}

/// Mean cross-entropy of logits x (B, K) into `loss[0]`, and its gradient into `d`.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn cross_entropy(
    gpu: &Gpu,
    x: Slice<'_>,
    classes: usize,
    t: Targets<'_>,
    d: Slice<'_>,
    loss: Slice<'_>,
) -> Result<()> {
    let op = "cross_entropy";
    let kind = x.float(op, "x")?;
    let batch = x.len() / classes.max(1);
    expect_len(op, "x", x.len(), batch * classes)?;
    d.expect(op, "d", kind, x.len())?;
    let (labels, soft, smoothing) = match t {
        Targets::Labels(labels, smoothing) => {
            labels.expect(op, "labels", Kind::U32, batch)?;
            (Some(labels), None, smoothing)
        }
        Targets::Soft(soft) => {
            soft.expect(op, "targets", Kind::F32, x.len())?;
            (None, Some(soft), 0.0)
        }
    };
    let losses = Buffer::new(gpu, Kind::F32, batch)?;
    let over = 1.0 / batch as f32;
    let shape = Shape { grid: (batch, 1, 1), block: (256, 1), shared: 0 };
    let args = args![x, labels, soft, smoothing, d, losses.slice(gpu), int(op, classes)?, over];
    // SAFETY: x, d and soft targets have rows of `classes` values, labels and `losses` one per row.
    unsafe { gpu.launch(Source::CrossEntropy, &format!("cross_entropy_{}", kind.name()), shape, args)? };
    total(gpu, losses.slice(gpu), over, loss)
}

/// Binary cross-entropy of logits with targets, in f32: the sum over all values divided by `over` into `loss[0]`, and its gradient into `d`.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn binary(gpu: &Gpu, x: Slice<'_>, targets: Slice<'_>, over: f64, d: Slice<'_>, loss: Slice<'_>) -> Result<()> {
    let op = "binary_cross_entropy";
    let kind = x.float(op, "x")?;
    targets.expect(op, "targets", Kind::F32, x.len())?;
    d.expect(op, "d", kind, x.len())?;
    let blocks = x.len().div_ceil(256).min(gpu.processors() * 4).max(1);
    let losses = Buffer::new(gpu, Kind::F32, blocks)?;
    let factor = (1.0 / over) as f32;
    let shape = Shape { grid: (blocks, 1, 1), block: (256, 1), shared: 0 };
    let args = args![x, targets, d, losses.slice(gpu), x.len() as u64, factor];
    // SAFETY: all three have as many values as the kernel is told, and `losses` a number per block.
    unsafe { gpu.launch(Source::CrossEntropy, &format!("binary_cross_entropy_{}", kind.name()), shape, args)? };
    total(gpu, losses.slice(gpu), factor, loss)
}
