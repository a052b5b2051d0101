//! The flags of MAE's pretraining and what follows from them.

use crate::common::{Preset, TrainArgs};
use crate::{Result, shipped_data};
use candlelight_data::{Dataset, Decode, LabelKind, Loader, Normalize, Pipeline};
use candlelight_engine::pretrain::PretrainConfig;
use candlelight_engine::train::Plan;
use candlelight_models::registry;
use clap::Parser;
use std::path::PathBuf;
use std::sync::Arc;

/// Pretrain a masked autoencoder. Without --data_path a small one learns the images that come with the repository.
#[derive(Parser, Debug)]
#[command(name = "mae_pretrain", version, rename_all = "snake_case", after_help = DEFAULTS)]
pub struct Args {
    #[command(flatten)]
    /// The flags of every training run.
    pub common: TrainArgs,
    /// Share of patches that are removed, between 0 and 1
    #[arg(long, default_value_t = 0.75, help_heading = "Model")]
    pub mask_ratio: f64,
    /// Predict patches normalised to their own mean and deviation
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, value_name = "BOOL", action = clap::ArgAction::Set, help_heading = "Model")]
    pub norm_pix_loss: bool,
    /// Epochs between pictures of reconstructions; 0 draws only the last
    #[arg(long, default_value_t = 10, help_heading = "Run")]
    pub picture_every: usize,
}

const DEFAULTS: &str = "DATA is DATA/train, any folder of images, archives of them, or IDX files for gray ones. \
Defaults with --data_path are MAE's: model mae_vit_large_patch16, batch_size 64, epochs 400, blr 1e-3, min_lr 0, \
warmup_epochs 40, weight_decay 0.05, a checkpoint every 20 epochs. The demo, about two minutes on two cores: model \
mae_vit_demo_patch4, epochs 12, blr 1e-2, warmup_epochs 1. Published recipes: docs/recipes.";

const FULL: Preset =
    Preset { batch_size: 64, epochs: 400, blr: 1e-3, min_lr: 0.0, warmup_epochs: 40.0, save_every: 20 };
const DEMO: Preset = Preset { epochs: 12, blr: 1e-2, warmup_epochs: 1.0, ..FULL };

/// The images to train on and those that the picture shows.
pub struct Images {
    /// The images of the split `train`, or all of data without splits.
    pub train: Arc<dyn Dataset>,
    /// Others, which are only looked at for the picture.
    pub shown: Arc<dyn Dataset>,
    /// The statistics that both are normalised by.
    pub normalize: Normalize,
    /// How they are decoded.
    pub decode: Decode,
}

impl Args {
    /// The folder of the run.
    pub fn output(&self) -> PathBuf {
        self.common.output_dir.clone().unwrap_or_else(|| "./output_dir".into())
    }

    /// The plan of the run.
    pub fn plan(&self) -> Plan {
        self.common.plan(if self.common.demo() { &DEMO } else { &FULL }, None)
    }

    /// The configuration of the task; the log says whose defaults it has.
    ///
    /// # Errors
    /// When there is no such model or size.
    pub fn config(&self) -> Result<PretrainConfig> {
        self.common.check()?;
        let demo = self.common.demo();
        let default = if demo { "mae_vit_demo_patch4" } else { "mae_vit_large_patch16" };
        let mut model = registry::mae(self.common.model.as_deref().unwrap_or(default))?;
        model.image = self.common.image(model.image)?;
        model.channels = self.common.reading.channels.unwrap_or(model.channels);
        model.norm_pix_loss = self.norm_pix_loss;
        if demo {
            tracing::info!(
                "demo preset: no --data_path given, so a small model learns the shipped Fashion-MNIST images"
            );
        } else {
            tracing::info!("MAE's own defaults, except device and num_workers ({})", self.common.workers());
        }
        let config = PretrainConfig {
            model,
            mask_ratio: self.mask_ratio,
            weight_decay: self.common.weight_decay.unwrap_or(0.05),
            picture_every: self.picture_every,
        };
        tracing::info!("{}", serde_json::to_string(&self.plan())?);
        tracing::info!("{}", serde_json::to_string(&config)?);
        Ok(config)
    }

    /// Opens the images for a model of so many channels.
    ///
    /// # Errors
    /// When there are none to train on.
    pub fn images(&self, channels: usize) -> Result<Images> {
        let (reading, shipped) = (&self.common.reading, shipped_data());
        let found = reading.open(self.common.data_path.as_deref().unwrap_or(&shipped), LabelKind::None)?;
        let part = found.train()?;
        if found.has_splits() {
            tracing::info!("pretraining on the split `{}` alone", part.name);
        }
        let (train, shown) = (part.data.clone(), found.held_out().unwrap_or(part).data.clone());
        let normalize = reading.normalize(None, &found, &*train, channels, &self.output())?;
        let own = Arc::ptr_eq(&train, &shown);
        let picture = if own { "the picture shows some of them" } else { "the picture shows others" };
        tracing::info!("{} training images; {picture}", train.len());
        Ok(Images { train, shown, normalize, decode: reading.decode(channels)? })
    }

    /// Loads the first images that the picture shows, as an evaluation sees them.
    ///
    /// # Errors
    /// When they cannot be loaded.
    pub fn shown(&self, images: &Images, size: (usize, usize)) -> Result<Loader> {
        let n = 8.min(images.shown.len());
        let load = self.common.loading(&self.plan(), size);
        let load =
            candlelight_data::LoaderConfig { batch_size: n, shuffle: false, drop_last: false, workers: 0, ..load };
        let pipeline = Pipeline::evaluation(size, images.normalize.clone());
        Ok(Loader::new(images.shown.clone(), pipeline, load)?.decoding(images.decode))
    }
}
