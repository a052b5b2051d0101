//! Images as patches.

use super::rows;
use super::tokens::flat_ids;
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::ImagePatches;

pub(crate) fn image_patches(op: &ImagePatches, inputs: &Inputs) -> Result<Done> {
    let images = inputs.tensor(0);
    let g = op.grid(images.dims());
    let (batch, p, len) = (images.dim(0)?, g.patch, g.patch_len());
    let (channels, down, across) = (g.channels, g.height / p, g.width / p);
    let x = images.reshape(vec![batch, channels, down, p, across, p])?;
    let mut y = x.permute(vec![0, 2, 4, 1, 3, 5])?.contiguous()?.reshape((batch, down * across, len))?;
    if let Some(ids) = &op.ids {
        let which = flat_ids(ids, batch, down * across, y.device())?;
        let k = ids.len() / batch.max(1);
        y = rows(&y.reshape((batch * down * across, len))?, &which)?.reshape((batch, k, len))?;
    }
    let dims = images.dims().to_vec();
    Ok(Done::tensor(y, move |d, b| {
        b.give(0, || {
            let d = d.reshape(vec![batch, down, across, channels, p, p])?.permute(vec![0, 3, 1, 4, 2, 5])?;
            Ok(d.contiguous()?.reshape(dims)?)
        })
    }))
}
