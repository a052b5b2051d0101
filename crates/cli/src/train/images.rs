//! Pictures of what a training sees.

use candlelight_data::{Batch, Collate, Image, Moment, Normalize, Pixels, Result, encode_jpeg};
use candlelight_store::atomic::write_atomic;
use std::path::PathBuf;

/// Pictures beside each other.
const ACROSS: usize = 8;

/// Writes the images of every so many batches as `train-batch-N.jpg`, as timm does: after augmentation, mixing and erasing.
pub(super) struct SaveImages {
    pub(super) folder: PathBuf,
    pub(super) every: usize,
    pub(super) normalize: Normalize,
}

/// The grid of a batch's images; `None` for pictures that are neither gray nor RGB.
fn grid(batch: &Batch, normalize: &Normalize) -> Option<Image> {
    let ((h, w), c) = (batch.size, batch.channels);
    let Pixels::F32(values) = &batch.images else { return None };
    if !matches!(c, 1 | 3) {
        return None;
    }
    let (n, area) = (values.len() / (c * h * w), h * w);
    let across = ACROSS.min(n.max(1));
    let (width, height) = (across * w, n.div_ceil(across) * h);
    let mut data = vec![0u8; width * height * c];
    for i in 0..n {
        let (left, top) = (i % across * w, i / across * h);
        for k in 0..c {
            let (mean, std) = (normalize.mean[k], normalize.std[k]);
            for p in 0..area {
                let v = values[(i * c + k) * area + p] * std + mean;
                let at = ((top + p / w) * width + left + p % w) * c + k;
                data[at] = (v * 255.0).round().clamp(0.0, 255.0) as u8;
            }
        }
    }
    Image::new(width, height, c, data).ok()
}

impl Collate for SaveImages {
    fn collate(&self, batch: Batch, moment: &Moment) -> Result<Batch> {
        if moment.step % self.every == 0
            && let Some(image) = grid(&batch, &self.normalize)
        {
            let path = self.folder.join(format!("train-batch-{}.jpg", moment.step));
            let jpeg = encode_jpeg(&image, 90)?;
            // A picture is no reason to end a run.
            if let Err(e) = write_atomic(&path, |out| out.write_all(&jpeg)) {
                tracing::warn!("--save_images: {e}");
            }
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_every_image_in_its_place() {
        let normalize = Normalize { mean: vec![0.5], std: vec![0.5] };
        // Nine images of 2 x 1: the i-th is of the value i / 8.
        let values: Vec<f32> = (0..9).flat_map(|i| [(i as f32 / 8.0 - 0.5) / 0.5; 2]).collect();
        let batch = Batch::new(Pixels::F32(values), (1, 2), 1, vec![0; 9]);
        let image = grid(&batch, &normalize).unwrap();
        assert_eq!((image.width, image.height), (16, 2));
        assert_eq!(&image.data[..4], [0, 0, 32, 32]);
        assert_eq!(&image.data[16..20], [255, 255, 0, 0], "the ninth begins the second row, and the rest is black");
    }
}
