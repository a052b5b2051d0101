//! The flags of `mae_visualize`, and the images it draws.

use crate::{Result, shipped_data};
use candle_core::Tensor;
use candlelight_autograd::{Key, tensor_from};
use candlelight_data::{Dataset, Decode, Idx, Normalize, Out, Pipeline, decode};
use candlelight_engine::trained::{imagenet, statistics_of};
use candlelight_models::MaeConfig;
use clap::Parser;
use std::path::{Path, PathBuf};

/// Draw reconstructions of images from a pretraining checkpoint.
#[derive(Parser)]
#[command(name = "mae_visualize", version, rename_all = "snake_case")]
pub struct Args {
    /// Images (JPEG or PNG) [default: eight of the shipped test images]
    pub images: Vec<PathBuf>,
    /// A pretraining checkpoint, or the folder of a run
    #[arg(long, visible_alias = "checkpoint", default_value = "output_dir")]
    pub weights: String,
    /// The PNG file to write the picture to
    #[arg(long, default_value = "reconstruction.png")]
    pub output: PathBuf,
    /// Share of patches that are removed, between 0 and 1 [default: the checkpoint's]
    #[arg(long)]
    pub mask_ratio: Option<f64>,
    /// Seed of the masks
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Args {
    /// The statistics that the model's images were normalised by.
    ///
    /// # Errors
    /// When the checkpoint cannot be read.
    pub fn normalize(&self, checkpoint: &Path, channels: usize) -> Result<Normalize> {
        let recorded = statistics_of(checkpoint, &mut vec![])?.and_then(|(n, _)| n.spread(channels));
        Ok(recorded.unwrap_or_else(|| imagenet(channels)))
    }

    /// The images, as the model sees them (N, C, H, W).
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn pixels(&self, c: &MaeConfig, normalize: &Normalize) -> Result<Tensor> {
        let mut images = Vec::new();
        if self.images.is_empty() {
            let test = Idx::open(&shipped_data(), "t10k")?;
            for i in 0..8 {
                images.push(test.get(i)?.image(&Decode::default())?);
            }
        }
        for p in &self.images {
            let bytes = std::fs::read(p).map_err(|e| format!("{}: {e}", p.display()))?;
            images.push(decode(&bytes, &Decode::default()).map_err(|e| format!("{}: {e}", p.display()))?);
        }
        let (n, pipeline) = (images.len(), Pipeline::evaluation(c.image, normalize.clone()));
        let mut pixels = vec![0.0; n * c.grid().image_len()];
        for (image, out) in images.into_iter().zip(pixels.chunks_exact_mut(c.grid().image_len())) {
            pipeline.apply(image, &Key::new(0), 0, Out::F32(out))?;
        }
        Ok(tensor_from(pixels, (n, c.channels, c.image.0, c.image.1))?)
    }
}
