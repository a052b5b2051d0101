//! Reconstructions as a PNG: original, masked image and reconstructions side by side, one sample per row.

use crate::error::{Result, file};
use candle_core::Tensor;
use candlelight_data::Normalize;
use candlelight_models::{Mae, Mask};
use candlelight_store::atomic::write_atomic;
use std::path::Path;

/// A picture in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// The pixels row by row, three bytes each: red, green, blue.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// The picture as PNG bytes.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn png(&self) -> std::io::Result<Vec<u8>> {
        let mut out = std::io::Cursor::new(Vec::new());
        let (w, h) = (self.width as u32, self.height as u32);
        image::write_buffer_with_format(
            &mut out,
            &self.rgb,
            w,
            h,
            image::ExtendedColorType::Rgb8,
            image::ImageFormat::Png,
        )
        .map_err(std::io::Error::other)?;
        Ok(out.into_inner())
    }

    /// Writes the PNG. If that fails, an earlier file of the same name stays as it was.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let png = self.png().map_err(|e| file(path, e))?;
        Ok(write_atomic(path, |f| f.write_all(&png))?)
    }
}

/// The names of the columns of [`reconstructions`].
pub const COLUMNS: [&str; 4] = ["original", "masked", "reconstruction", "reconstruction + visible"];

/// Draws a row for each of the images (B, C, H, W): original, masked, reconstruction, reconstruction with the visible patches.
///
/// # Errors
/// When the shapes do not fit the model.
pub fn reconstructions(model: &Mae, images: &Tensor, mask: &Mask, normalize: &Normalize) -> Result<Picture> {
    let [masked, pred, pasted] = model.reconstruct(images, mask, 0.0)?;
    let (b, c, h, w) = images.dims4()?;
    // Small images are enlarged so that a person can see them.
    let zoom = (112 / h.max(w)).max(1);
    let gap = 4;
    let (cell_w, cell_h) = (w * zoom + gap, h * zoom + gap);
    let (width, height) = (cell_w * COLUMNS.len() + gap, cell_h * b + gap);
    let mut rgb = vec![255u8; width * height * 3];
    for (col, t) in [images, &masked, &pred, &pasted].into_iter().enumerate() {
        let values: Vec<f32> = t.flatten_all()?.to_vec1()?;
        for (i, v) in values.iter().enumerate() {
            let (x, y, ch, row) = (i % w, i / w % h, i / (w * h) % c, i / (w * h * c));
            let v = ((v * normalize.std[ch] + normalize.mean[ch]) * 255.0).round().clamp(0.0, 255.0) as u8;
            for dy in 0..zoom {
                for dx in 0..zoom {
                    let at = ((gap + row * cell_h + y * zoom + dy) * width + gap + col * cell_w + x * zoom + dx) * 3;
                    if c == 3 {
                        rgb[at + ch] = v;
                    } else {
                        rgb[at..at + 3].fill(v);
                    }
                }
            }
        }
    }
    Ok(Picture { width, height, rgb })
}
