//! Images as patches.

use super::{Attrs, Op, image};
use crate::error::{Result, shape};
use candlelight_kernels::tokens::patch::Grid;
use candlelight_kernels::tokens::patch::check_ids;
use std::sync::Arc;

/// The patches of images. Input images (B, C, H, W) -> (B, L, C p p), or (B, K, C p p) of the patches that `ids` names.
#[derive(Debug, Clone)]
pub struct ImagePatches {
    /// The side of a patch in pixels, p.
    pub patch: usize,
    /// The numbers of the wanted patches, (B, K), below L; `None` means all L.
    pub ids: Option<Arc<[u32]>>,
}

impl ImagePatches {
    /// The grid of patches of images with these dimensions (B, C, H, W).
    pub fn grid(&self, images: &[usize]) -> Grid {
        let at = |i: usize| images.get(i).copied().unwrap_or(0);
        Grid { channels: at(1), height: at(2), width: at(3), patch: self.patch }
    }
}

impl Op for ImagePatches {
    fn name(&self) -> &'static str {
        "image_patches"
    }

    fn attributes(&self) -> Attrs {
        vec![("patch", self.patch.into())]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [batch, ..] = image("image_patches", inputs[0])?;
        let g = self.grid(inputs[0]);
        g.check()?;
        let Some(ids) = &self.ids else { return Ok(vec![batch, g.patches(), g.patch_len()]) };
        check_ids("image_patches", ids, g.patches())?;
        let keep = ids.len() / batch.max(1);
        if ids.len() != batch * keep {
            return shape(
                "image_patches",
                format!("{} ids for {batch} samples, expected equally many for each", ids.len()),
            );
        }
        Ok(vec![batch, keep, g.patch_len()])
    }
}
