//! The flags on how images are prepared for a trained model.

use crate::data::DataArgs;
use crate::{Result, parsed, say};
use candlelight_data::Pipeline;
use candlelight_engine::trained::Trained;
use candlelight_store::preparation::{CropMode, Interpolation as Filter, Origin, Preparation, Setting};

/// The flags on how images are prepared for a trained model.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
pub struct PrepareArgs {
    /// Share of the resized image that the crop keeps, up to 1 [default: the checkpoint's, that beside the weights, else 0.875 up to 224 pixels and 1 above]
    #[arg(long)]
    pub crop_pct: Option<f64>,
    /// How the image is fitted to the crop: center, squash or border [default: the checkpoint's, that beside the weights, else center]
    #[arg(long, value_parser = parsed::<CropMode>)]
    pub crop_mode: Option<CropMode>,
    /// Filter of the resize: nearest, box, bilinear, hamming, bicubic or lanczos [default: the checkpoint's, that beside the weights, else bicubic]
    #[arg(long, value_parser = parsed::<Filter>)]
    pub interpolation: Option<Filter>,
}

impl PrepareArgs {
    /// How images, of the size that is asked for if one is, are prepared for a trained model; the log says which rule decided.
    ///
    /// # Errors
    /// When the flags contradict the model or each other.
    pub fn pipeline(&self, trained: &Trained, data: &DataArgs, size: Option<(usize, usize)>) -> Result<Pipeline> {
        let channels = trained.config.channels();
        if let Some(c) = data.channels.filter(|c| *c != channels) {
            return Err(format!("--channels {c}: the model takes images of {channels} channels").into());
        }
        let given = |name: &str| Origin::Flag(format!("--{name}"));
        let (pipeline, notes) = trained.pipeline(&Preparation {
            size: size.map(|s| Setting::new(s, given("input_size"))),
            mean: data.mean.clone().map(|v| Setting::new(v, given("mean"))),
            std: data.std.clone().map(|v| Setting::new(v, given("std"))),
            crop_pct: self.crop_pct.map(|v| Setting::new(v, given("crop_pct"))),
            crop_mode: self.crop_mode.map(|v| Setting::new(v, given("crop_mode"))),
            interpolation: self.interpolation.map(|v| Setting::new(v, given("interpolation"))),
            ..Preparation::default()
        })?;
        say(&notes);
        Ok(pipeline)
    }
}
