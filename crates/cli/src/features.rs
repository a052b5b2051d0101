//! Features that are computed once and lie in files.

use crate::Result;
use crate::progress::Progress;
use candle_core::Device;
use candlelight_data::{Dataset, Loader, identity};
use candlelight_engine::features::Features;
use candlelight_engine::signals::Signals;
use candlelight_models::FeatureExtractor;
use std::path::Path;

/// Where features lie, what makes them, and what they depend on besides the images.
pub(crate) struct Cache<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) made_from: &'a str,
    pub(crate) model: &'a dyn FeatureExtractor,
    pub(crate) device: &'a Device,
    pub(crate) signals: &'a Signals,
}

impl Cache<'_> {
    /// The features of a part of the data, from its file, or computed now; what an interrupted run has computed is taken over.
    pub(crate) fn features(&self, part: &str, images: &dyn Dataset, loader: &Loader) -> Result<Features> {
        let path = self.folder.join(format!("features-{part}.safetensors"));
        let made_from = format!("{} {part} {}", self.made_from, identity(images)?);
        if let Some(cached) = Features::load(&path, &made_from)? {
            tracing::info!("{part} features from {}", path.display());
            return Ok(cached);
        }
        let mut shown = Progress::new(&format!("{part} features"), loader.samples());
        std::fs::create_dir_all(self.folder)?;
        Ok(Features::extract_to(&path, &made_from, self.model, loader, self.device, |done| {
            shown.at(done, "");
            if self.signals.caught().is_some() { self.signals.check() } else { Ok(()) }
        })?)
    }
}
