//! The first layer of a vision transformer: images to tokens.

use crate::init;
use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::{Error, Result, Value, ops};
use candlelight_kernels::tokens::patch::Grid;

/// Turns each patch of an image into a token, as a convolution does whose kernel and stride are the patch size. Its parameters are
/// `proj.weight` (D, C, p, p) and `proj.bias` (D). It is computed as one matrix product over the patches that are asked for.
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape};
/// # use candlelight_kernels::tokens::patch::Grid;
/// # use candlelight_nn::{PatchEmbed, init};
/// # let params = ParamStore::new();
/// # let images = candle_core::Tensor::ones((2, 3, 8, 12), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let grid = Grid { channels: 3, height: 8, width: 12, patch: 4 };
/// let layer = PatchEmbed::new(&grid, 16, init::fan_in(48), params.builder(Key::new(0)))?;
/// assert_eq!(layer.forward(&Tape::off().constant(&images), None)?.dims(), [2, 6, 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PatchEmbed {
    weight: Tensor, // (D, C, p, p)
    bias: Tensor,   // (D)
    patch: usize,
    image: (usize, usize),
}

impl PatchEmbed {
    /// A layer for the images of `grid` that gives tokens of `width` values. The weight starts with the distribution `init`, the bias as in
    /// PyTorch's convolution.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(grid: &Grid, width: usize, init: Init, vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("proj");
        Ok(PatchEmbed {
            weight: vb.get_with_hints((width, grid.channels, grid.patch, grid.patch), "weight", init)?,
            bias: vb.get_with_hints(width, "bias", init::fan_in(grid.patch_len()))?,
            patch: grid.patch,
            image: (grid.height, grid.width),
        })
    }

    /// images (B, C, H, W) -> tokens (B, K, D) of the patches with the numbers `ids` (B, K), or of all patches.
    ///
    /// # Errors
    /// When the images are of another size.
    pub fn forward(&self, images: &Value, ids: Option<&[u32]>) -> Result<Value> {
        let (_, _, h, w) = images.dims4()?;
        if (h, w) != self.image {
            let (mh, mw) = self.image;
            let message = format!("images are {h}x{w}, the model was built for {mh}x{mw}");
            return Err(Error::Shape { op: "patch_embed", message });
        }
        let patches = ops::image_patches(images, self.patch, ids)?; // (B, K, C p p)
        ops::linear(&patches, &self.weight, Some(&self.bias))
    }

    /// Sets another size (height, width) of the images, which the patches must tile.
    pub fn set_input_size(&mut self, image: (usize, usize)) {
        self.image = image;
    }
}
