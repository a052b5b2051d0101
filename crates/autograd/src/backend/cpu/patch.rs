//! Images as patches.

use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::ImagePatches;
use crate::tensor::tensor_from;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::tokens::patch as kernel;

pub(super) fn image_patches(op: &ImagePatches, x: &Inputs) -> Result<Done> {
    let images = x.tensor(0);
    let (g, batch) = (op.grid(images.dims()), images.dim(0)?);
    let keep = op.ids.as_ref().map_or(g.patches(), |i| i.len() / batch.max(1));
    let mut y = buffer(batch * keep * g.patch_len());
    kernel::conv_patches(&g, &x.slice("image_patches", 0)?, op.ids.as_deref(), &mut y)?;
    Ok(Done::host(tensor_from(y, (batch, keep, g.patch_len()))?, move |d, b| {
        b.write(0, d.len(), |dx| Ok(kernel::conv_patches_backward(&g, &d, dx)?))
    }))
}
