//! The flags of `summary`.

use crate::weights::located;
use crate::{Result, say};
use candle_core::Device;
use candlelight_autograd::{Key, ParamStore};
use candlelight_engine::checkpoint;
use candlelight_engine::trained::{Trained, TrainedOptions};
use candlelight_models::ModelConfig;
use candlelight_models::freeze;
use candlelight_models::summary::Summary;
use clap::Parser;
use std::path::Path;

/// Print the layers of a model: shapes, parameters, multiply-adds, memory.
#[derive(Parser, Debug)]
#[command(name = "summary", version, rename_all = "snake_case")]
pub struct Args {
    /// A model's name, such as resnet50, or a file of weights
    what: String,
    /// Of a file that does not say which model it holds, the model's name
    #[arg(long)]
    model: Option<String>,
    /// Side of the images in pixels, or height and width [default: the model's]
    #[arg(long, visible_aliases = ["img_size", "imgsz"], num_args = 1..=2, value_name = "PIXELS", action = clap::ArgAction::Set)]
    input_size: Option<Vec<usize>>,
    /// Number of classes [default: the model's, or the file's]
    #[arg(long, visible_alias = "nb_classes")]
    num_classes: Option<usize>,
    /// The part that trains: head, layer4_fc, last(N), attn_only, attn_last(N), freeze(...), or names separated by commas [default: all]
    #[arg(long, value_name = "PART")]
    trained: Option<freeze::Trained>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The summary of the model.
    ///
    /// # Errors
    /// When there is no such model or file.
    pub fn summary(&self) -> Result<Summary> {
        let size = self.input_size.as_deref().map(|s| (s[0], s[s.len() - 1]));
        if size.is_some_and(|(h, w)| h == 0 || w == 0) {
            return Err("--input_size: expected at least 1 pixel".into());
        }
        let path = Path::new(&self.what);
        let file = path.exists() || self.what.starts_with("hf:");
        if !file {
            let mut config = ModelConfig::named(self.model.as_deref().unwrap_or(&self.what))?;
            if let Some(size) = size {
                config.architecture_mut().set_image(size);
            }
            if let (Some(n), Some(settings)) = (self.num_classes, config.architecture_mut().settings()) {
                *settings.classes = n;
            }
            let params = ParamStore::new();
            let model = config.build(params.builder(Key::new(0)))?;
            if let Some(trained) = &self.trained {
                trained.apply(&params, &model.anatomy())?;
            }
            return Ok(Summary::of(&*model, &config, &params)?);
        }
        if self.num_classes.is_some() {
            return Err("--num_classes: the file says how many classes its model has".into());
        }
        let path = located(&self.what)?;
        let ours = path.is_file() && checkpoint::describe(&path)?.is_some_and(|d| d.kind == "classify");
        let options =
            TrainedOptions { model: if ours { None } else { self.model.clone() }, size, ..TrainedOptions::default() };
        let trained = Trained::load(&path, &options, &Device::Cpu)?;
        say(&trained.notes);
        if let Some(part) = &self.trained {
            part.apply(&trained.params, &trained.model.anatomy())?;
        }
        Ok(Summary::of(&*trained.model, &trained.config, &trained.params)?)
    }

    /// The summary as text, or as JSON where that is asked for.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn text(&self, summary: &Summary) -> Result<String> {
        Ok(if self.json { serde_json::to_string_pretty(summary)? } else { summary.to_string() })
    }
}
