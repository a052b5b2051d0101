//! Images as patches.

use super::apply;
use crate::error::Result;
use crate::spec::ImagePatches;
use crate::tape::Value;

/// Patches of images (B, C, H, W) as a convolution with kernel = stride = patch multiplies them -> (B, K or L, C p p); with `ids`
/// (B, K) only those patches.
///
/// # Errors
/// When the patches do not tile the image.
pub fn image_patches(images: &Value, patch: usize, ids: Option<&[u32]>) -> Result<Value> {
    apply(&ImagePatches { patch, ids: ids.map(Into::into) }, images, &[])
}
