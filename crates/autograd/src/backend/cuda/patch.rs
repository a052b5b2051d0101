//! Images as patches.

use crate::cuda::{On, product_kind};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::ImagePatches;
use candlelight_kernels::cuda::tokens as kernel;

/// The patches, in the type of the product that follows. Images have no gradient here.
pub(super) fn image_patches(op: &ImagePatches, inputs: &Inputs) -> Result<Done> {
    let images = inputs.tensor(0);
    let (on, kind, g, batch) = (On::of(images)?, product_kind(inputs), op.grid(images.dims()), images.dim(0)?);
    let k = op.ids.as_ref().map_or(g.patches(), |i| i.len() / batch);
    let ids = op.ids.as_ref().map(|ids| on.gpu.numbers(ids)).transpose()?;
    let y = on.buffer(kind, batch * k * g.patch_len())?;
    let ids = ids.as_ref().map(|i| i.slice(&on.gpu));
    kernel::patches(&on.gpu, &g, on.hold(images)?.slice(&on)?, ids, y.slice(&on.gpu))?;
    Ok(Done::tensor(on.tensor(y, &[batch, k, g.patch_len()]), |_, _| Ok(())))
}
